"""Which series are found, what they are called, what is left out, and that nothing a file holds raises a foreign exception."""

import os
import shutil

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from dicom_series import ball, write_enhanced, write_series
from viscera.dicom.finding import find_series, safe_name
from viscera.errors import FileError, VisceraError

SMALL = ball((4, 16, 12))
STUDY = ("1.2.3", "1.2.4", "1.2.5")


def put(folder, hu=SMALL, **arguments):
    return write_series(folder, hu, **arguments)


def setting(**values):
    """Return an edit that sets attributes, or deletes those that are None."""

    def edit(dataset, _):
        for keyword, value in values.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)

    return edit


def names(place):
    return [one.name for one in find_series(place).series]


def problem(place):
    found = find_series(place)
    assert not found.series
    [error] = found.problems.values()
    return str(error)


def test_one_series_is_called_like_its_place_however_deep_it_lies(tmp_path):
    put(tmp_path / "case7" / "PAT0" / "ST0" / "SE0", name=lambda index: "ABCD"[index])
    assert names(tmp_path / "case7") == ["case7"]


def test_series_in_folders_of_their_own_are_called_like_these(tmp_path):
    for name in ("a/CT", "b/CT", "b/other"):
        put(tmp_path / name)
    assert names(tmp_path) == ["a_CT", "b_CT", "b_other"]


def test_series_of_one_folder_are_called_like_their_numbers_and_else_counted(tmp_path):
    numbers = (3, 12, 3, None, -4, 99999999)
    for index, number in enumerate(numbers):
        put(tmp_path / "in", edit=setting(SeriesNumber=number), name=lambda i, index=index: f"{index}{i}")
    assert names(tmp_path / "in") == ["in_4", "in_5", "in_6", "in_series12", "in_series3", "in_series3_2"]


def test_names_never_come_from_headers(tmp_path):
    for index in range(2):
        put(
            tmp_path / "in",
            edit=setting(PatientName="MARK^ER", SeriesDescription="MARKER"),
            name=lambda i, k=index: f"{k}{i}",
        )
    found = find_series(tmp_path / "in")
    assert not any("MARK" in one.name for one in found.series)
    assert not any(one.series_uid in one.name for one in found.series)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../x", "x"),
        ("..", "series"),
        ("a/b", "a_b"),
        ("nul.txt", "nul.txt_"),
        ("x" * 200, "x" * 80),
        ("Bäuche 1", "Bäuche 1"),
    ],
)
def test_names_are_safe_as_file_names(text, name):
    assert safe_name(text) == name


def test_names_that_differ_in_case_only_are_told_apart(tmp_path):
    put(tmp_path / "A" / "x y")
    put(tmp_path / "A_x y")
    put(tmp_path / "a_X y")
    found = names(tmp_path)
    assert len({name.casefold() for name in found}) == 3


def test_links_that_lead_around_in_circles_are_followed_once(tmp_path):
    put(tmp_path / "in" / "a")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "twice").symlink_to(tmp_path / "in" / "a" / "IM0000")
    os.link(tmp_path / "in" / "a" / "IM0001", tmp_path / "in" / "hard")
    found = find_series(tmp_path / "in")
    assert len(found.series[0].files) == 4
    assert found.series[0].notes == ()
    assert found.notes == ("1 file is not a CT slice and was left out (unreadable 1)",)


def test_pipes_are_not_waited_for(tmp_path):
    put(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert len(find_series(tmp_path).series) == 1


def other(folder, name, uid, **values):
    """Write an object of another kind."""

    def edit(dataset, _):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    put(folder, SMALL[:1], edit=edit, name=lambda _: name)


def test_what_is_no_ct_slice_is_left_out_and_counted_by_kind(tmp_path):
    put(tmp_path)
    other(tmp_path, "rs", pydicom.uid.RTStructureSetStorage)
    other(tmp_path, "seg1", pydicom.uid.SegmentationStorage)
    other(tmp_path, "seg2", pydicom.uid.SegmentationStorage)
    other(tmp_path, "pet", pydicom.uid.PositronEmissionTomographyImageStorage)
    other(tmp_path, "sc", pydicom.uid.SecondaryCaptureImageStorage)
    other(tmp_path, "private", "1.2.3.4")
    other(tmp_path, "scout", pydicom.uid.CTImageStorage, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"])
    other(tmp_path, "screen", pydicom.uid.CTImageStorage, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])
    other(tmp_path, "DICOMDIR", pydicom.uid.MediaStorageDirectoryStorage)
    (tmp_path / "README").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "bad").write_bytes(bytes(128) + b"DICM" + b"\xff" * 500)
    found = find_series(tmp_path)
    assert [len(one.slices) for one in found.series] == [4]
    assert not found.problems
    [note] = found.notes
    assert note == (
        "11 files are not CT slices and were left out (PositronEmissionTomographyImageStorage 1, RTStructureSetStorage 1, "
        "SecondaryCaptureImageStorage 1, SegmentationStorage 2, damaged 1, localizer 1, not DICOM 2, screenshot 1, "
        "unknown SOP class 1)"
    )


def test_a_folder_without_ct_says_what_is_there(tmp_path):
    other(tmp_path, "rs", pydicom.uid.RTStructureSetStorage)
    with pytest.raises(FileError, match=r"has no CT series: 1 file is not a CT slice and was left out .RTStructureSet"):
        find_series(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="has no CT series. Check the path"):
        find_series(tmp_path / "empty")
    with pytest.raises(FileError, match="no such file or folder"):
        find_series(tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(FileError, match="neither a folder, a ZIP nor a DICOM file"):
        find_series(tmp_path / "text")


def test_a_single_file_is_a_single_slice(tmp_path):
    [file, *_] = put(tmp_path)
    assert "single slice" in problem(file)
    assert names(write_enhanced(tmp_path / "multi.dcm", SMALL)) == ["multi"]


def test_a_series_is_chosen_by_its_uid_and_a_wrong_one_lists_what_there_is(tmp_path):
    put(tmp_path / "a", uids=("1.2.3", "1.2.41", "1.2.5"))
    put(tmp_path / "b", uids=("1.2.3", "1.2.42", "1.2.5"))
    put(tmp_path / "c", SMALL[:1], uids=("1.2.3", "1.2.43", "1.2.5"))
    found = find_series(tmp_path, series_uid="1.2.42")
    assert ([one.name for one in found.series], dict(found.problems)) == (["b"], {})
    with pytest.raises(FileError) as error:
        find_series(tmp_path, series_uid="1.2.44")
    assert "has no CT series 1.2.44, but 3 others. Choose one of 1.2.41, 1.2.42, 1.2.43." in str(error.value)


def test_empty_uids_are_mended_from_the_file_meta_information_and_nothing_can_refer_to_them(tmp_path):
    put(
        tmp_path / "in" / "a",
        edit=setting(SOPInstanceUID="", SeriesInstanceUID="", StudyInstanceUID="", SOPClassUID=""),
    )
    put(tmp_path / "in" / "b", edit=setting(SOPInstanceUID=None, SeriesInstanceUID=None, StudyInstanceUID=None))
    found = find_series(tmp_path / "in")
    assert [one.name for one in found.series] == ["a", "b"]
    for series in found.series:
        assert (series.read().voxels == SMALL).all()
        assert series.cannot_be_referenced == (
            "has no valid SOP, study and series UID in its data sets, so no other DICOM object can refer to it"
        )
        metas = {pydicom.dcmread(file).file_meta.MediaStorageSOPInstanceUID for file in series.files}
        assert {one.sop_instance_uid for one in series.slices} == metas
        assert series.notes == (f"it {series.cannot_be_referenced}",)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"SeriesInstanceUID": ""}, "series"),
        ({"StudyInstanceUID": None}, "study"),
        ({"FrameOfReferenceUID": None}, "frame of reference"),
        ({"FrameOfReferenceUID": ""}, "frame of reference"),
        ({"SOPInstanceUID": ""}, "SOP"),
    ],
)
def test_each_uid_that_is_missing_is_named(tmp_path, values, word):
    put(tmp_path, edit=setting(**values))
    [series] = find_series(tmp_path).series
    assert f"has no valid {word} UID" in series.cannot_be_referenced


def test_uids_that_are_none_cannot_be_referred_to(tmp_path):
    for file in put(tmp_path, uids=("1.2.3", "1.2.4444", "1.2.5")):
        file.write_bytes(file.read_bytes().replace(b"1.2.4444", b"1.2/../x"))
    [series] = find_series(tmp_path).series
    assert "series" in series.cannot_be_referenced
    assert "/" not in series.name


def test_series_without_uid_are_told_apart_by_folder_and_direction(tmp_path):
    put(tmp_path / "a", edit=setting(SeriesInstanceUID=""), uids=STUDY)
    put(tmp_path / "b", edit=setting(SeriesInstanceUID=""), uids=STUDY)
    sagittal = (0, 1, 0, 0, 0, -1)
    put(tmp_path / "a", edit=setting(SeriesInstanceUID=""), uids=STUDY, orientation=sagittal, name="S{}".format)
    assert len(find_series(tmp_path).series) == 3


def test_images_of_several_patients_studies_or_frames_are_not_one_series(tmp_path):
    def late(**values):
        def edit(dataset, index):
            if index == 2:
                setting(**values)(dataset, index)

        return edit

    put(tmp_path / "p", edit=late(PatientID="OTHER"))
    put(tmp_path / "s", edit=late(StudyInstanceUID=generate_uid()))
    put(tmp_path / "f", edit=late(FrameOfReferenceUID=generate_uid()))
    put(tmp_path / "g", edit=late(FrameOfReferenceUID=None))
    problems = {name: str(error) for name, error in find_series(tmp_path).problems.items()}
    assert "not all of the same patient" in problems["p"]
    assert "not all of the same study" in problems["s"]
    assert "not all of the same frame of reference" in problems["f"]
    assert "not all of the same frame of reference" in problems["g"]
    assert "OTHER" not in "".join(problems.values())


def test_a_sop_uid_of_several_images_is_a_problem(tmp_path):
    put(tmp_path / "x", edit=setting(SOPInstanceUID="1.2.9"))
    assert "several of its images have the same SOP Instance UID" in problem(tmp_path / "x")


def test_a_copy_that_was_written_anew_is_a_copy_and_one_with_other_pixels_is_not(tmp_path):
    files = put(tmp_path / "x")
    dataset = pydicom.dcmread(files[1])
    dataset.file_meta.ImplementationVersionName = "OTHER"
    dataset.save_as(tmp_path / "x" / "again")
    [series] = find_series(tmp_path / "x").series
    assert series.notes == ("1 image is there twice",)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(tmp_path / "x" / "again")
    assert "two different images lie at the same position" in problem(tmp_path / "x")


def test_one_bad_series_does_not_keep_the_others(tmp_path):
    put(tmp_path / "good")
    for file in put(tmp_path / "gap", ball((6, 16, 12)))[2:3]:
        file.unlink()
    found = find_series(tmp_path)
    assert [one.name for one in found.series] == ["good"]
    assert "1 slice is missing" in str(found.problems["gap"])
    assert set(found.problems) == {"gap"}


def test_files_without_preamble_are_read_and_texts_that_begin_alike_are_not(tmp_path):
    for file in put(tmp_path / "x"):
        file.write_bytes(file.read_bytes()[132:])
    (tmp_path / "x" / "table").write_bytes(b"\x08\0\x08\0" + b"rubbish" * 100)
    found = find_series(tmp_path / "x")
    assert (found.series[0].read().voxels == SMALL).all()
    assert found.notes == ("1 file is not a CT slice and was left out (not DICOM 1)",)


def test_no_damage_raises_anything_but_our_own_errors_and_no_header_text_is_told(tmp_path, capfd):
    random = np.random.default_rng(11)
    edit = setting(PatientName="MARKER^M", PatientID="MARKER", SeriesDescription="MARKER", PatientComments="MARKER" * 9)
    files = put(tmp_path / "x", edit=edit)
    good = files[1].read_bytes()
    for trial in range(120):
        content = bytearray(good[: random.integers(100, len(good))] if trial % 3 == 0 else good)
        if trial % 3:
            for at in random.integers(132, 1000, 3 if trial % 3 == 1 else 40):
                content[at] = random.integers(256)
        files[1].write_bytes(content)
        said = []
        try:
            found = find_series(tmp_path / "x")
            said += [*found.notes, *map(str, found.problems.values()), *found.problems]
            for series in found.series:
                said += [series.name, *series.notes]
                series.read()
        except VisceraError as error:
            said.append(str(error))
        assert "MARKER" not in "".join(said)
    assert "MARKER" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("harm", ["deep", "huge", "endless"])
def test_headers_made_to_hurt_are_left_out(tmp_path, harm):
    files = put(tmp_path / "x")
    content = files[0].read_bytes()
    at = content.find(b"\x20\0\x32\0DS")  # before the position
    evil = {
        "deep": (b"\x09\0\x01\x10SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 20000,
        "huge": b"\x20\0\x20\0UT\0\0\xf0\xff\xff\xff",
        "endless": b"\x20\0\x20\0OB\0\0\xff\xff\xff\xff" + bytes(50000),
    }[harm]
    files[0].write_bytes(content[:at] + evil + content[at:])
    found = find_series(tmp_path / "x")
    assert found.problems or len(found.series[0].slices) == 3
    assert found.problems or "damaged 1" in found.notes[0]


def test_the_hash_and_the_volume_are_the_same_from_copies_in_another_order(tmp_path):
    files = put(tmp_path / "a")
    (tmp_path / "b" / "c").mkdir(parents=True)
    for index, file in enumerate(files[::-1]):
        shutil.copy(file, tmp_path / "b" / ("c" if index % 2 else "") / f"x{index}")
    [a], [b] = find_series(tmp_path / "a").series, find_series(tmp_path / "b").series
    assert a.sha256() == b.sha256()
    assert (a.read().voxels == b.read().voxels).all()
