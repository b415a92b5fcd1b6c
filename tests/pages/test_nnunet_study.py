"""What benchmarks/peers/nnunet.py gives nnU-Net: labels that say what is unknown, and as much training as fits."""

import json

import numpy as np
import pytest

from benchmarks.peers.nnunet import TRIED, length_of
from benchmarks.peers.nnunet_data import SHAPE, export, smaller_patients
from makers import nnunet_set
from viscera.io import nifti


def test_what_a_patient_does_not_annotate_is_ignored_where_no_annotated_organ_lies(tmp_path):
    data = nnunet_set(tmp_path / "data", {"whole": 1, "partly": 2})
    (data / "annotated.json").write_text(json.dumps({"partly": ["liver"]}))
    labels = nifti.read(data / "labelsTr/partly.nii.gz")
    labels.voxels[labels.voxels == 2] = 0  # the spleen was not looked for
    nifti.write(data / "labelsTr/partly.nii.gz", labels, overwrite=True)
    export(data, tmp_path / "raw")
    named = json.loads((tmp_path / "raw/dataset.json").read_text())["labels"]
    assert named == {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    exported = nifti.read(tmp_path / "raw/labelsTr/partly.nii.gz").voxels
    assert np.array_equal(exported == 1, labels.voxels == 1)
    assert set(np.unique(exported).tolist()) == {1, 3}
    assert set(np.unique(nifti.read(tmp_path / "raw/labelsTr/whole.nii.gz").voxels).tolist()) == {0, 1, 2}


def test_nnunet_has_no_ignore_label_where_all_is_known(tmp_path):
    data = nnunet_set(tmp_path / "data", {"whole": 1})
    export(data, tmp_path / "raw")
    assert "ignore" not in json.loads((tmp_path / "raw/dataset.json").read_text())["labels"]
    assert (tmp_path / "raw/imagesTr/whole_0000.nii.gz").read_bytes() == (
        data / "imagesTr/whole_0000.nii.gz"
    ).read_bytes()


@pytest.mark.parametrize("seconds", [60.0, 600.0, 7200.0])
def test_the_epochs_fill_the_time_and_do_not_exceed_it(seconds):
    iteration_s, between_s = 1.5, 2.0
    epoch_s = iteration_s * (TRIED + 1 / 3)
    length = length_of({"epoch_cpu_s": [9.0, epoch_s], "between_cpu_s": [between_s]}, seconds)
    taken = length["epochs"] * (between_s + iteration_s * (length["iterations"] + 1 / 3))
    assert taken <= seconds + 1e-6
    assert taken > seconds - length["epochs"] * iteration_s - between_s - 2 * iteration_s
    assert length["validations"] == 1


def test_there_is_one_step_even_where_none_fits():
    length = length_of({"epoch_cpu_s": [90.0, 90.0], "between_cpu_s": [2.0]}, 10.0)
    assert (length["epochs"], length["iterations"]) == (1, 1)


def test_smaller_patients_keep_their_place_in_the_world(tmp_path):
    data = nnunet_set(tmp_path / "data", {"one": 1})
    ((ct, labels, organs),) = smaller_patients(data)
    before = nifti.read(data / "labelsTr/one.nii.gz")
    assert ct.voxels.shape == labels.voxels.shape == SHAPE
    assert organs == {1: "liver", 2: "spleen"}
    volume_ml = np.count_nonzero(before.voxels == 1) * before.voxel_ml
    assert np.count_nonzero(labels.voxels == 1) * labels.voxel_ml == pytest.approx(volume_ml, rel=0.05)
    centres = [(one.affine @ np.append(np.argwhere(one.voxels == 1).mean(axis=0), 1))[:3] for one in (before, labels)]
    assert centres[1] == pytest.approx(centres[0], abs=0.5)
