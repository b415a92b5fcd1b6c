"""Signs that a scan is not the way round that its header says, or that left and right organs are swapped.

Organs vote on the orientation by where they lie to each other. A scan that shows too few of them is not judged.
"""

from collections.abc import Iterator, Mapping

from viscera.labels import SIDES
from viscera.quality.flags import Sign
from viscera.quality.measuring import Look, Organ
from viscera.quality.plausible import ABOVE, IN_FRONT_OF, PLAUSIBLE, RIGHT_OF

Z, Y, X = range(3)
VOTES_ML = 0.3
"""Share of the least plausible volume from which an organ has a vote."""
APART_MM = 8.0
"""Two centres that are nearer to each other than this do not vote."""
LEAST_VOTES = 2
"""Comparisons, below which none is judged."""
MIDDLE_MM = 15.0
"""How far an organ's centre may lie beyond the body's middle: the spine is not straight, the body not in the middle."""
NO_LUNG, LUNG = 0.02, 0.10
"""Share of lung at the lower and the upper end of a scan of the abdomen; the heads and shoulders of longer scans vote not."""
MIDLINE = ("spinal_cord", "vertebrae")
"""Organs that lie in the middle."""


def middle_mm(organs: Mapping[str, Organ], look: Look) -> float:
    """Return where the body's middle is between right and left: at the spine, or between the body's sides."""
    for organ in MIDLINE:
        centre = organs[organ].centre_mm if organ in organs and _votes(organ, organs) else None
        if centre is not None:
            return centre[X]
    return look.middle_mm


def side_signs(organs: Mapping[str, Organ], look: Look) -> dict[str, tuple[Sign, ...]]:
    """Return {organ: sign} for left ones to the right of their counterpart or of the middle, and the other way round."""
    middle, found = middle_mm(organs, look), {}
    for left, right in SIDES.values():
        places = {
            side: centre[X]
            for side in (left, right)
            if side in organs and (centre := organs[side].centre_mm) is not None
        }
        swapped = len(places) == 2 and places[right] - places[left] > APART_MM
        for side, place in places.items():
            beyond = middle - place if side == left else place - middle
            if swapped or beyond > MIDDLE_MM:
                other, here = (right, "right") if side == left else (left, "left")
                where = (
                    f"to the {here} of {other}" if swapped else f"{beyond:.0f} mm to the {here} of the body's middle"
                )
                wanted = "left" if side == left else "right"
                sign = Sign(
                    "side", round(beyond, 1), f"on the {wanted}", f"{side} lies {where}: left and right are mixed up"
                )
                found[side] = (sign,)
    return found


def orientation_signs(organs: Mapping[str, Organ], look: Look) -> Iterator[Sign]:
    """Yield the signs that a scan is mirrored, upside down or back to front."""
    middle = middle_mm(organs, look)
    mirrored = [*_pairs(RIGHT_OF, organs, axis=X, low_first=True)]
    for organ, side in (("liver", -1), ("spleen", 1)):
        centre = organs[organ].centre_mm if organ in organs and _votes(organ, organs) else None
        if centre is not None and abs(centre[X] - middle) > MIDDLE_MM:
            mirrored.append(side * (centre[X] - middle) < 0)
    upside_down = [*_pairs(ABOVE, organs, axis=Z, low_first=False), *_lung_votes(look)]
    back_to_front = [*_pairs(IN_FRONT_OF, organs, axis=Y, low_first=True), *_bone_votes(look)]
    for kind, votes, expected, message in (
        (
            "mirrored",
            mirrored,
            "liver on the right",
            "liver and spleen or stomach lie on each other's side: situs inversus, or",
        ),
        ("upside_down", upside_down, "head above feet", "what belongs above lies below:"),
        ("back_to_front", back_to_front, "spine behind", "what belongs in front lies behind:"),
    ):
        against = sum(votes) / len(votes) if votes else 0.0
        if len(votes) >= LEAST_VOTES and against > 0.5:
            wrong = "the scan's orientation in its header is wrong"
            yield Sign(
                kind, round(against, 2), expected, f"{message} {wrong} ({sum(votes)} of {len(votes)} comparisons)"
            )


def _pairs(
    pairs: tuple[tuple[str, str], ...], organs: Mapping[str, Organ], *, axis: int, low_first: bool
) -> Iterator[bool]:
    """Yield for each pair of organs that can be compared whether they lie the wrong way round."""
    for first, second in pairs:
        one, other = (_centre(organ, organs, axis) for organ in (first, second))
        if one is not None and other is not None and abs(one - other) > APART_MM:
            yield (one > other) == low_first


def _centre(organ: str, organs: Mapping[str, Organ], axis: int) -> float | None:
    """Return an organ's centre along an axis; of a paired one whose sides are labelled, between them; None where it has no vote."""
    for sides in ((organ,), SIDES.get(organ, ())):
        centres = [organs[side].centre_mm for side in sides if side in organs and _votes(side, organs)]
        known = [centre[axis] for centre in centres if centre is not None]
        if known:
            return sum(known) / len(known)
    return None


def _votes(organ: str, organs: Mapping[str, Organ]) -> bool:
    """Tell whether enough of an organ was found to say where it lies."""
    least = PLAUSIBLE[organ].volume_ml[0] if organ in PLAUSIBLE else 0.0
    return organs[organ].volume_ml > VOTES_ML * least


def _bone_votes(look: Look) -> list[bool]:
    """Return two votes where bone lies clearly in front of the body's middle, or behind it."""
    behind_mm = look.bone_behind_mm
    return [] if behind_mm is None or abs(behind_mm) < APART_MM else [behind_mm < 0] * 2


def _lung_votes(look: Look) -> list[bool]:
    """Return two votes where lung is at one end of the scan only: more than organs, which a network may well mix up."""
    low, high = look.lung_low_fraction, look.lung_high_fraction
    if max(low, high) < LUNG or min(low, high) > NO_LUNG:
        return []
    return [low > high] * 2
