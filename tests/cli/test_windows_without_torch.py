"""A 3D network's second start: its graph was kept, so neither torch nor scipy.ndimage is imported; labels stay the same."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from viscera.config import AttentionUNetShape, ForegroundScore, PlainUNetShape, Recipe, SpacedVolumes
from viscera.inference.model import load_model
from viscera.inference.segment import segment
from viscera.io import nifti
from viscera.networks.build import build_network
from viscera.networks.weights import Weights, save_weights
from viscera.recipes.gao2step import GAO2STEP_SMALL
from viscera.recipes.runet import RUNET_SMALL
from viscera.volume import Volume

COMMAND = """
import sys
from viscera.cli.command import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("loaded", *sys.modules)
"""
"""nibabel imports scipy by itself, but nothing in it."""

GAO2STEP = replace(
    GAO2STEP_SMALL,
    preparation=SpacedVolumes(spacing_mm=(3.0, 3.0, 3.0)),
    intensity=ForegroundScore(measured=(-160.0, 240.0, 80.0, 60.0)),
    network=PlainUNetShape(widths=(4, 8)),
    sampling=replace(GAO2STEP_SMALL.sampling, size=(16, 16, 16)),
)
RUNET = replace(
    RUNET_SMALL,
    network=AttentionUNetShape(widths=(4, 8)),
    sampling=replace(RUNET_SMALL.sampling, size=(16, 16, 16)),
)


@pytest.mark.parametrize("recipe", [pytest.param(GAO2STEP, marks=pytest.mark.slow), RUNET], ids=["gao2step", "runet"])
def test_the_second_start_of_a_3d_network_imports_neither_torch_nor_scipys_filters(
    recipe: Recipe, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    network = build_network(recipe.network, classes=len(recipe.space.classes), softmax=recipe.softmax)
    run = tmp_path / "run"
    run.mkdir()
    save_weights(run / "best.safetensors", Weights(recipe, recipe.space, dict(network.state_dict()), {}))
    hu = np.random.default_rng(0).integers(-300, 400, (12, 40, 44)).astype(np.int16)
    hu[:2] = -1000
    ct = Volume(hu, np.array([[0, 0, -2.0, 0], [0, -2.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]]))
    nifti.write(tmp_path / "scan.nii.gz", ct)
    graphs = tmp_path / "cache" / "viscera" / "graphs"
    model = load_model(run, accelerator="cpu", runtime="openvino", graphs=graphs)
    assert model.network.name == "openvino"
    assert len(list(graphs.iterdir())) == 1

    words = ["predict", str(tmp_path / "scan.nii.gz"), str(tmp_path / "labels.nii.gz"), "--weights", str(run)]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split()[1:])
    assert "openvino" in loaded
    assert not loaded & {"torch", "scipy.ndimage"}
    found = nifti.read(tmp_path / "labels.nii.gz").voxels
    assert np.array_equal(found, segment(ct, model).voxels)
    assert len(np.unique(found)) > 2
