"""Predictions without an organ."""

import pytest

from viscera.errors import LabelError
from viscera.evaluation.pairing import common_space
from viscera.io.label_names import Names


def test_a_prediction_that_names_no_organ_is_refused():
    with pytest.raises(LabelError, match="the prediction names no organs"):
        common_space(Names({1: "liver"}, ("liver",)), Names({}, ()))
