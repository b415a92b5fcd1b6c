"""viscera prepare and evaluate --cluster over processes that die: no case is lost, and one that kills its workers is named.

pytest -m slow tests/preparation/test_cases_on_machines.py
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import viscera
from dask_machines import Machines, machines
from dask_threads import files
from makers import call

pytestmark = pytest.mark.slow

CASES = 6


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Six patients, and one more who is a worker's death."""
    viscera.synthesize(tmp_path / "set", cases=CASES, shape=(16, 32, 32), annotate=["liver", "spleen"])
    for folder, end in (("imagesTr", "_0000"), ("labelsTr", "")):
        shutil.copy(tmp_path / f"set/{folder}/case_0001{end}.nii.gz", tmp_path / f"set/{folder}/poison{end}.nii.gz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "600")
    return tmp_path


def begin(words: str) -> subprocess.Popen:
    """Start a command in a process of its own, which Ctrl-C reaches."""
    return subprocess.Popen(
        [sys.executable, "-m", "viscera.cli", *words.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for_begun(found: Machines, count: int) -> None:
    until = time.monotonic() + 120
    while len(found.lines("begun")) < count:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_workers_that_die_lose_no_case_and_one_that_kills_them_is_a_problem(place):
    with machines(place / "machines") as found:
        code, said = call(f"prepare store --data nnunet=set --cluster {found.address}")
        assert (code, f"{CASES} scans prepared" in said) == (2, True), said
        assert "2 workers died while they prepared it" in said
        assert Counter(name for name, _ in found.lines("begun"))["poison"] == 2
        code, said = call(f"evaluate nnunet=set set/labelsTr --json scores.json --cluster {found.address}")
        assert (code, "2 workers died while they scored it" in said) == (2, True), said
    problems = json.loads((place / "store/problems.json").read_text())
    assert [one["case"] for one in problems if "workers died" in one["what"]] == ["poison"]
    scores = json.loads((place / "scores.json").read_text())
    assert [problem["case"] for problem in scores["problems"]] == ["poison"]
    assert len({row["case"] for row in scores["cases"]}) == CASES
    assert not list(place.glob(".*"))
    for file in (place / "set").rglob("poison*"):
        file.unlink()
    call("prepare alone --data nnunet=set --jobs 1")
    there, alone = files(place / "store/cases"), files(place / "alone/cases")
    assert there == alone


def test_ctrl_c_keeps_what_is_prepared_or_scored_and_the_same_command_goes_on(place):
    for file in (place / "set").rglob("poison*"):
        file.unlink()
    with machines(place / "machines", pause_s=0.3) as found:
        for words in ("prepare store --data nnunet=set", "evaluate nnunet=set set/labelsTr --json scores.json"):
            already = len(found.lines("begun"))
            running = begin(f"{words} --cluster {found.address}")
            wait_for_begun(found, already + 4)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=60)
            assert (running.returncode, "Traceback" in said) == (130, False), said
            code, said = call(f"{words} --cluster {found.address}")
            assert code == 0, said
    call("prepare alone --data nnunet=set --jobs 1")
    call("evaluate nnunet=set set/labelsTr --json alone.json --jobs 1")
    assert files(place / "store") == files(place / "alone")
    assert (place / "scores.json").read_bytes() == (place / "alone.json").read_bytes()
    assert not list(place.glob(".*"))
