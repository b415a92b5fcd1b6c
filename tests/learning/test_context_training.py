"""Context and slices are learnt one after the other, end in one file, and go on where they were killed."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from makers import same, tensors
from viscera.config import (
    Context,
    Machine,
    PartialLoss,
    PatchSampling,
    PlainUNetShape,
    Recipe,
    ResizedSlices,
    RichAugmentation,
    SliceAugmentation,
    SliceSampling,
    SpacedSlices,
    Training,
    UNetShape,
)
from viscera.errors import RunError, SettingError, WeightsError
from viscera.inference.context import DEPTH, see_scan
from viscera.inference.model import load_model
from viscera.inference.segment import segment
from viscera.labels import ABDOMENCT1K
from viscera.learning.context import FEW_SLICES, FOLDER, ContextMaps, context_recipe, seen_depth
from viscera.learning.finetune import start_from
from viscera.learning.sampling.index import open_training, read_batch
from viscera.learning.setup import begin, scaled
from viscera.learning.training import Watch, train
from viscera.networks.build import network_of
from viscera.networks.torch_runner import TorchRunner
from viscera.networks.weights import Weights, as_context, context_of, load_weights, save_weights, without_context
from viscera.preparation.image import prepare_image
from viscera.preparation.store import Case, Facts, SourceFacts, Store, create_store, open_store, write_case
from viscera.volume import Volume

EPOCH = Training(epochs=1, visits_per_slice=2, batch_size=2, learning_rate=2e-2, average_decay=0.9, precision="32-true")
CONTEXT = Context(
    network=PlainUNetShape(widths=(4, 8), deep_supervision=False, norm="batch"),
    sampling=PatchSampling(size=(8, 16, 16)),
    training=EPOCH,
    dropout=0.25,
)
RECIPE = Recipe(
    name="tiny25d",
    label_space="abdomenct1k",
    preparation=SpacedSlices(spacing_mm=2.5, margin_mm=0),
    network=UNetShape(widths=(4, 8), slices=3, stem=2),
    context=CONTEXT,
    loss=PartialLoss(alpha=1.0),
    sampling=SliceSampling(window=(32, 32)),
    augmentation=RichAugmentation(),
    training=replace(EPOCH, batch_size=8, visits_per_slice=1),
)


def patient(number: int) -> tuple[Volume, np.ndarray]:
    """Return a scan of a liver on the right and a spleen on the left that look the same, and their labels."""
    generator = np.random.default_rng(number)
    hu = generator.normal(0, 20, (12, 48, 64)).astype(np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    low = int(generator.integers(2, 4))
    labels[low : low + 7, 12:30, 8:26], labels[low : low + 7, 12:30, 38:56] = 1, 3
    hu[labels > 0] += 200
    return Volume(hu, np.array([[0, 0, -2.5, 0], [0, -2.5, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1.0]])), labels


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    made = create_store(tmp_path_factory.mktemp("spaced"), space=ABDOMENCT1K, preparation=RECIPE.preparation)
    splits = {}
    for number, split in enumerate(("training", "training", "training", "validation", "test")):
        volume, labels = patient(number)
        image, geometry = prepare_image(volume, RECIPE.preparation)
        name, annotated = f"a__{number}", ABDOMENCT1K.organs
        case = Case(
            name, "a", str(number), image, labels[:, : image.shape[1], : image.shape[2]], None, annotated, geometry
        )
        source = SourceFacts("x", (), "", (), (), (), annotated, ())
        voxels = dict.fromkeys(ABDOMENCT1K.classes, 1)
        write_case(
            made.path, case, Facts(name, "a", str(number), annotated, (), source, geometry, f"{number}", {}, voxels)
        )
        splits[name] = split
    (made.path / "splits.json").write_text(json.dumps({"cases": splits}))
    return made.path


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run") / "whole"
    train(RECIPE, open_store(store), run)
    return run


def test_one_file_holds_both_networks(finished):
    weights = load_weights(finished / "best.safetensors")
    context = load_weights(finished / FOLDER / "best.safetensors")
    assert same(context_of(weights.tensors), dict(context.tensors))
    assert context.recipe == context_recipe(RECIPE)
    assert without_context(weights.tensors)["stem.known.weight"].shape[1] == len(ABDOMENCT1K.organs)
    model = load_model(finished / "best.safetensors", accelerator="cpu", runtime=None)
    assert model.context is not None
    found = segment(patient(4)[0], model)
    assert found.shape == (12, 48, 64)


def test_runs_of_the_context_are_runs(finished):
    model = load_model(finished / FOLDER, accelerator="cpu", runtime=None)
    assert model.context is None
    assert model.recipe.dimensions == 3
    assert segment(patient(4)[0], model).shape == (12, 48, 64)


def test_the_same_seed_gives_the_same_and_a_killed_run_goes_on(store, finished, tmp_path):
    class KilledError(Exception):
        pass

    def kill(stage):
        seen = []

        def step(epoch: int, done: int, steps: int) -> None:
            seen.append(steps)
            if len(set(seen)) == stage and done == 1:  # stages have different numbers of steps
                raise KilledError

        return Watch(step=step)

    for stage in (1, 2):
        with pytest.raises(KilledError):
            train(
                RECIPE, open_store(store), tmp_path / "run", existing="resume", watch=kill(stage),
                machine=Machine(save_every_s=0),
            )  # fmt: skip
    train(RECIPE, open_store(store), tmp_path / "run", existing="resume")
    assert same(tensors(tmp_path / "run"), tensors(finished))
    train(RECIPE, open_store(store), tmp_path / "run", existing="overwrite")
    assert same(tensors(tmp_path / "run"), tensors(finished))


def test_a_context_that_is_given_stays_as_it_is(store, finished, tmp_path):
    for given in (finished, finished / FOLDER):
        run = tmp_path / given.name
        train(replace(RECIPE, training=replace(RECIPE.training, seed=1)), open_store(store), run, context=given)
        assert same(context_of(tensors(run)), context_of(tensors(finished, "best")))
        assert not (run / FOLDER / "store").exists()


def test_a_run_never_goes_on_with_another_context(store, finished, tmp_path):
    class KilledError(Exception):
        pass

    def kill(epoch: int, done: int, steps: int) -> None:
        if done == 2:
            raise KilledError

    run, other = tmp_path / "run", tmp_path / "other"
    with pytest.raises(KilledError):
        train(
            RECIPE, open_store(store), run, context=finished, watch=Watch(step=kill), machine=Machine(save_every_s=0)
        )  # fmt: skip
    seeded = replace(CONTEXT, training=replace(EPOCH, seed=5))
    train(replace(RECIPE, training=replace(RECIPE.training, seed=5), context=seeded), open_store(store), other)
    with pytest.raises(RunError, match="was begun with a context network that was given"):
        train(RECIPE, open_store(store), run, existing="resume")
    with pytest.raises(RunError, match="was begun with another context network"):
        train(RECIPE, open_store(store), run, existing="resume", context=other)
    train(RECIPE, open_store(store), run, existing="resume", context=finished)
    assert same(tensors(run), tensors(finished))


def test_fine_tuning_begins_with_both_networks(store, finished, tmp_path):
    still = replace(EPOCH, learning_rate=1e-12, average_decay=0.0, weight_decay=0.0)
    recipe = replace(RECIPE, training=still, context=replace(CONTEXT, training=still))
    train(recipe, open_store(store), tmp_path / "run", start=finished)
    before, after = tensors(finished, "best"), tensors(tmp_path / "run")
    for name in ("stem.seen.weight", "head.weight", "context.heads.0.weight", "context.down.0.0.weight"):
        assert torch.allclose(before[name], after[name], atol=1e-6), name


def test_organs_that_both_know_keep_their_channels(store, finished):
    recipe = replace(RECIPE, label_space="flare13")
    made = Store(store, recipe.space, recipe.preparation, open_store(store).splits)
    with pytest.warns(UserWarning, match="no training case annotates"):
        network = begin(recipe, made, Machine("cpu"), start=finished).network.module
    old = tensors(finished, "best")
    there, here = ABDOMENCT1K.index("spleen"), recipe.space.index("spleen")
    assert torch.equal(network.head.weight[:, here], old["head.weight"][:, there])
    assert torch.equal(network.stem.known.weight[:, here - 1], old["stem.known.weight"][:, there - 1])


def test_windows_get_their_own_part_of_the_context(store, tmp_path):
    class Shown(torch.nn.Module):
        """Says liver as much as the HU are high."""

        stride, dimensions = 2, 3

        def forward(self, image):
            logits = torch.full((1, 5, *image.shape[2:]), -30.0)
            logits[:, 0], logits[:, 1] = 0, torch.logit(image[:, 0].clip(1e-6, 1 - 1e-6))
            return logits

    opened = open_store(store)
    cases = [opened.case(name) for name in opened.names("training")]
    maps = ContextMaps(tmp_path / "seen", RECIPE, TorchRunner(Shown()))
    index = open_training(cases, RECIPE.sampling, reach=1, maps=maps)
    places = np.array([[0.0, 0.0], [0.99, 0.99], [0.37, 0.71]])
    batch = scaled(read_batch(index, np.array([3, 17, 30]), space=ABDOMENCT1K, distance=None, places=places), RECIPE)
    assert batch.image.shape == (3, 3 + 4, 32, 32)
    seen = torch.nn.functional.avg_pool2d(batch.image[:, :3], 2).mean(1)
    known = batch.image[:, 3, ::2, ::2]
    # Slices are 5 mm apart as coarse ones are, so that both are the same but for the neighbours' noise.
    assert torch.corrcoef(torch.stack([seen.ravel(), known.ravel()]))[0, 1] > 0.98
    shifted = torch.corrcoef(torch.stack([seen[:, 1:, 1:].ravel(), known[:, :-1, :-1].ravel()]))[0, 1]
    assert shifted < 0.95
    again, depth = maps.of(cases[0]), seen_depth(cases[0].name)
    assert np.array_equal(
        again.organs,
        see_scan(cases[0].image, cases[0].geometry, runner=maps.runner, recipe=RECIPE, depth=depth).organs,
    )


def test_of_some_cases_few_slices_are_seen_at_once():
    depths = Counter(seen_depth(f"case_{number}") for number in range(2000))
    assert abs(depths[DEPTH] / 2000 - 0.7) < 0.05
    assert set(depths) == {DEPTH, *FEW_SLICES}
    assert seen_depth("case_7") == seen_depth("case_7")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"preparation": ResizedSlices(size=(32, 32))}, "context goes with preparation 'spaced'"),
        ({"context": replace(CONTEXT, sampling=PatchSampling(size=(9, 16, 16)))}, "multiples of 2"),
        ({"augmentation": SliceAugmentation()}, "augmentation 'slice' knows no context"),
    ],
)
def test_what_gives_no_context_is_refused_before_work_begins(store, tmp_path, change, reason):
    recipe = replace(RECIPE, **change)
    made = Store(store, recipe.space, recipe.preparation, open_store(store).splits)
    with pytest.raises(SettingError, match=reason):
        train(recipe, made, tmp_path / "run")
    assert not (tmp_path / "run" / FOLDER).exists()


def test_weights_without_context_are_refused(store, finished, tmp_path):
    plain = replace(RECIPE, context=None)
    train(plain, open_store(store), tmp_path / "plain")
    with pytest.raises(WeightsError, match="no context network"):
        train(RECIPE, open_store(store), tmp_path / "run", context=tmp_path / "plain")
    with pytest.raises(SettingError, match="has no context"):
        train(plain, open_store(store), tmp_path / "other", context=finished)


@pytest.mark.parametrize("stem", [1, 2])
def test_a_network_with_context_begins_as_the_one_without_that_it_starts_from(tmp_path, stem):
    alone = replace(RECIPE, context=None, network=replace(RECIPE.network, stem=stem))
    torch.manual_seed(0)
    known = network_of(alone).eval()
    save_weights(tmp_path / "alone.safetensors", Weights(alone, alone.space, known.state_dict(), {}))
    recipe = replace(alone, context=CONTEXT)
    network = network_of(recipe).eval()
    start_from(network, recipe, tmp_path / "alone.safetensors")
    image = torch.rand(2, recipe.channels, 16, 16)
    with torch.no_grad():
        assert torch.allclose(network(image), known(image[:, 0:3]), atol=1e-5)
    fewer = replace(recipe, network=replace(recipe.network, slices=1))
    with pytest.raises(WeightsError):
        start_from(network_of(fewer), fewer, tmp_path / "alone.safetensors")


@pytest.mark.parametrize("stem", [1, 2])
def test_what_the_context_says_of_an_organ_keeps_its_channel_in_another_label_space(tmp_path, stem):
    old = replace(RECIPE, network=replace(RECIPE.network, stem=stem))
    new = replace(old, label_space="flare13")
    torch.manual_seed(0)
    known, network = network_of(old), network_of(new)
    save_weights(tmp_path / "old.safetensors", Weights(old, old.space, known.state_dict() | as_context({}), {}))
    start_from(network, new, tmp_path / "old.safetensors")
    name, first = ("stem.known.weight", 0) if stem > 1 else ("down.0.0.weight", 3)
    before, after = known.state_dict()[name], network.state_dict()[name]
    assert torch.equal(before[:, 0:first], after[:, 0:first])
    shared = set(old.space.organs) & set(new.space.organs)
    assert shared
    for organ in shared:
        there, here = first + old.space.organs.index(organ), first + new.space.organs.index(organ)
        assert torch.equal(after[:, here], before[:, there]), organ
