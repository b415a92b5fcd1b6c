"""Scores of cases and folders: which organs and files count, intervals, comparisons, and the way to JSON and back."""

import json
import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from viscera.datasets.sources import Source
from viscera.errors import FileError, GeometryError, LabelError
from viscera.evaluation.comparing import compare
from viscera.evaluation.evaluate import (
    TOLERANCES_MM,
    Pair,
    Rules,
    evaluate,
    evaluate_pair,
    find_jobs,
    read_names,
    score_case,
)
from viscera.evaluation.metrics import surface_scores
from viscera.evaluation.scores import OrganScore, evaluation_from_json
from viscera.evaluation.statistics import bootstrap_interval, summarise
from viscera.io import nifti
from viscera.io.label_names import label_names
from viscera.labels import LabelSpace
from viscera.volume import Volume

AFFINE = np.array([[0, 0, 2.0, 0], [0, 1.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
"""3x1x2 mm along (z, y, x): 6 mm3 per voxel."""

TWO = LabelSpace("two", ("liver", "spleen"))


def volume(voxels, affine=AFFINE):
    return Volume(np.ascontiguousarray(voxels, dtype=np.uint8), affine)


def boxes(shift=0):
    """A liver of 4x6x5 voxels and a spleen of 2x2x2, the liver moved along x."""
    voxels = np.zeros((8, 14, 20), np.uint8)
    voxels[2:6, 4:10, 3 + shift : 8 + shift] = 1
    voxels[3:5, 2:4, 15:17] = 2
    return voxels


def pair(truth, prediction, *, annotated=("liver", "spleen"), known=None, space=TWO):
    return Pair("case", "patient", volume(truth), volume(prediction), space, annotated, known)


def save(path, voxels, names=None, affine=AFFINE, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(path, volume(voxels, affine))
    if names is not None:
        path.with_name(nifti.stem(path) + ".json").write_text(json.dumps({"labels": names, **more}))
    return path


def by_organ(scores):
    return {score.organ: score.values for score in scores}


NAMES = {"1": "liver", "2": "spleen"}


# One case


def test_scores_of_a_shifted_box_are_those_derived_by_hand():
    scores = by_organ(score_case(pair(boxes(), boxes(shift=1))))
    liver = scores["liver"]
    assert liver["dice"] == pytest.approx(4 / 5)  # 4 of 5 columns shared
    assert liver["iou"] == pytest.approx(4 / 6)
    assert liver["truth_ml"] == pytest.approx(4 * 6 * 5 * 6 / 1000)
    assert liver["volume_error_ml"] == pytest.approx(0)
    assert liver["hd95_mm"] == pytest.approx(2)  # one voxel of 2 mm
    assert liver["nsd"] == 1  # within 5 mm
    assert liver["tolerance_mm"] == 5
    assert scores["spleen"]["dice"] == 1


def test_surface_scores_are_those_of_the_whole_masks():
    truth, prediction = boxes(), boxes(shift=3)
    found = by_organ(score_case(pair(truth, prediction), Rules(tolerances_mm={"liver": 1.5})))["liver"]
    expected = surface_scores(truth == 1, prediction == 1, (3.0, 1.0, 2.0), tolerance_mm=1.5)
    assert (found["nsd"], found["hd95_mm"]) == (expected.nsd, expected.hd95_mm)


@pytest.mark.parametrize("mode", ["volume", "slices"])
def test_an_organ_that_is_not_annotated_has_no_row(mode):
    scores = score_case(pair(boxes(), boxes(), annotated=("spleen",)), Rules(mode=mode))
    assert [score.organ for score in scores] == ["spleen"]
    assert score_case(pair(boxes(), boxes(), annotated=()), Rules(mode=mode)) == []


def test_an_organ_that_is_absent_has_no_score_and_its_false_find_has_zero():
    empty = boxes()
    empty[empty == 2] = 0
    absent = by_organ(score_case(pair(empty, empty)))["spleen"]
    assert all(math.isnan(absent[metric]) for metric in ("dice", "iou", "nsd", "hd95_mm"))
    assert absent["truth_ml"] == absent["prediction_ml"] == absent["volume_error_ml"] == 0
    for truth, prediction, error_ml in ((empty, boxes(), 8 * 0.006), (boxes(), empty, -8 * 0.006)):
        values = by_organ(score_case(pair(truth, prediction)))["spleen"]
        assert (values["dice"], values["iou"], values["nsd"], values["hd95_mm"]) == (0, 0, 0, math.inf)
        assert values["volume_error_ml"] == pytest.approx(error_ml)


def test_voxels_that_are_not_known_do_not_count():
    known = np.ones((8, 14, 20), bool)
    known[:, :, 8:14] = False  # where the moved liver is too far right
    prediction = boxes(shift=1)
    prediction[:, 12:, 10] = 1
    values = by_organ(score_case(pair(boxes(), prediction, known=known)))["liver"]
    assert values["dice"] == pytest.approx(2 * 4 / 9)
    assert values["prediction_ml"] == pytest.approx(4 * 6 * 4 * 0.006)


def test_grids_must_be_the_same():
    other = Pair("case", "p", volume(boxes()), volume(boxes(), AFFINE * [2, 1, 1, 1]), TWO, ("liver",))
    with pytest.raises(GeometryError, match="case: labels lie on another grid"):
        score_case(other)


def test_tolerances_are_flares_with_sides_as_their_wholes():
    rules = Rules(tolerances_mm={"kidney": 1.0, "colon": 4.0})
    assert Rules().tolerance_mm("liver") == TOLERANCES_MM["liver"] == 5
    assert Rules().tolerance_mm("kidney_left") == 3
    assert Rules().tolerance_mm("adrenal_gland_right") == 2
    assert Rules().tolerance_mm("duodenum") == 7
    assert Rules().tolerance_mm("rectum") == 3
    assert rules.tolerance_mm("kidney_right") == 1
    assert rules.tolerance_mm("colon") == 4


def test_slice_dice_ignores_what_is_found_where_the_truth_shows_nothing():
    prediction = boxes(shift=1)
    prediction[7, :, :10] = 1  # a false find on a slice without liver
    liver = by_organ(score_case(pair(boxes(), prediction), Rules(mode="slices")))["liver"]
    assert liver == {"slice_dice": pytest.approx(4 / 5), "slice_iou": pytest.approx(4 / 6)}
    # Counted over each slice's own masks: equal to the pooled sums over slices 2 to 5.
    shown = boxes()[2:6] == 1, prediction[2:6] == 1
    assert liver["slice_dice"] == pytest.approx(2 * (shown[0] & shown[1]).sum() / (shown[0].sum() + shown[1].sum()))


def test_slices_are_axial_whatever_the_order_of_the_file():
    prediction = boxes(shift=1)
    prediction[7, :, :10] = 1
    expected = by_organ(score_case(pair(boxes(), prediction), Rules(mode="slices")))
    turned = AFFINE[:, [2, 1, 0, 3]]
    other = Pair("c", "p", volume(boxes().T, turned), volume(prediction.T, turned), TWO, ("liver", "spleen"))
    assert by_organ(score_case(other, Rules(mode="slices"))) == expected


def test_slice_scores_of_an_absent_organ_are_none():
    empty = boxes() * (boxes() == 1)
    assert math.isnan(by_organ(score_case(pair(empty, boxes()), Rules(mode="slices")))["spleen"]["slice_dice"])


# Files


def test_organs_are_matched_by_name_and_not_by_number(tmp_path):
    truth = save(tmp_path / "a.nii.gz", boxes(), NAMES)
    swapped = np.array([0, 2, 1], np.uint8)[boxes()]
    prediction = save(tmp_path / "out" / "a.nii.gz", swapped, {"1": "spleen", "2": "liver"})
    scores, _ = evaluate_pair(truth, prediction)
    assert {organ: values["dice"] for organ, values in by_organ(scores).items()} == {"liver": 1, "spleen": 1}


@pytest.mark.parametrize("split", ["truth", "prediction"])
def test_sides_are_merged_where_the_other_has_the_whole(tmp_path, split):
    sides, whole = {"1": "Left Kidney", "2": "kidney_right"}, {"4": "kidney"}
    merged = np.where(boxes() > 0, 4, 0)
    files = {"truth": (merged, whole), "prediction": (merged, whole)} | {split: (boxes(), sides)}
    paths = [save(tmp_path / name / "a.nii.gz", *content) for name, content in files.items()]
    scores, _ = evaluate_pair(*paths)
    assert {organ: values["dice"] for organ, values in by_organ(scores).items()} == {"kidney": 1}


def test_organs_that_one_side_lacks_are_said_and_have_no_row(tmp_path):
    truth = save(tmp_path / "a.nii.gz", boxes(), {"1": "liver", "2": "heart"})
    prediction = save(tmp_path / "out" / "a.nii.gz", boxes(), NAMES)
    scores, notes = evaluate_pair(truth, prediction)
    assert [score.organ for score in scores] == ["liver"]
    assert any("heart" in note for note in notes)
    assert any("not annotated, so not scored: spleen" in note for note in notes)


def test_the_list_of_annotated_organs_beside_the_truth_counts(tmp_path):
    truth = save(tmp_path / "a.nii.gz", boxes(), NAMES, annotated=["spleen"])
    prediction = save(tmp_path / "out" / "a.nii.gz", boxes(), NAMES)
    assert [score.organ for score in evaluate_pair(truth, prediction)[0]] == ["spleen"]


def test_a_tumour_of_no_known_organ_is_not_scored_at_all(tmp_path):
    voxels = boxes()
    voxels[3, 5, 3:6] = 3
    truth = save(tmp_path / "a.nii.gz", voxels, NAMES | {"3": "tumour"})
    prediction = save(tmp_path / "out" / "a.nii.gz", boxes(), NAMES)
    assert by_organ(evaluate_pair(truth, prediction)[0])["liver"]["dice"] == 1


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("x_label.json", {"labels": NAMES, "run": {}}),
        ("x_labels.json", NAMES),
        ("x_label_labels.json", NAMES),
        ("dataset.json", {"labels": {"background": 0, "liver": 1, "spleen": 2}}),
        ("../dataset.json", {"labels": {"0": "background", "1": "liver", "2": "spleen"}}),
    ],
)
def test_names_are_found_where_tools_write_them(tmp_path, file, content):
    path = save(tmp_path / "labelsTr" / "x_label.nii.gz", boxes())
    (path.parent / file).write_text(json.dumps(content))
    assert read_names(path) == {1: "liver", 2: "spleen"}


def test_ignore_labels_and_given_names_are_understood(tmp_path):
    path = save(tmp_path / "x.nii.gz", boxes())
    with pytest.raises(FileError, match=r"nothing names its labels. Put x.json beside it"):
        read_names(path)
    given = tmp_path / "names"
    given.write_text(json.dumps({"background": 0, "Liver": 1, "ignore": 2}))
    names = label_names(path, labels=given)
    assert (dict(names.labels), names.annotated, names.unknown) == ({1: "liver"}, ("liver",), (2,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a JSON file"),
        ('{"labels": {"liver": [1, 2]}}', "is not a pair of a whole number and a name"),
        ('{"labels": {"1": "liver"}, "annotated": "liver"}', "is not a list of organs"),
        ("[]", "names no labels"),
    ],
)
def test_names_that_are_none_are_refused(tmp_path, text, message):
    path = save(tmp_path / "x.nii.gz", boxes())
    given = tmp_path / "names.txt"
    given.write_text(text)
    with pytest.raises((LabelError, FileError), match=message):
        label_names(path, labels=given)


def test_labels_without_names_and_other_files_are_refused(tmp_path):
    truth = save(tmp_path / "a.nii.gz", boxes(), NAMES)
    strange = save(tmp_path / "strange.nii.gz", boxes() * 3, NAMES)
    with pytest.raises(LabelError, match=r"the prediction holds label 3, but its names are for \[1, 2\]"):
        evaluate_pair(truth, strange)
    scan = tmp_path / "scan.nii.gz"
    nifti.write(scan, Volume(np.full((8, 14, 20), -1000, np.int16), AFFINE))
    (tmp_path / "scan.json").write_text(json.dumps({"labels": NAMES}))
    with pytest.raises(LabelError, match="which are not labels"):
        evaluate_pair(truth, scan)
    half = tmp_path / "half.nii.gz"
    nifti.write(half, Volume(np.full((8, 14, 20), 0.5, np.float32), AFFINE))
    (tmp_path / "half.json").write_text(json.dumps({"labels": NAMES}))
    with pytest.raises(LabelError, match="holds 0.5, but labels are whole numbers"):
        evaluate_pair(truth, half)
    hearts = save(tmp_path / "hearts.nii.gz", boxes(), {"1": "heart", "2": "lung"})
    with pytest.raises(LabelError, match="share no organ"):
        evaluate_pair(truth, hearts)


def test_labels_of_any_whole_type_and_size_are_mapped(tmp_path):
    truth = save(tmp_path / "a.nii.gz", boxes(), NAMES)
    for dtype, factor in ((np.int16, 1), (np.float32, 7), (np.uint16, 900), (np.int32, 30000)):
        path = tmp_path / f"{np.dtype(dtype)}.nii.gz"
        nifti.write(path, Volume(boxes().astype(dtype) * dtype(factor), AFFINE))
        names = {str(factor): "liver", str(2 * factor): "spleen"}
        path.with_name(f"{np.dtype(dtype)}.json").write_text(json.dumps({"labels": names}))
        assert {score.values["dice"] for score in evaluate_pair(truth, path)[0]} == {1}


# Folders


@pytest.fixture
def folders(tmp_path):
    """Three truths; predictions of the first two, the second on another grid, and one of nobody."""
    for case in "abc":
        save(tmp_path / "truth" / f"{case}_label.nii.gz", boxes(), NAMES)
    save(tmp_path / "out" / "a.nii.gz", boxes(shift=1), NAMES)
    save(tmp_path / "out" / "b_0000.nii.gz", boxes(), NAMES, affine=AFFINE * [2, 1, 1, 1])
    save(tmp_path / "out" / "z.nii.gz", boxes(), NAMES)
    return tmp_path / "truth", tmp_path / "out"


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_scored_is_said_and_the_rest_is_scored(folders, workers):
    finished = []
    result = evaluate(*folders, workers=workers, done=finished.append)
    assert {score.case for score in result.scores} == {"a"}
    assert sorted(finished) == ["a", "b"]
    problems = {problem.case: problem for problem in result.problems}
    assert set(problems) == {"b", "c"}
    assert problems["c"].what == "no prediction"
    assert "another grid" in problems["b"].what
    assert result.notes[0] == "1 predictions without truth, not scored: z.nii.gz"
    assert {row.organ: row.mean for row in result.summary if row.metric == "dice"} == pytest.approx(
        {"liver": 0.8, "spleen": 1, "mean": 0.9}
    )


def test_nothing_to_compare_is_an_error(folders, tmp_path):
    truth, out = folders
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="holds no label maps"):
        find_jobs(tmp_path / "empty", out)
    with pytest.raises(FileError, match="belongs to any of the 3 truths"):
        find_jobs(truth, tmp_path / "empty")
    with pytest.raises(FileError, match="two NIfTI files or two folders"):
        find_jobs(truth / "a_label.nii.gz", out)
    with pytest.raises(FileError, match="no such file or folder"):
        find_jobs(truth, tmp_path / "nowhere")


def test_cases_of_a_data_set_are_scored_on_what_they_annotate(folders, tmp_path):
    truth, out = folders
    source = Source(
        name="a",
        dataset="set",
        patient="somebody",
        image=tmp_path / "ct" / "a_0000.nii.gz",
        labels=truth / "a_label.nii.gz",
        organs=((1, "liver"), (2, "spleen")),
        annotated=("liver",),
        unknown=(),
    )
    result = evaluate([source], out)
    assert [(score.patient, score.organ) for score in result.scores] == [("somebody", "liver")]
    ignoring = evaluate([Source(**(vars(source) | {"organs": ((1, "liver"),), "unknown": (2,)}))], out)
    assert [score.values["dice"] for score in ignoring.scores] == [pytest.approx(0.8)]


def test_a_real_case_against_itself_is_perfect(shared_data, tmp_path):
    folder = shared_data / "totalsegmentator_example"
    truth = folder / "ts_example_ct_sm_3mm_label.nii.gz"
    own = save(tmp_path / "self.nii.gz", np.zeros((2, 2, 2)))
    own.unlink()
    nifti.write(own, nifti.read(truth))
    names = json.loads((folder / "ts_example_ct_sm_3mm_labels.json").read_text())
    (tmp_path / "self.json").write_text(json.dumps({"labels": names}))
    scores, _ = evaluate_pair(truth, own)
    assert len(scores) > 20
    assert {(score.values["dice"], score.values["nsd"], score.values["hd95_mm"]) for score in scores} == {(1, 1, 0)}


# Statistics


def scores_of(values, metric="dice", patients=None):
    """{organ: [value per case]} as scores, one case per patient."""
    return [
        OrganScore(f"c{n}", patients[n] if patients else f"p{n}", organ, {metric: value})
        for organ, column in values.items()
        for n, value in enumerate(column)
    ]


def test_the_interval_of_many_patients_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(0.9, 0.05, 400)
    mean, low, high = bootstrap_interval({str(n): [v] for n, v in enumerate(values)}, np.random.default_rng(1))
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(values.mean() - half, abs=0.001)
    assert high == pytest.approx(values.mean() + half, abs=0.001)


def test_scans_of_one_patient_are_drawn_together():
    random = np.random.default_rng(0)
    patients = {str(n): [value] * 5 for n, value in enumerate(random.normal(0, 1, 30))}
    apart = {f"{n}{k}": [value] for n, values in patients.items() for k, value in enumerate(values)}
    _, low, high = bootstrap_interval(patients, random)
    _, apart_low, apart_high = bootstrap_interval(apart, random)
    assert high - low == pytest.approx(math.sqrt(5) * (apart_high - apart_low), rel=0.15)


def test_intervals_of_one_patient_and_of_none_are_no_numbers():
    generator = np.random.default_rng(0)
    mean, low, high = bootstrap_interval({"p": [0.2, 0.4]}, generator)
    assert mean == pytest.approx(0.3)
    assert math.isnan(low)
    assert math.isnan(high)
    assert all(math.isnan(value) for value in bootstrap_interval({}, generator))


def test_the_same_generator_gives_the_same_interval():
    values = {str(n): [n / 10] for n in range(7)}
    first, second = (bootstrap_interval(values, np.random.default_rng(3)) for _ in range(2))
    assert first == second


def test_the_mean_over_organs_counts_each_organ_once_and_leaves_out_missing_scores():
    scores = scores_of({"liver": [0.9, 0.7, 0.8], "spleen": [math.nan, 0.4, math.nan]})
    rows = {row.organ: row for row in summarise(scores, np.random.default_rng(0))}
    assert rows["liver"].mean == pytest.approx(0.8)
    assert rows["spleen"].cases == 1
    assert math.isnan(rows["spleen"].low)
    assert rows["mean"].mean == pytest.approx((0.8 + 0.4) / 2)
    assert rows["mean"].cases == 3
    assert rows["mean"].low < rows["mean"].mean < rows["mean"].high


def test_missed_organs_have_no_distance_in_the_mean():
    rows = summarise(scores_of({"liver": [2.0, math.inf, 4.0]}, "hd95_mm"), np.random.default_rng(0))
    assert rows[0].mean == 3
    assert rows[0].cases == 2
    assert summarise([], np.random.default_rng(0)) == ()


def test_a_comparison_equals_scipys_wilcoxon_and_the_mean_difference():
    random = np.random.default_rng(0)
    first = random.uniform(0.6, 0.9, 20)
    second = first + random.normal(0.03, 0.02, 20)
    rows = compare(scores_of({"liver": first}), scores_of({"liver": second}), random)
    liver, mean = rows
    assert liver.difference == pytest.approx((second - first).mean())
    assert liver.p_value == pytest.approx(wilcoxon(second, first).pvalue)
    assert liver.low < liver.difference < liver.high
    assert liver.patients == 20
    assert (mean.organ, mean.difference) == ("mean", pytest.approx(liver.difference))


def test_comparisons_without_differences_pairs_or_many_cases_give_no_warning():
    generator = np.random.default_rng(0)
    same = scores_of({"liver": [0.1, 0.2, 0.3]})
    assert compare(same, same, generator)[0].p_value == 1
    nothing = compare(same, scores_of({"spleen": [0.1]}), generator)
    assert [(row.organ, row.patients) for row in nothing] == [("liver", 0), ("mean", 0)]
    assert math.isnan(nothing[0].p_value)
    one = compare(scores_of({"liver": [0.1]}), scores_of({"liver": [0.4]}), generator)[0]
    assert (one.p_value, one.difference) == (1, pytest.approx(0.3))
    assert math.isnan(one.low)
    ties = compare(scores_of({"liver": [0.1, 0.2, 0.3, 0.4]}), scores_of({"liver": [0.2, 0.3, 0.3, 0.3]}), generator)[0]
    assert 0 < ties.p_value <= 1


def test_cases_of_one_patient_are_one_pair_of_a_comparison():
    patients = ["p", "p", "q"]
    first, second = (scores_of({"liver": v}, patients=patients) for v in ([0.1, 0.2, 0.5], [0.3, 0.4, 0.6]))
    liver = compare(first, second, np.random.default_rng(0))[0]
    assert liver.patients == 2
    assert liver.difference == pytest.approx((0.2 + 0.1) / 2)


# To JSON and back


def test_an_evaluation_survives_json_but_for_what_json_cannot_hold(folders):
    result = evaluate(*folders)
    again = evaluation_from_json(result.to_json(), where="x.json")
    assert again.mode == "volume"
    assert again.problems == result.problems
    assert again.notes == result.notes
    assert [dict(score.values) for score in again.scores] == [dict(score.values) for score in result.scores]
    assert again.to_json() == result.to_json()
    value = json.loads(result.to_json())
    assert {"case", "organ", "dice", "iou", "nsd", "hd95_mm", "truth_ml", "tolerance_mm"} <= set(value["cases"][0])
    assert value["summary"][0]["low"] is None  # one patient has no interval


def test_what_is_no_number_is_null_in_json_and_empty_in_csv(folders):
    truth, out = folders
    save(truth / "d.nii.gz", boxes(), NAMES)
    save(out / "d.nii.gz", boxes() * (boxes() == 1), NAMES)
    result = evaluate(truth, out)
    row = next(r for r in json.loads(result.to_json())["cases"] if (r["case"], r["organ"]) == ("d", "spleen"))
    assert row["hd95_mm"] is None
    lines = result.to_csv().splitlines()
    assert lines[0].startswith("case,patient,organ,dice,iou,nsd,hd95_mm")
    assert next(line for line in lines if line.startswith("d,d,spleen")).split(",")[3:7] == ["0.0", "0.0", "0.0", ""]


@pytest.mark.parametrize("text", ["{", "[]", '{"mode": "volume"}', '{"mode": "volume", "cases": [{}], "summary": []}'])
def test_other_json_is_no_evaluation(text):
    with pytest.raises(FileError, match=r"x.json is not an evaluation"):
        evaluation_from_json(text, where="x.json")
