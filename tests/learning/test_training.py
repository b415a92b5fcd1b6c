"""The training loop on a store so small that it takes seconds: it learns, resumes to the bit, and says what is wrong."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from makers import rows, same, tensors
from viscera.config import (
    Machine,
    PartialLoss,
    Recipe,
    ResizedSlices,
    RichAugmentation,
    SigmoidLoss,
    SliceInference,
    SliceSampling,
    Training,
    UNetShape,
)
from viscera.config.recipe_json import recipe_from_json, recipe_to_json
from viscera.errors import RunError, SettingError, StoreError
from viscera.inference.model import load_model
from viscera.inference.slices import slice_logits
from viscera.learning.progress import Progress, class_counts, dice_and_iou
from viscera.learning.schedule import learning_rate, moving_average
from viscera.learning.setup import begin
from viscera.learning.training import Watch, out_of_patience, train
from viscera.networks.weights import load_weights
from viscera.preparation.store import open_store

RECIPE = Recipe(
    name="tiny",
    label_space="abdomenct1k",
    preparation=ResizedSlices(size=(16, 16)),
    network=UNetShape(widths=(4, 8)),
    training=Training(epochs=2, visits_per_slice=2, batch_size=4, learning_rate=5e-3, precision="32-true"),
    inference=SliceInference(batch_size=2),
)
LONGER = replace(
    RECIPE, training=replace(RECIPE.training, epochs=12, step_epochs=6, visits_per_slice=6, learning_rate=2e-2)
)


@pytest.fixture(scope="module")
def finished(small_store, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run") / "whole"
    train(RECIPE, open_store(small_store), run)
    return run


def test_it_learns_and_scores_only_what_is_annotated(small_store, tmp_path):
    train(LONGER, open_store(small_store), tmp_path / "run")
    first, last = rows(tmp_path / "run")[0], rows(tmp_path / "run")[-1]
    assert last["train_loss"] < 0.5 * first["train_loss"]
    assert last["val_dice"]["liver"] > 0.9
    assert last["val_dice"]["spleen"] is None  # the validation patient's data set does not annotate it
    assert last["train_dice"]["spleen"] > 0.8
    assert last["train_dice"]["kidney"] is None or last["train_dice"]["kidney"] == 0  # annotated, absent everywhere


def test_a_run_leaves_weights_log_facts_and_recipe(finished):
    assert {file.name for file in finished.iterdir() if file.name != ".lock"} == {
        "best.json", "best.safetensors", "last.json", "last.safetensors", "log.csv", "log.jsonl",
        "recipe.json", "run.json", "state.safetensors",
    }  # fmt: skip
    assert [row["epoch"] for row in rows(finished)] == [1, 2]
    assert (finished / "log.csv").read_text().splitlines()[0].startswith("epoch,step,learning_rate,train_loss,val_loss")
    assert recipe_from_json((finished / "recipe.json").read_text(), where="x") == RECIPE
    facts = json.loads((finished / "run.json").read_text())
    assert facts["splits"]["validation"] == ["b__d"]
    assert "b__d" not in (finished / "best.json").read_text()  # weights name no case


def test_best_weights_are_those_of_the_lowest_validation_loss(finished):
    best = min(rows(finished), key=lambda row: row["val_loss"])
    assert load_weights(finished / "best.safetensors").provenance["epoch"] == best["epoch"]


def test_the_same_seed_gives_the_same_weights_and_another_other_ones(small_store, finished, tmp_path):
    train(RECIPE, open_store(small_store), tmp_path / "again")
    other = replace(RECIPE, training=replace(RECIPE.training, seed=1))
    train(other, open_store(small_store), tmp_path / "other")
    assert same(tensors(tmp_path / "again"), tensors(finished))
    assert not same(tensors(tmp_path / "other"), tensors(finished))


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("stop", [(1, 1), (1, 5), (1, 8), (2, 3), (2, 8)])
def test_a_run_that_stops_at_any_step_goes_on_to_the_same_weights_and_log(small_store, finished, tmp_path, stop):
    def step(epoch: int, done: int, steps: int) -> None:
        if (epoch, done) == stop:
            raise Killed

    store, machine = open_store(small_store), Machine(save_every_s=0)
    with pytest.raises(Killed):
        train(RECIPE, store, tmp_path / "run", machine=machine, watch=Watch(step=step))
    train(RECIPE, store, tmp_path / "run", machine=machine, existing="resume")
    assert same(tensors(tmp_path / "run"), tensors(finished))
    assert same(tensors(tmp_path / "run", "best"), tensors(finished, "best"))
    assert rows(tmp_path / "run") == rows(finished)


def test_accumulated_steps_resume_too_and_equal_one_large_batch_without_batch_norm_noise(small_store, tmp_path):
    plan = replace(RECIPE.training, batch_size=2, accumulate=2, epochs=1)
    recipe, store = replace(RECIPE, training=plan), open_store(small_store)
    train(recipe, store, tmp_path / "whole")
    steps = []
    watch = Watch(step=lambda epoch, done, all_steps: steps.append((done, all_steps)))
    train(recipe, store, tmp_path / "watched", watch=watch)
    assert steps == [(n, 8) for n in range(1, 9)]  # 4 cases x 4 slices x 2 visits / (2 x 2)
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "watched"))


def test_a_finished_run_can_be_lengthened_but_not_changed(small_store, finished, tmp_path):
    store, run = open_store(small_store), tmp_path / "run"
    train(RECIPE, store, run)
    longer = replace(RECIPE, training=replace(RECIPE.training, epochs=3))
    train(longer, store, run, existing="resume")
    assert [row["epoch"] for row in rows(run)] == [1, 2, 3]
    assert rows(run)[:2] == rows(finished)
    other = replace(longer, training=replace(longer.training, learning_rate=1e-3))
    with pytest.raises(SettingError, match=r"training\.learning_rate was 0\.005, now 0\.001"):
        train(other, store, run, existing="resume")


def test_a_run_is_not_overwritten_unless_asked(small_store, finished, tmp_path):
    store = open_store(small_store)
    with pytest.raises(RunError, match="holds a run already. Pass --resume"):
        train(RECIPE, store, finished)
    train(replace(RECIPE, training=replace(RECIPE.training, epochs=1)), store, tmp_path / "run")
    train(RECIPE, store, tmp_path / "run", existing="overwrite")
    assert same(tensors(tmp_path / "run"), tensors(finished))


def test_a_recipe_that_does_not_fit_the_store_is_refused(small_store, tmp_path):
    store = open_store(small_store)
    with pytest.raises(StoreError, match="size 16x16, not size 32x32"):
        train(replace(RECIPE, preparation=ResizedSlices(size=(32, 32))), store, tmp_path / "run")
    with pytest.raises(StoreError, match="label space"):
        train(replace(RECIPE, label_space="zhang12"), store, tmp_path / "run")
    with pytest.raises(SettingError, match="batch_size 4 cannot be shared by 3 devices"):
        train(RECIPE, store, tmp_path / "run", machine=Machine(devices=3))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(small_store, tmp_path):
    wild = replace(RECIPE, training=replace(RECIPE.training, learning_rate=1e30, epochs=3))
    with pytest.raises(RunError, match=r"no longer finite in epoch .*--training\.learning-rate"):
        train(wild, open_store(small_store), tmp_path / "run")


def test_bf16_with_checkpointing_trains(small_store, tmp_path):
    recipe = replace(
        RECIPE,
        network=replace(RECIPE.network, checkpointing=True),
        training=replace(RECIPE.training, precision="bf16-mixed", deterministic=True),
    )
    train(recipe, open_store(small_store), tmp_path / "run")
    assert np.isfinite(rows(tmp_path / "run")[-1]["val_loss"])
    torch.use_deterministic_algorithms(False)


def test_patience_counts_epochs_since_the_best():
    plan = Training(patience_epochs=2)
    assert not out_of_patience(Progress(epoch=3, best_epoch=2), plan)
    assert out_of_patience(Progress(epoch=4, best_epoch=2), plan)
    assert not out_of_patience(Progress(epoch=90, best_epoch=1), Training())


OURS = replace(
    RECIPE,
    network=UNetShape(widths=(4, 8), slices=3),
    loss=PartialLoss(alpha=1.0),
    sampling=SliceSampling(dataset_power=0.5, organ_fraction=0.5, window=(16, 16)),
    augmentation=RichAugmentation(elastic_cell_pixels=8.0),
    training=replace(RECIPE.training, schedule="cosine", warm_up=0.1, average_decay=0.9),
)


@pytest.mark.parametrize("stop", [(1, 3), pytest.param((2, 1), marks=pytest.mark.slow)])
def test_a_run_with_average_draws_and_windows_goes_on_to_the_bit(small_store, tmp_path, stop):
    def step(epoch: int, done: int, steps: int) -> None:
        if (epoch, done) == stop:
            raise Killed

    store, machine = open_store(small_store), Machine(save_every_s=0)
    train(OURS, store, tmp_path / "whole", machine=machine)
    with pytest.raises(Killed):
        train(OURS, store, tmp_path / "run", machine=machine, watch=Watch(step=step))
    train(OURS, store, tmp_path / "run", machine=machine, existing="resume")
    assert same(tensors(tmp_path / "run"), tensors(tmp_path / "whole"))
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_an_organ_that_only_one_data_set_annotates_is_found_in_the_other(small_store, tmp_path):
    recipe = replace(LONGER, loss=PartialLoss(), training=replace(LONGER.training, schedule="cosine"))
    train(recipe, open_store(small_store), tmp_path / "run")
    model = load_model(tmp_path / "run")
    case = open_store(small_store).case("b__f")  # the test patient: a spleen at [1:, 8:13, 10:14], liver annotated only
    found = slice_logits(case.image, model, range(4)).argmax(1)
    spleen = np.zeros(found.shape, bool)
    spleen[1:, 8:13, 10:14] = True
    assert 2 * (spleen & (found == 3)).sum() / (spleen.sum() + (found == 3).sum()) > 0.8


@pytest.mark.slow
def test_sigmoid_heads_learn_and_score_as_others_do(small_store, tmp_path):
    recipe = replace(LONGER, loss=SigmoidLoss(), network=replace(LONGER.network, heads="sigmoid"))
    train(recipe, open_store(small_store), tmp_path / "run")
    assert rows(tmp_path / "run")[-1]["val_dice"]["liver"] > 0.9


def test_weights_that_are_kept_are_the_average_of_those_passed_through():
    network = torch.nn.Linear(1, 1)
    average = moving_average(network, 0.5)
    seen = []
    for value in (1.0, 2.0, 4.0):
        torch.nn.init.constant_(network.weight, value)
        average.update_parameters(network)
        seen.append(average.module.weight.item())
    # The first step copies; then old * d + new * (1 - d), d = min(0.5, (1 + n) / (10 + n)) for n = 1, 2.
    second = 1 * 2 / 11 + 2 * 9 / 11
    assert seen == pytest.approx([1, second, second * 3 / 12 + 4 * 9 / 12])


def test_cosine_begins_with_a_warm_up_and_ends_at_zero():
    plan = Training(epochs=2, schedule="cosine", warm_up=0.25, learning_rate=1.0)
    rates = [learning_rate(plan, step, steps=10) for step in range(20)]
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), T_max=20)
    for step, rate in enumerate(rates):
        assert rate == pytest.approx(cosine.get_last_lr()[0] * min(1, (step + 1) / 5))
        cosine.optimizer.step()
        cosine.step()


def test_organs_that_no_case_annotates_are_said_and_stay_background(small_store, tmp_path):
    shutil.copytree(small_store, tmp_path / "store")
    for file in (tmp_path / "store" / "cases").glob("*/case.json"):
        facts = json.loads(file.read_text())
        file.write_text(
            json.dumps(facts | {"annotated": [organ for organ in facts["annotated"] if organ != "pancreas"]})
        )
    with pytest.warns(UserWarning, match="no training case annotates pancreas: the network will never find them"):
        train(replace(RECIPE, loss=PartialLoss()), open_store(tmp_path / "store"), tmp_path / "run")


def test_one_scan_on_two_sides_of_the_split_is_refused(small_store, tmp_path):
    shutil.copytree(small_store, tmp_path / "store")
    for name in ("a__a", "b__f"):
        file = tmp_path / "store" / "cases" / name / "case.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"image_sha256": "equal"}))
    with pytest.raises(StoreError, match=r"a__a \(training\) and b__f \(test\) hold the same scan"):
        train(RECIPE, open_store(tmp_path / "store"), tmp_path / "run")


def test_a_fold_is_left_out_of_training_and_of_what_the_run_says_it_was_trained_on(small_store, tmp_path):
    shutil.copytree(small_store, tmp_path / "store")
    for file in (tmp_path / "store" / "cases").glob("*/case.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"image_sha256": file.parent.name}))
    trained = []
    for number in (1, 2):
        fold = replace(RECIPE, sampling=SliceSampling(fold=(number, 2)), training=replace(RECIPE.training, epochs=1))
        train(fold, open_store(tmp_path / "store"), tmp_path / str(number))
        trained.append(set(json.loads((tmp_path / str(number) / "run.json").read_text())["splits"]["training"]))
    assert trained[0] | trained[1] == set(open_store(small_store).names("training"))
    assert not trained[0] & trained[1]
    with pytest.raises(SettingError, match=r"sampling\.fold 3 2: say 1 3, 2 3 or 3 3"):
        train(replace(RECIPE, sampling=SliceSampling(fold=(3, 2))), open_store(small_store), tmp_path / "none")


def test_learning_rate_is_torchs_step_lr():
    plan = Training(learning_rate=6e-4, step_epochs=2, step_gamma=0.2)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=6e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.2)
    for epoch in range(6):
        for step in range(10):
            rate = learning_rate(plan, 10 * epoch + step, steps=10)
            assert rate == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_scores_of_an_epoch_are_means_over_cases_that_have_the_organ():
    counts = np.zeros((2, 3, 3), int)  # case, class, (both, predicted, true)
    counts[0, 1] = [5, 10, 10]
    counts[1, 1] = [10, 10, 10]
    counts[0, 2] = [0, 4, 0]
    dice, iou = dice_and_iou(counts)
    assert dice[1] == pytest.approx((0.5 + 1) / 2)
    assert iou[1] == pytest.approx((5 / 15 + 1) / 2)
    assert dice[2] == 0  # predicted where there is none; the other case says nothing
    assert np.isnan(dice_and_iou(np.zeros((0, 3, 3), int))).all()


def test_counts_leave_out_unknown_pixels_and_unannotated_classes():
    from viscera.learning.sampling.batch import Batch

    labels = torch.tensor([[[1, 1], [2, 0]]], dtype=torch.uint8)
    logits = torch.nn.functional.one_hot(torch.tensor([[[1, 2], [2, 1]]]), 3).permute(0, 3, 1, 2).float()
    known = torch.tensor([[[True, True], [True, False]]])
    annotated = torch.tensor([[True, True, False]])
    batch = Batch(
        torch.zeros(1, 1, 2, 2), labels, known, torch.zeros(1, 2, 2), annotated, labels * 0, annotated & False
    )
    assert class_counts(logits, batch)[0].tolist() == [[0, 0, 0], [1, 1, 2], [0, 0, 0]]


def test_a_run_is_not_resumed_on_a_store_that_has_changed(small_store, tmp_path):
    changed = tmp_path / "store"
    shutil.copytree(small_store, changed)
    train(replace(RECIPE, training=replace(RECIPE.training, epochs=1)), open_store(changed), tmp_path / "run")
    splits = json.loads((changed / "splits.json").read_text())
    splits["cases"]["a__a"] = "test"
    (changed / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(RunError, match="has changed since .* 1 training or validation cases came or went"):
        train(RECIPE, open_store(changed), tmp_path / "run", existing="resume")


@pytest.mark.slow
def test_a_run_killed_at_random_instants_ends_with_the_weights_of_one_that_was_not(small_store, tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(recipe_to_json(LONGER))
    train(LONGER, open_store(small_store), tmp_path / "whole")
    command = [sys.executable, "-m", "viscera.cli", "train", str(recipe), str(small_store), str(tmp_path / "killed"),
               "--resume", "--machine.save-every-s", "0", "--machine.accelerator", "cpu"]  # fmt: skip
    generator = np.random.default_rng(0)
    kills = 0
    for _ in range(60):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=2.5 + generator.uniform(0, 1.5) if kills < 20 else 120)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            time.sleep(0.05)
    assert process.returncode == 0
    assert same(tensors(tmp_path / "killed"), tensors(tmp_path / "whole"))
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_train_and_give_the_same_log_columns(small_store, tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(recipe_to_json(RECIPE))
    command = [sys.executable, "-m", "viscera.cli", "train", str(recipe), str(small_store), str(tmp_path / "two"),
               "--machine.devices", "2", "--machine.accelerator", "cpu"]  # fmt: skip
    subprocess.run(command, check=True, timeout=200)
    train(RECIPE, open_store(small_store), tmp_path / "one")
    assert rows(tmp_path / "two")[0].keys() == rows(tmp_path / "one")[0].keys()
    assert [row["step"] for row in rows(tmp_path / "two")] == [row["step"] for row in rows(tmp_path / "one")]


def test_training_may_open_as_many_files_as_the_system_allows(small_store, tmp_path):
    import resource

    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, most), most))
    try:
        begin(RECIPE, open_store(small_store), Machine(accelerator="cpu"))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
