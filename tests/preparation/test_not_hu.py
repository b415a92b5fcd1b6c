"""Intensities that are seldom met and are not HU, and those whose statistics nobody measured."""

import numpy as np
import pytest

from viscera.config.preparation import ForegroundScore, RawHU
from viscera.errors import SettingError
from viscera.preparation.histogram import Histogram
from viscera.preparation.intensity import network_input


def _judged(*parts: tuple[float, float, int]) -> str:
    """What a scan of (mean, deviation, share of 100) looks like."""
    rng = np.random.default_rng(0)
    voxels = np.concatenate([rng.normal(mean, deviation, share * 400) for mean, deviation, share in parts])
    histogram = Histogram()
    histogram.add(rng.permutation(voxels).round().astype(np.int16).reshape(1, 200, 200))
    return " ".join(histogram.why_not_hu() or ())


def test_air_and_tissue_are_hu():
    assert _judged((-1000, 12, 50), (40, 30, 50)) == ""


def test_what_lies_where_neither_air_nor_padding_is_is_not_hu():
    said = _judged((-1500, 60, 20), (-1000, 12, 30), (40, 30, 50))
    assert "below -1300, where neither air nor padding is: not HU" in said
    assert said.endswith("Export the CT in HU.")


def test_a_score_without_its_statistics_is_refused_and_raw_hu_go_in_as_they_are():
    image = np.array([[-2000.0, -90, 60, 210, 3000]], np.float32)
    with pytest.raises(SettingError, match="intensity.measured is not known"):
        network_input(image, ForegroundScore())
    found = network_input(image, ForegroundScore(measured=(-90.0, 210.0, 60.0, 50.0)))
    assert found.tolist() == [[-3, -3, 0, 3, 3]]
    assert network_input(image, RawHU()).tolist() == image.tolist()
