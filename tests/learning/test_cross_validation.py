"""Cross-validated runs on a store of seconds: every case labelled by who never saw it, kills between and within folds, choices."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import viscera
from makers import PARTIAL_RECIPE, call, same, tensors
from viscera.config import Contrast, ForegroundScore, Machine, Postprocessing, SliceSampling
from viscera.config.recipe_json import recipe_to_json
from viscera.datasets.sources import Source
from viscera.errors import DataSetError, RunError, SettingError
from viscera.evaluation.scores import evaluation_from_json
from viscera.inference.ensemble import mean_model
from viscera.inference.model import load_model
from viscera.inference.prepared import prepared_labels
from viscera.io import nifti
from viscera.io.locks import locked
from viscera.learning.cross_validation.held_out import FOLDER
from viscera.learning.cross_validation.running import FoldPlan, FoldWatch, cross_validate, read_folds
from viscera.learning.cross_validation.trying import choose, dice_of, tidied
from viscera.learning.foreground_hu import measure_foreground
from viscera.learning.training import Watch, train
from viscera.preparation.folds import fold_store
from viscera.preparation.splits import of_split
from viscera.preparation.store import open_store
from viscera.volume import Volume

RECIPE = replace(PARTIAL_RECIPE, training=replace(PARTIAL_RECIPE.training, epochs=2, visits_per_slice=1))
CPU = Machine("cpu", save_every_s=0)
FIVE = ["a__a", "a__c", "a__e", "b__b", "b__d"]
"""The cases of conftest's small store that train or validate; a__... annotate all, b__... the liver. b__f is for test."""


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.fixture(scope="module")
def store(small_store):
    return open_store(small_store)


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("cv") / "run"
    cross_validate(RECIPE, store, run, FoldPlan(2), machine=CPU)
    return run


def copied(run: Path, place: Path) -> Path:
    return Path(shutil.copytree(run, place / "copy"))


def test_each_case_is_labelled_by_the_network_that_did_not_learn_from_it(finished, store):
    folds = read_folds(finished)
    assert sorted(folds.cases) == FIVE
    for name, number in folds.cases.items():
        facts = json.loads((finished / f"fold_{number}" / "run.json").read_text())["splits"]
        assert name in facts["validation"]
        assert name not in facts["training"]
        assert facts["test"] == ["b__f"]
        case, model = store.case(name), load_model(finished / f"fold_{number}", accelerator="cpu", runtime="torch")
        volume = nifti.read(finished / FOLDER / f"{name}.nii.gz")
        assert np.array_equal(volume.voxels, prepared_labels(case.image, model, case.geometry))
        assert np.allclose(volume.affine, case.geometry.prepared_affine)
        said = json.loads((finished / FOLDER / f"{name}.json").read_text())
        assert said["run"]["weights_sha256"] == model.weights_sha256
        assert said["labels"] == {"1": "liver", "2": "kidney", "3": "spleen", "4": "pancreas"}


def test_a_fold_is_the_run_that_training_alone_on_its_cases_gives(finished, store, tmp_path):
    train(RECIPE, fold_store(store, read_folds(finished), 1), tmp_path / "alone", machine=CPU)
    assert same(tensors(tmp_path / "alone"), tensors(finished / "fold_1"))


def test_scores_are_of_annotated_organs_of_all_cases(finished, store):
    found = evaluation_from_json((finished / FOLDER / "scores.json").read_text(), where="scores.json")
    assert {score.case for score in found.scores} == set(FIVE)
    assert {score.organ for score in found.scores if score.case.startswith("b__")} == {"liver"}
    liver = next(row for row in found.summary if (row.organ, row.metric) == ("liver", "dice"))
    assert liver.cases == 5
    for score in found.scores:  # an independent Dice
        case = store.case(score.case)
        labels = nifti.read(finished / FOLDER / f"{score.case}.nii.gz").voxels
        index = store.space.index(score.organ)
        truth, said = np.asarray(case.labels) == index, labels == index
        total = truth.sum() + said.sum()
        assert score.values["dice"] == pytest.approx(2 * (truth & said).sum() / total if total else np.nan, nan_ok=True)
    again = {(one.case, one.organ): one.values["dice"] for one in dice_of(finished / FOLDER, store, FIVE)}
    for score in found.scores:
        assert again[score.case, score.organ] == pytest.approx(score.values["dice"], nan_ok=True)


@pytest.mark.parametrize(
    "stop",
    [pytest.param((0, 1, 2), marks=pytest.mark.slow), (1, 2, 1)],
    ids=["within the first fold", "within the second"],
)
def test_what_was_killed_goes_on_to_the_same_weights(finished, store, tmp_path, stop):
    run, at = tmp_path / "run", []

    def step(epoch: int, done: int, steps: int) -> None:
        if (at[-1], epoch, done) == stop:
            raise Killed

    watch = FoldWatch(lambda number, *_: at.append(number), Watch(step=step))
    with pytest.raises(Killed):
        cross_validate(RECIPE, store, run, FoldPlan(2), machine=CPU, watch=watch)
    assert not (run / FOLDER / "scores.json").exists()
    found = cross_validate(RECIPE, store, run, FoldPlan(), machine=CPU, existing="resume")
    assert found is not None
    for number in (0, 1):
        assert same(tensors(run / f"fold_{number}"), tensors(finished / f"fold_{number}"))
    assert (run / FOLDER / "scores.json").read_text() == (finished / FOLDER / "scores.json").read_text()


def test_what_was_killed_between_folds_labels_only_what_is_missing(finished, store, tmp_path):
    run = copied(finished, tmp_path)
    (run / FOLDER / "scores.json").unlink()
    gone = read_folds(run).held_out(1)[0]
    (run / FOLDER / f"{gone}.nii.gz").unlink()
    stamps = {file.name: file.stat().st_mtime_ns for file in (run / FOLDER).glob("*.nii.gz")}
    assert cross_validate(RECIPE, store, run, FoldPlan(), machine=CPU, existing="resume") is not None
    after = {file.name: file.stat().st_mtime_ns for file in (run / FOLDER).glob("*.nii.gz")}
    assert {name for name in after if stamps.get(name) != after[name]} == {f"{gone}.nii.gz"}


def test_folds_can_be_trained_one_by_one_and_the_last_one_writes_the_table(finished, store, tmp_path):
    run = tmp_path / "run"
    assert cross_validate(RECIPE, store, run, FoldPlan(2, only=1), machine=CPU) is None
    assert not (run / "fold_0").exists()
    assert cross_validate(RECIPE, store, run, FoldPlan(only=0), machine=CPU) is not None
    assert same(tensors(run / "fold_1"), tensors(finished / "fold_1"))
    assert (run / "folds.json").read_text() == (finished / "folds.json").read_text()


def test_two_processes_cannot_train_one_fold(store, tmp_path):
    with (
        locked(tmp_path / "run" / "fold_1", what="is being trained"),
        pytest.raises(RunError, match="fold_1 is being trained by another process"),
    ):
        cross_validate(RECIPE, store, tmp_path / "run", FoldPlan(2, only=1), machine=CPU)


def test_what_stands_there_is_not_overwritten_unasked(finished, store, tmp_path):
    with pytest.raises(RunError, match="holds a cross-validated run already. Pass --resume"):
        cross_validate(RECIPE, store, finished, FoldPlan(2), machine=CPU)
    with pytest.raises(RunError, match="fold_0 holds a run already"):
        cross_validate(RECIPE, store, finished, FoldPlan(2, only=0), machine=CPU)
    with pytest.raises(RunError, match="was begun with other folds: 2 of them, drawn"):
        cross_validate(RECIPE, store, finished, FoldPlan(3), machine=CPU, existing="resume")
    with pytest.raises(RunError, match="holds a cross-validated run"):
        train(RECIPE, store, finished, machine=CPU)
    with pytest.raises(RunError, match="holds an ordinary run"):
        cross_validate(RECIPE, store, finished / "fold_0", FoldPlan(2), machine=CPU)
    other = replace(RECIPE, training=replace(RECIPE.training, learning_rate=1e-3))
    with pytest.raises(SettingError, match="fold_0 was begun with other settings: training.learning_rate"):
        cross_validate(other, store, finished, FoldPlan(only=1), machine=CPU, existing="resume")
    run = copied(finished, tmp_path)
    cross_validate(RECIPE, store, run, FoldPlan(3, only=None), machine=CPU, existing="overwrite")
    assert read_folds(run).count == 3


IMPOSSIBLE = {
    "sampling.fold": (
        replace(RECIPE, sampling=SliceSampling(fold=(1, 2))),
        CPU,
        FoldPlan(2),
        "sampling.fold leaves out",
    ),
    "devices": (RECIPE, Machine("cpu", devices=2), FoldPlan(2), "trains each fold on one device"),
    "no number": (RECIPE, CPU, FoldPlan(), "how many folds there are to be"),
    "no such fold": (RECIPE, CPU, FoldPlan(2, only=2), "--fold 2: the folds are 0 to 1"),
}


@pytest.mark.parametrize(("recipe", "machine", "plan", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_cannot_be_is_refused_before_anything_is_written(store, tmp_path, recipe, machine, plan, message):
    with pytest.raises(SettingError, match=message):
        cross_validate(recipe, store, tmp_path / "run", plan, machine=machine)
    assert not (tmp_path / "run").exists()


def test_own_folds_are_trained_as_they_are(store, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"folds": [["a", "b"], ["c", "d", "e"]]}))
    cross_validate(RECIPE, store, tmp_path / "run", FoldPlan(file=file, only=0), machine=CPU)
    facts = json.loads((tmp_path / "run" / "fold_0" / "run.json").read_text())
    assert facts["splits"]["validation"] == ["a__a", "b__b"]
    assert read_folds(tmp_path / "run").origin == "mine.json"
    file.write_text(json.dumps({"folds": [["a", "b"], ["c", "d"]]}))
    with pytest.raises(DataSetError, match="holds case 'a__e' out in no fold"):
        cross_validate(RECIPE, store, tmp_path / "other", FoldPlan(file=file), machine=CPU)


def test_damaged_folds_are_told(finished, tmp_path):
    for content, message in (
        ("{", "is damaged"),
        ('{"count": 3, "cases": {"a__a": 0}}', "are not in the folds 0 to 2"),
    ):
        (tmp_path / "folds.json").write_text(content)
        with pytest.raises(RunError, match=message):
            read_folds(tmp_path)


@pytest.fixture(scope="module")
def second(store, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("cv2") / "other"
    cross_validate(replace(RECIPE, training=replace(RECIPE.training, seed=1)), store, run, FoldPlan(2), machine=CPU)
    return run


def test_runs_together_are_asked_for_a_case_without_the_networks_that_learnt_from_it(finished, second, store, tmp_path):
    out = tmp_path / "choice.json"
    found = choose([finished, second], out, accelerator="cpu")
    assert (found.cases, found.patients) == (5, 5)
    for name in FIVE:
        case = store.case(name)
        runs = (finished, second)
        folders = [run / f"fold_{read_folds(run).cases[name]}" for run in runs]
        models = [load_model(folder, accelerator="cpu", runtime="torch") for folder in folders]
        expected = prepared_labels(case.image, mean_model(models, names=["a", "b"]), case.geometry)
        labels = nifti.read(tmp_path / "choice_out_of_fold" / f"{name}.nii.gz").voxels
        assert np.array_equal(labels, expected)
    written = json.loads(out.read_text())
    assert written["chosen"] == found.decision.chosen.name
    assert "not taken" in written["why"][-1]  # five patients cannot be more than noise
    assert len(written["members"]) == 2
    assert not any(name in out.read_text() for name in FIVE)  # it travels with weights, and names no case
    assert load_model(out, accelerator="cpu", runtime="torch").members[0].name.endswith("fold_0")


def test_choosing_of_one_run_tries_post_processing_alone(finished, tmp_path, capsys):
    out = tmp_path / "one.json"
    code, said = call(f"choose {finished} --out {out} --device cpu")
    assert code == 0
    assert "run is the only run" in said
    assert "post-processing: none" in said
    code, said = call(f"choose {finished} --out {out}")
    assert code == 2
    assert "exists already" in said


def test_a_prepared_case_is_tidied_on_its_own_grid(store):
    case = store.case("a__a")
    labels = np.zeros(case.image.shape, np.uint8)
    labels[:3, 3:9, 3:9], labels[1, 5, 5], labels[3, 14, 14] = 1, 0, 1
    settings = Postprocessing(fill_holes=("liver",), largest_components={"liver": 1})
    found = tidied(case, labels, settings, space=store.space)
    assert found.sum() == 3 * 36
    moved = tidied(case, labels, Postprocessing(edge_by_hu_mm={"liver": 2.0}), space=store.space)
    assert moved.shape == labels.shape


def test_runs_that_cannot_be_compared_are_refused(finished, store, tmp_path):
    with pytest.raises(SettingError, match="each once"):
        choose([finished, finished], tmp_path / "c.json")
    with pytest.raises(RunError, match="is not a cross-validated run"):
        choose([finished / "fold_0"], tmp_path / "c.json")
    run = copied(finished, tmp_path)
    (run / FOLDER / "a__c.nii.gz").write_bytes(b"")
    with pytest.raises(RunError, match="is not finished: 1 held-out cases"):
        choose([run], tmp_path / "c.json")
    other = copied(finished, tmp_path / "x")
    facts = json.loads((other / "fold_0" / "run.json").read_text())
    facts["scans"]["a__a"] = "another"
    (other / "fold_0" / "run.json").write_text(json.dumps(facts))
    with pytest.raises(SettingError, match="case 'a__a' is another scan"):
        choose([finished, other], tmp_path / "c.json")


def test_the_command_trains_folds_and_shows_the_table(small_store, tmp_path):
    recipe, run = tmp_path / "recipe.json", tmp_path / "run"
    recipe.write_text(recipe_to_json(replace(RECIPE, training=replace(RECIPE.training, epochs=1, visits_per_slice=1))))
    words = f"train {recipe} {small_store} {run} --machine.accelerator cpu"
    code, said = call(f"{words} --folds 2 --fold 0")
    assert code == 0, said
    assert "fold 0: " in said
    assert "the table of all cases follows with the last fold" in said
    code, said = call(f"{words} --fold 1")
    assert code == 0, said
    assert "Mean [95 % interval over patients]" in said
    assert "liver" in said
    assert "viscera predict SCAN OUT --weights" in said
    code, said = call(words)  # without --resume, and without --folds: it is a cross-validated run all the same
    assert code == 2
    assert "Pass --resume" in said


@pytest.mark.slow
def test_a_cross_validation_killed_at_random_instants_ends_with_the_weights_of_one_that_was_not(
    small_store, finished, tmp_path
):
    recipe, run = tmp_path / "recipe.json", tmp_path / "run"
    recipe.write_text(recipe_to_json(RECIPE))
    command = [sys.executable, "-m", "viscera.cli", "train", str(recipe), str(small_store), str(run), "--folds", "2",
               "--resume", "--machine.save-every-s", "0", "--machine.accelerator", "cpu"]  # fmt: skip
    generator = np.random.default_rng(0)
    for kill in range(30):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=3 + generator.uniform(0, 4) if kill < 10 else 200)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.returncode == 0
    for number in (0, 1):
        assert same(tensors(run / f"fold_{number}"), tensors(finished / f"fold_{number}"))


def test_predicting_with_all_folds_with_one_and_with_a_choice(finished, tmp_path):
    scan = Volume(np.random.default_rng(0).integers(-300, 300, (4, 16, 16)).astype(np.int16), np.diag([2.0, 1, 1, 1]))
    nifti.write(tmp_path / "scan.nii.gz", scan)
    choose([finished], tmp_path / "choice.json", accelerator="cpu")
    words = f"predict {tmp_path}/scan.nii.gz {tmp_path}"
    found = {}
    for name, options in {
        "all": f"--weights {finished}",
        "one": f"--weights {finished} --fold 1",
        "alone": f"--weights {finished}/fold_1",
        "chosen": f"--weights {tmp_path}/choice.json",
    }.items():
        code, said = call(f"{words}/{name}.nii.gz {options} --device cpu --runtime torch")
        assert code == 0, said
        averaged = (
            "2 networks (run/fold_0, run/fold_1) whose probabilities are averaged: up to 2 times the time" in said
        )
        assert averaged == (name in ("all", "chosen"))
        facts = json.loads((tmp_path / f"{name}.json").read_text())["run"]
        assert len(facts.get("members", ())) == (2 if averaged else 0)
        found[name] = nifti.read(tmp_path / f"{name}.nii.gz").voxels
    assert np.array_equal(found["one"], found["alone"])
    assert np.array_equal(found["all"], found["chosen"])
    code, said = call(f"{words}/x.nii.gz --weights {finished} --fold 2")
    assert (code, "--fold 2: " in said) == (2, True)
    code, said = call(f"{words}/x.nii.gz --fold 0")
    assert (code, "Say --weights RUN" in said) == (2, True)
    model = viscera.load_model(finished, device="cpu", runtime="torch")
    assert len(model.members) == 2
    assert np.array_equal(viscera.segment(scan, model).voxels, found["all"])
    assert viscera.load_model(finished, device="cpu", runtime="torch", fold=1).members == ()


def test_other_verbs_say_that_a_run_has_several_networks(finished, tmp_path):
    code, said = call(f"report {finished} --out {tmp_path}/page.html")
    assert code == 0, said
    assert "liver" in (tmp_path / "page.html").read_text()
    code, said = call(f"export {finished} {tmp_path}/out")
    assert code == 2
    assert "2 networks that answer together, not one" in said
    code, said = call(f"pseudolabel {finished} {finished} {tmp_path}")
    assert code == 2


def test_the_test_cases_of_a_cross_validated_run_are_those_of_its_folds(finished):
    source = Source("f", "b", "f", Path("f.nii.gz"), None, (), ())
    with pytest.raises(RunError, match="each fold of .* has other validation cases"):
        of_split([source], finished, "validation")
    with pytest.raises(SettingError, match="none of the 1 cases is in the split 'test'"):
        of_split([replace(source, name="a", dataset="a")], finished, "test")


def test_folds_share_what_is_measured_of_the_organs_so_that_they_can_answer_together(store, tmp_path):
    recipe = replace(RECIPE, intensity=ForegroundScore(), training=replace(RECIPE.training, epochs=1))
    cross_validate(recipe, store, tmp_path / "run", FoldPlan(2), machine=CPU)
    measured = [
        load_model(tmp_path / "run" / f"fold_{n}", accelerator="cpu").recipe.intensity.measured for n in range(2)
    ]
    expected = measure_foreground([store.case(name) for name in FIVE], ForegroundScore(), contrast=Contrast()).measured
    assert measured == [expected, expected]
    assert len(load_model(tmp_path / "run", accelerator="cpu", runtime="torch").members) == 2
    assert cross_validate(recipe, store, tmp_path / "run", FoldPlan(), machine=CPU, existing="resume") is not None


def test_from_python_the_same_folds_scores_and_weights_come_out(finished, small_store, tmp_path):
    told: list[tuple[int, int]] = []
    found = viscera.cross_validate(
        RECIPE,
        small_store,
        tmp_path / "run",
        folds=2,
        device="cpu",
        on_epoch=lambda row: told.append((row["fold"], row["epoch"])),
    )
    assert told == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert (tmp_path / "run" / "folds.json").read_text() == (finished / "folds.json").read_text()
    assert all(same(tensors(tmp_path / "run" / f"fold_{n}"), tensors(finished / f"fold_{n}")) for n in (0, 1))
    written = evaluation_from_json((finished / "out_of_fold" / "scores.json").read_text(), where="finished")
    dice = [[(one.case, one.organ, one.values["dice"]) for one in scores] for scores in (found.scores, written.scores)]
    assert repr(dice[0]) == repr(dice[1])  # nan is not nan
    with pytest.raises(RunError, match="other folds"):
        viscera.cross_validate(RECIPE, small_store, tmp_path / "run", folds=3, existing="resume")


def test_from_python_own_folds_are_taken(small_store, tmp_path):
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"folds": [FIVE[:2], FIVE[2:]]}))
    viscera.cross_validate(RECIPE, small_store, tmp_path / "run", folds=own, device="cpu")
    assert read_folds(tmp_path / "run").held_out(0) == FIVE[:2]
