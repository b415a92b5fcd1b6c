"""viscera predict --cluster over processes that die, are interrupted, and whose scheduler goes away: nothing lost, nothing twice.

pytest -m slow tests/inference/test_cluster_processes.py
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from dask_machines import Machines, machines
from faults.verbs import leftovers, steady
from makers import call
from viscera.inference.failures import read_failure
from viscera.io import nifti
from viscera.synthesis.patient import synthesize

pytestmark = pytest.mark.slow

SCANS, KILLS = 20, int(os.environ.get("VISCERA_TEST_KILLS", "30"))


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Let tables keep their cells whole."""
    monkeypatch.setenv("COLUMNS", "600")


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Ten small synthetic patients, each of them twice."""
    folder = tmp_path_factory.mktemp("cluster") / "scans"
    for number in range(SCANS // 2):
        patient = synthesize(np.random.default_rng(number), shape=(12, 32, 32)).ct
        for copy in (number, number + SCANS // 2):
            nifti.write(folder / f"p{copy:02d}.nii.gz", patient)
    return folder


@pytest.fixture(scope="module")
def expected(scans) -> dict[str, object]:
    """What one process makes of them."""
    place = scans.with_name("expected")
    assert call(f"predict {scans} {place} --device cpu")[0] == 0
    assert nifti.read(place / "p00.nii.gz").voxels.any()
    return contents(place)


def contents(folder: Path) -> dict[str, object]:
    """Return what is in a folder; of JSON, what is the same in every run."""
    assert leftovers(folder) == []
    return {
        file.name: steady(json.loads(file.read_text())) if file.suffix == ".json" else file.read_bytes()
        for file in folder.iterdir()
    }


def begin(scans: Path, out: Path, where: str) -> subprocess.Popen:
    """Start the command in a process of its own, which Ctrl-C reaches."""
    words = [str(scans), str(out), "--device", "cpu", "--cluster", where]
    return subprocess.Popen(
        [sys.executable, "-m", "viscera.cli", "predict", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(what, *, within_s: float = 120.0) -> None:
    until = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def label_maps(out: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in out.glob("p*.nii.gz")}


def test_a_scheduler_with_two_workers_makes_what_one_process_makes(scans, expected, tmp_path):
    with machines(tmp_path / "machines") as found:
        code, said = call(f"predict {scans} {tmp_path}/out --device cpu --cluster {found.address}")
        assert code == 0, said
        assert "2 workers at tcp://127.0.0.1" in said
        assert len({pid for _, pid in found.lines("written")}) == 2
    assert contents(tmp_path / "out") == expected


def test_a_worker_that_is_killed_loses_no_scan(scans, expected, tmp_path):
    with machines(tmp_path / "machines", pause_s=0.2) as found:
        running = begin(scans, tmp_path / "out", found.address)
        wait_for(lambda: len(found.lines("begun")) >= 3)
        found.kill_worker()
        _, said = running.communicate(timeout=200)
        assert running.returncode == 0, said
        assert f"{SCANS} of {SCANS} scans segmented" in said
        assert max(Counter(name for name, _ in found.lines("written")).values()) == 1
    assert contents(tmp_path / "out") == expected


def test_a_scan_that_kills_its_workers_is_set_aside_after_two_of_them_and_named(scans, expected, tmp_path):
    place = shutil.copytree(scans, tmp_path / "scans")
    shutil.copy(place / "p00.nii.gz", place / "poison.nii.gz")
    (place / "damaged.nii.gz").write_bytes((place / "p01.nii.gz").read_bytes()[:500])
    with machines(tmp_path / "machines") as found:
        code, said = call(f"predict {place} {tmp_path}/out --device cpu --cluster {found.address}")
        assert Counter(name for name, _ in found.lines("begun"))["poison.nii.gz"] == 2
    assert code == 2
    assert f"{SCANS} of {SCANS + 2} scans segmented" in said
    assert "2 workers died while they segmented it" in said
    failure = read_failure(tmp_path / "out/poison.failed.json")
    assert failure is not None
    assert failure.scan == "poison.nii.gz"
    assert failure.error == "RunError"
    assert (tmp_path / "out/damaged.failed.json").exists()
    made = contents(tmp_path / "out")
    assert {name: made[name] for name in expected} == expected


@pytest.mark.parametrize("where", ["local:2", "tcp"])
def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(where, scans, expected, tmp_path):
    with machines(tmp_path / "machines", pause_s=0.3) as found:
        address = found.address if where == "tcp" else where
        running = begin(scans, tmp_path / "out", address)
        wait_for(lambda: len(label_maps(tmp_path / "out")) >= 2)
        children = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 130
        assert "Traceback" not in said
        assert said.endswith("viscera: interrupted (SIGINT). What was finished is kept; the same command goes on.\n")
        psutil.wait_procs(children, timeout=20)
        assert not [child for child in children if child.is_running()]
        if where == "tcp":  # what a worker is at, it ends
            wait_for(lambda: len(found.lines("begun")) == len(found.lines("written")))
        kept = label_maps(tmp_path / "out")
        assert 2 <= len(kept) < SCANS
        code, said = call(f"predict {scans} {tmp_path}/out --device cpu --cluster {address}")
        assert code == 0, said
        assert f"{SCANS} of {SCANS} scans segmented, in {tmp_path}/out ({len(kept)} of them before)" in said
    assert {name: label_maps(tmp_path / "out")[name] for name in kept} == kept
    assert contents(tmp_path / "out") == expected


def test_a_scheduler_that_does_not_come_back_ends_the_command(scans, tmp_path, monkeypatch):
    from viscera.io import clusters

    monkeypatch.setattr(clusters, "AWAY_S", 3.0)
    with machines(tmp_path / "machines", pause_s=0.3) as found:
        import threading

        killer = threading.Thread(target=lambda: (wait_for(lambda: label_maps(tmp_path / "out")), found.kill_all()))
        killer.start()
        code, said = call(f"predict {scans} {tmp_path}/out --device cpu --cluster {found.address}")
        killer.join()
    assert code == 2
    assert "has been gone for 3 s. Start it and its workers again; the same command goes on." in said
    assert 1 <= len(label_maps(tmp_path / "out")) < SCANS


def test_chaos_loses_nothing_makes_nothing_twice_and_names_what_failed(scans, expected, tmp_path):
    place, out = shutil.copytree(scans, tmp_path / "scans"), tmp_path / "out"
    for number in range(SCANS, 3 * SCANS):
        shutil.copy(scans / f"p{number % SCANS:02d}.nii.gz", place / f"p{number:02d}.nii.gz")
    for number in range(5):
        (place / f"damaged{number}.nii.gz").write_bytes((scans / "p01.nii.gz").read_bytes()[: 300 + 50 * number])
    with machines(tmp_path / "machines", pause_s=0.5) as found:
        (found.folder / "full-p07.nii.gz").touch()
        running = begin(place, out, found.address)
        kills = torment(found, running, out)
        _, said = running.communicate(timeout=280)
        (tmp_path / "said.txt").write_text(said)
        assert kills == KILLS
        failed = {file.name.removesuffix(".failed.json") for file in out.glob("*.failed.json")}
        assert {f"damaged{number}" for number in range(5)} | {"p07"} <= failed, said
        assert running.returncode == 2
        unlucky = {name for name in failed if name.startswith("p")} - {"p07"}  # killed twice by chance, and named
        assert all("2 workers died" in read_failure(out / f"{name}.failed.json").what for name in unlucky)
        assert f"{3 * SCANS + 5 - len(failed)} of {3 * SCANS + 5} scans segmented" in said
        code, said = call(f"predict {place} {out} --device cpu --cluster {found.address}")
        assert (code, f"{3 * SCANS} of {3 * SCANS + 5} scans segmented" in said) == (2, True), said
        assert set(Counter(name for name, _ in found.lines("written")).values()) == {1}
        assert len(found.lines("written")) == 3 * SCANS
    made = {file.name: file.read_bytes() for file in out.glob("*.nii.gz")}
    assert made == {f"p{number:02d}.nii.gz": expected[f"p{number % SCANS:02d}.nii.gz"] for number in range(3 * SCANS)}
    assert leftovers(out) == []


def torment(found: Machines, running: subprocess.Popen, out: Path) -> int:
    """Kill workers at random, and twice the scheduler with all of them; return how many workers were killed."""
    chance, kills = random.Random(0), 0
    wait_for(lambda: label_maps(out))
    while running.poll() is None and kills < KILLS:
        begun = len(found.lines("begun"))
        if kills in (KILLS // 3, 2 * KILLS // 3) and found.scheduler is not None:
            kills += len(found.worker_processes())
            found.kill_all()
            time.sleep(0.5)
            found.start_scheduler()
            found.start_workers()
        elif found.kill_worker(chance.randrange(2)):
            kills += 1
        wait_for(lambda begun=begun: len(found.lines("begun")) > begun or running.poll() is not None)
        time.sleep(0.3 * chance.random())
    return kills
