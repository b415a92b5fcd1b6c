"""kill -9 at random instants of prepare and train, again and again, until both are done; compare with uninterrupted runs.

Usage: python benchmarks/kills.py [--kills 20]
"""

import argparse
import hashlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from machine import facts, save


def viscera(*words: object) -> list[str]:
    """Give the command line of a verb."""
    return [sys.executable, "-m", "viscera.cli", *map(str, words)]


def until_done(
    command: list[str],
    generator: np.random.Generator,
    *,
    kills: int,
    span_s: tuple[float, float],
    finished: Callable[[], None],
) -> list[float]:
    """Kill a command at random instants and say it again until it was killed ``kills`` times; give the instants.

    Whenever it ends by itself before that, ``finished`` compares what it made and clears it away, and it begins anew.
    """
    instants: list[float] = []
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        limit = generator.uniform(*span_s) if len(instants) < kills else 900
        try:
            _, said = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)  # this process alone: its workers must notice by themselves
            process.wait()
            instants.append(round(limit, 2))
            time.sleep(0.1)
            continue
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}:\n{said}")
        finished()
        if len(instants) >= kills:
            return instants


def hashes(folder: Path) -> dict[str, str]:
    """Give the hash of every file below a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    kills = parser.parse_args().kills
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "abdomenct1k"
        synth = viscera("synth", data, "--layout", "abdomenct1k", "--cases", 12, "--shape", 96, 256, 256)
        subprocess.run(synth, check=True, capture_output=True)

        def prepare(store: str) -> list[str]:
            return viscera("prepare", folder / store, "--data", f"abdomenct1k={data}", "--recipe", "zhang2d-small")

        def train(run: str) -> list[str]:
            every = ["--machine.save-every-s", 0.5, "--machine.accelerator", "cpu"]
            words = ["train", "zhang2d-small", folder / "store", folder / run, "--resume", "--training.epochs", 2]
            return viscera(*words, "--training.visits-per-slice", 1, *every)

        differ: list[str] = []
        equal: list[bool] = []

        def compare_stores() -> None:
            whole, killed = hashes(folder / "store"), hashes(folder / "killed-store")
            differ.extend(key for key in whole | killed if whole.get(key) != killed.get(key))
            shutil.rmtree(folder / "killed-store")

        def compare_runs() -> None:
            whole, killed = (load_file(folder / run / "last.safetensors") for run in ("run", "killed-run"))
            equal.append(all(torch.equal(whole[key], killed[key]) for key in whole))
            shutil.rmtree(folder / "killed-run")

        start = time.perf_counter()
        subprocess.run(prepare("store"), check=True, capture_output=True)
        span_s = (0.2, time.perf_counter() - start)
        files = len(hashes(folder / "store"))
        prepare_kills = until_done(
            prepare("killed-store"), generator, kills=kills, span_s=span_s, finished=compare_stores
        )
        subprocess.run(train("run"), check=True, capture_output=True)
        train_kills = until_done(train("killed-run"), generator, kills=kills, span_s=(1.0, 7.0), finished=compare_runs)
    result = {
        "prepare": {"kills_at_s": prepare_kills, "files": files, "files_that_differ": differ},
        "train": {"kills_at_s": train_kills, "weights_equal_to_the_bit": equal},
    }
    print(result)
    print(save("kills", facts("torch") | result))


if __name__ == "__main__":
    main()
