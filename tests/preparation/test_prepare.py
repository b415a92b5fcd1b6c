import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from viscera.config import ResizedSlices
from viscera.datasets.sources import Problem, Source
from viscera.errors import DataSetError, StoreError
from viscera.io import nifti
from viscera.labels import LabelSpace
from viscera.preparation.prepare import (
    BYTES_PER_PROCESS,
    BYTES_PER_VOXEL,
    Plan,
    PrepareResult,
    estimate_bytes,
    fitting_jobs,
    prepare_store,
)
from viscera.preparation.store import open_store
from viscera.volume import Volume

SPACE = LabelSpace("two", ("liver", "spleen"))
SMALL = ResizedSlices(size=(16, 16))
AFFINE = np.array([[0, 0, -1.0, 0], [0, -1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
ONE = Plan(jobs=1)


def source_of(folder: Path, name: str, *, seed: int, shape: tuple[int, int, int] = (4, 32, 32)) -> Source:
    """Write a scan with half air, half tissue, and labels in the tissue; say what they are."""
    rng = np.random.default_rng(seed)
    voxels = rng.normal(-1000, 15, shape)
    voxels[:, shape[1] // 2 :] += 1050
    labels = np.zeros(shape, np.uint8)
    labels[:, -8:, :16], labels[:, -8:, 16:] = 1, 2
    image, label_file = folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz"
    nifti.write(image, Volume(voxels.round().astype(np.int16), AFFINE), overwrite=True)
    nifti.write(label_file, Volume(labels, AFFINE), overwrite=True)
    return Source(name, folder.name, name, image, label_file, ((1, "liver"), (2, "spleen")), ("liver", "spleen"))


def sources_in(folder: Path, count: int, **options) -> list[Source]:
    return [source_of(folder, f"p{number}", seed=number, **options) for number in range(count)]


def prepare(store: Path, sources: list[Source], **options) -> PrepareResult:
    options = {"space": SPACE, "preparation": SMALL, "plan": ONE} | options
    return prepare_store(store, sources, **options)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store but the lock."""
    files = [file for file in sorted(store.rglob("*")) if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(store)): file.read_bytes() for file in files}


def test_a_data_set_is_prepared_divided_and_skipped_the_next_time(tmp_path):
    sources, said = sources_in(tmp_path / "amos", 5), []
    first = prepare(tmp_path / "store", sources, plan=Plan(jobs=2), on_done=lambda *what: said.append(what))
    names = [f"amos__p{number}" for number in range(5)]
    assert first.prepared == tuple(names)
    assert (first.skipped, first.problems, first.notes) == ((), (), ())
    assert sorted(said) == [(name, "prepared") for name in names]
    store, before = open_store(tmp_path / "store"), contents(tmp_path / "store")
    assert [len(store.names(split)) for split in ("training", "validation", "test")] == [3, 1, 1]
    second = prepare(tmp_path / "store", sources, on_done=lambda *what: said.append(what))
    assert (second.prepared, second.skipped) == ((), tuple(names))
    assert said[5:] == [(name, "skipped") for name in names]
    assert contents(tmp_path / "store") == before


def test_the_number_of_processes_does_not_matter(tmp_path):
    sources = sources_in(tmp_path / "amos", 4)
    prepare(tmp_path / "one", sources, plan=Plan(jobs=1))
    prepare(tmp_path / "three", sources, plan=Plan(jobs=3))
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_only_what_changed_is_prepared_again(tmp_path):
    sources = sources_in(tmp_path / "amos", 3)
    prepare(tmp_path / "store", sources)
    sources[0] = source_of(tmp_path / "amos", "p0", seed=99)
    sources[1] = replace(sources[1], annotated=("liver",))
    shutil.rmtree(tmp_path / "store" / "cases" / "amos__p2")
    found = prepare(tmp_path / "store", [*sources, source_of(tmp_path / "amos", "p3", seed=3)])
    assert (found.prepared, found.skipped) == (("amos__p0", "amos__p1", "amos__p2", "amos__p3"), ())
    assert open_store(tmp_path / "store").case("amos__p1").annotated == ("liver",)


def test_a_damaged_case_is_prepared_again(tmp_path):
    sources = sources_in(tmp_path / "amos", 2)
    prepare(tmp_path / "store", sources)
    image = tmp_path / "store" / "cases" / "amos__p1" / "image.npy"
    whole = image.read_bytes()
    image.write_bytes(whole[:-5])
    assert prepare(tmp_path / "store", sources).prepared == ("amos__p1",)
    assert image.read_bytes() == whole


def test_a_second_data_set_joins_and_sides_are_kept(tmp_path):
    prepare(tmp_path / "store", sources_in(tmp_path / "amos", 4))
    before = open_store(tmp_path / "store").splits
    shutil.copytree(tmp_path / "amos", tmp_path / "word")
    copies = [source_of(tmp_path / "word", f"q{number}", seed=number) for number in range(4)]
    found = prepare(tmp_path / "store", copies)
    after = open_store(tmp_path / "store").splits
    assert before.items() <= after.items()
    assert all(after[f"word__q{n}"] == after[f"amos__p{n}"] for n in range(4))
    assert "amos__p0, word__q0: the same scan, so one patient" in found.notes


def test_notes_are_said_once_per_data_set(tmp_path):
    sources = [replace(source, annotated=("liver",)) for source in sources_in(tmp_path / "amos", 3)]
    assert prepare(tmp_path / "store", sources).notes == (
        "amos: not listed as annotated, so unknown in this case: spleen (3 cases)",
    )


def spoil(kind: str, source: Source) -> Source:
    """Make a case bad in one way."""
    ct, labels = nifti.read(source.image), nifti.read(source.labels)
    voxels = ct.voxels.astype(np.float32)
    match kind:
        case "truncated":
            source.image.write_bytes(source.image.read_bytes()[:2000])
        case "not gzip":
            source.image.write_bytes(b"no scan at all" * 50)
        case "gone":
            source.image.unlink()
        case "NaN":
            voxels[0, 0, 0] = np.nan
            nifti.write(source.image, Volume(voxels, AFFINE), overwrite=True)
        case "8-bit":
            nifti.write(source.image, Volume(((voxels + 1100) / 10).astype(np.uint8), AFFINE), overwrite=True)
        case "constant":
            nifti.write(source.image, Volume(np.zeros_like(ct.voxels), AFFINE), overwrite=True)
        case "4D":
            import nibabel

            nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 4, 2), np.int16), np.eye(4)), source.image)
        case "grid":
            nifti.write(source.labels, Volume(labels.voxels[:3], AFFINE), overwrite=True)
        case "value":
            nifti.write(source.labels, Volume(labels.voxels * 3, AFFINE), overwrite=True)
        case "labels truncated":
            source.labels.write_bytes(source.labels.read_bytes()[:-20])
    return source


@pytest.fixture(scope="module")
def with_bad_cases(tmp_path_factory) -> tuple[Path, PrepareResult]:
    folder = tmp_path_factory.mktemp("bad")
    good, bad = sources_in(folder / "amos", 2), []
    for number, kind in enumerate(REMEDIES):
        bad.append(spoil(kind, source_of(folder / "amos", kind, seed=50 + number)))
    found = prepare(folder / "store", [bad[0], good[0], *bad[1:], good[1]], plan=Plan(jobs=2))
    return folder / "store", found


REMEDIES = {
    "truncated": ("images/truncated.nii.gz", "images/truncated.nii.gz is truncated", "Copy or export it again."),
    "not gzip": ("images/not gzip.nii.gz", "not gzip-compressed", "rename it to not gzip.nii."),
    "gone": ("images/gone.nii.gz", "No such file", "Check disk and permissions"),
    "NaN": ("images/NaN.nii.gz", "1 of 4096 voxels are NaN or infinite", "or export the CT again."),
    "8-bit": ("images/8-bit.nii.gz", "8-bit picture", "Export the CT in HU."),
    "constant": ("images/constant.nii.gz", "every voxel is 0, the scan is empty", "Export it again"),
    "4D": ("images/4D.nii.gz", "holds a 4D image", "Save one 3D volume"),
    "grid": ("labels/grid.nii.gz", "labels lie on another grid than the image", "Resample the labels first."),
    "value": ("labels/value.nii.gz", "the labels hold 3 (512 voxels), 6 (512 voxels)", "Correct the label file"),
    "labels truncated": ("labels/labels truncated.nii.gz", "is truncated", "Copy or export it again."),
}


def test_bad_cases_do_not_stop_the_good_ones(with_bad_cases):
    store, found = with_bad_cases
    assert found.prepared == ("amos__p0", "amos__p1")
    assert open_store(store).names() == ["amos__p0", "amos__p1"]
    assert [problem.case for problem in found.problems] == list(REMEDIES)


@pytest.mark.parametrize("kind", REMEDIES)
def test_each_problem_names_the_file_and_what_to_do(with_bad_cases, kind):
    store, found = with_bad_cases
    problem = next(problem for problem in found.problems if problem.case == kind)
    file, what, remedy = REMEDIES[kind]
    assert problem.file == file
    assert what in problem.what
    assert remedy in problem.remedy
    assert str(store.parent) not in problem.what


def test_problems_are_written_down_with_those_found_before(tmp_path):
    source = spoil("constant", source_of(tmp_path / "amos", "p0", seed=0))
    unpaired = Problem("p7", "labels/p7.nii.gz", "labels without an image", "add the image")
    found = prepare(tmp_path / "store", [source], problems=[unpaired])
    written = json.loads((tmp_path / "store" / "problems.json").read_text())
    assert [Problem(**problem) for problem in written] == list(found.problems)
    assert found.problems[0] == unpaired
    assert len(found.problems) == 2


def test_a_case_whose_files_went_bad_leaves_the_store(tmp_path):
    sources = sources_in(tmp_path / "amos", 3)
    prepare(tmp_path / "store", sources)
    spoil("truncated", sources[1])
    assert [problem.case for problem in prepare(tmp_path / "store", sources).problems] == ["p1"]
    assert open_store(tmp_path / "store").names() == ["amos__p0", "amos__p2"]
    assert "amos__p1" not in open_store(tmp_path / "store").splits
    source_of(tmp_path / "amos", "p1", seed=1)
    assert prepare(tmp_path / "store", sources).problems == ()
    assert json.loads((tmp_path / "store" / "problems.json").read_text()) == []


def test_nothing_to_prepare_makes_an_empty_store(tmp_path):
    assert prepare(tmp_path / "store", []) == PrepareResult((), (), (), ())
    assert open_store(tmp_path / "store").names("training") == []


def test_two_cases_of_one_name_are_refused(tmp_path):
    sources = [*sources_in(tmp_path / "a" / "amos", 1), *sources_in(tmp_path / "b" / "amos", 1)]
    with pytest.raises(DataSetError, match=r"two cases would both be 'amos__p0'.* Rename one of the folders 'amos'"):
        prepare(tmp_path / "store", sources)


def test_another_label_space_needs_another_store(tmp_path):
    prepare(tmp_path / "store", [])
    with pytest.raises(StoreError, match=r"was prepared for label space 'two'"):
        prepare(tmp_path / "store", [], space=LabelSpace("one", ("liver",)))


def test_two_processes_do_not_prepare_one_store(tmp_path):
    import fcntl

    prepare(tmp_path / "store", [])
    with (tmp_path / "store" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"is being prepared by another process. Wait until it is done"):
            prepare(tmp_path / "store", [])


def test_memory_is_estimated_from_the_header(tmp_path):
    source = source_of(tmp_path / "amos", "p0", seed=0)
    assert estimate_bytes(source) == BYTES_PER_PROCESS + BYTES_PER_VOXEL * 4 * 32 * 32
    source.image.write_bytes(b"damaged")
    assert estimate_bytes(source) == BYTES_PER_PROCESS
    assert fitting_jobs([source] * 1000) <= (os.cpu_count() or 1)
    assert fitting_jobs([]) == 1


def kill_readers(fifo: Path, kills: int, then: Path | None) -> None:
    """Kill ``kills`` times the process that has begun to read a fifo; put another file in its place after that."""
    killed: set[int] = set()
    deadline = time.monotonic() + 60
    while len(killed) < kills and time.monotonic() < deadline:
        time.sleep(0.02)
        try:
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)  # fails while nobody reads
        except OSError:
            continue
        if then is not None:
            then.replace(fifo)
        for child in psutil.Process().children():
            if child.pid not in killed and "spawn_main" in " ".join(child.cmdline()):
                child.kill()
                killed.add(child.pid)
        os.close(writer)


@pytest.mark.parametrize("kills", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_process_that_dies_takes_at_most_its_case_with_it(tmp_path, kills):
    # Reading a fifo waits for what never comes, so the process hangs in the middle of its case until it is killed.
    sources = sources_in(tmp_path / "amos", 4)
    kept = tmp_path / "kept.nii.gz"
    sources[1].image.rename(kept)
    os.mkfifo(sources[1].image)
    killer = threading.Thread(target=kill_readers, args=(sources[1].image, kills, kept if kills == 1 else None))
    killer.start()
    found = prepare(tmp_path / "store", sources)
    killer.join()
    good = {"amos__p0", "amos__p2", "amos__p3"}
    if kills == 1:
        assert (set(found.prepared), found.problems) == (good | {"amos__p1"}, ())
    else:
        assert set(found.prepared) == good
        assert [(problem.case, problem.file) for problem in found.problems] == [("p1", "images/p1.nii.gz")]
        assert "was killed twice, probably for lack of memory" in found.problems[0].what


SCRIPT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs have not
from pathlib import Path
sys.path[:0] = {paths!r}
import test_prepare as t
from viscera.preparation.prepare import Plan
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sources = [t.Source(name, "amos", name, folder / "amos/images" / (name + ".nii.gz"),
        folder / "amos/labels" / (name + ".nii.gz"), ((1, "liver"), (2, "spleen")), ("liver", "spleen"))
        for name in ("p%d" % number for number in range({count}))]
    t.prepare(Path(sys.argv[2]), sources, plan=Plan(jobs=2), on_done=lambda *what: print("done", flush=True))
"""


def start(folder: Path, store: Path, *, count: int) -> subprocess.Popen:
    """Start preparing in a process of its own."""
    script = folder / "script.py"
    src, tests = Path(nifti.__file__).parents[2], Path(__file__).parent
    script.write_text(SCRIPT.format(paths=[str(src), str(tests)], count=count))
    environment = os.environ | {"PYTHONPATH": str(src)}
    command = [sys.executable, str(script), str(folder), str(store)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_children(children: list[psutil.Process]) -> None:
    """Wait until processes whose parent was killed have ended by themselves."""
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def check_kills(folder: Path, *, instants: int, count: int, shape: tuple[int, int, int]) -> None:
    """Kill preparing at random instants, let it go on, and compare with an uninterrupted run."""
    sources = sources_in(folder / "amos", count, shape=shape)
    prepare(folder / "whole", sources)
    expected = contents(folder / "whole")
    rng = np.random.default_rng(0)
    for number in range(instants):
        store = folder / f"killed{number}"
        process = start(folder, store, count=count)
        assert process.stdout is not None
        for _ in range(int(rng.integers(0, count))):  # some cases are done, then any instant of the next
            process.stdout.readline()
        time.sleep(rng.uniform(0, 0.1))
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_for_children(children)
        for case in (store / "cases").glob("[!.]*"):
            assert {f"cases/{case.name}/{file.name}" for file in case.iterdir()} <= expected.keys()
            assert len(list(case.iterdir())) == 3
        prepare(store, sources)
        assert contents(store) == expected


@pytest.mark.slow
def test_preparing_goes_on_where_it_was_killed(tmp_path):
    check_kills(tmp_path, instants=3, count=6, shape=(16, 64, 64))


@pytest.mark.slow
def test_preparing_survives_twenty_kills(tmp_path):
    check_kills(tmp_path, instants=20, count=8, shape=(64, 128, 128))


def test_ctrl_c_stops_all_processes(tmp_path):
    sources = sources_in(tmp_path / "amos", 3)
    sources[2].image.unlink()
    os.mkfifo(sources[2].image)
    process = start(tmp_path, tmp_path / "store", count=3)
    assert process.stdout is not None
    for _ in range(2):
        process.stdout.readline()
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    for one in (process, *children):  # a terminal sends it to all
        with suppress(ProcessLookupError):  # one of three may have ended by itself
            os.kill(one.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    wait_for_children(children)
    assert process.returncode != 0
    assert errors.count("Traceback") == 1, errors
    assert "KeyboardInterrupt" in errors
    assert prepare(tmp_path / "store", sources[:2]).skipped == ("amos__p0", "amos__p1")
