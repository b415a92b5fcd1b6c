"""What the interactive page shows: volumes turned upright, organs with colours and volumes, scores against the truth.

Whatever the orientation of the files, the voxels come out in one order (feet to head, back to front, left to right, as
NIfTI's RAS+), on a grid without tilt: flipped, transposed and oblique copies of a scan give the same page. As in the
montage, an oblique scan is shown along its own slices, not resampled. Nothing of the files but voxels, spacing, place
and names of organs goes into a scene.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Int16, Integer, Shaped, UInt8

from viscera.colours import ColourScheme, colour
from viscera.errors import LabelError
from viscera.evaluation.metrics import confusion, overlap
from viscera.evaluation.pairing import Pair
from viscera.figures.montage import choose_slices
from viscera.figures.pictures import AGREEMENT_COLOURS, AGREEMENT_NAMES, RGB, UNJUDGED, agreement
from viscera.io.label_values import ROUNDED, whole_labels
from viscera.labels import readable
from viscera.reports.page import counted
from viscera.volume import Turn, Volume, require_same_grid, to_axial, turn_volume

AIR_HU = -1024
"""Stands for NaN."""

MOST_ORGANS = 255
"""That uint8 labels can hold."""

TILT_DEGREES = 1.0
"""A scan that is tilted by more is said to be."""

NO_ORGAN = "No organ found: the label map is empty."

ViewName = Literal["all", "axial", "coronal", "sagittal", "3d"]
VIEWS: tuple[ViewName, ...] = ("all", "axial", "coronal", "sagittal", "3d")
"""What the page can show: three planes and 3D together, or one of them."""

Score = float | None
"""A number, or None where there is nothing to measure."""


@dataclass(frozen=True)
class OrganRow:
    """One line of the page's table.

    Attributes:
        value: The organ's label in the scene, from 1.
        name: Its name.
        colour: Red, green, blue in 0..255.
        prediction_ml: Labelled volume, ml.
        truth_ml: Volume in the truth, ml; None without truth or where the truth does not annotate the organ.
        dice: Of the whole volume, in [0, 1]; None without truth, annotation, or any voxel in either.
        iou: As ``dice``.
        annotated: Whether the truth annotates the organ.
    """

    value: int
    name: str
    colour: RGB
    prediction_ml: float
    truth_ml: Score = None
    dice: Score = None
    iou: Score = None
    annotated: bool = False


@dataclass(frozen=True, eq=False)
class Scene:
    """A page's content. All arrays are (z, y, x) from feet to head, back to front, left to right.

    Attributes:
        title: The case.
        ct: The scan, HU.
        layers: {"prediction": labels}, and with truth also "truth" and "agreement" (codes of ``figures.agreement``).
        spacing_mm: Along (z, y, x).
        starts_mm: World coordinate (z, y, x in RAS+) of the first slice along each axis, at its centre.
        steps_mm: World distance between slices along each axis: the spacing, unless the scan is oblique.
        organs: The table.
        kinds: {code: (name, colour)} of the agreement codes that occur; empty without truth.
        start: Voxel (z, y, x) to look at first.
        notes: Sentences for the reader.
    """

    title: str
    ct: Int16[np.ndarray, "z y x"]
    layers: Mapping[str, UInt8[np.ndarray, "z y x"]]
    spacing_mm: tuple[float, float, float]
    starts_mm: tuple[float, float, float]
    steps_mm: tuple[float, float, float]
    organs: tuple[OrganRow, ...]
    kinds: Mapping[int, tuple[str, RGB]]
    start: tuple[int, int, int]
    notes: tuple[str, ...] = ()

    @property
    def upright_affine(self) -> Float[np.ndarray, "4 4"]:
        """Index (z, y, x, 1) -> mm in RAS+ without the scan's tilt."""
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis in range(3):
            affine[2 - axis, axis] = self.spacing_mm[axis]
            affine[2 - axis, 3] = self.starts_mm[axis]
        return affine


def label_scene(
    ct: Volume,
    labels: Volume,
    *,
    names: Mapping[int, str],
    title: str,
    where: str = "",
    colours: ColourScheme = "viscera",
    notes: tuple[str, ...] = (),
) -> Scene:
    """Show a scan with one label map.

    Args:
        ct: The scan, HU, in any orientation.
        labels: Labels on its grid.
        names: {label: organ}. A label without a name is called label_N, and the page says so.
        title: The page's heading.
        where: The label file, for messages; the title if empty.
        colours: "viscera" or "slicer".
        notes: More sentences for the reader.

    Raises:
        GeometryError: The grids differ.
        LabelError: The labels are none.
    """
    where = where or title
    require_same_grid(ct, labels, where=where)
    whole, rounded = whole_labels(labels.voxels, where=where)
    if rounded:
        notes = (*notes, f"The labels are {ROUNDED}.")
    counts = count_labels(whole)
    found = [int(value) for value in np.flatnonzero(counts) if value]
    values = sorted(set(names) - {0} | set(found))
    if len(values) > MOST_ORGANS:
        raise LabelError(
            f"{where}: {len(values)} labels, but a page holds at most {MOST_ORGANS}", "Merge some of them."
        )
    nameless = [value for value in found if value not in names]
    if nameless:
        notes = (
            *notes,
            f"{counted(len(nameless), 'label')} without a name: called label_N, N being the value in the file.",
        )
    table = np.zeros(max([*values, 0]) + 1, np.uint8)
    table[values] = np.arange(1, len(values) + 1)
    rows = [
        OrganRow(i, name, colour(name, colours), _ml(counts, value, labels))
        for i, value in enumerate(values, start=1)
        for name in [names.get(value, f"label_{value}")]
    ]
    prediction = table[whole.astype(np.uint16, copy=False)]
    return _scene(ct, {"prediction": prediction}, rows, title=title, notes=notes)


def compare_scene(
    ct: Volume, pair: Pair, *, title: str, colours: ColourScheme = "viscera", notes: tuple[str, ...] = ()
) -> Scene:
    """Show a scan with prediction, truth, their agreement and scores.

    Organs that the truth does not annotate have no score, and are neither right nor wrong in the agreement; nor is
    what was predicted where the truth says that anything may be.

    Args:
        ct: The scan, HU, in any orientation.
        pair: Prediction and truth, as ``pairing.match`` gives them.
        title: The page's heading.
        colours: "viscera" or "slicer".
        notes: More sentences for the reader.

    Raises:
        GeometryError: The grids differ.
    """
    require_same_grid(ct, pair.prediction, where=title)
    prediction, truth = pair.prediction.voxels, pair.truth.voxels
    annotated = [value for value, organ in pair.space.labels.items() if organ in pair.annotated]
    codes = np.empty(ct.shape, np.uint8)
    for number, layer in enumerate(codes):
        layer[:] = agreement(truth[number], prediction[number], annotated=annotated)
        if pair.known is not None:
            layer[~pair.known[number] & (prediction[number] > 0)] = UNJUDGED
    counts = confusion(*_known(pair), len(pair.space.classes))
    predicted = count_labels(prediction)
    rows = []
    for value, organ in pair.space.labels.items():
        volume_ml = _ml(predicted, value, ct)
        row = OrganRow(value, organ, colour(organ, colours), volume_ml)
        if value in annotated:
            score = overlap(counts, value)
            truth_ml = _ml(counts.sum(axis=1), value, ct)
            row = OrganRow(
                value, organ, row.colour, volume_ml, truth_ml, _number(score.dice), _number(score.iou), annotated=True
            )
        rows.append(row)
    silent = [organ for organ in pair.space.organs if organ not in pair.annotated]
    if silent:
        notes = (*notes, f"Not annotated in the truth, so not judged: {', '.join(map(readable, silent))}.")
    return _scene(ct, {"prediction": prediction, "truth": truth, "agreement": codes}, rows, title=title, notes=notes)


def _scene(
    ct: Volume,
    layers: Mapping[str, UInt8[np.ndarray, "z y x"]],
    rows: list[OrganRow],
    *,
    title: str,
    notes: tuple[str, ...],
) -> Scene:
    """Turn all volumes upright and choose where to look first."""
    upright, turn = to_axial(ct)
    to_ras = Turn((0, 1, 2), (False, True, True))
    upright = turn_volume(upright, to_ras)
    turned = {name: np.ascontiguousarray(to_ras.apply(turn.apply(voxels))) for name, voxels in layers.items()}
    maps = [voxels for name, voxels in turned.items() if name != "agreement"]
    if not maps[0].any():
        notes = (NO_ORGAN, *notes)
    tilt = _tilt_degrees(upright)
    if tilt > TILT_DEGREES:
        notes = (*notes, f"The scan's grid is tilted by {tilt:.0f} degrees; slices are shown along its own axes.")
    middle = np.array([*((n - 1) / 2 for n in upright.shape), 1.0])
    starts = []
    for axis in range(3):
        first = middle.copy()
        first[axis] = 0
        starts.append(float((upright.affine @ first)[2 - axis]))
    seen = np.unique(turned["agreement"]).tolist() if "agreement" in turned else []
    kinds = {code: (AGREEMENT_NAMES[code], rgb) for code, rgb in AGREEMENT_COLOURS.items() if code in seen}
    z, y, x = (float(upright.affine[2 - axis, axis]) for axis in range(3))
    return Scene(
        title=title,
        ct=_hounsfield(upright.voxels),
        layers=turned,
        spacing_mm=upright.spacing_mm,
        starts_mm=(starts[0], starts[1], starts[2]),
        steps_mm=(z, y, x),
        organs=tuple(rows),
        kinds=kinds,
        start=_start(maps, len(rows) + 1),
        notes=notes,
    )


def _hounsfield(voxels: Shaped[np.ndarray, "z y x"]) -> Int16[np.ndarray, "z y x"]:
    """Return HU as int16: rounded, NaN as air, what int16 cannot hold cut off."""
    if voxels.dtype == np.int16:
        return np.ascontiguousarray(voxels)
    whole = np.empty(voxels.shape, np.int16)
    for number, layer in enumerate(voxels):
        finite = np.nan_to_num(layer.astype(np.float64), nan=AIR_HU)
        whole[number] = np.rint(np.clip(finite, -32768, 32767)).astype(np.int16)
    return whole


def _start(maps: list[UInt8[np.ndarray, "z y x"]], classes: int) -> tuple[int, int, int]:
    """Return the axial slice that shows most organs best, and the middle of the organs in it; else the volume's middle."""
    areas = sum(np.stack([np.bincount(layer.ravel(), minlength=classes) for layer in labels]) for labels in maps)
    z = choose_slices(np.asarray(areas)[:, 1:], 1)[0] if classes > 1 else maps[0].shape[0] // 2
    labelled = np.logical_or.reduce([labels[z] > 0 for labels in maps])
    if not labelled.any():
        return maps[0].shape[0] // 2, maps[0].shape[1] // 2, maps[0].shape[2] // 2
    y, x = (int(np.median(places)) for places in np.nonzero(labelled))
    return int(z), y, x


def count_labels(labels: Integer[np.ndarray, "z y x"]) -> Int[np.ndarray, "values"]:
    """Count the voxels of each label, 0 to the largest, of labels that ``whole_labels`` gave."""
    counts = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    for layer in labels:
        counts += np.bincount(layer.astype(np.uint16, copy=False).ravel(), minlength=counts.size)
    return counts


def _ml(counts: Int[np.ndarray, "values"], value: int, grid: Volume) -> float:
    """Return the volume of a label, ml, to the microlitre, so that it does not depend on the order of the axes."""
    return round(float(counts[value]) * grid.voxel_ml, 3) if value < counts.size else 0.0


def _known(pair: Pair) -> tuple[UInt8[np.ndarray, "z y x"], UInt8[np.ndarray, "z y x"]]:
    """Return truth and prediction with background where the truth says nothing."""
    if pair.known is None:
        return pair.truth.voxels, pair.prediction.voxels
    known: Bool[np.ndarray, "z y x"] = pair.known
    return pair.truth.voxels * known, pair.prediction.voxels * known


def _tilt_degrees(volume: Volume) -> float:
    """Return the largest angle between an axis of the grid and the world's."""
    directions = np.abs(volume.affine[:3, :3]) / np.linalg.norm(volume.affine[:3, :3], axis=0)
    along = min(directions[2 - axis, axis] for axis in range(3))
    return float(np.degrees(np.arccos(np.clip(along, -1, 1))))


def _number(value: float) -> Score:
    return float(value) if np.isfinite(value) else None
