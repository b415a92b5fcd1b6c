"""Predicting on each device: the same labels as torch on the CPU, smaller windows where memory runs out, the command.

The CPU's variants show that these tests are right; those of a GPU run where there is one (pytest -m cuda).
"""

import contextlib
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import viscera
from makers import call
from viscera.config import (
    AttentionUNetShape,
    PatchSampling,
    PlainUNetShape,
    Recipe,
    ResizedSlices,
    ScannerGrid,
    UNetShape,
    VolumeAugmentation,
    Window,
    WindowInference,
)
from viscera.networks.build import build_network
from viscera.networks.weights import Weights, save_weights
from viscera.synthesis.patient import synthesize

MOST_UNLIKE = 1e-3
"""Share of the voxels that may be labelled otherwise: fp16 rounds logits to 3 digits, which matters where two are equal."""
GREYS_HU = (-1000, 0, 250)
STEPS = 30
SLICES = Recipe(
    name="tiny",
    label_space="abdomenct1k",
    preparation=ResizedSlices(size=(48, 48)),
    intensity=Window(-200, 300),
    network=UNetShape(widths=(4, 8)),
)
PLAIN = replace(
    SLICES,
    preparation=ScannerGrid(),
    network=PlainUNetShape(widths=(4, 8)),
    sampling=PatchSampling(size=(16, 32, 32)),
    augmentation=VolumeAugmentation(),
    inference=WindowInference(region="find"),
)
RECIPES = {
    "unet": SLICES,
    "plain3d": PLAIN,
    "attention3d": replace(PLAIN, network=AttentionUNetShape(widths=(4, 8))),
    "in strides": replace(
        PLAIN,
        sampling=PatchSampling(size=(16, 16, 16), stride=(1, 2, 2)),
        inference=WindowInference(region="whole"),
    ),
}


@pytest.fixture(scope="module")
def abdomen() -> viscera.Volume:
    """Return a synthetic abdomen."""
    return synthesize(np.random.default_rng(3), shape=(16, 64, 64)).ct


def grey_blocks(shape: tuple[int, int, int] = (4, 6, 6), side: int = 8) -> tuple[viscera.Volume, np.ndarray]:
    """Return a scan of blocks that have one of three grey levels, and which: no network that learnt them is in doubt."""
    numbers = np.random.default_rng(0).integers(0, len(GREYS_HU), shape)
    blocks = numbers.repeat(side, 0).repeat(side, 1).repeat(side, 2)
    affine = np.array([[0, 0, -1.0, 0], [0, -1.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    return viscera.Volume(np.asarray(GREYS_HU, np.int16)[blocks], affine), blocks


def lesson() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a patch as a network sees it, and its labels."""
    scan, truth = grey_blocks()
    part = (slice(16), slice(16), slice(32))
    return torch.from_numpy((scan.voxels[part].clip(-200, 300).astype(np.float32) + 200) / 500), torch.from_numpy(
        truth[part]
    )


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> dict[str, Path]:
    """Return {recipe: weights of its network that learnt to name grey levels}."""
    image, labels = lesson()
    folder = tmp_path_factory.mktemp("taught")
    return {
        name: teach(recipe, image, labels, file=folder / f"{number}.safetensors")
        for number, (name, recipe) in enumerate(RECIPES.items())
    }


def teach(recipe: Recipe, image: torch.Tensor, labels: torch.Tensor, *, file: Path) -> Path:
    """Write what a network has learnt from a few steps on one patch, or on its slices."""
    torch.manual_seed(1)
    network = build_network(recipe.network, classes=len(recipe.space.classes)).train()
    slices = recipe.dimensions == 2
    batch, target = (image[:, None], labels) if slices else (image[None, None], labels[None])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(STEPS):
        found = network(batch)
        finest = found if isinstance(found, torch.Tensor) else found[0]
        torch.nn.functional.cross_entropy(finest, target).backward()
        optimizer.step()
        optimizer.zero_grad()
    save_weights(file, Weights(recipe, recipe.space, network.state_dict(), {}))
    return file


def unlike(one: viscera.Volume, two: viscera.Volume) -> float:
    return float(np.mean(one.voxels != two.voxels))


def on_both(scan: viscera.Volume, weights: Path | str, device: str, **others: Path) -> list[viscera.Volume]:
    """Segment on the CPU with torch, and on the device as it does by default."""
    models = (
        viscera.load_model(weights, device="cpu", runtime="torch", **others),
        viscera.load_model(weights, device=device, **others),
    )
    return [viscera.segment(scan, model, organs="all") for model in models]


# --- the same labels


@pytest.fixture(scope="module")
def cpus_labels(abdomen) -> viscera.Volume:
    """Return what the bundled weights find on the CPU with torch."""
    return viscera.segment(abdomen, viscera.load_model("starter", device="cpu", runtime="torch"), organs="all")


def test_the_bundled_weights_label_a_scan_as_on_the_cpu_and_so_again(abdomen, cpus_labels, device):
    model = viscera.load_model("starter", device=device)
    first, second = (viscera.segment(abdomen, model, organs="all") for _ in range(2))
    assert len(np.unique(cpus_labels.voxels)) > 3
    assert unlike(cpus_labels, first) < MOST_UNLIKE
    assert unlike(first, second) == 0
    assert np.array_equal(first.affine, abdomen.affine)


@pytest.mark.parametrize("name", RECIPES)
def test_a_network_labels_a_scan_as_on_the_cpu(taught, device, name):
    scan, truth = grey_blocks()
    here, there = on_both(scan, taught[name], device)
    assert unlike(here, there) < MOST_UNLIKE
    assert np.mean(there.voxels == truth) > 0.45  # a third by chance


def test_a_finder_and_a_second_network_work_where_the_first_one_does(taught, device, tmp_path):
    scan, _ = grey_blocks()
    tumours = replace(PLAIN, label_space="tumour")
    image, labels = lesson()
    second = teach(tumours, image, (labels == 2).long(), file=tmp_path / "tumour.safetensors")
    others = {"finder": taught["in strides"], "tumour": second}
    here, there = on_both(scan, taught["plain3d"], device, **others)
    assert unlike(here, there) < MOST_UNLIKE
    assert 5 in there.voxels  # the tumour, behind the four organs


# --- files


def test_the_command_predicts_on_a_device(abdomen, cpus_labels, device, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    viscera.write(tmp_path / "scan.nii.gz", abdomen)
    code, said = call(
        f"predict {tmp_path}/scan.nii.gz {tmp_path}/labels.nii.gz --device {device} --statistics --organs all"
    )
    assert code == 0, said
    run = json.loads((tmp_path / "labels.json").read_text())["run"]
    assert run["device"] == device
    assert run["precision"] == "fp16" or device == "cpu"
    assert (run["efficiency"]["max_gpu_mib"] is None) == (device == "cpu")
    assert unlike(cpus_labels, viscera.read(tmp_path / "labels.nii.gz")) < MOST_UNLIKE


# --- memory


@pytest.mark.cuda
def test_a_gpu_whose_memory_runs_out_takes_smaller_windows_with_a_word(tmp_path):
    """A window of 128 has levels of 128 MiB, of which two must lie there at once; one of 64 has levels of 16 MiB."""
    recipe = replace(
        PLAIN,
        network=PlainUNetShape(widths=(32, 64)),
        sampling=PatchSampling(size=(128, 128, 128)),
        inference=WindowInference(region="whole"),
    )
    torch.manual_seed(0)
    network = build_network(recipe.network, classes=5)
    save_weights(tmp_path / "wide.safetensors", Weights(recipe, recipe.space, network.state_dict(), {}))
    scan, _ = grey_blocks((16, 16, 16))
    model = viscera.load_model(tmp_path / "wide.safetensors", device="cuda")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 240 * 2**20) / total)
    try:
        with pytest.warns(UserWarning, match="windows of 64x64x64 voxels are used from here on"):
            labels = viscera.segment(scan, model, organs="all")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert labels.shape == scan.shape


def filled() -> list[torch.Tensor]:
    """Return tensors that take what torch has reserved of a GPU and not used, down to the last KiB."""
    held = []
    for size in (2**19, 2**16, 2**13, 2**10, 2**9):
        with contextlib.suppress(torch.OutOfMemoryError):
            while True:
                held.append(torch.zeros(size, dtype=torch.uint8, device="cuda"))
    return held


@pytest.mark.cuda
def test_a_gpu_on_which_no_window_fits_is_said_with_what_to_do(taught):
    scan, _ = grey_blocks((16, 16, 16))
    model = viscera.load_model(taught["plain3d"], device="cuda")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
    held = []
    try:
        held = filled()
        with (
            pytest.raises(viscera.VisceraError, match=r"the GPU's memory does not suffice.*--device cpu"),
            warnings.catch_warnings(action="ignore"),
        ):
            viscera.segment(scan, model, organs="all")
    finally:
        held.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


# --- no GPU

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_gpu
def test_a_gpu_that_is_not_there_is_refused_in_python():
    with pytest.raises(
        viscera.VisceraError, match=r"torch finds no CUDA GPU. Choose cpu or auto, or install torch for"
    ):
        viscera.load_model("starter", device="cuda")


@without_gpu
def test_a_gpu_that_is_not_there_is_refused_by_the_command(abdomen, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    viscera.write(tmp_path / "scan.nii.gz", abdomen)
    code, said = call(f"predict {tmp_path}/scan.nii.gz {tmp_path}/labels.nii.gz --device cuda")
    assert code == 2
    assert "torch finds no CUDA GPU" in said
    assert not (tmp_path / "labels.nii.gz").exists()
