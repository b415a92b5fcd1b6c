import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from dicom_series import write_series
from viscera.dicom.capture import write_capture
from viscera.dicom.finding import find_series
from viscera.dicom.outputs import Maker
from viscera.errors import FileError, SettingError

MAKER = Maker("0.2.0", "starter 2", "ab" * 32)
PICTURE = np.random.default_rng(0).integers(0, 256, (31, 33, 3), np.uint8)


@pytest.fixture
def series(tmp_path):
    write_series(tmp_path / "series", np.zeros((3, 8, 6), np.int16))
    return find_series(tmp_path / "series").series[0]


@pytest.mark.parametrize("picture", [PICTURE, PICTURE[:1, :1], PICTURE[::2, ::-1]], ids=["odd", "pixel", "view"])
def test_a_capture_holds_the_picture_pixel_for_pixel(tmp_path, series, picture):
    write_capture(tmp_path / "capture.dcm", picture, series, MAKER)
    found = pydicom.dcmread(tmp_path / "capture.dcm")
    assert (found.pixel_array.reshape(picture.shape) == picture).all()
    assert len(found.PixelData) % 2 == 0


def test_a_capture_says_whose_it_is_that_it_is_for_research_and_what_it_comes_from(tmp_path, series):
    write_capture(tmp_path / "capture.dcm", PICTURE, series, MAKER)
    found, header = pydicom.dcmread(tmp_path / "capture.dcm"), series.headers()[0]
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert found[keyword].value == header[keyword].value
    assert found.SeriesInstanceUID != header.SeriesInstanceUID
    assert found.SeriesDescription == "viscera RESEARCH ONLY"
    assert "not for clinical use" in found.ImageComments
    assert (found.ConversionType, found.Modality, found.BurnedInAnnotation) == ("WSD", "OT", "NO")
    assert found.SoftwareVersions == ["0.2.0", "weights starter 2"]
    referred = [item.ReferencedSOPInstanceUID for item in found.SourceImageSequence]
    assert referred == [one.sop_instance_uid for one in series.slices]


def test_a_picture_with_text_that_may_tell_the_patient_says_so(tmp_path, series):
    write_capture(tmp_path / "capture.dcm", PICTURE, series, MAKER, burnt_in=True)
    assert pydicom.dcmread(tmp_path / "capture.dcm").BurnedInAnnotation == "YES"


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (PICTURE[:0], r"\(0, 33\) pixels does not fit"),
        (np.zeros((1, 65536, 3), np.uint8), "does not fit a DICOM image. Draw it smaller"),
    ],
)
def test_a_picture_that_dicom_cannot_hold_is_refused(tmp_path, series, picture, message):
    with pytest.raises(SettingError, match=message):
        write_capture(tmp_path / "c.dcm", picture, series, MAKER)
    assert not (tmp_path / "c.dcm").exists()


def test_a_series_without_identifiers_is_refused_as_nothing_could_refer_to_it(tmp_path, series):
    nameless = replace(series, slices=(replace(series.slices[0], sop_instance_uid=""), *series.slices[1:]))
    for one in (replace(series, study_uid=""), replace(series, series_uid=""), nameless):
        with pytest.raises(FileError, match="series series has no identifiers"):
            write_capture(tmp_path / "c.dcm", PICTURE, one, MAKER)


def test_a_capture_that_does_not_read_back_is_not_kept(tmp_path, series, monkeypatch):
    (tmp_path / "c.dcm").write_bytes(b"old")
    save = pydicom.Dataset.save_as

    def torn(dataset, *args, **more):
        dataset.PixelData = (
            b"\1" + dataset.PixelData[1:] if dataset.PixelData[:1] != b"\1" else b"\2" + dataset.PixelData[1:]
        )
        save(dataset, *args, **more)

    monkeypatch.setattr(pydicom.Dataset, "save_as", torn)
    with pytest.raises(FileError, match=r"c\.dcm was not kept: read back, it differs in its pixels"):
        write_capture(tmp_path / "c.dcm", PICTURE, series, MAKER)
    assert (tmp_path / "c.dcm").read_bytes() == b"old"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["c.dcm", "series"]


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error_in_a_capture(tmp_path, series):
    write_capture(tmp_path / "capture.dcm", PICTURE, series, MAKER)
    said = subprocess.run(["dciodvfy", tmp_path / "capture.dcm"], capture_output=True, text=True, timeout=60)
    assert "SCImage" in said.stdout + said.stderr
    assert "Error" not in said.stdout + said.stderr
