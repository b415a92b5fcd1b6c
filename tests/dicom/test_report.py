import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.sr.coding import Code

from dicom_markers import mark, marks_in
from dicom_series import write_series
from viscera.dicom.capture import write_capture
from viscera.dicom.codes import concept
from viscera.dicom.finding import find_series
from viscera.dicom.outputs import PATIENT_AND_STUDY, Maker
from viscera.dicom.read_report import Measured, items_below, read_report
from viscera.dicom.report import write_report
from viscera.errors import FileError, SettingError

MAKER = Maker("0.2.0", "starter 2", "ab" * 32)
STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
LIVER, KIDNEY, LEFT = (
    Code("10200004", "SCT", "Liver"),
    Code("64033007", "SCT", "Kidney"),
    Code("7771000", "SCT", "Left"),
)
MEASURED = {
    "liver": Measured(
        1503.123456789012, 101.0625, 1 / 3, True, ("liver is cut off: it goes on below.", "Look at ≥ 1 slice.")
    ),
    "kidney_left": Measured(0.1 + 0.2, -12.5, 0.0, False),
    "spleen": Measured(0.0, None, None, False, ("No spleen was found.",)),
}
READER = shutil.which("tid1500reader", path=str(Path(sys.executable).parent))


@pytest.fixture
def series(tmp_path):
    write_series(tmp_path / "series", np.zeros((3, 8, 6), np.int16))
    return find_series(tmp_path / "series").series[0]


def write_seg(file, series, **more):
    """Write a SEG of a liver and a left kidney with highdicom, which numbers them as given: 1 and 2."""
    identified = highdicom.AlgorithmIdentificationSequence("viscera", Code("123110", "DCM", "AI"), "0.2.0")
    described = [
        highdicom.seg.SegmentDescription(
            number, label, STRUCTURE, code, "AUTOMATIC", identified, tracking_uid=f"2.25.{number}", tracking_id=label
        )
        for number, (label, code) in enumerate((("liver", LIVER), ("Kidney Left", KIDNEY)), start=1)
    ]
    described[1].SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
        highdicom.sr.CodedConcept.from_code(LEFT)
    ]
    labels = np.zeros(series.shape, np.uint8)
    labels[:2, :2], labels[1:, 4:] = 1, 2
    images = [pydicom.dcmread(one.file) for one in series.slices]
    made = highdicom.seg.Segmentation(
        images, labels, "BINARY", described, "2.25.7", 7, "2.25.8", 1, "viscera", "viscera", "0.2.0", "1"
    )
    for keyword, value in more.items():
        setattr(made, keyword, value)
    made.save_as(file)
    return file


def groups(file):
    """Return the content items of each measurement group, as highdicom reads them."""
    return highdicom.sr.srread(file).content.get_volumetric_roi_measurement_groups()


def test_a_report_says_to_the_last_bit_what_was_measured(tmp_path, series):
    write_report(tmp_path / "report.dcm", MEASURED, series, MAKER)
    assert read_report(tmp_path / "report.dcm") == MEASURED
    assert [*read_report(tmp_path / "report.dcm")] == [*MEASURED]


def test_highdicom_reads_the_same_with_units_and_derivations(tmp_path, series):
    write_report(tmp_path / "report.dcm", MEASURED, series, MAKER)
    liver, _, spleen = highdicom.sr.srread(tmp_path / "report.dcm").content.get_image_measurement_groups()
    found = [
        (one.name.meaning, one.derivation and one.derivation.meaning, one.value, one.unit.value)
        for one in liver.get_measurements()
    ]
    assert found == [
        ("Volume", None, MEASURED["liver"].volume_ml, "cm3"),
        ("Attenuation Coefficient", "Mean", MEASURED["liver"].mean_hu, "[hnsf'U]"),
        ("Attenuation Coefficient", "Standard Deviation", MEASURED["liver"].sd_hu, "[hnsf'U]"),
    ]
    assert [one.value for one in spleen.get_measurements()] == [0]
    [observer] = highdicom.sr.srread(tmp_path / "report.dcm").content.get_observer_contexts()
    assert observer.observer_identifying_attributes.name == "viscera 0.2.0"


def test_a_report_is_unverified_marked_as_research_and_lists_the_images(tmp_path, series):
    write_report(tmp_path / "report.dcm", MEASURED, series, MAKER)
    found, header = pydicom.dcmread(tmp_path / "report.dcm"), series.headers()[0]
    assert (found.VerificationFlag, found.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert found.SeriesDescription == "viscera RESEARCH ONLY"
    texts = [item.TextValue for item in items_below(found) if item.ValueType == "TEXT"]
    assert texts.count("RESEARCH: not for clinical use") == len(MEASURED)
    assert texts.count("SHA-256 of the weights: " + "ab" * 32) == len(MEASURED)
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate"):
        assert found[keyword].value == header[keyword].value
    [study] = found.CurrentRequestedProcedureEvidenceSequence
    [images] = study.ReferencedSeriesSequence
    uids = [one.sop_instance_uid for one in series.slices]
    assert images.SeriesInstanceUID == series.series_uid
    assert [one.ReferencedSOPInstanceUID for one in images.ReferencedSOPSequence] == uids


def test_with_a_seg_each_organ_refers_to_its_segment_and_has_its_codes(tmp_path, series):
    seg = write_seg(tmp_path / "seg.dcm", series)
    write_report(tmp_path / "report.dcm", MEASURED, series, MAKER, seg=seg)
    liver, kidney = groups(tmp_path / "report.dcm")
    for number, group in ((1, liver), (2, kidney)):
        assert group.referenced_segment.referenced_sop_instance_uid == "2.25.8"
        assert group.referenced_segment[0].ReferencedSOPSequence[0].ReferencedSegmentNumber == number
        assert group.tracking_uid == f"2.25.{number}"
    assert (liver.finding_type, kidney.finding_type) == (LIVER, KIDNEY)
    assert liver.finding_sites[0].laterality is None
    assert kidney.finding_sites[0].laterality == LEFT
    [spleen] = highdicom.sr.srread(tmp_path / "report.dcm").content.get_image_measurement_groups()
    assert spleen.tracking_identifier == "spleen"
    [study] = pydicom.dcmread(tmp_path / "report.dcm").CurrentRequestedProcedureEvidenceSequence
    assert {one.SeriesInstanceUID for one in study.ReferencedSeriesSequence} == {series.series_uid, "2.25.7"}
    assert read_report(tmp_path / "report.dcm") == MEASURED


def test_without_a_seg_organs_have_visceras_own_codes(tmp_path, series):
    write_report(tmp_path / "report.dcm", MEASURED, series, MAKER)
    liver, kidney, spleen = highdicom.sr.srread(tmp_path / "report.dcm").content.get_image_measurement_groups()
    assert [one.finding_type.value for one in (liver, kidney, spleen)] == ["10200004", "64033007", "78961009"]
    assert kidney.finding_sites[0].laterality == LEFT


def test_a_tumour_is_found_in_its_organ(tmp_path, series):
    write_report(tmp_path / "report.dcm", {"kidney_tumour": Measured(1, 2, 3, False)}, series, MAKER)
    [group] = highdicom.sr.srread(tmp_path / "report.dcm").content.get_image_measurement_groups()
    assert group.finding_category.value == "49755003"
    assert group.finding_type.value == concept("kidney_tumour").type.value
    assert group.finding_sites[0].value == KIDNEY


def test_a_seg_of_another_series_or_study_is_refused(tmp_path, series):
    seg = write_seg(tmp_path / "seg.dcm", series)
    for other in (replace(series, series_uid="2.25.1"), replace(series, study_uid="2.25.2")):
        with pytest.raises(SettingError, match=r"seg\.dcm is of another series than series"):
            write_report(tmp_path / "r.dcm", MEASURED, other, MAKER, seg=seg)
    broken = pydicom.dcmread(seg)
    del broken.SegmentSequence[0].SegmentLabel
    broken.save_as(tmp_path / "broken.dcm")
    with pytest.raises(FileError, match=r"broken\.dcm cannot be read as a DICOM SEG"):
        write_report(tmp_path / "r.dcm", MEASURED, series, MAKER, seg=tmp_path / "broken.dcm")
    broken.SegmentSequence[0].SegmentLabel = "kidney left"
    broken.save_as(tmp_path / "broken.dcm")
    with pytest.raises(FileError, match=r"broken\.dcm has several segments of one name"):
        write_report(tmp_path / "r.dcm", MEASURED, series, MAKER, seg=tmp_path / "broken.dcm")
    with pytest.raises(FileError, match="IM0000 is not a DICOM SEG"):
        write_report(tmp_path / "r.dcm", MEASURED, series, MAKER, seg=series.files[0])
    (tmp_path / "text").write_text("text")
    with pytest.raises(FileError, match="text cannot be read as a DICOM SEG"):
        write_report(tmp_path / "r.dcm", MEASURED, series, MAKER, seg=tmp_path / "text")
    assert not (tmp_path / "r.dcm").exists()


@pytest.mark.parametrize(
    "measured",
    [
        Measured(float("nan"), None, None, False),
        Measured(-1.0, None, None, False),
        Measured(1.0, float("inf"), None, False),
        Measured(1.0, 2.0, -1.0, False),
    ],
)
def test_what_is_not_a_measurement_is_refused(tmp_path, series, measured):
    with pytest.raises(SettingError, match="liver has .* which cannot be reported"):
        write_report(tmp_path / "r.dcm", {"liver": measured}, series, MAKER)
    with pytest.raises(SettingError, match="a report without a measurement says nothing"):
        write_report(tmp_path / "r.dcm", {}, series, MAKER)


@pytest.mark.parametrize("name", ["GTV", "Leber (groß)", "a_b c"])
def test_an_organ_of_the_users_own_keeps_its_name(tmp_path, series, name):
    write_report(tmp_path / "r.dcm", {name: Measured(0.1, None, None, True, ("  padded ", " "))}, series, MAKER)
    assert read_report(tmp_path / "r.dcm") == {name: Measured(0.1, None, None, True, ("padded",))}


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 100", "Müller^Jörg"), ("ISO_IR 144", "Люкceмбypг"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")],
)
def test_a_patients_name_in_any_character_set_is_the_same_beside_sentences_in_any_other(tmp_path, charset, name):
    def edit(dataset, _):
        dataset.SpecificCharacterSet, dataset.PatientName = charset, name

    write_series(tmp_path / "series", np.zeros((2, 8, 6), np.int16), edit=edit)
    [series] = find_series(tmp_path / "series").series
    write_report(tmp_path / "report.dcm", MEASURED, series, MAKER)
    write_capture(tmp_path / "capture.dcm", np.zeros((4, 4, 3), np.uint8), series, MAKER)
    for file in ("report.dcm", "capture.dcm"):
        assert pydicom.dcmread(tmp_path / file).PatientName == name


def test_the_headers_given_are_not_changed(tmp_path, series):
    headers = series.headers()
    for header in headers:
        header.SpecificCharacterSet = "ISO_IR 100"
    before = [header.to_json() for header in headers]
    write_report(tmp_path / "report.dcm", MEASURED, series, MAKER, headers=headers)
    write_capture(tmp_path / "capture.dcm", np.zeros((4, 4, 3), np.uint8), series, MAKER, headers=headers)
    assert [header.to_json() for header in headers] == before


def test_an_output_for_another_patient_is_not_kept(tmp_path, series, monkeypatch):
    save = pydicom.Dataset.save_as

    def exchanged(dataset, *args, **more):
        dataset.PatientID = "somebody else"
        save(dataset, *args, **more)

    monkeypatch.setattr(pydicom.Dataset, "save_as", exchanged)
    with pytest.raises(FileError, match=r"was not kept: read back, it differs in PatientID"):
        write_report(tmp_path / "r.dcm", MEASURED, series, MAKER)
    assert [one.name for one in tmp_path.iterdir()] == ["series"]


def test_beyond_patient_and_study_nothing_of_the_headers_goes_into_an_output(tmp_path, caplog):
    mode, pydicom.config.settings.writing_validation_mode = (
        pydicom.config.settings.writing_validation_mode,
        pydicom.config.IGNORE,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_series(tmp_path / "series", np.zeros((2, 8, 6), np.int16), edit=lambda dataset, _: mark(dataset))
    pydicom.config.settings.writing_validation_mode = mode
    [series] = find_series(tmp_path / "series").series
    write_report(tmp_path / "report.dcm", MEASURED, series, MAKER)
    write_capture(tmp_path / "capture.dcm", np.zeros((4, 4, 3), np.uint8), series, MAKER)
    for file in ("report.dcm", "capture.dcm"):
        found = pydicom.dcmread(tmp_path / file)
        assert found.PatientName == "MARKER"
        for keyword in PATIENT_AND_STUDY:
            found.pop(keyword, None)
        found.save_as(tmp_path / "rest.dcm")
        assert marks_in((tmp_path / "rest.dcm").read_bytes()) == []
    assert caplog.text == ""


def test_what_is_not_a_report_of_viscera_is_refused(tmp_path, series):
    (tmp_path / "text").write_text("text")
    assert read_report(series.files[0]) == {}
    with pytest.raises(FileError, match="text is not a measurement report"):
        read_report(tmp_path / "text")


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("with_seg", [False, True])
def test_dciodvfy_finds_no_error_in_a_report(tmp_path, series, with_seg):
    seg = write_seg(tmp_path / "seg.dcm", series) if with_seg else None
    write_report(tmp_path / "report.dcm", MEASURED, series, MAKER, seg=seg)
    said = subprocess.run(["dciodvfy", tmp_path / "report.dcm"], capture_output=True, text=True, timeout=60)
    assert "Comprehensive3DSR" in said.stdout + said.stderr
    assert "Error" not in said.stdout + said.stderr


@pytest.mark.skipif(READER is None, reason="dcmqi's tid1500reader is not installed")
@pytest.mark.parametrize("with_seg", [False, True])
def test_dcmqi_reads_the_same_numbers(tmp_path, series, with_seg):
    seg = write_seg(tmp_path / "seg.dcm", series) if with_seg else None
    measured = MEASURED | {f"organ {number}": Measured(number * 7.7, number - 3.3, 0.1, False) for number in range(20)}
    write_report(tmp_path / "report.dcm", measured, series, MAKER, seg=seg)
    command = [READER, "--inputDICOM", tmp_path / "report.dcm", "--outputMetadata", tmp_path / "report.json"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    found = json.loads((tmp_path / "report.json").read_text())["Measurements"]
    assert [one["TrackingIdentifier"] for one in found] == [*measured]
    for one, expected in zip(found, measured.values(), strict=True):
        values = [float(item["value"]) for item in one["measurementItems"]]
        given = [value for value in (expected.volume_ml, expected.mean_hu, expected.sd_hu) if value is not None]
        assert values == pytest.approx(given, rel=1e-9)
        texts = [item["conceptValue"] for item in one["qualitativeEvaluations"]]
        assert all(flag in texts for flag in expected.flags)
    if with_seg:
        assert [one.get("ReferencedSegment") for one in found[:3]] == [1, 2, None]
        assert found[0]["segmentationSOPInstanceUID"] == "2.25.8"
