"""A student of an ensemble on a store of seconds: what it is taught, what labels forbid, kills, and who may not teach."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import viscera
from makers import PARTIAL_RECIPE, call, rows, same, tensors
from viscera.config import AddedBoundaryLoss, Machine, SigmoidLoss
from viscera.config.recipe_json import recipe_to_json
from viscera.errors import RunError, SettingError
from viscera.inference.model import load_model
from viscera.inference.slices import slice_logits
from viscera.io.atomic import sha256, write_json
from viscera.learning.cross_validation.running import FoldPlan, cross_validate
from viscera.learning.distillation.loss import not_contradicted, soft_loss, taught_loss
from viscera.learning.distillation.settings import Distillation
from viscera.learning.pseudolabels.teachers import TeacherWarning
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.index import read_batch
from viscera.learning.setup import begin, scaled
from viscera.learning.training import Given, Watch, train
from viscera.networks.weights_header import read_header
from viscera.preparation.store import open_store

CPU = Machine("cpu", save_every_s=0)
RECIPE = replace(PARTIAL_RECIPE, training=replace(PARTIAL_RECIPE.training, visits_per_slice=8))
pytestmark = pytest.mark.filterwarnings("ignore:the teacher's networks learnt from")


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.fixture(scope="module")
def store(small_store):
    return open_store(small_store)


@pytest.fixture(scope="module")
def folds(store, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("teacher") / "folds"
    cross_validate(RECIPE, store, run, FoldPlan(2), machine=CPU)
    return run


@pytest.fixture(scope="module")
def student(store, folds, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("student") / "run"
    train(RECIPE, store, run, machine=CPU, distil=Distillation(folds))
    return run


def some_batch(labels: torch.Tensor, annotated: list[bool], known: torch.Tensor | None = None) -> Batch:
    """One slice of labels; background is always annotated."""
    return Batch(
        image=torch.zeros(1, 1, *labels.shape),
        labels=labels[None].to(torch.uint8),
        known=torch.ones(1, *labels.shape, dtype=torch.bool) if known is None else known[None],
        distance=torch.ones(1, *labels.shape),
        annotated=torch.tensor([[True, *annotated]]),
        pseudo=torch.zeros(1, *labels.shape, dtype=torch.uint8),
        pseudo_annotated=torch.zeros(1, 1 + len(annotated), dtype=torch.bool),
    )


def saying(classes: torch.Tensor, count: int) -> torch.Tensor:
    """Logits of a teacher whose most probable classes these are."""
    return 4.0 * torch.nn.functional.one_hot(classes.long(), count).permute(2, 0, 1)[None].float()


def test_the_student_learns(student):
    losses = [row["train_loss"] for row in rows(student)]
    assert losses[-1] < 0.8 * losses[0]
    liver = rows(student)[-1]["val_dice"]["liver"]
    assert liver > 0.8


def test_the_teacher_says_what_the_ensemble_predicts(store, folds):
    session = begin(RECIPE, store, CPU, distil=Distillation(folds))
    index, model = session.training, load_model(folds, accelerator="cpu", runtime="torch")
    batch = scaled(read_batch(index, np.arange(4), space=session.space, distance=None), session.recipe)
    said = session.taught.loss.args[2](batch.image)
    case = index.cases[0]
    wanted = slice_logits(np.asarray(case.image), model, range(4))
    assert np.array_equal(said.numpy(), wanted)
    # and the mean of what each network says by itself, in double precision
    each = [load_model(folds / f"fold_{number}", accelerator="cpu", runtime="torch") for number in (0, 1)]
    alone = [torch.from_numpy(slice_logits(np.asarray(case.image), one, range(4))).double().softmax(1) for one in each]
    assert torch.allclose(said.double().softmax(1), (alone[0] + alone[1]) / 2, atol=1e-6)


def test_an_annotated_pixel_never_takes_the_teachers_label():
    # Organ 1 is annotated, organ 2 is not. Columns: an organ pixel, a background pixel, one that may be anything.
    labels = torch.tensor([[1, 0, 0]] * 3)
    known = torch.tensor([[True, True, False]] * 3)
    says = torch.tensor([[1, 0, 0], [0, 1, 1], [2, 2, 2]])
    batch = some_batch(labels, [True, False], known)
    teacher = saying(says, 3)
    free = not_contradicted(teacher, batch, batch.annotated)[0]
    assert free.tolist() == [[True, True, True], [False, False, True], [False, True, True]]
    logits = torch.randn(1, 3, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = taught_loss(
        Distillation(Path(), weight=1.0), lambda logits, _: logits.sum() * 0, lambda _: teacher, unannotated="marginal"
    )
    loss(logits, batch).backward()
    assert torch.equal(logits.grad.abs().sum(1)[0] > 0, free)


def test_where_a_loss_calls_unannotated_organs_background_no_teacher_says_otherwise():
    batch = some_batch(torch.zeros(2, 2), [False, False])
    teacher = saying(torch.tensor([[2, 2], [0, 0]]), 3)
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = taught_loss(
        Distillation(Path(), weight=1.0),
        lambda logits, _: logits.sum() * 0,
        lambda _: teacher,
        unannotated="background",
    )
    loss(logits, batch).backward()
    assert (logits.grad.abs().sum(1)[0] > 0).tolist() == [[False, False], [True, True]]


def test_the_loss_is_least_where_the_student_says_what_the_teacher_says():
    generator = torch.Generator().manual_seed(1)
    teacher, other = (3 * torch.randn(2, 4, 5, 5, generator=generator) for _ in range(2))
    free = torch.ones(2, 5, 5, dtype=torch.bool)
    assert soft_loss(teacher + 7, teacher, free, temperature=2.0) == pytest.approx(0, abs=1e-5)
    assert soft_loss(other, teacher, free, temperature=2.0) > 0.1
    assert soft_loss(other, teacher, ~free, temperature=2.0) == 0


def test_the_divergence_is_that_of_torch_and_dice_that_of_hard_labels():
    generator = torch.Generator().manual_seed(2)
    student = torch.randn(1, 3, 4, 4, generator=generator)
    hard = torch.randint(0, 3, (4, 4), generator=generator)
    teacher, free, t = 60.0 * saying(hard, 3), torch.ones(1, 4, 4, dtype=torch.bool), 3.0
    flat = [each.permute(0, 2, 3, 1).reshape(-1, 3) / t for each in (student, teacher)]
    kl = torch.nn.functional.kl_div(flat[0].log_softmax(1), flat[1].softmax(1), reduction="batchmean") * t**2
    found, truth = student.softmax(1)[0, 1:], torch.stack([hard == organ for organ in (1, 2)]).float()
    # |p - t| + ... of hard t: sum(p + t) - sum |p - t| = 2 sum(p t)
    dice = 1 - (2 * (found * truth).sum((1, 2)) / (found + truth).sum((1, 2))).mean()
    assert soft_loss(student, teacher, free, temperature=t) == pytest.approx(float(kl + dice), rel=1e-4)


@pytest.mark.parametrize(
    "stop", [(1, 3), pytest.param((2, 1), marks=pytest.mark.slow)], ids=["within an epoch", "between epochs"]
)
def test_a_student_that_was_killed_goes_on_to_the_same_weights(store, folds, student, tmp_path, stop):
    run = tmp_path / "run"

    def step(epoch: int, done: int, steps: int) -> None:
        if (epoch, done) == stop:
            raise Killed

    with pytest.raises(Killed):
        train(RECIPE, store, run, machine=CPU, distil=Distillation(folds), watch=Watch(step=step))
    train(RECIPE, store, run, machine=CPU, distil=Distillation(folds), existing="resume")
    assert same(tensors(run), tensors(student))
    plain = [row["train_loss"] for row in rows(run)]
    assert plain == [row["train_loss"] for row in rows(student)]


def test_the_weights_name_their_teacher_and_the_rest_is_one_network(folds, student):
    taught = read_header(student / "best.safetensors").provenance["distilled"]
    assert [one["sha256"] for one in taught["members"]] == [
        sha256(folds / f"fold_{n}" / "best.safetensors") for n in (0, 1)
    ]
    assert taught["weights_sha256"] == load_model(folds, accelerator="cpu", runtime="torch").weights_sha256
    assert (taught["teacher"], taught["temperature"], taught["weight"]) == ("folds", 2.0, 0.5)
    assert taught["validation_cases_seen_by_teacher"] == 1
    assert json.loads((student / "run.json").read_text())["distilled"] == taught
    assert not load_model(student, accelerator="cpu", runtime="torch").members


def test_a_student_goes_on_with_its_own_teacher_only(store, folds, student, tmp_path):
    run = Path(shutil.copytree(student, tmp_path / "run"))
    longer = replace(RECIPE, training=replace(RECIPE.training, epochs=3))
    for other in (None, Distillation(folds, temperature=1.0), Distillation(folds / "fold_0")):
        with pytest.raises(SettingError, match="was begun with another teacher: distilled"):
            train(longer, store, run, machine=CPU, distil=other, existing="resume")
    assert same(tensors(run), tensors(student))


def test_validation_cases_that_the_teacher_learnt_from_are_told_of(store, folds, tmp_path):
    with pytest.warns(TeacherWarning, match="learnt from 1 of the 1 validation cases.*Compare on test cases"):
        begin(RECIPE, store, CPU, distil=Distillation(folds))


def test_a_teacher_that_saw_a_test_case_is_refused(small_store, folds, tmp_path):
    place = Path(shutil.copytree(small_store, tmp_path / "store"))
    splits = json.loads((place / "splits.json").read_text())
    splits["cases"] |= {"a__a": "test", "b__f": "training"}
    write_json(place / "splits.json", splits)
    with pytest.raises(RunError, match=r"teacher fold_\d was .*1 of the store's test cases \(a__a"):
        train(RECIPE, open_store(place), tmp_path / "run", machine=CPU, distil=Distillation(folds))
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_a_teacher_that_sees_scans_otherwise_is_refused(store, folds, tmp_path):
    other = replace(RECIPE, intensity=replace(RECIPE.intensity, high_hu=300))
    with pytest.raises(
        SettingError, match=r"folds/fold_0 cannot teach.*intensity.high_hu: 400.*, and the student's 300"
    ):
        train(other, store, tmp_path / "run", machine=CPU, distil=Distillation(folds))
    with pytest.raises(SettingError, match="sigmoid heads"):
        train(
            replace(RECIPE, network=replace(RECIPE.network, heads="sigmoid"), loss=SigmoidLoss()),
            store,
            tmp_path / "run",
            machine=CPU,
            distil=Distillation(folds),
        )


def test_a_teacher_that_took_unannotated_organs_for_background_is_refused(store, tmp_path):
    blind = replace(RECIPE, loss=AddedBoundaryLoss(), training=replace(RECIPE.training, epochs=1))
    train(blind, store, tmp_path / "blind", machine=CPU)
    with pytest.raises(RunError, match="teacher blind learnt from 1 training cases that what they do not annotate"):
        train(RECIPE, store, tmp_path / "run", machine=CPU, distil=Distillation(tmp_path / "blind"))


def test_folds_are_not_distilled(store, folds, tmp_path):
    plan = FoldPlan(2, given=Given(distil=Distillation(folds)))
    with pytest.raises(SettingError, match="--distil with folds"):
        cross_validate(RECIPE, store, tmp_path / "run", plan, machine=CPU)


def test_unlabelled_cases_are_learnt_from(small_store, folds, tmp_path):
    place = Path(shutil.copytree(small_store, tmp_path / "store"))
    facts = place / "cases" / "b__b" / "case.json"
    write_json(facts, json.loads(facts.read_text()) | {"annotated": []})
    splits = json.loads((place / "splits.json").read_text())
    del splits["cases"]["b__b"]
    write_json(place / "splits.json", splits)
    plain, taught = (begin(RECIPE, open_store(place), CPU, distil=one) for one in (None, Distillation(folds)))
    assert {case.name for case in taught.training.cases} - {case.name for case in plain.training.cases} == {"b__b"}


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"weight": 0.0}, {"weight": 1.5}, {"temperature": float("nan")}]
)
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(SettingError, match="distillation: temperature"):
        Distillation(Path(), **settings)


def test_the_command_trains_a_student_that_predicts_alone(small_store, folds, student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.json").write_text(recipe_to_json(RECIPE))
    code, said = call(f"train recipe.json {small_store} run --distil {folds} --machine.accelerator cpu")
    assert code == 0, said
    assert "Compare on test cases" in said
    assert same(tensors(tmp_path / "run"), tensors(student))


def test_from_python_the_student_is_that_of_the_command(small_store, folds, student, tmp_path):
    with pytest.warns(TeacherWarning):
        viscera.train(RECIPE, small_store, tmp_path / "run", distil=folds, device="cpu")
    assert same(tensors(tmp_path / "run"), tensors(student))
