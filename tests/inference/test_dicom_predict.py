"""DICOM series through `predict`: label maps, and what goes back to the system that the series came from."""

import gzip
import json
import zipfile

import nibabel
import numpy as np
import pydicom
import pytest

from dicom_markers import MARKS, mark
from dicom_series import affine_of, ball, write_series
from makers import nearest, nearest_model
from viscera.cli import predict as verb
from viscera.dicom.finding import find_series
from viscera.dicom.read_seg import read_seg
from viscera.dicom.rtstruct_reading import read_rtstruct
from viscera.errors import FileError, SettingError
from viscera.figures.capture import draw_capture
from viscera.inference.dicom_jobs import find_dicom_jobs
from viscera.inference.dicom_objects import LOG, OBJECTS, DicomOptions
from viscera.inference.jobs import ScanJob
from viscera.inference.predict import PredictOptions, predict_all
from viscera.io.dicom_files import is_dicom_place
from viscera.io.scans import LeftOutWarning
from viscera.preparation.shear import shear_of
from viscera.volume import Volume

MODEL = nearest_model((48, 40))
SECRET = b"0123456789abcdef0123456789abcdef"


def predict(place, out, *, kinds=(), secret=None, told=None, **options):
    jobs, problems = find_dicom_jobs(place, out)
    draw = draw_capture if "capture" in kinds else None
    failed = predict_all(
        jobs,
        MODEL,
        options=PredictOptions(dicom=DicomOptions(kinds, secret=secret, draw=draw), **options),
        done=lambda job, how: told is None or told.append(how),
    )
    assert not problems
    assert not failed, failed[0][1]
    return jobs


def labels_of(file):
    return np.asarray(nibabel.load(file).dataobj).T


def test_the_label_map_is_that_of_the_same_scan_as_nifti(tmp_path):
    write_series(tmp_path / "series", name="IMG{:03d}".format)
    [job] = predict(tmp_path / "series", tmp_path / "out.nii.gz")
    nibabel.save(nibabel.Nifti1Image(ball().T, affine_of()[:, [2, 1, 0, 3]]), tmp_path / "scan.nii.gz")
    assert not predict_all([ScanJob(tmp_path / "scan.nii.gz", tmp_path / "from_nifti.nii.gz")], MODEL)
    assert (labels_of(job.output) == nearest(ball())).all()
    ours, theirs = (nibabel.load(tmp_path / name) for name in ("out.nii.gz", "from_nifti.nii.gz"))
    assert (np.asarray(ours.dataobj) == np.asarray(theirs.dataobj)).all()
    assert ours.affine == pytest.approx(theirs.affine, abs=1e-4)


@pytest.mark.filterwarnings("ignore:the gantry was tilted:viscera.io.nifti.GridWarning")
@pytest.mark.parametrize("step", [None, (0, 0.67, 2.5), (0.4, -0.67, 2.5)])
def test_every_object_holds_what_the_label_map_does(tmp_path, step):
    write_series(tmp_path / "series", step=step)
    [job] = predict(tmp_path / "series", tmp_path / "out", kinds=OBJECTS)
    labels = labels_of(job.output)
    assert len(np.unique(labels)) > 3
    [series] = find_series(tmp_path / "series").series
    seg = read_seg(tmp_path / "out" / "series.seg.dcm", series)
    drawn = read_rtstruct(tmp_path / "out" / "series.rtstruct.dcm", series, names=None)
    facts = json.loads(job.sidecar.read_text())
    for index, organ in facts["labels"].items():
        for found in (seg, drawn):
            value = next((value for value, name in found.names.items() if name == organ), 255)
            assert ((found.labels == value) == (labels == int(index))).all(), organ
    report = pydicom.dcmread(tmp_path / "out" / "series.report.dcm")
    assert report.Modality == "SR"
    assert pydicom.dcmread(tmp_path / "out" / "series.capture.dcm").pixel_array.shape[2] == 3
    assert set(facts["run"]["dicom"]["sha256"]) == set(OBJECTS)


def test_a_tilted_series_is_straightened_for_the_network_only(tmp_path):
    write_series(tmp_path / "series", step=(0, 0.67, 2.5))
    with pytest.warns(UserWarning, match=r"tilted by 15.0 degrees: the slices are shifted above each other"):
        [job] = predict(tmp_path / "series", tmp_path / "out")
    image = nibabel.load(job.output)
    assert image.affine[:, [2, 1, 0, 3]] == pytest.approx(affine_of(step=(0, 0.67, 2.5)), abs=1e-4)
    assert shear_of(Volume(labels_of(job.output), image.affine[:, [2, 1, 0, 3]])) is not None
    # the network labels each pixel by its own HU, so the labels lie where the pixels do but for half of one
    wrong = labels_of(job.output) != nearest(ball())
    assert wrong[:, 1:-1].mean() < 0.06


def test_what_is_done_is_skipped_and_what_is_asked_for_in_addition_is_made(tmp_path):
    write_series(tmp_path / "series")
    told = []
    for kinds in ((), ("seg",), ("seg",), ("seg", "rtstruct"), ("seg", "rtstruct"), ()):
        predict(tmp_path / "series", tmp_path / "out", kinds=kinds, told=told)
    assert told == ["segmented", "segmented", "was done", "segmented", "was done", "was done"]
    (tmp_path / "out" / "series.seg.dcm").write_bytes(b"")
    with pytest.raises(FileError, match=r"series\.seg\.dcm exists already, and viscera did not write it"):
        raise failed_of(tmp_path / "series", tmp_path / "out", kinds=("seg", "rtstruct"))
    predict(tmp_path / "series", tmp_path / "out", kinds=("seg", "rtstruct"), told=told, overwrite=True)
    lines = (tmp_path / "out" / LOG).read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["segmented"] * 3 + ["failed", "segmented"]


def failed_of(place, out, *, kinds):
    jobs, _ = find_dicom_jobs(place, out)
    [(_, error)] = predict_all(jobs, MODEL, options=PredictOptions(dicom=DicomOptions(kinds)))
    return error


def test_a_series_that_changed_is_another_one(tmp_path):
    files = write_series(tmp_path / "series")
    predict(tmp_path / "series", tmp_path / "out")
    dataset = pydicom.dcmread(files[3])
    dataset.PixelData = dataset.PixelData[::-1]
    dataset.save_as(files[3])
    with pytest.raises(FileError, match="exists already, and not from this command: it was made from another scan"):
        raise failed_of(tmp_path / "series", tmp_path / "out", kinds=())


def test_objects_need_a_series_that_can_be_referred_to(tmp_path):
    nibabel.save(nibabel.Nifti1Image(ball().T, affine_of()[:, [2, 1, 0, 3]]), tmp_path / "scan.nii.gz")
    job = ScanJob(tmp_path / "scan.nii.gz", tmp_path / "o.nii.gz")
    [(_, error)] = predict_all([job], MODEL, options=PredictOptions(dicom=DicomOptions(("seg",))))
    assert isinstance(error, SettingError)
    assert "--write seg: these refer to the images of a DICOM series, which scan.nii.gz is not" in str(error)

    def nameless(dataset, index):
        dataset.SOPInstanceUID = ""

    write_series(tmp_path / "series", edit=nameless)
    error = failed_of(tmp_path / "series", tmp_path / "out", kinds=("seg",))
    assert "no other DICOM object can refer to it" in str(error)
    assert not (tmp_path / "out" / "series.nii.gz").exists()
    with pytest.warns(UserWarning, match="UID"):
        predict(tmp_path / "series", tmp_path / "out")  # the label map alone needs no identifiers


def test_a_zip_and_one_of_several_series_are_segmented(tmp_path):
    for name in ("a", "b"):
        write_series(tmp_path / "study" / name)
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as packed:
        for file in (tmp_path / "study").rglob("IM*"):
            packed.write(file, file.relative_to(tmp_path))
    assert is_dicom_place(tmp_path / "study.zip")
    assert len(predict(tmp_path / "study.zip", tmp_path / "out")) == 2
    with pytest.raises(FileError, match=r"holds 2 CT series, so the output must be a folder, not o\.nii\.gz"):
        find_dicom_jobs(tmp_path / "study", tmp_path / "o.nii.gz")
    uid = find_series(tmp_path / "study").series[1].series_uid
    [job], _ = find_dicom_jobs(tmp_path / "study", tmp_path / "o.nii.gz", series_uid=uid)
    assert job.scan.series_uid == uid


def test_where_no_organ_is_found_the_label_map_stands_without_a_seg_and_is_done(tmp_path):
    write_series(tmp_path / "series", np.minimum(ball(), 150))
    told, asked = [], {"kinds": ("seg", "report"), "organs": ("pancreas",)}
    with pytest.warns(UserWarning, match=r"series: no organ was found, so there is no series\.seg\.dcm"):
        [job] = predict(tmp_path / "series", tmp_path / "out", told=told, **asked)
    assert not labels_of(job.output).any()
    assert not (tmp_path / "out" / "series.seg.dcm").exists()
    assert (tmp_path / "out" / "series.report.dcm").exists()
    predict(tmp_path / "series", tmp_path / "out", told=told, **asked)
    assert told == ["segmented", "was done"]
    assert json.loads(job.sidecar.read_text())["run"]["dicom"]["sha256"]["seg"] is None


def test_results_among_the_images_are_left_out_with_a_note(tmp_path):
    write_series(tmp_path / "series")
    predict(tmp_path / "series", tmp_path / "series" / "out", kinds=("seg",))
    with pytest.warns(LeftOutWarning, match=r"SegmentationStorage 1"):
        jobs, _ = find_dicom_jobs(tmp_path / "series", tmp_path / "again")
    assert [job.output.name for job in jobs] == ["series.nii.gz"]


def contents(folder, *, dicom):
    for file in folder.rglob("*"):
        if file.is_file() and file.name.endswith(".dcm") == dicom:
            raw = file.read_bytes()
            yield file.name, gzip.decompress(raw) if file.name.endswith(".gz") else raw


@pytest.mark.slow
def test_no_header_gets_into_any_output_but_the_dicom_ones_and_into_none_when_deidentified(tmp_path, capsys):
    write_series(tmp_path / "series", edit=lambda dataset, index: mark(dataset))
    predict(tmp_path / "series", tmp_path / "out", kinds=OBJECTS, statistics=True)
    uid = find_series(tmp_path / "series").series[0].series_uid
    for name, raw in contents(tmp_path / "out", dicom=False):
        assert not MARKS.search(raw.replace(uid.encode(), b"") if name == LOG else raw), name
    marked = [name for name, raw in contents(tmp_path / "out", dicom=True) if MARKS.search(raw)]
    assert len(marked) == len(OBJECTS)  # whose they are is what the standard wants to know
    predict(tmp_path / "series", tmp_path / "blank", kinds=OBJECTS, secret=SECRET)
    for dicom in (False, True):
        for name, raw in contents(tmp_path / "blank", dicom=dicom):
            assert not MARKS.search(raw), name
            assert uid.encode() not in raw, name
    assert not MARKS.search(capsys.readouterr().err.encode())


def test_options_that_need_another_one_are_refused_before_anything_is_read(tmp_path):
    for words, message in (
        ("--seg-type labelmap", "--seg-type is of --write seg"),
        ("--roi-names names.json --write seg", "--roi-names is of --write rtstruct"),
        ("--deidentify", "--deidentify is of --write"),
    ):
        with pytest.raises(SettingError, match=message):
            verb.main([str(tmp_path / "nowhere"), str(tmp_path / "out"), *words.split()])
