from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from dicom_series import write_series
from viscera.dicom.finding import find_series
from viscera.dicom.outputs import Maker
from viscera.dicom.rtstruct import decimal_strings, write_rtstruct
from viscera.dicom.rtstruct_reading import read_rtstruct
from viscera.dicom.series import LPS_TO_RAS
from viscera.errors import FileError, GeometryError, LabelError

SQUARE = np.array([[9.5, 9.5], [9.5, 20.5], [20.5, 20.5], [20.5, 9.5]])
"""(y, x): voxels 10 to 20."""
SMALL = (SQUARE - 15) * 0.4 + 15
"""Within it: voxels 13 to 17."""


@pytest.fixture
def series(tmp_path):
    write_series(tmp_path / "scan")
    [series] = find_series(tmp_path / "scan").series
    return series


def contour(series, plane, points, kind="CLOSED_PLANAR", count=None):
    """Return a contour as another program writes it: points (y, x) in voxels, no reference to an image."""
    index = np.column_stack([np.full(len(points), float(plane)), points, np.ones(len(points))])
    item = Dataset()
    item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(points) if count is None else count
    item.ContourData = [
        float(number) for number in decimal_strings((index @ (LPS_TO_RAS @ series.affine).T)[:, :3]).split(b"\\")
    ]
    return item


def structure_set(series, rois, file, edit=lambda dataset: None):
    """Write a structure set {ROI name: contours}, by way of one of viscera's whose ROIs are replaced."""
    labels = np.zeros(series.shape, np.uint8)
    labels[1, 1, 1] = 1
    write_rtstruct(file, labels, {1: "liver"}, series, Maker("1", "w", "0"))
    dataset = pydicom.dcmread(file)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = series.frame_of_reference_uid
        drawn.ReferencedROINumber = number
        if contours is not None:
            drawn.ContourSequence = contours
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
    edit(dataset)
    dataset.save_as(file)
    return file


def square(shape, planes, low=10, high=21, value=1):
    labels = np.zeros(shape, np.uint8)
    labels[planes, low:high, low:high] = value
    return labels


@pytest.mark.parametrize("step", [None, (0.0, 0.7, 2.5)], ids=["upright", "tilted"])
def test_what_viscera_writes_it_reads_without_a_note(tmp_path, step):
    write_series(tmp_path / "scan", step=step)
    [series] = find_series(tmp_path / "scan").series
    rng = np.random.default_rng(0)
    labels = np.repeat(np.repeat(rng.integers(0, 3, (12, 12, 10), np.uint8), 4, axis=1), 4, axis=2)
    labels[:, 5:7, 5:7] = 0
    write_rtstruct(tmp_path / "out.dcm", labels, {1: "liver", 2: "kidney_tumour"}, series, Maker("1", "w", "0"))
    found = read_rtstruct(tmp_path / "out.dcm", series)
    assert (found.labels == labels).all()
    assert found.names == {1: "liver", 2: "kidney_tumour"}
    assert found.notes == ()


def test_rois_are_matched_by_the_table_then_tg263_and_the_rest_is_told(tmp_path, series):
    rois = {
        name: [contour(series, plane, SQUARE)] for plane, name in enumerate(("Leber", "SPLEEN", "Pancreaz", "PTV1"))
    }
    found = read_rtstruct(structure_set(series, rois, tmp_path / "a.dcm"), series, names={"leber": "liver"})
    assert found.names == {1: "liver", 2: "spleen"}
    assert (found.labels == square(series.shape, 0) + square(series.shape, 1, value=2)).all()
    assert found.notes == (
        "ROI 'Pancreaz': not the name of an organ, so left out. Did you mean 'pancreas'?",
        "ROI 'PTV1': not the name of an organ, so left out.",
    )


def test_inner_contours_are_holes_and_islands_in_them_are_not(tmp_path, series):
    island = (SQUARE - 15) * 0.1 + 15
    rois = {"Liver": [contour(series, 3, points) for points in (SMALL, SQUARE, island)]}
    found = read_rtstruct(structure_set(series, rois, tmp_path / "a.dcm"), series)
    expected = square(series.shape, 3) - square(series.shape, 3, 13, 18) + square(series.shape, 3, 15, 16)
    assert (found.labels == expected).all()
    assert found.notes == ("liver: 2 contours within others were read as holes",)


def test_contours_that_overlap_or_stand_twice_count_together(tmp_path, series):
    rois = {"Liver": [contour(series, 3, SQUARE), contour(series, 3, SQUARE + 5), contour(series, 3, SQUARE + 5)]}
    found = read_rtstruct(structure_set(series, rois, tmp_path / "a.dcm"), series)
    assert (found.labels == np.maximum(square(series.shape, 3), square(series.shape, 3, 15, 26))).all()
    assert any("pairs of contours overlap; they were taken together" in note for note in found.notes)


def test_contours_whose_type_says_xor_are_combined_so(tmp_path, series):
    kind = "CLOSEDPLANAR_XOR"
    rois = {"Liver": [contour(series, 3, SQUARE, kind), contour(series, 3, SQUARE + 5, kind)]}
    found = read_rtstruct(structure_set(series, rois, tmp_path / "a.dcm"), series)
    assert (found.labels == square(series.shape, 3) ^ square(series.shape, 3, 15, 26)).all()
    assert found.notes == ()


def test_an_roi_without_closed_contours_is_unknown_and_other_types_are_left_out(tmp_path, series):
    rois = {
        "Liver": [contour(series, 3, SQUARE), contour(series, 3, SQUARE[:1], "POINT")],
        "Spleen": None,
        "Stomach": [contour(series, 4, SQUARE, "OPEN_PLANAR")],
        "Pancreas": [contour(series, 4, SQUARE[:2])],
        "Colon": [contour(series, 400, SQUARE)],
        "Heart": [contour(series, 5, SQUARE * 0.01 + 3.2)],
    }
    found = read_rtstruct(structure_set(series, rois, tmp_path / "a.dcm"), series)
    assert set(found.names.values()) == {"liver"}
    notes = "\n".join(found.notes)
    for organ in ("spleen", "stomach", "pancreas", "colon"):
        assert f"{organ}: its ROI has no closed contour within the scan, so it is unknown, not absent" in notes
    assert "heart: its contours enclose no voxel's centre" in notes
    assert "liver: 1 contours of type POINT left out" in notes
    assert "pancreas: 1 contours of fewer than three points left out" in notes
    assert "colon: 1 contours outside of the scan left out" in notes


def test_slices_without_a_contour_within_an_organ_are_told(tmp_path, series):
    rois = {"Liver": [contour(series, plane, SQUARE) for plane in (2, 4, 6)]}
    found = read_rtstruct(structure_set(series, rois, tmp_path / "a.dcm"), series)
    assert (found.labels == square(series.shape, [2, 4, 6])).all()
    assert found.notes == ("liver: no contour on 2 of the 5 slices from its first to its last",)


def test_a_later_roi_goes_before_an_earlier_one_but_never_a_whole_before_its_part(tmp_path, series):
    rois = {
        "liver_tumour": [contour(series, 3, SMALL)],
        "Spleen": [contour(series, 3, SQUARE + 8)],
        "Liver": [contour(series, 3, SQUARE)],
    }
    found = read_rtstruct(structure_set(series, rois, tmp_path / "a.dcm"), series)
    tumour, spleen, liver = square(series.shape, 3, 13, 18), square(series.shape, 3, 18, 29), square(series.shape, 3)
    expected = np.select([tumour > 0, liver > 0, spleen > 0], [1, 3, 2], 0)
    assert (found.labels == expected).all()
    assert found.names == {1: "liver_tumour", 2: "spleen", 3: "liver"}
    assert "spleen and liver overlap in 9 voxels, which became liver" in found.notes
    assert "liver and liver_tumour overlap in 25 voxels, which became liver_tumour" in found.notes


def test_two_rois_of_one_organ_are_refused_unless_the_table_names_one(tmp_path, series):
    rois = {"Liver": [contour(series, 3, SQUARE)], "liver ": None, "Leber": [contour(series, 4, SQUARE)]}
    file = structure_set(series, rois, tmp_path / "a.dcm")
    with pytest.raises(LabelError, match="2 ROIs are liver"):
        read_rtstruct(file, series)
    found = read_rtstruct(file, series, names={"Leber": "liver"})
    assert (found.labels == square(series.shape, 4)).all()
    assert "ROI 'Liver': the table names another one as liver" in found.notes


def test_a_contour_between_slices_is_refused(tmp_path, series):
    file = structure_set(series, {"Liver": [contour(series, 3.2, SQUARE)]}, tmp_path / "a.dcm")
    with pytest.raises(GeometryError, match="liver does not lie in the plane of a slice .it is at slice 4.20"):
        read_rtstruct(file, series)
    file = structure_set(series, {"Liver": [contour(series, 3.05, SQUARE)]}, tmp_path / "a.dcm")
    assert (read_rtstruct(file, series).labels == square(series.shape, 3)).all()


def test_a_contour_that_refers_to_another_slice_is_refused(tmp_path, series):
    one, image = contour(series, 3, SQUARE), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2", series.slices[7].sop_instance_uid
    one.ContourImageSequence = [image]
    with pytest.raises(GeometryError, match="lies on slice 4 but refers to slice 8"):
        read_rtstruct(structure_set(series, {"Liver": [one]}, tmp_path / "a.dcm"), series)


def test_rois_drawn_in_another_frame_of_reference_are_left_out(tmp_path, series):
    def edit(dataset):
        dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"

    rois = {"Liver": [contour(series, 3, SQUARE)], "Spleen": [contour(series, 4, SQUARE)]}
    found = read_rtstruct(structure_set(series, rois, tmp_path / "a.dcm", edit), series)
    assert found.names == {1: "liver"}
    assert found.notes == ("ROI 'Spleen': drawn in another frame of reference, so left out.",)


def test_a_contour_that_refers_to_another_frame_of_a_file_is_refused(tmp_path, series):
    uid = series.slices[0].sop_instance_uid
    frames = replace(
        series, slices=tuple(replace(one, sop_instance_uid=uid, frame=n) for n, one in enumerate(series.slices))
    )
    one, image = contour(series, 3, SQUARE), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID, image.ReferencedFrameNumber = "1.2", uid, 4
    one.ContourImageSequence = [image]
    file = structure_set(series, {"Liver": [one]}, tmp_path / "a.dcm")
    assert (read_rtstruct(file, frames).labels == square(series.shape, 3)).all()
    image.ReferencedFrameNumber = 5
    file = structure_set(series, {"Liver": [one]}, tmp_path / "a.dcm")
    with pytest.raises(GeometryError, match="lies on slice 4 but refers to slice 5"):
        read_rtstruct(file, frames)


def test_more_contours_than_are_compared_are_combined_by_the_even_odd_rule_with_a_note(tmp_path, series):
    corners = [(y, x) for y in range(1, 40, 3) for x in range(1, 35, 3)]
    cells = [contour(series, 3, (SQUARE - 15) / 11 + corner) for corner in corners]
    found = read_rtstruct(structure_set(series, {"Liver": cells}, tmp_path / "a.dcm"), series)
    assert (np.argwhere(found.labels[3]) == corners).all()
    assert found.notes == ("liver: 1 slices have more than 100 contours, combined by the even-odd rule",)


def other_frame(dataset):
    dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3"
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"


def other_series(dataset):
    [study] = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


def no_references(dataset):
    del dataset.ReferencedFrameOfReferenceSequence


def not_a_structure_set(dataset):
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"


def one_number(dataset):
    dataset.StructureSetROISequence.append(dataset.StructureSetROISequence[0])


def raw(text):
    def edit(dataset):
        from pydicom.dataelem import RawDataElement
        from pydicom.tag import Tag

        item = dataset.ROIContourSequence[0].ContourSequence[0]
        item[Tag("ContourData")] = RawDataElement(Tag("ContourData"), "DS", len(text), text, 0, True, True)
        item.NumberOfContourPoints = (text.count(b"\\") + 1) // 3

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (other_frame, "different frames of reference"),
        (other_series, "does not name scan as the series"),
        (no_references, "does not name scan as the series"),
        (not_a_structure_set, "not an RT Structure Set"),
        (one_number, "two ROIs have one number"),
        (raw(b"1\\2\\3\\4 "), "damaged"),
        (raw(b"1\\2\\nan\\1\\3\\3\\2\\2\\3 "), "damaged"),
        (raw(b"1\\2\\1e300\\1\\3\\3\\2\\2\\3 "), "damaged"),
        (raw(b"1\\2\\x\\1\\3\\3\\2\\2\\3 "), "damaged"),
        (raw(b"\xff\xfe"), "damaged"),
        (raw(b""), "damaged"),
        (lambda dataset: setattr(dataset.ROIContourSequence[0].ContourSequence[0], "NumberOfContourPoints", 9), "damaged"),
        (lambda dataset: delattr(dataset.ROIContourSequence[0], "ReferencedROINumber"), "damaged"),
        (lambda dataset: delattr(dataset.StructureSetROISequence[0], "ROINumber"), "damaged"),
    ],
)  # fmt: skip
def test_other_series_and_malformed_files_are_refused(tmp_path, series, edit, words):
    file = structure_set(series, {"Liver": [contour(series, 3, SQUARE)]}, tmp_path / "a.dcm", edit)
    with pytest.raises(FileError, match=words):
        read_rtstruct(file, series)


def test_files_cut_short_or_of_another_kind_are_refused_wherever_they_end(tmp_path, series):
    whole = structure_set(series, {"Liver": [contour(series, 3, SQUARE)]}, tmp_path / "a.dcm").read_bytes()
    expected = read_rtstruct(tmp_path / "a.dcm", series)
    for end in range(0, len(whole), 97):
        (tmp_path / "b.dcm").write_bytes(whole[:end])
        try:
            found = read_rtstruct(tmp_path / "b.dcm", series)
        except (FileError, LabelError):
            continue
        assert (found.labels == expected.labels).all()  # cut behind the contours
    with pytest.raises(FileError, match="no such file"):
        read_rtstruct(tmp_path / "none.dcm", series)
    (tmp_path / "text.dcm").write_text("liver")
    with pytest.raises(FileError, match="damaged or not a structure set"):
        read_rtstruct(tmp_path / "text.dcm", series)


def test_a_structure_set_of_targets_only_is_refused_with_its_names(tmp_path, series):
    file = structure_set(series, {"PTV1": [contour(series, 3, SQUARE)]}, tmp_path / "a.dcm")
    with pytest.raises(LabelError, match="none of its 1 ROIs is an organ.*'PTV1'"):
        read_rtstruct(file, series)
