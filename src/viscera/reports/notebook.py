"""A slice viewer for notebooks: CT, truth, prediction and their agreement side by side, and the slice's scores.

    from viscera.reports.notebook import browse
    browse("scan.nii.gz", "labels.nii.gz", truth="truth.nii.gz")

Only ``browse`` needs ipywidgets. The pictures are drawn in figures/side_by_side.py; what needs no notebook at all is the
page that ``viscera view`` writes.
"""

import html
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from jaxtyping import Integer, Shaped, UInt8

from viscera.colours import colour
from viscera.datasets.read_labels import read_labels
from viscera.datasets.sources import Source
from viscera.errors import LabelError, SettingError
from viscera.evaluation.metrics import Overlap, confusion, overlap
from viscera.evaluation.pairing import Task, case_name, match
from viscera.figures.canvas import readable
from viscera.figures.montage import PLANES, Plane
from viscera.figures.pictures import AGREEMENT_COLOURS, AGREEMENT_NAMES, RGB, SOFT_TISSUE_HU, WINDOWS_HU
from viscera.figures.side_by_side import LabelledScan, View, fullest_slice, picture, position_mm
from viscera.io import nifti
from viscera.io.label_names import label_names
from viscera.labels import organ_name
from viscera.volume import Volume, axial_turn, require_same_grid, to_axial, with_voxels

if TYPE_CHECKING:
    import ipywidgets

Scan = Volume | Path | str
"""In memory, or a NIfTI file."""

LARGEST_LABEL = 255


@dataclass(eq=False)
class Browser:
    """The viewer's parts; as the last line of a cell it shows itself. Setting a part's value moves the picture.

    Attributes:
        scan: What is looked at.
        box: Everything as one widget, to be put into others.
        plane: axial, coronal or sagittal.
        slider: The slice, from the feet, the front or the patient's right.
        window: (black, white), HU.
        opacity: Of the fillings, in [0, 1].
        organs: {label: its check box}, for the labels that occur.
        picture: The slice as PNG.
        table: Its scores as HTML.
        place: Where it lies.
    """

    scan: LabelledScan
    box: "ipywidgets.VBox"
    plane: "ipywidgets.ToggleButtons"
    slider: "ipywidgets.IntSlider"
    window: "ipywidgets.Dropdown"
    opacity: "ipywidgets.FloatSlider"
    organs: "dict[int, ipywidgets.Checkbox]"
    picture: "ipywidgets.Image"
    table: "ipywidgets.HTML"
    place: "ipywidgets.Label"
    _paused: bool = field(default=False, repr=False)

    @property
    def view(self) -> View:
        """What the parts are set to."""
        shown = frozenset(label for label, box in self.organs.items() if box.value)
        plane, window_hu = cast(Plane, self.plane.value), cast(tuple[float, float], self.window.value)
        return View(plane, self.slider.value, window_hu, self.opacity.value, shown)

    def redraw(self) -> None:
        """Draw and score the slice that the parts are set to."""
        if not self._paused:
            view = self.view
            self.picture.value = png(picture(self.scan, view))
            self.table.value = score_table(self.scan, view)
            self.place.value = f"{'zyx'[PLANES.index(view.plane)]} = {position_mm(self.scan, view):.0f} mm"

    def turn(self) -> None:
        """Go to the fullest slice of the plane that is chosen."""
        plane = self.view.plane
        self._paused = True
        self.slider.max = self.scan.ct.shape[PLANES.index(plane)] - 1
        self.slider.value = fullest_slice(self.scan, plane)
        self._paused = False
        self.redraw()

    def show_organs(self, *, on: bool) -> None:
        """Switch all organs on or off."""
        self._paused = True
        for box in self.organs.values():
            box.value = on
        self._paused = False
        self.redraw()

    def _repr_mimebundle_(self, **kwargs: object) -> object:
        """Show the box where a notebook shows the value of a cell."""
        return self.box._repr_mimebundle_(**kwargs)


def browse(
    ct: Scan,
    labels: Scan | None = None,
    *,
    truth: Scan | Source | None = None,
    names: Mapping[int, str] | None = None,
    annotated: Collection[str] | None = None,
    plane: Plane = "axial",
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
) -> Browser:
    """Leaf through a scan in a notebook: each slice with its labels and their scores.

    Args:
        ct: The scan, HU, in any orientation.
        labels: Predicted labels on the scan's grid, 0 to 255.
        truth: True labels on the scan's grid, or the case of a data set.
        names: {label: organ} of both label maps. None: what stands beside the files; truth and prediction may then number
            their organs otherwise, and are matched by name.
        annotated: Organs that the truth annotates; others are neither right nor wrong. None: those that the files tell,
            else all.
        plane: The one seen first.
        window_hu: (black, white), HU, at first.

    Raises:
        SettingError: ipywidgets is not installed; nothing names the labels; the window is empty; no such plane.
        FileError: A file cannot be read.
        GeometryError: The grids differ.
        LabelError: Labels that are no labels.
    """
    try:
        import ipywidgets as parts  # here, because it is an optional dependency
    except ImportError as error:
        raise SettingError('ipywidgets is not installed. Run: pip install "viscera[notebook]".') from error
    if plane not in PLANES:
        raise SettingError(f"there is no plane '{plane}'. Choose one of {', '.join(PLANES)}.")
    scan = load_scan(ct, labels, truth=truth, names=names, annotated=annotated)
    browser = Browser(
        scan,
        parts.VBox(),
        plane=parts.ToggleButtons(options=PLANES, value=plane, style={"button_width": "auto"}),
        slider=parts.IntSlider(0, 0, 0, description="slice", layout=parts.Layout(width="26em")),
        window=parts.Dropdown(options=_windows(window_hu), value=window_hu, description="window"),
        opacity=parts.FloatSlider(0.35, min=0, max=1, step=0.05, description="opacity", continuous_update=True),
        organs={
            label: parts.Checkbox(
                value=True,
                description=_swatch(scan.organs[label]),
                description_allow_html=True,
                indent=False,
                layout=parts.Layout(width="auto", margin="0 14px 0 0"),
            )
            for label in scan.present
        },
        picture=parts.Image(format="png", layout=parts.Layout(width="100%")),
        table=parts.HTML(layout=parts.Layout(flex="0 0 auto", margin="0 0 0 12px")),
        place=parts.Label(),
    )
    browser.turn()
    _arrange(browser)
    return browser


def _arrange(browser: Browser) -> None:
    """Put a browser's parts in their places, and let each of them redraw the picture."""
    import ipywidgets as parts

    switches = [
        parts.Button(description=text, layout=parts.Layout(width="5em", flex="0 0 auto")) for text in ("all", "none")
    ]
    for button, on in zip(switches, (True, False), strict=True):
        button.on_click(lambda _, on=on: browser.show_organs(on=on))
    browser.plane.observe(lambda _: browser.turn(), "value")
    for part in (browser.slider, browser.window, browser.opacity, *browser.organs.values()):
        part.observe(lambda _: browser.redraw(), "value")
    columns = len(browser.scan.columns)
    titles = "".join(f"<span>{title}</span>" for title in browser.scan.columns)
    pictures = parts.VBox(
        [
            parts.HTML(f'<div style="display:grid;grid-template-columns:repeat({columns},1fr)">{titles}</div>'),
            browser.picture,
        ],
        layout=parts.Layout(flex="1 1 auto", max_width=f"{1.25 * columns * View.panel_pixels:.0f}px", min_width="0"),
    )
    wrapped = parts.Layout(flex_flow="row wrap", max_height="9em", overflow="auto")
    browser.box.children = [
        parts.HBox([browser.plane, browser.slider, browser.place], layout=parts.Layout(flex_flow="row wrap")),
        parts.HBox([pictures, browser.table]),
        parts.HTML(_legend() if columns == 4 else ""),
        parts.HBox([*switches, *browser.organs.values()] if browser.organs else [], layout=wrapped),
        parts.HBox([browser.window, browser.opacity], layout=parts.Layout(flex_flow="row wrap")),
    ]


def load_scan(
    ct: Scan,
    labels: Scan | None = None,
    *,
    truth: Scan | Source | None = None,
    names: Mapping[int, str] | None = None,
    annotated: Collection[str] | None = None,
) -> LabelledScan:
    """Read what is to be looked at, and turn it to axial order; arguments and errors as in ``browse``."""
    ct, known, told = _read(ct), None, None
    if names is None and isinstance(labels, Path | str) and isinstance(truth, Path | str | Source):
        task = Task(case_name(Path(labels)), Path(labels), truth if isinstance(truth, Source) else Path(truth))
        pair, _ = match(task)
        given, predicted, names, told = pair.truth, pair.prediction, pair.space.labels, pair.annotated
        known = None if pair.known is None else _turned(ct, with_voxels(pair.truth, pair.known), "truth")
    else:
        given = read_labels(truth) if isinstance(truth, Source) else None if truth is None else _read(truth)
        predicted = None if labels is None else _read(labels)
        if names is None:
            names, told = _names(truth, labels)
    return LabelledScan(
        to_axial(ct)[0],
        None if given is None else _turned(ct, _labels(given, "truth"), "truth"),
        None if predicted is None else _turned(ct, _labels(predicted, "labels"), "labels"),
        {label: organ_name(organ) for label, organ in names.items()},
        told if annotated is None else [organ_name(organ) for organ in annotated],
        known,
    )


def _read(scan: Scan) -> Volume:
    return scan if isinstance(scan, Volume) else nifti.read(scan)


def _names(truth: Scan | Source | None, labels: Scan | None) -> tuple[Mapping[int, str], tuple[str, ...] | None]:
    """Find the names of the only label map, and, if that is the truth, what it annotates."""
    if truth is None and labels is None:
        return {}, None
    if isinstance(truth, Source) and labels is None:
        return dict(truth.organs), truth.annotated
    file = labels if truth is None else truth
    if (truth is not None and labels is not None) or not isinstance(file, Path | str):
        raise SettingError(
            'nothing names the labels. Say names={1: "liver", ...}, or give the files instead of arrays.'
        )
    found = label_names(Path(file))
    return found.labels, None if truth is None else found.annotated


def _labels(volume: Volume, what: str) -> Volume:
    """Give labels as uint8.

    Raises:
        LabelError: They are none, or too many.
    """
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    if not (low >= 0 and high <= LARGEST_LABEL):
        raise LabelError(
            f"the {what}: holds values from {low:g} to {high:g}, but labels here are 0 to {LARGEST_LABEL}. Is it a scan?"
        )
    whole = volume.voxels.astype(np.uint8, copy=False)
    if not np.array_equal(whole, volume.voxels):
        raise LabelError(f"the {what}: holds fractions, which are no labels. Resample it with nearest neighbours.")
    return with_voxels(volume, whole)


def _turned(ct: Volume, volume: Volume, what: str) -> Shaped[np.ndarray, "z y x"]:
    """Give a volume's voxels in the scan's axial order."""
    require_same_grid(ct, volume, where="browse", names=("scan", what))
    return axial_turn(ct.affine).apply(volume.voxels)


def slice_scores(
    truth: Integer[np.ndarray, "y x"],
    prediction: Integer[np.ndarray, "rows columns"],
    organs: Mapping[int, str],
    *,
    annotated: Collection[str] | None = None,
) -> dict[str, Overlap]:
    """Score one slice.

    This is how good the slice looks, not how good the case is: scores of a case count the voxels of all its slices together.

    Args:
        truth: True labels, 0 to 255.
        prediction: Predicted labels, same values.
        organs: {label: organ}.
        annotated: Organs that the truth annotates; None: all. Others get no score.

    Returns:
        {organ: overlap}; Dice and IoU are NaN where neither shows the organ, 0 where only one does.

    Raises:
        GeometryError: The slices differ in size.

    Example:
        >>> truth, prediction = np.array([[1, 1, 0]], np.uint8), np.array([[1, 0, 0]], np.uint8)
        >>> found = slice_scores(truth, prediction, {1: "liver"})["liver"]
        >>> round(found.dice, 3), found.iou
        (0.667, 0.5)
    """
    classes = max(*organs, int(truth.max(initial=0)), int(prediction.max(initial=0)), 0) + 1
    counts = confusion(truth.astype(np.uint8, copy=False), prediction.astype(np.uint8, copy=False), classes)
    return {organ: overlap(counts, label) for label, organ in organs.items() if annotated is None or organ in annotated}


def score_table(scan: LabelledScan, view: View) -> str:
    """Give an HTML table of the organs on a slice: their Dice and IoU where there is a truth to compare with, else areas."""
    maps = [scan.cut(labels, view.plane, view.index) for labels in scan.maps.values()]
    on_slice = {int(label) for one in maps for label in np.unique(one)}
    organs = {
        label: organ
        for label, organ in scan.organs.items()
        if label in on_slice and (view.shown is None or label in view.shown)
    }
    if not organs:
        return "<i>no organ on this slice</i>" if maps else ""
    if len(maps) == 1:
        pixel_cm2 = math.prod(mm for axis, mm in enumerate(scan.ct.spacing_mm) if PLANES[axis] != view.plane) / 100
        areas = {label: f"{np.count_nonzero(maps[0] == label) * pixel_cm2:.1f}" for label in organs}
        return _table(("organ", "cm²"), [(_swatch(organs[label]), area) for label, area in areas.items()])
    if scan.known is not None:
        maps = [labels * scan.cut(scan.known, view.plane, view.index) for labels in maps]
    scores = slice_scores(maps[0], maps[1], organs, annotated=scan.annotated)
    rows = [(_swatch(organ), *_numbers(scores.get(organ))) for organ in organs.values()]
    judged = [score for score in scores.values() if not math.isnan(score.dice)]
    if len(judged) > 1:
        dice, iou = (float(np.mean([getattr(score, name) for score in judged])) for name in ("dice", "iou"))
        rows.append(("<b>mean</b>", f"<b>{dice:.3f}</b>", f"<b>{iou:.3f}</b>"))
    return _table(("organ", "Dice", "IoU"), rows)


def _numbers(score: Overlap | None) -> tuple[str, str]:
    """Give the cells of an organ; None stands for one that is not annotated."""
    if score is None:
        return "not annotated", ""
    return ("-", "-") if math.isnan(score.dice) else (f"{score.dice:.3f}", f"{score.iou:.3f}")


def png(image: UInt8[np.ndarray, "rows columns 3"]) -> bytes:
    """Encode an RGB picture as PNG, lightly: it travels no farther than to the browser."""
    return cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _windows(first: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """Give the choices of windows, among them the one that is seen first."""
    windows = {f"{name.lower()} ({low} to {high} HU)": (float(low), float(high)) for name, low, high in WINDOWS_HU}
    low, high = first
    if not low < high:
        raise SettingError(
            f"window_hu {low:g}..{high:g} HU is empty. The first value is black, the second, higher one, white."
        )
    return windows if first in windows.values() else {f"{low:g} to {high:g} HU": first} | windows


def _swatch(name: str, tint: RGB | None = None) -> str:
    """Give a name as HTML, with a patch of its colour before it: the organ's, unless another one is given."""
    red, green, blue = colour(name) if tint is None else tint
    return f'<span style="color:rgb({red},{green},{blue})">&#9632;</span> {html.escape(readable(name))}'


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Give an HTML table; the cells are HTML already."""
    cell = "text-align:{};padding:0 0 0 {}"
    styles = [cell.format("left", 0), *[cell.format("right", "1em")] * (len(columns) - 1)]
    lines = [
        "".join(f'<{tag} style="{style}">{text}</{tag}>' for style, text in zip(styles, row, strict=True))
        for tag, row in (("th", columns), *(("td", row) for row in rows))
    ]
    return f'<table style="line-height:1.5">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def _legend() -> str:
    """Say what the colours of the agreement mean."""
    return " &nbsp; ".join(_swatch(name, AGREEMENT_COLOURS[code]) for code, name in AGREEMENT_NAMES.items())
