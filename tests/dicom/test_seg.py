"""SEGs that viscera writes and reads: voxels, places, codes, refusals. By its own reading; other programs: test_seg_peers.py."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

import viscera.dicom.seg as seg_module
from dicom_labels import MAKER, NAMES, ORIENTATIONS, SHAPE, series_at, shapes
from viscera.dicom.check_seg import check_seg
from viscera.dicom.read_seg import read_seg
from viscera.dicom.seg import write_seg
from viscera.errors import FileError, GeometryError, LabelError

KINDS = ["binary", "labelmap"]


def by_name(labels, names):
    """Return {organ: mask} of the organs that have voxels."""
    return {organ: labels == value for value, organ in names.items() if (labels == value).any()}


def require_same(truth, labels, names):
    """Raise where a reading is not the label map that was written."""
    read, written = by_name(truth.labels, truth.names), by_name(labels, names)
    assert set(read) == set(written)
    assert all((read[organ] == written[organ]).all() for organ in written)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_what_is_written_is_read_voxel_for_voxel(tmp_path, kind, orientation):
    series = series_at(tmp_path / "ct", orientation)
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER, kind=kind)
    truth = read_seg(tmp_path / "a.dcm", series)
    require_same(truth, shapes(), NAMES)
    assert truth.notes == ()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.dcm"]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_each_frame_lies_where_its_slice_lies_and_refers_to_it(tmp_path, orientation):
    """Against the images' own headers, found by the reference, whatever order the series has."""
    series = series_at(tmp_path / "ct", orientation)
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER)
    images = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, (tmp_path / "ct").iterdir())}
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    shared = seg.SharedFunctionalGroupsSequence[0]
    for frame in seg.PerFrameFunctionalGroupsSequence:
        [source] = frame.DerivationImageSequence[0].SourceImageSequence
        image = images[source.ReferencedSOPInstanceUID]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.abs(np.subtract(position, image.ImagePositionPatient)).max() < 1e-3
        found = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        assert np.abs(np.subtract(found, image.ImageOrientationPatient)).max() < 1e-6
        assert shared.PixelMeasuresSequence[0].PixelSpacing == pytest.approx(image.PixelSpacing)
        assert source.ReferencedSOPClassUID == image.SOPClassUID
    [referenced] = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == series.series_uid
    assert {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence} == set(images)


def test_the_spacing_between_slices_is_along_their_normal_under_a_tilt(tmp_path):
    series = series_at(tmp_path / "ct", "tilted forward")
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER)
    measures = pydicom.dcmread(tmp_path / "a.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(2.4)  # the step is (0, 0.6, 2.4)


def test_only_organs_that_are_there_have_segments_and_no_frame_is_empty(tmp_path):
    series = series_at(tmp_path / "ct")
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER)
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    assert [item.SegmentNumber for item in seg.SegmentSequence] == [1, 2, 3, 4, 5, 6]
    organs = [item.SegmentLabel for item in seg.SegmentSequence]
    assert organs == ["liver", "kidney_left", "kidney_right", "aorta", "gills", "liver_tumour"]
    masks = by_name(shapes(), NAMES)
    assert seg.NumberOfFrames == sum(int(mask.any(axis=(1, 2)).sum()) for mask in masks.values())
    assert len(seg.PixelData) == 2 * -(-seg.NumberOfFrames * SHAPE[1] * SHAPE[2] // 16)


def test_segments_say_what_they_are_and_who_found_them(tmp_path):
    series = series_at(tmp_path / "ct")
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER)
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    segments = {item.SegmentLabel: item for item in seg.SegmentSequence}
    kidney = segments["kidney_left"].SegmentedPropertyTypeCodeSequence[0]
    assert (kidney.CodeValue, kidney.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"
    tumour = segments["liver_tumour"]
    assert tumour.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert tumour.AnatomicRegionSequence[0].CodeValue == "10200004"
    for item in segments.values():
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        [algorithm] = item.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
        assert algorithm.AlgorithmVersion == "0.1.0; starter 2; sha256 0123456789ab"
        assert len(item.RecommendedDisplayCIELabValue) == 3
    assert len({item.TrackingUID for item in segments.values()}) == len(segments)
    assert (seg.SeriesDescription, seg.ContentDescription) == ("viscera RESEARCH ONLY", "not for clinical use")
    assert seg.SeriesInstanceUID.startswith("2.25.")
    assert seg.SeriesNumber == 9001  # the images' is 3
    assert seg.StudyInstanceUID == series.study_uid
    assert seg.FrameOfReferenceUID == series.frame_of_reference_uid


def test_two_writings_share_no_identifier_of_their_own(tmp_path):
    series = series_at(tmp_path / "ct")
    found = []
    for name in ("a.dcm", "b.dcm"):
        write_seg(tmp_path / name, shapes(), NAMES, series, MAKER)
        seg = pydicom.dcmread(tmp_path / name)
        found.append({seg.SOPInstanceUID, seg.SeriesInstanceUID, *(item.TrackingUID for item in seg.SegmentSequence)})
    assert not found[0] & found[1]


def test_frames_of_a_multi_frame_source_are_told_by_number(tmp_path):
    series = series_at(tmp_path / "ct")
    uid = generate_uid()
    slices = tuple(replace(one, sop_instance_uid=uid, frame=5 - n) for n, one in enumerate(series.slices))
    series = replace(series, slices=tuple(replace(one, frame=one.frame + 2) for one in slices))
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER)
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
    for frame in seg.PerFrameFunctionalGroupsSequence:
        place = round((frame.PlanePositionSequence[0].ImagePositionPatient[2] + 300) / 2.5)
        [source] = frame.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedFrameNumber == 8 - place  # counted from 1
    require_same(read_seg(tmp_path / "a.dcm", series), shapes(), NAMES)


def test_255_organs_fit(tmp_path):
    series = series_at(tmp_path / "ct", shape=(3, 16, 16))
    labels = np.arange(3 * 256).reshape(3, 16, 16).astype(np.uint8)
    names = {value: f"organ_{value}" for value in range(1, 256)}
    for kind in KINDS:
        write_seg(tmp_path / f"{kind}.dcm", labels, names, series, MAKER, kind=kind)
        require_same(read_seg(tmp_path / f"{kind}.dcm", series), labels, names)


def test_headers_at_hand_are_used_instead_of_the_files(tmp_path):
    series = series_at(tmp_path / "ct")
    headers = series.headers()
    for file in series.files:
        file.unlink()
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER, headers=headers)
    assert pydicom.dcmread(tmp_path / "a.dcm").PatientID == "T1"


def test_a_source_compressed_with_loss_is_told(tmp_path):
    def lossy(dataset, index):
        dataset.LossyImageCompression, dataset.LossyImageCompressionRatio = "01", "10"
        dataset.LossyImageCompressionMethod = "ISO_10918_1"

    series = series_at(tmp_path / "ct", edit=lossy)
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER)
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    assert (seg.LossyImageCompression, seg.LossyImageCompressionRatio) == ("01", 10)


def test_no_text_of_the_images_but_of_patient_and_study_is_copied(tmp_path):
    marked = ("InstitutionName", "OperatorsName", "StationName", "ProtocolName", "SeriesDescription", "ImageComments")
    marked += ("PatientComments", "RequestedProcedureDescription", "DeviceSerialNumber", "PatientAddress", "FilterType")

    def mark(dataset, index):
        for keyword in marked:
            setattr(dataset, keyword, f"MARK{keyword[:8]}")
        dataset.add_new(0x00110010, "LO", "MARKPRIVATE")
        dataset.SeriesNumber = 3

    series = series_at(tmp_path / "ct", edit=mark)
    for kind in KINDS:
        write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER, kind=kind)
        content = (tmp_path / "a.dcm").read_bytes()
        assert b"MARK" not in content
        assert b"Test^Patient" in content


def test_patient_names_in_any_alphabet_stay_as_they_are(tmp_path):
    def name(dataset, index):
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Jörg"

    series = series_at(tmp_path / "ct", edit=name)
    write_seg(tmp_path / "a.dcm", shapes(), NAMES | {7: "größe"}, series, MAKER)
    assert pydicom.dcmread(tmp_path / "a.dcm").PatientName == "Müller^Jörg"


def test_strange_values_of_patient_and_study_are_passed_on_without_a_word(tmp_path, capfd):
    """What a scanner wrote against the rules is not ours to refuse, nor to quote; a warning would fail the test."""
    odd = {"PatientBirthDate": b"unknown1", "PatientSex": b"mal", "StudyDate": b"20.1.24 ", "PatientID": b"MARK" * 30}

    def bend(dataset, index):
        del dataset.ReferringPhysicianName

    series = series_at(tmp_path / "ct", edit=bend)
    file = series.slices[0].file
    content = file.read_bytes()
    tags = {
        "PatientBirthDate": b"\x10\x00\x30\x00DA",
        "PatientSex": b"\x10\x00\x40\x00CS",
        "StudyDate": b"\x08\x00\x20\x00DA",
    }
    tags["PatientID"] = b"\x10\x00\x20\x00LO"
    for keyword, value in odd.items():
        begin = content.index(tags[keyword])
        length = int.from_bytes(content[begin + 6 : begin + 8], "little")
        value += b" " * (len(value) % 2)
        content = content[: begin + 6] + len(value).to_bytes(2, "little") + value + content[begin + 8 + length :]
    file.write_bytes(content)
    for kind in KINDS:
        write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER, kind=kind)
        require_same(read_seg(tmp_path / "a.dcm", series), shapes(), NAMES)
        assert odd["PatientBirthDate"] in (tmp_path / "a.dcm").read_bytes()
    assert capfd.readouterr() == ("", "")


def test_a_reason_that_reading_found_against_references_is_told(tmp_path):
    series = series_at(tmp_path / "ct")
    object.__setattr__(series, "cannot_be_referenced", "has no valid SOP UID in its data sets")
    with pytest.raises(FileError, match="series ct has no valid SOP UID in its data sets"):
        write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER)


def test_no_organ_is_an_error(tmp_path):
    series = series_at(tmp_path / "ct")
    with pytest.raises(LabelError, match="no organ was found in ct, so there is nothing to write"):
        write_seg(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint8), NAMES, series, MAKER)
    assert not (tmp_path / "a.dcm").exists()


def test_a_label_without_a_name_is_an_error(tmp_path):
    series = series_at(tmp_path / "ct")
    with pytest.raises(LabelError, match="the labels hold 3, which has no name"):
        write_seg(tmp_path / "a.dcm", shapes(), {1: "liver", 2: "kidney_left"}, series, MAKER)


def test_labels_of_another_shape_are_an_error(tmp_path):
    series = series_at(tmp_path / "ct")
    with pytest.raises(GeometryError, match="do not fit the series ct"):
        write_seg(tmp_path / "a.dcm", shapes()[:-1], NAMES, series, MAKER)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda series: replace(series, series_uid=""), "has no identifiers"),
        (lambda series: replace(series, study_uid=""), "has no identifiers"),
        (
            lambda series: replace(series, slices=(replace(series.slices[0], sop_instance_uid=""), *series.slices[1:])),
            "no id",
        ),
        (
            lambda series: replace(series, slices=(series.slices[1], *series.slices[1:])),
            "several images of one identifier",
        ),
    ],
)
def test_a_series_that_cannot_be_referred_to_is_refused(tmp_path, change, why):
    with pytest.raises(FileError, match=why):
        write_seg(tmp_path / "a.dcm", shapes(), NAMES, change(series_at(tmp_path / "ct")), MAKER)
    assert not (tmp_path / "a.dcm").exists()


def spoil_position(seg):
    frame = seg.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
    frame.ImagePositionPatient[0] += 0.02


def spoil_orientation(seg):
    shared = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    shared.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def spoil_spacing(seg):
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.801, 0.7]


def spoil_pixel(seg):
    pixels = bytearray(seg.PixelData)
    pixels[100] ^= 1
    seg.PixelData = bytes(pixels)


def spoil_segment(seg):
    seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2


def spoil_label(seg):
    seg.SegmentSequence[0].SegmentLabel = "spleen"


def spoil_order(seg):
    first, second = seg.PerFrameFunctionalGroupsSequence[:2]
    first.PlanePositionSequence, second.PlanePositionSequence = (
        second.PlanePositionSequence,
        first.PlanePositionSequence,
    )


def spoil_number(seg):
    seg.NumberOfFrames -= 1
    del seg.PerFrameFunctionalGroupsSequence[-1]


def spoil_length(seg):
    seg.PixelData = seg.PixelData[:-200]


SPOILED = {
    spoil_position: "a frame lies elsewhere",
    spoil_orientation: "a frame lies elsewhere",
    spoil_spacing: "a frame lies elsewhere",
    spoil_pixel: "holds other voxels",
    spoil_segment: "holds other voxels",
    spoil_label: "the organs are others",
    spoil_order: "holds other voxels",
    spoil_number: "is missing",
    spoil_length: "cannot be decoded",
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_the_check_finds_what_is_wrong(tmp_path, spoil):
    series = series_at(tmp_path / "ct")
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER)
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    check_seg(tmp_path / "a.dcm", shapes(), NAMES, series)
    spoil(seg)
    seg.save_as(tmp_path / "a.dcm")
    with pytest.raises(FileError, match=f"what was written to a.dcm does not read back: .*{SPOILED[spoil]}"):
        check_seg(tmp_path / "a.dcm", shapes(), NAMES, series)


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_finds_one_voxel_in_any_slice(tmp_path, kind):
    series = series_at(tmp_path / "ct")
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER, kind=kind)
    for place in range(SHAPE[0]):
        other = shapes()
        other[place, 20, 2] = 1
        with pytest.raises(FileError, match=f"slice {place + 1} "):
            check_seg(tmp_path / "a.dcm", other, NAMES, series)


def test_what_does_not_read_back_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    """The packing is replaced by one that turns bits round, as a fault of ours would."""
    series = series_at(tmp_path / "ct")
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "a.dcm"
    file.write_text("old")
    true = seg_module.packed_bits
    monkeypatch.setattr(seg_module, "packed_bits", lambda *given: bytes(true(*given))[::-1])
    with pytest.raises(FileError, match="what was written to a.dcm does not read back") as caught:
        write_seg(file, shapes(), NAMES, series, MAKER)
    assert caught.value.file == file
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]


def edited(folder: Path, series, edit, kind="binary") -> Path:
    """Return a SEG of ``shapes`` after an edit, as another program might have written it."""
    write_seg(folder / "a.dcm", shapes(), NAMES, series, MAKER, kind=kind)
    seg = pydicom.dcmread(folder / "a.dcm")
    edit(seg)
    seg.save_as(folder / "a.dcm")
    return folder / "a.dcm"


def test_frames_in_any_order_are_matched_by_position(tmp_path):
    series = series_at(tmp_path / "ct", "oblique")

    def shuffle(seg):
        order = np.random.default_rng(0).permutation(int(seg.NumberOfFrames))
        bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
        bits = bits[: len(order) * SHAPE[1] * SHAPE[2]].reshape(len(order), -1)[order]
        pixels = np.packbits(bits.ravel(), bitorder="little").tobytes()
        seg.PixelData = pixels + b"\0" * (len(pixels) % 2)
        frames = list(seg.PerFrameFunctionalGroupsSequence)
        seg.PerFrameFunctionalGroupsSequence = [frames[number] for number in order]

    require_same(read_seg(edited(tmp_path, series, shuffle), series), shapes(), NAMES)


def test_the_same_grid_in_another_order_of_slices_and_axes_is_read_alike(tmp_path):
    """A SEG of the same images, its frames mirrored and turned: rows run where columns ran."""
    series = series_at(tmp_path / "ct")
    turned = replace(series, affine=series.affine @ np.eye(4)[[0, 2, 1, 3]], shape=(SHAPE[0], SHAPE[2], SHAPE[1]))
    flip = np.diag([-1.0, 1, -1, 1])
    flip[0, 3], flip[2, 3] = SHAPE[0] - 1, SHAPE[1] - 1
    turned = replace(turned, affine=turned.affine @ flip, slices=series.slices[::-1])
    write_seg(tmp_path / "a.dcm", shapes()[::-1, ::-1].transpose(0, 2, 1), NAMES, turned, MAKER)
    require_same(read_seg(tmp_path / "a.dcm", series), shapes(), NAMES)


def test_frames_that_cover_a_part_of_the_slices_are_read(tmp_path):
    series = series_at(tmp_path / "ct")
    part = np.zeros(SHAPE, np.uint8)
    part[2:5, 4:20, 6:15] = np.random.default_rng(0).integers(0, 3, (3, 16, 9))
    begin = series.affine.copy()
    begin[:3, 3] += series.affine[:3, :3] @ (2, 4, 6)
    smaller = replace(series, affine=begin, shape=(3, 16, 9), slices=series.slices[2:5])
    write_seg(tmp_path / "a.dcm", part[2:5, 4:20, 6:15], NAMES, smaller, MAKER)
    require_same(read_seg(tmp_path / "a.dcm", series), part, NAMES)


@pytest.mark.parametrize("shift_mm", [(0.35, 0, 0), (0, 0.4, 0), (0, 0, 1.25), (0, 0, 50), (-0.7, 0, 0)])
def test_a_frame_off_the_grid_is_an_error(tmp_path, shift_mm):
    series = series_at(tmp_path / "ct")

    def shift(seg):
        for frame in seg.PerFrameFunctionalGroupsSequence:
            position = frame.PlanePositionSequence[0]
            position.ImagePositionPatient = list(np.add(position.ImagePositionPatient, shift_mm))

    with pytest.raises(GeometryError, match="a frame that lies off the grid of series ct"):
        read_seg(edited(tmp_path, series, shift), series)


def test_positions_rounded_by_another_program_are_on_the_grid(tmp_path):
    series = series_at(tmp_path / "ct", "oblique")

    def rounded(seg):
        for frame in seg.PerFrameFunctionalGroupsSequence:
            position = frame.PlanePositionSequence[0]
            position.ImagePositionPatient = [round(float(value), 2) for value in position.ImagePositionPatient]

    require_same(read_seg(edited(tmp_path, series, rounded), series), shapes(), NAMES)


def test_fractions_count_from_one_half(tmp_path):
    series = series_at(tmp_path / "ct")

    def fractional(seg):
        seg.SegmentationType, seg.SegmentationFractionalType, seg.MaximumFractionalValue = (
            "FRACTIONAL",
            "PROBABILITY",
            200,
        )
        seg.BitsAllocated, seg.BitsStored, seg.HighBit = 8, 8, 7
        size = int(seg.NumberOfFrames) * SHAPE[1] * SHAPE[2]
        bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[:size]
        pixels = np.where(bits, 100, 99).astype(np.uint8).tobytes()
        seg.PixelData = pixels + b"\0" * (len(pixels) % 2)

    truth = read_seg(edited(tmp_path, series, fractional), series)
    require_same(truth, shapes(), NAMES)
    assert truth.notes == ("a.dcm: fractions of one half and more count as the organ",)


def test_of_overlapping_segments_the_later_wins_with_a_note(tmp_path):
    series = series_at(tmp_path / "ct")

    def overlap(seg):
        seg.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0].ImagePositionPatient = [-100, -120, -300]

    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER)
    truth = read_seg(edited(tmp_path, series, overlap), series)  # the first slice of kidney_left lies on the liver
    both = (shapes()[0] == 1) & (shapes()[1] == 2)
    assert truth.notes == (f"a.dcm: {both.sum()} voxels are of liver and of kidney_left; they count as kidney_left",)
    assert truth.names[int(truth.labels[0][both][0])] == "kidney_left"


def test_segments_of_one_organ_are_merged_with_a_note(tmp_path):
    series = series_at(tmp_path / "ct")

    def rename(seg):
        codes = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence
        seg.SegmentSequence[3].SegmentedPropertyTypeCodeSequence = codes

    truth = read_seg(edited(tmp_path, series, rename), series)
    require_same(truth, np.where(shapes() == 7, 1, shapes()), NAMES)
    assert truth.notes == ("a.dcm: several segments are liver; they are merged",)


def test_old_snomed_rt_codes_are_read(tmp_path):
    series = series_at(tmp_path / "ct")

    def old(seg):
        code = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
        code.CodeValue, code.CodingSchemeDesignator = "T-62000", "SRT"
        seg.SegmentSequence[0].SegmentLabel = "Segment_1"

    require_same(read_seg(edited(tmp_path, series, old), series), shapes(), NAMES)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_of_a_segment_that_is_not_described_are_an_error(tmp_path, kind):
    series = series_at(tmp_path / "ct")

    def forget(seg):
        del seg.SegmentSequence[-1]

    with pytest.raises(FileError, match="pixels of a segment that it does not describe"):
        read_seg(edited(tmp_path, series, forget, kind), series)


def test_a_segment_that_nothing_names_is_an_error(tmp_path):
    series = series_at(tmp_path / "ct")

    def unname(seg):
        item = seg.SegmentSequence[4]  # gills, with a code of ours
        item.SegmentLabel = ""

    with pytest.raises(LabelError, match=r"segment 5 of a.dcm has neither a known code nor a label"):
        read_seg(edited(tmp_path, series, unname), series)


def test_a_seg_of_another_series_is_refused(tmp_path):
    series, other = series_at(tmp_path / "ct"), series_at(tmp_path / "other")
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, other, MAKER)
    with pytest.raises(FileError, match="was drawn on another series than ct") as caught:
        read_seg(tmp_path / "a.dcm", series)
    assert not re.search(r"\d\.\d+\.\d", str(caught.value))  # no UID


def test_a_seg_that_names_no_series_must_share_the_frame_of_reference(tmp_path):
    def drop(seg):
        del seg.ReferencedSeriesSequence

    series, other = series_at(tmp_path / "ct"), series_at(tmp_path / "other")
    file = edited(tmp_path, series, drop)
    require_same(read_seg(file, series), shapes(), NAMES)
    with pytest.raises(FileError, match="another series"):
        read_seg(file, other)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"no DICOM", "is not a DICOM file"), (b"", "is not a DICOM file"), (None, "is not a DICOM SEG")],
)
def test_what_is_no_seg_is_refused(tmp_path, content, why):
    series = series_at(tmp_path / "ct")
    (tmp_path / "a.dcm").write_bytes(series.slices[0].file.read_bytes() if content is None else content)
    with pytest.raises(FileError, match=why):
        read_seg(tmp_path / "a.dcm", series)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seg_cut_off_anywhere_is_an_error_never_a_part(tmp_path, kind):
    series = series_at(tmp_path / "ct")
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER, kind=kind)
    whole = (tmp_path / "a.dcm").read_bytes()
    for part in (0.1, 0.3, 0.6, 0.9, 0.98):
        (tmp_path / "a.dcm").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(FileError):
            read_seg(tmp_path / "a.dcm", series)


def test_real_liver_of_another_program_is_read(shared_data):
    """dcmqi's example: SRT codes, sequences of undefined length; voxels as pydicom unpacks them, the place by hand."""
    from viscera.dicom.finding import find_series

    folder = shared_data / "dcmqi_liver"
    if not folder.is_dir():
        pytest.skip("no dcmqi_liver beside the checkout")
    [series] = find_series(folder / "ct-3slice").series
    truth = read_seg(folder / "liver_seg.dcm", series)
    assert dict(truth.names) == {1: "liver"}
    seg: Dataset = pydicom.dcmread(folder / "liver_seg.dcm")
    heights = [frame.PlanePositionSequence[0].ImagePositionPatient[2] for frame in seg.PerFrameFunctionalGroupsSequence]
    expected = seg.pixel_array[np.argsort(heights)]
    assert expected.any(axis=(1, 2)).all()
    assert (truth.labels == expected).all()
