"""The notebook's viewer without a notebook: its parts are moved by program, and what they show is read back."""

import inspect
import json
import math
import re
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from viscera.colours import colour
from viscera.datasets.sources import Source
from viscera.errors import GeometryError, LabelError, SettingError
from viscera.figures.pictures import AGREEMENT_COLOURS, MISSED, UNJUDGED
from viscera.figures.side_by_side import GAP, LabelledScan, View, picture
from viscera.io import nifti
from viscera.reports.notebook import browse, load_scan, score_table, slice_scores
from viscera.volume import Turn, Volume, turn_volume

NAMES = {1: "liver", 2: "spleen"}
AXIAL = np.array([[0, 0, -4.0, 60], [0, -4.0, 0, 60], [10.0, 0, 0, -50], [0, 0, 0, 1]])  # feet to head, front to back


def patient() -> tuple[Volume, Volume, Volume]:
    """Give CT, truth and prediction, 6 slices of 32x40: slices 1 to 4 show the liver (right), 2 and 3 the spleen (left).

    The prediction lacks half of the liver in slice 3 and all of the spleen in slice 2. The head's slice is the brightest.
    """
    ct = np.full((6, 32, 40), -1000, np.int16)
    ct[:, 2:30, 2:38] = np.arange(0, 120, 20)[:, None, None]
    truth = np.zeros(ct.shape, np.uint8)
    truth[1:5, 8:16, 6:14] = 1
    truth[2:4, 18:24, 28:34] = 2
    found = truth.copy()
    found[3, 12:16, 6:14] = 0
    found[2][found[2] == 2] = 0
    return Volume(ct, AXIAL), Volume(truth, AXIAL), Volume(found, AXIAL)


def pixels(viewer) -> np.ndarray:
    """Decode what the viewer shows, as RGB."""
    image = cv2.imdecode(np.frombuffer(viewer.picture.value, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1]


def rows(viewer) -> dict[str, list[str]]:
    """Read the table."""
    lines = re.findall("<tr>(.*?)</tr>", viewer.table.value)
    cells = [
        [re.sub("<[^>]+>|&#9632;", "", cell).strip() for cell in re.findall("<td.*?</td>", line)] for line in lines
    ]
    return {line[0]: line[1:] for line in cells if line}


def shows(image: np.ndarray, tint: tuple[int, int, int]) -> bool:
    return bool((image == tint).all(axis=2).any())


@pytest.fixture
def viewer():
    ct, truth, found = patient()
    return browse(ct, found, truth=truth, names=NAMES)


def test_moving_the_slider_shows_another_slice_with_its_scores(viewer):
    viewer.slider.value = 2
    before = viewer.picture.value
    # The liver is right; of the spleen nothing was found.
    assert rows(viewer) == {"liver": ["1.000", "1.000"], "spleen": ["0.000", "0.000"], "mean": ["0.500", "0.500"]}
    viewer.slider.value = 3
    # Half of the liver: 2 * 32 / (64 + 32) and 32 / 64. The spleen is right.
    assert rows(viewer) == {"liver": ["0.667", "0.500"], "spleen": ["1.000", "1.000"], "mean": ["0.833", "0.750"]}
    assert viewer.picture.value != before
    assert viewer.place.value == "z = -20 mm"
    viewer.slider.value = 0
    assert "no organ" in viewer.table.value


def test_the_last_slice_is_the_head_and_the_first_one_seen_has_most_labels(viewer):
    assert viewer.slider.value == 2  # the first of the two that show both organs
    viewer.slider.value = viewer.slider.max
    assert viewer.slider.max == 5
    assert np.bincount(pixels(viewer)[:, :, 0].ravel()).argmax() == round((100 + 160) / 400 * 255)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_turned_and_flipped_copies_of_a_scan_give_the_same_picture(plane):
    volumes = patient()
    shown = []
    for turn in (
        Turn((0, 1, 2), (False, False, False)),
        Turn((2, 0, 1), (True, False, True)),
        Turn((1, 2, 0), (False, True, True)),
    ):
        ct, truth, found = (turn_volume(volume, turn) for volume in volumes)
        shown.append(browse(ct, found, truth=truth, names=NAMES, plane=plane).picture.value)
    assert shown[0] == shown[1] == shown[2]


def test_the_liver_is_on_the_left_and_pictures_have_true_proportions(viewer):
    image = pixels(viewer)
    width = (image.shape[1] - 3 * GAP) // 4
    truth = image[:, width + GAP : 2 * width + GAP]
    liver, spleen = (np.argwhere((truth == colour(organ)).all(axis=2))[:, 1] for organ in ("liver", "spleen"))
    assert liver.max() < width / 2 < spleen.min()
    viewer.plane.value = "coronal"
    assert viewer.slider.max == 31
    image = pixels(viewer)
    liver = np.argwhere((image[:, width + GAP : 2 * width + GAP] == colour("liver")).all(axis=2))
    across, down = np.ptp(liver[:, 1]) + 1, np.ptp(liver[:, 0]) + 1
    assert down / across == pytest.approx(4 * 10 / (8 * 4), rel=0.05)  # slices of 10 mm, voxels of 4 mm


def test_upright_slices_have_the_head_on_top(viewer):
    viewer.plane.value = "sagittal"
    panel = pixels(viewer)[:, : (pixels(viewer).shape[1] - 3 * GAP) // 4]
    column = panel[:, panel.shape[1] // 2, 0].astype(int)
    assert column[5] > column[-40]


def test_an_organ_that_is_switched_off_is_neither_painted_nor_compared(viewer):
    assert shows(pixels(viewer), colour("spleen"))
    assert shows(pixels(viewer), AGREEMENT_COLOURS[MISSED])
    viewer.organs[2].value = False
    assert not shows(pixels(viewer), colour("spleen"))
    assert not shows(pixels(viewer), AGREEMENT_COLOURS[MISSED])
    assert list(rows(viewer)) == ["liver"]
    nothing, everything = viewer.box.children[3].children[1], viewer.box.children[3].children[0]
    nothing.click()
    assert not shows(pixels(viewer), colour("liver"))
    everything.click()
    assert shows(pixels(viewer), colour("spleen"))


def test_window_and_opacity_change_the_picture(viewer):
    seen = {viewer.picture.value}
    for name in ("lung", "bone", "liver"):
        viewer.window.label = next(label for label, _ in viewer.window.options.items() if label.startswith(name))
        seen.add(viewer.picture.value)
    viewer.opacity.value = 1.0
    seen.add(viewer.picture.value)
    assert len(seen) == 5


def test_a_window_of_one_s_own_is_the_first_choice():
    ct, _, found = patient()
    assert browse(ct, found, names=NAMES, window_hu=(0.0, 100.0)).window.value == (0.0, 100.0)


def test_an_organ_that_the_truth_does_not_annotate_is_neither_right_nor_wrong():
    ct, truth, found = patient()
    truth = replace(truth, voxels=np.where(truth.voxels == 2, 0, truth.voxels))
    viewer = browse(ct, found, truth=truth, names=NAMES, annotated=["Liver"])
    viewer.slider.value = 3
    assert rows(viewer) == {"liver": ["0.667", "0.500"], "spleen": ["not annotated", ""]}
    assert shows(pixels(viewer), AGREEMENT_COLOURS[UNJUDGED])


def test_unknown_voxels_of_the_truth_count_for_nothing():
    ct, truth, found = patient()
    known = np.ones(ct.shape, bool)
    known[3, 12:16] = False  # just where the prediction lacks the liver
    scan = LabelledScan(ct, truth.voxels, found.voxels, NAMES, known=known)
    assert ">1.000<" in score_table(scan, View(index=3))
    assert "0.667" not in score_table(scan, View(index=3))
    everywhere = LabelledScan(ct, np.zeros_like(truth.voxels), found.voxels, NAMES, known=np.zeros(ct.shape, bool))
    assert shows(picture(everywhere, View(index=3)), AGREEMENT_COLOURS[UNJUDGED])


def test_one_label_map_alone_has_areas_instead_of_scores():
    ct, truth, _ = patient()
    viewer = browse(ct, truth, names=NAMES)
    assert rows(viewer) == {"liver": ["10.2"], "spleen": ["5.8"]}  # 64 and 36 pixels of 0.16 cm2
    assert viewer.scan.columns == ("CT", "prediction")
    assert browse(ct, truth=truth, names=NAMES).scan.columns == ("CT", "truth")


def test_a_scan_without_labels_and_an_empty_prediction_are_shown():
    ct, truth, _ = patient()
    alone = browse(ct)
    assert (alone.scan.columns, alone.table.value, alone.slider.value) == (("CT",), "", 3)
    empty = browse(ct, replace(truth, voxels=np.zeros_like(truth.voxels)), truth=truth, names=NAMES)
    assert rows(empty)["liver"] == ["0.000", "0.000"]


def test_labels_without_a_name_are_shown_by_their_number():
    ct, truth, _ = patient()
    assert list(rows(browse(ct, truth, names={1: "liver"}))) == ["liver", "label 2"]


def test_files_that_number_their_organs_otherwise_are_matched_by_name(tmp_path):
    ct, truth, found = patient()
    for name, volume, labels in (("truth", truth, NAMES), ("found", found, {7: "liver", 9: "spleen"})):
        values = np.array([0, *labels])[volume.voxels].astype(np.uint8)
        nifti.write(tmp_path / f"{name}.nii.gz", Volume(values, AXIAL))
        (tmp_path / f"{name}.json").write_text(json.dumps({"labels": labels}))
    nifti.write(tmp_path / "ct.nii.gz", ct)
    files = str(tmp_path / "ct.nii.gz"), tmp_path / "found.nii.gz", str(tmp_path / "truth.nii.gz")
    viewer = browse(files[0], files[1], truth=files[2])
    viewer.slider.value = 3
    assert rows(viewer)["liver"] == ["0.667", "0.500"]
    assert list(rows(browse(files[0], files[1]))) == ["liver", "spleen"]


def test_the_truth_may_be_a_case_of_a_data_set(tmp_path):
    ct, truth, _ = patient()
    nifti.write(tmp_path / "labels.nii.gz", truth)
    source = Source(
        "a", "a", "a", tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz", ((1, "liver"), (2, "spleen")), ("liver",)
    )
    scan = load_scan(ct, truth=source)
    assert (scan.organs, tuple(scan.annotated or ())) == (NAMES, ("liver",))
    (tmp_path / "found.json").write_text(json.dumps({"labels": {7: "liver"}}))
    nifti.write(tmp_path / "found.nii.gz", Volume((truth.voxels == 1) * np.uint8(7), AXIAL))
    viewer = browse(ct, tmp_path / "found.nii.gz", truth=source)
    assert rows(viewer) == {"liver": ["1.000", "1.000"]}


def test_a_notebook_is_given_the_widget(viewer):
    assert "application/vnd.jupyter.widget-view+json" in viewer._repr_mimebundle_()


def test_slice_scores_are_dice_and_iou_of_each_annotated_organ():
    truth = np.array([[1, 1, 1, 0, 0, 3]], np.uint8)
    prediction = np.array([[1, 1, 0, 2, 0, 3]], np.uint8)
    organs = {1: "liver", 2: "spleen", 3: "kidney", 4: "pancreas"}
    found = slice_scores(truth, prediction, organs, annotated=("liver", "spleen", "pancreas"))
    assert list(found) == ["liver", "spleen", "pancreas"]
    assert (found["liver"].dice, found["liver"].iou) == (pytest.approx(4 / 5), pytest.approx(2 / 3))
    assert (found["spleen"].dice, found["spleen"].iou) == (0, 0)
    assert math.isnan(found["pancreas"].dice)


def test_slices_of_different_size_are_not_scored():
    with pytest.raises(GeometryError):
        slice_scores(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), NAMES)


def test_without_ipywidgets_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(SettingError, match=re.escape('pip install "viscera[notebook]"')):
        browse(patient()[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"names": None}, SettingError, "nothing names the labels"),
        ({"window_hu": (100.0, 0.0)}, SettingError, r"100\.\.0 HU is empty"),
        ({"labels": patient()[0]}, LabelError, "values from -1000 to 100.*Is it a scan"),
        ({"labels": Volume(np.full((6, 32, 40), 0.5), AXIAL)}, LabelError, "fractions"),
        ({"labels": Volume(np.zeros((6, 32, 39), np.uint8), AXIAL)}, GeometryError, "labels lie on another grid"),
        ({"truth": Volume(np.zeros((6, 32, 40), np.uint8), AXIAL + 1)}, GeometryError, "truth lie on another grid"),
    ],
)
def test_what_cannot_be_shown_is_refused(change, error, message):
    ct, truth, found = patient()
    wanted = {"labels": found, "truth": truth, "names": NAMES} | change
    labels = wanted.pop("labels")
    with pytest.raises(error, match=message):
        browse(ct, labels, **wanted)


def test_another_name_of_a_plane_is_refused():
    unchecked = inspect.unwrap(browse)  # the tests' checker of types would refuse it first
    with pytest.raises(SettingError, match="no plane 'transverse'. Choose one of axial, coronal, sagittal"):
        unchecked(patient()[0], plane="transverse")


def test_a_slice_outside_of_the_scan_is_refused():
    ct, truth, _ = patient()
    scan = load_scan(ct, truth, names=NAMES)
    with pytest.raises(SettingError, match=r"no axial slice 6.*0 to 5"):
        picture(scan, View(index=6))
