"""Training on each device: precisions, checkpointing, determinism, going on, one device of Fabric, memory that runs out.

The CPU's variants show that these tests are right; those of a GPU run where there is one (pytest -m cuda).
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from makers import PARTIAL_RECIPE, rows, same, tensors
from viscera.config import (
    AttentionUNetShape,
    Machine,
    PartialLoss,
    PatchSampling,
    PlainUNetShape,
    RawHU,
    Recipe,
    RichAugmentation,
    ScannerGrid,
    SigmoidLoss,
    SliceAugmentation,
    Softmax,
    Training,
    UNetShape,
    UpvShape,
    VolumeAugmentation,
    Window,
    WindowInference,
)
from viscera.errors import RunError, SettingError
from viscera.io.atomic import write_json
from viscera.labels import ABDOMENCT1K
from viscera.learning.losses import loss_for
from viscera.learning.sampling.batch import Batch
from viscera.learning.training import Watch, train
from viscera.networks.build import build_network
from viscera.preparation.store import Facts, SourceFacts, create_store, open_store, write_case
from viscera.recipes.catalogue import RECIPES

PLAN = Training(epochs=1, visits_per_slice=6, batch_size=2, learning_rate=1e-2)
SLICES = replace(PARTIAL_RECIPE, training=replace(PARTIAL_RECIPE.training, visits_per_slice=2))
VOLUMES = Recipe(
    name="tiny3d",
    label_space="abdomenct1k",
    preparation=ScannerGrid(),
    intensity=Window(-200, 300),
    network=PlainUNetShape(widths=(4, 8, 8)),
    loss=PartialLoss(unannotated="marginal", exclusion=0.0, dice=1.0, dice_form="linear", alpha=0.0),
    sampling=PatchSampling(size=(8, 16, 16)),
    augmentation=VolumeAugmentation(),
    training=PLAN,
    inference=WindowInference(),
)
NETWORKS = {
    "unet": UNetShape(widths=(4, 8)),
    "upv": UpvShape(depth=4, width=2),
    "plain3d": PlainUNetShape(widths=(4, 8)),
    "attention3d": AttentionUNetShape(widths=(4, 8)),
}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory, make_case) -> Path:
    """Return a store of two scans whose liver is bright."""
    folder = tmp_path_factory.mktemp("cuda_volumes")
    create_store(folder, space=ABDOMENCT1K, preparation=ScannerGrid())
    sides = {"a__a": "training", "a__b": "validation"}
    for number, name in enumerate(sides):
        labels = np.zeros((12, 20, 20), np.uint8)
        labels[2:9, 3:11, 2 + number : 9] = 1
        image = (180 * labels - 100 + np.random.default_rng(number).normal(0, 20, labels.shape)).astype(np.int16)
        case = make_case(name, annotated=ABDOMENCT1K.organs, labels=labels, image=image)
        source = SourceFacts(f"{name}.nii.gz", (), "", (), (), (), ABDOMENCT1K.organs, ())
        counts = dict(zip(ABDOMENCT1K.classes, np.bincount(labels.ravel(), minlength=5).tolist(), strict=True))
        write_case(
            folder, case, Facts(name, "a", case.patient, ABDOMENCT1K.organs, (), source, case.geometry, "", {}, counts)
        )
    write_json(folder / "splits.json", {"seed": 0, "fractions": {}, "cases": sides})
    return folder


def trained(recipe: Recipe, store: Path, run: Path, device: str, **more) -> Path:
    train(recipe, open_store(store), run, machine=Machine(accelerator=device, devices=1, save_every_s=0), **more)  # type: ignore[arg-type]
    return run


def in_precision(recipe: Recipe, precision: str, **settings) -> Recipe:
    return replace(recipe, training=replace(recipe.training, precision=precision, **settings))


def require_sound(run: Path) -> None:
    """Every loss is finite, and what is kept is float32 and finite."""
    assert all(np.isfinite([row["train_loss"], row["val_loss"]]).all() for row in rows(run))
    kept = [tensor for tensor in tensors(run).values() if tensor.is_floating_point()]
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in kept)


# --- precisions and networks

HALF = [
    ("cpu", "bf16-mixed"),
    *[pytest.param("cuda", precision, marks=pytest.mark.cuda) for precision in ("16-mixed", "bf16-mixed", "32-true")],
]


@pytest.mark.parametrize(("where", "precision"), HALF)
def test_slices_are_learnt_in_half_precision(small_store, tmp_path, where, precision):
    run = trained(in_precision(SLICES, precision, epochs=3), small_store, tmp_path / "run", where)
    require_sound(run)
    assert rows(run)[-1]["train_loss"] < 0.9 * rows(run)[0]["train_loss"]


@pytest.mark.parametrize(("where", "precision"), HALF)
@pytest.mark.parametrize("network", [NETWORKS["plain3d"], NETWORKS["attention3d"]], ids=["plain3d", "attention3d"])
def test_patches_are_learnt_in_half_precision(volumes, tmp_path, where, precision, network):
    softmax = Softmax(iterations=1 if network.kind == "attention3d" else 0)
    recipe = replace(in_precision(VOLUMES, precision), network=network, softmax=softmax, intensity=RawHU())
    require_sound(trained(recipe, volumes, tmp_path / "run", where))


@pytest.mark.parametrize("augmentation", [SliceAugmentation(quarter_turns=True), RichAugmentation(probability=1.0)])
def test_augmented_slices_seen_with_their_neighbours_are_learnt_with_an_average(
    small_store, tmp_path, device, augmentation
):
    recipe = replace(
        in_precision(SLICES, "auto", average_decay=0.9, accumulate=2, epochs=1),
        network=UNetShape(widths=(4, 8), slices=3),
        augmentation=augmentation,
    )
    require_sound(trained(recipe, small_store, tmp_path / "run", device))


# --- checkpointing


@pytest.mark.parametrize("kind", ["unet", "plain3d"])
def test_checkpointing_changes_memory_and_not_what_is_learnt(small_store, volumes, tmp_path, device, kind):
    base, store = (SLICES, small_store) if kind == "unet" else (VOLUMES, volumes)
    base = in_precision(base, "32-true", epochs=1)
    found = []
    for wanted in (False, True):
        recipe = replace(base, network=replace(NETWORKS[kind], checkpointing=wanted))
        found.append(tensors(trained(recipe, store, tmp_path / f"{kind}{wanted}", device)))
    # Of a GPU: kernels whose sums have another order at each call, and TF32.
    tolerance = 1e-5 if device == "cpu" else 2e-2
    assert all(torch.allclose(found[0][key], found[1][key], atol=tolerance) for key in found[0])


@pytest.mark.cuda
def test_checkpointing_takes_less_of_a_gpu():
    """The finest level of a large slice is most of what a plain pass keeps."""
    peaks = []
    for wanted in (False, True):
        network = build_network(UNetShape(widths=(16, 32, 64), checkpointing=wanted), classes=4).cuda().train()
        image = torch.rand(4, 1, 256, 256, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        network(image).square().mean().backward()  # type: ignore[union-attr]
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 0.8 * peaks[0]


# --- the same result again


@pytest.mark.parametrize("kind", ["unet", "plain3d"])
def test_a_seed_gives_the_same_weights_and_so_does_a_run_that_was_stopped(small_store, volumes, tmp_path, device, kind):
    class StoppedError(Exception):
        """Stands for a kill."""

    def stop(epoch: int, step: int, steps: int) -> None:
        if (epoch, step) == (1, 2):
            raise StoppedError

    base, store = (SLICES, small_store) if kind == "unet" else (VOLUMES, volumes)
    recipe = replace(in_precision(base, "auto", deterministic=True, epochs=1), network=NETWORKS[kind])
    if kind == "unet":
        recipe = replace(recipe, augmentation=RichAugmentation(probability=1.0))
    try:
        first, second = (trained(recipe, store, tmp_path / name, device) for name in ("first", "second"))
        with pytest.raises(StoppedError):
            trained(recipe, store, tmp_path / "third", device, watch=Watch(step=stop))
        third = trained(recipe, store, tmp_path / "third", device, existing="resume")
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert same(tensors(first), tensors(second))
    assert same(tensors(first), tensors(third))
    assert rows(first) == rows(third)


@pytest.mark.cuda
def test_a_network_without_deterministic_gradients_on_a_gpu_is_refused_with_a_reason(volumes, tmp_path):
    recipe = replace(in_precision(VOLUMES, "auto", deterministic=True), network=NETWORKS["attention3d"])
    try:
        with pytest.raises(RunError, match="attention3d cannot be trained deterministically on cuda"):
            trained(recipe, volumes, tmp_path / "run", "cuda")
    finally:
        torch.use_deterministic_algorithms(mode=False)


# --- what a run says, and what it refuses


def test_a_run_says_where_it_was_trained_and_in_what_precision(small_store, tmp_path, device):
    run = trained(in_precision(SLICES, "auto", epochs=1), small_store, tmp_path / "run", device)
    said = json.loads((run / "run.json").read_text())
    assert said["device"].partition(":")[0] == device
    assert said["precision"] in ({"cuda": ("16-mixed",), "cpu": ("bf16-mixed", "32-true")}[device])


@pytest.mark.cuda
def test_a_gpu_whose_memory_runs_out_while_training_says_what_to_do(small_store, tmp_path):
    # Some 15 levels of 64 slices x 64 channels x 16 x 16 pixels, 4 MiB each; network and optimizer take 2 MiB.
    recipe = in_precision(SLICES, "32-true", batch_size=64, visits_per_slice=8)
    recipe = replace(recipe, network=UNetShape(widths=(64, 64)))
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 24 * 2**20) / total)
    try:
        with pytest.raises(RunError, match=r"the cuda ran out of memory at batch_size 64.*Halve --training.batch-size"):
            trained(recipe, small_store, tmp_path / "run", "cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_training_on_a_gpu_that_is_not_there_is_refused(small_store, tmp_path):
    with pytest.raises(SettingError, match=r"torch finds no CUDA GPU.*Choose cpu or auto"):
        trained(SLICES, small_store, tmp_path / "run", "cuda")
    assert not (tmp_path / "run").exists()


# --- parts: what they compute on a device is what they compute on the CPU


def some_batch(*space: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (2, *space), generator=generator, dtype=torch.uint8)
    annotated = torch.tensor([[True] * 5, [True, True, False, False, True]])
    return Batch(
        image=torch.rand((2, 1, *space), generator=generator),
        labels=torch.where(annotated[:, 1:].sum(1).reshape(-1, *[1] * len(space)) == 4, labels, labels.clamp(max=1)),
        known=torch.rand(labels.shape, generator=generator) < 0.9,
        distance=torch.rand(labels.shape, generator=generator) * 9,
        annotated=annotated,
        pseudo=torch.full_like(labels, 2).where(~annotated[:, 2].reshape(-1, *[1] * len(space)), 0),
        pseudo_annotated=~annotated & (torch.arange(5) == 2),
    )


LOSSES = {
    "zhang2d": RECIPES["zhang2d"].loss,
    "zhang2d-paper": RECIPES["zhang2d-paper"].loss,
    "viscera2d": RECIPES["viscera2d"].loss,
    "gao2step": RECIPES["gao2step"].loss,
    "pseudo-labels": replace(RECIPES["viscera2d"].loss, pseudo=0.5),
    "sigmoid": SigmoidLoss(),
}


@pytest.mark.parametrize("space", [(16, 16), (8, 8, 8)], ids=["2D", "3D"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_are_those_of_the_cpu(device, name, space):
    batch, weights = some_batch(*space), torch.tensor([0.5, 1.0, 2.0, 1.0, 1.5])
    sides = [side // 2 for side in space]
    fine, coarse = (torch.randn((2, 5, *side), generator=torch.Generator().manual_seed(1)) for side in (space, sides))
    found = []
    for where in ("cpu", device):
        outputs = [part.clone().to(where).requires_grad_() for part in (fine, coarse, coarse)]
        loss = loss_for(LOSSES[name], class_weights=weights.to(where), deep=True)
        value = loss(outputs, batch.to(torch.device(where)))
        value.backward()
        found.append((value.item(), outputs[0].grad.cpu()))  # type: ignore[union-attr]
    (value, gradient), (other, gradient_there) = found
    assert value == pytest.approx(other, rel=1e-4)
    assert gradient.abs().max() > 0
    assert torch.allclose(gradient, gradient_there, atol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_gives_the_cpus_logits(device, kind):
    torch.manual_seed(0)
    softmax = Softmax(iterations=2)
    network = build_network(NETWORKS[kind], classes=4, softmax=softmax).eval()
    sides = (32, 48) if network.dimensions == 2 else (8, 16, 16)
    image = torch.rand(1, 1, *sides, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        here = network(image)
        there = network.to(device)(image.to(device)).cpu()
    assert torch.allclose(here, there, atol=2e-2 * float(here.abs().max()))  # TF32 keeps 10 bits
