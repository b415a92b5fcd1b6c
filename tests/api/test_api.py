"""The public API: images of four kinds in any orientation, files, names; nothing loaded before it is used."""

import inspect
import re
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import viscera
from dicom_series import affine_of, ball, write_series
from makers import nearest, nearest_model
from viscera.volume import Turn, turn_volume

API_PAGE = Path(__file__).parents[2] / "docs" / "api.md"
MODEL = nearest_model((16, 32))
AFFINE = np.array([[-0.8, 0, 0, 20.0], [0, -1.5, 0, 30.0], [0, 0, 4.0, -50.0], [0, 0, 0, 1]])
"""Of (x, y, z)."""


def volume() -> viscera.Volume:
    hu = np.random.default_rng(0).choice([-350, -310, -90, 5, 120, 333], (7, 16, 32)).astype(np.int16)
    affine = np.array([[0, 0, -0.8, 20.0], [0, -1.5, 0, 30.0], [4.0, 0, 0, -50.0], [0, 0, 0, 1]])
    return viscera.Volume(hu, affine)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_a_nibabel_image_comes_back_as_one_on_its_grid_whatever_its_orientation(axes):
    for flips in product((False, True), repeat=3):
        turned = turn_volume(volume(), Turn(axes, flips))
        affine = turned.affine[:, [2, 1, 0, 3]]
        image = nibabel.Nifti1Image(turned.voxels.T, affine)
        found = viscera.segment(image, MODEL)
        assert type(found) is nibabel.Nifti1Image
        assert np.array_equal(found.affine, image.affine)
        assert np.array_equal(np.asanyarray(found.dataobj), nearest(turned.voxels).T)


def test_a_simpleitk_image_comes_back_as_one_whose_every_voxel_lies_where_it_lay(tmp_path):
    """SimpleITK's own reader and writer are the judges of what lies where."""
    viscera.write(tmp_path / "scan.nii.gz", volume())
    image = sitk.ReadImage(str(tmp_path / "scan.nii.gz"))
    found = viscera.segment(image, MODEL)
    assert isinstance(found, sitk.Image)
    assert (found.GetOrigin(), found.GetSpacing(), found.GetDirection()) == (
        image.GetOrigin(),
        image.GetSpacing(),
        image.GetDirection(),
    )
    sitk.WriteImage(found, str(tmp_path / "labels.nii.gz"))
    back = viscera.read(tmp_path / "labels.nii.gz")
    assert np.array_equal(back.voxels, nearest(volume().voxels))
    assert np.allclose(back.affine, volume().affine, atol=1e-5)


def test_arrays_come_back_as_arrays_in_the_order_of_nibabel():
    labels, affine = viscera.segment((volume().voxels.T, AFFINE), MODEL)
    assert affine is AFFINE
    assert np.array_equal(labels, nearest(volume().voxels).T)


def test_a_volume_comes_back_as_one_and_the_scan_is_left_as_it_was():
    scan = volume()
    before = scan.voxels.copy()
    found = viscera.segment(scan, MODEL)
    assert isinstance(found, viscera.Volume)
    assert np.array_equal(found.voxels, nearest(before))
    assert np.array_equal(scan.voxels, before)


def test_in_memory_and_from_file_to_file_are_the_same_labels(tmp_path):
    viscera.write(tmp_path / "scan.nii.gz", volume())
    result = viscera.predict(tmp_path / "scan.nii.gz", tmp_path / "out", MODEL)
    assert [path.name for path in result.labels] == ["scan.nii.gz"]
    assert not result.problems
    found = viscera.read(result.labels[0])
    assert np.array_equal(found.voxels, viscera.segment(volume(), MODEL).voxels)


def test_what_speaks_against_a_whole_result_is_told_beside_it(tmp_path):
    viscera.write(tmp_path / "scan.nii.gz", volume())
    air = viscera.Volume(np.where(volume().voxels > 0, 100, -90).astype(np.int16), volume().affine)
    air.voxels[:, :4] = -1000
    viscera.write(tmp_path / "air.nii.gz", air)
    scans = [tmp_path / "scan.nii.gz", tmp_path / "air.nii.gz"]
    result = viscera.predict(scans, tmp_path / "out", MODEL, organs="pancreas")
    assert any("none was found" in doubt for doubt in result.doubts[tmp_path / "out" / "air.nii.gz"])
    assert not any("none was found" in doubt for doubt in result.doubts.get(tmp_path / "out" / "scan.nii.gz", ()))


def test_a_dicom_series_comes_back_as_a_label_map_and_as_dicom(tmp_path):
    write_series(tmp_path / "series")
    write_series(tmp_path / "two" / "good")
    gap = write_series(tmp_path / "two" / "gap")
    gap[5].unlink()
    result = viscera.predict(tmp_path / "series", tmp_path / "out", MODEL, write=["seg", "rtstruct"])
    assert [path.name for path in result.labels] == ["series.nii.gz"]
    ct = viscera.Volume(ball(), affine_of())
    assert np.array_equal(viscera.read(result.labels[0]).voxels, viscera.segment(ct, MODEL).voxels)
    assert (tmp_path / "out" / "series.seg.dcm").is_file()
    assert (tmp_path / "out" / "series.rtstruct.dcm").is_file()
    viscera.predict(tmp_path / "series", tmp_path / "out", MODEL, write="capture")
    assert (tmp_path / "out" / "series.capture.dcm").is_file()
    with pytest.raises(viscera.VisceraError, match=r"'segg' is not an object that can be written. Did you mean 'seg'"):
        viscera.predict(tmp_path / "series", tmp_path / "out", MODEL, write=["segg"])
    with pytest.warns(UserWarning, match="1 of 2 scans could not be segmented"):
        result = viscera.predict(tmp_path / "two", tmp_path / "out2", MODEL)
    assert [path.name for path in result.labels] == ["good.nii.gz"]
    assert list(result.problems) == ["gap"]


def test_only_the_organs_that_are_asked_for_come_back():
    found = viscera.segment(volume(), MODEL, organs=["liver"]).voxels
    assert np.array_equal(found, np.where(nearest(volume().voxels) == 1, 1, 0))
    with pytest.raises(viscera.VisceraError, match=r"does not know the organ 'livr'\. Did you mean 'liver'"):
        viscera.segment(volume(), MODEL, organs="livr")


def test_an_empty_label_map_is_warned_of():
    air = viscera.Volume(np.where(volume().voxels > 0, 100, -90).astype(np.int16), volume().affine)
    air.voxels[:, :4] = -1000
    with pytest.warns(UserWarning, match="none of the organs was found, the label map is empty"):
        assert not viscera.segment(air, MODEL, organs="pancreas").voxels.any()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("scan.nii.gz", "is the name of a file. Read it first"),
        (volume().voxels, "without its affine nobody knows where left is"),
        ((volume().voxels[0], AFFINE), "2 axes"),
        ((volume().voxels, AFFINE[:3]), "affine must be a 4x4 matrix"),
        ((volume().voxels.astype(np.float32) / 1000, AFFINE), "not HU"),
        (sitk.Image(8, 8, sitk.sitkInt16), "2 dimensions"),
        (nibabel.Nifti1Image(np.zeros((8, 8, 8, 2), np.int16), AFFINE), "4"),
    ],
)
def test_what_is_not_a_ct_with_a_place_is_refused(image, message):
    with pytest.raises(viscera.VisceraError, match=message):
        viscera.segment(image, MODEL)


def test_importing_viscera_loads_neither_torch_nor_numpy_and_segmenting_no_simpleitk():
    command = (
        "import sys, viscera; assert not {'torch', 'numpy', 'nibabel'} & set(sys.modules), 'at import'; "
        "dir(viscera); viscera.__version__; assert 'numpy' not in sys.modules, 'at dir'; "
        "viscera.segment, viscera.read, viscera.view; assert 'SimpleITK' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_public_name_is_there_documented_with_an_example_and_on_the_reference_page():
    listed = set(re.findall(r"::: viscera\.(\w+)", API_PAGE.read_text()))
    assert listed == set(viscera.__all__) - {"__version__"}
    for name in listed:
        text = inspect.getdoc(getattr(viscera, name)) or ""
        assert text, name
        if inspect.isfunction(getattr(viscera, name)):
            assert ">>> " in text, name
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        viscera.segmnt  # noqa: B018


def test_an_error_crosses_processes_with_what_remedy_and_file():
    import pickle

    error = viscera.VisceraError("a is wrong", "Mend a.", file=Path("a"))
    back = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (back.what, back.remedy, back.file, str(back)) == ("a is wrong", "Mend a.", Path("a"), "a is wrong. Mend a.")
