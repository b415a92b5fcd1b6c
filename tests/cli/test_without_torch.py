"""An installation for predicting alone: what works without the extra ``train``, and what says that it needs it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from viscera.config.recipe import Recipe
from viscera.deployment.export import export
from viscera.inference.model import load_model
from viscera.io.nifti import write
from viscera.networks.build import build_network
from viscera.networks.weights import Weights, save_weights
from viscera.recipes.catalogue import RECIPES
from viscera.volume import Volume

HIDDEN = """
import sys
from importlib.machinery import PathFinder

NAMES = ("torch", "scipy", "lightning_fabric", "onnx", "onnxruntime")


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, *more):
        return None if name.partition(".")[0] in NAMES else super().find_spec(name, *more)

    @staticmethod
    def find_distributions(context):
        hidden = (context.name or "").replace("-", "_") in NAMES
        return iter(()) if hidden else PathFinder.find_distributions(context)


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""
"""What each process does at its start, those of a pool too: as if these were not installed."""
RUN = """
import contextlib, io, json, sys
from viscera.cli.command import main

found = []
for words in json.load(sys.stdin):
    said, shown = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        try:
            code = main(words)
        except SystemExit as ended:
            code = ended.code
    found.append([code, said.getvalue(), shown.getvalue()])
print(json.dumps(found))
"""
SENTENCE = "not installed. Install it: pip install 'viscera[train]'.\n"


def without_torch(folder: Path, *commands: str) -> list[tuple[int, str, str]]:
    """Run commands in a process that finds no torch; return exit codes, messages and results."""
    (folder / "sitecustomize.py").write_text(HIDDEN)
    words = json.dumps([command.split() for command in commands])
    place = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "XDG_CACHE_HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=words, capture_output=True, text=True, check=True, cwd=folder, env=place
    )
    return [(code, said, shown) for code, said, shown in json.loads(done.stdout)]


def untrained(file: Path, recipe: Recipe) -> None:
    """Write weights of a run."""
    network = build_network(recipe.network, classes=len(recipe.space.classes), softmax=recipe.softmax)
    save_weights(file, Weights(recipe, recipe.space, network.state_dict(), {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the weights of a network of slices, exported too, and of one of volumes."""
    folder = tmp_path_factory.mktemp("without")
    torch.manual_seed(0)
    slices, volumes = RECIPES["zhang2d-small"], RECIPES["gao2step-small"]
    untrained(folder / "slices.safetensors", replace(slices, network=replace(slices.network, widths=(4, 8))))
    untrained(folder / "volumes.safetensors", volumes)
    export(load_model(folder / "slices.safetensors", accelerator="cpu"), folder / "exported", kind="openvino")
    return folder


@pytest.mark.slow
def test_the_way_from_a_scan_to_its_scores_needs_neither_torch_nor_scipy(folder: Path) -> None:
    commands = (
        "synth set --layout radiotherapy --cases 1 --shape 16 64 64 --jobs 1",
        "predict radiotherapy=set labels --statistics",
        "evaluate radiotherapy=set labels --json scores.json",
        "report scores.json",
        "predict set/ct/1.nii.gz exported.nii.gz --weights exported",
        "view set/ct/1.nii.gz labels/1.nii.gz",
        "view set/ct/1.nii.gz labels/1.nii.gz --png picture.png",
        "prepare store --data radiotherapy=set --recipe viscera2d-16 --jobs 1",
        "info",
    )
    done = without_torch(folder, *commands)
    assert {command: said for command, (code, said, _) in zip(commands, done, strict=True) if code} == {}
    run = json.loads((folder / "labels" / "1.json").read_text())["run"]
    assert run["runtime"] == "openvino"
    assert (folder / "scores.html").is_file()
    assert "not installed (pip install 'viscera[train]')" in done[-1][2]


NEED = {
    "demo there": "viscera demo needs torch and lightning-fabric, which are",
    "train viscera2d-16 store there": "viscera train needs torch and lightning-fabric, which are",
    "plan store": "viscera plan needs torch and lightning-fabric, which are",
    "study upv store there": "viscera study needs torch and lightning-fabric, which are",
    "pseudolabel one two store": "viscera pseudolabel needs torch, which is",
    "bench": "viscera bench needs torch, which is",
    "export starter there": "viscera export needs torch, which is",
    "synth there --template labels.nii.gz": "--template needs scipy, which is",
    "predict {scan} there.nii.gz --runtime torch": "running starter.safetensors needs torch, which is",
    "predict {scan} there.nii.gz --runtime onnx": "running starter.safetensors needs torch, which is",
    "predict {scan} there.nii.gz --device cuda": "a GPU needs torch, which is",
    "predict {scan} there.nii.gz --weights slices.safetensors": "running slices.safetensors needs torch, which is",
    "predict {scan} there.nii.gz --weights volumes.safetensors": "running volumes.safetensors needs torch, which is",
}
"""{command: the beginning of what it says}."""


def test_what_needs_torch_or_scipy_says_so_before_it_does_anything(folder: Path) -> None:
    scan = folder / "scan.nii.gz"
    write(scan, Volume(np.arange(-1000, 15384, dtype=np.int16).reshape(16, 32, 32), np.diag([3.0, 3.0, 3.0, 1.0])))
    before = {*folder.iterdir(), folder / "sitecustomize.py"}
    done = without_torch(folder, *(command.format(scan=scan.name) for command in NEED))
    said = {command: (code, text) for command, (code, text, _) in zip(NEED, done, strict=True)}
    assert said == {command: (2, f"viscera: SettingError: {what} {SENTENCE}") for command, what in NEED.items()}
    assert {*folder.iterdir()} <= before


def test_help_of_verbs_that_need_torch_is_there_without_it(folder: Path) -> None:
    done = without_torch(folder, "train viscera2d-16 --help", "export --help", "demo --help")
    assert [code for code, _, _ in done] == [0, 0, 0]


@pytest.mark.slow
def test_training_from_python_says_what_it_needs_and_segmenting_needs_nothing(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text(HIDDEN)
    code = """
import numpy, viscera
print(viscera.segment((numpy.arange(-1000, 15384, dtype=numpy.int16).reshape(32, 32, 16), numpy.eye(4)))[0].shape)
try:
    viscera.train("viscera2d-16", "store", "run")
except viscera.VisceraError as error:
    print(error)
"""
    place = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder, env=place
    )
    shape, said = done.stdout.splitlines()
    assert shape == "(32, 32, 16)"
    assert said == "viscera.train needs torch and lightning-fabric, which are " + SENTENCE.strip()
