"""Donors' organs for the patients of a template: which of the template's own they replace, and what they look like there.

reshaping.py puts them into the patient, where it would have put back the template's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from viscera.synthesis.canvas import VALUE, Tissue
from viscera.synthesis.grafting import GROUPS, SINUS, Donor, Fit, Place, choose_grafts, fit_graft, measure
from viscera.synthesis.template.label_maps import ORGAN_TISSUE
from viscera.synthesis.template.template import DEPTH_STEPS_PER_MM, FINE_MM, LAYERED, Template

HILUM = 0.6
"""How far (radians) the opening of a kidney's sinus looks to the front of the middle."""


@dataclass(frozen=True, eq=False)
class Gift:
    """Organs of a donor for a patient of a template.

    Attributes:
        names: Those of the group that the template has.
        place: Of the template's own, in its coordinates.
        fit: How the donor's are fitted to it.
    """

    names: tuple[str, ...]
    place: Place
    fit: Fit

    @property
    def reach_mm(self) -> Float[np.ndarray, "3"]:
        """How far the organs go from the middle along each axis; a long one needs room across when it is turned."""
        return np.maximum(self.fit.reach_mm, 0.35 * self.fit.reach_mm.max())


@dataclass(frozen=True, eq=False)
class Painted:
    """What a gift looks like: its voxels, and what they are (as in Template)."""

    inside: Bool[np.ndarray, "z y x"]
    tissue: UInt8[np.ndarray, "z y x"]
    label: UInt8[np.ndarray, "z y x"]
    depth: UInt8[np.ndarray, "z y x"]


def draw_gifts(generator: np.random.Generator, template: Template, donors: Sequence[Donor]) -> dict[str, Gift]:
    """Draw which of a template's organs come from a donor, and fit these; by the first organ of each group."""
    from scipy import ndimage  # of the extra train

    label = template.label[::2, ::2, ::2]
    axes = [
        2 * FINE_MM * np.arange(count) - origin for count, origin in zip(label.shape, template.origin_mm, strict=True)
    ]
    boxes = dict(zip(VALUE, ndimage.find_objects(label, len(VALUE)), strict=True))
    held = [name for name, box in boxes.items() if box is not None]
    places = {}
    for names in GROUPS:
        box = boxes[names[0]]
        # An organ at the end of the map may go on beyond.
        if box is not None and box[0].start > 0 and box[0].stop < len(label):
            parts = [axis[part] for axis, part in zip(axes, box, strict=True)]
            place = measure(label[box] == VALUE[names[0]], parts)
            if place is not None:
                places[names[0]] = place
    chosen = choose_grafts(generator, donors, held, places)
    gifts = {}
    for names in GROUPS:
        if names[0] in chosen:
            own, place = tuple(name for name in names if name in held), places[names[0]]
            gifts[names[0]] = Gift(own, place, fit_graft(chosen[names[0]], place))
    return gifts


def paint_gift(
    gift: Gift, move: Float[np.ndarray, "3 3"], away: Float[np.ndarray, "3 z y x"], *, sinus_apart: bool
) -> Painted:
    """Return what a gift looks like.

    Args:
        gift: The organs.
        move: Turns and scales differences to the middle, from the patient back to the template (Move.matrix).
        away: Differences to the middle at its new place, in mm.
        sinus_apart: Whether the template's labels leave the renal sinus out of the kidney.
    """
    fit = Fit(gift.fit.graft, gift.fit.size, gift.fit.matrix @ move)
    fields = fit.fields(away, (*gift.names, SINUS))
    sinus = fields.pop(SINUS, None)
    each = np.stack(list(fields.values()))
    nearest, field = each.argmax(axis=0), each.max(axis=0)
    label = np.array([VALUE[name] for name in fields], np.uint8)[nearest]
    tissue = np.array([ORGAN_TISSUE[name] for name in fields], np.uint8)[nearest]
    if gift.names[0].startswith("kidney"):
        hollow = _sinus(gift, move, away) if sinus is None else sinus > 0
        tissue[hollow] = Tissue.KIDNEY_PELVIS
        if sinus_apart:
            label[hollow] = VALUE["fat"]
    layered = np.isin(label, [VALUE[name] for name in LAYERED])
    depth = np.where(layered, np.clip(field * np.float32(DEPTH_STEPS_PER_MM), 0, 255), 0).astype(np.uint8)
    return Painted(field > 0, tissue, label, depth)


def _sinus(gift: Gift, move: Float[np.ndarray, "3 3"], away: Float[np.ndarray, "3 z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Return where the sinus of a kidney is that was labelled as a whole: an ellipsoid that opens to the middle and the front.

    As in anatomy/kidneys.py, in a kidney that is an ellipsoid of the same variances.
    """
    side = 1 if gift.names[0].endswith("left") else -1
    semi = np.sqrt(5) * gift.place.spread_mm
    z, y, x = np.tensordot((move / semi[:, None]).astype(np.float32), away, axes=(1, 0))
    sine, cosine = np.sin(HILUM), side * np.cos(HILUM)
    inwards, across = -cosine * x - sine * y, sine * x - cosine * y
    return (z / 0.43) ** 2 + (across / 0.37) ** 2 + ((inwards - 0.83) / 0.65) ** 2 < 1
