"""Scores of organs that the case's own data set annotates and of others, and what is mistaken for what."""

import csv
import io
import json
import math

import numpy as np
import pytest

from viscera.cli.command import main
from viscera.datasets.sources import Source
from viscera.errors import DataSetError, FileError, LabelError, SettingError, StoreError
from viscera.evaluation.comparing import compare
from viscera.evaluation.confusion import Confusion, merge, mix_ups
from viscera.evaluation.evaluate import (
    OwnOrgans,
    Pair,
    Rules,
    case_confusion,
    evaluate,
    evaluate_pair,
    read_own_organs,
    score_case,
)
from viscera.evaluation.scores import OrganScore, evaluation_from_json
from viscera.evaluation.source_annotations import half_annotated, is_annotated
from viscera.evaluation.statistics import bootstrap_interval, summarise
from viscera.io import nifti
from viscera.labels import LabelSpace
from viscera.volume import Volume

AFFINE = np.array([[0, 0, 2.0, 0], [0, 1.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
"""3x1x2 mm along (z, y, x): 6 mm3 per voxel."""

VOXEL_ML = 0.006
NAMES = {"1": "liver", "2": "spleen"}
TWO = LabelSpace("two", ("liver", "spleen"))


def boxes(shift=0):
    """A liver of 4x6x5 voxels, moved along x, and a spleen of 2x2x2."""
    voxels = np.zeros((8, 14, 20), np.uint8)
    voxels[2:6, 4:10, 3 + shift : 8 + shift] = 1
    voxels[3:5, 2:4, 15:17] = 2
    return voxels


def mixed():
    """The moved liver; one of the spleen's two slices is called liver, one voxel of it is missed."""
    voxels = boxes(shift=1)
    voxels[3, 2:4, 15:17] = 1
    voxels[4, 2, 15] = 0
    return voxels


def save(path, voxels, names=NAMES, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    nifti.write(path, Volume(np.ascontiguousarray(voxels, dtype=np.uint8), AFFINE))
    path.with_name(nifti.stem(path) + ".json").write_text(json.dumps({"labels": names, **more}))
    return path


def pair(truth, prediction, *, annotated=("liver", "spleen"), known=None, space=TWO):
    return Pair("case", "patient", Volume(truth, AFFINE), Volume(prediction, AFFINE), space, annotated, known)


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def folders(tmp_path):
    """Complete truth of two patients. The first one's prediction is that of ``mixed``, the second one's is right."""
    for case, prediction in (("a", mixed()), ("b", boxes())):
        save(tmp_path / "truth" / f"{case}_label.nii.gz", boxes())
        save(tmp_path / "out" / f"{case}.nii.gz", prediction)
    return tmp_path / "truth", tmp_path / "out"


def groups_of(result):
    return {(score.case, score.organ): score.group for score in result.scores}


# Which organs the own data set annotates


def test_every_score_is_annotated_unless_something_says_otherwise(folders):
    result = evaluate(*folders)
    assert set(groups_of(result).values()) == {"annotated"}
    assert {row.group for row in result.summary} == {"all"}
    assert "group" not in result.to_csv().splitlines()[0]


def test_an_organ_that_only_the_truth_annotates_is_unannotated(folders, tmp_path):
    own = read_own_organs(write(tmp_path / "own.json", {"a": ["Liver"], "*": ["liver", "spleen"]}))
    assert groups_of(evaluate(*folders, own=own)) == {
        ("a", "liver"): "annotated",
        ("a", "spleen"): "unannotated",
        ("b", "liver"): "annotated",
        ("b", "spleen"): "annotated",
    }


@pytest.mark.parametrize("mode", ["volume", "slices"])
def test_groups_change_no_score(folders, tmp_path, mode):
    own = read_own_organs(write(tmp_path / "own.json", {"a": [], "b": ["spleen"]}))
    plain, grouped = (evaluate(*folders, rules=Rules(mode=mode), own=given) for given in (None, own))
    assert [score.values for score in grouped.scores] == [score.values for score in plain.scores]
    assert grouped.of_group("all") == plain.summary
    assert grouped.confusion == plain.confusion


@pytest.mark.parametrize(
    ("organ", "own", "expected"),
    [
        ("liver", ["liver"], True),
        ("liver", ["spleen"], False),
        ("liver", [], False),
        ("kidney", ["kidney_left", "kidney_right"], True),
        ("kidney", ["kidney_left"], False),
        ("kidney_left", ["kidney"], True),
        ("kidney_left", ["kidney_right"], False),
        ("liver_tumour", ["liver"], False),
        ("liver", ["liver_tumour"], False),
    ],
)
def test_sides_and_wholes_stand_for_each_other_but_tumours_do_not(organ, own, expected):
    assert is_annotated(organ, own) is expected


def test_an_organ_of_which_one_side_is_annotated_is_unannotated_and_said_so(tmp_path):
    truth = save(tmp_path / "a.nii.gz", boxes() > 0, {"1": "kidney"})
    prediction = save(tmp_path / "out" / "a.nii.gz", boxes(), {"1": "kidney_left", "2": "kidney_right"})
    own = OwnOrgans(tmp_path, {"a": ("kidney_left",)})
    scores, notes = evaluate_pair(truth, prediction, own=own)
    assert [(score.organ, score.group) for score in scores] == [("kidney", "unannotated")]
    assert "kidney: only one side is annotated in its own data set, so unannotated" in notes
    assert half_annotated(["kidney", "liver"], ["kidney_left", "kidney_right"]) == []


def test_one_case_in_memory_is_grouped_by_a_list_of_organs():
    scores = score_case(pair(boxes(), boxes()), own=["spleen"])
    assert {score.organ: score.group for score in scores} == {"liver": "unannotated", "spleen": "annotated"}


@pytest.mark.parametrize("name", ["{case}", "{dataset}__{case}"])
def test_a_store_knows_what_its_cases_annotate(small_store, tmp_path, name):
    names = {"1": "liver", "2": "spleen"}
    for dataset, case in (("a", "a"), ("b", "b")):  # "a" annotates four organs, "b" the liver
        path = name.format(dataset=dataset, case=case) + ".nii.gz"
        save(tmp_path / "truth" / path, boxes(), names)
        save(tmp_path / "out" / path, boxes(), names)
    result = evaluate(tmp_path / "truth", tmp_path / "out", own=read_own_organs(small_store))
    found = {(case.rpartition("__")[2], organ): group for (case, organ), group in groups_of(result).items()}
    assert found == {
        ("a", "liver"): "annotated",
        ("a", "spleen"): "annotated",
        ("b", "liver"): "annotated",
        ("b", "spleen"): "unannotated",
    }


def test_an_organ_that_no_case_of_the_store_annotates_is_not_scored_and_said_so(small_store, tmp_path):
    names = {"1": "liver", "2": "aorta"}  # the store's cases annotate no aorta
    save(tmp_path / "truth" / "a.nii.gz", boxes(), names)
    save(tmp_path / "out" / "a.nii.gz", boxes(), names)
    result = evaluate(tmp_path / "truth", tmp_path / "out", own=read_own_organs(small_store))
    assert [score.organ for score in result.scores] == ["liver"]
    assert f"no case of {small_store.name} annotates aorta: not scored" in result.notes


def test_a_data_set_s_case_is_found_by_its_full_name_first(folders, tmp_path):
    truth, out = folders
    source = Source("a", "set", "p", tmp_path / "a.nii.gz", truth / "a_label.nii.gz", ((1, "liver"),), ("liver",), ())
    source = Source(**(vars(source) | {"organs": ((1, "liver"), (2, "spleen")), "annotated": ("liver", "spleen")}))
    cases = {"other__a": ("spleen",), "a": (), "set__a": ("liver",)}
    assert groups_of(evaluate([source], out, own=OwnOrgans(tmp_path, cases))) == {
        ("a", "liver"): "annotated",
        ("a", "spleen"): "unannotated",
    }


def test_a_file_may_leave_out_the_data_set_that_the_predictions_name(tmp_path):
    truth = save(tmp_path / "t" / "set__a.nii.gz", boxes())
    prediction = save(tmp_path / "out" / "set__a.nii.gz", boxes())
    scores, _ = evaluate_pair(truth, prediction, own=OwnOrgans(tmp_path, {"a": ("spleen",)}))
    assert [score.group for score in scores] == ["unannotated", "annotated"]


def test_where_nothing_is_unannotated_it_is_said(folders, tmp_path):
    own = read_own_organs(write(tmp_path / "own.json", {"*": ["liver", "spleen"]}))
    result = evaluate(*folders, own=own)
    assert result.notes[-1] == "every organ that is scored is annotated in its case's own data set"


# What is wrong with a list


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"own.json cannot be read as JSON: .* Correct the file"),
        ("[]", r"own.json must hold an object"),
        ('{"a": "liver"}', r"own.json: 'a' must have a list of organ names, got 'liver'"),
        ('{"a": [1]}', r"own.json: 'a' must have a list of organ names"),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path, text, message):
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(DataSetError, match=message):
        read_own_organs(tmp_path / "own.json")


def test_a_list_that_is_nowhere_and_a_folder_that_is_no_store_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"own.json: no such file or store. Check the path of --annotated"):
        read_own_organs(tmp_path / "own.json")
    with pytest.raises(StoreError, match="is not a prepared store"):
        read_own_organs(tmp_path)


def test_a_case_without_an_entry_is_named_before_anything_is_scored(folders, tmp_path):
    finished = []
    own = read_own_organs(write(tmp_path / "own.json", {"a": ["liver"], "bb": ["liver"]}))
    message = r"own.json does not say which organs the data set of case 'b' annotates. Did you mean 'bb'\? Add \"b\""
    with pytest.raises(DataSetError, match=message):
        evaluate(*folders, own=own, done=finished.append)
    assert finished == []


def test_a_case_that_a_store_does_not_hold_is_named(small_store, tmp_path):
    save(tmp_path / "truth" / "z.nii.gz", boxes())
    save(tmp_path / "out" / "z.nii.gz", boxes())
    with pytest.raises(DataSetError, match=r"data set of case 'z' annotates.* Prepare it, or give a file"):
        evaluate(tmp_path / "truth", tmp_path / "out", own=read_own_organs(small_store))


def test_an_organ_that_no_label_can_hold_is_refused_with_the_nearest(folders, tmp_path):
    own = read_own_organs(write(tmp_path / "own.json", {"*": ["livr"]}))
    with pytest.raises(
        LabelError, match=r"neither truth nor prediction of case 'a' can hold 'livr'. Did you mean 'liver'"
    ):
        evaluate(*folders, own=own)
    own = read_own_organs(write(tmp_path / "own.json", {"*": ["uterus"]}))
    with pytest.raises(LabelError, match=r"can hold 'uterus'. They hold liver, spleen"):
        evaluate(*folders, own=own)


def test_a_name_that_stands_for_several_cases_is_refused_unless_they_agree(folders, tmp_path):
    cases = {"x__a": ("liver",), "y__a": ("spleen",), "b": ()}
    with pytest.raises(DataSetError, match=r"several cases 'a' that annotate different organs: x__a, y__a"):
        evaluate(*folders, own=OwnOrgans(tmp_path, cases))
    agreeing = OwnOrgans(tmp_path, cases | {"y__a": ("liver",)})
    assert groups_of(evaluate(*folders, own=agreeing))["a", "liver"] == "annotated"


# Means of the groups


def scores_in_groups():
    """Twelve patients, of whom every other one's data set annotates the spleen only."""
    random = np.random.default_rng(0)
    return [
        OrganScore(f"c{n}", f"p{n // 2}", organ, {"dice": random.uniform(0.4, 1)}, group)
        for n in range(24)
        for organ, group in (("liver", "unannotated" if n % 4 > 1 else "annotated"), ("spleen", "annotated"))
    ]


def test_the_interval_of_a_group_is_that_of_its_values():
    scores, replayed = scores_in_groups(), np.random.default_rng(3)
    rows = summarise(scores, np.random.default_rng(3))
    assert [(row.group, row.organ) for row in rows] == [
        *[("all", organ) for organ in ("liver", "spleen", "mean")],
        *[("annotated", organ) for organ in ("liver", "spleen", "mean")],
        *[("unannotated", organ) for organ in ("liver", "mean")],
    ]
    for row in rows:
        values = {}
        for score in scores:
            if row.group in ("all", score.group) and row.organ in ("mean", score.organ):
                values.setdefault(score.patient, []).append(score.values["dice"])
        expected = bootstrap_interval(values, replayed)
        if row.organ != "mean" or row.group == "unannotated":  # of a single organ
            assert (row.mean, row.low, row.high) == expected
            assert row.cases == sum(map(len, values.values()))


def test_the_mean_of_a_group_is_the_mean_of_its_organs_means():
    scores = [
        OrganScore("a", "a", "liver", {"dice": 0.9}),
        OrganScore("b", "b", "liver", {"dice": 0.7}),
        OrganScore("a", "a", "spleen", {"dice": 0.2}, "unannotated"),
        OrganScore("b", "b", "spleen", {"dice": 0.6}),
    ]
    means = {row.group: row for row in summarise(scores, np.random.default_rng(0)) if row.organ == "mean"}
    assert means["all"].mean == pytest.approx((0.8 + 0.4) / 2)
    assert means["annotated"].mean == pytest.approx((0.8 + 0.6) / 2)
    assert means["unannotated"].mean == pytest.approx(0.2)
    assert (means["unannotated"].cases, math.isnan(means["unannotated"].low)) == (1, True)


def test_means_of_both_groups_together_do_not_depend_on_the_groups():
    scores = scores_in_groups()
    plain = [OrganScore(score.case, score.patient, score.organ, score.values) for score in scores]
    first, second = (summarise(rows, np.random.default_rng(0)) for rows in (scores, plain))
    assert tuple(row for row in first if row.group == "all") == second


def test_a_group_without_any_score_has_no_row():
    scores = [OrganScore("a", "a", "liver", {"dice": 0.9}, "unannotated")]
    assert [(row.group, row.organ) for row in summarise(scores, np.random.default_rng(0))] == [
        ("all", "liver"),
        ("all", "mean"),
        ("unannotated", "liver"),
        ("unannotated", "mean"),
    ]


def test_a_comparison_may_be_of_one_group():
    first = scores_in_groups()
    second = [OrganScore(s.case, s.patient, s.organ, {"dice": s.values["dice"] + 0.01}, s.group) for s in first]
    rows = compare(first, second, np.random.default_rng(0), group="unannotated")
    assert [(row.organ, row.patients) for row in rows] == [("liver", 6), ("mean", 6)]
    assert rows[0].difference == pytest.approx(0.01)
    everything = compare(first, second, np.random.default_rng(0))
    assert everything == compare(first, second, np.random.default_rng(0), group="all")
    with pytest.raises(SettingError, match=r"no group 'unanotated'. Did you mean 'unannotated'"):
        compare(first, second, np.random.default_rng(0), group="unanotated")


# What is mistaken for what


def test_the_matrix_of_boxes_is_that_derived_by_hand():
    """Of the liver's five columns one is missed; of the spleen's 8 voxels 4 are called liver, and 1 is missed."""
    counts = [[8 * 14 * 20 - 120 - 8 - 24, 24, 0], [24, 96, 0], [1, 4, 3]]
    found = case_confusion(pair(boxes(), mixed()))
    assert found.classes == ("background", "liver", "spleen")
    assert np.array(found.ml) == pytest.approx(np.array(counts) * VOXEL_ML)
    assert found.fractions[2] == pytest.approx([1 / 8, 4 / 8, 3 / 8])


def test_what_the_truth_cannot_tell_is_not_in_the_matrix():
    """A truth of the liver only: no row of the spleen, and a spleen in the background may be right."""
    truth = boxes()
    truth[truth == 2] = 0
    prediction = boxes(shift=1)
    prediction[2, 4:10, 4] = 2  # six voxels of the liver, wrong whatever the truth does not show
    known = np.ones(truth.shape, bool)
    known[7] = False
    found = np.array(case_confusion(pair(truth, prediction, annotated=("liver",), known=known)).ml)
    background = 7 * 14 * 20 - 120 - 24 - 8  # without the unknown slice and the spleen that may be there
    assert found == pytest.approx(np.array([[background, 24, 0], [24, 90, 6], [0, 0, 0]]) * VOXEL_ML)


@pytest.mark.parametrize("seed", range(4))
def test_the_matrix_is_numpys_histogram_of_what_is_known_and_annotated(seed):
    random = np.random.default_rng(seed)
    space = LabelSpace("five", ("liver", "spleen", "kidney", "colon", "aorta"))
    annotated = tuple(organ for organ in space.organs if random.random() < 0.6)
    known = random.random((6, 9, 11)) < 0.8
    truth, prediction = random.integers(0, 6, (2, 6, 9, 11)).astype(np.uint8)
    found = np.array(case_confusion(pair(truth, prediction, annotated=annotated, known=known, space=space)).ml)
    certain = [0, *(space.index(organ) for organ in annotated)]
    counted = known & np.isin(truth, certain) & ((truth > 0) | np.isin(prediction, certain))
    joint = np.bincount(truth[counted] * 6 + prediction[counted], minlength=36).reshape(6, 6)
    assert found == pytest.approx(joint * VOXEL_ML)


def test_rows_and_diagonal_are_the_volumes_and_the_dice_of_the_scores(folders):
    result = evaluate(folders[0], folders[1])
    ml = np.array(result.confusion.ml)
    for organ in ("liver", "spleen"):
        place = result.confusion.classes.index(organ)
        rows = [score.values for score in result.scores if score.organ == organ]
        assert ml[place].sum() == pytest.approx(sum(row["truth_ml"] for row in rows))
        assert ml[:, place].sum() == pytest.approx(sum(row["prediction_ml"] for row in rows))
    assert ml.sum() == pytest.approx(2 * 8 * 14 * 20 * VOXEL_ML)


def test_cases_of_other_label_spaces_are_added_up_by_the_names_of_the_organs(folders):
    truth, out = folders
    alone = np.array(evaluate(truth, out).confusion.ml)
    save(out / "b.nii.gz", np.array([0, 3, 1], np.uint8)[boxes()], {"1": "spleen", "2": "colon", "3": "liver"})
    found = evaluate(truth, out).confusion
    assert found.classes == ("background", "liver", "spleen", "colon")
    assert np.array(found.ml)[:3, :3] == pytest.approx(alone)
    assert not np.array(found.ml)[3].any()
    assert not np.array(found.ml)[:, 3].any()
    assert merge([]) is None


def test_slices_mode_has_no_matrix(folders):
    result = evaluate(*folders, rules=Rules(mode="slices"))
    assert result.confusion is None
    assert "confusion" not in json.loads(result.to_json())


def test_mix_ups_are_shares_of_the_true_organ_in_both_directions():
    ml = ((900.0, 5.0, 3.0), (10.0, 80.0, 10.0), (0.0, 4.0, 16.0))
    found = mix_ups(Confusion(("background", "liver", "spleen"), ml))
    assert {(entry.truth, entry.predicted): (entry.share, entry.back) for entry in found} == {
        ("spleen", "liver"): (4 / 20, 10 / 100),
        ("background", "spleen"): (3 / 20, 0),  # of the spleen's true volume: 20 ml
        ("liver", "spleen"): (10 / 100, 4 / 20),
        ("liver", "background"): (10 / 100, 5 / 100),
        ("background", "liver"): (5 / 100, 10 / 100),
    }
    assert [entry.share for entry in found] == sorted((entry.share for entry in found), reverse=True)
    assert len(mix_ups(Confusion(("background", "liver", "spleen"), ml), most=2)) == 2


def test_an_organ_that_no_truth_shows_has_no_share_but_is_listed():
    confusion = Confusion(("background", "liver", "spleen"), ((9.0, 0.5, 2.0), (0.0, 5.0, 0.0), (0.0, 0.0, 0.0)))
    first, second = mix_ups(confusion)
    assert (first.predicted, first.ml, math.isnan(first.share), first.back) == ("spleen", 2.0, True, 0.0)
    assert (second.predicted, second.share) == ("liver", 0.1)
    assert np.isnan(confusion.fractions[2]).all()
    assert mix_ups(Confusion(("background",), ((0.0,),))) == []


# To JSON and back, and on the command line


def test_groups_and_matrix_survive_json(folders, tmp_path):
    own = read_own_organs(write(tmp_path / "own.json", {"a": ["liver"], "b": ["liver", "spleen"]}))
    result = evaluate(*folders, own=own)
    again = evaluation_from_json(result.to_json(), where="x.json")
    assert again.to_json() == result.to_json()
    assert again.confusion == result.confusion
    assert [score.group for score in again.scores] == [score.group for score in result.scores]
    assert [row.group for row in again.summary] == [row.group for row in result.summary]
    value = json.loads(result.to_json())
    assert value["confusion"]["classes"] == ["background", "liver", "spleen"]
    assert [len(row) for row in value["confusion"]["ml"]] == [3, 3, 3]
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [row["group"] for row in rows] == [score.group for score in result.scores]


def test_an_evaluation_written_before_there_were_groups_is_read():
    old = {
        "mode": "volume",
        "cases": [{"case": "a", "organ": "liver", "dice": 0.5}],
        "summary": [{"organ": "liver", "metric": "dice", "mean": 0.5, "low": None, "high": None, "cases": 1}],
    }
    found = evaluation_from_json(json.dumps(old), where="old.json")
    assert (found.scores[0].group, found.summary[0].group, found.confusion) == ("annotated", "all", None)


@pytest.mark.parametrize(
    "change",
    [
        {"cases": [{"case": "a", "organ": "liver", "dice": 0.5, "group": "some"}]},
        {"confusion": []},
        {"confusion": {"classes": ["liver"], "ml": [[1]]}},
        {"confusion": {"classes": ["background", "liver"], "ml": [[1, 2]]}},
        {"confusion": {"classes": ["background"], "ml": [[-1]]}},
        {"confusion": {"classes": ["background"], "ml": [[None]]}},
        {"confusion": {"classes": ["background"], "ml": "x"}},
        {"confusion": {"ml": [[1]]}},
    ],
)
def test_damaged_groups_and_matrices_are_refused(change):
    with pytest.raises(FileError, match=r"x.json is not an evaluation"):
        evaluation_from_json(json.dumps({"mode": "volume", "cases": [], "summary": []} | change), where="x.json")


def test_the_command_gives_both_groups_apart_and_the_largest_mix_ups(folders, tmp_path, capsys):
    own = write(tmp_path / "own.json", {"a": ["liver"], "b": ["liver", "spleen"]})
    words = ["evaluate", *map(str, folders), "--annotated", str(own), "--confusion", "--versus", str(folders[1])]
    out = tmp_path / "scores.json"
    assert main([*words, "--json", str(out), "--html", str(tmp_path / "page.html")]) == 0
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    # The spleen of 8 voxels, of which 3 are found: Dice 2 * 3 / (8 + 3).
    assert any(line.startswith(f"spleen 1 1.000 1 {6 / 11:.3f}") for line in lines)
    # The liver of 120 voxels, of which 96 are found, and 28 others.
    liver = (2 * 96 / (120 + 124) + 1) / 2
    assert any(line.startswith(f"liver 2 {liver:.3f}") and line.endswith("0 -") for line in lines)
    assert "spleen called liver 0.0 25.0 % 0.0 %" in lines  # 4 of the 16 spleen voxels of both cases
    assert "liver missed 0.1 10.0 % 10.0 %" in lines
    assert "dice: PREDICTION minus --versus, unannotated organs" in lines
    value = json.loads(out.read_text())
    assert {row["group"] for row in value["summary"]} == {"all", "annotated", "unannotated"}
    page = (tmp_path / "page.html").read_text()
    assert "spleen: 25.0 % (0.0 ml) is called liver; 0.0 % of liver is called spleen." in page


def test_the_command_puts_several_data_sets_together_with_a_list_each(folders, tmp_path, capsys):
    truth, out = folders
    save(tmp_path / "t2" / "c.nii.gz", boxes(), {"1": "liver", "2": "colon"})
    save(tmp_path / "o2" / "c.nii.gz", boxes(), {"1": "liver", "2": "colon"})
    lists = [write(tmp_path / "1.json", {"*": ["liver"]}), write(tmp_path / "2.json", {"*": ["colon"]})]
    pairs = [str(path) for path in (truth, out, tmp_path / "t2", tmp_path / "o2")]
    file = tmp_path / "scores.json"
    assert main(["evaluate", *pairs, "--annotated", *map(str, lists), "--json", str(file)]) == 0
    value = json.loads(file.read_text())
    assert value["confusion"]["classes"] == ["background", "liver", "spleen", "colon"]
    groups = {(row["case"], row["organ"]): row["group"] for row in value["cases"]}
    assert groups["t2/c", "liver"] == groups["truth/a", "spleen"] == "unannotated"
    assert groups["t2/c", "colon"] == groups["truth/b", "liver"] == "annotated"
    assert main(["evaluate", *pairs, "--annotated", *map(str, [*lists, lists[0]])]) == 2
    assert "--annotated needs one file or store for all pairs, or one per pair, got 3" in capsys.readouterr().err


def test_the_command_refuses_a_matrix_of_slices_and_says_when_there_is_no_mix_up(folders, tmp_path, capsys):
    assert main(["evaluate", *map(str, folders), "--mode", "slices", "--confusion"]) == 2
    assert "--confusion counts whole volumes, which --mode slices does not judge" in capsys.readouterr().err
    perfect = [str(save(tmp_path / name / "a.nii.gz", boxes())) for name in ("t", "o")]
    assert main(["evaluate", *perfect, "--confusion"]) == 0
    assert "No confusions found." in capsys.readouterr().err
