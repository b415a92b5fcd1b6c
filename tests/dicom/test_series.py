import gc
import hashlib
import os
import shutil

import numpy as np
import pydicom
import pytest

from dicom_series import affine_of, ball, write_enhanced, write_series
from viscera.dicom import decoding
from viscera.dicom.finding import find_series
from viscera.errors import FileError


def the_series(place):
    found = find_series(place)
    assert not found.problems
    [series] = found.series
    return series


def test_a_series_is_the_volume_that_was_written(tmp_path):
    write_series(tmp_path / "series")
    series = the_series(tmp_path / "series")
    volume = series.read()
    assert volume.voxels.dtype == np.int16
    assert (volume.voxels == ball()).all()
    assert volume.affine == pytest.approx(affine_of())
    assert (series.name, series.shape) == ("series", ball().shape)
    assert (series.notes, series.tilt_degrees, series.cannot_be_referenced) == ((), 0, "")


def test_files_may_be_called_and_ordered_in_any_way(tmp_path):
    names = [hashlib.md5(bytes([index])).hexdigest() for index in range(12)]
    write_series(tmp_path / "series", name=lambda index: names[index])
    assert sorted(names) != names
    series = the_series(tmp_path / "series")
    assert (series.read().voxels == ball()).all()
    assert [one.file.name for one in series.slices] == names


def test_the_hash_is_of_the_contents_whatever_the_files_are_called(tmp_path):
    files = write_series(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for index, file in enumerate(reversed(files)):
        shutil.copy(file, tmp_path / "b" / f"{index}")
    one = the_series(tmp_path / "a").sha256()
    assert the_series(tmp_path / "b").sha256() == one
    hashes = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    assert one == hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    files[3].write_bytes(files[3].read_bytes()[:-2] + b"\1\1")
    assert the_series(tmp_path / "a").sha256() != one


def test_headers_are_those_of_the_slices_in_their_order_and_without_pixels(tmp_path):
    write_series(tmp_path, name=lambda index: f"{99 - index}")
    series = the_series(tmp_path)
    headers = series.headers()
    assert [one.SOPInstanceUID for one in headers] == [one.sop_instance_uid for one in series.slices]
    assert [one.InstanceNumber for one in headers] == list(range(1, 13))
    assert not any("PixelData" in one for one in headers)


def test_enhanced_ct_is_read_frame_by_frame_in_the_order_of_positions_each_with_its_own_rescale(tmp_path):
    order = [3, 0, 11, 5, 7, 1, 2, 4, 6, 8, 10, 9]
    intercepts = [-1024 + 10 * index for index in range(12)]
    file = write_enhanced(tmp_path / "enhanced", order=order, intercepts=intercepts)
    for place in (file, tmp_path):
        series = the_series(place)
        assert (series.read().voxels == ball()).all()
        assert series.affine == pytest.approx(affine_of())
        assert [one.frame for one in series.slices] == [order.index(index) for index in range(12)]
        assert series.files == (file,)
        assert len(series.headers()) == 12
        assert hashlib.sha256(hashlib.sha256(file.read_bytes()).hexdigest().encode()).hexdigest() == series.sha256()


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEG2000Lossless", "DeflatedExplicitVRLittleEndian"])
def test_enhanced_ct_may_be_compressed(tmp_path, syntax):
    file = write_enhanced(tmp_path / "enhanced", order=range(11, -1, -1), syntax=getattr(pydicom.uid, syntax))
    assert (the_series(file).read().voxels == ball()).all()


def test_enhanced_ct_whose_frames_are_not_each_described_is_a_problem(tmp_path):
    def shorten(dataset, _):
        dataset.PerFrameFunctionalGroupsSequence.pop()

    write_enhanced(tmp_path / "series" / "enhanced", edit=shorten)
    found = find_series(tmp_path / "series")
    assert not found.series
    assert "its frames are not each described" in str(found.problems["series"])


def test_enhanced_ct_without_rescale_or_position_of_a_frame_is_a_problem(tmp_path):
    def no_rescale(dataset, _):
        del dataset.PerFrameFunctionalGroupsSequence[4].PixelValueTransformationSequence

    def no_position(dataset, _):
        del dataset.PerFrameFunctionalGroupsSequence[4].PlanePositionSequence

    write_enhanced(tmp_path / "a" / "x", edit=no_rescale)
    write_enhanced(tmp_path / "b" / "x", edit=no_position)
    problems = find_series(tmp_path).problems
    assert "no rescale slope and intercept" in str(problems["a"])
    assert "1 of its 12 images have no position" in str(problems["b"])


def test_a_decoder_that_dies_is_a_fault_of_the_file(tmp_path, monkeypatch):
    write_series(tmp_path, syntax=pydicom.uid.JPEG2000Lossless)
    series = the_series(tmp_path)
    monkeypatch.setattr(decoding, "START", "import os; os.kill(os.getpid(), 11)" if os.name == "posix" else "exit(3)")
    with pytest.raises(FileError, match="IM0000: its pixel data cannot be decoded .the decoder crashed"):
        series.read()


def test_a_decoder_that_never_ends_is_ended(tmp_path, monkeypatch):
    write_series(tmp_path, syntax=pydicom.uid.JPEG2000Lossless)
    monkeypatch.setattr(decoding, "START", "import time; time.sleep(60)")
    monkeypatch.setattr(decoding, "SECONDS", 0.2)
    with pytest.raises(FileError, match="took over"):
        the_series(tmp_path).read()


def test_a_file_that_shrinks_after_it_was_found_is_no_volume(tmp_path):
    files = write_series(tmp_path)
    series = the_series(tmp_path)
    files[5].write_bytes(files[5].read_bytes()[:-10])
    with pytest.raises(FileError, match="IM0005: its pixel data end early"):
        series.read()
    files[5].unlink()
    with pytest.raises(FileError, match="IM0005: cannot be read"):
        series.read()
    with pytest.raises(FileError, match="IM0005: cannot be read"):
        series.sha256()
    with pytest.raises(FileError, match="IM0005: its header is damaged"):
        series.headers()


def test_nothing_is_left_open(tmp_path):
    write_series(tmp_path)
    series = the_series(tmp_path)
    series.read()
    gc.collect()  # an open file would be a ResourceWarning, which is an error here
