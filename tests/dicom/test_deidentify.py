import io
import warnings

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import UID, EnhancedCTImageStorage, SecondaryCaptureImageStorage

from dicom_markers import NUMBER, TEXT, mark, marks_in
from dicom_series import write_series
from viscera.dicom.capture import write_capture
from viscera.dicom.deidentify import deidentified, deidentified_series, replaced_uid
from viscera.dicom.finding import find_series
from viscera.dicom.outputs import Maker
from viscera.dicom.read_report import Measured
from viscera.dicom.report import write_report
from viscera.errors import FileError, SettingError

SECRET = b"0123456789abcdef"
MAKER = Maker("0.2.0", "starter 2", "ab" * 32)
HU = np.zeros((3, 8, 6), np.int16)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Return a series that says MARKER in every attribute, and its headers as they were read."""
    folder = tmp_path_factory.mktemp("marked") / "series"
    mode, pydicom.config.settings.writing_validation_mode = (
        pydicom.config.settings.writing_validation_mode,
        pydicom.config.IGNORE,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_series(folder, HU, edit=lambda dataset, _: mark(dataset))
    pydicom.config.settings.writing_validation_mode = mode
    [series] = find_series(folder).series
    return series


def written(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_the_marked_series_holds_marks_of_thousands_of_attributes(marked):
    assert len(marks_in(marked.files[0].read_bytes())) > 4000
    header = pydicom.dcmread(marked.files[0])
    assert {header[keyword].VR for keyword in ("PatientName", "PatientBirthDate", "DeviceUID", "PatientWeight")} == {
        *("PN", "DA", "UI", "DS")
    }
    assert header.PatientComments == TEXT
    assert header.SeriesNumber == NUMBER


def test_nothing_of_what_any_attribute_says_is_left(marked):
    for header in deidentified(marked.headers(), secret=SECRET):
        assert marks_in(written(header)) == []
        assert marks_in(header.to_json().encode()) == []
        assert not any(element.tag.is_private for element in header.iterall())


def test_nothing_of_it_is_in_a_report_or_a_capture(marked, tmp_path):
    headers, series = deidentified(marked.headers(), secret=SECRET), deidentified_series(marked, secret=SECRET)
    write_report(
        tmp_path / "report.dcm", {"liver": Measured(1, 2, 3, False, ("Look.",))}, series, MAKER, headers=headers
    )
    write_capture(tmp_path / "capture.dcm", np.zeros((4, 6, 3), np.uint8), series, MAKER, headers=headers)
    for file in (tmp_path / "report.dcm", tmp_path / "capture.dcm"):
        content = file.read_bytes()
        assert marks_in(content) == []
        found = pydicom.dcmread(file)
        assert (found.PatientName, found.PatientID, found.StudyDate, found.AccessionNumber) == ("", "", "", "")
        assert (found.PatientIdentityRemoved, found.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
        assert found.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        for original in (marked.study_uid, marked.series_uid, *(one.sop_instance_uid for one in marked.slices)):
            assert original.encode() not in content


def test_outputs_refer_to_images_by_the_same_replaced_uids_in_every_run(marked, tmp_path):
    series = deidentified_series(marked, secret=SECRET)
    for file in (tmp_path / "first.dcm", tmp_path / "second.dcm"):
        headers = deidentified(marked.headers(), secret=SECRET)
        assert [header.SOPInstanceUID for header in headers] == [one.sop_instance_uid for one in series.slices]
        assert {header.FrameOfReferenceUID for header in headers} == {series.frame_of_reference_uid}
        write_report(file, {"liver": Measured(1, None, None, False)}, series, MAKER, headers=headers)
    write_capture(tmp_path / "capture.dcm", np.zeros((4, 6, 3), np.uint8), series, MAKER, headers=headers)
    first, second, capture = (pydicom.dcmread(tmp_path / f"{name}.dcm") for name in ("first", "second", "capture"))
    assert first.CurrentRequestedProcedureEvidenceSequence == second.CurrentRequestedProcedureEvidenceSequence
    [study] = first.CurrentRequestedProcedureEvidenceSequence
    referred = [item.ReferencedSOPInstanceUID for item in study.ReferencedSeriesSequence[0].ReferencedSOPSequence]
    assert referred == [one.sop_instance_uid for one in series.slices]
    assert [item.ReferencedSOPInstanceUID for item in capture.SourceImageSequence] == referred
    assert first.StudyInstanceUID == capture.StudyInstanceUID == study.StudyInstanceUID == headers[0].StudyInstanceUID
    assert replaced_uid(marked.study_uid, secret=SECRET) == capture.StudyInstanceUID


def test_another_secret_and_another_uid_give_other_valid_uids():
    uids = {replaced_uid(uid, secret=secret) for uid in ("1.2.3", "1.2.4") for secret in (SECRET, SECRET + b"0")}
    assert len(uids) == 4
    assert all(UID(uid).is_valid and len(uid) <= 64 and uid.startswith("2.25.") for uid in uids)
    assert replaced_uid("1.2.3\0", secret=SECRET) == replaced_uid("1.2.3", secret=SECRET)


def test_the_geometry_stays_and_the_headers_given_are_not_changed(tmp_path):
    write_series(tmp_path / "series", HU, orientation=(0.8, 0.6, 0, -0.6, 0.8, 0))
    [series] = find_series(tmp_path / "series").series
    headers = series.headers()
    before = [header.to_json() for header in headers]
    for old, new in zip(headers, deidentified(headers, secret=SECRET), strict=True):
        for keyword in (
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "Rows",
            "Columns",
            "Modality",
        ):
            assert new[keyword] == old[keyword]
        assert (new.SOPClassUID, new.PatientPosition, new.RescaleType) == (old.SOPClassUID, "HFS", "HU")
    assert [header.to_json() for header in headers] == before


def test_words_and_numbers_that_are_not_the_standards_are_gone(marked):
    headers = marked.headers()
    headers[0].RescaleType = headers[0].PatientPosition = TEXT
    [header, *_] = deidentified(headers, secret=SECRET)
    assert marks_in(written(header)) == []
    assert not {"PatientPosition", "ImageType", "RescaleType", "LossyImageCompressionRatio", "SeriesNumber"} & {
        one.keyword for one in header
    }


def test_of_a_multi_frame_image_the_places_of_frames_stay_and_nothing_else(marked):
    image = marked.headers()[0]
    image.SOPClassUID = EnhancedCTImageStorage
    frame, plane, content = Dataset(), Dataset(), Dataset()
    plane.ImagePositionPatient, plane.FrameComments = [1, 2, 3], TEXT
    content.FrameAcquisitionDateTime, content.DimensionIndexValues = "19471104044711", [1, 2]
    frame.PlanePositionSequence, frame.FrameContentSequence = [plane], [content]
    image.PerFrameFunctionalGroupsSequence = [frame]
    [found] = deidentified([image], secret=SECRET)
    assert marks_in(written(found)) == []
    [kept] = found.PerFrameFunctionalGroupsSequence
    assert [*kept.PlanePositionSequence[0].ImagePositionPatient] == [1, 2, 3]
    assert [*kept.FrameContentSequence[0].DimensionIndexValues] == [1, 2]
    assert len(kept.FrameContentSequence[0]) == len(kept.PlanePositionSequence[0]) == 1


def test_a_uid_that_only_the_file_says_is_replaced_as_well(tmp_path):
    write_series(tmp_path / "series", HU)
    [series] = find_series(tmp_path / "series").series
    [header, *_] = series.headers()
    expected = deidentified([header], secret=SECRET)[0].SOPInstanceUID
    header.SOPInstanceUID = ""
    assert deidentified([header], secret=SECRET)[0].SOPInstanceUID == expected


def test_what_cannot_be_deidentified_is_refused(marked):
    for function in (deidentified, deidentified_series):
        with pytest.raises(SettingError, match="has 15 bytes, fewer than 16"):
            function([] if function is deidentified else marked, secret=b"x" * 15)
    [header, *_] = marked.headers()
    header.SeriesInstanceUID = ""
    with pytest.raises(FileError, match="an image has no SeriesInstanceUID"):
        deidentified([header], secret=SECRET)
    header.SOPClassUID = SecondaryCaptureImageStorage
    with pytest.raises(FileError, match="not of a CT image"):
        deidentified([header], secret=SECRET)


def test_deidentified_headers_beside_the_original_series_are_refused_since_the_output_would_tell_its_uids(
    marked, tmp_path
):
    headers = deidentified(marked.headers(), secret=SECRET)
    with pytest.raises(SettingError, match="differ in StudyInstanceUID. De-identify both with the same secret"):
        write_capture(tmp_path / "c.dcm", np.zeros((4, 6, 3), np.uint8), marked, MAKER, headers=headers)
    assert [*tmp_path.iterdir()] == []
