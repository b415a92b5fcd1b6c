"""What can be measured on a label map and its scan, in one pass over the box that holds the organs."""

from dataclasses import dataclass

import cc3d
import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from viscera.preparation.body import Coarse, coarse_grid, coarse_scan, find_coarse_body
from viscera.volume import Volume, axial_turn

LUNG_HU = (-950, -500)
"""Aerated lung; gas in the bowel lies below, fat far above."""
SOFT_HU = (-200, 250)
"""Fat to contrast-enhanced organs: nine tenths of a trunk without its lungs."""
TISSUE_HU = -250
"""Above it lies the body's surface (viscera.preparation.body has the same)."""
BONE_HU = 250
"""Most of what is denser is bone: spine and pelvis, which lie in the back; the rest is contrast and metal."""
SHOWS_LUNG = 0.05
"""Share of the body from which a slice shows lung; bowel gas and its edges stay below."""
CHEST_MM = 20.0
"""Fewer slices with lung may be bowel gas."""
END = 0.25
"""Of the slices, at the lower and the upper end, in which lung is looked for."""


@dataclass(frozen=True)
class Organ:
    """One organ in a label map.

    Attributes:
        volume_ml: 0 for an absent one.
        mean_hu: None for an absent one; so ``sd_hu`` and ``centre_mm``.
        sd_hu: Standard deviation.
        touches_border: It reaches a face of the scan, and may be cut off there.
        centre_mm: Its centre of mass along z, y, x in axial order (feet to head, front to back, patient's right to left), from
            the scan's first voxel.
        pieces: Its connected components (26-connected).
        shares: Of its volume, of the largest pieces, at most three.
        cut_in_z: It reaches the scan's lowest or highest slice.
        top_mm: Height of its highest slice, as ``centre_mm`` has it; None for an absent one.
        slice_agreement: Overlap of its slices with those above them, as a Dice; None for one on less than two slices.
    """

    volume_ml: float
    mean_hu: float | None
    sd_hu: float | None
    touches_border: bool
    centre_mm: tuple[float, float, float] | None
    pieces: int
    shares: tuple[float, ...]
    cut_in_z: bool = False
    top_mm: float | None = None
    slice_agreement: float | None = None


@dataclass(frozen=True)
class Look:
    """A scan without its labels.

    Attributes:
        slices: Axial ones.
        spacing_mm: Along z, y, x in axial order.
        view_mm: Width and height of the field of view, the smaller of them.
        body_mm: Width of the body, too wide by up to 12 mm.
        middle_mm: The body's middle between right and left, from the first column.
        lowest_hu: Of the voxels that are looked at, every few millimetres.
        highest_hu: Likewise.
        at_lowest_fraction: Share of the voxels at exactly the lowest value.
        at_highest_fraction: Share of the body's voxels at exactly the highest one.
        lung_slices_fraction: Share of the slices that show lung.
        lung_low_fraction: Share of the body that has the HU of lung, in the lowest quarter of the slices.
        lung_high_fraction: The same in the highest.
        bone_behind_mm: How far bone lies behind the body's middle, on the average; None where there is none.
        soft_fraction: Share of the body without lung that has the HU of fat and organs.
        lung_from_mm: Height of the lowest slice of the chest that shows lung on the patient's right; None without a chest.
        lung_to_mm: Of the highest.
    """

    slices: int
    spacing_mm: tuple[float, float, float]
    view_mm: float
    body_mm: float
    middle_mm: float
    lowest_hu: float
    highest_hu: float
    at_lowest_fraction: float
    at_highest_fraction: float
    lung_slices_fraction: float
    lung_low_fraction: float
    lung_high_fraction: float
    bone_behind_mm: float | None
    soft_fraction: float
    lung_from_mm: float | None = None
    lung_to_mm: float | None = None


def measure_organs(ct: Volume, labels: UInt8[np.ndarray, "z y x"], names: dict[int, str]) -> dict[str, Organ]:
    """Measure the organs of a label map.

    Args:
        ct: HU.
        labels: On its grid, in the same order.
        names: {label: organ}; other labels are not looked at.
    """
    turn = axial_turn(ct.affine)
    spacing_mm = tuple(ct.spacing_mm[axis] for axis in turn.axes)
    axial, hu = turn.apply(labels), turn.apply(ct.voxels)
    cut, cut_in_z = at_border(axial), np.isin(np.arange(256), axial[[0, -1]])
    sums, pieces = _sums(axial, hu, names)
    found: dict[str, Organ] = {}
    for index, organ in names.items():
        count, total, squares, *moments, same, most, top = sums[:, index].tolist()
        if not count:
            found[organ] = Organ(0.0, None, None, False, None, 0, ())
            continue
        mean, sizes = total / count, pieces[index]
        z, y, x = (moment / count * mm for moment, mm in zip(moments, spacing_mm, strict=True))
        found[organ] = Organ(
            volume_ml=count * ct.voxel_ml,
            mean_hu=mean,
            sd_hu=max(squares / count - mean**2, 0.0) ** 0.5,
            touches_border=bool(cut[index]),
            centre_mm=(z, y, x),
            pieces=len(sizes),
            shares=tuple(size / count for size in sizes[:3]),
            cut_in_z=bool(cut_in_z[index]),
            top_mm=top * spacing_mm[0],
            slice_agreement=same / most if most else None,
        )
    return found


def at_border(labels: UInt8[np.ndarray, "z y x"]) -> Bool[np.ndarray, " label"]:
    """Tell which labels reach a face of the array."""
    counts = np.zeros(256, np.int64)
    for face in (labels[[0, -1]], labels[:, [0, -1]], labels[:, :, [0, -1]]):
        counts += np.bincount(face.ravel(), minlength=256)
    return counts > 0


def _sums(
    labels: UInt8[np.ndarray, "z y x"], hu: Shaped[np.ndarray, "z y x"], names: dict[int, str]
) -> tuple[Float[np.ndarray, "9 label"], dict[int, list[int]]]:
    """Return what is summed for each label, and its pieces' voxels, the largest first.

    Rows: voxels; sums of HU, of squared HU, of z, y and x; twice the voxels that two neighbouring slices share, and all voxels
    of such two; the highest slice.
    """
    sums, sizes = np.zeros((9, 256)), {index: [] for index in names}
    top = np.flatnonzero(labels.max(axis=(1, 2), initial=0))
    if not top.size:
        return sums, sizes
    flat = labels.max(axis=0)
    starts, stops = zip(
        *((int(at[0]), int(at[-1]) + 1) for at in (top, flat.max(axis=1).nonzero()[0], flat.max(axis=0).nonzero()[0])),
        strict=True,
    )
    box = tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))
    part = np.ascontiguousarray(labels[box])
    pieces, count = cc3d.connected_components(part, connectivity=26, return_N=True)
    voxels, owner = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.uint8)
    below, counts_below = np.zeros(part.shape[1:], np.uint8), np.zeros(256, np.int64)
    for z, (plane, values, numbers) in enumerate(zip(part, hu[box], pieces, strict=True), start=starts[0]):
        places = np.flatnonzero(plane)
        if not places.size:
            below, counts_below = plane, np.zeros(256, np.int64)
            continue
        which, numbers = plane.ravel()[places], numbers.ravel()[places]
        rows, columns = np.divmod(places, plane.shape[1])
        grey = values[rows, columns].astype(np.float64)
        counts = np.bincount(which, minlength=256)
        both = (counts > 0) & (counts_below > 0)
        sums[6] += 2 * np.bincount(which[below.ravel()[places] == which], minlength=256)
        sums[7] += both * (counts + counts_below)
        sums[8][counts > 0] = z
        below, counts_below = plane, counts
        sums[0] += counts
        sums[3] += counts * z
        for row, weights in zip((1, 2, 4, 5), (grey, grey**2, rows + starts[1], columns + starts[2]), strict=True):
            sums[row] += np.bincount(which, weights, minlength=256)
        voxels += np.bincount(numbers, minlength=count + 1)
        owner[numbers] = which
    for number in np.argsort(-voxels, kind="stable").tolist():
        if owner[number] in sizes:
            sizes[int(owner[number])].append(int(voxels[number]))
    return sums, sizes


def measure_scan(ct: Volume) -> Look:
    """Measure a scan, on voxels every few millimetres.

    Args:
        ct: HU.
    """
    return look_at(coarse_scan(ct))


def look_at(scan: Coarse) -> Look:
    """Measure a scan on some of its voxels."""
    turn, coarse = axial_turn(scan.grid.affine), scan.hu
    slices, rows, width = turn.apply(scan.grid.voxels).shape
    z_mm, y_mm, x_mm = (scan.grid.spacing_mm[axis] for axis in turn.axes)
    z, y, x = coarse_grid((z_mm, y_mm, x_mm))
    _, columns = find_coarse_body(coarse, (rows, width), (z_mm, y_mm, x_mm))
    body = _bodies(coarse)
    lung = body & (coarse > LUNG_HU[0]) & (coarse < LUNG_HU[1])
    shares = lung.sum(axis=(1, 2)), body.sum(axis=(1, 2))
    end = max(1, round(END * len(coarse)))
    inside, lowest = coarse[body & ~lung], coarse.min()
    highest = coarse.max()
    from_mm, to_mm = _chest_mm(
        lung, body, slice_mm=z.step * z_mm, middle=(columns.start + columns.stop) // (2 * x.step)
    )
    soft = np.count_nonzero((inside > SOFT_HU[0]) & (inside < SOFT_HU[1]))
    return Look(
        slices=slices,
        spacing_mm=(z_mm, y_mm, x_mm),
        view_mm=min(rows * y_mm, width * x_mm),
        body_mm=(columns.stop - columns.start) * x_mm,
        middle_mm=(columns.start + columns.stop - 1) / 2 * x_mm,
        lowest_hu=float(lowest),
        highest_hu=float(highest),
        at_lowest_fraction=float(np.mean(coarse == lowest)),
        at_highest_fraction=np.count_nonzero(inside == highest) / max(1, inside.size),
        lung_slices_fraction=float(np.mean(shares[0] > SHOWS_LUNG * shares[1])),
        lung_low_fraction=_share(*shares, slice(end)),
        lung_high_fraction=_share(*shares, slice(-end, None)),
        bone_behind_mm=_behind_mm(body & (coarse > BONE_HU), body, row_mm=y.step * y_mm),
        soft_fraction=soft / max(1, inside.size),
        lung_from_mm=from_mm,
        lung_to_mm=to_mm,
    )


def _chest_mm(
    lung: Bool[np.ndarray, "z y x"], body: Bool[np.ndarray, "z y x"], *, slice_mm: float, middle: int
) -> tuple[float | None, float | None]:
    """Return from which height to which the longest run of slices shows lung on the right; bowel gas shows on a few only."""
    right = lung[:, :, :middle].sum(axis=(1, 2)) > SHOWS_LUNG * body[:, :, :middle].sum(axis=(1, 2))
    ends = np.flatnonzero(np.diff(np.concatenate(([0], right, [0]))))
    runs = ends.reshape(-1, 2)
    if not len(runs):
        return None, None
    first, stop = runs[np.argmax(runs[:, 1] - runs[:, 0])].tolist()
    return (first * slice_mm, (stop - 1) * slice_mm) if (stop - first) * slice_mm >= CHEST_MM else (None, None)


def _share(part: Int[np.ndarray, " z"], whole: Int[np.ndarray, " z"], slices: slice) -> float:
    """Return the share of a sum in another over some slices; 0 of nothing."""
    return float(part[slices].sum() / max(1, whole[slices].sum()))


def _behind_mm(bone: Bool[np.ndarray, "z y x"], body: Bool[np.ndarray, "z y x"], *, row_mm: float) -> float | None:
    """Return how far the centre of bone lies behind that of the body."""
    rows = np.arange(body.shape[1]) * row_mm
    counts = [mask.sum(axis=(0, 2)) for mask in (bone, body)]
    if not counts[0].any():
        return None
    bone_mm, body_mm = (float((count * rows).sum() / count.sum()) for count in counts)
    return bone_mm - body_mm


def _bodies(hu: Shaped[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Return on each slice what the body's surface encloses, lungs and bowel gas included, without what is thin."""
    found = np.zeros(hu.shape, np.uint8)
    for plane, inside in zip(hu, found, strict=True):
        solid = cv2.morphologyEx((plane > TISSUE_HU).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        outlines, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        least = 0.2 * max((cv2.contourArea(outline) for outline in outlines), default=0.0)
        large = [outline for outline in outlines if cv2.contourArea(outline) >= least]
        inside[:] = cv2.drawContours(np.zeros_like(solid), large, -1, 1, cv2.FILLED)
    return found.view(bool)
