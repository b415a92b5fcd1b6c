"""Signs from what organs are to each other and to their surroundings: half a kidney, tissue that looks alike, the liver's dome."""

from collections.abc import Iterator, Mapping

from viscera.labels import SIDES
from viscera.quality.contacts import ALIKE_HU, Contact
from viscera.quality.flags import Sign
from viscera.quality.measuring import Look, Organ
from viscera.quality.plausible import PLAUSIBLE

HALF = 0.5
"""Of the other kidney's volume. Of adults with two healthy kidneys next to none has so small a one."""
ALIKE_FRACTION = 0.15
"""Of an organ's surface with another organ behind it that looks alike: 17 of 2105 good organs have more, 300 of 2668 bad ones."""
OPEN_FRACTION = 0.25
"""Of an organ's surface with no organ behind it, though it looks alike: 7 of the same good ones, 83 of the bad ones."""
DOME_MM = 10.0
"""Least height of the liver above the lowest slice with lung on the right, which reaches far down behind it."""
MAY_CONTINUE = (
    "stomach",
    "duodenum",
    "small_bowel",
    "colon",
    "rectum",
    "esophagus",
    "inferior_vena_cava",
    "spinal_cord",
    "femoral_head",
)
"""Organs that end in others of their kind, or in tissue like theirs."""
HALVES = (SIDES["kidney"],)
"""Pairs of which the two are about as large."""


def neighbour_signs(
    organ: str, organs: Mapping[str, Organ], look: Look, contact: Contact | None = None
) -> tuple[Sign, ...]:
    """Return the signs of one organ.

    Args:
        organ: Its name.
        organs: All that were looked for.
        look: The scan.
        contact: The organ's surface, where it was measured.
    """
    return (*_half(organ, organs), *_alike(organ, contact), *_dome(organ, organs[organ], look))


def missing_side(organ: str, organs: Mapping[str, Organ]) -> str:
    """Return the other organ of a pair where that is whole, and so tells that this one must be in the scan; "" otherwise."""
    for pair in HALVES:
        if organ in pair and all(side in organs for side in pair):
            other = pair[1 - pair.index(organ)]
            facts = organs[other]
            if facts.volume_ml >= PLAUSIBLE[other].volume_ml[0] and not facts.touches_border:
                return other
    return ""


def _half(organ: str, organs: Mapping[str, Organ]) -> Iterator[Sign]:
    """Tell of a kidney that is less than half as large as the other, none of them cut off."""
    for pair in HALVES:
        if organ not in pair or any(side not in organs for side in pair):
            continue
        other = pair[1 - pair.index(organ)]
        one, two = organs[organ], organs[other]
        if one.touches_border or two.touches_border or not one.volume_ml or one.volume_ml >= HALF * two.volume_ml:
            continue
        text = f"at least {HALF:.0%} of {other}"
        yield Sign(
            "half",
            round(one.volume_ml / two.volume_ml, 3),
            text,
            f"{organ}: {one.volume_ml:.0f} ml, {one.volume_ml / two.volume_ml:.0%} of {other} ({two.volume_ml:.0f} ml), and "
            f"neither is cut: part of it was missed, {other} holds what is not kidney, or it is shrunken",
        )


def _alike(organ: str, contact: Contact | None) -> Iterator[Sign]:
    """Tell of an organ that ends where nothing in the image ends."""
    if contact is None or organ in MAY_CONTINUE:
        return
    if contact.alike_fraction > ALIKE_FRACTION:
        yield Sign(
            "alike",
            round(contact.alike_fraction, 3),
            f"at most {ALIKE_FRACTION:.0%}",
            f"{organ}: {contact.alike_fraction:.0%} of its surface touches other organs, mostly {contact.alike_with}, that differ "
            f"by less than {ALIKE_HU:g} HU there: where one ends and the other begins is a guess",
        )
    if contact.open_fraction > OPEN_FRACTION:
        yield Sign(
            "open",
            round(contact.open_fraction, 3),
            f"at most {OPEN_FRACTION:.0%}",
            f"{organ}: behind {contact.open_fraction:.0%} of its surface lies tissue without a label that differs by less than "
            f"{ALIKE_HU:g} HU: the organ may go on there, or may not be this organ",
        )


def _dome(organ: str, facts: Organ, look: Look) -> Iterator[Sign]:
    """Tell of a liver that ends below the lung though the scan goes on."""
    if organ != "liver" or facts.top_mm is None or look.lung_from_mm is None or facts.cut_in_z:
        return
    if look.body_mm >= look.view_mm:  # the body may be cut, and lung not be told from what lies beside it
        return
    above_mm = facts.top_mm - look.lung_from_mm
    if above_mm < DOME_MM:
        yield Sign(
            "dome",
            round(above_mm, 1),
            f"at least {DOME_MM:g} mm above the lowest lung",
            f"liver ends {abs(above_mm):.0f} mm {'above' if above_mm >= 0 else 'below'} where the right lung begins, though the "
            "scan shows the lung: the dome was missed, or fluid lies above it (pleural effusion)",
        )
