"""Choosing among runs and post-processing, on made-up scores whose answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from viscera.config import Postprocessing
from viscera.errors import SettingError
from viscera.evaluation.scores import MEAN, UNANNOTATED, OrganScore
from viscera.labels import ABDOMENCT1K
from viscera.learning.cross_validation.choosing import (
    Candidate,
    choose_candidate,
    choose_tidying,
    findings_of,
    mean_dice,
    steps_of,
    words_of,
)


def table(liver, spleen=(), *, patients=None):
    """Return scores of patients 0, 1, 2 ...; those without a spleen's have none annotated."""
    who = patients or range(len(liver))
    scores = [
        OrganScore(f"c{n}", f"p{p}", "liver", {"dice": dice})
        for n, (p, dice) in enumerate(zip(who, liver, strict=True))
    ]
    return scores + [OrganScore(f"c{n}", f"p{n}", "spleen", {"dice": dice}) for n, dice in enumerate(spleen)]


def noisy(mean, count=12, seed=0, spread=0.03):
    return (mean + np.random.default_rng(seed).normal(0, spread, count)).tolist()


BASE = Candidate("base", table(noisy(0.9), noisy(0.8, 8)), 5)
BETTER = Candidate("better", table([one + 0.03 for one in noisy(0.9)], [one + 0.02 for one in noisy(0.8, 8)]), 5)
LIKE_IT = Candidate("like it", table(noisy(0.9, seed=1), noisy(0.8, 8, seed=2)), 10)


def test_the_run_with_the_highest_mean_dice_is_taken():
    found = choose_candidate([BASE, BETTER])
    assert found.chosen is BETTER
    expected = (np.mean(noisy(0.9)) + np.mean(noisy(0.8, 8))) / 2
    assert found.dice["base"] == pytest.approx(expected)
    assert found.dice["better"] == pytest.approx(expected + 0.025)
    rows = {one.organ: one for one in found.findings}
    assert rows["liver"].difference == pytest.approx(0.03)
    assert (rows["liver"].patients, rows["spleen"].patients, rows[MEAN].patients) == (12, 8, 12)
    assert rows["liver"].better
    assert "better has the highest mean Dice" in found.why[0]


def test_all_together_are_taken_only_where_they_are_better_by_more_than_noise():
    better = replace(BETTER, name="both", networks=10)
    found = choose_candidate([BASE, replace(BASE, name="other")], better)
    assert found.chosen is better
    assert "10 networks instead of 5" in found.why[-1]
    same = choose_candidate([BASE, replace(BASE, name="other")], LIKE_IT)
    assert same.chosen is BASE
    assert "not taken" in same.why[-1]


def test_five_patients_cannot_be_more_than_noise():
    base = Candidate("base", table([0.8, 0.81, 0.82, 0.83, 0.84]), 5)
    for count, better in ((5, False), (6, True)):
        liver = noisy(0.8, count)
        found = findings_of(
            Candidate("base", table(liver), 5), Candidate("higher", table([one + 0.1 for one in liver]), 5)
        )
        assert [one.better for one in found if one.organ == "liver"] == [better]
    assert base.networks == 5


def test_cases_of_one_patient_count_as_one():
    who = [0, 0, 0, 0, 1, 1, 1, 1]
    first = Candidate("a", table([0.8] * 8, patients=who), 1)
    second = Candidate("b", table([0.9] * 8, patients=who), 1)
    [liver] = [one for one in findings_of(first, second) if one.organ == "liver"]
    assert (liver.patients, liver.better) == (2, False)


def test_only_cases_and_organs_that_all_have_scored_count():
    more = Candidate("more", [*BASE.scores, OrganScore("c99", "p99", "liver", {"dice": 0.0})], 5)
    found = choose_candidate([BASE, more])
    assert found.dice["more"] == found.dice["base"]
    with pytest.raises(SettingError, match="no organ of a case in common"):
        choose_candidate([BASE, Candidate("x", [OrganScore("other", "p", "liver", {"dice": 1.0})], 5)])


def test_organs_that_are_absent_or_not_annotated_have_no_part_in_the_mean():
    scores = [
        OrganScore("a", "a", "liver", {"dice": 0.5}),
        OrganScore("a", "a", "spleen", {"dice": math.nan}),
        OrganScore("a", "a", "kidney", {"dice": 0.1}, UNANNOTATED),
    ]
    assert mean_dice(scores) == 0.5
    assert math.isnan(mean_dice([]))


def tidied_score(settings: Postprocessing, count: int = 12):
    """Return scores of a world in which filling holes helps the spleen, one piece the liver, two in vain; edges only both."""
    liver, spleen = np.array(noisy(0.9, count)), np.array(noisy(0.8, count, seed=3))
    liver = liver + 0.02 * (settings.largest_components.get("liver") == 1) + 0.01 * ("liver" in settings.edge_by_hu_mm)
    spleen = spleen + 0.03 * ("spleen" in settings.fill_holes) - 0.05 * ("spleen" in settings.largest_components)
    spleen[0] += 0.4 * ("spleen" in settings.edge_by_hu_mm)  # of one patient: chance
    return table(liver.tolist(), spleen.tolist())


def test_post_processing_is_taken_organ_by_organ_where_it_helps():
    steps = steps_of(Postprocessing(edge_by_hu_mm={"liver": 1.5, "spleen": 1.5}), ABDOMENCT1K)
    taken, findings = choose_tidying(steps, tidied_score)
    assert taken == Postprocessing(
        fill_holes=("spleen",), largest_components={"liver": 1}, edge_by_hu_mm={"liver": 1.5}
    )
    chance = next(one for one in findings if one.what == "edges moved by HU" and one.organ == "spleen")
    assert chance.difference > 0.03
    assert not chance.better
    whole = {one.organ: one.difference for one in findings if one.what == "all that was taken"}
    assert whole["liver"] == pytest.approx(0.03)
    assert whole["spleen"] == pytest.approx(0.03)
    assert words_of(taken) == "holes filled (spleen), largest piece kept (liver), edges moved by HU (liver)"


def test_nothing_is_taken_where_nothing_changes():
    steps = steps_of(Postprocessing(), ABDOMENCT1K)
    taken, findings = choose_tidying(steps, lambda settings: table(noisy(0.9), noisy(0.8)))
    assert taken == Postprocessing()
    assert all(one.difference == 0 and one.p_value == 1 for one in findings)
    assert words_of(taken) == "none"


def test_what_is_tried_is_what_every_organ_may_have_and_what_the_recipe_has():
    own = Postprocessing(opening_mm={"liver": 2.0}, smallest_ml={"spleen": 3.0}, largest_components={"pancreas": 3})
    steps = dict(steps_of(own, ABDOMENCT1K))
    assert list(steps) == ["opening_mm", "fill_holes", "smallest_ml", "largest_components"]
    assert steps["opening_mm"] == {"liver": 2.0}
    assert list(steps["fill_holes"]) == list(ABDOMENCT1K.organs)
    assert steps["largest_components"] == {"liver": 1, "kidney": 2, "spleen": 1, "pancreas": 3}
