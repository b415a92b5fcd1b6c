"""Donors: organs of a label map, cut out so that other patients may get them (synthesis/grafting.py says how).

A donor needs no body around its organs: what is 0 in its label map may be anything. Templates give theirs too, so that
patients of several templates are mixed organ by organ.
"""

from collections.abc import Mapping
from dataclasses import replace

import edt
import numpy as np
from jaxtyping import Bool, Int8, UInt8

from viscera.errors import LabelError
from viscera.synthesis.canvas import VALUE, Tissue
from viscera.synthesis.grafting import GROUPS, PER_MM, SINUS, STEP_MM, Donor, Graft, Place, measure
from viscera.synthesis.template.label_maps import LabelMap, meaning, read_label_map
from viscera.synthesis.template.template import FINE_MM, Template, on_fine_grid
from viscera.volume import Volume

MARGIN_MM = 18.0
"""About the organs, over which their distance is kept."""
LEAST_VOXELS = 500
"""Of an organ, at FINE_MM (1.7 ml): smaller rests are not given."""


def read_donor(labels: Volume, names: Mapping[int, str], *, where: str = "donor") -> Donor:
    """Cut the organs out of a label map.

    Args:
        labels: The label map, in any orientation; 0 is what is not known.
        names: {value: name}; names that viscera does not know are left out.
        where: The file, for messages.

    Raises:
        LabelError: A value without a name, left and right exchanged, or no organ that could be given.
    """
    unknown = [name for name in names.values() if meaning(name) is None]
    source = read_label_map(labels, names, ignore=unknown, where=where)
    label, _ = on_fine_grid(_only_given(source))
    donor = _cut_out(label, np.zeros(label.shape, bool))
    middles = [measure(label == VALUE[name], _axes(label.shape)) for name in ("kidney_left", "kidney_right")]
    if middles[0] is not None and middles[1] is not None and middles[0].middle_mm[2] <= middles[1].middle_mm[2]:
        raise LabelError(
            f"{where}: kidney_left lies to the patient's right of kidney_right",
            "Correct the names, or the direction of x in the file's affine.",
        )
    if not donor.grafts:
        first = ", ".join(group[0] for group in GROUPS)
        reasons = "".join(f" ({note})" for note in donor.notes)
        raise LabelError(f"{where}: no whole organ that could be given{reasons}", f"A donor holds some of {first}.")
    return donor


def donor_of(template: Template) -> Donor:
    """Return the organs of a template."""
    return _cut_out(template.label, template.tissue == Tissue.KIDNEY_PELVIS)


def _only_given(source: LabelMap) -> LabelMap:
    """Leave out all organs that are not given, and the slices, rows and columns without any that is: they take seconds."""
    table = np.zeros(256, np.uint8)
    for value in (VALUE[name] for names in GROUPS for name in names):
        table[value] = value
    label = table[source.label]
    if not label.any():
        return source
    box = []
    for axis, step_mm in enumerate(source.spacing_mm):
        places = np.flatnonzero(label.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(4 * FINE_MM / step_mm))
        box.append(slice(max(0, int(places[0]) - margin), int(places[-1]) + margin + 1))
    z, y, x = box
    return replace(source, label=label[z, y, x], tissue=np.where(label > 0, source.tissue, 0)[z, y, x].astype(np.uint8))


def _axes(shape: tuple[int, ...]) -> list[np.ndarray]:
    return [FINE_MM * np.arange(count) for count in shape]


def _cut_out(label: UInt8[np.ndarray, "z y x"], sinuses: Bool[np.ndarray, "z y x"]) -> Donor:
    """Cut out each group of which the first organ is there and whole."""
    grafts, notes = {}, []
    for names in GROUPS:
        own = label == VALUE[names[0]]
        if np.count_nonzero(own) < LEAST_VOXELS:
            continue
        place = measure(own, _axes(label.shape), whole=True)
        if place is None:
            notes.append(f"{names[0]}: cut by the label map's end, not given to others")
            continue
        grafts[names[0]] = _graft(label, sinuses, names, place)
    return Donor(grafts, tuple(notes))


def _graft(
    label: UInt8[np.ndarray, "z y x"], sinuses: Bool[np.ndarray, "z y x"], names: tuple[str, ...], place: Place
) -> Graft:
    """Keep the distances from the surfaces of a group, and where its first organ lies."""
    held = np.isin(label, [VALUE[name] for name in names])
    box, low, high = [], [], []
    for axis in range(3):
        places = np.flatnonzero(held.any(axis=tuple(other for other in range(3) if other != axis)))
        low.append(int(places[0]))
        high.append(int(places[-1]))
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    within = label[tuple(box)]
    parts = {name: within == VALUE[name] for name in names if (within == VALUE[name]).any()}
    if names[0].startswith("kidney") and sinuses[tuple(box)].any():
        parts[SINUS] = sinuses[tuple(box)]
        parts[names[0]] = parts[names[0]] | parts[SINUS]
    margin = round(MARGIN_MM / FINE_MM)
    middle = place.middle_mm
    return Graft(
        tuple(parts),
        tuple(_distance(part, margin) for part in parts.values()),
        (np.array(low) - margin) * FINE_MM - middle,
        np.array(low) * FINE_MM - middle,
        np.array(high) * FINE_MM - middle,
        place.spread_mm,
    )


def _distance(own: Bool[np.ndarray, "z y x"], margin: int) -> Int8[np.ndarray, "_ _ _"]:
    """Return the signed distance from a surface, every other voxel, with a margin about the organ."""
    padded = np.pad(own, margin)
    spacing = (FINE_MM,) * 3
    signed = edt.edt(padded, anisotropy=spacing, parallel=1) - edt.edt(~padded, anisotropy=spacing, parallel=1)
    # The surface lies half a step from the voxels on both sides.
    signed -= np.sign(signed) * np.float32(FINE_MM / 2)
    every = round(STEP_MM / FINE_MM)
    return np.rint(np.clip(signed[::every, ::every, ::every] * PER_MM, -127, 127)).astype(np.int8)
