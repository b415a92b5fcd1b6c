"""Which file is the prediction of which truth; predictions in another order of axes, almost whole, or without names."""

import json

import nibabel
import numpy as np
import pytest

from viscera.datasets.layouts import find_sources
from viscera.datasets.sources import Source
from viscera.errors import FileError, GeometryError, LabelError
from viscera.evaluation.evaluate import evaluate, evaluate_pair
from viscera.evaluation.pairing import ScoringJob, common_space, find_jobs, match
from viscera.io import nifti
from viscera.io.label_names import Names
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


def test_a_truth_with_an_ending_has_the_prediction_of_its_cases_name(tmp_path):
    jobs, problems, notes = found(tmp_path, ["a_label.nii.gz", "b_seg.nii.gz"], ["a.nii.gz", "b_0000.nii.gz"])
    assert jobs == {"a": "a.nii.gz", "b": "b_0000.nii.gz"}
    assert (problems, notes) == ({}, ())


def test_a_prediction_of_the_name_of_another_truths_file_is_that_ones_alone(tmp_path):
    jobs, problems, _ = found(tmp_path, ["a_label.nii.gz", "a_label_seg.nii.gz"], ["a_label.nii.gz"])
    assert jobs == {"a": "a_label.nii.gz"}
    assert problems == {"a_label": "no prediction"}


def test_two_truths_of_one_case_have_no_prediction_in_the_file_of_its_name(tmp_path):
    jobs, problems, notes = found(
        tmp_path, ["x_label.nii.gz", "x_seg.nii.gz", "b.nii.gz"], ["x.nii.gz", "x_0000.nii.gz", "b.nii.gz"]
    )
    assert jobs == {"b": "b.nii.gz"}
    assert problems == {"x_label": "no prediction", "x_seg": "no prediction"}
    assert notes == ("2 predictions without truth, not scored: x.nii.gz, x_0000.nii.gz",)


def test_a_problem_names_its_file_and_what_to_do(tmp_path):
    truth, prediction = folders(
        tmp_path, ["a.nii.gz", "b.nii.gz", "c.nii", "c.nii.gz"], ["b_seg.nii.gz", "b_label.nii.gz"]
    )
    rows = {row.case: (row.file, row.remedy) for row in find_jobs(truth, prediction)[1]}
    assert rows == {
        "a": (str(prediction / "a.nii.gz"), "Segment this case, or name its file a.nii.gz."),
        "b": (str(prediction / "b_label.nii.gz"), "Keep one of them, as b.nii.gz."),
        "c": (str(truth / "c.nii"), "Keep one of them."),
    }


@pytest.mark.parametrize("gone", ["T", "P"])
def test_what_does_not_exist_is_named(tmp_path, gone):
    truth, prediction = folders(tmp_path, [], [])
    (tmp_path / gone).rmdir()
    with pytest.raises(FileError) as caught:
        find_jobs(truth, prediction)
    assert (caught.value.file, caught.value.remedy) == (tmp_path / gone, "Check the path.")
    assert caught.value.what == f"{tmp_path / gone}: no such file or folder"


@pytest.mark.parametrize(
    ("truth", "prediction"), [("T/a.nii.gz", "P"), ("T", "P/a.nii.gz"), ("names.json", "P/a.nii.gz")]
)
def test_a_file_and_a_folder_and_what_is_no_label_map_are_refused(tmp_path, truth, prediction):
    folders(tmp_path, ["a.nii.gz"], ["a.nii.gz"])
    (tmp_path / "names.json").touch()
    with pytest.raises(FileError) as caught:
        find_jobs(tmp_path / truth, tmp_path / prediction)
    assert str(caught.value) == f"{tmp_path / truth} and {tmp_path / prediction}: give two NIfTI files or two folders."


def test_a_folder_or_a_data_set_without_label_maps_is_refused(tmp_path):
    truth, prediction = folders(tmp_path, [], ["a.nii.gz"])
    with pytest.raises(FileError, match=rf"^{truth} holds no label maps\. Check the path\.$"):
        find_jobs(truth, prediction)
    for cases in ([], [source(tmp_path, "one", "a", labels=None)]):
        with pytest.raises(FileError, match=r"^the data set holds no label maps\. Check the path\.$"):
            find_jobs(cases, prediction)


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


def test_one_file_may_be_the_prediction_of_one_case_and_the_others_lack_theirs_beside_it(tmp_path):
    folders(tmp_path, [], ["c1.nii.gz"])
    jobs, problems, notes = find_jobs(
        [source(tmp_path, "one", name) for name in ("c1", "c2")], tmp_path / "P/c1.nii.gz"
    )
    assert [(job.case, job.patient, job.prediction) for job in jobs] == [("c1", "c1", tmp_path / "P" / "c1.nii.gz")]
    assert [(row.case, row.what, row.file) for row in problems] == [
        ("c2", "no prediction", str(tmp_path / "P" / "c2.nii.gz"))
    ]
    assert notes == ()


@pytest.mark.parametrize("name", ["scan_17_0000", "scan_17", "scan_17_seg"])
def test_predictions_may_be_named_after_the_scan(tmp_path, name):
    folders(tmp_path, [], [f"{name}.nii.gz"])
    case = source(tmp_path, "one", "c1", image=tmp_path / "scan_17_0000.nii.gz")
    assert [(job.case, job.prediction.name) for job in find_jobs([case], tmp_path / "P")[0]] == [
        ("c1", f"{name}.nii.gz")
    ]


def test_a_scans_name_that_several_cases_share_or_that_another_case_has_is_no_name_of_a_prediction(tmp_path):
    images = {"c1": "ct", "c2": "ct", "c3": "c4", "c4": "scan_4", "c5": "one__c4", "c6": "c6"}
    cases = [source(tmp_path, "one", name, image=tmp_path / name / f"{image}.nii.gz") for name, image in images.items()]
    folders(tmp_path, [], ["ct.nii.gz", "c4.nii.gz"])
    jobs, problems, notes = find_jobs(cases, tmp_path / "P")
    assert [(job.case, job.prediction.name) for job in jobs] == [("c4", "c4.nii.gz")]
    assert [row.case for row in problems] == ["c1", "c2", "c3", "c5", "c6"]
    assert notes == ("1 predictions without truth, not scored: ct.nii.gz",)
    (tmp_path / "P" / "c4.nii.gz").rename(tmp_path / "P" / "one__c4.nii.gz")
    jobs, _, _ = find_jobs(cases, tmp_path / "P")
    assert [(job.case, job.prediction.name) for job in jobs] == [("c4", "one__c4.nii.gz")]


def test_cases_that_cannot_be_told_apart_are_problems(tmp_path):
    folders(tmp_path, [], ["c1.nii.gz", "c2.nii.gz"])
    cases = [source(tmp_path, "one", "c1"), source(tmp_path / "elsewhere", "one", "c1"), source(tmp_path, "one", "c2")]
    jobs, problems, _ = find_jobs(cases, tmp_path / "P")
    assert [job.case for job in jobs] == ["c2"]
    assert [row.what for row in problems] == ["2 cases have this name"] * 2
    assert [row.file for row in problems] == [str(case.image) for case in cases[:2]]


def test_truth_that_is_its_own_prediction_is_said(tmp_path):
    truth, _ = folders(tmp_path, ["a.nii.gz", "b.nii.gz"], [])
    (tmp_path / "link").symlink_to(truth)
    assert find_jobs(truth, tmp_path / "link")[2] == (
        "2 predictions are the truth's own files, so their scores say nothing",
    )
    assert find_jobs(truth / "a.nii.gz", truth / "b.nii.gz")[2] == ()
    cases = [source(tmp_path, "one", name, labels=truth / f"{name}.nii.gz") for name in "ab"]
    masks = source(tmp_path, "one", "c", labels=(("liver", truth / "b.nii.gz"),))
    (truth / "c.nii.gz").touch()
    assert find_jobs([*cases, masks], truth)[2] == (
        "2 predictions are the truth's own files, so their scores say nothing",
    )


def test_nothing_that_belongs_to_a_truth_is_an_error(tmp_path):
    with pytest.raises(FileError, match="belongs to any of the 1 truths: expected names like a.nii.gz, found z.nii.gz"):
        found(tmp_path, ["a.nii.gz"], ["z.nii.gz"])


# In which space


@pytest.mark.parametrize(
    ("truth", "prediction", "organs"),
    [
        (["liver", "spleen"], ["spleen", "liver"], ["spleen", "liver"]),
        (["liver", "kidney"], ["kidney_left", "liver", "kidney_right"], ["liver", "kidney"]),
        (["kidney"], ["kidney_left", "kidney_right"], ["kidney"]),
        (["kidney"], ["kidney", "kidney_left", "kidney_right"], ["kidney"]),
        (["kidney"], ["kidney_left", "liver"], ["kidney_left", "liver"]),
        (["kidney_left", "kidney_right"], ["kidney_left", "kidney_right"], ["kidney_left", "kidney_right"]),
        (["kidney", "kidney_left"], ["kidney_left", "kidney_right"], ["kidney_left", "kidney_right"]),
        (["liver"], ["kidney_left", "kidney_right"], ["kidney_left", "kidney_right"]),
        (["liver"], ["Liver", "liver"], ["liver"]),
    ],
)
def test_sides_are_merged_where_the_truth_has_the_whole_alone(truth, prediction, organs):
    space = common_space(*(Names(dict(enumerate(names, start=1)), tuple(names)) for names in (truth, prediction)))
    assert (space.name, space.organs) == ("prediction", tuple(organs))


def test_a_prediction_that_names_no_organs_is_refused():
    remedy = r"Give its NAME\.json a \{'labels': \{index: organ\}\}\."
    with pytest.raises(LabelError, match=rf"^the prediction names no organs\. {remedy}$"):
        common_space(Names({1: "liver"}, ("liver",)), Names({}, ()))


def pair_of(tmp_path, truth, prediction, names=NAMES, predicted=NAMES, **more):
    """Match files that are written for it: voxels of truth and prediction, and their names."""
    files = save(tmp_path / "T" / "a.nii.gz", truth, names), save(tmp_path / "P" / "a.nii.gz", prediction, predicted)
    return match(ScoringJob("a", files[1], files[0], **more))


def test_a_pair_of_whole_numbers_on_one_grid_comes_without_a_note(tmp_path):
    pair, notes = pair_of(tmp_path, boxes(), boxes())
    assert notes == ()
    assert (pair.case, pair.patient, pair.known, pair.annotated) == ("a", "a", None, ("liver", "spleen"))


def test_the_patient_is_the_jobs_else_the_data_sets_else_the_case(tmp_path):
    assert pair_of(tmp_path, boxes(), boxes(), patient="p")[0].patient == "p"
    case = source(tmp_path, "one", "c1", labels=save(tmp_path / "T" / "b.nii.gz"), patient="q")
    prediction = save(tmp_path / "P" / "b.nii.gz")
    assert match(ScoringJob("one__c1", prediction, case))[0].patient == "q"
    assert match(ScoringJob("one__c1", prediction, case, "p"))[0].patient == "p"


def test_organs_of_the_prediction_that_the_truth_does_not_annotate_are_told_beside_what_else_is(tmp_path):
    almost = boxes() * np.float32(1 - 1e-6)
    pair, notes = pair_of(tmp_path, np.where(boxes() == 1, almost, 0), boxes(), names={"1": "liver"})
    assert pair.annotated == ("liver",)
    assert len(notes) == 2
    assert "the labels of the truth are not quite whole numbers" in notes[0]
    assert notes[1] == "predicted but not annotated, so not scored: spleen"


def test_truth_and_prediction_without_a_common_organ_are_refused(tmp_path):
    with pytest.raises(LabelError) as caught:
        pair_of(tmp_path, boxes() == 1, boxes(), names={"1": "aorta"})
    assert caught.value.what == "a: truth (aorta) and prediction (liver, spleen) share no organ"
    assert caught.value.remedy == "Correct the names in their label files."


@pytest.mark.parametrize("kind", ["cases", "folder"])
def test_voxels_that_the_truth_ignores_do_not_count(tmp_path, kind):
    voxels = boxes()
    voxels[0, :5] = 3
    truth = truth_of(kind, tmp_path / "set", voxels, ignore=3)
    job = ScoringJob("c", save(tmp_path / "P" / "c.nii.gz"), truth[0] if kind == "cases" else truth / "c.nii.gz")
    pair, _ = match(job)
    assert np.array_equal(pair.known, voxels != 3)
    assert np.array_equal(pair.truth.voxels, boxes())
    assert np.array_equal(pair.prediction.voxels, boxes())


def test_values_that_the_prediction_calls_ignore_are_background(tmp_path):
    voxels = boxes()
    voxels[0, :5] = 3
    pair, _ = pair_of(tmp_path, boxes(), voxels, predicted=NAMES | {"3": "ignore"})
    assert np.array_equal(pair.prediction.voxels, boxes())
    assert pair.known is None


def test_names_that_are_given_serve_files_without_names_on_both_sides(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    files = [save(tmp_path / folder / "a.nii.gz", names=None) for folder in "PT"]
    pair, notes = match(ScoringJob("a", *files), labels=tmp_path / "names.json")
    assert np.array_equal(pair.truth.voxels, boxes())
    assert np.array_equal(pair.prediction.voxels, boxes())
    assert notes == ()


@pytest.mark.parametrize("side", ["truth", "prediction"])
@pytest.mark.parametrize("value", [3, 300])
def test_a_label_without_a_name_is_refused_on_either_side(tmp_path, side, value):
    strange = np.where(boxes() == 2, np.int16(value), boxes())
    voxels = (strange, boxes()) if side == "truth" else (boxes(), strange)
    with pytest.raises(LabelError) as caught:
        pair_of(tmp_path, *voxels)
    assert caught.value.what == f"a: the {side} holds label {value}, but its names are for [1, 2]"
    assert caught.value.remedy == "Correct the file, or add the label to its names."


@pytest.mark.parametrize("side", ["truth", "prediction"])
def test_a_file_that_holds_no_labels_is_named(tmp_path, side):
    halves = boxes() * np.float32(0.5)
    voxels = (halves, boxes()) if side == "truth" else (boxes(), halves)
    with pytest.raises(LabelError, match=rf"^a: the {side} holds 0\.5, but labels are whole numbers") as caught:
        pair_of(tmp_path, *voxels)
    assert caught.value.file == tmp_path / ("T" if side == "truth" else "P") / "a.nii.gz"


@pytest.mark.parametrize("highest", [2, 256, 300])
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_labels_of_any_type_and_height_are_mapped_whether_or_not_the_highest_is_held(tmp_path, highest, held, dtype):
    names = {"1": "liver", str(highest): "spleen"}
    expected = boxes() if held else np.where(boxes() == 1, 1, 0)
    voxels = np.where(expected == 2, highest, expected.astype(np.int64)).astype(dtype)
    pair, _ = pair_of(tmp_path, voxels, voxels, names=names, predicted=names)
    assert np.array_equal(pair.truth.voxels, expected)
    assert np.array_equal(pair.prediction.voxels, expected)


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
    assert len(notes) == (not same)
    assert all("axes of the prediction run otherwise than the truth's (" in note for note in notes)


def test_where_the_axes_run_is_told_beside_that_labels_were_rounded(tmp_path):
    turned = np.flip(boxes().transpose(0, 2, 1), 0) * np.float32(1 - 1e-6)
    step = np.array([[-1, 0, 0, 7], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    files = save(tmp_path / "P" / "a.nii.gz", turned, affine=AFFINE @ step), save(tmp_path / "T" / "a.nii.gz")
    pair, notes = match(ScoringJob("a", *files))
    assert np.array_equal(pair.prediction.voxels, boxes())
    assert "the labels of the prediction are not quite whole numbers" in notes[0]
    assert notes[1:] == (
        "axes of the prediction run otherwise than the truth's (IRA against SAR for z, y, x): turned without loss",
    )


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


def nnunet(folder, voxels=None, ignore=None):
    labels = {"background": 0, "liver": 1, "spleen": 2} | ({} if ignore is None else {"ignore": ignore})
    facts = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    image = nibabel.Nifti1Image(np.zeros((20, 14, 8), np.int16), AFFINE[:, [2, 1, 0, 3]])
    (folder / "imagesTr").mkdir(parents=True)
    image.to_filename(folder / "imagesTr" / "c_0000.nii.gz")
    save(folder / "labelsTr" / "c.nii.gz", voxels, names=None)
    (folder / "dataset.json").write_text(json.dumps(facts))
    return find_sources("nnunet", folder)[0]


def truth_of(kind, folder, voxels=None, ignore=None):
    cases = nnunet(folder, voxels, ignore)
    return cases if kind == "cases" else folder / "labelsTr"


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
    assert problem.remedy == (
        'Put c.json beside it, {"labels": {"1": "liver", ...}}, or pass such a file with --labels.'
    )
    assert problem.file == str(tmp_path / "P" / "c.nii.gz")
    job = ScoringJob("c", tmp_path / "P" / "c.nii.gz", truth[0] if kind == "cases" else truth / "c.nii.gz")
    with pytest.raises(LabelError, match="it holds 4") as caught:
        match(job)
    assert caught.value.file == job.prediction


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
