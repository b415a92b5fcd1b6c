"""Move the edge of an organ to where the CT has it: halfway between the organ's HU and those of what lies around it there.

A network that learnt from label maps puts edges a fraction of a millimetre too far out where a rim of muscle or diaphragm lies
on an organ, and too far in elsewhere. Near its edge each voxel therefore goes to the side whose HU it is nearer to. What an
organ looks like is measured in its own core, so that the phase of contrast does not matter; what lies around it in the shell
outside of it, place by place. Where the two look alike the edge stays. It suits organs that are alike throughout, as liver and
spleen are; of a kidney whose cortex and medulla have other HU it would leave the medulla, so that an organ that would lose much
stays as it is. It harms the stomach (whose contents are alike, not whose wall) and the aorta.

HU come from the prepared image (2.5 mm in the plane, of the bundled weights), interpolated: as good as those of the scan itself
(benchmarks/studies/edges_by_hu.py), whose noise would have to be averaged first; and the scan may so be forgotten.

Source:
    Chan and Vese 2001, doi:10.1109/83.902291 (a voxel belongs to the nearer of two means). Departs: the means are local outside
    (Lankton and Tannenbaum 2008, doi:10.1109/TIP.2008.2004611), only voxels near the given edge are asked, once, and no length of
    the edge is minimised.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

import cv2
import edt
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int16, Shaped, UInt8

from viscera.boxes import Box, boxes_of, widen
from viscera.preparation.geometry import Geometry

HU = (-250, 350)
"""Everything below and above looks the same: air and bone would outweigh what lies between them and the organ."""
CORE_MM = 6.0
"""Further inside than this is what an organ looks like."""
CORE_ML = 3.0
"""Of a core from which on an organ can be said to look like anything."""
SHELL_MM = (2.0, 7.0)
"""Between these distances outside lies what an organ is told apart from."""
SPREADS, LEAST_HU = 2.0, 12.0
"""How many robust standard deviations of the core, and at least how many HU, an organ must differ from its surroundings by half."""
OUTWARDS = 0.5
"""Share of what an edge may move inwards that it may move outwards."""
SEEN_FRACTION = 0.02
"""Of the neighbourhood that must be shell: else nothing is known of the surroundings."""
MOST_GONE = 0.2
"""Share of an organ that may go. Where more would, it is not alike throughout, and stays as it is: of 62 organs of synthetic
portal venous patients, five kidneys lost more, four of them worse by 9 to 14 Dice points. Spleens lost 13 % at most."""
SLAB_MM = 64.0
"""Height that is worked on at a time, so that no array of a whole organ's distances exists."""
HALO_MM = 2 * SHELL_MM[1] + 1
"""What is looked at beyond a slab."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A scan as the network saw it.

    Attributes:
        image: HU, prepared.
        geometry: The way from it to the scanner's axial grid.
    """

    image: Int16[np.ndarray, "z y x"]
    geometry: Geometry

    def places(self, axis: int, scanner: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return where voxel centres of the scanner's axial grid lie among those of the image, along an axis."""
        if axis == 0:
            grid = self.geometry.slice_grid
            return scanner.astype(float) if grid is None else grid.back(scanner)
        grid = self.geometry.pixel_grid
        return (scanner + 0.5 - grid.start[axis - 1]) / float(grid.step[axis - 1]) - 0.5

    def nearest(self, axis: int, prepared: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return the voxel of the scanner's axial grid that lies nearest to each of the image's, along an axis."""
        start, step = self.places(axis, np.array([0, 1]))
        found = np.rint((prepared - start) / (step - start)).astype(int)
        return found.clip(0, self.geometry.axial_shape[axis] - 1)

    def on_image(self, labels: UInt8[np.ndarray, "z y x"], label: int, part: Box) -> UInt8[np.ndarray, "d h w"]:
        """Return 1 where the label lies nearest to voxels of a part of the image, else 0."""
        places = (self.nearest(axis, np.arange(one.start, one.stop)) for axis, one in enumerate(part))
        return (labels[np.ix_(*places)] == label).view(np.uint8)

    def box(self, box: Box, margin_mm: float) -> Box:
        """Return the part of the image that covers a box of the scanner's axial grid, with a margin."""
        parts = []
        for axis, (part, step_mm) in enumerate(zip(box, self.geometry.spacing_mm, strict=True)):
            low, high = self.places(axis, np.array([part.start, part.stop - 1]))
            more = margin_mm / step_mm
            count = self.image.shape[axis]
            first = min(max(0, int(low - more)), count - 1)
            parts.append(slice(first, max(first + 1, min(count, ceil(high + more) + 1))))
        return parts[0], parts[1], parts[2]


@dataclass(frozen=True)
class Looks:
    """What an organ looks like.

    Attributes:
        hu: Median of its core.
        half_hu: Half of what its surroundings must at least differ by.
    """

    hu: float
    half_hu: float


def move_edges_(
    labels: UInt8[np.ndarray, "z y x"],
    reach_mm: Mapping[int, float],
    *,
    spacing_mm: tuple[float, float, float],
    seen: Seen,
) -> None:
    """Move the edges of some labels to where the HU are halfway between the organ's and those around it, in place.

    An organ too small to have a core stays as it is, as does one that would lose too much, and an edge where the organ looks
    like its surroundings. Nothing is known beyond the scan's edge: what is cut by it is no edge.

    Args:
        labels: A label map on the scanner's axial grid.
        reach_mm: {label: how far its edge may move inwards}; outwards it may move OUTWARDS times as far, and only into background.
        spacing_mm: Along the map's axes.
        seen: The scan that was labelled.
    """
    for label, box in boxes_of(labels, reach_mm.keys()).items():
        part = seen.box(box, HALO_MM)
        mask = seen.on_image(labels, label, part)
        looks = looks_of(seen.image[part], mask, spacing_mm=seen.geometry.spacing_mm)
        if looks is not None:
            _move_or_leave_(
                labels,
                label,
                box=box,
                fields=_Fields(seen, part, mask, looks),
                reach_mm=reach_mm[label],
                spacing_mm=spacing_mm,
            )


def looks_of(
    image: Int16[np.ndarray, "z y x"], mask: UInt8[np.ndarray, "z y x"], *, spacing_mm: tuple[float, float, float]
) -> Looks | None:
    """Return what an organ looks like in its core; None where it has none.

    Args:
        image: HU.
        mask: 1 where the organ is.
        spacing_mm: Of both.
    """
    hu = image[_shrunk(mask, CORE_MM, spacing_mm) > 0]
    if hu.size * float(np.prod(spacing_mm)) < 1000 * CORE_ML:
        return None
    hu = hu[:: max(1, hu.size // 50_000)].clip(*HU)
    median = float(np.median(hu))
    spread = 1.4826 * float(np.median(np.abs(hu - median)))
    return Looks(median, max(SPREADS * spread, LEAST_HU))


class _Fields:
    """Two numbers for each place near an organ: above 0 it stays the organ's, or joins it."""

    def __init__(self, seen: Seen, part: Box, mask: UInt8[np.ndarray, "z y x"], looks: Looks) -> None:
        """Begin with no slab.

        Args:
            seen: The scan.
            part: Of the image, around the organ.
            mask: 1 where the organ is, in that part.
            looks: The organ's.
        """
        self.seen, self.part, self.mask, self.looks = seen, part, mask, looks
        self._first, self._stays, self._joins = 0, np.zeros((0, 0, 0), np.float32), np.zeros((0, 0, 0), np.float32)

    def take_slab(self, first: int, stop: int) -> None:
        """Compute both for some planes of the scanner.

        Args:
            first: The first plane.
            stop: That behind the last.
        """
        spacing_mm, z = self.seen.geometry.spacing_mm, self.part[0]
        low, high = self.seen.places(0, np.array([first, stop - 1])) - z.start
        halo = HALO_MM / spacing_mm[0]
        planes = slice(max(0, int(low - halo)), min(len(self.mask), ceil(high + halo) + 1))
        image = self.seen.image[self.part][planes].clip(*HU).astype(np.float32)
        differs, known = _surroundings(image, self.mask[planes], self.looks, spacing_mm=spacing_mm)
        half = np.maximum(np.abs(differs) / 2, self.looks.half_hu)
        away = image - self.looks.hu
        self._first = planes.start + z.start
        self._stays = np.where(known, half - away * np.sign(differs), half)
        self._joins = np.where(known, half - np.abs(away), -half)

    def on_plane(self, place: int, y: slice, x: slice) -> tuple[Float32[np.ndarray, "y x"], Float32[np.ndarray, "y x"]]:
        """Return both on a plane of the scanner, in the slab that was taken.

        Args:
            place: Which plane.
            y: Its rows.
            x: Its columns.
        """
        at = float(self.seen.places(0, np.array([place]))[0]) - self._first
        at = min(max(at, 0.0), len(self._stays) - 1.0)
        low, share = int(at), at - int(at)
        rows, columns = (
            self.seen.places(axis, np.array([part.start, part.start + 1])) for axis, part in ((1, y), (2, x))
        )
        top, left = self.part[1].start, self.part[2].start
        way = np.array(
            [[columns[1] - columns[0], 0, columns[0] - left], [0, rows[1] - rows[0], rows[0] - top]], np.float64
        )
        size = x.stop - x.start, y.stop - y.start
        found = []
        for field in (self._stays, self._joins):
            plane = field[low] if share < 1e-6 else field[low] * (1 - share) + field[low + 1] * share
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            found.append(cv2.warpAffine(plane, way, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))
        return found[0], found[1]


def _surroundings(
    image: Float32[np.ndarray, "z y x"],
    mask: UInt8[np.ndarray, "z y x"],
    looks: Looks,
    *,
    spacing_mm: tuple[float, float, float],
) -> tuple[Float32[np.ndarray, "z y x"], Bool[np.ndarray, "z y x"]]:
    """Return how many HU the surroundings of each place are above the organ's, and where that is known and enough."""
    outside_mm = edt.edt(mask == 0, anisotropy=spacing_mm, parallel=max(1, cv2.getNumThreads()))
    shell = ((outside_mm > SHELL_MM[0]) & (outside_mm <= SHELL_MM[1])).astype(np.float32)
    z, y, x = (round(SHELL_MM[1] * share / step) for share, step in zip((0.5, 1, 1), spacing_mm, strict=True))
    weight = _box_mean(shell, (z, max(1, y), max(1, x)))
    total = _box_mean(shell * image, (z, max(1, y), max(1, x)))
    differs = total / np.maximum(weight, SEEN_FRACTION) - looks.hu
    return differs, (weight > SEEN_FRACTION) & (np.abs(differs) > 2 * looks.half_hu)


def _box_mean(values: Float32[np.ndarray, "z y x"], reach: tuple[int, int, int]) -> Float32[np.ndarray, "z y x"]:
    """Return the mean of all voxels at most so many voxels away along each axis; the array's edge goes on for ever."""
    z, y, x = (2 * count + 1 for count in reach)
    means = np.stack([cv2.blur(plane, (x, y), borderType=cv2.BORDER_REPLICATE) for plane in values])
    return cv2.blur(_upright(means), (1, z), borderType=cv2.BORDER_REPLICATE).reshape(values.shape)


def _move_or_leave_(
    labels: UInt8[np.ndarray, "z y x"],
    label: int,
    *,
    box: Box,
    fields: _Fields,
    reach_mm: float,
    spacing_mm: tuple[float, float, float],
) -> None:
    """Move the edge of one label, unless too much of it would go."""
    wide = widen(box, _steps(reach_mm * OUTWARDS, spacing_mm), labels.shape)
    before = labels[wide].copy()
    _move_(labels, label, wide=wide, fields=fields, reach_mm=reach_mm, spacing_mm=spacing_mm)
    was = before == label
    if np.count_nonzero(was & (labels[wide] != label)) > MOST_GONE * np.count_nonzero(was):
        labels[wide] = before


def _steps(reach_mm: float, spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return the voxels along each axis that cover a reach."""
    z, y, x = (ceil(reach_mm / step) for step in spacing_mm)
    return z, y, x


def _move_(
    labels: UInt8[np.ndarray, "z y x"],
    label: int,
    *,
    wide: Box,
    fields: _Fields,
    reach_mm: float,
    spacing_mm: tuple[float, float, float],
) -> None:
    """Move the edge of one label, a slab at a time."""
    z, y, x = wide
    halo, planes = ceil(reach_mm / spacing_mm[0]), max(1, round(SLAB_MM / spacing_mm[0]))
    below = (labels[max(0, z.start - halo) : z.start, y, x] == label).view(np.uint8)
    for first in range(z.start, z.stop, planes):
        stop = min(first + planes, z.stop)
        here = labels[first:stop, y, x]
        above = labels[stop : stop + halo, y, x]
        mask = np.concatenate([below, here == label, above == label])  # as it was before any plane was changed
        own = slice(len(below), len(below) + len(here))
        below = mask[max(0, own.stop - halo) : own.stop].copy()
        deep, near = _shrunk(mask, reach_mm, spacing_mm)[own], _grown(mask, reach_mm * OUTWARDS, spacing_mm)[own]
        fields.take_slab(first, stop)
        for number, around in enumerate(near):
            left, top, width, height = cv2.boundingRect(around)
            if not width:
                continue
            part = slice(top, top + height), slice(left, left + width)
            rows, columns = (
                slice(one.start + whole.start, one.stop + whole.start) for one, whole in zip(part, (y, x), strict=True)
            )
            stays, joins = fields.on_plane(first + number, rows, columns)
            plane = here[number][part]
            gone = (mask[own][number][part] > deep[number][part]) & (stays < 0)
            come = (around[part] > 0) & (plane == 0) & (joins > 0)
            plane[gone] = 0
            plane[come] = label


def _shrunk(
    mask: UInt8[np.ndarray, "z y x"], reach_mm: float, spacing_mm: tuple[float, float, float]
) -> UInt8[np.ndarray, "z y x"]:
    """Return what of a mask has nothing else within reach: in its plane a disk, along z as far; the array's edge is none."""
    return _swept(mask, cv2.erode, reach_mm, spacing_mm)


def _grown(
    mask: UInt8[np.ndarray, "z y x"], reach_mm: float, spacing_mm: tuple[float, float, float]
) -> UInt8[np.ndarray, "z y x"]:
    """Return a mask and what is within reach of it, likewise."""
    return _swept(mask, cv2.dilate, reach_mm, spacing_mm)


def _swept(
    mask: UInt8[np.ndarray, "z y x"],
    sweep: Callable[..., np.ndarray],
    reach_mm: float,
    spacing_mm: tuple[float, float, float],
) -> UInt8[np.ndarray, "z y x"]:
    """Erode or dilate a mask by a cylinder."""
    z, y, x = (int(reach_mm / step * (1 + 1e-6)) for step in spacing_mm)
    rows, columns = np.arange(-y, y + 1)[:, None] * spacing_mm[1], np.arange(-x, x + 1) * spacing_mm[2]
    disk = (rows**2 + columns**2 <= (reach_mm * (1 + 1e-6)) ** 2).astype(np.uint8)
    swept = np.stack([sweep(plane, disk) for plane in mask])
    return sweep(_upright(swept), np.ones((2 * z + 1, 1), np.uint8)).reshape(mask.shape)


def _upright(values: Shaped[np.ndarray, "z y x"]) -> Shaped[np.ndarray, "z n"]:
    """Return an array of planes as one of rows, so that OpenCV works along z."""
    return values.reshape(len(values), -1)
