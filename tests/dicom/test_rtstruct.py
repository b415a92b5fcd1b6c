import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom import Dataset, config

from dicom_series import write_series
from viscera.colours import colour
from viscera.dicom import outputs
from viscera.dicom.finding import find_series
from viscera.dicom.outputs import Maker
from viscera.dicom.rtstruct import check_rtstruct, write_rtstruct
from viscera.errors import FileError, GeometryError, LabelError

MAKER = Maker("1.2.3", "starter 2", "ab" * 32)
NAMES = {1: "liver", 2: "kidney_left", 3: "liver_tumour", 4: "femoral_head"}

TURN = np.cos(0.3), np.sin(0.3)
ORIENTATIONS = {
    "axial": {},
    "prone": {"orientation": (-1, 0, 0, 0, -1, 0)},
    "feet first": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "sagittal": {"orientation": (0, 1, 0, 0, 0, -1)},
    "coronal": {"orientation": (1, 0, 0, 0, 0, -1)},
    "oblique": {"orientation": (TURN[0], TURN[1], 0, -TURN[1] * TURN[0], TURN[0] * TURN[0], TURN[1])},
    "tilted": {"step": (0.0, 0.7, 2.5)},
    "thin and far": {"spacing": (0.333333, 0.123456, 0.7), "origin": (-1234.56789, 987.654321, -2000.1)},
}


def shapes(shape=(12, 48, 40)):
    """Return a label map of a blob, a ring with an island in its hole, single voxels, diagonal touches, a chessboard."""
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint8)
    labels[((z - 6) / 5) ** 2 + ((y - 14) / 10) ** 2 + ((x - 14) / 12) ** 2 < 1] = 1
    ring = np.hypot(y - 34, x - 26)
    labels[(z > 1) & (ring < 12) & ((ring > 8) | (ring < 5)) & (ring > 2)] = 2
    labels[3, 14, 14] = labels[3, 15, 15] = labels[3, 16, 14] = labels[8, 2, 30] = 3
    labels[:, :4, :5] = 4 * ((z + y + x)[:, :4, :5] % 2)
    labels[-1, -1, -1] = labels[0, 0, -1] = 4  # at the border
    return labels


def a_series(folder, **more):
    write_series(folder, **more)
    [series] = find_series(folder).series
    return series


@pytest.fixture
def series(tmp_path):
    return a_series(tmp_path / "scan")


def rois(dataset):
    return {str(roi.ROIName): int(roi.ROINumber) for roi in dataset.StructureSetROISequence}


@pytest.mark.parametrize("place", ORIENTATIONS)
def test_a_structure_set_holds_the_label_map_in_every_orientation(tmp_path, place):
    series = a_series(tmp_path / "scan", **ORIENTATIONS[place])
    write_rtstruct(tmp_path / "out.dcm", shapes(), NAMES, series, MAKER)  # checks itself by the inverse affine
    dataset = pydicom.dcmread(tmp_path / "out.dcm")
    headers = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, series.files)}
    for roi in dataset.ROIContourSequence:
        for contour in roi.ContourSequence:
            image = headers[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            row, column = np.reshape(np.array(image.ImageOrientationPatient, float), (2, 3))
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3)) - np.array(
                image.ImagePositionPatient, float
            )
            assert len(points) == contour.NumberOfContourPoints
            assert points @ np.cross(row, column) == pytest.approx(0, abs=1e-5)  # in the plane of its slice
            for along, spacing in ((row, image.PixelSpacing[1]), (column, image.PixelSpacing[0])):
                assert points @ along / float(spacing) % 1 == pytest.approx(0.5, abs=1e-4)  # between voxels


@settings(max_examples=25, deadline=None)
@given(labels=arrays(np.uint8, (3, 6, 7), elements=st.integers(0, 3)))
def test_any_label_map_comes_back_voxel_for_voxel(tmp_path_factory, labels):
    folder = tmp_path_factory.mktemp("any")
    series = a_series(folder / "scan", hu=np.zeros((3, 6, 7), np.int16))
    labels[0, 0, 0] = 1
    write_rtstruct(folder / "out.dcm", labels, NAMES, series, MAKER)
    check_rtstruct(folder / "out.dcm", labels, NAMES, series)


def test_what_a_structure_set_says_of_itself(tmp_path, series):
    write_rtstruct(tmp_path / "out.dcm", shapes(), NAMES, series, MAKER)
    dataset = pydicom.dcmread(tmp_path / "out.dcm")
    assert (dataset.Modality, dataset.ApprovalStatus) == ("RTSTRUCT", "UNAPPROVED")
    assert dataset.SeriesDescription == dataset.StructureSetName == outputs.SERIES_DESCRIPTION
    assert (dataset.StructureSetLabel, dataset.StructureSetDescription) == ("RESEARCH", "not for clinical use")
    assert (dataset.PatientName, dataset.PatientID, dataset.StudyInstanceUID) == (
        "Test^Patient",
        "T1",
        series.study_uid,
    )
    assert dataset.FrameOfReferenceUID == series.frame_of_reference_uid
    assert dataset.SOPInstanceUID.startswith("2.25.")
    assert dataset.SeriesInstanceUID != series.series_uid
    [frame] = dataset.ReferencedFrameOfReferenceSequence
    [referred] = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert referred.SeriesInstanceUID == series.series_uid
    assert [one.ReferencedSOPInstanceUID for one in referred.ContourImageSequence] == [
        one.sop_instance_uid for one in series.slices
    ]
    assert rois(dataset) == {"Liver": 1, "Kidney_L": 2, "liver_tumour": 3, "femoral_head": 4}
    assert {roi.ROIGenerationAlgorithm for roi in dataset.StructureSetROISequence} == {"AUTOMATIC"}
    assert "weights starter 2" in dataset.StructureSetROISequence[0].ROIGenerationDescription
    assert tuple(dataset.ROIContourSequence[0].ROIDisplayColor) == colour("liver")
    kinds = {one.ReferencedROINumber: one.RTROIInterpretedType for one in dataset.RTROIObservationsSequence}
    assert kinds == {1: "ORGAN", 2: "ORGAN", 3: "", 4: "ORGAN"}  # whether a tumour is a target is for a physician


def test_numbers_take_at_most_sixteen_characters(tmp_path):
    series = a_series(tmp_path / "scan", **ORIENTATIONS["thin and far"])
    write_rtstruct(tmp_path / "out.dcm", shapes(), NAMES, series, MAKER)
    for roi in pydicom.dcmread(tmp_path / "out.dcm").ROIContourSequence:
        for contour in roi.ContourSequence:
            assert max(map(len, contour.get_item("ContourData").value.strip().split(b"\\"))) <= 16


def test_a_contour_longer_than_explicit_vr_can_say_is_written(tmp_path):
    labels = np.zeros((2, 120, 120), np.uint8)
    labels[0] = 1
    labels[0, 1:-1:2, 1:-1:2] = 0  # 3481 holes, all joined to one outline
    series = a_series(tmp_path / "scan", hu=labels.astype(np.int16))
    write_rtstruct(tmp_path / "out.dcm", labels, NAMES, series, MAKER)
    [roi] = pydicom.dcmread(tmp_path / "out.dcm").ROIContourSequence
    [contour] = roi.ContourSequence
    assert len(contour.get_item("ContourData").value) > 2**16


def test_rois_are_called_as_the_users_table_says_whatever_script_it_is_in(tmp_path):
    def latin(dataset, index):
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Jörg"

    series = a_series(tmp_path / "scan", edit=latin)
    table = {"liver": "肝臓", "kidney_left": "Niere links"}
    write_rtstruct(tmp_path / "out.dcm", shapes(), NAMES, series, MAKER, roi_names=table)
    dataset = pydicom.dcmread(tmp_path / "out.dcm")
    assert list(rois(dataset)) == ["肝臓", "Niere links", "liver_tumour", "femoral_head"]
    assert str(dataset.PatientName) == "Müller^Jörg"


def test_times_are_in_the_zone_that_the_images_name(tmp_path):
    import datetime

    def zone(dataset, index):
        dataset.TimezoneOffsetFromUTC = "-1130"

    series = a_series(tmp_path / "scan", edit=zone)
    write_rtstruct(tmp_path / "out.dcm", shapes(), NAMES, series, MAKER)
    dataset = pydicom.dcmread(tmp_path / "out.dcm")
    written = datetime.datetime.strptime(
        dataset.StructureSetDate + dataset.StructureSetTime + dataset.TimezoneOffsetFromUTC, "%Y%m%d%H%M%S%z"
    )
    assert abs(written - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=5)


def test_headers_given_go_before_those_of_the_files(tmp_path, series):
    headers = series.headers()
    for number, header in enumerate(headers):
        header.PatientName = header.PatientID = ""
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = "2.25.1", "2.25.2", "2.25.3"
        header.SOPInstanceUID = f"2.25.4{number}"
    write_rtstruct(tmp_path / "out.dcm", shapes(), NAMES, series, MAKER, headers=headers)
    text = (tmp_path / "out.dcm").read_bytes()
    assert b"Test^Patient" not in text
    for uid in (series.study_uid, series.series_uid, series.frame_of_reference_uid, series.slices[0].sop_instance_uid):
        assert uid.encode() not in text
    assert b"2.25.411" in text


def test_headers_that_break_the_rules_of_dicom_are_copied_in_silence(tmp_path, series):
    headers = series.headers()
    with config.disable_value_validation():
        for header in headers:
            header.StudyInstanceUID, header.PatientID, header.PatientAge = "1.2.03.4", 70 * "x", "45"
            header.PatientBirthDate, header.StudyTime, header.PatientSex = "1950.01.01", "03:04:05", "weiblich"
    write_rtstruct(tmp_path / "out.dcm", shapes(), NAMES, series, MAKER, headers=headers)  # a warning would be an error
    with config.disable_value_validation():
        dataset = pydicom.dcmread(tmp_path / "out.dcm")
        assert (dataset.StudyInstanceUID, dataset.PatientID, dataset.PatientAge) == ("1.2.03.4", 70 * "x", "45")


def test_frames_of_a_multi_frame_file_are_referred_to_by_number(tmp_path, series):
    from dataclasses import replace

    from viscera.dicom.series import Slice

    header = pydicom.dcmread(series.files[0], stop_before_pixels=True)
    header.PerFrameFunctionalGroupsSequence = []
    for one in map(pydicom.dcmread, series.files):
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = one.ImagePositionPatient
        group.PlanePositionSequence = [position]
        header.PerFrameFunctionalGroupsSequence.append(group)
    file = series.files[0]
    frames = replace(series, slices=tuple(Slice(file, header.SOPInstanceUID, number) for number in range(12)))
    write_rtstruct(tmp_path / "out.dcm", shapes(), NAMES, frames, MAKER, headers=[header])
    dataset = pydicom.dcmread(tmp_path / "out.dcm")
    [study] = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    assert len(study.RTReferencedSeriesSequence[0].ContourImageSequence) == 1
    kidney = dataset.ROIContourSequence[1]
    numbers = {one.ContourImageSequence[0].ReferencedFrameNumber for one in kidney.ContourSequence}
    assert numbers == set(range(3, 13))  # planes 2 to 11


def edited(file, edit):
    """Change a structure set."""
    dataset = pydicom.dcmread(file)
    edit(dataset)
    dataset.save_as(file)


def moved(dataset):
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [
        value + 0.8 * (place % 3 == 1) for place, value in enumerate(map(float, contour.ContourData))
    ]


def lifted(dataset):
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [
        value + 2.5 * (place % 3 == 2) for place, value in enumerate(map(float, contour.ContourData))
    ]


def lost(dataset):
    del dataset.ROIContourSequence[2].ContourSequence[0]


def renamed(dataset):
    dataset.StructureSetROISequence[0].ROIName = "Spleen"


FAULTS = {
    moved: "liver differs from the label map in [1-9]",
    lifted: "a contour of liver does not lie on the slice",
    lost: "liver_tumour differs from the label map in 1 voxels",
    renamed: "its ROIs are not the organs",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_finds_contours_that_moved_vanished_or_were_renamed(tmp_path, series, fault):
    file = tmp_path / "out.dcm"
    write_rtstruct(file, shapes(), NAMES, series, MAKER)
    edited(file, fault)
    with pytest.raises(FileError, match=FAULTS[fault]):
        check_rtstruct(file, shapes(), NAMES, series)


def test_a_structure_set_that_does_not_read_back_leaves_nothing_behind(tmp_path):
    series = a_series(tmp_path / "scan", spacing=(10, 0.8, 0.7))
    headers = series.headers()
    for header in headers:  # aside by more than a voxel, which is little beside the distance of slices
        header.ImagePositionPatient = [float(header.ImagePositionPatient[0]) + 0.9, *header.ImagePositionPatient[1:]]
    with pytest.raises(FileError, match=r"liver differs from the label map in \d+ voxels; nothing was written"):
        write_rtstruct(tmp_path / "out" / "out.dcm", shapes(), NAMES, series, MAKER, headers=headers)
    assert list((tmp_path / "out").iterdir()) == []


def test_no_organ_no_structure_set(tmp_path, series):
    with pytest.raises(LabelError, match="no organ was found"):
        write_rtstruct(tmp_path / "out.dcm", np.zeros(series.shape, np.uint8), NAMES, series, MAKER)
    assert not (tmp_path / "out.dcm").exists()


def test_labels_without_a_name_of_their_own_or_on_another_grid_are_refused(tmp_path, series):
    with pytest.raises(LabelError, match="label 3 has no name"):
        write_rtstruct(tmp_path / "out.dcm", shapes(), {1: "liver", 2: "spleen"}, series, MAKER)
    with pytest.raises(GeometryError, match="do not fit"):
        write_rtstruct(tmp_path / "out.dcm", shapes()[1:], NAMES, series, MAKER)
    with pytest.raises(LabelError, match="two labels are the same organ"):
        write_rtstruct(tmp_path / "out.dcm", shapes(), {**NAMES, 4: "liver"}, series, MAKER)


def test_a_series_without_a_frame_of_reference_or_with_equal_instances_cannot_be_referred_to(tmp_path):
    def frameless(dataset, index):
        del dataset.FrameOfReferenceUID

    series = a_series(tmp_path / "frameless", edit=frameless)
    with pytest.raises(FileError, match="no valid frame of reference UID"):
        write_rtstruct(tmp_path / "out.dcm", shapes(), NAMES, series, MAKER)
    series = a_series(tmp_path / "alike")  # find_series refuses such a series
    headers = series.headers()
    for header in headers:
        header.SOPInstanceUID = "2.25.7"
    with pytest.raises(FileError, match="two slices have one SOP Instance UID"):
        write_rtstruct(tmp_path / "out.dcm", shapes(), NAMES, series, MAKER, headers=headers)


def test_slices_that_lie_elsewhere_than_the_series_says_are_refused(tmp_path, series):
    headers = series.headers()
    headers[4].ImagePositionPatient = [-100, -120, -280]
    with pytest.raises(GeometryError, match="slice 5 lies elsewhere"):
        write_rtstruct(tmp_path / "out.dcm", shapes(), NAMES, series, MAKER, headers=headers)
