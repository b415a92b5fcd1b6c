"""A folder of predictions that is none, and predictions without an organ."""

import pytest

from viscera.errors import FileError, LabelError
from viscera.evaluation.pairing import _files, common_space
from viscera.io.label_names import Names


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileError, match="none: no such file or folder"):
        _files(tmp_path / "none")


def test_a_prediction_that_names_no_organ_is_refused():
    with pytest.raises(LabelError, match="the prediction names no organs"):
        common_space(Names({1: "liver"}, ("liver",)), Names({}, ()))
