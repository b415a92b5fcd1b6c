"""viscera predict LIST.csv OUT: all of a list is checked before any scan is segmented; what fails is noted beside the rest."""

import json
from pathlib import Path

import numpy as np
import pytest

from makers import call, nearest_model
from viscera.errors import FileError
from viscera.inference.jobs import ScanJob
from viscera.inference.manifest import find_manifest_jobs, read_manifest
from viscera.inference.predict import predict_all
from viscera.io import nifti
from viscera.volume import Volume

AFFINE = np.array([[0, 0, -4.0, 0], [0, -4.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def scans(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hu = np.full((6, 16, 16), -1000, np.int16)
    hu[:, 4:12, 4:12] = 100
    for name in ("a_0000", "b", "c"):
        nifti.write(Path(f"scans/{name}.nii.gz"), Volume(hu, AFFINE))


def listed(text: str, name: str = "scans/list.csv") -> Path:
    Path(name).write_text(text)
    return Path(name)


@pytest.mark.parametrize("between", [",", ";"])
def test_names_are_given_or_the_files_own_and_paths_are_from_the_lists_folder(between):
    text = "﻿note, input ,name\nx,a_0000.nii.gz,patient 1\ny,b.nii.gz,\n,,\n".replace(",", between)
    jobs, problems = find_manifest_jobs(listed(text), Path("out"))
    assert problems == {}
    assert [(job.scan.name, job.output) for job in jobs if isinstance(job.scan, Path)] == [
        ("a_0000.nii.gz", Path("out/patient 1.nii.gz")),
        ("b.nii.gz", Path("out/b.nii.gz")),
    ]


def test_all_that_is_wrong_is_told_at_once_before_anything_is_segmented():
    Path("scans/folder").mkdir()
    rows = [
        "input,name",
        "gone.nii.gz,",
        "b.nii.gz,One",
        "c.nii.gz,one",
        "./b.nii.gz,other",
        "folder,",
        ",x",
        "a_0000.nii.gz,../up",
    ]
    listed("\n".join(rows))
    code, said = call("predict scans/list.csv out")
    assert code == 2
    assert "list.csv has 6 faults" in said
    for fault in (
        "row 2: gone.nii.gz is not there",
        "row 4: the name of row 3 again (one)",
        "row 5: the input of row 3 again (b.nii.gz)",
        "row 6: folder is a folder without DICOM files",
        "row 7: no input",
        "row 8: the name '../up' cannot be a file's",
    ):
        assert fault in said
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("inputs\na\n", "Did you mean"), ("", "no column 'input', only none"), ("input\n", "lists no scan")],
)
def test_a_list_that_is_none_is_refused(text, message):
    with pytest.raises(FileError, match=message):
        read_manifest(listed(text))


def test_a_parquet_list_is_read_and_a_damaged_one_refused():
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"input": ["b.nii.gz", "c.nii.gz"], "name": [None, "z"], "age": [1, 2]}), "scans/list.parquet"
    )
    assert [one.name for one in read_manifest(Path("scans/list.parquet"))] == ["b", "z"]
    Path("scans/bad.parquet").write_text("PAR1")
    with pytest.raises(FileError, match=r"bad.parquet cannot be read as Parquet"):
        read_manifest(Path("scans/bad.parquet"))


def test_of_several_scans_one_that_fails_leaves_a_note_that_goes_away_when_it_is_segmented():
    good = Path("scans/b.nii.gz").read_bytes()
    Path("scans/b.nii.gz").write_bytes(good[:100])
    jobs = [ScanJob(Path(f"scans/{name}.nii.gz"), Path(f"out/{name}.nii.gz")) for name in ("b", "c")]
    assert len(predict_all(jobs, nearest_model())) == 1
    note = json.loads(Path("out/b.failed.json").read_text())["failed"]
    assert (note["scan"], note["label_map"], note["error"]) == ("b.nii.gz", "b.nii.gz", "FileError")
    assert "scans" not in json.dumps(note)
    assert not Path("out/c.failed.json").exists()
    code, said = call("collect out --out cohort.csv")
    assert (code, "2 scans found: 1 read, 1 that predict could not segment" in said) == (0, True)
    Path("scans/b.nii.gz").write_bytes(good)
    assert predict_all(jobs, nearest_model()) == []
    assert not Path("out/b.failed.json").exists()


def test_a_single_scan_that_fails_leaves_nothing():
    Path("scans/b.nii.gz").write_bytes(b"")
    Path("out").mkdir()
    predict_all([ScanJob(Path("scans/b.nii.gz"), Path("out/b.nii.gz"))], nearest_model())
    assert list(Path("out").iterdir()) == []
