"""The page of ``viscera view`` in a notebook: slices, 3D, and the scores of the scan and of each slice.

    from viscera.reports.notebook import browse
    browse("scan.nii.gz", "labels.nii.gz", truth="truth.nii.gz")

Works in Jupyter and VS Code, without network and without widgets; scene.py decides what the page shows.
"""

import html
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from viscera.datasets.read_labels import read_labels
from viscera.datasets.sources import Source
from viscera.errors import SettingError
from viscera.evaluation.pairing import Pair, ScoringJob, case_name, match
from viscera.figures.pictures import SOFT_TISSUE_HU
from viscera.io import nifti
from viscera.io.label_names import label_names
from viscera.io.label_values import ROUNDED, whole_labels
from viscera.labels import LabelSpace, organ_name
from viscera.reports.viewer.page import embed
from viscera.reports.viewer.scene import VIEWS, Scene, ViewName, compare_scene, count_labels, label_scene
from viscera.volume import Volume, require_same_grid, with_voxels

Scan = Volume | Path | str
"""In memory, or a NIfTI file."""


@dataclass(frozen=True, eq=False)
class Viewer:
    """What ``browse`` returns; as the last line of a cell it shows itself.

    Attributes:
        scene: What is shown.
        page: The page with everything in it, as HTML. A notebook that is saved holds it, and with it the scan.
        height_pixels: Of the frame in the notebook.
    """

    scene: Scene
    page: str
    height_pixels: int

    def _repr_html_(self) -> str:
        """Return the page in a frame that reaches nothing outside of itself."""
        return (
            f'<iframe srcdoc="{html.escape(self.page)}" sandbox="allow-scripts" width="100%" '
            f'height="{self.height_pixels}" style="border:0" title="viscera view"></iframe>'
        )


def browse(
    ct: Scan,
    labels: Scan | None = None,
    *,
    truth: Scan | Source | None = None,
    names: Mapping[int, str] | None = None,
    annotated: Collection[str] | None = None,
    plane: ViewName = "all",
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
    height_pixels: int = 720,
) -> Viewer:
    """Look at a scan in a notebook, with its labels and their scores.

    Args:
        ct: The scan, HU, in any orientation.
        labels: Predicted labels on the scan's grid.
        truth: True labels on the scan's grid, or the case of a data set.
        names: {label: organ} of both label maps. None: what stands beside the files; truth and prediction may then number
            their organs otherwise, and are matched by name.
        annotated: Organs that the truth annotates; others are neither right nor wrong. None: those that the files tell,
            else all.
        plane: What is seen first: all planes and 3D, or one of them.
        window_hu: (black, white), HU, at first.
        height_pixels: Of the frame in the notebook.

    Raises:
        SettingError: Nothing names the labels; the window is empty; no such plane.
        FileError: A file cannot be read, or the scan is too large to embed.
        GeometryError: The grids differ.
        LabelError: Labels that are not labels.
    """
    if plane not in VIEWS:
        raise SettingError(f"there is no plane '{plane}'", f"Choose one of {', '.join(VIEWS)}.")
    scene = notebook_scene(ct, labels, truth=truth, names=names, annotated=annotated)
    return Viewer(scene, embed(scene, view=plane, window_hu=window_hu), height_pixels)


def notebook_scene(
    ct: Scan,
    labels: Scan | None = None,
    *,
    truth: Scan | Source | None = None,
    names: Mapping[int, str] | None = None,
    annotated: Collection[str] | None = None,
) -> Scene:
    """Read what is to be looked at; arguments and errors as in ``browse``."""
    title = next((case_name(Path(file)) for file in (labels, ct) if isinstance(file, Path | str)), "scan")
    volume = _read(ct)
    only, what = (truth, "truth") if labels is None else (labels, "labels")
    if only is None:
        empty = with_voxels(volume, np.zeros(volume.shape, np.uint8))
        return replace(label_scene(volume, empty, names={}, title=title), notes=())
    if labels is None or truth is None:
        shown = read_labels(only) if isinstance(only, Source) else _read(only)
        require_same_grid(volume, shown, where="browse", names=("scan", what))
        named = _names(only) if names is None else names
        found = {label: organ_name(organ) for label, organ in named.items()}
        return label_scene(volume, shown, names=found, title=title, where=f"the {what}:")
    notes: tuple[str, ...] = ()
    if names is not None:
        given = read_labels(truth) if isinstance(truth, Source) else _read(truth)
        pair, notes = _named_pair(given, _read(labels), names)
    elif isinstance(labels, Volume) or isinstance(truth, Volume):
        raise SettingError(NAMELESS)
    else:
        target = truth if isinstance(truth, Source) else Path(truth)
        pair, notes = match(ScoringJob(title, Path(labels), target))
    for one, what in ((pair.prediction, "labels"), (pair.truth, "truth")):
        require_same_grid(volume, one, where="browse", names=("scan", what))
    if annotated is not None:
        judged = {organ_name(organ) for organ in annotated}
        pair = replace(pair, annotated=tuple(organ for organ in pair.space.organs if organ in judged))
    return compare_scene(volume, pair, title=title, notes=notes)


NAMELESS = 'nothing names the labels. Pass names={1: "liver", ...}, or files instead of arrays.'


def _read(scan: Scan) -> Volume:
    return scan if isinstance(scan, Volume) else nifti.read(scan)


def _names(labels: Scan | Source) -> dict[int, str]:
    """Return what the labels of the only label map mean."""
    if isinstance(labels, Source):
        return dict(labels.organs)
    if not isinstance(labels, Path | str):
        raise SettingError(NAMELESS)
    return dict(label_names(Path(labels)).labels)


def _named_pair(truth: Volume, prediction: Volume, names: Mapping[int, str]) -> tuple[Pair, tuple[str, ...]]:
    """Bring two label maps with the same names into one label space, with notes; what has no name is label_N."""
    maps, found, notes = [], set[int](), []
    for one, what in ((truth, "truth"), (prediction, "labels")):
        whole, rounded = whole_labels(one.voxels, where=f"the {what}:")
        maps.append(whole.astype(np.uint16, copy=False))
        found |= set(np.flatnonzero(count_labels(whole)).tolist())
        notes += [f"The {what}: {ROUNDED}."] * rounded
    organs = {value: organ_name(names.get(value, f"label_{value}")) for value in sorted({*names, *found} - {0})}
    space = LabelSpace("names", tuple(dict.fromkeys(organs.values())))
    table = np.zeros(max(organs) + 1, np.uint8)
    table[list(organs)] = [space.index(organ) for organ in organs.values()]
    volumes = [with_voxels(one, table[whole]) for one, whole in zip((truth, prediction), maps, strict=True)]
    return Pair("scan", "scan", volumes[0], volumes[1], space, space.organs), tuple(notes)
