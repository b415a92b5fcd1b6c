"""What predicting seldom meets: places that are folders, files that cannot be read, colours that cannot be written."""

import pytest

from makers import nearest_model
from viscera.errors import FileError, SettingError
from viscera.inference.colour_files import KeptWarning, write_colours
from viscera.inference.identity import scan_sha256
from viscera.inference.jobs import require_place
from viscera.inference.plans import plan_of
from viscera.io.dicom_files import is_dicom
from viscera.labels import ABDOMENCT1K

MODEL = nearest_model()


def test_a_place_that_is_a_folder_is_refused(tmp_path):
    with pytest.raises(FileError, match="it is a folder. Choose another output"):
        require_place(tmp_path)


def test_a_folder_is_no_dicom_and_a_file_is_by_its_mark_or_its_name(tmp_path):
    (tmp_path / "folder.dcm").mkdir()
    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "x.dcm").write_bytes(b"")
    (tmp_path / "y").write_bytes(b"DICM")
    assert [is_dicom(tmp_path / name) for name in ("folder.dcm", "IM1", "x.dcm", "y", "none")] == [
        False, True, True, False, False,
    ]  # fmt: skip


def test_a_scan_that_is_gone_is_named(tmp_path):
    with pytest.raises(FileError, match=r"gone.nii.gz cannot be read: No such file"):
        scan_sha256(tmp_path / "gone.nii.gz")


def test_colours_that_cannot_be_written_are_a_warning_and_others_files_stay(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(KeptWarning, match="was not written"):
        write_colours(tmp_path / "file" / "folder", ABDOMENCT1K)
    (tmp_path / "labels.ctbl").write_bytes(b"\xff\xfe no text")
    with pytest.warns(KeptWarning, match="viscera did not write it: it stays"):
        write_colours(tmp_path, ABDOMENCT1K)
    assert (tmp_path / "labels.ctbl").read_bytes() == b"\xff\xfe no text"


def test_slices_have_no_windows():
    with pytest.raises(SettingError, match="has no windows: its network is a 2D one"):
        plan_of(MODEL)
