"""The layout dicom: which series has which truth, which organs it annotates, and what is refused."""

import copy
import json
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from dicom_series import write_series
from dicom_sets import GERMAN, case, striped, write_truth
from viscera.datasets.annotations import AnnotationWarning
from viscera.datasets.dicom import TruthWarning
from viscera.datasets.layouts import find_sources
from viscera.datasets.read_labels import read_labels
from viscera.dicom.finding import find_series
from viscera.errors import DataSetError, FileError, LabelError

pytestmark = pytest.mark.filterwarnings("ignore::viscera.datasets.annotations.AnnotationWarning")
TABLE = {roi: organ for organ, roi in GERMAN.items()}


def table(folder, content=TABLE):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "roi_names.json").write_text(json.dumps(content))


def found(folder):
    sources, problems = find_sources("dicom", folder)
    return {source.name: source for source in sources}, {problem.case: problem for problem in problems}


def unpickled(thing):
    return pickle.loads(pickle.dumps(thing))  # noqa: S301 (our own)


@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
def test_a_series_has_the_labels_that_were_drawn_on_it(tmp_path, kind):
    table(tmp_path / "set")
    drawn = {name: case(tmp_path / "set", name, seed, truth=kind) for seed, name in enumerate("ab")}
    sources, problems = found(tmp_path / "set")
    assert not problems
    assert set(sources) == {"a_CT", "b_CT"}
    for name, labels in drawn.items():
        source = sources[f"{name}_CT"]
        assert source.organs == ((1, "liver"), (2, "spleen"))
        assert source.annotated == ("liver", "spleen")
        assert (source.patient, source.dataset) == (source.name, "set")
        volume = read_labels(source)
        assert (volume.voxels == labels).all()
        assert np.array_equal(volume.affine, source.image.affine)


def test_a_truth_goes_to_another_process_and_a_zip_s_files_stay_with_the_one_that_unpacked_them(tmp_path):
    table(tmp_path / "set")
    labels = case(tmp_path / "set", "a", 0)
    [source] = find_sources("dicom", tmp_path / "set")[0]
    assert (read_labels(unpickled(source)).voxels == labels).all()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for file in (tmp_path / "set" / "a" / "CT").iterdir():
            packed.write(file, file.name)
    [series] = find_series(tmp_path / "a.zip").series
    other = unpickled(series)
    assert other.kept is None
    del other
    assert series.read().shape == labels.shape


def test_the_names_of_tg263_need_no_table_and_unknown_ones_are_told_once_with_their_number(tmp_path):
    for seed, name in enumerate("abc"):
        names = {"liver": "Liver", "spleen": "Spleeen"} if name != "c" else {"liver": "Liver", "spleen": "PTV\x1b[1m"}
        names["spleen"] = names["spleen"].replace("\x1b", "")
        case(tmp_path / "set", name, seed, roi_names=names)
    with pytest.warns(AnnotationWarning) as told:
        sources, _ = found(tmp_path / "set")
    [text] = [str(one.message) for one in told if "ROI" in str(one.message)]
    assert "ROI 'Spleeen': not the name of an organ, so left out. Did you mean 'spleen'? (2 cases)" in text
    assert "ROI 'PTV[1m': not the name of an organ, so left out (1 case)" in text
    assert "roi_names.json" in text
    assert all(source.annotated == ("liver",) for source in sources.values())
    assert set(np.unique(read_labels(sources["a_CT"]).voxels)) == {0, 1}


def test_a_terminal_is_not_told_what_to_do_by_a_roi_name(tmp_path):
    def edit(dataset):
        dataset.StructureSetROISequence[1].ROIName = "\x1b]0;owned\x07"

    case(tmp_path / "set", "a", 0, roi_names={"liver": "Liver", "spleen": "Spleen"}, edit=edit)
    with pytest.warns(AnnotationWarning) as told:
        found(tmp_path / "set")
    assert all(str(one.message).isprintable() for one in told)


def test_another_meaning_of_a_name_gives_other_organs_even_where_the_names_of_organs_stay(tmp_path):
    case(tmp_path / "set", "a", 0, roi_names={"liver": "A", "spleen": "B"})
    table(tmp_path / "set", {"A": "liver"})
    first = found(tmp_path / "set")[0]["a_CT"]
    table(tmp_path / "set", {"B": "liver"})
    second = found(tmp_path / "set")[0]["a_CT"]
    assert first.annotated == second.annotated == ("liver",)
    assert first.organs != second.organs  # by which prepare knows that it must be done again
    assert (read_labels(first).voxels > 0).sum() != (read_labels(second).voxels > 0).sum()


def test_a_table_names_the_segments_of_a_seg_too(tmp_path):
    def edit(dataset):
        dataset.SegmentSequence[0].SegmentLabel = "Leber neu"
        dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue = "0"

    case(tmp_path / "set", "a", 0, truth="seg", edit=edit)
    table(tmp_path / "set", {"Leber neu": "liver"})
    assert found(tmp_path / "set")[0]["a_CT"].organs == ((1, "liver"), (2, "spleen"))
    table(tmp_path / "set", {"Leber": "liver"})
    with pytest.warns(AnnotationWarning, match=r"segment 'leber_neu': not the name of an organ that viscera knows"):
        found(tmp_path / "set")


def test_a_series_without_truth_is_a_scan_without_labels(tmp_path):
    table(tmp_path / "set")
    case(tmp_path / "set", "a", 0)
    case(tmp_path / "set", "b", 1, truth="")
    with pytest.warns(
        AnnotationWarning, match="1 of 2 series have no RTSTRUCT or SEG, so they are scans without labels"
    ):
        sources, problems = found(tmp_path / "set")
    assert (sources["b_CT"].labels, sources["b_CT"].annotated, problems) == (None, (), {})


@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
def test_what_viscera_wrote_is_not_a_truth(tmp_path, kind):
    def edit(dataset):
        dataset.Manufacturer = "viscera"

    case(tmp_path / "set", "a", 0, truth=kind, edit=edit, roi_names={})
    with pytest.warns(AnnotationWarning, match=r"1 file that viscera wrote \(a/RT/RS\.dcm\): a result is not a truth"):
        sources, _ = found(tmp_path / "set")
    assert sources["a_CT"].labels is None
    write_truth(tmp_path / "set" / "other.dcm", tmp_path / "set" / "a" / "CT", striped(0)[1], roi_names={})
    assert found(tmp_path / "set")[0]["a_CT"].annotated == ("liver", "spleen")  # the other's is the only one


def test_two_truths_of_one_series_are_refused_with_the_names_of_their_files(tmp_path):
    table(tmp_path / "set")
    labels = case(tmp_path / "set", "a", 0)
    case(tmp_path / "set", "b", 1)
    write_truth(tmp_path / "set" / "a" / "again.dcm", tmp_path / "set" / "a" / "CT", labels)
    sources, problems = found(tmp_path / "set")
    assert set(sources) == {"b_CT"}
    assert problems["a_CT"].what == "2 structure sets for one series"
    assert problems["a_CT"].file == "a/RT/RS.dcm, a/again.dcm"
    assert "keep one" in problems["a_CT"].remedy
    write_truth(tmp_path / "set" / "b" / "seg.dcm", tmp_path / "set" / "b" / "CT", labels, seg=True)
    assert found(tmp_path / "set")[1]["b_CT"].what == "2 structure sets and SEGs for one series"


def test_a_truth_of_a_series_that_is_not_there_is_a_problem_of_its_own(tmp_path):
    table(tmp_path / "set")
    case(tmp_path / "set", "a", 0)
    case(tmp_path / "elsewhere", "b", 1)
    (tmp_path / "elsewhere" / "b" / "RT" / "RS.dcm").rename(tmp_path / "set" / "stray.dcm")
    sources, problems = found(tmp_path / "set")
    assert sources["a_CT"].labels is not None
    assert (problems["stray"].file, problems["stray"].what) == (
        "stray.dcm",
        "it was drawn on a series that is not here",
    )


def nameless(dataset):
    for frame in dataset.ReferencedFrameOfReferenceSequence:
        del frame.RTReferencedStudySequence


def test_a_structure_set_that_names_no_series_belongs_to_the_only_one_in_its_frame_of_reference(tmp_path):
    table(tmp_path / "set")
    labels = case(tmp_path / "set", "a", 0, edit=nameless)
    case(tmp_path / "set", "b", 1)
    sources, problems = found(tmp_path / "set")
    assert not problems
    assert (read_labels(sources["a_CT"]).voxels == labels).all()
    [series] = find_series(tmp_path / "set" / "a" / "CT").series
    uids = (series.study_uid, f"{series.study_uid[:40]}.7", series.frame_of_reference_uid)
    write_series(tmp_path / "set" / "a" / "LATER", striped(3)[0], uids=uids)
    sources, problems = found(tmp_path / "set")
    assert sources["a_CT"].labels is sources["a_LATER"].labels is None
    assert problems["RS"].what == "it refers to 2 series (a_CT, a_LATER)"


def test_of_several_series_that_are_named_the_one_counts_on_whose_images_was_drawn(tmp_path):
    table(tmp_path / "set")
    hu, labels = striped(0)
    uids = ("1.2.3", "1.2.3.1", "1.2.3.9")
    write_series(tmp_path / "set" / "one", hu, uids=uids, spacing=(2, 1, 1))
    write_series(tmp_path / "set" / "two", hu, uids=(uids[0], "1.2.3.2", uids[2]), spacing=(2, 1, 1))

    def edit(dataset):
        [study] = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
        other = copy.deepcopy(study.RTReferencedSeriesSequence[0])
        other.SeriesInstanceUID = "1.2.3.1"
        study.RTReferencedSeriesSequence.append(other)

    write_truth(tmp_path / "set" / "rs.dcm", tmp_path / "set" / "two", labels, edit=edit)
    sources, problems = found(tmp_path / "set")
    assert not problems
    assert sources["one"].labels is None
    assert (read_labels(sources["two"]).voxels == labels).all()


def test_a_tilted_series_has_its_labels_on_its_own_sheared_grid(tmp_path):
    table(tmp_path / "set")
    labels = case(tmp_path / "set", "a", 0, step=(0.0, 0.6, 2.0))
    source = found(tmp_path / "set")[0]["a_CT"]
    volume = read_labels(source)
    assert source.image.tilt_degrees == pytest.approx(np.degrees(np.arctan(0.3)), abs=0.01)
    assert (volume.voxels == labels).all()
    assert np.array_equal(volume.affine, source.image.affine)


@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
def test_a_damaged_truth_is_a_problem_and_stops_no_other(tmp_path, kind):
    table(tmp_path / "set")
    case(tmp_path / "set", "a", 0, truth=kind)
    case(tmp_path / "set", "b", 1)
    file = tmp_path / "set" / "a" / "RT" / "RS.dcm"
    content = file.read_bytes()
    for length in (len(content) * 3 // 4, len(content) // 3, 300):
        file.write_bytes(content[:length])
        sources, problems = found(tmp_path / "set")
        assert (read_labels(sources["b_CT"]).voxels > 0).any()
        if not problems:  # only its pixels or last contours are cut off
            with pytest.raises((FileError, LabelError)):
                read_labels(sources["a_CT"])
        else:
            assert {problem.file for problem in problems.values()} == {"a/RT/RS.dcm"}


def test_rois_without_contours_are_unknown_and_ones_without_a_voxel_are_refused(tmp_path):
    table(tmp_path / "set")

    def no_contour(dataset):
        del dataset.ROIContourSequence[1].ContourSequence

    def far_away(dataset):
        for contour in dataset.ROIContourSequence[1].ContourSequence:
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3)) + np.array([500, 0, 0])
            contour.ContourData = [f"{value:.8g}" for value in points.ravel()]

    case(tmp_path / "set", "a", 0, edit=no_contour)
    case(tmp_path / "set", "b", 1, edit=far_away)
    sources, _ = found(tmp_path / "set")
    assert sources["a_CT"].annotated == ("liver",)
    with pytest.warns(TruthWarning), pytest.raises(LabelError, match=r"RS\.dcm: the contours of spleen hold no voxel"):
        read_labels(sources["b_CT"])


def test_a_structure_set_without_an_organ_is_a_problem(tmp_path):
    case(tmp_path / "set", "a", 0, roi_names={"liver": "GTV", "spleen": "PTV"})
    _, problems = found(tmp_path / "set")
    assert "none of its 2 ROIs is an organ" in problems["a_CT"].what


def test_series_with_one_patient_id_are_one_patient_whose_id_appears_nowhere(tmp_path):
    for seed, (name, patient) in enumerate({"a": "SECRET7", "b": "SECRET8", "c": "SECRET7", "d": "", "e": ""}.items()):
        case(tmp_path / "set", name, seed, truth="", patient=patient)
    with pytest.warns(AnnotationWarning, match="2 series show 1 patient, by the Patient IDs of their headers") as told:
        sources, _ = found(tmp_path / "set")
    assert {name: source.patient for name, source in sources.items()} == {
        "a_CT": "a_CT", "b_CT": "b_CT", "c_CT": "a_CT", "d_CT": "d_CT", "e_CT": "e_CT"
    }  # fmt: skip
    assert "SECRET" not in repr(sources) + "".join(str(one.message) for one in told)
    assert b"SECRET" not in pickle.dumps(sources)
    (tmp_path / "set" / "patients.json").write_text(json.dumps({"c_CT": "17", "d_CT": "17"}))
    sources, _ = found(tmp_path / "set")
    assert [source.patient for source in sources.values()] == ["17", "b_CT", "17", "17", "e_CT"]


def test_names_as_bids_has_them_and_patient_ids_agree(tmp_path):
    for seed, (name, patient) in enumerate({"sub-1_a": "X", "sub-1_b": "X", "sub-1_c": "Y"}.items()):
        case(tmp_path / "set", name, seed, truth="", patient=patient)
    assert {source.patient for source in found(tmp_path / "set")[0].values()} == {"sub-1"}


def test_annotated_json_has_the_last_word(tmp_path):
    table(tmp_path / "set")
    case(tmp_path / "set", "a", 0)
    (tmp_path / "set" / "annotated.json").write_text('{"*": ["spleen"]}')
    assert found(tmp_path / "set")[0]["a_CT"].annotated == ("spleen",)
    (tmp_path / "set" / "annotated.json").write_text('{"*": ["spleeen"]}')
    with pytest.raises(LabelError, match="Did you mean 'spleen'"):
        found(tmp_path / "set")


def test_what_is_not_dicom_or_has_two_tables_is_refused(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "x.txt").write_text("x")
    with pytest.raises(DataSetError, match=r"is no 'dicom' data set: expected CT series in any nesting.*found x\.txt"):
        found(tmp_path / "none")
    case(tmp_path / "set", "a", 0, truth="")
    table(tmp_path / "set")
    (tmp_path / "set" / "roi_names.csv").write_text("Leber,liver\n")
    with pytest.raises(DataSetError, match=r"has both roi_names\.json and roi_names\.csv"):
        found(tmp_path / "set")
    (tmp_path / "set" / "roi_names.json").unlink()
    found(tmp_path / "set")
    with pytest.raises(DataSetError, match="It looks like 'dicom': use that layout"):
        find_sources("nnunet", tmp_path / "set")


def test_a_series_that_cannot_be_read_is_a_problem_without_the_folders_above(tmp_path):
    table(tmp_path / "set")
    case(tmp_path / "set", "a", 0)
    case(tmp_path / "set", "b", 1)
    slices = sorted((tmp_path / "set" / "a" / "CT").iterdir())
    slices[1].write_bytes(slices[1].read_bytes()[:-100])
    sources, problems = found(tmp_path / "set")
    assert set(sources) == {"b_CT"}
    assert set(problems) == {"a_CT"}  # its truth is not another one
    assert problems["a_CT"].file == "a/CT/IM0001.dcm" or problems["a_CT"].file == "a/CT/IM0001"
    assert str(tmp_path) not in repr(problems)


def test_a_truth_that_became_another_file_is_refused(tmp_path):
    table(tmp_path / "set")
    labels = case(tmp_path / "set", "a", 0)
    source = found(tmp_path / "set")[0]["a_CT"]
    with pytest.raises(FileError, match=r"other organs than a moment ago \(spleen\)"):
        read_labels(replace(source, labels=replace(source.labels, organs=((1, "liver"),))))
    assert (read_labels(source).voxels == labels).all()


def test_other_layouts_import_nothing_of_dicom(tmp_path):
    code = "import sys, viscera.datasets.layouts; print([one for one in sys.modules if 'dicom' in one and 'io' not in one])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_its_packages_one_line_says_what_to_install(tmp_path, monkeypatch):
    case(tmp_path / "set", "a", 0, truth="")
    code = (
        "import sys; sys.modules['pydicom'] = None; from viscera.cli.command import main; "
        f"raise SystemExit(main(['prepare', {str(tmp_path / 'store')!r}, '--data', 'dicom={tmp_path / 'set'}', "
        "'--recipe', 'zhang2d']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "viscera[dicom]" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
