"""One case of a store, prepared in this process: what a process of the pool does, and how it says what went wrong."""

from dataclasses import replace

import pytest
from test_prepare import SMALL, SPACE, prepare, source_of

import viscera.preparation.prepare as preparing
from viscera.errors import LabelError
from viscera.preparation.prepare import BYTES_PER_PROCESS, MEMORY_SHARE, estimate_bytes, fitting_jobs
from viscera.preparation.store import create_store, open_store


@pytest.fixture
def source(tmp_path):
    return source_of(tmp_path / "set", "p1", seed=1)


def test_a_case_prepared_by_itself_is_the_one_that_a_pool_prepares(source, tmp_path):
    store = create_store(tmp_path / "alone", space=SPACE, preparation=SMALL)
    assert preparing.attempt(store, source) is None
    prepare(tmp_path / "pool", [source])
    name = "set__p1"
    for file in ("image.npy", "labels.npy"):
        [mine] = (tmp_path / "alone").rglob(file)
        [other] = (tmp_path / "pool").rglob(file)
        assert mine.read_bytes() == other.read_bytes(), file
    assert open_store(tmp_path / "alone").facts(name).patient == "p1"


def test_a_case_that_cannot_be_prepared_is_a_problem_and_no_error(source, tmp_path):
    store = create_store(tmp_path / "store", space=SPACE, preparation=SMALL)
    source.image.write_bytes(b"no image")
    problem = preparing.attempt(store, source)
    assert (problem.case, problem.file) == ("p1", "images/p1.nii.gz")
    assert problem.what
    assert problem.remedy
    assert str(tmp_path) not in f"{problem.file}{problem.what}{problem.remedy}"
    assert not list((tmp_path / "store").rglob("image.npy"))


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (LabelError("there are none", "Draw some."), "there are none", "Draw some."),
        (LabelError("there are none"), "there are none", "Correct the file, or take it out of the data set."),
        (MemoryError(), "the memory did not suffice", "Prepare with fewer --jobs."),
        (OSError(28, "No space left on device"), "No space left on device", "Check disk and permissions, then prepare again."),
        (ZeroDivisionError("by 0"), "ZeroDivisionError: by 0", "This is a fault of viscera: please report it with this line."),
    ],
)  # fmt: skip
def test_whatever_goes_wrong_with_a_case_is_told_with_its_file_and_a_remedy(error, what, remedy, source):
    problem = preparing.problem_of(error, source)
    assert (problem.case, problem.file, problem.what, problem.remedy) == ("p1", "images/p1.nii.gz", what, remedy)


def test_a_finished_case_has_no_problem(source):
    assert preparing.problem_of(None, source) is None


def test_the_number_of_processes_is_what_memory_holds_of_the_largest_scans(source, monkeypatch):
    need = estimate_bytes(source)
    free = type("Free", (), {"available": 0})
    monkeypatch.setattr(preparing, "usable_cores", lambda: 8)
    monkeypatch.setattr(preparing.psutil, "virtual_memory", lambda: free)
    for share, jobs in ((0.5, 1), (1.5, 1), (2.5, 2), (100, 5)):
        free.available = share * need / MEMORY_SHARE
        assert fitting_jobs([source] * 5) == jobs


def test_a_scan_that_is_no_file_counts_as_a_process_alone(source, tmp_path):
    assert estimate_bytes(replace(source, image=tmp_path)) == BYTES_PER_PROCESS
