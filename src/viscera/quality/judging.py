"""From what was measured to signs, in plain words, that a result should not be trusted."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from viscera.quality.certainty import Edge, Handedness
from viscera.quality.contacts import Contact
from viscera.quality.flags import Sign, Trust
from viscera.quality.idc_rules import idc_rules
from viscera.quality.limits import Limits
from viscera.quality.measuring import Look, Organ
from viscera.quality.neighbours import missing_side, neighbour_signs
from viscera.quality.orientation import orientation_signs, side_signs
from viscera.quality.plausible import PLAUSIBLE, SHOWN_BETWEEN, SHOWN_WITH
from viscera.quality.predicted_dice import Calibration, doubts_of, scan_doubts
from viscera.quality.scan_signs import doubtful_signs, found_signs, is_chest, mirrored_signs, scan_signs

KIDNEYS = ("kidney", "kidney_left", "kidney_right")


def signs(
    organs: Mapping[str, Organ],
    look: Look,
    *,
    edges: Mapping[str, Edge] | None = None,
    handedness: Handedness | None = None,
    contacts: Mapping[str, Contact] | None = None,
    calibration: Calibration | None = None,
    limits: Limits = Limits(),
) -> Trust:
    """Return what speaks against a result, for each organ and for the scan, and what Dice each organ probably has.

    Args:
        organs: From ``measure_organs``; these and no others were looked for.
        look: From ``measure_scan``.
        edges: How sure the network was of each organ, where it is known; also of those that were not asked for, since a predicted
            Dice takes all of them in.
        handedness: How sure it was of the scan and of its mirror image, where it is known.
        contacts: From ``measure_contacts``, where they were measured.
        calibration: Of the network's weights; None: no Dice is predicted.
        limits: From where on a number is a sign.
    """
    chest, edges, contacts = is_chest(look, limits), edges or {}, contacts or {}
    sided = {} if chest else side_signs(organs, look)
    found = {
        organ: (
            *_border(organ, facts),
            *_volume(organ, facts, {} if chest else organs),
            *_pieces(organ, facts, limits),
            *_hounsfield(organ, facts),
            *_edge(organ, edges.get(organ), limits),
            *neighbour_signs(organ, organs, look, contacts.get(organ)),
            *sided.get(organ, ()),
        )
        for organ, facts in organs.items()
    }
    whole = (*scan_signs(look, limits), *found_signs(organs, limits))
    if not chest:  # where organs lie, and lung at both ends, says nothing there about which way round it is
        whole = (*whole, *orientation_signs(organs, look), *mirrored_signs(handedness, limits))
    whole = (*whole, *doubtful_signs(found, organs, limits, known=whole, sided=handedness is not None))
    return _with_predictions(Trust(found, whole), organs, edges, handedness, contacts, calibration)


def _with_predictions(
    trust: Trust,
    organs: Mapping[str, Organ],
    edges: Mapping[str, Edge],
    handedness: Handedness | None,
    contacts: Mapping[str, Contact],
    calibration: Calibration | None,
) -> Trust:
    """Return what speaks against a result with the Dice of each organ that was found, where there is a calibration."""
    if calibration is None:
        return trust
    scan, dice, found = scan_doubts(trust.scan, edges, handedness), {}, dict(trust.organs)
    for organ, facts in organs.items():
        if organ not in calibration.volumes_ml or organ not in edges or not facts.volume_ml:
            continue
        usual_ml = calibration.volumes_ml[organ]
        doubts = doubts_of(
            facts, edges[organ], contacts.get(organ), found[organ], organ=organ, usual_ml=usual_ml, scan=scan
        )
        dice[organ] = calibration.dice(organ, doubts)
        found[organ] = calibration.signs(organ, doubts, found[organ])
    return replace(trust, organs=found, predicted_dice=dice)


def trust_to_json(
    trust: Trust,
    organs: Mapping[str, Organ],
    look: Look,
    *,
    edges: Mapping[str, Edge],
    handedness: Handedness | None = None,
    contacts: Mapping[str, Contact] | None = None,
) -> dict[str, object]:
    """Return signs for JSON, behind them the numbers that they come from, and the rules of idc_rules.py.

    Args:
        trust: From ``signs``.
        organs: As for ``signs``.
        look: Likewise.
        edges: Likewise.
        handedness: Likewise.
        contacts: Likewise.
    """
    contacts = contacts or {}
    measured = {
        organ: {
            "pieces": facts.pieces,
            "largest_fraction": round(facts.shares[0], 4),
            "slice_agreement": _rounded(facts.slice_agreement),
            **({key: _rounded(value) for key, value in asdict(contacts[organ]).items()} if organ in contacts else {}),
            **({key: _rounded(value) for key, value in asdict(edges[organ]).items()} if organ in edges else {}),
        }
        for organ, facts in organs.items()
        if facts.shares
    }
    sure = {} if handedness is None else {"handedness": asdict(handedness)}
    scan = {key: _rounded(value) for key, value in (asdict(look) | sure).items()}
    return {
        **trust.to_json(),
        "rules": idc_rules(organs, look),
        "measured": {"scan": scan, "organs": measured},
    }


def _rounded(value: object) -> object:
    """Return numbers with as many digits as matter."""
    if isinstance(value, tuple):
        return [_rounded(part) for part in value]
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value


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
    other = missing_side(organ, organs)
    return next(
        (f"the whole {name}" for name in whole if organ in SHOWN_WITH[name]), f"the whole {other}" if other else ""
    )


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
    least = limits.kidney_edge_probability if organ in KIDNEYS else limits.edge_probability
    if edge.probability is not None and edge.probability < least:
        yield Sign(
            "edge_probability",
            round(edge.probability, 3),
            f"at least {least:g}",
            f"{organ}: the network is not sure where it ends (mean probability {edge.probability:.3f} at the edge, "
            f"at least {least:g} expected)",
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
