"""Data sets as people leave them: two files for one organ, folders that hold something else, patients of templates."""

import numpy as np
import pytest

from makers import SMALL_AFFINE, nnunet_set
from viscera.datasets.synthetic import Cohort, check_cohort, write_cohort
from viscera.datasets.totalsegmentator import find
from viscera.errors import DataSetError
from viscera.io import nifti
from viscera.volume import Volume


def _masks(folder, *names):
    for name in names:
        nifti.write(folder / name, Volume(np.ones((2, 8, 8), np.uint8), SMALL_AFFINE))


def test_two_files_for_one_organ_or_scan_are_a_problem_of_their_case(tmp_path):
    _masks(tmp_path / "s1", "ct.nii.gz", "segmentations/liver.nii.gz", "segmentations/liver.nii")
    _masks(tmp_path / "s2", "ct.nii.gz", "ct.nii", "segmentations/liver.nii.gz")
    _masks(tmp_path / "s3", "ct.nii.gz", "segmentations/liver.nii.gz")
    sources, problems = find(tmp_path)
    assert [source.name for source in sources] == ["s3"]
    assert [(problem.case, problem.what) for problem in problems] == [
        ("s1", "two files for one scan or organ"),
        ("s2", "two files for one scan or organ"),
    ]


def test_a_folder_that_holds_something_else_takes_no_synthetic_patients(tmp_path):
    folder = nnunet_set(tmp_path / "mine", {"one": 1})
    before = sorted(folder.rglob("*"))
    for refuse in (check_cohort, lambda folder, cohort: write_cohort(folder, cohort, jobs=1)):
        with pytest.raises(DataSetError, match="mine is not empty. Give a new folder"):
            refuse(folder, Cohort(layout="nnunet", cases=1, shape=(16, 16, 16)))
    assert sorted(folder.rglob("*")) == before
