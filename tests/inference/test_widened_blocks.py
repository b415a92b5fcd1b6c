"""Blocks within a margin of wanted ones, against SciPy."""

from math import ceil

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from viscera.inference.plans import BLOCK
from viscera.inference.region import widened


@pytest.mark.parametrize(
    ("margin_mm", "spacing_mm"), [(0.0, (1.0, 1.0, 1.0)), (20.0, (3.0, 0.8, 1.5)), (90.0, (1.0, 2.0, 3.0))]
)
def test_blocks_are_widened_as_scipys_largest_value_within_reach(margin_mm, spacing_mm):
    wanted = np.random.default_rng(0).random((6, 9, 12)) < 0.02
    size = [2 * ceil(margin_mm / (BLOCK * mm)) + 1 for mm in spacing_mm]
    expected = maximum_filter(wanted.astype(np.uint8), size=size, mode="constant") > 0
    before = wanted.copy()
    assert np.array_equal(widened(wanted, margin_mm=margin_mm, spacing_mm=spacing_mm), expected)
    assert np.array_equal(wanted, before)
