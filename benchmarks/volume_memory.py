"""Peak memory of predicting a scan of 512x512x824 voxels with 14 classes on the CPU, gao2step at its full width.

    python benchmarks/volume_memory.py WORK

The weights are untrained: they cost what trained ones cost, and label noise all over, the worst case for post-processing.
Windows do not overlap here, which changes the time (by 6 to 8 times) but not the memory: a slab is as thick as one window
either way. The scan is a synthetic patient whose slices are said to be 1 mm apart, so that all 824
of them are 824 planes at 1 mm.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from machine import facts, save
from viscera.io import nifti
from viscera.networks.build import build_network
from viscera.networks.unet import parameter_count
from viscera.networks.weights import Weights, save_weights
from viscera.recipes.gao2step import GAO2STEP
from viscera.synthesis.patient import synthesize
from viscera.volume import Volume

SHAPE = (824, 512, 512)
SPACING_MM = (1.0, 0.78, 0.78)


def make_scan(file: Path) -> None:
    """Write the scan."""
    if file.exists():
        return
    patient = synthesize(np.random.default_rng(0), shape=(103, 512, 512), orientation="axial")
    voxels = np.repeat(patient.ct.voxels, 8, axis=0)
    z, y, x = SPACING_MM
    affine = np.array([[0, 0, -x, 200.0], [0, -y, 0, 200.0], [z, 0, 0, 0.0], [0, 0, 0, 1]])
    file.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(file, Volume(voxels, affine))


def make_weights(file: Path) -> int:
    """Write untrained weights; give the number of parameters."""
    torch.manual_seed(0)
    measured = replace(GAO2STEP.intensity, measured=(-160.0, 240.0, 80.0, 60.0))
    inference = replace(GAO2STEP.inference, overlap=0.0, region="whole")
    recipe = replace(GAO2STEP, intensity=measured, inference=inference)
    network = build_network(recipe.network, classes=len(recipe.space.classes))
    save_weights(file, Weights(recipe, recipe.space, network.state_dict(), {}))
    return parameter_count(network)


def main(work: Path) -> None:
    """Predict in a process of its own, and write what it took."""
    scan, weights, output = (work / name for name in ("scan.nii.gz", "organs.safetensors", "organs.nii.gz"))
    make_scan(scan)
    parameters = make_weights(weights)
    run_alone(["predict", scan, output, "--weights", weights, "--overwrite"])
    run = json.loads((work / "organs.json").read_text())["run"]
    save(
        "volume_memory",
        facts("torch")
        | {
            "shape": SHAPE,
            "classes": 14,
            "parameters": parameters,
            "peak_memory_mib": run["peak_memory_mib"],
            "seconds": run["efficiency"]["seconds"],
            "stages": run["seconds"],
        },
    )


def run_alone(words: list[object]) -> None:
    """Say a command of viscera's in a process of its own, with all cores."""
    command = [sys.executable, "-m", "viscera.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
