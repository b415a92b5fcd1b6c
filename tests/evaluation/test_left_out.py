"""Scores that are in no mean and no difference are counted beside it: HD95 of missed organs, cases of one evaluation only."""

import json
import math

import numpy as np
import pytest

from viscera.api.scoring import compare as compare_evaluations
from viscera.cli.evaluate import mean_text
from viscera.evaluation.comparing import cases_of_one, compare
from viscera.evaluation.scores import Evaluation, OrganScore, evaluation_from_json
from viscera.evaluation.statistics import summarise
from viscera.reports.page import render
from viscera.reports.scores import evaluation_page


def scores(organ, hd95s, dices=None):
    """One case per distance; None: truth and prediction lack the organ."""
    rows = []
    for n, hd95 in enumerate(hd95s):
        dice = math.nan if hd95 is None else 0.0 if math.isinf(hd95) else 0.9
        values = {"dice": dice if dices is None else dices[n], "hd95_mm": math.nan if hd95 is None else hd95}
        rows.append(OrganScore(f"c{n}", f"p{n}", organ, values))
    return rows


def evaluation(rows):
    return Evaluation("volume", tuple(rows), summarise(rows, np.random.default_rng(0)))


def hd95s(found):
    return {row.organ: row for row in found.summary if row.metric == "hd95_mm"}


MIXED = [*scores("liver", [2.0, math.inf, 4.0, None]), *scores("spleen", [math.inf, math.inf, None])]


def test_organs_without_a_distance_are_counted_and_absent_ones_are_not():
    rows = hd95s(evaluation(MIXED))
    assert (rows["liver"].mean, rows["liver"].cases, rows["liver"].left_out) == (3, 2, 1)
    assert (rows["spleen"].cases, rows["spleen"].left_out) == (0, 2)
    assert math.isnan(rows["spleen"].mean)
    assert (rows["mean"].mean, rows["mean"].cases, rows["mean"].left_out) == (3, 2, 3)


def test_other_metrics_leave_nothing_out():
    assert {row.left_out for row in evaluation(MIXED).summary if row.metric != "hd95_mm"} == {0}


def test_an_evaluation_in_which_every_organ_was_missed_says_so():
    rows = hd95s(evaluation(scores("liver", [math.inf, math.inf])))
    assert math.isnan(rows["mean"].mean)
    assert rows["mean"].left_out == 2
    assert mean_text(rows["mean"], interval=False) == "- (2 left out)"


def test_the_number_stands_in_json_and_is_worked_out_for_older_files():
    found = evaluation(MIXED)
    content = json.loads(found.to_json())
    assert [row["left_out"] for row in content["summary"] if row["metric"] == "hd95_mm"] == [1, 2, 3]
    for row in content["summary"]:
        del row["left_out"]
    for text in (found.to_json(), json.dumps(content)):
        rows = hd95s(evaluation_from_json(text, where="x.json"))
        assert {organ: row.left_out for organ, row in rows.items()} == {"liver": 1, "spleen": 2, "mean": 3}


def test_the_report_shows_the_number_beside_the_mean():
    page = render(evaluation_page(evaluation(MIXED), "x"))
    assert "1 left out" in page
    assert "2 left out" in page
    assert "3 left out" in page


def test_a_difference_counts_what_has_no_partner():
    first = scores("liver", [2.0, math.inf, 4.0, None])
    second = scores("liver", [1.0, 3.0, math.inf, None, 5.0])
    liver, mean = compare(first, second, np.random.default_rng(0), metric="hd95_mm")
    assert (liver.difference, liver.patients, liver.left_out) == (-1, 1, 3)  # second minus first
    assert mean.left_out == 3
    assert cases_of_one(first, second) == ["c4"]
    same = compare(first, first, np.random.default_rng(0))[0]
    assert same.left_out == 0


def test_comparing_evaluations_warns_of_cases_that_only_one_has():
    first, second = evaluation(scores("liver", [2.0, 3.0])), evaluation(scores("liver", [2.0, 3.0, 4.0]))
    with pytest.warns(UserWarning, match="1 cases that only one evaluation has scored are in no difference: c2"):
        compare_evaluations(first, second)
