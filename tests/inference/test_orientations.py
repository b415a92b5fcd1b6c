"""A real scan and copies of it, flipped, transposed and tilted on disk: the same label for each voxel, on the copy's own grid."""

import nibabel
import numpy as np
import pytest

from viscera.inference.jobs import ScanJob
from viscera.inference.model import load_model
from viscera.inference.predict import predict_file
from viscera.networks.cards import find_shipped

pytestmark = pytest.mark.slow

COPIES = {"flipped x": "RPS", "flipped y and z": "LAI", "transposed": "SAR", "transposed and flipped": "PIR"}


@pytest.fixture(scope="module")
def image(shared_data):
    return nibabel.load(shared_data / "hcc_tace" / "HCC_048_portal_venous_ct.nii.gz")


@pytest.fixture(scope="module")
def segment(tmp_path_factory):
    """Return what segments an image with the bundled weights and checks that the labels are on its grid."""
    model, folder = load_model(find_shipped(), accelerator="cpu"), tmp_path_factory.mktemp("scans")

    def labels_of(copy):
        scan, out = folder / "scan.nii.gz", folder / "out" / "scan.nii.gz"
        nibabel.save(copy, scan)
        predict_file(ScanJob(scan, out), model)
        labels = nibabel.load(out)
        for key in ("dim", "srow_x", "srow_y", "srow_z"):
            np.testing.assert_array_equal(labels.header[key][:4], nibabel.load(scan).header[key][:4])
        voxels = np.array(labels.dataobj.get_unscaled())
        out.unlink()
        out.with_name("scan.json").unlink()
        return voxels

    return labels_of


@pytest.fixture(scope="module")
def reference(image, segment):
    labels = segment(image)
    assert np.count_nonzero(labels) > 1_000_000
    return labels


@pytest.mark.parametrize("codes", COPIES.values(), ids=COPIES)
def test_a_copy_stored_in_another_order_gets_the_same_labels(image, segment, reference, codes):
    own, target = nibabel.orientations.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
    labels = segment(image.as_reoriented(nibabel.orientations.ornt_transform(own, target)))
    back = nibabel.orientations.ornt_transform(target, own)
    assert np.count_nonzero(nibabel.orientations.apply_orientation(labels, back) != reference) == 0


@pytest.mark.parametrize("degrees", [12.0, 30.0])
def test_a_tilted_grid_of_the_same_voxels_gets_the_same_labels(image, segment, reference, degrees):
    angle, turn = np.deg2rad(degrees), np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilted = nibabel.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine)
    assert np.count_nonzero(segment(tilted) != reference) == 0
