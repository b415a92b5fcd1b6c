"""Headers whose fields disagree, are 0, or describe what no scanner makes."""

import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from viscera.errors import FileError, GeometryError
from viscera.io import nifti, nifti_header
from viscera.io.nifti import GridWarning
from viscera.volume import Volume

VOXELS = np.random.default_rng(0).integers(0, 100, (5, 4, 3)).astype(np.int16)
AFFINE = np.array([[-0.8, 0, 0, 120.5], [0, -0.7, 0, 90], [0, 0, 2.5, -300], [0, 0, 0, 1]])


def write(path, *, affine=AFFINE, voxels=VOXELS, qform=True, sform=True, kind=nibabel.Nifti1Header, **fields):
    """Write a file past nibabel's checks; fields are those of the header, pixdim_0 is its pixdim[0]."""
    header = kind()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_qform(affine, 1 if qform else 0)
    header.set_sform(affine, 1 if sform else 0)
    header["vox_offset"] = header.sizeof_hdr + 4
    header["magic"] = b"n+1" if header.sizeof_hdr == 348 else b"n+2"
    header["scl_slope"] = 1
    for name, value in fields.items():
        field, _, place = name.partition("__")
        if place:
            header[field][int(place)] = value
        else:
            header[field] = value
    path.write_bytes(header.binaryblock + b"\0" * 4 + voxels.tobytes(order="F"))
    return path


def notes(path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nifti.read(path)
    assert all(issubclass(one.category, GridWarning) for one in caught)
    return [str(one.message) for one in caught]


def test_a_consistent_header_raises_no_doubt(tmp_path):
    assert notes(write(tmp_path / "a.nii")) == []


@pytest.mark.parametrize("qform", [True, False])
def test_spacing_that_only_pixdim_knows_is_told_strongly(tmp_path, qform):
    path = write(tmp_path / "a.nii", affine=np.eye(4), qform=qform, pixdim=[1, 3, 3, 3, 0, 0, 0, 0])
    [note] = notes(path)
    assert "sform and pixdim disagree on the spacing (1x1x1 against 3x3x3 mm along x, y, z); the sform is used" in note
    assert "all volumes are then wrong" in note
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert nifti.read(path).spacing_mm == (1, 1, 1)


@pytest.mark.parametrize(
    "pixdim", [[1, 0.8, 0.7, 5.0], [1, 0, 0, 0], [1, 0.8, 0.7, np.nan], [1, 2.5, 0.7, 0.8], [1, 1, 1, 1]]
)
def test_spacing_that_differs_between_sform_and_pixdim_is_told(tmp_path, pixdim):
    [note] = notes(write(tmp_path / "a.nii", qform=False, pixdim=[*pixdim, 0, 0, 0, 0]))
    assert "sform and pixdim disagree on the spacing (0.8x0.7x2.5 against" in note
    assert "volumes rest on it" in note


@pytest.mark.parametrize("pixdim", [[1, 0.8004, 0.7, 2.5], [1, -0.8, 0.7, 2.5]])
def test_rounded_spacing_and_a_sign_in_pixdim_are_no_news(tmp_path, pixdim):
    assert notes(write(tmp_path / "a.nii", qform=False, pixdim=[*pixdim, 0, 0, 0, 0])) == []


@pytest.mark.parametrize(
    ("qfac", "meant", "noted"), [(1, 1, 0), (-1, -1, 0), (0, 1, 0), (3, 1, 1), (-0.5, -1, 1), (np.nan, 1, 1)]
)
def test_only_the_sign_of_qfac_counts_and_0_is_1(tmp_path, qfac, meant, noted):
    path = write(tmp_path / "a.nii", sform=False, pixdim__0=qfac)
    assert len(notes(path)) == noted
    right = nibabel.Nifti1Header(write(tmp_path / "b.nii", sform=False, pixdim__0=meant).read_bytes()[:348])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = nifti.read(path)
    np.testing.assert_allclose(volume.affine[:, [2, 1, 0, 3]], right.get_qform(), atol=1e-5)
    nifti.write(tmp_path / "c.nii", volume)
    np.testing.assert_allclose(nibabel.load(tmp_path / "c.nii").affine, right.get_qform(), atol=1e-5)


def test_qfac_is_no_news_where_the_qform_is_not_used(tmp_path):
    assert notes(write(tmp_path / "a.nii", qform=False, pixdim__0=3)) == []


def test_a_qform_that_is_not_set_or_not_usable_raises_no_doubt_beside_a_good_sform(tmp_path):
    for fields in ({"qform": False, "qoffset_x": 500}, {"quatern_b": 3}, {"pixdim__1": -0.8}):
        path = write(tmp_path / "a.nii", **fields)
        assert notes(path) == []
        np.testing.assert_allclose(nifti.read(path).affine[:, [2, 1, 0, 3]], AFFINE, atol=1e-4)


def test_forms_that_are_exactly_a_millimetre_apart_are_no_news(tmp_path):
    for apart_mm, noted in ((1, 0), (1.25, 1)):
        assert len(notes(write(tmp_path / "a.nii", affine=np.eye(4), qoffset_x=apart_mm))) == noted


def test_simpleitk_places_a_file_with_qfac_0_where_we_do(tmp_path):
    path = write(tmp_path / "a.nii", sform=False, pixdim__0=0)
    image, volume = sitk.ReadImage(str(path)), nifti.read(path)
    point = image.TransformIndexToPhysicalPoint((4, 3, 2))
    np.testing.assert_allclose(volume.affine @ [2, 3, 4, 1], [-point[0], -point[1], point[2], 1], atol=1e-3)


@pytest.mark.parametrize("dim", [[4, 5, 4, 3, 0, 0, 0, 0], [5, 5, 4, 3, 0, 0, 1, 1], [7, 5, 4, 3, 1, 0, 0, 0]])
def test_a_trailing_axis_of_0_is_one_of_1(tmp_path, dim):
    path = write(tmp_path / "a.nii", dim=dim)
    volume = nifti.read(path)
    assert np.array_equal(volume.voxels.T, VOXELS)
    nifti.write(tmp_path / "b.nii", volume)
    assert np.array_equal(np.squeeze(nibabel.load(tmp_path / "b.nii").dataobj), VOXELS)


def test_a_negative_sform_code_is_none(tmp_path):
    path = write(tmp_path / "a.nii", sform_code=-1, srow_x=[0, 0, 0, 0])
    np.testing.assert_allclose(nifti.read(path).affine[:, [2, 1, 0, 3]], AFFINE, atol=1e-4)


def test_a_quaternion_that_rounding_made_too_long_is_a_rotation(tmp_path):
    path = write(tmp_path / "a.nii", sform=False, quatern_b=0, quatern_c=0, quatern_d=1.00002)
    np.testing.assert_allclose(nifti.read(path).affine[:, [2, 1, 0, 3]][:3, :3], AFFINE[:3, :3], atol=1e-2)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("longer", [1e-12, 1e-7, 2e-5, 4e-3])
def test_half_a_turn_whose_quaternion_is_too_long_stays_half_a_turn(tmp_path, kind, longer):
    path = write(tmp_path / "a.nii", kind=kind, sform=False, quatern_b=0, quatern_c=0, quatern_d=1 + longer)
    np.testing.assert_allclose(nifti.read(path).affine[:, [2, 1, 0, 3]], AFFINE, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pixdim": [1, 0, 0.7, 2.5, 0, 0, 0, 0]}, r"a spacing \(pixdim\) of 0x0.7x2.5 mm.*true spacing"),
        ({"pixdim": [1, 0.8, -0.7, 2.5, 0, 0, 0, 0]}, r"a spacing \(pixdim\) of 0.8x-0.7x2.5 mm"),
        ({"pixdim": [1, 0.8, 0.7, np.nan, 0, 0, 0, 0]}, r"a spacing \(pixdim\) of 0.8x0.7xnan mm"),
        ({"quatern_b": 3}, r"its qform is not a rotation .*set its sform"),
    ],
)
def test_a_qform_without_spacing_or_rotation_is_refused_in_our_words(tmp_path, fields, message):
    with pytest.raises(GeometryError, match=rf"a\.nii: .*{message}"):
        nifti.read(write(tmp_path / "a.nii", sform=False, **fields))


@pytest.mark.parametrize(
    ("factor", "guess"),
    [
        (1000, "larger than any body.*perhaps its header counts in micrometres"),
        (1e-3, "finer than any scanner.*perhaps its header counts in metres"),
        (1e-6, "finer than any scanner.*perhaps its spacing is damaged"),
        (100, "larger than any body.*perhaps its header counts in micrometres"),
        (1e12, "larger than any body.*perhaps its spacing is damaged"),
    ],
)
def test_impossible_spacing_is_refused_with_what_it_probably_is(tmp_path, factor, guess):
    affine = AFFINE @ np.diag([factor, factor, factor, 1])
    with pytest.raises(GeometryError, match=rf"a\.nii: .*{guess}.*true spacing in millimetres"):
        nifti.read(write(tmp_path / "a.nii", affine=affine))


def test_a_scan_longer_than_a_table_is_refused_and_one_of_a_whole_body_is_not(tmp_path):
    thin = np.zeros((2, 2, 900), np.int16)
    for slice_mm, possible in ((2.2, True), (4.0, False)):
        path = write(tmp_path / "a.nii", voxels=thin, affine=np.diag([-0.8, -0.8, slice_mm, 1]))
        if possible:
            assert nifti.read(path).shape == (900, 2, 2)
        else:
            with pytest.raises(GeometryError, match=r"3600x1\.6x1\.6 mm in all"):
                nifti.read(path)


@pytest.mark.parametrize(
    "dim", [[3, 2**40, 2**40, 2**40], [3, 2**62, 2, 2], [3, 2**63 - 1, 2**63 - 1, 1], [3, 30000, 30000, 30000]]
)
def test_huge_sizes_are_refused_before_anything_is_allocated(tmp_path, dim):
    path = write(tmp_path / "a.nii", kind=nibabel.Nifti2Header, dim=[*dim, 1, 1, 1, 1])
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match="more than the file holds"):
            nifti.read(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dim", [[2**60, 5, 4, 3], [-3, 5, 4, 3], [3, -(2**63), 4, 3], [3, 5, 4, 0]])
def test_sizes_that_are_none_are_refused(tmp_path, dim):
    path = write(tmp_path / "a.nii", kind=nibabel.Nifti2Header, dim=[*dim, 1, 1, 1, 1])
    with pytest.raises(FileError, match="impossible dimensions"):
        nifti.read(path)


def test_more_slices_in_the_file_than_in_the_header_are_told(tmp_path):
    [note] = notes(write(tmp_path / "a.nii", dim=[3, 5, 4, 2, 1, 1, 1, 1]))
    assert "40 bytes follow the 5x4x2 voxels of 2 bytes that its header promises: slices may be missing" in note


# What is written, and to the last digit what is read


def header_of(volume, voxels=None, path="x.nii.gz"):
    return nifti_header.header_for(volume, volume.voxels if voxels is None else voxels, Path(path))


def test_a_new_header_is_nibabels_for_the_same_grid():
    volume = Volume(VOXELS.T, AFFINE[:, [2, 1, 0, 3]])
    header = header_of(volume)
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1)
    image.header.set_xyzt_units("mm")
    for field in ("dim", "pixdim", "datatype", "bitpix", "qform_code", "sform_code", "xyzt_units", "sizeof_hdr"):
        np.testing.assert_array_equal(header[field], image.header[field], field)
    for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_z"):
        np.testing.assert_allclose(header[field], image.header[field], atol=1e-6)
    assert (header["scl_slope"], header["scl_inter"], header["vox_offset"]) == (1, 0, 352)
    assert header.endianness == ("<" if np.little_endian else ">")


@pytest.mark.parametrize(("longest", "size"), [(2**15 - 1, 348), (2**15, 540)])
def test_axes_that_do_not_fit_into_int16_make_a_nifti2_header(longest, size):
    volume = Volume(np.broadcast_to(np.int16(0), (2, 1, longest)), np.diag([1.0, 1, 1e-3, 1]))
    header = header_of(volume)
    assert (header.sizeof_hdr, int(header["vox_offset"])) == (size, size + 4)
    assert header["dim"][:4].tolist() == [3, longest, 1, 2]


def test_a_header_that_came_from_a_file_keeps_its_grid_and_loses_its_text_and_window(tmp_path):
    path = write(
        tmp_path / "a.nii",
        descrip=b"somebody",
        aux_file=b"b.txt",
        intent_name=b"c",
        db_name=b"d",
        cal_min=-100,
        cal_max=200,
        scl_slope=2,
        scl_inter=-5,
        slice_duration=3,
    )
    volume = nifti.read(path)
    header = header_of(replace(volume, voxels=volume.voxels.astype(np.uint8)))
    assert {header[field].item() for field in ("descrip", "aux_file", "intent_name", "db_name")} == {b""}
    assert [float(header[field]) for field in ("cal_min", "cal_max", "scl_slope", "scl_inter")] == [0, 0, 1, 0]
    assert (float(header["slice_duration"]), header.get_data_dtype()) == (3, np.uint8)
    np.testing.assert_array_equal(header.get_sform(), nibabel.load(path).header.get_sform())


def test_voxels_that_nifti_cannot_hold_are_refused():
    volume = Volume(VOXELS.T, AFFINE[:, [2, 1, 0, 3]])
    with pytest.raises(
        FileError, match=r"^x\.nii\.gz: NIfTI cannot hold voxels of type bool\. Use int16 or uint8\.$"
    ) as caught:
        header_of(volume, volume.voxels > 3)
    assert caught.value.file == Path("x.nii.gz")


def test_a_sheared_grid_is_written_with_its_sform_alone():
    sheared = AFFINE[:, [2, 1, 0, 3]].copy()
    sheared[0, 1] = 0.2
    header = header_of(Volume(VOXELS.T, sheared))
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)
    slightly = AFFINE[:, [2, 1, 0, 3]].copy()
    slightly[0, 1] = 0.001  # 0.004 mm over four voxels, which the quaternion leaves out
    assert int(header_of(Volume(VOXELS.T, slightly))["qform_code"]) == 1


@pytest.mark.parametrize(("corner", "noted"), [(0, 0.99), (0, 1.01), (1, 0.99), (1, 1.01), (2, 0.99), (2, 1.01)])
def test_sform_and_qform_may_be_a_millimetre_apart_at_the_farthest_corner(tmp_path, corner, noted):
    # The qform keeps its place at one end of an axis and moves at the other: by a spacing that differs by less than 1 %.
    voxels = np.zeros([200 if axis == corner else 2 for axis in range(3)], np.int16)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    path = write(tmp_path / "a.nii", voxels=voxels, affine=affine)
    raw = bytearray(path.read_bytes())
    raw[76 + 4 * (corner + 1) : 80 + 4 * (corner + 1)] = np.array(1 + noted / 200, "<f4").tobytes()  # pixdim
    path.write_bytes(raw)
    found = notes(path)
    assert len(found) == (noted > 1)
    assert all(
        "sform and qform place the volume up to 1.0 mm apart; the sform is used. Check" in note for note in found
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("apart_mm", "noted"), [(1.2, 1), (0.9, 0)])
def test_sform_and_qform_may_be_apart_at_the_first_voxel_alone(tmp_path, axis, apart_mm, noted):
    # Three steps of 50 mm, over which the two come together: they differ by two thirds of it at the second voxel.
    voxels = np.zeros([3 if which == axis else 1 for which in range(3)], np.int16)
    moved = {f"pixdim__{axis + 1}": 50 - apart_mm / 3, f"qoffset_{'xyz'[axis]}": apart_mm}
    path = write(tmp_path / "a.nii", voxels=voxels, affine=np.diag([50.0, 50.0, 50.0, 1.0]), **moved)
    assert len(notes(path)) == noted


@pytest.mark.parametrize(("share", "noted"), [(0.0099, 0), (0.0104, 1)])
def test_spacing_may_differ_by_a_hundredth(tmp_path, share, noted):
    path = write(tmp_path / "a.nii", qform=False, pixdim=[1, 0.8 * (1 + share), 0.7, 2.5, 0, 0, 0, 0])
    assert len(notes(path)) == noted


@pytest.mark.parametrize(("length", "taken"), [(1.0049, True), (1.0051, False)])
def test_a_quaternion_may_be_too_long_by_half_a_percent(tmp_path, length, taken):
    parts = np.array([0.48, 0.6, 0.64]) * length
    path = write(
        tmp_path / "a.nii", sform=False, **dict(zip(("quatern_b", "quatern_c", "quatern_d"), parts, strict=True))
    )
    if not taken:
        with pytest.raises(GeometryError, match=r"its qform is not a rotation \(quaternion \(0\.48"):
            nifti.read(path)
        return
    # Half a turn about (b, c, d): 2 v v^T - 1. qfac 1.
    axis = np.array([0.48, 0.6, 0.64])
    affine = nifti.read(path).affine[:3, [2, 1, 0]]
    np.testing.assert_allclose(
        affine / [0.8, 0.7, 2.5],
        (2 * np.outer(axis, axis) - np.eye(3)) * [1, 1, np.sign(np.linalg.det(affine))],
        atol=2e-3,
    )


@pytest.mark.parametrize(("slope", "inter"), [(2, 0), (1, 3), (0.5, -1), (-1, 0)])
def test_scaling_is_read_as_simpleitk_reads_it(tmp_path, slope, inter):
    path = write(tmp_path / "a.nii", scl_slope=slope, scl_inter=inter)
    np.testing.assert_allclose(nifti.read(path).voxels, sitk.GetArrayFromImage(sitk.ReadImage(str(path))), rtol=1e-6)


@pytest.mark.parametrize(("slope", "inter"), [(1, 0), (0, 5), (np.nan, 5), (np.inf, 0)])
def test_scaling_by_nothing_leaves_the_stored_numbers(tmp_path, slope, inter):
    volume = nifti.read(write(tmp_path / "a.nii", scl_slope=slope, scl_inter=inter))
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels.T, VOXELS)
