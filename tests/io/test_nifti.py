import gzip
import itertools
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff

from viscera.errors import FileError, GeometryError
from viscera.io import nifti
from viscera.io.nifti import GridWarning
from viscera.volume import Volume

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]
AFFINE = np.array([[-0.8, 0, 0, 120.5], [0, -0.7, 0, 90], [0, 0, 2.5, -300], [0, 0, 0, 1]])
GRID_FIELDS = ("dim", "pixdim", "sform_code", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
               "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units", "dim_info", "toffset")  # fmt: skip


def scan(shape=(5, 4, 3), dtype="int16", seed=0):
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


def saved(path, voxels, affine=AFFINE, kind=nibabel.Nifti1Image, **fields):
    """Write with nibabel an array (x, y, z)."""
    image = kind(voxels, affine, dtype=voxels.dtype)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def patched(path, **fields):
    """Change header fields of a NIfTI-1 file in place, past nibabel's checks."""
    content = path.read_bytes()
    packed = path.name.endswith(".gz")
    content = gzip.decompress(content) if packed else content
    header = nibabel.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + content[348:]
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def orientations():
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            yield np.column_stack([axes, signs])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_reads_and_writes_as_nibabel_has_it(tmp_path, dtype, kind, suffix):
    path = saved(tmp_path / f"a{suffix}", scan(dtype=dtype), kind=kind)
    volume = nifti.read(path)
    assert volume.voxels.dtype == np.dtype(dtype)
    assert np.array_equal(volume.voxels, np.asarray(nibabel.load(path).dataobj).T)
    nifti.write(tmp_path / f"b{suffix}", volume)
    again = nibabel.load(tmp_path / f"b{suffix}")
    assert isinstance(again, kind)
    assert again.get_data_dtype() == np.dtype(dtype)
    assert np.array_equal(np.asarray(again.dataobj), scan(dtype=dtype))


def test_all_48_orientations_keep_voxels_and_places(tmp_path):
    plain = scan()
    for number, orientation in enumerate(orientations()):
        turned = apply_orientation(plain, orientation)
        affine = AFFINE @ inv_ornt_aff(orientation, plain.shape)
        path = saved(tmp_path / f"{number}.nii.gz", turned, affine)
        volume = nifti.read(path)
        assert np.array_equal(volume.voxels.T, turned)
        z, y, x = 1, 2, 0
        assert np.allclose(volume.affine @ [z, y, x, 1], nibabel.load(path).affine @ [x, y, z, 1], atol=1e-4)
        nifti.write(tmp_path / "out.nii.gz", volume, overwrite=True)
        out = nibabel.load(tmp_path / "out.nii.gz")
        assert np.array_equal(out.affine, nibabel.load(path).affine)
        assert np.array_equal(np.asarray(out.dataobj), turned)


def test_big_endian_files_are_read_natively_and_keep_their_grid(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(scan().astype(">i2"), AFFINE, header), tmp_path / "big.nii.gz")
    volume = nifti.read(tmp_path / "big.nii.gz")
    assert volume.voxels.dtype.isnative
    assert np.array_equal(volume.voxels.T, scan())
    nifti.write(tmp_path / "out.nii", volume)
    assert np.array_equal(nibabel.load(tmp_path / "out.nii").affine, nibabel.load(tmp_path / "big.nii.gz").affine)
    assert np.array_equal(nibabel.load(tmp_path / "out.nii").dataobj, scan())


@pytest.mark.parametrize(("slope", "inter"), [(2.0, -1024.0), (1.0, -1024.0), (0.5, 0.0), (-1.0, 3.0)])
def test_scaled_voxels_equal_nibabels(tmp_path, slope, inter):
    path = patched(saved(tmp_path / "a.nii.gz", scan()), scl_slope=slope, scl_inter=inter)
    volume = nifti.read(path)
    assert volume.voxels.dtype == np.float32
    assert np.allclose(volume.voxels.T, nibabel.load(path).get_fdata(), rtol=1e-6)
    nifti.write(tmp_path / "out.nii.gz", volume)
    assert np.array_equal(nibabel.load(tmp_path / "out.nii.gz").get_fdata(), volume.voxels.T)


@pytest.mark.parametrize(("slope", "inter"), [(0, 5), (np.nan, np.nan), (np.inf, 0), (1, 0), (np.nan, 7)])
def test_no_scaling_keeps_the_stored_type(tmp_path, slope, inter):
    path = patched(saved(tmp_path / "a.nii", scan()), scl_slope=slope, scl_inter=inter)
    assert nifti.read(path).voxels.dtype == np.int16


def test_trailing_axes_of_one_are_dropped_and_come_back(tmp_path):
    path = saved(tmp_path / "a.nii.gz", scan((5, 4, 3, 1)))
    volume = nifti.read(path)
    assert volume.shape == (3, 4, 5)
    nifti.write(tmp_path / "b.nii.gz", volume)
    assert nibabel.load(tmp_path / "b.nii.gz").shape == (5, 4, 3, 1)


def test_output_has_the_inputs_grid_to_the_bit_and_none_of_its_text(tmp_path):
    turn = np.eye(4)
    turn[:3, :3] = sitk_rotation(0.2, -0.1, 0.3) @ np.diag([0.71, 0.73, 2.5])
    path = saved(tmp_path / "a.nii.gz", scan(), turn, descrip=b"Jane Doe", aux_file=b"Doe", intent_name=b"Doe",
                 db_name=b"Doe 1970", qform_code=2, sform_code=1, xyzt_units=10, toffset=3.5, cal_max=400)  # fmt: skip
    image = nibabel.load(path)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"born 1970"))
    nibabel.save(image, path)
    volume = nifti.read(path)
    assert np.array_equal(volume.voxels.T, scan())
    nifti.write(tmp_path / "b.nii.gz", replace(volume, voxels=(volume.voxels > 50)))
    before, after = nibabel.load(path).header, nibabel.load(tmp_path / "b.nii.gz").header
    for field in GRID_FIELDS:
        assert np.array_equal(before[field], after[field]), field
    assert after["datatype"] == 2
    raw = gzip.decompress((tmp_path / "b.nii.gz").read_bytes())
    assert b"Doe" not in raw
    assert b"1970" not in raw
    assert len(raw) == 352 + volume.voxels.size
    assert (after["cal_max"], len(after.extensions)) == (0, 0)


def sitk_rotation(x, y, z):
    return np.array(sitk.Euler3DTransform((0, 0, 0), x, y, z).GetMatrix()).reshape(3, 3)


def test_simpleitk_sees_the_same_place(tmp_path):
    affine = np.eye(4)
    affine[:3, :3] = sitk_rotation(0.3, 0.2, -0.4) @ np.diag([2.5, 0.7, 0.8])  # columns z, y, x
    affine[:3, 3] = [10, -20, 30]
    for suffix in (".nii", ".nii.gz"):
        nifti.write(tmp_path / f"a{suffix}", Volume(scan((3, 4, 5)), affine))
        image = sitk.ReadImage(tmp_path / f"a{suffix}")
        lps = np.diag([-1, -1, 1])
        assert np.allclose(image.GetOrigin(), lps @ affine[:3, 3], atol=1e-4)
        assert np.allclose(image.GetSpacing(), (0.8, 0.7, 2.5), atol=1e-5)
        directions = np.array(image.GetDirection()).reshape(3, 3)
        assert np.allclose(directions, lps @ (affine[:3, [2, 1, 0]] / [0.8, 0.7, 2.5]), atol=1e-5)
        assert np.array_equal(sitk.GetArrayFromImage(image), scan((3, 4, 5)))


def test_simpleitks_files_are_read_where_it_put_them(tmp_path):
    image = sitk.GetImageFromArray(scan((3, 4, 5)))
    image.SetSpacing((0.8, 0.7, 2.5))
    image.SetOrigin((1, 2, 3))
    sitk.WriteImage(image, tmp_path / "a.nii.gz")
    volume = nifti.read(str(tmp_path / "a.nii.gz"))
    assert np.array_equal(volume.voxels, scan((3, 4, 5)))
    point = image.TransformIndexToPhysicalPoint((4, 3, 2))
    assert np.allclose(volume.affine @ [2, 3, 4, 1], [-point[0], -point[1], point[2], 1], atol=1e-4)


def test_a_sheared_grid_keeps_its_sform_and_claims_no_quaternion(tmp_path):
    affine = AFFINE[:, [2, 1, 0, 3]].copy()
    affine[0, 0] = 0.9  # slices shifted sideways, as a tilted gantry does
    nifti.write(tmp_path / "a.nii.gz", Volume(scan((3, 4, 5)), affine))
    assert np.allclose(nifti.read(tmp_path / "a.nii.gz").affine, affine, atol=1e-5)
    assert nibabel.load(tmp_path / "a.nii.gz").header["qform_code"] == 0


def test_long_axes_are_written_as_nifti2(tmp_path):
    nifti.write(tmp_path / "a.nii.gz", Volume(np.zeros((1, 1, 40000), np.uint8), np.diag([0.05, 0.05, 0.05, 1])))
    assert nifti.read(tmp_path / "a.nii.gz").shape == (1, 1, 40000)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    dtype=st.sampled_from(DTYPES),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 8)] * 3),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
)
def test_what_is_written_is_read(tmp_path, shape, dtype, angles, spacing, suffix):
    affine = np.eye(4)
    affine[:3, :3] = sitk_rotation(*angles) @ np.diag(spacing)
    volume = Volume(scan(shape, dtype), affine)
    nifti.write(tmp_path / f"a{suffix}", volume, overwrite=True)
    again = nifti.read(tmp_path / f"a{suffix}")
    assert np.array_equal(again.voxels, volume.voxels)
    assert again.voxels.dtype == volume.voxels.dtype
    assert np.allclose(again.affine, affine, atol=1e-5)


def test_the_sform_wins_and_disagreement_is_reported(tmp_path):
    image = nibabel.Nifti1Image(scan(), AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] += 12
    image.set_sform(moved, 1)
    image.set_qform(AFFINE, 1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    with pytest.warns(
        GridWarning, match=r"a\.nii\.gz: sform and qform place the volume up to 12\.0 mm apart; the sform"
    ):
        volume = nifti.read(tmp_path / "a.nii.gz")
    assert np.isclose(volume.affine[0, 3], moved[0, 3])


def test_a_difference_below_the_tolerance_is_no_news(tmp_path):
    image = nibabel.Nifti1Image(scan(), AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] += 0.9
    image.set_sform(moved, 1)
    image.set_qform(AFFINE, 1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    nifti.read(tmp_path / "a.nii.gz")


def test_the_qform_counts_where_there_is_no_sform(tmp_path):
    path = patched(saved(tmp_path / "a.nii.gz", scan(), qform_code=1), sform_code=0)
    image = nibabel.load(path)
    image.set_qform(AFFINE, 1)
    image.header["sform_code"] = 0
    assert np.allclose(nifti.read(path).affine[:, [2, 1, 0, 3]], AFFINE, atol=1e-4)


def test_no_form_at_all_is_reported(tmp_path):
    path = patched(saved(tmp_path / "a.nii.gz", scan()), sform_code=0, qform_code=0)
    with pytest.warns(GridWarning, match="neither sform nor qform is set"):
        volume = nifti.read(path)
    assert np.allclose(volume.affine[:, [2, 1, 0, 3]], nibabel.load(path).affine)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"dim": [3, 0, 4, 3, 1, 1, 1, 1]}, FileError, "impossible dimensions"),
        ({"dim": [3, -5, 4, 3, 1, 1, 1, 1]}, FileError, "impossible dimensions"),
        ({"dim": [9, 5, 4, 3, 1, 1, 1, 1]}, FileError, "impossible dimensions"),
        ({"dim": [8, 5, 4, 3, 1, 1, 1, 1]}, FileError, "impossible dimensions"),
        ({"dim": [1, 60, 1, 1, 1, 1, 1, 1]}, FileError, r"1D image \(60\).*whole series"),
        ({"dim": [4, 5, 4, 1, 2, 1, 1, 1]}, FileError, r"4D image \(5x4x1x2\).*one 3D volume"),
        ({"dim": [2, 5, 4, 1, 1, 1, 1, 1]}, FileError, r"2D image \(5x4\).*whole series"),
        ({"dim": [4, 5, 4, 1, 3, 1, 1, 1]}, FileError, r"4D image \(5x4x1x3\).*one 3D volume"),
        ({"dim": [3, 5, 4, 4, 1, 1, 1, 1]}, FileError, "promises 5x4x4 voxels of 2 bytes, but the file ends"),
        ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, FileError, "more than the file holds"),
        ({"datatype": 128}, FileError, "RGB colour"),
        ({"datatype": 32}, FileError, "complex"),
        ({"datatype": 1536}, FileError, "type 1536"),
        ({"datatype": 77}, FileError, "type 77"),
        ({"datatype": 1}, FileError, "type 1 "),
        ({"magic": b"ni1"}, FileError, "half of a .hdr/.img pair"),
        ({"magic": b"xxx"}, FileError, "its magic is b'xxx'"),
        ({"sizeof_hdr": 7}, FileError, "does not begin with a NIfTI header"),
        ({"vox_offset": 0}, FileError, "puts the voxels at byte 0"),
        ({"vox_offset": 347}, FileError, "puts the voxels at byte 347"),
        ({"vox_offset": 2**31}, FileError, "puts the voxels at byte 2.147"),
        ({"vox_offset": 1e6}, FileError, "ends before its first voxel"),
        ({"scl_slope": 2, "scl_inter": np.nan}, FileError, "shifts them by nan"),
        ({"srow_x": [0, 0, 0, 0]}, GeometryError, r"a\.nii.*singular"),
        ({"srow_x": [np.nan, 0, 0, 0]}, GeometryError, r"a\.nii.*NaN or infinity"),
        ({"sform_code": 0, "qform_code": 0, "pixdim": [1, 0, 1, 1, 1, 1, 1, 1]}, GeometryError, r"\(pixdim\) of 0x1x1"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 3}, GeometryError, r"a\.nii"),
        ({"xyzt_units": 1}, GeometryError, "counts in metres.*Rewrite it in millimetres"),
        ({"xyzt_units": 3}, GeometryError, "counts in micrometres"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_bad_headers_are_named(tmp_path, fields, error, message, suffix):
    path = patched(saved(tmp_path / f"a{suffix}", scan()), **fields)
    with pytest.raises(error, match=message) as caught:
        nifti.read(path)
    assert caught.value.file == path
    assert str(path) in str(caught.value)
    assert re.fullmatch(r"[A-Z].*\.", caught.value.remedy)


def test_half_of_a_pair_is_named_in_nifti2_too(tmp_path):
    path = saved(tmp_path / "a.nii", scan(), kind=nibabel.Nifti2Image)
    path.write_bytes(path.read_bytes().replace(b"n+2", b"ni2", 1))
    with pytest.raises(FileError, match=r"a\.nii: this is half of a \.hdr/\.img pair\. Convert the pair"):
        nifti.read(path)


def test_voxels_may_follow_the_header_at_once_and_what_follows_the_magic_does_not_count(tmp_path):
    path = saved(tmp_path / "a.nii", scan())
    content = path.read_bytes()
    path.write_bytes(content[:348] + content[352:])
    assert np.array_equal(nifti.read(patched(path, vox_offset=348, magic=b"n+1x")).voxels.T, scan())


def bytes_of(tmp_path):
    return saved(tmp_path / "whole.nii.gz", scan((40, 40, 40))).read_bytes()


@pytest.mark.parametrize("kept", [3, 12, 200, 0.5, 0.99, -4, -1])
def test_truncated_gzip_is_named(tmp_path, kept):
    content = bytes_of(tmp_path)
    cut = int(kept * len(content)) if 0 < kept < 1 else kept
    (tmp_path / "a.nii.gz").write_bytes(content[:cut])
    with pytest.raises(FileError, match=r"a\.nii\.gz.*(truncated|damaged).*again"):
        nifti.read(tmp_path / "a.nii.gz")


def test_a_flipped_byte_is_found_by_the_checksum(tmp_path):
    content = bytearray(bytes_of(tmp_path))
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(FileError, match=r"a\.nii\.gz.*(damaged|truncated)"):
        nifti.read(tmp_path / "a.nii.gz")


def test_a_file_of_several_gzip_members_is_read(tmp_path):
    content = gzip.decompress(bytes_of(tmp_path))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
    assert np.array_equal(nifti.read(tmp_path / "a.nii.gz").voxels.T, scan((40, 40, 40)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.nii.gz", b"", "is empty"),
        ("a.nii", b"", "is empty"),
        ("a.nii.gz", b"not gzip at all" * 99, "not gzip-compressed.*rename it to a.nii"),
        ("a.nii", gzip.compress(b"x" * 999, mtime=0), "are gzip-compressed.*rename it to a.nii.gz"),
        ("a.nii.gz", gzip.compress(b"x" * 9, mtime=0), "is not NIfTI"),
        ("a.nii.gz", gzip.compress(b"", mtime=0), "is not NIfTI"),
        ("a.nii", b"x" * 9999, "is not NIfTI"),
        ("a.hdr", b"x" * 348, "Convert the .hdr/.img pair"),
        ("a.dcm", b"x" * 348, "should end in .nii.gz or .nii"),
    ],
)
def test_files_that_are_no_nifti_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=message):
        nifti.read(tmp_path / name)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        nifti.read(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").mkdir()
    with pytest.raises(FileError, match="is a folder"):
        nifti.read(tmp_path / "b.nii.gz")
    with pytest.raises(FileError, match="no such folder"):
        nifti.find_files(tmp_path / "c")


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path):
    volume = Volume(scan((3, 4, 5)), np.eye(4))
    nifti.write(tmp_path / "a.nii.gz", volume)
    before = (tmp_path / "a.nii.gz").read_bytes()
    with pytest.raises(FileError, match="exists already"):
        nifti.write(tmp_path / "a.nii.gz", Volume(volume.voxels + 1, volume.affine))
    assert (tmp_path / "a.nii.gz").read_bytes() == before
    nifti.write(tmp_path / "a.nii.gz", Volume(volume.voxels + 1, volume.affine), overwrite=True)
    assert np.array_equal(nifti.read(tmp_path / "a.nii.gz").voxels, volume.voxels + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path):
    volume = Volume(scan((3, 4, 5)), np.eye(4))
    nifti.write(tmp_path / "a.nii.gz", volume)
    before = (tmp_path / "a.nii.gz").read_bytes()
    with pytest.raises(FileError, match="cannot hold voxels of type float16"):
        nifti.write(tmp_path / "a.nii.gz", Volume(volume.voxels.astype(np.float16), np.eye(4)), overwrite=True)
    with pytest.raises(FileError, match=r"must end in \.nii\.gz or \.nii"):
        nifti.write(tmp_path / "a.mha", volume)
    with pytest.raises(FileError, match=r"cannot (be )?writ"):
        nifti.write(tmp_path / "a.nii.gz" / "b.nii.gz", volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_a_header_of_another_grid_is_refused(tmp_path):
    volume = nifti.read(saved(tmp_path / "a.nii.gz", scan()))
    with pytest.raises(GeometryError, match="header describes another grid. Make a Volume without") as caught:
        nifti.write(tmp_path / "b.nii.gz", replace(volume, affine=volume.affine + np.eye(4)))
    assert caught.value.file == tmp_path / "b.nii.gz"
    with pytest.raises(GeometryError, match="header describes another grid"):
        nifti.write(tmp_path / "b.nii.gz", replace(volume, voxels=volume.voxels[:, :, ::-1][:, :, 1:]))


def test_turned_and_swapped_arrays_are_written_as_they_are_seen(tmp_path):
    voxels = scan((3, 4, 5)).transpose(2, 0, 1)[::-1].astype(">i2")
    nifti.write(tmp_path / "a.nii.gz", Volume(voxels, np.eye(4)))
    assert np.array_equal(nifti.read(tmp_path / "a.nii.gz").voxels, voxels)


def test_equal_volumes_give_equal_files(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        nifti.write(tmp_path / name, Volume(scan((3, 4, 5)), np.eye(4)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_hidden_files_and_other_types_are_not_listed_but_whatever_has_a_scans_name_is(tmp_path):
    for name in ("b.nii.gz", "a.nii", "._a.nii", ".hidden.nii.gz", "c.txt", "D.NII.GZ"):
        (tmp_path / name).touch()
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "link.nii").symlink_to("nowhere")
    names = [path.name for path in nifti.find_files(tmp_path)]
    assert names == ["D.NII.GZ", "a.nii", "b.nii.gz", "folder.nii", "link.nii"]


def test_stem_takes_off_the_suffix_alone():
    names = ("a.b.nii.gz", "x.nii", "X.NII.GZ", "scan.mha")
    assert [nifti.stem(Path(name)) for name in names] == ["a.b", "x", "X", "scan.mha"]


def test_real_scans_equal_nibabels_and_come_back(shared_data, tmp_path):
    for path in sorted(shared_data.glob("totalsegmentator_example/*.nii.gz")):
        volume = nifti.read(path)
        assert np.array_equal(volume.voxels.T, np.asarray(nibabel.load(path).dataobj))
        nifti.write(tmp_path / path.name, volume)
        for field in GRID_FIELDS:
            assert np.array_equal(nibabel.load(path).header[field], nibabel.load(tmp_path / path.name).header[field])


# --- slab by slab


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["plain", "scaled", "big-endian"])
def test_slabs_together_are_what_is_read(tmp_path, kind, suffix, count):
    path = tmp_path / f"a{suffix}"
    if kind == "big-endian":
        header = nibabel.Nifti1Header(endianness=">")
        header.set_data_dtype(">i2")
        nibabel.save(nibabel.Nifti1Image(scan((5, 4, 7)).astype(">i2"), AFFINE, header), path)
    else:
        saved(path, scan((5, 4, 7)))
    if kind == "scaled":
        patched(path, scl_slope=2, scl_inter=-1024)
    whole = nifti.read(path)
    with nifti.open_slabs(str(path)) as opened:
        assert (opened.shape, opened.dtype) == (whole.shape, whole.voxels.dtype)
        assert np.array_equal(opened.affine, whole.affine)
        for _ in range(2):  # as often as one likes
            firsts, slabs = zip(*opened.slabs(count), strict=True)
            assert list(firsts) == list(range(0, 7, count))
            assert all(slab.dtype == whole.voxels.dtype and slab.dtype.isnative for slab in slabs)
            assert np.array_equal(np.concatenate(slabs), whole.voxels)
    nifti.write(tmp_path / "b.nii.gz", replace(opened.grid, voxels=whole.voxels))
    nifti.write(tmp_path / "c.nii.gz", whole)
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()


def test_the_grid_of_an_opened_file_takes_no_memory(tmp_path):
    with nifti.open_slabs(saved(tmp_path / "a.nii.gz", scan())) as opened:
        assert opened.grid.voxels.shape == opened.shape == (3, 4, 5)
        assert opened.grid.voxels.strides == (0, 0, 0)
        assert opened.grid.header is opened.header


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file of noise that is decompressed in many blocks, and its voxels."""
    voxels = np.random.default_rng(0).integers(-1000, 1000, (64, 200, 200)).astype(np.int16)
    path = tmp_path_factory.mktemp("large") / "a.nii.gz"
    nifti.write(path, Volume(voxels, np.eye(4)))
    return path, voxels


def test_what_a_truncated_file_holds_is_given_before_the_error(tmp_path, large):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(large[0].read_bytes()[:-200_000])
    seen = []
    with nifti.open_slabs(path) as opened, pytest.raises(FileError, match=r"a\.nii\.gz is (truncated|damaged)"):
        seen.extend(slab for _, slab in opened.slabs(1))
    assert 10 < len(seen) < 64
    assert np.array_equal(np.concatenate(seen), large[1][: len(seen)])


def test_missing_voxels_are_counted_from_the_first_slab_on(tmp_path):
    content = gzip.decompress(bytes_of(tmp_path))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(content[: 352 + 20 * 3200 + 100]))
    with (
        nifti.open_slabs(path) as opened,
        pytest.raises(FileError, match="but the file ends after 64100 bytes of them"),
    ):
        list(opened.slabs(3))


def test_a_wrong_checksum_is_found_at_the_end(tmp_path, large):
    content = bytearray(large[0].read_bytes())
    content[-6] ^= 0xFF
    (tmp_path / "a.nii.gz").write_bytes(content)
    seen = []
    with nifti.open_slabs(tmp_path / "a.nii.gz") as opened, pytest.raises(FileError, match="damaged"):
        seen.extend(slab for _, slab in opened.slabs(1))
    assert len(seen) > 40  # the last block is not given away unchecked


@pytest.mark.parametrize("error", [OSError("disk full"), EOFError("elsewhere"), FileNotFoundError("elsewhere")])
def test_what_goes_wrong_between_slabs_is_not_blamed_on_the_file(tmp_path, error):
    path = saved(tmp_path / "a.nii.gz", scan())

    def read_and_fail():
        with nifti.open_slabs(path) as opened:
            for _ in opened.slabs(1):
                raise error

    with pytest.raises(type(error), match="disk full|elsewhere"):
        read_and_fail()


def test_leaving_early_leaves_no_thread_and_no_open_file(large):
    before = threading.active_count()
    with nifti.open_slabs(large[0]) as opened:
        slabs = opened.slabs(1)
        next(slabs)
        assert threading.active_count() == before + 1
        slabs.close()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="closed file"):
        list(opened.slabs(1))


def test_doubts_about_the_place_are_said_when_the_file_is_opened(tmp_path):
    path = patched(saved(tmp_path / "a.nii.gz", scan()), sform_code=0, qform_code=0)
    with pytest.warns(GridWarning, match="neither sform nor qform is set") as caught, nifti.open_slabs(path) as opened:
        list(opened.slabs(1))
    assert len(caught) == 1


def test_importing_costs_no_nibabel():
    command = "import sys, viscera.io.nifti; sys.exit('nibabel' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", command], check=False, env=environment).returncode == 0
