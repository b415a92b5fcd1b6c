"""From what was measured to signs, in plain words, that a result should not be trusted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import floor, isfinite

from viscera.errors import SettingError
from viscera.labels import TUMOUR
from viscera.quality.certainty import Edge, Handedness
from viscera.quality.flags import Sign, Trust
from viscera.quality.measuring import Look, Organ
from viscera.quality.orientation import orientation_signs, side_signs
from viscera.quality.plausible import PLAUSIBLE, SHOWN_BETWEEN, SHOWN_WITH


@dataclass(frozen=True)
class Limits:
    """From where on a number is a sign. Those of the edges were measured: benchmarks/trust.py.

    Attributes:
        largest_fraction: Least share of an organ that its largest piece (of paired ones, the two largest) must have.
        dropped_fraction: Most of what the network called an organ that post-processing may have dropped.
        edge_probability: Least mean probability at an organ's edge.
        edge_entropy_bits: Most mean entropy there.
        slices: Least number.
        slice_mm: Least and most between slices.
        pixel_mm: Least and most between pixels.
        view_mm: Least width and height of the field of view.
        body_mm: Least width of the body.
        lung_slices_fraction: Most slices that may show lung: of chest, abdomen and pelvis two fifths do, of the upper abdomen too.
        soft_fraction: Least share of the body without lung that has the HU of fat and organs.
        at_lowest_fraction: Most voxels that may have exactly the lowest value.
        at_highest_fraction: Most of the body's voxels that may have exactly the highest value, where this is not metal's.
        mirror_gain: How much surer, in mean probability, the network may be of the scan's mirror image than of the scan.
        found_fraction: Least share of the organs looked for, where these are four or more.
        doubtful_fraction: Most of the organs found, where these are three or more, that may have signs other than the border.
    """

    largest_fraction: float = 0.85
    dropped_fraction: float = 0.15
    edge_probability: float = 0.65
    edge_entropy_bits: float = 1.2
    slices: int = 20
    slice_mm: tuple[float, float] = (0.5, 10.0)
    pixel_mm: tuple[float, float] = (0.3, 3.5)
    view_mm: float = 200.0
    body_mm: float = 220.0
    lung_slices_fraction: float = 0.6
    soft_fraction: float = 0.7
    at_lowest_fraction: float = 0.75
    at_highest_fraction: float = 0.003
    mirror_gain: float = 0.01
    found_fraction: float = 0.25
    doubtful_fraction: float = 0.5


METAL_HU = 1500.0
"""Many voxels at a scan's highest value are metal where this is above, and were clipped where it is below."""
CENTIMETRES_VIEW_MM = 60.0
"""Fields of view below are those of a whole body, 200 to 600 mm, given in centimetres, or crops of one organ."""
ROUNDING_MM = 1e-3
"""Of spacings in files."""


def signs(
    organs: Mapping[str, Organ],
    look: Look,
    *,
    edges: Mapping[str, Edge] | None = None,
    handedness: Handedness | None = None,
    limits: Limits = Limits(),
) -> Trust:
    """Return what speaks against a result, for each organ and for the scan.

    Args:
        organs: From ``measure_organs``; these and no others were looked for.
        look: From ``measure_scan``.
        edges: How sure the network was of each organ, where it is known.
        handedness: How sure it was of the scan and of its mirror image, where it is known.
        limits: From where on a number is a sign.
    """
    sided = side_signs(organs, look)
    found = {
        organ: (
            *_border(organ, facts),
            *_volume(organ, facts, organs),
            *_pieces(organ, facts, limits),
            *_hounsfield(organ, facts),
            *_edge(organ, (edges or {}).get(organ), limits),
            *sided.get(organ, ()),
        )
        for organ, facts in organs.items()
    }
    whole = (*_scan(look, limits), *_found(organs, limits), *_doubtful(found, organs, limits))
    return Trust(found, (*whole, *orientation_signs(organs, look), *_mirrored(handedness, limits)))


def fitted_limits(
    organs: Sequence[Organ], edges: Sequence[Edge], *, share: float = 0.05, limits: Limits = Limits()
) -> Limits:
    """Return limits that at most a share of some good organs cross: of pieces, of what was dropped, and of the edges.

    Args:
        organs: In one piece each (not kidneys as one organ), segmented well.
        edges: Of organs that were segmented well.
        share: In [0, 1).
        limits: Gives all the others, and those for which there is no organ.

    Raises:
        SettingError: The share is none.
    """
    if not 0 <= share < 1:
        raise SettingError(f"the share of good organs that may raise a sign must be in [0, 1), got {share}.")
    least = {
        "largest_fraction": [organ.shares[0] for organ in organs if organ.shares],
        "edge_probability": [edge.probability for edge in edges if edge.probability is not None],
    }
    most = {
        "dropped_fraction": [edge.dropped_fraction for edge in edges],
        "edge_entropy_bits": [edge.entropy_bits for edge in edges if edge.entropy_bits is not None],
    }
    chosen = {name: sorted(values)[floor(share * len(values))] for name, values in least.items() if values}
    chosen |= {name: sorted(values)[-1 - floor(share * len(values))] for name, values in most.items() if values}
    return replace(limits, **chosen)


def trust_to_json(
    organs: Mapping[str, Organ], look: Look, *, edges: Mapping[str, Edge], handedness: Handedness | None = None
) -> dict[str, object]:
    """Return signs for JSON, and behind them the numbers that they come from.

    Args:
        organs: As for ``signs``.
        look: Likewise.
        edges: Likewise.
        handedness: Likewise.
    """
    measured = {
        organ: {
            "pieces": facts.pieces,
            "largest_fraction": round(facts.shares[0], 4),
            **({key: _rounded(value) for key, value in asdict(edges[organ]).items()} if organ in edges else {}),
        }
        for organ, facts in organs.items()
        if facts.shares
    }
    sure = {} if handedness is None else {"handedness": asdict(handedness)}
    scan = {key: _rounded(value) for key, value in (asdict(look) | sure).items()}
    return {
        **signs(organs, look, edges=edges, handedness=handedness).to_json(),
        "measured": {"scan": scan, "organs": measured},
    }


def _rounded(value: object) -> object:
    """Return numbers with as many digits as matter."""
    if isinstance(value, tuple):
        return [_rounded(part) for part in value]
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _mirrored(handedness: Handedness | None, limits: Limits) -> Iterator[Sign]:
    """Tell that the network knows the scan's mirror image better."""
    if handedness is None or handedness.mirrored - handedness.as_is <= limits.mirror_gain:
        return
    yield Sign(
        "mirrored",
        round(handedness.mirrored - handedness.as_is, 3),
        f"at most {limits.mirror_gain:g}",
        f"the network is surer of the scan's mirror image (mean probability {handedness.mirrored:.3f} instead of "
        f"{handedness.as_is:.3f}): left and right are exchanged in the scan's header, or in the patient (situs inversus)",
    )


def _border(organ: str, facts: Organ) -> Iterator[Sign]:
    """Tell that an organ may be cut off."""
    if facts.touches_border and not (organ in PLAUSIBLE and PLAUSIBLE[organ].passes):
        what = "reaches the border of the scan and may be cut off: its volume is a lower bound"
        yield Sign("border", True, "inside the scan", f"{organ} {what}")


def _volume(organ: str, facts: Organ, organs: Mapping[str, Organ]) -> Iterator[Sign]:
    """Tell of a volume that no adult has, or of an organ that should be there."""
    if organ not in PLAUSIBLE:
        return
    low, high = PLAUSIBLE[organ].volume_ml
    text, volume_ml = f"{low:g} to {high:g} ml", round(facts.volume_ml, 1)
    if not facts.volume_ml:
        if shown := _shown_with(organ, organs):
            yield Sign(
                "missing", 0.0, text, f"{organ} was not found, though the scan shows {shown}: removed, or missed"
            )
    elif facts.volume_ml > high:
        yield Sign("volume", volume_ml, text, f"{organ}: {volume_ml:g} ml are more than an adult has ({text})")
    elif facts.volume_ml < low and not facts.touches_border:
        yield Sign(
            "volume",
            volume_ml,
            text,
            f"{organ}: {volume_ml:g} ml are less than an adult has ({text}), and it is not cut",
        )


def _shown_with(organ: str, organs: Mapping[str, Organ]) -> str:
    """Say which organs, shown whole, prove that another must be in the scan; "" where none do."""
    whole = {
        name
        for name in SHOWN_WITH
        if name in organs and organs[name].volume_ml >= PLAUSIBLE[name].volume_ml[0] and not organs[name].touches_border
    }
    if organ in SHOWN_BETWEEN and whole == set(SHOWN_WITH):
        return "all from the liver to the bladder"
    return next((f"the whole {name}" for name in whole if organ in SHOWN_WITH[name]), "")


def _pieces(organ: str, facts: Organ, limits: Limits) -> Iterator[Sign]:
    """Tell of an organ that lies about in pieces."""
    expected = PLAUSIBLE[organ].pieces if organ in PLAUSIBLE else None
    if expected is None or facts.pieces <= expected:
        return
    share = sum(facts.shares[:expected])
    if share < limits.largest_fraction:
        largest = "the largest" if expected == 1 else f"the {expected} largest"
        yield Sign(
            "pieces",
            round(share, 3),
            f"{largest} at least {limits.largest_fraction:.0%}",
            f"{organ}: {facts.pieces} pieces, {largest} {share:.0%}",
        )


def _hounsfield(organ: str, facts: Organ) -> Iterator[Sign]:
    """Tell of a mean HU that the organ never has."""
    if organ not in PLAUSIBLE or facts.mean_hu is None:
        return
    low, high = PLAUSIBLE[organ].mean_hu
    if not low <= facts.mean_hu <= high:
        text = f"{low:g} to {high:g} HU"
        yield Sign(
            "hounsfield", round(facts.mean_hu, 1), text, f"{organ}: mean {facts.mean_hu:.0f} HU, expected {text}"
        )


def _edge(organ: str, edge: Edge | None, limits: Limits) -> Iterator[Sign]:
    """Tell of a network that was not sure."""
    if edge is None:
        return
    if edge.probability is not None and edge.probability < limits.edge_probability:
        yield Sign(
            "edge_probability",
            round(edge.probability, 3),
            f"at least {limits.edge_probability:g}",
            f"{organ}: the network is not sure where it ends (mean probability {edge.probability:.3f} at the edge, "
            f"at least {limits.edge_probability:g} expected)",
        )
    if edge.entropy_bits is not None and edge.entropy_bits > limits.edge_entropy_bits:
        yield Sign(
            "edge_entropy",
            round(edge.entropy_bits, 3),
            f"at most {limits.edge_entropy_bits:g} bits",
            f"{organ}: the network hesitates between several organs at its edge ({edge.entropy_bits:.3f} bits, at most "
            f"{limits.edge_entropy_bits:g} expected)",
        )
    if edge.dropped_fraction > limits.dropped_fraction:
        yield Sign(
            "dropped",
            round(edge.dropped_fraction, 3),
            f"at most {limits.dropped_fraction:.0%}",
            f"{organ}: {edge.dropped_fraction:.0%} of what the network found lay apart and was dropped",
        )


def _scan(look: Look, limits: Limits) -> Iterator[Sign]:
    """Tell of a scan that is unlike those that networks for the abdomen learn from."""
    z, y, x = look.spacing_mm
    if look.slices < limits.slices:
        text = f"at least {limits.slices}"
        yield Sign("slices", look.slices, text, f"the scan has {look.slices} slices only ({text} expected)")
    for kind, what, values, (low, high) in (
        ("slice_spacing", "between slices", (z,), limits.slice_mm),
        ("pixel_spacing", "between pixels", (y, x), limits.pixel_mm),
    ):
        wrong = [mm for mm in values if not low - ROUNDING_MM <= mm <= high + ROUNDING_MM]
        if wrong:
            text = f"{low:g} to {high:g} mm"
            yield Sign(kind, round(wrong[0], 3), text, f"{wrong[0]:.3g} mm {what} ({text} expected)")
    if look.view_mm < limits.view_mm:
        text = f"at least {limits.view_mm:g} mm"
        perhaps = "; perhaps the header counts in centimetres" if look.view_mm < CENTIMETRES_VIEW_MM else ""
        yield Sign(
            "view", round(look.view_mm), text, f"the field of view is {look.view_mm:.0f} mm ({text} expected){perhaps}"
        )
    elif look.body_mm < limits.body_mm:
        text, what = f"at least {limits.body_mm:g} mm", "a head, a limb, a child, or a part of a body"
        yield Sign("body", round(look.body_mm), text, f"the body is {look.body_mm:.0f} mm wide: {what}")
    if look.lung_slices_fraction > limits.lung_slices_fraction:
        yield Sign(
            "chest",
            round(look.lung_slices_fraction, 3),
            f"at most {limits.lung_slices_fraction:.0%}",
            f"{look.lung_slices_fraction:.0%} of the slices show lung: a chest, in which abdominal organs are cut or absent",
        )
    yield from _intensities(look, limits)


def _intensities(look: Look, limits: Limits) -> Iterator[Sign]:
    """Tell of HU that may be none, or clipped."""
    span = f"{look.lowest_hu:g} to {look.highest_hu:g} HU"
    if look.soft_fraction < limits.soft_fraction:
        text = f"at least {limits.soft_fraction:.0%}"
        yield Sign(
            "intensities",
            round(look.soft_fraction, 3),
            text,
            f"only {look.soft_fraction:.0%} of the body has the HU of fat and organs ({text} expected; {span}): "
            "intensities may be no HU",
        )
    if (
        look.at_highest_fraction > limits.at_highest_fraction
        and isfinite(look.highest_hu)
        and look.highest_hu < METAL_HU
    ):
        yield Sign(
            "clipped",
            look.highest_hu,
            f"above {METAL_HU:g} HU, or few voxels",
            f"{look.at_highest_fraction:.1%} of the body has exactly {look.highest_hu:g} HU: the scan was clipped ({span})",
        )
    if look.at_lowest_fraction > limits.at_lowest_fraction:
        yield Sign(
            "padded",
            round(look.at_lowest_fraction, 3),
            f"at most {limits.at_lowest_fraction:.0%}",
            f"{look.at_lowest_fraction:.0%} of the voxels have exactly {look.lowest_hu:g} HU: the scan is mostly empty, or masked",
        )


def _found(organs: Mapping[str, Organ], limits: Limits) -> Iterator[Sign]:
    """Tell of a scan in which (almost) nothing was found that was looked for."""
    wanted = [organ for organ in organs if TUMOUR not in organ]
    there = [organ for organ in wanted if organs[organ].volume_ml > _least_ml(organ)]
    if wanted and not there:
        yield Sign("nothing", 0, "at least one organ", f"of {len(wanted)} organs looked for none was found")
    elif len(wanted) >= 4 and len(there) < limits.found_fraction * len(wanted):
        text = f"at least {limits.found_fraction:.0%}"
        yield Sign("few_organs", len(there), text, f"of {len(wanted)} organs looked for {len(there)} were found only")


def _doubtful(found: Mapping[str, Sequence[Sign]], organs: Mapping[str, Organ], limits: Limits) -> Iterator[Sign]:
    """Tell of a scan on most of whose organs something is odd: what a network does with what it has not learnt."""
    there = [organ for organ, facts in organs.items() if facts.volume_ml]
    odd = [organ for organ in there if any(sign.kind != "border" for sign in found[organ])]
    if len(there) >= 3 and len(odd) > limits.doubtful_fraction * len(there):
        text = f"at most {limits.doubtful_fraction:.0%} of the organs"
        what = "the scan may be the wrong way round, or unlike those that the network learnt from"
        yield Sign("doubtful", len(odd), text, f"{len(odd)} of {len(there)} organs found are doubtful: {what}")


def _least_ml(organ: str) -> float:
    """Return the volume below which an organ counts as not found: a tenth of the least plausible one."""
    return PLAUSIBLE[organ].volume_ml[0] / 10 if organ in PLAUSIBLE else 0.0
