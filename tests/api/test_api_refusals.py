"""What the public functions refuse before they read anything, and what they tell as they go."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest

import viscera
from makers import SMALL_AFFINE, nearest_model, nnunet_set
from viscera.api.images import to_volume
from viscera.config import Recipe, ResizedSlices
from viscera.datasets.sources import Source
from viscera.errors import FileError, GeometryError, SettingError
from viscera.io.nifti import GridWarning, write

MODEL = nearest_model((16, 32))
SCAN = viscera.Volume(np.arange(192, dtype=np.int16).reshape(3, 8, 8) - 100, SMALL_AFFINE)
RECIPE = Recipe(label_space="abdomenct1k", preparation=ResizedSlices(size=(16, 16)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: viscera.prepare(out, {"nnunet": out}, recipe=RECIPE, jobs=-1), "must not be negative, got -1 and 0"),
        (lambda out: viscera.prepare(out, {}, recipe=RECIPE), "data names no data set"),
        (lambda out: viscera.synthesize(out, cases=0), "cases must be at least 1"),
        (lambda out: viscera.synthesize(out, shape=(15, 64, 64)), "shape at least 16 along each axis"),
        (lambda out: viscera.predict([], out, model=MODEL), "the list of scans is empty"),
        (lambda out: viscera.predict(["a/ct.nii.gz", "b/ct.nii"], out, model=MODEL), "would both become ct.nii.gz"),
        (lambda out: viscera.predict(["a.nii"], out, model=MODEL, organs=("all", "liver")), "'all' leaves none to be named"),
        (lambda out: viscera.evaluate(out, out, mode="slices", tolerance_mm=1.0), "surfaces, which mode 'slices' does not"),
        (lambda out: viscera.evaluate(out, out, jobs=-1), "jobs must not be negative, got -1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_before_anything_is_written(call, message, tmp_path):
    with pytest.raises(SettingError, match=message):
        call(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_of_label_names_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileError, match="names.json: no such file"):
        viscera.evaluate(tmp_path, tmp_path, labels=tmp_path / "names.json")


def test_progress_is_told_case_by_case_and_what_is_left_out_is_warned_of(tmp_path):
    folder, told = nnunet_set(tmp_path / "set", {"one": 1, "two": 2, "three": 3}), []
    (folder / "imagesTr" / "two_0000.nii.gz").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"^1 of 3 .*The first: two"):
        found = viscera.prepare(
            tmp_path / "store",
            {"nnunet": folder},
            recipe=RECIPE,
            jobs=1,
            progress=lambda done, of: told.append((done, of)),
        )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert len(found.prepared) == 2


def test_evaluating_tells_progress_and_comparing_needs_a_known_score_and_a_common_case(tmp_path):
    folder, told = nnunet_set(tmp_path / "set", {"one": 1, "two": 2}), []
    labels = folder / "labelsTr"
    names = tmp_path / "names.json"
    names.write_text('{"labels": {"0": "background", "1": "liver", "2": "spleen"}}')
    scores = viscera.evaluate(labels, labels, labels=names, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)]
    assert {row.values["dice"] for row in scores.scores} == {1.0}
    with pytest.raises(SettingError, match="no score is called 'dise'. Did you mean 'dice'"):
        viscera.compare(scores, scores, metric="dise")
    other = replace(scores, scores=tuple(replace(row, case=f"other {row.case}") for row in scores.scores))
    with pytest.raises(SettingError, match="no case in common"):
        viscera.compare(scores, other)


def test_the_only_scan_that_fails_raises_and_one_of_two_is_reported(tmp_path):
    good, bad = tmp_path / "good.nii.gz", tmp_path / "bad.nii.gz"
    write(good, SCAN)
    bad.write_bytes(b"no image")
    with pytest.raises(viscera.errors.VisceraError, match="bad.nii.gz"):
        viscera.predict([bad], tmp_path / "one", model=MODEL)
    case = Source("p7", "set", "p7", good, None, (), ())
    with pytest.warns(UserWarning, match="1 of 2 scans could not be segmented. The first: bad.nii.gz"):
        found = viscera.predict([case, bad], tmp_path / "two", model=MODEL)
    assert [path.name for path in found.labels] == ["p7.nii.gz"]
    assert list(found.problems) == [bad]


def test_an_image_of_another_format_is_taken_by_its_array_and_affine():
    voxels, affine = np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([1.0, 2.0, 3.0, 1.0])
    image = nibabel.spatialimages.SpatialImage(voxels, affine)
    found = to_volume(image)
    assert np.array_equal(found.voxels, voxels.T)
    assert np.allclose(found.spacing_mm, (3, 2, 1))


def test_a_doubtful_header_of_an_image_in_memory_is_warned_of():
    image = nibabel.Nifti1Image(np.zeros((8, 8, 4), np.int16), np.diag([1.0, 1, 2, 1]))
    image.header.set_qform(np.diag([1.0, 1, 3, 1]), code=1)
    image.header.set_sform(np.diag([1.0, 1, 2, 1]), code=1)
    with pytest.warns(GridWarning):
        to_volume(image)


@pytest.mark.parametrize("affine", ["no numbers", None, [[1, 2], [3]]])
def test_an_affine_that_is_no_matrix_is_refused(affine):
    with pytest.raises(GeometryError, match="affine"):
        viscera.segment((np.zeros((8, 8, 4), np.int16), affine), MODEL)


def test_a_scan_of_impossible_extent_is_refused_as_the_image():
    with pytest.raises(GeometryError, match="image"):
        viscera.segment((np.zeros((8, 8, 4), np.int16), np.diag([1e4, 1, 1, 1])), MODEL)
