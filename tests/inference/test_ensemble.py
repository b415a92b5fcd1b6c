"""Ensembles: what comes out is the mean of the members' probabilities, computed here by torch; who may not be a member."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from makers import painted_scan
from viscera.config import (
    Context,
    PatchSampling,
    PlainUNetShape,
    Postprocessing,
    Recipe,
    ResizedSlices,
    SigmoidLoss,
    SliceInference,
    SpacedSlices,
    SpacedVolumes,
    UNetShape,
    VolumeAugmentation,
    Window,
    WindowInference,
)
from viscera.errors import SettingError, WeightsError
from viscera.inference.ensemble import disagreement, joined_sha256, mean_model
from viscera.inference.jobs import ScanJob
from viscera.inference.memory import look_at, needed_mib
from viscera.inference.model import load_model
from viscera.inference.predict import predict_file
from viscera.inference.prepared import prepared_labels
from viscera.inference.segment import prepare_scan, segment
from viscera.inference.slices import context_of, slice_inputs, slice_logits
from viscera.inference.volumes import read_logits
from viscera.io import nifti
from viscera.io.atomic import sha256, write_json
from viscera.labels import ABDOMENCT1K
from viscera.networks.build import context_network, network_of
from viscera.networks.find_weights import find_weights, known_organs
from viscera.networks.mean_runner import mean_logits
from viscera.networks.members import chosen_members, find_members, one_fold
from viscera.networks.weights import Weights, as_context, save_weights
from viscera.preparation.image import prepare_image

SLICES = Recipe(
    name="slices",
    label_space="abdomenct1k",
    preparation=ResizedSlices(size=(16, 16)),
    intensity=Window(-400, 400),
    network=UNetShape(widths=(4, 8), slices=3),
    inference=SliceInference(batch_size=3, look_mm=6.0, step_mm=3.0),
)
VOLUMES = replace(
    SLICES,
    name="volumes",
    preparation=SpacedVolumes(spacing_mm=(3.0, 1.0, 1.0)),
    network=PlainUNetShape(widths=(4, 8), deep_supervision=False),
    sampling=PatchSampling(size=(8, 8, 8)),
    augmentation=VolumeAugmentation(),
    inference=WindowInference(region="whole"),
)
CONTEXT = replace(
    SLICES,
    name="context",
    preparation=SpacedSlices(spacing_mm=2.5, margin_mm=0),
    network=UNetShape(widths=(4, 8), stem=2),
    context=Context(network=PlainUNetShape(widths=(4, 8), norm="batch")),
)


def write_fold(folder: Path, recipe: Recipe, seed: int) -> Path:
    """Write random weights of a recipe, far enough from each other to disagree."""
    torch.manual_seed(seed)
    parts = [network_of(recipe)] + ([context_network(recipe)] if recipe.context else [])
    for network in parts:
        for parameter in network.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape)
    tensors = dict(parts[0].state_dict())
    if recipe.context:
        tensors |= as_context(parts[1].state_dict())
    save_weights(folder / "best.safetensors", Weights(recipe, recipe.space, tensors, {"epoch": 1}))
    return folder


def write_run(run: Path, recipes: list[Recipe]) -> Path:
    for number, recipe in enumerate(recipes):
        write_fold(run / f"fold_{number}", recipe, seed=number)
    write_json(run / "folds.json", {"count": len(recipes), "cases": {f"a__{n}": n for n in range(len(recipes))}})
    return run


def random_scan(depth=12):
    scan = painted_scan({1: range(2, 9)}, depth=depth)
    noise = np.random.default_rng(0).integers(-300, 300, scan.voxels.shape)
    return replace(scan, voxels=(scan.voxels * 0.2 + noise).astype(np.int16))


def mean_of(parts: list[np.ndarray]) -> np.ndarray:
    """Return the mean of the softmaxes of logits (slice, class, rows, columns), in float64 by torch."""
    return torch.stack([torch.from_numpy(one).double().softmax(1) for one in parts]).mean(0).numpy()


@pytest.mark.parametrize("runtime", ["torch", "openvino", None])
def test_slices_of_an_ensemble_have_the_mean_of_the_members_probabilities(tmp_path, runtime):
    run = write_run(tmp_path / "run", [SLICES] * 3)
    image, _ = prepare_image(random_scan(), SLICES.preparation)
    found = load_model(run, accelerator="cpu", runtime=runtime)
    logits = slice_logits(image, found, range(12))
    modules = [load_model(run / f"fold_{n}", accelerator="cpu").module for n in range(3)]
    with torch.inference_mode():
        seen = torch.from_numpy(slice_inputs(image, found, range(12)))
        each = [module(seen).float().numpy() for module in modules]
    expected = mean_of(each)
    tolerance = 1e-4 if found.network.precision == "fp32" else 0.05
    assert np.abs(np.exp(logits) - expected).max() < tolerance
    assert np.abs(np.exp(logits).sum(1) - 1).max() < 1e-5
    assert np.abs(mean_of(each[:1]) - expected).max() > 0.1  # so that the test can fail


def test_labels_of_an_ensemble_are_those_of_the_mean(tmp_path):
    run = write_run(tmp_path / "run", [SLICES] * 3)
    recipe = replace(SLICES, inference=SliceInference(batch_size=5))
    image, geometry = prepare_image(random_scan(), recipe.preparation)
    parts = [slice_logits(image, load_model(run / f"fold_{n}", accelerator="cpu"), range(12)) for n in range(3)]
    expected = mean_of(parts)
    labels = prepared_labels(image, load_model(run, accelerator="cpu"), geometry)
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 1e-5
    assert np.array_equal(labels[clear], expected.argmax(1)[clear])
    assert clear.mean() > 0.99
    assert len(np.unique(labels)) > 2


def test_windows_of_an_ensemble_have_the_mean_of_the_members_probabilities(tmp_path):
    """Windows as large as the scan: nothing is averaged but the members."""
    recipe = replace(VOLUMES, sampling=PatchSampling(size=(16, 16, 16)))
    run = write_run(tmp_path / "run", [recipe] * 2)
    image = np.random.default_rng(0).integers(-300, 300, (16, 16, 16)).astype(np.int16)
    parts = [
        read_logits(image, load_model(where, accelerator="cpu", runtime="torch"))(range(16))
        for where in (run, run / "fold_0", run / "fold_1")
    ]
    assert np.abs(mean_of(parts[:1]) - mean_of(parts[1:])).max() < 1e-4


def test_a_network_with_context_keeps_its_own_context_in_an_ensemble(tmp_path):
    run = write_run(tmp_path / "run", [CONTEXT] * 3)
    image, geometry = prepare_image(random_scan(20), CONTEXT.preparation)
    found = load_model(run, accelerator="cpu", runtime="torch")
    members = [load_model(run / f"fold_{n}", accelerator="cpu", runtime="torch") for n in range(3)]
    parts = [slice_logits(image, one, range(20), context=context_of(image, geometry, one)) for one in members]
    logits = slice_logits(image, found, range(20), context=context_of(image, geometry, found))
    assert np.abs(np.exp(logits) - mean_of(parts)).max() < 1e-4
    swapped = slice_logits(image, members[0], range(20), context=context_of(image, geometry, members[1]))
    assert np.abs(swapped - parts[0]).max() > 1e-3  # the context matters
    assert segment(random_scan(20), found).shape == random_scan(20).shape


def test_the_mean_of_sigmoids_is_that_of_each_class(tmp_path):
    recipe = replace(SLICES, network=UNetShape(widths=(4, 8), heads="sigmoid"), loss=SigmoidLoss())
    run = write_run(tmp_path / "run", [recipe] * 2)
    image, _ = prepare_image(random_scan(), recipe.preparation)
    logits = slice_logits(image, load_model(run, accelerator="cpu"), range(4))
    parts = [slice_logits(image, load_model(run / f"fold_{n}", accelerator="cpu"), range(4)) for n in range(2)]
    expected = np.mean([1 / (1 + np.exp(-one.astype(np.float64))) for one in parts], axis=0)
    assert np.abs(1 / (1 + np.exp(-logits.astype(np.float64))) - expected).max() < 1e-5


@pytest.mark.parametrize("heads", ["softmax", "sigmoid"])
def test_far_from_certain_or_not_logits_stay_finite_and_one_network_keeps_its_own(heads):
    logits = np.random.default_rng(0).normal(0, 300, (2, 4, 3, 5000)).astype(np.float32)
    found = mean_logits([logits, -logits], heads=heads)
    assert np.isfinite(found).all()
    alone = mean_logits([logits], heads=heads)
    expected = torch.from_numpy(logits).log_softmax(1).numpy() if heads == "softmax" else logits
    assert np.allclose(alone, expected, rtol=1e-5, atol=1e-3)
    torch_found = mean_logits([torch.from_numpy(logits), torch.from_numpy(-logits)], heads=heads).numpy()  # as on a GPU
    near = np.abs(torch_found) < 60
    assert np.allclose(found[near], torch_found[near], rtol=1e-4, atol=1e-3)
    assert np.abs(found - torch_found).max() < 1.5  # beyond float32's reach: the largest member, less log 2


def test_one_fold_is_that_fold(tmp_path):
    run = write_run(tmp_path / "run", [SLICES] * 2)
    scan = random_scan()
    one = segment(scan, load_model(one_fold(run, 1), accelerator="cpu"))
    assert np.array_equal(one.voxels, segment(scan, load_model(run / "fold_1", accelerator="cpu")).voxels)
    assert not np.array_equal(one.voxels, segment(scan, load_model(run, accelerator="cpu")).voxels)
    with pytest.raises(SettingError, match="--fold 2: .* has the folds 0 to 1"):
        one_fold(run, 2)
    with pytest.raises(SettingError, match="is not a cross-validated run"):
        one_fold(run / "fold_0", 0)


def test_the_result_names_all_weights(tmp_path):
    run = write_run(tmp_path / "run", [SLICES] * 2)
    nifti.write(tmp_path / "scan.nii.gz", random_scan())
    model = load_model(run, accelerator="cpu", runtime="torch")
    facts = predict_file(ScanJob(tmp_path / "scan.nii.gz", tmp_path / "labels.nii.gz"), model)["run"]
    hashes = [sha256(run / f"fold_{n}" / "best.safetensors") for n in range(2)]
    assert facts["members"] == [{"name": f"run/fold_{n}", "sha256": hashes[n]} for n in range(2)]
    assert facts["weights_sha256"] == joined_sha256(hashes) == model.weights_sha256
    assert model.calibration is None


DISAGREEING = {
    "preparation": (replace(SLICES, preparation=ResizedSlices(size=(32, 32))), "preparation.size"),
    "organs": (replace(SLICES, label_space="zhang12"), "label_space"),
    "slices": (replace(SLICES, network=UNetShape(widths=(4, 8))), "network.slices: 3 and 1"),
    "intensity": (replace(SLICES, intensity=Window(-200, 400)), "intensity.low_hu: -400.0 and -200.0"),
    "dimensions": (VOLUMES, "preparation"),
}


@pytest.mark.parametrize(("other", "named"), DISAGREEING.values(), ids=DISAGREEING.keys())
def test_networks_that_see_scans_otherwise_are_refused(tmp_path, other, named):
    run = write_run(tmp_path / "run", [SLICES, other])
    with pytest.raises(WeightsError, match=f"fold_0 and run/fold_1 cannot answer together: {named}"):
        load_model(run, accelerator="cpu", runtime="torch")


def test_networks_of_another_size_go_together(tmp_path):
    deeper = replace(SLICES, network=UNetShape(widths=(4, 8, 8), slices=3))
    assert disagreement(SLICES, deeper) == ""
    model = load_model(write_run(tmp_path / "run", [SLICES, deeper]), accelerator="cpu", runtime="torch")
    assert model.network.stride == 4
    assert segment(random_scan(), model).shape == (12, 16, 16)


def test_a_fold_without_weights_is_told(tmp_path):
    run = write_run(tmp_path / "run", [SLICES] * 2)
    (run / "fold_1" / "best.safetensors").unlink()
    with pytest.raises(WeightsError, match="fold_1 has no weights yet"):
        load_model(run, accelerator="cpu")
    with pytest.raises(WeightsError, match="is a cross-validated run, of several networks. Give one of them: .*fold_0"):
        find_weights(run)
    (run / "folds.json").write_text("{}")
    with pytest.raises(WeightsError, match="does not say how many folds"):
        load_model(run, accelerator="cpu")


def test_an_ensemble_is_not_one_network(tmp_path):
    with pytest.raises(SettingError, match="2 networks that answer together"):
        _ = load_model(write_run(tmp_path / "run", [SLICES] * 2), accelerator="cpu").module


def test_an_ensemble_needs_more_memory_than_one_of_its_networks(tmp_path):
    run = write_run(tmp_path / "run", [SLICES] * 2)
    nifti.write(tmp_path / "scan.nii.gz", random_scan())
    look = look_at(tmp_path / "scan.nii.gz")
    one, two = (
        needed_mib(look, load_model(where, accelerator="cpu", runtime="torch"), statistics=False).alone
        for where in (run / "fold_0", run)
    )
    assert two >= one


def write_choice(file: Path, files: list[Path], **more) -> Path:
    members = chosen_members([f"net{n}" for n in range(len(files))], files, beside=file)
    content = {"format": "viscera-choice-1", "members": [vars(member) for member in members], **more}
    write_json(file, content)
    return file


def test_a_choice_replaces_the_post_processing_and_follows_its_runs(tmp_path):
    recipe = replace(SLICES, postprocessing=Postprocessing(fill_holes=("liver",)))
    first = write_fold(tmp_path / "x" / "one", recipe, 0) / "best.safetensors"
    choice = write_choice(tmp_path / "x" / "c.json", [first], postprocessing={"largest_components": {"spleen": 1}})
    (tmp_path / "x").rename(tmp_path / "y")
    model = load_model(tmp_path / "y" / "c.json", accelerator="cpu", runtime="torch")
    assert model.recipe.postprocessing == Postprocessing(largest_components={"spleen": 1})
    assert model.members == ()  # one network is no ensemble
    assert known_organs(tmp_path / "y" / "c.json") == ABDOMENCT1K
    assert find_members(tmp_path / "y" / "one") is None
    assert choice.name == "c.json"


def test_a_choice_whose_weights_changed_or_are_gone_is_refused(tmp_path):
    file = write_fold(tmp_path / "one", SLICES, 0) / "best.safetensors"
    choice = write_choice(tmp_path / "c.json", [file])
    write_fold(tmp_path / "one", SLICES, 1)
    with pytest.raises(WeightsError, match="is not the network that c.json chose"):
        load_model(choice, accelerator="cpu")
    file.unlink()
    with pytest.raises(WeightsError, match="names one/best.safetensors, which is not there"):
        load_model(choice, accelerator="cpu")
    choice.write_text(json.dumps({"format": "viscera-choice-1", "members": []}))
    with pytest.raises(WeightsError, match="names no networks"):
        load_model(choice, accelerator="cpu")
    with pytest.raises(WeightsError, match="is a choice of networks"):
        find_weights(choice)


def test_the_mean_of_models_that_were_loaded_is_the_same(tmp_path):
    run = write_run(tmp_path / "run", [SLICES] * 2)
    models = [load_model(run / f"fold_{n}", accelerator="cpu", runtime="torch") for n in range(2)]
    found = mean_model(models, names=["a", "b"])
    assert found.weights_sha256 == load_model(run, accelerator="cpu", runtime="torch").weights_sha256
    assert prepare_scan(random_scan(), found).grid.shape == (12, 16, 16)
