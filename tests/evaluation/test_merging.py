"""Several data sets at once: whatever their folders are called, their cases and patients stay apart."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from viscera.cli.command import main
from viscera.datasets.sources import Problem
from viscera.errors import SettingError
from viscera.evaluation.comparing import compare
from viscera.evaluation.merging import merge_evaluations, names_of_pairs
from viscera.evaluation.scores import Evaluation, OrganScore, evaluation_from_json
from viscera.evaluation.statistics import summarise
from viscera.io import nifti
from viscera.volume import Volume

AFFINE = np.array([[0, 0, 2.0, 0], [0, 2.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])


def paths(*texts):
    return [Path(text) for text in texts]


def evaluation(values, cases):
    scores = tuple(OrganScore(case, case, "liver", {"dice": value}) for case, value in zip(cases, values, strict=True))
    problems = (Problem("lost", "lost.nii.gz", "no prediction", "Segment it."),)
    return Evaluation("volume", scores, summarise(scores, np.random.default_rng(0)), problems)


@pytest.mark.parametrize(
    ("truths", "expected"),
    [
        (["A/labelsTr", "B/labelsTr"], ["A", "B"]),
        (["x/kits", "y/amos"], ["kits", "amos"]),
        (["/data/jones_anna/study1/labels", "/data/miller_tom/study2/labels"], ["study1", "study2"]),
        (["A/labels/final", "B/labels/final", "C/labels/final"], ["A", "B", "C"]),
        (["A/one/labels", "A/two/labels", "B/one/labels"], ["A/one", "A/two", "B/one"]),
        (["A/labels", "A/x/labels", "B/x/labels"], None),
        (["A", "A/labels"], ["A", "labels"]),
        (["set", "other/set"], None),
    ],
)
def test_data_sets_are_called_by_as_little_as_tells_them_apart(truths, expected):
    names, of_truths = names_of_pairs(paths(*truths), paths(*(f"p{n}" for n in range(len(truths)))))
    assert names == of_truths
    assert len(set(names)) == len(truths)
    if expected is not None:
        assert names == expected


def test_one_truth_with_two_predictions_keeps_its_patients():
    names, truths = names_of_pairs(paths("T", "T", "U", "./T"), paths("fold0/out", "fold1/out", "x", "fold2/out"))
    assert names == ["T/fold0", "T/fold1", "U", "T/fold2"]
    assert truths == ["T", "T", "U", "T"]


def test_the_same_pair_twice_is_refused():
    with pytest.raises(SettingError, match="T with p is given twice"):
        names_of_pairs(paths("T", "./T"), paths("p", "p"))


def test_a_link_to_a_data_set_is_that_data_set(tmp_path):
    (tmp_path / "T").mkdir()
    (tmp_path / "L").symlink_to(tmp_path / "T")
    _, truths = names_of_pairs([tmp_path / "T", tmp_path / "L"], paths("p", "q"))
    assert truths == ["T", "T"]


def test_data_sets_of_one_name_are_never_merged():
    with pytest.raises(SettingError, match="several data sets are called x, x"):
        merge_evaluations([evaluation([1.0], ["a"])] * 2, ["x", "x"])


def test_merged_cases_patients_and_problems_are_apart_and_survive_json():
    merged = merge_evaluations([evaluation([0.9, 0.8], "ab"), evaluation([0.5, 0.4], "ab")], ["A", "B"])
    again = evaluation_from_json(merged.to_json(), where="x.json")
    for one in (merged, again):
        assert [row.case for row in one.scores] == ["A/a", "A/b", "B/a", "B/b"]
        assert len({row.patient for row in one.scores}) == 4
        assert [row.case for row in one.problems] == ["A/lost", "B/lost"]
        assert one.summary[0].cases == 4


def test_two_predictions_of_one_truth_are_one_patient_of_the_bootstrap():
    both = [evaluation([0.9, 0.1], "ab"), evaluation([0.9, 0.1], "ab")]
    merged = merge_evaluations(both, ["T/p", "T/q"], truths=["T", "T"])
    assert {row.patient for row in merged.scores} == {"T/a", "T/b"}
    [liver, _] = merged.summary
    [single, _] = both[0].summary
    assert (liver.low, liver.high) == (single.low, single.high)  # no narrower for being counted twice
    assert compare(merged.scores, merged.scores, np.random.default_rng(0))[0].patients == 2


# The command


def liver(share):
    voxels = np.zeros((10, 10, 10), np.uint8)
    voxels[2:8, 2:8, 2 : 2 + round(6 * share)] = 1
    return voxels


@pytest.fixture
def hospitals(tmp_path, monkeypatch):
    """Two data sets with the same names of cases, in folders that end alike; the predictions of B are worse."""
    monkeypatch.chdir(tmp_path)
    names = json.dumps({"labels": {"liver": 1}})
    facts = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    for which, share in (("A", 1), ("B", 0.5)):
        for case in ("c0", "c1", "c2", "c3"):
            nifti.write(tmp_path / which / "labelsTr" / f"{case}.nii.gz", Volume(liver(1), AFFINE))
            scan = Volume(np.full((10, 10, 10), 40, np.int16), AFFINE)
            nifti.write(tmp_path / which / "imagesTr" / f"{case}_0000.nii.gz", scan)
            nifti.write(tmp_path / f"pred{which}" / f"{case}.nii.gz", Volume(liver(share), AFFINE))
            (tmp_path / f"pred{which}" / f"{case}.json").write_text(names)
        (tmp_path / which / "dataset.json").write_text(json.dumps(facts))
    return tmp_path


PAIRS = ["A/labelsTr", "predA", "B/labelsTr", "predB"]


def test_the_command_keeps_eight_cases_of_folders_that_end_alike(hospitals):
    assert main(["evaluate", *PAIRS, "--json", "o.json", "--csv", "o.csv"]) == 0
    scores = evaluation_from_json((hospitals / "o.json").read_text(), where="o.json")
    assert sorted(row.case for row in scores.scores) == [f"{which}/c{n}" for which in "AB" for n in range(4)]
    assert len({row.patient for row in scores.scores}) == 8
    assert scores.summary[0].cases == 8
    assert scores.summary[0].mean == pytest.approx((1 + 2 / 3) / 2)
    assert scores.summary[0].low < scores.summary[0].mean < scores.summary[0].high
    rows = list(csv.DictReader((hospitals / "o.csv").read_text().splitlines()))
    assert len({row["case"] for row in rows}) == 8


def test_the_report_draws_cases_of_data_sets_under_the_names_of_the_scores(hospitals):
    assert main(["evaluate", "nnunet=A", "predA", "nnunet=B", "predB", "--html", "o.html"]) == 0
    page = (hospitals / "o.html").read_text()
    assert "No picture" not in page
    assert page.count("data:image/png") == 4  # the two best, the two worst
    for case in ("A/c0", "B/c3"):
        assert case in page


def test_versus_subtracts_the_other_predictions_case_by_case(hospitals, capsys):
    (hospitals / "predA" / "c3.nii.gz").unlink()
    assert main(["evaluate", *PAIRS, "--versus", "predB", "predB"]) == 2
    out, err = capsys.readouterr()
    line = next(line for line in out.split("PREDICTION minus --versus")[1].splitlines() if "liver" in line)
    assert "7" in line.split()
    # A is better than predB by 1/3 in three of seven patients, B is the same as itself in four.
    assert f"{3 / 7 / 3:+.4f}" in line
    assert "1 cases that only one of the two has scored are in no difference: A/c3" in " ".join(err.split())
    assert "A/c3" in err.split("no difference")[1]


def test_what_the_other_predictions_lack_is_a_problem_too(hospitals, capsys):
    (hospitals / "other").mkdir()
    for name in ("c0", "c1"):
        for end in (".nii.gz", ".json"):
            (hospitals / "other" / f"{name}{end}").write_bytes((hospitals / "predA" / f"{name}{end}").read_bytes())
    assert main(["evaluate", "A/labelsTr", "predA", "--versus", "other"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "2 cases that only one of the two has scored" in err
    assert "(--versus)" in err


def test_entries_of_a_data_set_that_are_no_cases_are_said(hospitals, capsys):
    (hospitals / "A" / "imagesTr" / "c2_0000.nii.gz").unlink()
    assert main(["evaluate", "nnunet=A", "predA"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "1 entries of the data set are not cases, so not scored: c2 (labels without an image)" in err
