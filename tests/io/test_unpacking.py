"""What lies behind the end of a gzip file."""

import gzip

import numpy as np
import pytest

from viscera.errors import FileError
from viscera.io import nifti, unpacking
from viscera.io.nifti import GridWarning
from viscera.volume import Volume

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 4000, (3, 8, 8)).astype(np.int16)
LARGE = RNG.integers(0, 4000, (40, 200, 200)).astype(np.int16)
"""3 MB, compressed 2.5 MB: more than is read at a time."""


def packed(folder, voxels) -> bytes:
    nifti.write(folder / "whole.nii.gz", Volume(voxels, np.eye(4)), overwrite=True)
    return (folder / "whole.nii.gz").read_bytes()


@pytest.mark.parametrize("voxels", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("behind", [b"behind the end", b"\r\n", b"x", b"\0" * 700 + b"tail", b"\xff" * 3_000_000])
def test_bytes_behind_the_end_are_left_out_and_told(tmp_path, voxels, behind):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed(tmp_path, voxels) + behind)
    size = len(behind.lstrip(b"\0"))
    with pytest.warns(GridWarning, match=rf"a\.nii\.gz: {size} bytes behind the end of its gzip data are left out"):
        assert np.array_equal(nifti.read(path).voxels, voxels)


@pytest.mark.parametrize("zeros", [1, 511, 2_500_000])
def test_zeros_behind_the_end_are_padding(tmp_path, zeros):
    (tmp_path / "a.nii.gz").write_bytes(packed(tmp_path, SMALL) + b"\0" * zeros)
    assert np.array_equal(nifti.read(tmp_path / "a.nii.gz").voxels, SMALL)


def test_slab_by_slab_they_are_left_out_too(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed(tmp_path, LARGE) + b"behind")
    with nifti.open_slabs(path) as opened:
        for _ in range(2):
            with pytest.warns(GridWarning, match="6 bytes behind"):
                slabs = [slab for _, slab in opened.slabs(7)]
            assert np.array_equal(np.concatenate(slabs), LARGE)


def test_several_members_and_something_behind_them(tmp_path):
    content = gzip.decompress(packed(tmp_path, LARGE))
    members = [gzip.compress(content[first : first + 700_000]) for first in range(0, len(content), 700_000)]
    (tmp_path / "a.nii.gz").write_bytes(b"".join(members) + b"tail")
    with pytest.warns(GridWarning, match="4 bytes behind"):
        assert np.array_equal(nifti.read(tmp_path / "a.nii.gz").voxels, LARGE)


def test_a_member_whose_beginning_is_damaged_leaves_voxels_missing(tmp_path):
    content = gzip.decompress(packed(tmp_path, LARGE))
    first, second = gzip.compress(content[:1_000_000]), bytearray(gzip.compress(content[1_000_000:]))
    second[0] = 0x77
    (tmp_path / "a.nii.gz").write_bytes(first + second)
    with pytest.raises(FileError, match=r"promises .* voxels .* but the file ends after 999648 bytes"):
        nifti.read(tmp_path / "a.nii.gz")


def test_a_damaged_checksum_is_found_though_bytes_follow(tmp_path):
    content = bytearray(packed(tmp_path, SMALL))
    content[-8] ^= 0xFF
    (tmp_path / "a.nii.gz").write_bytes(bytes(content) + b"tail")
    with pytest.raises(FileError, match=r"a\.nii\.gz is damaged"):
        nifti.read(tmp_path / "a.nii.gz")


def test_a_file_that_unpacks_to_far_more_than_its_header_promises_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti, "MOST_BEHIND", 1 << 20)
    content = gzip.decompress(packed(tmp_path, SMALL))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content + bytes(4 << 20)))
    with pytest.raises(FileError, match="more than twice of that.*several volumes"):
        nifti.read(tmp_path / "a.nii.gz")


def test_reading_in_small_parts_gives_the_same(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed(tmp_path, SMALL) + b"tail")
    with path.open("rb") as file, unpacking.Forgiving(file) as stream:
        got = b"".join(iter(lambda: stream.read(37), b""))
        assert stream.behind == 4
    assert got == gzip.decompress(packed(tmp_path, SMALL))
