"""The page of ``viscera view`` in a notebook: slices, 3D, and the scores of the scan and of each slice.

    viscera.view("scan.nii.gz", "labels.nii.gz", truth="truth.nii.gz")

Works in Jupyter and VS Code, without network and without widgets; scene.py decides what the page shows.
"""

import html
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from viscera.datasets.read_labels import read_labels
from viscera.datasets.sources import Source
from viscera.dicom.opening import open_scan
from viscera.errors import FileError, SettingError
from viscera.evaluation.pairing import Pair, ScoringJob, case_name, match
from viscera.figures.montage import Look, montage
from viscera.figures.pictures import SOFT_TISSUE_HU, require_window
from viscera.io import nifti, scans
from viscera.io.atomic import write_text
from viscera.io.label_names import label_names
from viscera.io.label_values import ROUNDED, whole_labels
from viscera.io.scans import ScanFiles
from viscera.labels import LabelSpace, organ_name
from viscera.reports.viewer.page import embed
from viscera.reports.viewer.scene import VIEWS, Scene, ViewName, compare_scene, count_labels, label_scene
from viscera.volume import Volume, require_same_grid, with_voxels

Scan = Volume | Path | str
"""In memory, or a NIfTI file."""


@dataclass(frozen=True, eq=False)
class Viewer:
    """What ``view`` returns; as the last line of a notebook's cell it shows itself.

    Attributes:
        scene: What is shown.
        plane: What is seen first.
        window_hu: (black, white), HU, at first.
        height_pixels: Of the frame in the notebook.
    """

    scene: Scene
    plane: ViewName = "all"
    window_hu: tuple[float, float] = SOFT_TISSUE_HU
    height_pixels: int = 720

    @cached_property
    def page(self) -> str:
        """The page with everything in it, as HTML. A notebook that is saved holds it, and with it the scan."""
        return embed(self.scene, view=self.plane, window_hu=self.window_hu)

    def save(
        self, path: Path | str, *, axial: int = 4, coronal: int = 1, sagittal: int = 0, overwrite: bool = False
    ) -> Path:
        """Write the page (.html), or a montage of slices (.png).

        Args:
            path: Its suffix decides which.
            axial: Axial slices of a montage.
            coronal: Coronal slices of a montage.
            sagittal: Sagittal slices of a montage.
            overwrite: Replace a file that stands there.

        Returns:
            ``path``.

        Raises:
            SettingError: It ends in neither .html nor .png, or a montage has no slice.
            FileError: The file exists or cannot be written, or the scan is too large for a page.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileError(f"{path} exists already", "Choose another name or set overwrite.", file=path)
        if path.suffix.lower() in (".html", ".htm"):
            write_text(path, self.page, overwrite=overwrite)
            return path
        if path.suffix.lower() != ".png":
            raise SettingError(f"{path.name}: a view is saved as a page or a picture", "End the name in .html or .png.")
        maps = {name: Volume(voxels, self.scene.upright_affine) for name, voxels in self.scene.layers.items()}
        return montage(
            Volume(self.scene.ct, self.scene.upright_affine),
            maps["prediction"],
            truth=maps.get("truth"),
            names={row.value: row.name for row in self.scene.organs},
            annotated=[row.name for row in self.scene.organs if row.annotated] if "truth" in maps else None,
            out=path,
            look=Look(axial, coronal, sagittal, self.window_hu, title=self.scene.title),
        )

    def _repr_html_(self) -> str:
        """Return the page in a frame that reaches nothing outside of itself."""
        return (
            f'<iframe srcdoc="{html.escape(self.page)}" sandbox="allow-scripts" width="100%" '
            f'height="{self.height_pixels}" style="border:0" title="viscera view"></iframe>'
        )


def view(
    ct: Scan | ScanFiles,
    labels: Scan | None = None,
    *,
    truth: Scan | Source | None = None,
    names: Mapping[int, str] | None = None,
    annotated: Collection[str] | None = None,
    plane: ViewName = "all",
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
) -> Viewer:
    """Look at a scan with its labels and their scores: in a notebook, as a page, or as a picture.

    Args:
        ct: The scan, HU, in any orientation: a volume, a NIfTI file, or a folder, ZIP or file of DICOM with one CT series.
        labels: Predicted labels on the scan's grid.
        truth: True labels on the scan's grid, or the case of a data set.
        names: {label: organ} of both label maps. None: what stands beside the files; truth and prediction may then number
            their organs otherwise, and are matched by name.
        annotated: Organs that the truth annotates; others are neither right nor wrong. None: those that the files tell,
            else all.
        plane: What is seen first: "all" planes and 3D, or "axial", "coronal", "sagittal", "3d".
        window_hu: (black, white), HU, at first.

    Returns:
        What shows itself as the last line of a notebook's cell. ``save("look.html")`` writes the page, ``save("look.png")``
        a montage of slices.

    Raises:
        SettingError: Nothing names the labels; the window is empty; no such plane.
        FileError: A file cannot be read.
        GeometryError: The grids differ.
        LabelError: Labels that are not labels.

    Example:
        >>> import viscera
        >>> [case] = viscera.synthesize("patients", cases=1, shape=(16, 32, 32), annotate=["liver"])
        >>> viscera.view(case.image, truth=case).save("look.png", axial=1, coronal=0).name
        'look.png'
    """
    if plane not in VIEWS:
        raise SettingError(f"there is no plane '{plane}'", f"Choose one of {', '.join(VIEWS)}.")
    require_window(window_hu)
    return Viewer(notebook_scene(ct, labels, truth=truth, names=names, annotated=annotated), plane, window_hu)


def notebook_scene(
    ct: Scan | ScanFiles,
    labels: Scan | None = None,
    *,
    truth: Scan | Source | None = None,
    names: Mapping[int, str] | None = None,
    annotated: Collection[str] | None = None,
) -> Scene:
    """Read what is to be looked at; arguments and errors as in ``view``."""
    title = next((case_name(Path(file)) for file in (labels, ct) if isinstance(file, Path | str)), "scan")
    volume = _read_ct(ct)
    only, what = (truth, "truth") if labels is None else (labels, "labels")
    if only is None:
        empty = with_voxels(volume, np.zeros(volume.shape, np.uint8))
        return replace(label_scene(volume, empty, names={}, title=title), notes=())
    if labels is None or truth is None:
        shown = read_labels(only) if isinstance(only, Source) else _read(only)
        require_same_grid(volume, shown, where="view", names=("scan", what))
        named = _names(only) if names is None else names
        found = {label: organ_name(organ) for label, organ in named.items()}
        return label_scene(volume, shown, names=found, title=title, where=f"the {what}:")
    notes: tuple[str, ...] = ()
    if names is not None:
        given = read_labels(truth) if isinstance(truth, Source) else _read(truth)
        pair, notes = _named_pair(given, _read(labels), names)
    elif isinstance(labels, Volume) or isinstance(truth, Volume):
        raise SettingError("nothing names the labels", NAMELESS)
    else:
        target = truth if isinstance(truth, Source) else Path(truth)
        pair, notes = match(ScoringJob(title, Path(labels), target))
    for one, what in ((pair.prediction, "labels"), (pair.truth, "truth")):
        require_same_grid(volume, one, where="view", names=("scan", what))
    if annotated is not None:
        judged = {organ_name(organ) for organ in annotated}
        pair = replace(pair, annotated=tuple(organ for organ in pair.space.organs if organ in judged))
    return compare_scene(volume, pair, title=title, notes=notes)


NAMELESS = 'Pass names={1: "liver", ...}, or files instead of arrays.'


def _read(scan: Scan) -> Volume:
    return scan if isinstance(scan, Volume) else nifti.read(scan)


def _read_ct(scan: Scan | ScanFiles) -> Volume:
    if isinstance(scan, Volume):
        return scan
    return scans.read(scan if isinstance(scan, ScanFiles) else open_scan(Path(scan)))


def _names(labels: Scan | Source) -> dict[int, str]:
    """Return what the labels of the only label map mean."""
    if isinstance(labels, Source):
        return dict(labels.organs)
    if not isinstance(labels, Path | str):
        raise SettingError("nothing names the labels", NAMELESS)
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
