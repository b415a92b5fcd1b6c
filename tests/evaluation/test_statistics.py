"""Means, intervals and differences of scores: by hand, by plain loops over the same draws, and by SciPy's test."""

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from viscera.errors import SettingError
from viscera.evaluation.comparing import Comparison, cases_of_one, compare
from viscera.evaluation.lesions import RATES
from viscera.evaluation.scores import OrganScore
from viscera.evaluation.statistics import SUMMARISED, bootstrap_interval, summarise

COHORT = {
    # case: (patient, {organ: Dice})
    "a1": ("a", {"liver": 0.9, "spleen": 0.5}),
    "a2": ("a", {"liver": 0.7}),
    "b1": ("b", {"liver": 0.8, "spleen": math.nan}),
    "c1": ("c", {"liver": 0.2, "spleen": 0.3}),
    "d1": ("d", {"spleen": 0.9}),
}


def scores_of(cohort, metric="dice", group="annotated"):
    return [
        OrganScore(case, patient, organ, {metric: value}, group)
        for case, (patient, organs) in cohort.items()
        for organ, value in organs.items()
    ]


def drawn_means(columns, draws):
    """Average per column over the values of the drawn patients, then over the columns that have any, one draw at a time."""
    means = []
    for draw in draws:
        each = []
        for column in columns:
            values = [
                value for times, patient in zip(draw, "abcd", strict=True) for value in column.get(patient, []) * times
            ]
            if values:
                each.append(sum(values) / len(values))
        means.append(sum(each) / len(each))
    return means


@pytest.fixture
def rows():
    found = summarise(scores_of(COHORT), np.random.default_rng(5))
    return {row.organ: row for row in found}


def test_means_are_those_by_hand_in_the_order_of_the_organs(rows):
    assert list(rows) == ["liver", "spleen", "mean"]
    liver, spleen, mean = rows.values()
    assert liver.mean == pytest.approx((0.9 + 0.7 + 0.8 + 0.2) / 4)
    assert spleen.mean == pytest.approx((0.5 + 0.3 + 0.9) / 3)
    assert mean.mean == pytest.approx((liver.mean + spleen.mean) / 2)
    assert [(row.metric, row.cases, row.group, row.left_out) for row in rows.values()] == [
        ("dice", 4, "all", 0),
        ("dice", 3, "all", 0),
        ("dice", 5, "all", 0),
    ]


def test_intervals_are_the_percentiles_of_means_over_drawn_patients(rows):
    generator = np.random.default_rng(5)
    liver = {"a": [0.9, 0.7], "b": [0.8], "c": [0.2]}
    spleen = {"a": [0.5], "c": [0.3], "d": [0.9]}
    # Three patients have a liver, three a spleen, four any of them; draws are made in that order.
    for organ, patients in (("liver", "abc"), ("spleen", "acd")):
        draws = generator.multinomial(3, [1 / 3] * 3, size=2000)
        column = {"abcd"[n]: (liver if organ == "liver" else spleen)[patient] for n, patient in enumerate(patients)}
        low, high = np.percentile(drawn_means([column], [[*draw, 0] for draw in draws]), [2.5, 97.5])
        assert (rows[organ].low, rows[organ].high) == pytest.approx((low, high))
    draws = generator.multinomial(4, [1 / 4] * 4, size=2000)
    low, high = np.percentile(drawn_means([liver, spleen], draws), [2.5, 97.5])
    assert (rows["mean"].low, rows["mean"].high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("options", "resamples", "level"), [({}, 2000, 0.95), ({"resamples": 300, "level": 0.5}, 300, 0.5)]
)
def test_the_interval_of_given_values_covers_the_given_level(options, resamples, level):
    values = {"a": [0.9, 0.7], "b": [0.8], "c": [0.2], "d": []}
    mean, low, high = bootstrap_interval(values, np.random.default_rng(1), **options)
    draws = np.random.default_rng(1).multinomial(3, [1 / 3] * 3, size=resamples)
    means = drawn_means([values], [[*draw, 0] for draw in draws])
    assert mean == pytest.approx(0.65)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])))
    assert high - low > 0.05


def test_an_organ_that_no_drawn_patient_has_is_left_out_of_that_draws_mean():
    scores = scores_of({"a": ("a", {"liver": 0.2}), "b": ("b", {"spleen": 0.8})})
    mean = summarise(scores, np.random.default_rng(0))[-1]
    # Twice a, once each, twice b: 0.2, 0.5, 0.8.
    assert (mean.mean, mean.low, mean.high) == pytest.approx((0.5, 0.2, 0.8))


def test_intervals_of_many_values_are_percentiles_of_2000_draws_to_the_last_digit():
    values = dict(zip("abcdefghijklmnopqrst", np.random.default_rng(2).random(20).tolist(), strict=True))
    draws = np.random.default_rng(3).multinomial(20, [1 / 20] * 20, size=2000)
    means = draws @ list(values.values()) / 20
    expected = np.percentile(means, [2.5, 97.5])
    found = bootstrap_interval({patient: [value] for patient, value in values.items()}, np.random.default_rng(3))
    assert found[1:] == pytest.approx(tuple(expected), rel=1e-12)
    cohort = {patient: (patient, {"liver": value}) for patient, value in values.items()}
    liver = summarise(scores_of(cohort), np.random.default_rng(3))[0]
    assert (liver.low, liver.high) == pytest.approx(tuple(expected), rel=1e-12)


def test_two_patients_have_an_interval_and_one_has_none():
    assert bootstrap_interval({"a": [0.2], "b": [0.6]}, np.random.default_rng(0)) == pytest.approx((0.4, 0.2, 0.6))
    mean, low, high = bootstrap_interval({"a": [0.2, 0.5], "b": []}, np.random.default_rng(0))
    assert mean == pytest.approx(0.35)
    assert np.isnan([low, high]).all()
    assert np.isnan(bootstrap_interval({"a": []}, np.random.default_rng(0))).all()


@pytest.mark.parametrize("metric", [one for one in SUMMARISED if one not in RATES])
def test_every_metric_that_the_scores_have_is_summarised_and_no_other(metric):
    found = summarise(scores_of(COHORT, metric), np.random.default_rng(0))
    assert {row.metric for row in found} == {metric}
    assert summarise(scores_of(COHORT, "truth_ml"), np.random.default_rng(0)) == ()


def test_groups_stand_apart_after_both_together_as_soon_as_one_score_is_unannotated():
    own = scores_of({"a1": ("a", {"liver": 0.9}), "b1": ("b", {"liver": 0.5})})
    other = scores_of({"a1": ("a", {"spleen": 0.1})}, group="unannotated")
    found = summarise([*own, *other], np.random.default_rng(0))
    assert [(row.group, row.organ, row.mean) for row in found] == [
        ("all", "liver", 0.7),
        ("all", "spleen", 0.1),
        ("all", "mean", pytest.approx(0.4)),
        ("annotated", "liver", 0.7),
        ("annotated", "mean", 0.7),
        ("unannotated", "spleen", 0.1),
        ("unannotated", "mean", 0.1),
    ]
    assert {row.group for row in summarise(own, np.random.default_rng(0))} == {"all"}


def test_infinite_distances_are_counted_for_their_organ_and_for_the_mean():
    values = {"a": ("a", {"liver": 2.0, "spleen": math.inf}), "b": ("b", {"liver": math.inf, "spleen": math.inf})}
    liver, spleen, mean = summarise(scores_of(values, "hd95_mm"), np.random.default_rng(0))
    assert (liver.mean, liver.cases, liver.left_out) == (2, 1, 1)
    assert math.isnan(spleen.mean)
    assert (spleen.cases, spleen.left_out) == (0, 2)
    assert (mean.mean, mean.cases, mean.left_out) == (2, 1, 3)


# Differences

BETTER = {
    "a1": ("a", {"liver": 0.95, "spleen": 0.9}),
    "a2": ("a", {"liver": 0.85}),
    "b1": ("b", {"liver": 0.8, "spleen": 0.7}),
    "c1": ("c", {"liver": 0.1, "spleen": 0.4}),
    "e1": ("e", {"spleen": 0.9}),
}


def test_differences_are_second_minus_first_each_patient_with_itself():
    liver, spleen, mean = compare(scores_of(COHORT), scores_of(BETTER), np.random.default_rng(3))
    by_patient = {"a": (0.05 + 0.15) / 2, "b": 0.0, "c": -0.1}
    draw = np.random.default_rng(3)
    for row, values in (
        (liver, by_patient),
        (spleen, {"a": 0.4, "c": 0.1}),
        (mean, {"a": ((0.05 + 0.4) / 2 + 0.15) / 2, "b": 0.0, "c": (-0.1 + 0.1) / 2}),
    ):
        expected = bootstrap_interval({patient: [value] for patient, value in values.items()}, draw)
        assert (row.difference, row.low, row.high) == pytest.approx(expected)
        assert row.patients == len(values)
        assert row.p_value == pytest.approx(wilcoxon([value for value in values.values() if abs(value) > 1e-9]).pvalue)
    assert [(row.organ, row.metric, row.left_out) for row in (liver, spleen, mean)] == [
        ("liver", "dice", 0),
        ("spleen", "dice", 3),  # b1 had none before, d1 and e1 are of one evaluation only
        ("mean", "dice", 3),
    ]


def test_rounding_is_no_difference_and_what_is_above_it_is_one():
    first = scores_of({f"c{n}": (f"p{n}", {"liver": 0.3}) for n in range(8)})
    for step, p_value in ((4e-13, 1.0), (2e-12, 2 / 2**8)):
        second = scores_of({f"c{n}": (f"p{n}", {"liver": 0.3 + step}) for n in range(8)})
        assert compare(first, second, np.random.default_rng(0))[0].p_value == pytest.approx(p_value)


def test_a_difference_of_one_millimetre_is_one():
    first, second = (
        scores_of({f"c{n}": (f"p{n}", {"liver": 3.0 + more}) for n in range(8)}, "hd95_mm") for more in (0, 1)
    )
    liver = compare(first, second, np.random.default_rng(0), metric="hd95_mm")[0]
    assert (liver.difference, liver.p_value) == (1, pytest.approx(2 / 2**8))


def test_organs_whose_differences_cancel_are_no_difference_in_the_mean():
    first = scores_of({f"c{n}": (f"p{n}", dict.fromkeys(("liver", "spleen", "kidney"), 0.0)) for n in range(8)})
    second = scores_of({f"c{n}": (f"p{n}", {"liver": 0.1, "spleen": 0.2, "kidney": -0.3}) for n in range(8)})
    assert np.mean([0.1, 0.2, -0.3]) > 0
    mean = compare(first, second, np.random.default_rng(0))[-1]
    assert (mean.organ, mean.difference, mean.p_value) == ("mean", 0, 1)


def test_the_metric_and_the_group_are_those_asked_for():
    own = scores_of({"a": ("a", {"liver": 2.0}), "b": ("b", {"liver": 3.0})}, "hd95_mm")
    other = scores_of({"a": ("a", {"spleen": 5.0})}, "hd95_mm", group="unannotated")
    moved = [OrganScore(row.case, row.patient, row.organ, {"hd95_mm": 1.0}, row.group) for row in [*own, *other]]
    generator = np.random.default_rng(0)
    found = compare([*own, *other], moved, generator, metric="hd95_mm")
    assert [(row.organ, row.metric, row.difference) for row in found] == [
        ("liver", "hd95_mm", -1.5),
        ("spleen", "hd95_mm", -4),
        ("mean", "hd95_mm", pytest.approx((-2.5 - 2) / 2)),
    ]
    for group, organ in (("annotated", "liver"), ("unannotated", "spleen")):
        rows = compare([*own, *other], moved, generator, metric="hd95_mm", group=group)
        assert [row.organ for row in rows] == [organ, "mean"]
    # An organ whose group is another in the second has no partner there.
    [row, _] = compare(
        own,
        [*moved[:1], OrganScore("b", "b", "liver", {"hd95_mm": 1.0}, "unannotated")],
        generator,
        metric="hd95_mm",
        group="annotated",
    )
    assert (row.difference, row.patients, row.left_out) == (-1, 1, 1)
    with pytest.raises(SettingError, match="there is no group 'anotated'"):
        compare(own, moved, generator, group="anotated")


def test_infinite_and_missing_distances_of_either_are_left_out_and_absent_organs_are_not():
    inf, nan = math.inf, math.nan
    pairs = [(1.0, 2.0), (inf, 2.0), (1.0, inf), (inf, inf), (nan, 2.0), (1.0, nan), (nan, nan), (nan, inf)]
    first, second = (
        scores_of({f"c{n}": (f"p{n}", {"liver": pair[side]}) for n, pair in enumerate(pairs)}, "hd95_mm")
        for side in (0, 1)
    )
    liver, mean = compare(first, second, np.random.default_rng(0), metric="hd95_mm")
    assert (liver.difference, liver.patients, liver.left_out, mean.left_out) == (1, 1, 6, 6)
    assert [row.left_out for row in compare(first, second, np.random.default_rng(0))] == [0, 0]


def test_without_pairs_there_is_no_difference_and_no_p_value():
    row = compare(scores_of({"a": ("a", {"liver": 1.0})}), [], np.random.default_rng(0))[0]
    assert row == Comparison("liver", "dice", row.difference, row.low, row.high, row.p_value, 0, 1)
    assert np.isnan([row.difference, row.low, row.high, row.p_value]).all()


def test_cases_of_one_evaluation_are_listed_those_of_the_first_before_those_of_the_second():
    assert cases_of_one(scores_of(COHORT), scores_of(BETTER)) == ["d1", "e1"]
    assert cases_of_one(scores_of(BETTER), scores_of(COHORT)) == ["e1", "d1"]
    assert cases_of_one(scores_of(COHORT), scores_of(COHORT)) == []
