"""The server is killed while it learns from corrections: nothing is lost, nothing half-made serves, and the training goes on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from viscera.io import nifti
from viscera.serving.tuning import PROGRESS
from viscera.synthesis.patient import synthesize
from viscera.volume import with_voxels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ORGANS = ("liver", "spleen", "aorta")
SETTINGS = {"max_epochs": 4, "steps": 20}


def _start(studies: Path) -> tuple[subprocess.Popen, str]:
    words = [sys.executable, "-m", "viscera.cli", "serve", str(studies), "--port", "0", "--device", "cpu"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    lines = iter(running.stderr.readline, "")
    return running, next(word for line in lines for word in line.split() if word.startswith("http://"))


def _correct(address: str, folder: Path) -> None:
    for number in range(3):
        patient = synthesize(np.random.default_rng([79, number]), shape=(24, 64, 64))
        table = np.zeros(256, np.uint8)
        for value, organ in enumerate(ORGANS, start=1):
            table[next(label for label, name in patient.organs.items() if name == organ)] = value
        scan, labels = folder / "scan.nii.gz", folder / "labels.nii.gz"
        nifti.write(scan, patient.ct, overwrite=True)
        nifti.write(labels, with_voxels(patient.ct, table[patient.labels.voxels]), overwrite=True)
        named = '{"label_info": [' + ", ".join(f'{{"name": "{o}", "idx": {v}}}' for v, o in enumerate(ORGANS, 1)) + "]}"
        sent = {"file": ("scan.nii.gz", scan.read_bytes())}
        httpx.put(f"{address}/datastore/?image=scan%20{number}", files=sent, timeout=60).raise_for_status()
        sent = {"label": ("labels.nii.gz", labels.read_bytes())}
        saved = f"{address}/datastore/label?image=scan%20{number}"
        httpx.put(saved, files=sent, data={"params": named}, timeout=60).raise_for_status()


def _learners(studies: Path) -> list[psutil.Process]:
    """Processes that work on these studies, but for the server."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(studies / "models") in " ".join(words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _scans_and_labels(studies: Path) -> dict[Path, bytes]:
    files = [file for file in studies.rglob("*.nii.gz") if studies / "models" not in file.parents]
    assert len(files) == 6
    return {file: file.read_bytes() for file in files}


def _training(run: Path) -> bool:
    """Whether the process has told that it trains; what an earlier one told is removed when it starts."""
    progress = run / PROGRESS
    return progress.is_file() and '"training"' in progress.read_text() and any(run.rglob("state.safetensors"))


def test_a_training_survives_two_kills_of_its_server(tmp_path):
    studies = tmp_path / "studies"
    running, address = _start(studies)
    try:
        _correct(address, tmp_path)
        before = _scans_and_labels(studies)
        hits = 0
        for kill in range(2):
            httpx.post(f"{address}/train/starter", json=SETTINGS, timeout=60).raise_for_status()
            until = time.monotonic() + 240
            run = studies / "models" / "starter" / "work"
            while time.monotonic() < until and not (_learners(studies) and _training(run)):
                time.sleep(0.05)
            hits += bool(_learners(studies))
            running.kill()
            running.communicate()
            until = time.monotonic() + 30
            while _learners(studies) and time.monotonic() < until:
                time.sleep(0.5)
            assert not _learners(studies), f"after kill {kill + 1} a training goes on without its server"
            running, address = _start(studies)
            info = httpx.get(f"{address}/info/").json()
            assert info["models"]["starter"]["version"] == 1
            assert len(httpx.get(f"{address}/datastore/?output=all").json()["objects"]) == 3
        assert hits == 2
        assert _scans_and_labels(studies) == before
        httpx.post(f"{address}/train/starter", json=SETTINGS, timeout=60).raise_for_status()
        while httpx.get(f"{address}/train/?check_if_running=true", timeout=60).status_code == 200:
            time.sleep(1)
        task = httpx.get(f"{address}/train/", timeout=60).json()
        assert task["status"] == "DONE", task["details"]
        assert any("going on" in line for line in task["details"])
        assert task["result"]["cases"] == 1
        assert not (studies / "models" / "starter" / "work").exists()
    finally:
        running.kill()
        running.communicate()
        for process in _learners(studies):
            os.kill(process.pid, 9)
