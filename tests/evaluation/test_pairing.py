"""Which file is the prediction of which truth; predictions in another order of axes, almost whole, or without names."""

import json

import nibabel
import numpy as np
import pytest

from viscera.datasets.layouts import find_sources
from viscera.datasets.sources import Source
from viscera.errors import FileError, GeometryError, LabelError
from viscera.evaluation.evaluate import evaluate, evaluate_pair
from viscera.evaluation.pairing import ScoringJob, find_jobs, match
from viscera.io import nifti
from viscera.volume import Volume

AFFINE = np.array([[0, 0, 2.0, 5], [0, 1.0, 0, -7], [3.0, 0, 0, 11], [0, 0, 0, 1]])
NAMES = {"1": "liver", "2": "spleen"}


def boxes():
    """A liver of 4x6x5 voxels and a spleen of 2x2x2."""
    voxels = np.zeros((8, 14, 20), np.uint8)
    voxels[2:6, 4:10, 3:8] = 1
    voxels[3:5, 2:4, 15:17] = 2
    return voxels


def save(path, voxels=None, names=NAMES, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(path, Volume(boxes() if voxels is None else voxels, affine))
    if names is not None:
        path.with_name(nifti.stem(path) + ".json").write_text(json.dumps({"labels": names}))
    return path


def folders(tmp_path, truths, predictions):
    """Make empty files of these names: finding opens none."""
    for folder, names in (("T", truths), ("P", predictions)):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in names:
            (tmp_path / folder / name).touch()
    return tmp_path / "T", tmp_path / "P"


def found(tmp_path, truths, predictions):
    jobs, problems, notes = find_jobs(*folders(tmp_path, truths, predictions))
    return {job.case: job.prediction.name for job in jobs}, {row.case: row.what for row in problems}, notes


# Which file belongs to which truth


@pytest.mark.parametrize("rival", ["case1_seg", "case1_0000", "case1_label", "case1_prediction", "case10", "case"])
def test_the_file_of_the_exact_name_wins(tmp_path, rival):
    jobs, problems, notes = found(tmp_path, ["case1.nii.gz"], ["case1.nii.gz", f"{rival}.nii.gz"])
    assert jobs == {"case1": "case1.nii.gz"}
    assert problems == {}
    assert notes == (f"1 predictions without truth, not scored: {rival}.nii.gz",)


def test_two_files_that_may_be_meant_are_a_problem_that_names_them(tmp_path):
    truths = ["a.nii.gz", "b.nii.gz"]
    jobs, problems, _ = found(tmp_path, truths, ["a_seg.nii.gz", "a_label.nii.gz", "b.nii.gz"])
    assert jobs == {"b": "b.nii.gz"}
    assert problems == {"a": "2 files may be its prediction: a_label.nii.gz, a_seg.nii.gz"}


def test_nothing_but_candidates_that_may_be_meant_is_a_problem_and_not_an_error(tmp_path):
    jobs, problems, _ = found(tmp_path, ["a.nii.gz"], ["a_seg.nii.gz", "a_label.nii.gz"])
    assert jobs == {}
    assert list(problems) == ["a"]


def test_twins_of_both_endings_are_a_problem_on_either_side(tmp_path):
    jobs, problems, _ = found(tmp_path, ["a.nii.gz", "b.nii", "b.nii.gz"], ["a.nii", "a.nii.gz", "b.nii"])
    assert jobs == {}
    assert problems == {
        "a": "2 files may be its prediction: a.nii, a.nii.gz",
        "b": "2 files of one truth: b.nii, b.nii.gz",
    }


def test_names_that_begin_alike_are_not_mixed_up(tmp_path):
    truths = ["case1.nii.gz", "case10.nii.gz", "case1_seg.nii.gz", "case1_0000.nii.gz"]
    jobs, problems, _ = found(tmp_path, truths, truths)
    assert jobs == {name.removesuffix(".nii.gz"): name for name in truths}
    assert problems == {}


def test_truths_of_one_case_are_told_apart_and_share_no_prediction(tmp_path):
    jobs, problems, _ = found(tmp_path, ["x.nii.gz", "x_label.nii.gz"], ["x.nii.gz"])
    assert jobs == {"x": "x.nii.gz"}
    assert problems == {"x_label": "no prediction"}


def test_a_file_that_another_truth_has_by_its_exact_name_is_no_candidate(tmp_path):
    jobs, problems, _ = found(tmp_path, ["a.nii.gz", "a_label_seg.nii.gz"], ["a_label_seg.nii.gz", "a_label.nii.gz"])
    assert jobs == {"a": "a_label.nii.gz", "a_label": "a_label_seg.nii.gz"}
    assert problems == {}


def test_folders_in_the_folder_of_predictions_are_not_searched_and_the_case_counts_as_missing(tmp_path):
    truth, prediction = folders(tmp_path, ["a.nii.gz", "b.nii.gz"], ["a.nii.gz"])
    (prediction / "b").mkdir()
    (prediction / "b" / "b.nii.gz").touch()
    jobs, problems, _ = find_jobs(truth, prediction)
    assert [job.case for job in jobs] == ["a"]
    assert [(row.case, row.what) for row in problems] == [("b", "no prediction")]


def test_an_organ_that_is_missed_counts_and_a_case_without_prediction_is_a_problem(tmp_path):
    for case in "abc":
        save(tmp_path / "T" / f"{case}.nii.gz")
    save(tmp_path / "P" / "a.nii.gz")
    save(tmp_path / "P" / "b.nii.gz", np.zeros_like(boxes()))
    result = evaluate(tmp_path / "T", tmp_path / "P")
    assert {row.case for row in result.problems} == {"c"}
    assert {row.organ: row.mean for row in result.summary if row.metric == "dice"} == {
        "liver": 0.5,
        "spleen": 0.5,
        "mean": 0.5,
    }


def source(tmp_path, dataset, name, **more):
    facts = {
        "name": name,
        "dataset": dataset,
        "patient": name,
        "image": tmp_path / dataset / "images" / f"{name}_0000.nii.gz",
        "labels": tmp_path / dataset / "labels" / f"{name}.nii.gz",
        "organs": ((1, "liver"), (2, "spleen")),
        "annotated": ("liver", "spleen"),
    }
    return Source(**(facts | more))


def test_cases_of_one_name_in_two_data_sets_are_told_apart(tmp_path):
    cases = [source(tmp_path, which, name) for which in ("one", "two") for name in ("c1", "c2")]
    folders(tmp_path, [], ["one__c1.nii.gz", "one__c2.nii.gz", "two__c1.nii.gz", "c2.nii.gz"])
    jobs, problems, notes = find_jobs(cases, tmp_path / "P")
    assert [(job.case, job.patient, job.prediction.name) for job in jobs] == [
        ("one__c1", "one/c1", "one__c1.nii.gz"),
        ("one__c2", "one/c2", "one__c2.nii.gz"),
        ("two__c1", "two/c1", "two__c1.nii.gz"),
    ]
    assert [(row.case, row.what) for row in problems] == [("two__c2", "no prediction")]
    assert notes == ("1 predictions without truth, not scored: c2.nii.gz",)


def test_cases_that_cannot_be_told_apart_are_problems(tmp_path):
    folders(tmp_path, [], ["c1.nii.gz", "c2.nii.gz"])
    cases = [source(tmp_path, "one", "c1"), source(tmp_path / "elsewhere", "one", "c1"), source(tmp_path, "one", "c2")]
    jobs, problems, _ = find_jobs(cases, tmp_path / "P")
    assert [job.case for job in jobs] == ["c2"]
    assert [row.what for row in problems] == ["2 cases have this name"] * 2


def test_truth_that_is_its_own_prediction_is_said(tmp_path):
    truth, _ = folders(tmp_path, ["a.nii.gz", "b.nii.gz"], [])
    (tmp_path / "link").symlink_to(truth)
    assert find_jobs(truth, tmp_path / "link")[2] == (
        "2 predictions are the truth's own files, so their scores say nothing",
    )
    assert find_jobs(truth / "a.nii.gz", truth / "b.nii.gz")[2] == ()


def test_nothing_that_belongs_to_a_truth_is_an_error(tmp_path):
    with pytest.raises(FileError, match="belongs to any of the 1 truths: expected names like a.nii.gz, found z.nii.gz"):
        found(tmp_path, ["a.nii.gz"], ["z.nii.gz"])


# Another order of axes


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize(
    "flips", [(False, False, False), (True, False, False), (False, True, True), (True, True, True)]
)
def test_a_prediction_in_another_order_of_axes_is_turned_without_loss_and_said_to_be(tmp_path, axes, flips):
    angle = np.deg2rad(20)
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    grid = tilt @ AFFINE
    step = np.zeros((4, 4))
    step[3, 3] = 1
    voxels = boxes().transpose(axes)
    for axis, (origin, flip) in enumerate(zip(axes, flips, strict=True)):
        step[origin, axis] = -1 if flip else 1
        step[origin, 3] = boxes().shape[origin] - 1 if flip else 0
        voxels = np.flip(voxels, axis) if flip else voxels
    truth = save(tmp_path / "T" / "a.nii.gz", affine=grid)
    prediction = save(tmp_path / "P" / "a.nii.gz", voxels, affine=grid @ step)
    pair, notes = match(ScoringJob("a", prediction, truth))
    assert np.array_equal(pair.prediction.voxels, pair.truth.voxels)
    assert np.array_equal(pair.prediction.affine, pair.truth.affine)
    same = axes == (0, 1, 2) and not any(flips)
    assert bool([note for note in notes if "turned without loss" in note]) != same


@pytest.mark.parametrize("change", ["moved", "spacing", "mirrored", "shape", "tilted"])
def test_another_grid_is_refused_with_a_remedy(tmp_path, change):
    affine, voxels = AFFINE.copy(), boxes()
    if change == "moved":
        affine[0, 3] += 2
    elif change == "spacing":
        affine[:, 1] *= 1.01
    elif change == "mirrored":  # the same voxels, said to run the other way: another world
        affine[:3, 2] *= -1
    elif change == "shape":
        voxels = voxels[:, :, 1:]
    else:
        angle = np.deg2rad(2)
        affine[:2, :3] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ affine[:2, :3]
    truth = save(tmp_path / "T" / "a.nii.gz")
    prediction = save(tmp_path / "P" / "a.nii.gz", voxels, affine=affine)
    with pytest.raises(
        GeometryError, match="predicted labels lie on another grid than the truth.*Resample the predicted"
    ):
        match(ScoringJob("a", prediction, truth))


# Almost whole numbers


def test_almost_whole_labels_are_rounded_with_a_note_on_either_side(tmp_path):
    almost = boxes() * np.float32(1 - 1e-6)
    truth, prediction = save(tmp_path / "T" / "a.nii.gz", almost), save(tmp_path / "P" / "a.nii.gz", almost)
    scores, notes = evaluate_pair(truth, prediction)
    assert {score.values["dice"] for score in scores} == {1}
    for side in ("truth", "prediction"):
        assert any(f"the labels of the {side} are not quite whole numbers" in note for note in notes)


def test_almost_whole_labels_of_a_data_set_are_rounded_with_a_note(tmp_path):
    case = source(tmp_path, "one", "c1", labels=save(tmp_path / "T" / "c1.nii.gz", boxes() * np.float32(1 - 1e-6)))
    result = evaluate([case], save(tmp_path / "P" / "c1.nii.gz").parent)
    assert {score.values["dice"] for score in result.scores} == {1}
    assert any("the labels of the truth are not quite whole numbers" in note for note in result.notes)


def test_organs_of_almost_whole_labels_count_as_annotated_in_flare(tmp_path):
    nifti.write(tmp_path / "imagesTr" / "c_0000.nii.gz", Volume(np.zeros((8, 14, 20), np.int16), AFFINE))
    save(tmp_path / "labelsTr" / "c.nii.gz", boxes() * np.float32(1 + 1e-6), None)
    with pytest.warns(UserWarning, match="nothing says which organs"):
        [case], _ = find_sources("flare", tmp_path)
    assert case.annotated == ("liver", "kidney_right")


# Nothing names the prediction's labels


def nnunet(folder, ignore=None):
    labels = {"background": 0, "liver": 1, "spleen": 2} | ({} if ignore is None else {"ignore": ignore})
    facts = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    image = nibabel.Nifti1Image(np.zeros((20, 14, 8), np.int16), AFFINE[:, [2, 1, 0, 3]])
    (folder / "imagesTr").mkdir(parents=True)
    image.to_filename(folder / "imagesTr" / "c_0000.nii.gz")
    save(folder / "labelsTr" / "c.nii.gz", names=None)
    (folder / "dataset.json").write_text(json.dumps(facts))
    return find_sources("nnunet", folder)[0]


def truth_of(kind, folder):
    return nnunet(folder) if kind == "cases" else nnunet(folder) and folder / "labelsTr"


@pytest.mark.parametrize("kind", ["cases", "folder"])
def test_predictions_in_the_data_sets_own_numbering_need_no_names(tmp_path, kind):
    truth = truth_of(kind, tmp_path / "set")
    save(tmp_path / "P" / "c.nii.gz", names=None)
    result = evaluate(truth, tmp_path / "P")
    assert {score.organ: score.values["dice"] for score in result.scores} == {"liver": 1, "spleen": 1}
    assert any("taken for the data set's own numbering" in note for note in result.notes)


@pytest.mark.parametrize("kind", ["cases", "folder"])
def test_a_value_that_the_data_set_does_not_name_needs_names(tmp_path, kind):
    truth = truth_of(kind, tmp_path / "set")
    save(tmp_path / "P" / "c.nii.gz", boxes() * 2, names=None)  # 2 and 4
    [problem] = evaluate(truth, tmp_path / "P").problems
    assert "nothing names the prediction's labels, and it holds 4, which the data set does not name" in problem.what
    assert "--labels" in problem.remedy


def test_names_that_are_given_are_taken_before_the_data_sets(tmp_path):
    swapped = np.array([0, 2, 1], np.uint8)[boxes()]
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"1": "spleen", "2": "liver"}))
    save(tmp_path / "P" / "c.nii.gz", swapped, names=None)
    result = evaluate(nnunet(tmp_path / "set"), tmp_path / "P", labels=names)
    assert {score.values["dice"] for score in result.scores} == {1}
    assert not any("own numbering" in note for note in result.notes)


def test_values_of_the_ignore_label_and_of_masks_name_no_prediction(tmp_path):
    save(tmp_path / "P" / "c.nii.gz", np.where(boxes() == 2, 3, boxes()).astype(np.uint8), names=None)
    [problem] = evaluate(nnunet(tmp_path / "set", ignore=3), tmp_path / "P").problems
    assert "it holds 3" in problem.what
    masks = source(
        tmp_path,
        "ts",
        "c",
        labels=(("liver", save(tmp_path / "m.nii.gz", boxes() == 1, None)),),
        organs=((1, "liver"),),
    )
    with pytest.raises(FileError, match="nothing names its labels"):
        match(ScoringJob("c", tmp_path / "P" / "c.nii.gz", masks))


def test_a_truth_with_names_of_its_own_names_no_prediction(tmp_path):
    truth, prediction = save(tmp_path / "T" / "a.nii.gz"), save(tmp_path / "P" / "a.nii.gz", names=None)
    with pytest.raises((FileError, LabelError), match="nothing names its labels"):
        match(ScoringJob("a", prediction, truth))
