"""Wilcoxon's signed-rank test against SciPy's, and by counting the signs."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import wilcoxon

from viscera.evaluation.signed_ranks import MOST_EXACT, signed_rank_p_value


@pytest.mark.parametrize("count", [1, 2, 6, 20, MOST_EXACT, MOST_EXACT + 1, 200])
def test_p_values_of_differences_without_ties_are_scipys(count):
    differences = np.random.default_rng(count).normal(0.3, 1, count)
    assert signed_rank_p_value(differences) == pytest.approx(wilcoxon(differences).pvalue, rel=1e-9)


def test_p_values_of_many_differences_with_ties_are_scipys():
    differences = np.round(np.random.default_rng(0).normal(0.2, 1, 120), 1)
    differences = differences[differences != 0]
    assert len(np.unique(np.abs(differences))) < len(differences)
    assert signed_rank_p_value(differences) == pytest.approx(wilcoxon(differences).pvalue, rel=1e-9)


@pytest.mark.parametrize("sizes", [[1, 1, 1], [1, 2, 2, 3], [0.1, 0.1, 0.2, 0.4, 0.4, 0.4, 0.9]])
def test_ties_are_exact_by_counting_all_choices_of_signs(sizes):
    ranks = np.array([np.mean([place + 1 for place, one in enumerate(sorted(sizes)) if one == size]) for size in sizes])
    sums = np.array([ranks[np.array(signs)].sum() for signs in product([False, True], repeat=len(sizes))])
    for signs in product([-1, 1], repeat=len(sizes)):
        above = ranks[np.array(signs) > 0].sum()
        expected = min(1.0, 2 * min(np.mean(sums <= above), np.mean(sums >= above)))
        assert signed_rank_p_value(np.array(sizes, float) * signs) == pytest.approx(expected)


def test_the_sign_of_all_differences_does_not_matter():
    differences = np.random.default_rng(3).normal(1, 1, 12)
    assert signed_rank_p_value(differences) == signed_rank_p_value(-differences)
