"""Whatever a case causes is that case's problem; the others are scored, and what cannot be read is counted."""

import json

import numpy as np
import pytest
from isal import igzip_threaded

from viscera.evaluation.evaluate import evaluate
from viscera.io import nifti
from viscera.volume import Volume


@pytest.fixture
def folders(tmp_path):
    """Return a folder of truths and one of predictions, of the cases a, b and c."""
    for folder in ("T", "P"):
        for number, case in enumerate("abc"):
            labels = np.zeros((5, 12, 12), np.uint8)
            labels[1:4, 3:9, 3 : 8 + number] = 1
            nifti.write(tmp_path / folder / f"{case}.nii.gz", Volume(labels, np.diag([3.0, 2.0, 2.0, 1.0])))
            (tmp_path / folder / f"{case}.json").write_text(json.dumps({"labels": {"1": "liver"}}))
    return tmp_path / "T", tmp_path / "P"


@pytest.mark.parametrize("error", [MemoryError, RecursionError, ZeroDivisionError, KeyError])
def test_whatever_a_case_causes_is_its_problem_and_the_others_are_scored(folders, monkeypatch, error):
    truth, prediction = folders
    opened = igzip_threaded.open

    def bad_voxels(file, *args, **more):
        if file.name == str(prediction / "b.nii.gz"):
            raise error("DOE^JANE")
        return opened(file, *args, **more)

    monkeypatch.setattr(igzip_threaded, "open", bad_voxels)
    told = []
    found = evaluate(truth, prediction, done=told.append)
    assert sorted(told) == ["a", "b", "c"]
    assert {score.case for score in found.scores} == {"a", "c"}
    (problem,) = found.problems
    assert problem.case == "b"
    assert error.__name__ in problem.what
    assert "DOE" not in f"{problem}"


def test_a_prediction_that_is_a_link_to_nothing_is_a_problem_and_not_left_out(folders):
    truth, prediction = folders
    (prediction / "b.nii.gz").unlink()
    (prediction / "b.nii.gz").symlink_to("gone.nii.gz")
    found = evaluate(truth, prediction)
    assert {score.case for score in found.scores} == {"a", "c"}
    assert any("link to a file that is not there" in problem.what for problem in found.problems)
