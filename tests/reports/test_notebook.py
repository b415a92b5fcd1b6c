"""The viewer of notebooks without a notebook: what its page holds. What it looks like: test_viewer_browser.py."""

import html
import inspect
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from viscera.datasets.sources import Source
from viscera.errors import FileError, GeometryError, LabelError, SettingError
from viscera.evaluation.metrics import confusion, overlap
from viscera.figures.pictures import MISSED, UNJUDGED
from viscera.io import nifti
from viscera.reports.notebook import notebook_scene, view
from viscera.volume import Turn, Volume, turn_volume

NAMES = {1: "liver", 2: "spleen"}
AXIAL = np.array([[0, 0, -4.0, 60], [0, -4.0, 0, 60], [10.0, 0, 0, -50], [0, 0, 0, 1]])  # feet to head, front to back


def patient() -> tuple[Volume, Volume, Volume]:
    """Return CT, truth and prediction, 6 slices of 32x40: slices 1 to 4 show the liver (right), 2 and 3 the spleen (left).

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


def rows(viewer) -> dict[str, tuple]:
    """Return {organ: (Dice, annotated)} of the page's table."""
    return {row.name: (row.dice, row.annotated) for row in viewer.scene.organs}


def content(viewer) -> dict:
    """Return what the page's script is told."""
    return json.loads(re.search(r'id="scene">(.*?)</script>', viewer.page).group(1))


@pytest.fixture
def viewer():
    ct, truth, found = patient()
    return view(ct, found, truth=truth, names=NAMES)


def test_a_notebook_is_given_the_whole_page_in_a_frame_that_reaches_nothing_else(viewer):
    frame = viewer._repr_html_()
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', frame).group(1)) == viewer.page
    assert 'sandbox="allow-scripts"' in frame
    assert 'height="720"' in frame
    assert 'id="volume-truth"' in viewer.page


def test_scores_of_the_scan_are_those_of_numpy(viewer):
    _, truth, found = patient()
    counts = confusion(truth.voxels, found.voxels, 3)
    assert rows(viewer) == {organ: (pytest.approx(overlap(counts, label).dice), True) for label, organ in NAMES.items()}


def test_the_view_and_the_window_seen_first_are_those_asked_for(viewer):
    assert (content(viewer)["view"], content(viewer)["window"]) == ("all", [-160, 240])
    ct, _, found = patient()
    other = view(ct, found, names=NAMES, plane="coronal", window_hu=(0.0, 100.0))
    assert (content(other)["view"], content(other)["window"]) == ("coronal", [0, 100])
    assert 'id="high" type="number" step="10" value="100.0"' in other.page


def test_turned_and_flipped_copies_of_a_scan_give_the_same_page(viewer):
    for turn in (Turn((2, 0, 1), (True, False, True)), Turn((1, 2, 0), (False, True, True))):
        ct, truth, found = (turn_volume(volume, turn) for volume in patient())
        assert view(ct, found, truth=truth, names=NAMES).page == viewer.page


def test_an_organ_that_the_truth_does_not_annotate_is_neither_right_nor_wrong():
    ct, truth, found = patient()
    truth = replace(truth, voxels=np.where(truth.voxels == 2, 0, truth.voxels))
    viewer = view(ct, found, truth=truth, names=NAMES, annotated=["Liver"])
    assert rows(viewer)["spleen"] == (None, False)
    assert set(np.unique(viewer.scene.layers["agreement"])) == {0, 1, MISSED, UNJUDGED}


def test_one_label_map_alone_has_no_scores():
    ct, truth, _ = patient()
    for viewer in (view(ct, truth, names=NAMES), view(ct, truth=truth, names=NAMES)):
        assert tuple(viewer.scene.layers) == ("prediction",)
        assert rows(viewer) == {"liver": (None, False), "spleen": (None, False)}


def test_a_scan_without_labels_and_an_empty_prediction_are_shown():
    ct, truth, _ = patient()
    assert (view(ct).scene.organs, view(ct).scene.notes) == ((), ())
    empty = view(ct, replace(truth, voxels=np.zeros_like(truth.voxels)), truth=truth, names=NAMES)
    assert rows(empty)["liver"] == (0, True)


def test_labels_without_a_name_are_shown_by_their_number_and_names_may_have_gaps():
    ct, truth, found = patient()
    assert list(rows(view(ct, truth, names={1: "liver"}))) == ["liver", "label_2"]
    far = [replace(one, voxels=one.voxels * np.uint8(100)) for one in (truth, found)]
    assert list(rows(view(ct, far[1], truth=far[0], names={100: "Liver"}))) == ["liver", "label_200"]


def test_files_that_number_their_organs_otherwise_are_matched_by_name(tmp_path, viewer):
    ct, truth, found = patient()
    for name, volume, labels in (("truth", truth, NAMES), ("found", found, {7: "liver", 9: "spleen"})):
        values = np.array([0, *labels])[volume.voxels].astype(np.uint8)
        nifti.write(tmp_path / f"{name}.nii.gz", Volume(values, AXIAL))
        (tmp_path / f"{name}.json").write_text(json.dumps({"labels": labels}))
    nifti.write(tmp_path / "ct.nii.gz", ct)
    files = str(tmp_path / "ct.nii.gz"), tmp_path / "found.nii.gz", str(tmp_path / "truth.nii.gz")
    both = view(files[0], files[1], truth=files[2])
    assert rows(both) == rows(viewer)
    assert both.scene.title == "found"
    assert list(rows(view(files[0], files[1]))) == ["liver", "spleen"]


def test_the_truth_may_be_a_case_of_a_data_set(tmp_path):
    ct, truth, _ = patient()
    nifti.write(tmp_path / "labels.nii.gz", truth)
    source = Source(
        "a", "a", "a", tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz", ((1, "liver"), (2, "spleen")), ("liver",)
    )
    assert [row.name for row in notebook_scene(ct, truth=source).organs] == ["liver", "spleen"]
    (tmp_path / "found.json").write_text(json.dumps({"labels": {7: "liver"}}))
    nifti.write(tmp_path / "found.nii.gz", Volume((truth.voxels == 1) * np.uint8(7), AXIAL))
    assert rows(view(ct, tmp_path / "found.nii.gz", truth=source)) == {"liver": (1, True)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"names": None}, SettingError, "nothing names the labels"),
        ({"window_hu": (100.0, 0.0)}, SettingError, r"100\.\.0 HU is empty"),
        ({"labels": patient()[0]}, LabelError, "values from -1000 to 100.*Is it a scan"),
        ({"labels": Volume(np.full((6, 32, 40), 0.5), AXIAL)}, LabelError, "holds 0.5, but labels are whole numbers"),
        ({"labels": Volume(np.zeros((6, 32, 39), np.uint8), AXIAL)}, GeometryError, "labels lie on another grid"),
        ({"truth": Volume(np.zeros((6, 32, 40), np.uint8), AXIAL + 1)}, GeometryError, "truth lie on another grid"),
        ({"labels": "missing.nii.gz"}, FileError, "missing.nii.gz"),
    ],
)
def test_what_cannot_be_shown_is_refused(change, error, message):
    ct, truth, found = patient()
    wanted = {"labels": found, "truth": truth, "names": NAMES} | change
    labels = wanted.pop("labels")
    with pytest.raises(error, match=message):
        view(ct, labels, **wanted)


def test_another_name_of_a_plane_is_refused():
    unchecked = inspect.unwrap(view)  # the tests' checker of types would refuse it first
    with pytest.raises(SettingError, match="no plane 'transverse'. Choose one of all, axial, coronal, sagittal"):
        unchecked(patient()[0], plane="transverse")
