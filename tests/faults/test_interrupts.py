"""Ctrl-C and SIGTERM end a verb within two seconds, with one line, and what is finished is kept."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pytest

from faults.faulty import faults
from faults.verbs import VERBS, furnish, results, whole
from makers import call
from viscera.cli.command import main
from viscera.datasets.synthetic import UNFINISHED
from viscera.io.atomic import hidden_name
from viscera.io.locks import LOCK

COMMAND = "import sys; from viscera.cli.command import main; sys.exit(main())"
STUCK = """
import hashlib
from threading import Timer
from viscera.cli.interrupts import interruptible
with interruptible("train"):
    Timer(0.3, print, ("begun",), {"flush": True}).start()  # says so when this thread has long begun
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # an hour during which Python looks at no signal
"""
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
LATE_S = 3 * float(os.environ.get("VISCERA_TEST_PATIENCE", "1"))
"""How long a verb may take to end: two seconds, and one for a busy machine; more where the variable says so."""
LINE = "viscera: interrupted ({}). What was finished is kept; {}.\n"


def begin(*words: str, folder: Path) -> subprocess.Popen:
    """Start a process that does not ignore Ctrl-C, as one that a script puts into the background would."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def end(process: subprocess.Popen, number: int, *, within_s: float) -> str:
    """Send a signal; return what the process said on stderr."""
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < within_s
    return said


@BOTH
def test_a_computation_that_heeds_no_signal_is_ended_all_the_same(number, tmp_path):
    process = begin("-c", STUCK, folder=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    said = end(process, number, within_s=LATE_S)
    assert said == LINE.format(number.name, "the same command with --resume goes on")
    assert process.returncode == 128 + number


@pytest.mark.slow
@BOTH
def test_synth_is_interrupted_and_goes_on_to_the_same_data_set(number, tmp_path):
    command = "synth {} --cases 5 --shape 32 64 64 --jobs 1"
    process = begin("-c", COMMAND, *command.format("new").split(), folder=tmp_path)
    labels = tmp_path / "new/labelsTr/case_0001.nii.gz"
    while not (tmp_path / "new/labelsTr/case_0002.nii.gz").exists():
        time.sleep(0.01)
    assert process.poll() is None
    said = end(process, number, within_s=LATE_S)
    assert "Traceback" not in said
    assert said.endswith(LINE.format(number.name, "the same command goes on"))
    assert process.returncode == 128 + number
    written = labels.stat().st_mtime_ns
    for folder in ("new", "whole"):
        assert call(command.format(tmp_path / folder))[0] == 0
    assert labels.stat().st_mtime_ns == written  # kept
    files = [{str(file.relative_to(tmp_path / name)): file for file in (tmp_path / name).rglob("*") if file.is_file()}
             for name in ("new", "whole")]  # fmt: skip
    assert files[0].keys() == files[1].keys()
    assert all(file.suffix == ".json" or file.read_bytes() == files[1][name].read_bytes()
               for name, file in files[0].items())  # fmt: skip


def test_synth_goes_on_where_its_first_case_is_there_by_half(tmp_path):
    (tmp_path / "new").mkdir()
    command = f"synth {tmp_path}/new --cases 1 --shape 16 16 16 --jobs 1"
    with faults(tmp_path, 46, errno.EIO):  # the labels, when the scan is written
        assert call(command)[0] == 2
    assert (tmp_path / "new/imagesTr/case_0001_0000.nii.gz").exists()
    assert not (tmp_path / "new/labelsTr/case_0001.nii.gz").exists()
    code, said = call(command)
    assert code == 0, said


def test_synth_goes_on_where_it_was_killed_at_its_first_or_its_last_write(tmp_path):
    place = tmp_path / "new"
    place.mkdir()
    (place / hidden_name(UNFINISHED)).write_text("{")
    (place / LOCK).touch()
    words = ["synth", str(place), "--cases", "1", "--shape", "16", "32", "32", "--jobs", "1"]
    assert main(words) == 0
    cohort = {file.relative_to(place) for file in place.rglob("*") if file.name[0] != "."}
    assert main(words) == 2  # it is whole
    assert {file.relative_to(place) for file in place.rglob("*") if file.name[0] != "."} == cohort


@pytest.mark.slow
def test_a_training_killed_while_its_last_curves_were_drawn_draws_them_when_it_is_resumed(small_store, tmp_path):
    furnish(tmp_path, small_store)
    with chdir(tmp_path):
        assert call("train recipe.json store new")[0] == 0
        Path("new/curves.png").unlink()
        left = Path("new") / hidden_name("curves.png").replace(str(os.getpid()), str(2**22 + 1))
        left.touch()
        assert call("train recipe.json store new --resume")[0] == 0
        assert Path("new/curves.png").is_file()
        assert not left.exists()


def test_synth_does_not_go_on_with_another_data_set(tmp_path, monkeypatch):
    from viscera.datasets import synthetic

    cohort = synthetic.Cohort("nnunet", cases=2, shape=(16, 16, 16))
    monkeypatch.setattr(synthetic, "write_case", lambda *words, **more: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        synthetic.write_cohort(tmp_path / "new", cohort, jobs=1)
    code, said = call(f"synth {tmp_path}/new --cases 2 --shape 16 16 16 --seed 1 --jobs 1")
    assert code == 2
    assert "holds an unfinished data set of other settings. Say the settings again" in said


SLOW = {
    "train": ("train recipe.json store new --training.epochs 500", "new/log.jsonl"),
    "folder": ("predict many out --weights run", "out/001.nii.gz"),
    "prepare": ("prepare new --data images=many --recipe recipe.json --jobs 1", "new/cases/many__001/case.json"),
    "study": ("study recipe.json store new --grid training.seed=0,1,2,3 --jobs 1", "new/cells/*/result.json"),
}


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("name", SLOW)
def test_an_interrupted_verb_keeps_what_is_finished(name, number, small_store, tmp_path):
    furnish(tmp_path, small_store)
    (tmp_path / "many").mkdir()
    for case in range(200):
        shutil.copy(tmp_path / "scans/a.nii.gz", tmp_path / f"many/{case:03d}.nii.gz")
    command, first = SLOW[name]
    process = begin("-c", COMMAND, *command.split(), folder=tmp_path)
    while not list(tmp_path.glob(first)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    kept = next(iter(tmp_path.glob(first)))
    before = kept.read_bytes()
    said = end(process, number, within_s=LATE_S)
    assert "Traceback" not in said
    how = "the same command with --resume goes on" if name == "train" else "the same command goes on"
    assert said.endswith(LINE.format(number.name, how)), said
    assert process.returncode == 128 + number
    assert kept.read_bytes()[: len(before)] == before
    whole(tmp_path)
    verb = next(verb for verb in VERBS if verb.name == name)
    assert results(tmp_path, verb)
