"""The training loop in 3D, on patches of a store so small that it takes seconds."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from makers import rows, same, tensors
from viscera.config import (
    AttentionUNetShape,
    ForegroundScore,
    Intensity,
    Machine,
    PartialLoss,
    PatchSampling,
    PlainUNetShape,
    Preparation,
    Recipe,
    ScannerGrid,
    SliceInference,
    Softmax,
    SpacedVolumes,
    Training,
    UNetShape,
    UpvShape,
    VolumeAugmentation,
    Window,
    WindowInference,
)
from viscera.errors import RunError, SettingError, WeightsError
from viscera.inference.model import load_model, with_others, with_region
from viscera.inference.segment import segment
from viscera.inference.volumes import read_logits
from viscera.io.atomic import write_json
from viscera.labels import ABDOMENCT1K
from viscera.learning.foreground_hu import measure_foreground
from viscera.learning.losses import loss_for
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.index import draw_places, open_training, read_batch
from viscera.learning.sampling.reading import step_generator
from viscera.learning.schedule import learning_rate
from viscera.learning.setup import check_fit
from viscera.learning.training import Watch, train
from viscera.networks.torch_runner import TorchRunner
from viscera.networks.weights import load_weights
from viscera.preparation.store import Case, Facts, SourceFacts, create_store, open_store, write_case
from viscera.recipes.catalogue import RECIPES
from viscera.volume import Volume

AXIAL = np.array([[0, 0, -2.0, 0], [0, -2.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
CROSS_ENTROPY = PartialLoss(unannotated="marginal", exclusion=0.0, dice=0.0, alpha=0.0)
PLAN = Training(epochs=2, visits_per_slice=3, batch_size=2, learning_rate=5e-3, precision="32-true")
RECIPE = Recipe(
    name="tiny3d",
    label_space="abdomenct1k",
    preparation=ScannerGrid(),
    intensity=ForegroundScore(),
    network=PlainUNetShape(widths=(4, 8)),
    loss=PartialLoss(unannotated="marginal", exclusion=0.0, dice=1.0, dice_form="linear", alpha=0.0),
    sampling=PatchSampling(size=(8, 8, 8)),
    augmentation=VolumeAugmentation(),
    training=PLAN,
    inference=WindowInference(),
)
UNTOUCHED = VolumeAugmentation(flip_x=0, flip_y=0, smooth=0, noise=0, gamma=0, shift=0)
CT = Window(-200, 300)
LEARNER = replace(
    RECIPE,
    sampling=PatchSampling(size=(8, 16, 16), organs_alike=True),
    augmentation=UNTOUCHED,
    training=replace(PLAN, epochs=6, visits_per_slice=7, learning_rate=3e-2, schedule="cosine"),
)


def organs_of(patient: int) -> np.ndarray:
    """A liver (1) and a spleen (3) somewhere in 12 slices of 20x20 voxels."""
    labels = np.zeros((12, 20, 20), np.uint8)
    labels[2:9, 3:11, 2 + patient % 3 : 9] = 1
    labels[4:11, 9:16, 12 : 17 + patient % 2] = 3
    return labels


def write_patient(store: Path, make_case: Callable, name: str, *, annotated: tuple[str, ...], known: bool) -> None:
    """Write a case whose liver is bright, and whose spleen is brighter; the first slices may be unknown."""
    number = ord(name[-1])
    labels = organs_of(number)
    noise = np.random.default_rng(number).normal(0, 20, labels.shape)
    image = (np.choose(labels, [-100, 80, 0, 250]) + noise).astype(np.int16)
    seen = np.where(np.isin(labels, [0, *(ABDOMENCT1K.index(organ) for organ in annotated)]), labels, 0).astype(
        np.uint8
    )
    mask = None
    if not known:
        mask = np.ones(labels.shape, bool)
        mask[:4] = False
    case: Case = make_case(name, annotated=annotated, labels=seen, image=image, known=mask)
    counts = np.bincount(seen[mask] if mask is not None else seen.ravel(), minlength=5).tolist()
    source = SourceFacts(f"{name}.nii.gz", (), "", (), (), (), annotated, ())
    voxels = dict(zip(ABDOMENCT1K.classes, counts, strict=True))
    write_case(
        store, case, Facts(name, case.dataset, case.patient, annotated, (), source, case.geometry, "", {}, voxels)
    )


@pytest.fixture(scope="module")
def volumes(tmp_path_factory, make_case) -> Path:
    """Return a store of scans as they are: data set "a" annotates all organs, "b" the liver only."""
    folder = tmp_path_factory.mktemp("volumes")
    create_store(folder, space=ABDOMENCT1K, preparation=ScannerGrid())
    splits = {"a__a": "training", "a__b": "training", "b__c": "training", "a__d": "validation", "b__e": "test"}
    for name in splits:
        annotated = ABDOMENCT1K.organs if name[0] == "a" else ("liver",)
        write_patient(folder, make_case, name, annotated=annotated, known=name != "a__b")
    write_json(folder / "splits.json", {"seed": 0, "fractions": {}, "cases": splits})
    return folder


@pytest.fixture(scope="module")
def finished(volumes, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run") / "whole"
    train(RECIPE, open_store(volumes), run)
    return run


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# --- learning


@pytest.fixture(scope="module")
def learnt(volumes, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run") / "learnt"
    train(LEARNER, open_store(volumes), run)
    return run


def require_learnt(run: Path, store: Path) -> None:
    """The loss fell, and both organs are found in a whole scan whose data set annotates the liver only."""
    first, last = rows(run)[0], rows(run)[-1]
    assert last["train_loss"] < 0.6 * first["train_loss"]
    assert last["val_dice"]["liver"] > 0.8
    assert last["train_dice"]["spleen"] > 0.8
    case = open_store(store).case("b__e")
    found = segment(Volume(np.asarray(case.image), AXIAL), load_model(run)).voxels
    truth = organs_of(ord("e"))
    assert dice(found == 1, truth == 1) > 0.8
    assert dice(found == 3, truth == 3) > 0.8


def test_the_plain_network_learns_an_organ_that_half_of_the_cases_do_not_annotate(learnt, volumes):
    require_learnt(learnt, volumes)


def test_the_attention_network_with_the_regularised_softmax_does_too(volumes, tmp_path):
    recipe = replace(LEARNER, intensity=CT, network=AttentionUNetShape(widths=(4, 8)), softmax=Softmax(iterations=1))
    train(recipe, open_store(volumes), tmp_path / "run")
    require_learnt(tmp_path / "run", volumes)


def test_a_scan_smaller_than_a_patch_is_learnt_from_and_segmented(volumes, tmp_path):
    large = replace(LEARNER, sampling=PatchSampling(size=(16, 24, 24)), training=replace(PLAN, epochs=1))
    train(large, open_store(volumes), tmp_path / "run")
    one = Volume(np.asarray(open_store(volumes).case("b__e").image)[5:6], AXIAL)
    assert segment(one, load_model(tmp_path / "run")).voxels.shape == (1, 20, 20)
    assert np.isfinite(rows(tmp_path / "run")[0]["val_loss"])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_checkpointing_and_bf16_train_on_strided_phases(volumes, tmp_path, precision):
    recipe = replace(
        RECIPE,
        network=replace(RECIPE.network, checkpointing=True),
        sampling=replace(RECIPE.sampling, stride=(1, 2, 2), dataset_power=0.5),
        training=replace(PLAN, epochs=1, precision=precision),
    )
    train(recipe, open_store(volumes), tmp_path / "run")
    assert np.isfinite(rows(tmp_path / "run")[-1]["val_loss"])
    assert all(tensor.dtype == torch.float32 for tensor in tensors(tmp_path / "run").values())


@pytest.mark.cuda
@pytest.mark.parametrize("network", [PlainUNetShape(widths=(8, 16, 32)), AttentionUNetShape(widths=(8, 16, 32))])
def test_a_gpu_trains_in_fp16_what_the_cpu_then_segments_alike(volumes, tmp_path, network):
    recipe = replace(
        LEARNER,
        network=network,
        softmax=Softmax(iterations=1),
        training=replace(LEARNER.training, precision="auto"),
    )
    train(recipe, open_store(volumes), tmp_path / "run", machine=Machine(accelerator="cuda"))
    assert rows(tmp_path / "run")[-1]["train_loss"] < 0.5 * rows(tmp_path / "run")[0]["train_loss"]
    case = open_store(volumes).case("b__e")
    scan = Volume(np.asarray(case.image), AXIAL)
    on_gpu, on_cpu = (segment(scan, load_model(tmp_path / "run", accelerator=device)) for device in ("cuda", "cpu"))
    assert (on_gpu.voxels == on_cpu.voxels).mean() > 0.99


def test_lambda_of_the_regularised_softmax_is_learnt_and_kept(volumes, tmp_path):
    recipe = replace(RECIPE, network=AttentionUNetShape(widths=(4, 8)), softmax=Softmax(iterations=1, weight=0.7))
    train(recipe, open_store(volumes), tmp_path / "run")
    learnt = tensors(tmp_path / "run")["last.weight"].item()
    assert learnt != pytest.approx(0.7, abs=1e-4)
    assert np.isfinite(learnt)
    best = tensors(tmp_path / "run", "best")["last.weight"]
    assert torch.equal(load_model(tmp_path / "run").module.last.weight.detach(), best)


# --- going on


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def interrupted(recipe: Recipe, store: Path, run: Path, *, stop: tuple[int, int], start: Path | None = None) -> None:
    """Train until a step of an epoch, and be killed there."""

    def step(epoch: int, done: int, steps: int) -> None:
        if (epoch, done) == stop:
            raise Killed

    with pytest.raises(Killed):
        train(recipe, open_store(store), run, machine=Machine(save_every_s=0), start=start, watch=Watch(step=step))


@pytest.mark.parametrize("stop", [(1, 1), (1, 5), (2, 2), (2, 5)])
def test_a_run_that_stops_at_any_step_goes_on_to_the_same_weights_and_log(volumes, finished, tmp_path, stop):
    run = tmp_path / "run"
    interrupted(RECIPE, volumes, run, stop=stop)
    train(RECIPE, open_store(volumes), run, machine=Machine(save_every_s=0), existing="resume")
    assert same(tensors(run), tensors(finished))
    assert same(tensors(run, "best"), tensors(finished, "best"))
    assert rows(run) == rows(finished)


def test_with_average_phases_regularised_softmax_and_accumulated_steps_too(volumes, tmp_path):
    recipe = replace(
        RECIPE,
        network=AttentionUNetShape(widths=(4, 8)),
        softmax=Softmax(iterations=2, weight=0.5),
        sampling=PatchSampling(size=(8, 8, 8), stride=(1, 2, 2), organs_alike=True, dataset_power=0.5),
        training=replace(PLAN, accumulate=2, average_decay=0.9, schedule="poly", poly_epochs=1, warm_up=0.2),
    )
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(recipe, open_store(volumes), whole, machine=Machine(save_every_s=0))
    interrupted(recipe, volumes, run, stop=(2, 1))
    train(recipe, open_store(volumes), run, machine=Machine(save_every_s=0), existing="resume")
    assert same(tensors(run), tensors(whole))
    assert rows(run) == rows(whole)


# --- deep supervision


def random_batch(size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (2, size, size, size), generator=generator, dtype=torch.uint8)
    return Batch(
        image=torch.zeros((2, 1, size, size, size), dtype=torch.int16),
        labels=labels,
        known=torch.rand(labels.shape, generator=generator) < 0.8,
        distance=torch.rand(labels.shape, generator=generator) * 9,
        annotated=torch.ones((2, 5), dtype=torch.bool),
        pseudo=torch.zeros_like(labels),
        pseudo_annotated=torch.zeros((2, 5), dtype=torch.bool),
    )


def test_deep_supervision_halves_the_weight_of_each_coarser_output_and_leaves_the_last_out():
    batch, generator = random_batch(), torch.Generator().manual_seed(1)
    logits = [torch.randn((2, 5, side, side, side), generator=generator) for side in (8, 4, 2, 1)]

    def cross_entropy(answer: torch.Tensor, step: int) -> torch.Tensor:
        """Of every second, fourth ... voxel, the one behind the middle of those it stands for."""
        part = (slice(None), *[slice(step // 2, None, step)] * 3)
        errors = functional.cross_entropy(answer, batch.labels[part].long(), reduction="none")
        return errors[batch.known[part]].mean()

    parts = [cross_entropy(answer, 2**level) for level, answer in enumerate(logits[:3])]
    expected = (parts[0] + parts[1] / 2 + parts[2] / 4) / (1 + 1 / 2 + 1 / 4)
    loss = loss_for(CROSS_ENTROPY, class_weights=torch.ones(5), deep=True)
    found = loss(logits, batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    changed = [*logits[:3], logits[3] + 5 * torch.randn((2, 5, 1, 1, 1), generator=generator)]
    assert torch.equal(loss(changed, batch), found)


@pytest.mark.parametrize("loss", [RECIPE.loss, CROSS_ENTROPY, PartialLoss(alpha=3.0)])
def test_the_deep_loss_of_one_output_is_the_loss(loss):
    batch, weights = random_batch(), torch.ones(5)
    logits = torch.randn((2, 5, 8, 8, 8), generator=torch.Generator().manual_seed(2))
    expected = loss_for(loss, class_weights=weights)(logits, batch)
    assert torch.allclose(loss_for(loss, class_weights=weights, deep=True)([logits], batch), expected)


def test_two_outputs_learn_from_the_finer_one_only():
    batch = random_batch()
    logits = [torch.randn((2, 5, side, side, side), requires_grad=True) for side in (8, 4)]
    loss_for(RECIPE.loss, class_weights=torch.ones(5), deep=True)(logits, batch).backward()
    assert logits[0].grad is not None
    assert logits[1].grad is None


# --- learning rate


def test_poly_falls_over_its_epochs_and_then_stays():
    plan = Training(epochs=5, schedule="poly", poly_epochs=3, learning_rate=0.1)
    rates = [learning_rate(plan, step, steps=2) for step in range(10)]
    by_epoch = [0.1, 0.1 * (2 / 3) ** 0.9, *[0.1 * (1 / 3) ** 0.9] * 3]
    assert rates == pytest.approx(np.repeat(by_epoch, 2))


def test_poly_without_epochs_of_its_own_is_torchs_over_all_epochs():
    plan = Training(epochs=6, schedule="poly", learning_rate=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=6, power=0.9)
    for epoch in range(6):
        assert learning_rate(plan, 4 * epoch + 3, steps=4) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_gao2steps_rate_ends_at_its_500th_of_1000_epochs():
    plan = RECIPES["gao2step"].training
    rates = {epoch: learning_rate(plan, 7 * (epoch - 1), steps=7) for epoch in (1, 2, 250, 499, 500, 501, 1000)}
    assert rates == {
        1: 1e-4,
        2: pytest.approx(1e-4 * 0.998**0.9),
        250: pytest.approx(1e-4 * (251 / 500) ** 0.9),
        499: pytest.approx(1e-4 * (2 / 500) ** 0.9),
        **dict.fromkeys((500, 501, 1000), pytest.approx(1e-4 * (1 / 500) ** 0.9)),
    }
    assert rates[1000] / rates[1] == pytest.approx(0.004, abs=0.0005)


def test_the_log_tells_the_learning_rate_that_poly_gives(volumes, tmp_path):
    plan = replace(PLAN, epochs=3, visits_per_slice=1, schedule="poly", poly_epochs=2)
    train(replace(RECIPE, training=plan), open_store(volumes), tmp_path / "run")
    assert [row["learning_rate"] for row in rows(tmp_path / "run")] == pytest.approx(
        [5e-3, 5e-3 * 0.5**0.9, 5e-3 * 0.5**0.9]
    )


# --- the organs' HU


def organ_hu(store: Path, names: tuple[str, ...] = ("a__a", "a__b", "b__c")) -> np.ndarray:
    cases = [open_store(store).case(name) for name in names]
    chosen = [np.asarray(case.labels) > 0 if case.known is None else (case.labels > 0) & case.known for case in cases]
    return np.concatenate([case.image[mask] for case, mask in zip(cases, chosen, strict=True)]).astype(float)


@pytest.mark.parametrize("percentiles", [(0.5, 99.5), (5.0, 90.0), (0.0, 100.0)])
def test_the_organs_hu_are_numpys_over_all_known_labelled_voxels(volumes, percentiles):
    cases = [open_store(volumes).case(name) for name in ("a__a", "a__b", "b__c")]
    settings = ForegroundScore(low_percentile=percentiles[0], high_percentile=percentiles[1])
    low, high, mean, deviation = measure_foreground(cases, settings).measured
    hu = organ_hu(volumes)
    assert mean == pytest.approx(hu.mean(), abs=1e-4)
    assert deviation == pytest.approx(hu.std(), abs=1e-4)
    expected = np.percentile(hu, percentiles, method="inverted_cdf")
    assert (low, high) == tuple(expected)


def test_given_hu_are_kept_and_measured_ones_too(volumes):
    given = ForegroundScore(measured=(-100.0, 200.0, 50.0, 80.0))
    assert measure_foreground([open_store(volumes).case("a__a")], given) == given


def test_organs_that_nothing_can_be_measured_of_are_said(make_case):
    labels = np.zeros((2, 4, 4), np.uint8)
    empty = make_case("a__a", annotated=("liver",), labels=labels)
    with pytest.raises(RunError, match="labels of all 2 training cases are empty.*annotated.json"):
        measure_foreground([empty, replace(empty, labels=None)], ForegroundScore())
    unknown = replace(empty, labels=labels + 1, known=np.zeros(labels.shape, bool))
    with pytest.raises(RunError, match="labels of all 1 training cases are empty"):
        measure_foreground([unknown], ForegroundScore())
    flat = replace(empty, labels=labels + 1, image=np.full(labels.shape, 40, np.int16))
    with pytest.raises(RunError, match="all organs of the training cases have 40 HU"):
        measure_foreground([flat], ForegroundScore())


def test_measured_hu_are_kept_with_the_weights_and_used_at_prediction(volumes, finished):
    model = load_model(finished)
    model = replace(model, network=TorchRunner(model.module))
    assert isinstance(model.recipe.intensity, ForegroundScore)
    low, high, mean, deviation = model.recipe.intensity.measured
    hu = organ_hu(volumes)
    assert (mean, deviation) == pytest.approx((hu.mean(), hu.std()), abs=1e-3)
    assert json.loads((finished / "recipe.json").read_text())["intensity"]["measured"] is None  # as it was asked for
    image = np.random.default_rng(0).integers(-300, 500, (8, 8, 8)).astype(np.int16)
    scaled = ((np.clip(image, low, high) - mean) / deviation).astype(np.float32)
    expected = model.network(scaled[None, None])[0].swapaxes(0, 1)
    np.testing.assert_allclose(read_logits(image, model)(range(8)), expected, rtol=1e-4, atol=1e-4)


# --- beginning with trained weights


@pytest.fixture
def moved(volumes, tmp_path) -> Path:
    """Return the store with all HU 30 higher, so that its organs measure otherwise."""
    shutil.copytree(volumes, tmp_path / "moved")
    for file in (tmp_path / "moved" / "cases").glob("*/image.npy"):
        np.save(file, np.load(file) + np.int16(30))
    return tmp_path / "moved"


def intensity_of(run: Path) -> Intensity:
    return load_weights(run / "last.safetensors").recipe.intensity


def test_fine_tuning_begins_where_the_weights_are_and_takes_over_their_hu(moved, learnt, tmp_path):
    short = replace(LEARNER, training=replace(PLAN, epochs=1, learning_rate=5e-5))
    train(short, open_store(moved), tmp_path / "fresh")
    train(short, open_store(moved), tmp_path / "tuned", start=learnt)
    assert rows(tmp_path / "tuned")[0]["train_loss"] < 0.6 * rows(tmp_path / "fresh")[0]["train_loss"]
    assert intensity_of(tmp_path / "tuned") == intensity_of(learnt) != intensity_of(tmp_path / "fresh")
    given = replace(short, intensity=ForegroundScore(measured=(-50.0, 300.0, 120.0, 90.0)))
    train(given, open_store(moved), tmp_path / "given", start=learnt / "best.safetensors")
    assert intensity_of(tmp_path / "given") == given.intensity


def test_a_fine_tuned_run_goes_on_to_the_bit_whether_its_start_is_said_again_or_not(volumes, moved, finished, tmp_path):
    whole = tmp_path / "whole"
    train(RECIPE, open_store(moved), whole, start=finished)
    for number, again in enumerate((None, finished)):
        run = tmp_path / str(number)
        interrupted(RECIPE, moved, run, stop=(1, 2), start=finished)
        train(RECIPE, open_store(moved), run, start=again, existing="resume")
        assert same(tensors(run), tensors(whole))
        assert intensity_of(run) == intensity_of(whole) == intensity_of(finished)


def test_start_never_undoes_a_run_that_stands_there(volumes, finished, tmp_path):
    with pytest.raises(RunError, match="holds a run already. Pass --resume"):
        train(RECIPE, open_store(volumes), finished, start=finished)
    before = tensors(finished)
    train(RECIPE, open_store(volumes), finished, start=finished, existing="resume")  # it is done: nothing happens
    assert same(tensors(finished), before)


def test_weights_for_other_organs_or_another_network_are_no_beginning(volumes, finished, tmp_path):
    store, run = open_store(volumes), tmp_path / "run"
    with pytest.raises(WeightsError, match="these weights are for network plain3d of widths 4, 8, the recipe for"):
        train(replace(RECIPE, network=PlainUNetShape(widths=(4, 16))), store, run, start=finished)
    with pytest.raises(WeightsError, match="these weights are for network plain3d of widths 4, 8, the recipe for"):
        train(replace(RECIPE, network=AttentionUNetShape(widths=(4, 8))), store, run, start=finished)
    with pytest.raises(WeightsError, match="no weights at .*nowhere"):
        train(RECIPE, store, run, start=tmp_path / "nowhere")
    assert not run.exists()


@pytest.mark.parametrize(
    ("network", "head"),
    [(PlainUNetShape(widths=(4, 8)), "heads.0"), (AttentionUNetShape(widths=(4, 8)), "votes.0")],
)
def test_weights_for_other_organs_begin_a_network_but_for_the_heads_of_what_they_do_not_know(
    volumes, tmp_path, network, head
):
    first = replace(RECIPE, network=network, training=replace(PLAN, epochs=1))
    train(first, open_store(volumes), tmp_path / "first")
    shutil.copytree(volumes, tmp_path / "tumours")
    space = {"name": "tumour", "organs": ["tumour"]}
    for file in (tmp_path / "tumours").glob("cases/*/case.json"):
        facts = json.loads(file.read_text())
        file.write_text(json.dumps(facts | {"annotated": ["tumour"], "voxels": {"background": 1, "tumour": 1}}))
        labels = file.with_name("labels.npy")
        np.save(labels, np.minimum(np.load(labels), np.uint8(1)))
    file = tmp_path / "tumours" / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"label_space": space}))
    still = replace(first, label_space="tumour", training=replace(first.training, learning_rate=1e-12, weight_decay=0))
    train(still, open_store(tmp_path / "tumours"), tmp_path / "second", start=tmp_path / "first")
    before, after = tensors(tmp_path / "first", "best"), tensors(tmp_path / "second")
    assert before.keys() == after.keys()
    trunk = [name for name in before if name.startswith(("down", "up")) and name.endswith(("weight", "bias"))]
    for name in trunk:
        torch.testing.assert_close(after[name], before[name])
    torch.testing.assert_close(after[f"{head}.weight"][0], before[f"{head}.weight"][0])  # of background
    assert len(after[f"{head}.weight"]) == 2


# --- partly annotated cases


def test_complete_takes_only_the_cases_that_annotate_every_organ(volumes, tmp_path):
    short = replace(PLAN, epochs=1, visits_per_slice=1)
    trained = {}
    for cases in ("any", "complete"):
        recipe = replace(RECIPE, sampling=replace(RECIPE.sampling, cases=cases), training=short)
        train(recipe, open_store(volumes), tmp_path / cases)
        trained[cases] = json.loads((tmp_path / cases / "run.json").read_text())["splits"]["training"]
        measured = intensity_of(tmp_path / cases).measured
        assert measured[2] == pytest.approx(organ_hu(volumes, tuple(trained[cases])).mean(), abs=1e-3)
    assert trained == {"any": ["a__a", "a__b", "b__c"], "complete": ["a__a", "a__b"]}


def test_no_complete_case_is_said_with_what_to_do(volumes, tmp_path):
    shutil.copytree(volumes, tmp_path / "store")
    for file in (tmp_path / "store" / "cases").glob("*/case.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"annotated": ["liver"]}))
    recipe = replace(RECIPE, sampling=replace(RECIPE.sampling, cases="complete"))
    with pytest.raises(RunError, match="annotates all of liver, kidney, spleen, pancreas.*--sampling.cases any"):
        train(recipe, open_store(tmp_path / "store"), tmp_path / "run")


def test_an_organ_that_a_case_does_not_annotate_has_no_gradient_of_its_own(volumes):
    """Spleen and background are one thing where the spleen is unknown: their gradients are as their probabilities."""
    index = open_training([open_store(volumes).case("b__c")], PatchSampling(size=(12, 20, 20)))
    places = draw_places(index, 1, step_generator(0))
    batch = read_batch(index, np.array([0]), space=ABDOMENCT1K, distance=None, places=places)
    logits = torch.randn((1, 5, 12, 20, 20), dtype=torch.float64, requires_grad=True)
    loss_for(RECIPE.loss, class_weights=torch.ones(5, dtype=torch.float64))(logits, batch).backward()
    slope = logits.grad / logits.detach().softmax(1)
    for organ in ("kidney", "spleen", "pancreas"):
        torch.testing.assert_close(slope[:, ABDOMENCT1K.index(organ)], slope[:, 0])
    assert (slope[:, 1] - slope[:, 0]).abs().min() > 0


# --- settings that do not go together


@pytest.mark.parametrize(
    "mixed",
    [
        replace(RECIPE, network=UNetShape(widths=(4, 8))),
        replace(RECIPE, inference=SliceInference()),
        replace(RECIPE, sampling=Recipe().sampling),
        replace(RECIPE, augmentation=Recipe().augmentation),
        replace(Recipe(), network=AttentionUNetShape(widths=(4, 8))),
        replace(Recipe(), sampling=PatchSampling()),
    ],
)
def test_parts_for_slices_and_parts_for_volumes_are_not_mixed(mixed):
    with pytest.raises(SettingError, match="A 2D network takes slices, a 3D one patches, windows"):
        check_fit(mixed)


def test_the_parts_of_every_3d_recipe_go_together_and_its_patches_can_be_halved(volumes, tmp_path):
    flat = [recipe for recipe in RECIPES.values() if isinstance(recipe.network, UNetShape | UpvShape)]
    solid = [recipe for recipe in RECIPES.values() if recipe not in flat]
    assert {"gao2step", "gao2step-finder", "runet", "runet-small"} <= {recipe.name for recipe in solid}
    for recipe in solid:
        assert isinstance(recipe.sampling, PatchSampling)
        stride = 2 ** (len(recipe.network.widths) - 1)
        assert all(side % stride == 0 and side > stride for side in recipe.sampling.size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": PatchSampling(size=(6, 8, 8))}, "multiples of 4, got 6x8x8: instead of 6 take 4 or 8"),
        ({"sampling": PatchSampling(size=(4, 4, 4))}, "single voxel .*Change sampling.size to at least 8 along one"),
        ({"inference": WindowInference(size=(8, 8, 10))}, "got 8x8x10: .*Change inference.size or network.widths"),
        ({"network": AttentionUNetShape(widths=(4,) * 6)}, "6 levels needs sides that are multiples of 32"),
    ],
)
def test_patches_that_the_network_cannot_halve_are_refused_before_a_run_is_begun(volumes, tmp_path, changes, message):
    recipe = replace(RECIPE, network=PlainUNetShape(widths=(4, 8, 8)))
    with pytest.raises(SettingError, match=message):
        train(replace(recipe, **changes), open_store(volumes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_store_of_another_preparation_is_refused(volumes, tmp_path):
    other: Preparation = SpacedVolumes(spacing_mm=(3.0, 3.0, 3.0))
    with pytest.raises(Exception, match="was prepared with .*scanner.*Prepare another store"):
        train(replace(RECIPE, preparation=other), open_store(volumes), tmp_path / "run")


def test_memory_that_runs_out_is_said_with_what_to_do(volumes, tmp_path):
    def full(epoch: int, done: int, steps: int) -> None:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(
        RunError, match=r"ran out of memory at batch_size 2.*smaller --sampling.size, or pass --network"
    ):
        train(RECIPE, open_store(volumes), tmp_path / "run", watch=Watch(step=full))


def test_what_torch_cannot_do_deterministically_is_said_with_what_to_do(volumes, tmp_path):
    def refused(epoch: int, done: int, steps: int) -> None:
        raise RuntimeError(
            "upsample_trilinear3d_backward_out_cuda does not have a deterministic implementation, but ..."
        )

    with pytest.raises(
        RunError, match=r"plain3d cannot be trained deterministically on cpu.*Leave --training.determin"
    ):
        train(RECIPE, open_store(volumes), tmp_path / "run", watch=Watch(step=refused))


class Narrow(nn.Module):
    """A network on a device on which only small windows fit."""

    stride, dimensions = 2, 3

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.numel() > 4 * 8 * 8:
            raise torch.OutOfMemoryError("no memory")
        return self.network(image)


def test_a_finder_whose_memory_runs_out_takes_smaller_windows_with_a_word(finished):
    model = load_model(finished)
    scan = Volume(np.random.default_rng(0).integers(-300, 500, (10, 12, 12)).astype(np.int16), AXIAL)
    finder = replace(model, network=TorchRunner(Narrow(model.module)))
    with pytest.warns(UserWarning, match="windows of 4x4x4 voxels are used from here on"):
        labels = segment(scan, with_others(model, finder=finder))
    assert labels.shape == scan.shape


def test_a_finder_is_not_asked_in_vain(finished):
    model = load_model(finished)
    with pytest.raises(SettingError, match="looks at the middle slices whatever is found. Pass --region find"):
        with_others(with_region(model, "middle"), finder=model)
