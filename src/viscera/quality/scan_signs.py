"""Signs that concern the scan: what it shows, what its numbers are, what was found in it at all."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite

from viscera.labels import TUMOUR
from viscera.quality.certainty import Handedness
from viscera.quality.flags import Sign
from viscera.quality.limits import Limits
from viscera.quality.measuring import Look, Organ
from viscera.quality.plausible import PLAUSIBLE

METAL_HU = 1500.0
"""Many voxels at a scan's highest value are metal where this is above, and were clipped where it is below."""
CENTIMETRES_VIEW_MM = 60.0
"""Fields of view below are those of a whole body, 200 to 600 mm, given in centimetres, or crops of one organ."""
ROUNDING_MM = 1e-3
"""Of spacings in files."""
CAUSES: dict[str, str] = {
    "mirrored": "left and right are exchanged",
    "upside_down": "head and feet are exchanged",
    "back_to_front": "front and back are exchanged",
    "intensities": "the scan's numbers may be no HU",
    "clipped": "the scan's HU were clipped",
    "chest": "the scan shows a chest, where abdominal organs are cut or absent",
    "view": "the field of view is too small",
    "body": "it is not an adult's trunk",
    "slices": "the scan has too few slices",
    "slice_spacing": "the slices lie too far from, or too near to, each other",
    "padded": "the scan is mostly empty, or masked",
}
"""{sign of the scan: why its organs are doubtful}, the likeliest cause first."""


def is_chest(look: Look, limits: Limits) -> bool:
    """Tell whether so much of a scan is lung that what was found of abdominal organs says nothing about which way round it is."""
    return look.lung_slices_fraction > limits.lung_slices_fraction


def scan_signs(look: Look, limits: Limits) -> Iterator[Sign]:
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
    if is_chest(look, limits):
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


def found_signs(organs: Mapping[str, Organ], limits: Limits) -> Iterator[Sign]:
    """Tell of a scan in which (almost) nothing was found that was looked for."""
    wanted = [organ for organ in organs if TUMOUR not in organ]
    there = [organ for organ in wanted if organs[organ].volume_ml > _least_ml(organ)]
    if wanted and not there:
        yield Sign("nothing", 0, "at least one organ", f"of {len(wanted)} organs looked for none was found")
    elif len(wanted) >= 4 and len(there) < limits.found_fraction * len(wanted):
        text = f"at least {limits.found_fraction:.0%}"
        yield Sign("few_organs", len(there), text, f"of {len(wanted)} organs looked for {len(there)} were found only")


def doubtful_signs(
    found: Mapping[str, Sequence[Sign]],
    organs: Mapping[str, Organ],
    limits: Limits,
    *,
    known: Sequence[Sign],
    sided: bool,
) -> Iterator[Sign]:
    """Tell of a scan on most of whose organs something is odd: what a network does with what it has not learnt.

    Args:
        found: Signs of the organs.
        organs: What was measured.
        limits: From where on it is a sign.
        known: Signs of the scan itself, among which the cause may be.
        sided: Whether the network was asked about the scan's mirror image.
    """
    there = [organ for organ, facts in organs.items() if facts.volume_ml]
    odd = [organ for organ in there if any(sign.kind != "border" for sign in found[organ])]
    if len(there) >= 3 and len(odd) > limits.doubtful_fraction * len(there):
        text = f"at most {limits.doubtful_fraction:.0%} of the organs"
        causes = [what for kind, what in CAUSES.items() if any(sign.kind == kind for sign in known)]
        perhaps = "is" if sided else "may be the wrong way round, or"
        what = causes[0] if causes else f"the scan {perhaps} unlike those that the network learnt from"
        yield Sign("doubtful", len(odd), text, f"{len(odd)} of {len(there)} organs found are doubtful: {what}")


def _least_ml(organ: str) -> float:
    """Return the volume below which an organ counts as not found: a tenth of the least plausible one."""
    return PLAUSIBLE[organ].volume_ml[0] / 10 if organ in PLAUSIBLE else 0.0


def mirrored_signs(handedness: Handedness | None, limits: Limits) -> Iterator[Sign]:
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
