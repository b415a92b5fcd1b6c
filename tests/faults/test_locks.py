"""One writer at a time for a run, a store and a study."""

import errno
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from faults.verbs import RECIPE
from viscera.datasets.synthetic import Cohort, write_cohort
from viscera.deployment.export import _folder
from viscera.errors import DataSetError, FileError, RunError, StoreError, VisceraError
from viscera.io.atomic import hidden_name, remove_abandoned, replacing, write_text
from viscera.io.locks import locked, only_writer, remove_abandoned_lock
from viscera.learning.pseudolabels.filling import remove_all
from viscera.learning.study.grid import Cell
from viscera.learning.study.runs import Plan, run_study
from viscera.learning.training import train
from viscera.networks.weights import Weights, save_state, save_weights
from viscera.preparation.store import open_store

HOLDER = """
import sys
from pathlib import Path
from viscera.io.locks import locked, only_writer, remove_abandoned_lock
with locked(Path(sys.argv[1]), what="is taken"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    """Return a folder that another process writes to."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "held")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield tmp_path / "held"
    process.kill()
    process.communicate()


def test_the_second_of_two_writers_is_refused_and_nothing_is_touched(held, small_store):
    store = open_store(small_store)
    with pytest.raises(RunError, match=r"held is being trained by another process. Wait until it is done"):
        train(RECIPE, store, held)
    with pytest.raises(RunError, match=r"is being trained by another process"):
        train(RECIPE, store, held, existing="overwrite")
    plan = Plan("one", "tiny", [(Cell("a", "a", {}), RECIPE)], "test")
    with pytest.raises(RunError, match=r"holds a study that is being run by another process"):
        run_study(plan, store, held)
    with pytest.raises(DataSetError, match=r"is being written by another process"):
        write_cohort(held, Cohort("nnunet", cases=1, shape=(16, 16, 16)), jobs=1)
    with pytest.raises(StoreError, match=r"is being prepared or filled in by another process"):
        remove_all(replace(store, path=held))
    assert [file.name for file in held.iterdir()] == [".lock"]


def test_a_lock_ends_with_its_process_and_with_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path, what="is taken"):
            _ = 1 / 0
    with locked(tmp_path, what="is taken"):
        pass
    killed = subprocess.run(
        [sys.executable, "-c", HOLDER.replace("sys.stdin.read()", "import os; os.kill(os.getpid(), 9)"), tmp_path],
        capture_output=True,
    )
    assert killed.returncode == -9
    with locked(tmp_path, what="is taken"):
        pass


def test_what_a_killed_process_left_of_the_lock_of_a_file_is_removed_and_one_that_is_held_is_not(tmp_path):
    path, lock = tmp_path / "a.nii.gz", tmp_path / ".a.nii.gz.lock"
    lock.touch()
    remove_abandoned_lock(path)
    assert not lock.exists()
    with only_writer(path):
        remove_abandoned_lock(path)
        assert lock.exists()
        with pytest.raises(FileError, match="is being written by another process"), only_writer(path):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_that_knows_no_locks_is_written_to_with_a_note(code, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*words):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for begin in (lambda: locked(tmp_path, what="is taken"), lambda: only_writer(tmp_path / "a.nii.gz")):
        done = False
        with pytest.warns(UserWarning, match="knows no locks: let no second process write there"), begin():
            done = True
        assert done
    assert not (tmp_path / ".a.nii.gz.lock").exists()


def test_a_folder_in_which_no_lock_can_be_made_is_named(tmp_path, monkeypatch):
    def refuse(path, *words, **more):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", refuse)  # root may write anywhere
    message = r"cannot write .*a.nii.gz: Permission denied. Choose a folder that you may write to"
    with pytest.raises(FileError, match=message), only_writer(tmp_path / "a.nii.gz"):
        pass


def test_no_device_is_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="pipe is a device or a pipe, not a file"):
        write_text(tmp_path / "pipe", "a")
    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    message = r"cannot write .*file/run: Not a directory. Choose a folder"
    with pytest.raises(FileError, match=message), locked(tmp_path / "file" / "run", what="is taken"):
        pass


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_every_file_is_readable_for_whom_the_umask_allows(umask, tmp_path):
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    before = os.umask(umask)
    try:
        save_weights(tmp_path / "best.safetensors", Weights(RECIPE, RECIPE.space, network.state_dict(), {}))
        save_state(tmp_path / "state.safetensors", {"network": network}, optimizer, progress={})
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    files = list(tmp_path.iterdir())
    assert len(files) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~umask}


def test_what_killed_processes_left_is_removed_and_what_living_ones_write_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = hidden_name("a[1].txt")
    other, alive = (own.replace(str(os.getpid()), str(pid), 1) for pid in (ended.pid, os.getppid()))
    elsewhere, twice = f".{ended.pid}-000000.a[1].txt", f"{other.removesuffix('a[1].txt')}{other}"
    for name in (other, alive, elsewhere, twice, ".a[1].txt", f".{ended.pid}-x.b.txt", "a1.txt"):
        (tmp_path / name).touch()
    write_text(tmp_path / "a[1].txt", "whole")
    assert {file.name for file in tmp_path.iterdir()} == {
        *("a[1].txt", alive, elsewhere, ".a[1].txt", f".{ended.pid}-x.b.txt", "a1.txt")
    }
    os.utime(tmp_path / elsewhere, (0, 0))  # of another machine, and older than a day
    remove_abandoned(tmp_path / "a[1].txt")
    assert not (tmp_path / elsewhere).exists()


def test_an_error_of_the_writer_itself_leaves_the_earlier_file(tmp_path):
    write_text(tmp_path / "a.txt", "earlier")

    def fail():
        with replacing(tmp_path / "a.txt") as part:
            part.write_text("later")
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "earlier")]


def test_a_full_disk_is_told_with_the_space_that_is_left(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def fail():
        with replacing(tmp_path / "a.txt"), Path("/dev/full").open("w") as full:
            full.write("a")

    with pytest.raises(VisceraError, match=r"cannot write .*a.txt: No space left on device \([\d.]+ MiB are free in "):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = hidden_name("new")
    old = hidden_name("old.new").replace(str(os.getpid()), str(ended.pid), 1)
    for name in (own, old, own.replace(str(os.getpid()), str(ended.pid), 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    with _folder(tmp_path / "new") as part:
        (part / "whole").touch()
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["new", "new/whole"]
