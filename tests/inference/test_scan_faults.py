"""Whatever a scan causes is that scan's row, and the others go on; the log tells where, and nothing of patients."""

import zlib
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from isal import igzip_threaded

from makers import nearest_model
from viscera.errors import FileError
from viscera.inference.faults import LOG, describe
from viscera.inference.jobs import find_scan_jobs
from viscera.inference.predict import predict_all
from viscera.io import nifti_header

MODEL = nearest_model()
SECRET = "DOE^JANE"


def write_scans(folder, names="abc"):
    folder.mkdir()
    for seed, name in enumerate(names):
        hu = np.random.default_rng(seed).choice([-1000, -300, 0, 100, 300], (16, 16, 5)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(hu, np.diag([-0.7, -0.8, 2.5, 1])), folder / f"{name}.nii.gz")


def recursion():
    def deeper():
        deeper()

    deeper()


def raising(error):
    if error is RecursionError:
        recursion()
    raise error(SECRET)


OURS = (ZeroDivisionError, MemoryError, RecursionError, RuntimeError)


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        *((stage, error) for stage in ("header", "read") for error in OURS),
        *(("network", error) for error in (*OURS, zlib.error, OSError)),
    ],
)
def test_whatever_a_scan_causes_is_its_row_and_the_others_go_on(tmp_path, monkeypatch, stage, error):
    folder = tmp_path / SECRET
    write_scans(folder)
    described, threaded, calls, model = nifti_header.describe, igzip_threaded.open, [], MODEL

    def bad_header(stream, path):
        return raising(error) if path.name == "b.nii.gz" else described(stream, path)

    def bad_voxels(file, *args, **more):
        return raising(error) if file.name.endswith("b.nii.gz") else threaded(file, *args, **more)

    class Network(type(MODEL.network)):
        def __call__(self, image):
            calls.append(image)
            return raising(error) if len(calls) == 3 else super().__call__(image)

    if stage == "read":
        monkeypatch.setattr(igzip_threaded, "open", bad_voxels)
    elif stage == "header":
        monkeypatch.setattr(nifti_header, "describe", bad_header)
    else:
        model = replace(MODEL, network=Network(MODEL.module))
    told = []
    limit = 1e6 if stage == "header" else None
    failed = predict_all(
        find_scan_jobs(folder, tmp_path / "out"), model, max_memory_mib=limit, done=lambda job, how: told.append(how)
    )
    assert [job.scan.name for job, _ in failed] == ["b.nii.gz"]
    assert isinstance(failed[0][1], FileError)
    assert [how == "segmented" for how in told] == [True, False, True]
    assert SECRET not in str(failed[0][1])
    log = (tmp_path / "out" / LOG).read_text()
    assert "'b.nii.gz'" in log
    assert error.__name__ in log
    assert " test_scan_faults.py:" in log
    assert SECRET not in log
    assert str(tmp_path) not in log
    assert len(log) < 10_000


def test_an_interruption_is_no_scans_row(tmp_path, monkeypatch):
    write_scans(tmp_path / "in")

    class Network(type(MODEL.network)):
        def __call__(self, image):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_all(find_scan_jobs(tmp_path / "in", tmp_path / "out"), replace(MODEL, network=Network(MODEL.module)))
    assert not list((tmp_path / "out").glob(".*"))


def test_the_log_names_functions_and_lines_of_all_causes():
    try:
        try:
            raise ValueError(SECRET)
        except ValueError as inner:
            raise RuntimeError(f"/home/{SECRET}/scan") from inner
    except RuntimeError as error:
        text = describe("a\nb.nii.gz", error)
    assert "builtins.RuntimeError" in text
    assert "builtins.ValueError" in text
    assert r"'a\nb.nii.gz'" in text
    assert SECRET not in text
