"""What predicting seldom meets: places that are folders, files that cannot be read, colours that cannot be written."""

import pytest
import torch

from makers import nearest_model
from viscera.errors import FileError, LabelError, SettingError
from viscera.evaluation.pairing import _files, common_space
from viscera.inference.colour_files import KeptWarning, write_colours
from viscera.inference.identity import scan_sha256
from viscera.inference.jobs import is_dicom, require_place
from viscera.inference.volumes import _background
from viscera.inference.windows import plan_of
from viscera.io.label_names import Names
from viscera.labels import ABDOMENCT1K
from viscera.networks.device import peak_memory_mib, precision_of
from viscera.networks.runners import CannotRunError, TorchRunner, require_agreement

MODEL = nearest_model()


def test_a_place_that_is_a_folder_and_a_folder_that_is_none_are_refused(tmp_path):
    with pytest.raises(FileError, match="it is a folder. Choose another output"):
        require_place(tmp_path)
    with pytest.raises(FileError, match="none: no such file or folder"):
        _files(tmp_path / "none")


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


def test_slices_have_no_windows_and_no_plane_is_like_nothing():
    with pytest.raises(SettingError, match="has no windows: its network is a 2D one"):
        plan_of(MODEL)
    with pytest.raises(ValueError, match="no plane"):
        _background(None)


def test_a_prediction_that_names_no_organ_is_refused():
    with pytest.raises(LabelError, match="the prediction names no organs"):
        common_space(Names({1: "liver"}, ("liver",)), Names({}, ()))


def test_a_gpu_takes_half_precision_and_what_was_asked_for_is_kept():
    assert precision_of("auto", "cuda") == "16-mixed"
    assert precision_of("32-true", "cuda") == "32-true"
    assert peak_memory_mib() > 50


def test_a_runtime_that_fails_cannot_run_and_says_why():
    class Broken(TorchRunner):
        def __call__(self, image):
            raise RuntimeError("no such kernel")

    network = MODEL.network.module if hasattr(MODEL.network, "module") else torch.nn.Identity()
    with pytest.raises(CannotRunError, match="it fails: no such kernel"):
        require_agreement(Broken(network), network, channels=1)
