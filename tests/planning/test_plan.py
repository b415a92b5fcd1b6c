"""viscera plan from end to end on small synthetic data sets: the plan is prepared and trained as it stands."""

import json
import re
from pathlib import Path

import pytest

import viscera
from makers import call, nnunet_set
from viscera.cli.command import main
from viscera.config.recipe_json import recipe_from_json
from viscera.datasets.layouts import find_sources
from viscera.errors import DataSetError, SettingError
from viscera.planning.grounds import grounds_of_data
from viscera.planning.measurement import Measured
from viscera.planning.plan import Request, plan_data, plan_store
from viscera.preparation.own_splits import OwnSplits
from viscera.preparation.store import open_store

QUICK = Measured(steps=4, step_s=0.1, validated_s=1e-4, held_mib=100, peak_mib=200)


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> Path:
    """Plan for two data sets, of which neither annotates what the other does."""
    folder = tmp_path_factory.mktemp("planned")
    viscera.synthesize(folder / "upper", cases=4, shape=(16, 32, 32), annotate=["liver", "spleen"], seed=1)
    viscera.synthesize(folder / "lower", cases=4, shape=(16, 32, 32), annotate=["kidney", "pancreas"], seed=2)
    sets = [f"nnunet={folder / name}" for name in ("upper", "lower")]
    words = ["plan", *sets, "--hours", "0.5", "--device", "cpu", "--out", str(folder / "plan.json")]
    assert main(words) == 0
    return folder


@pytest.mark.slow
def test_the_plan_explains_measures_and_says_what_comes_next(planned):
    found = json.loads((planned / "plan.json").read_text())
    assert found["data"]["annotated"] == {"lower": {"kidney": 4, "pancreas": 4}, "upper": {"liver": 4, "spleen": 4}}
    assert found["recipe"]["label_space"] == "abdomenct1k"
    assert found["recipe"]["loss"]["unannotated"] == "marginal"
    assert found["because"]["kind"]["value"] == "2D"
    last = found["measured"]["tries"][-1]
    assert last["step_s"] > 0
    assert last["peak_mib"] > last["held_mib"] > 50
    assert str(planned) not in (planned / "plan.json").read_text()  # no folder of the user's


@pytest.mark.slow
def test_the_plan_is_prepared_and_trained_as_it_stands(planned, capsys):
    sets = [f"nnunet={planned / name}" for name in ("upper", "lower")]
    plan = str(planned / "plan.json")
    assert main(["prepare", str(planned / "store"), "--data", *sets, "--recipe", plan, "--jobs", "1"]) == 0
    few = ["--training.epochs", "1", "--training.visits-per-slice", "0.05", "--machine.accelerator", "cpu"]
    assert main(["train", plan, str(planned / "store"), str(planned / "run"), *few]) == 0
    assert (planned / "run" / "best.safetensors").is_file()
    capsys.readouterr()
    told: list[str] = []
    again = plan_store(
        planned / "store", Request(0.5, "cpu", trial_s=0.5), tell=lambda what, done, of: told.append(what)
    )
    assert again.recipe.preparation == open_store(planned / "store").preparation
    assert any(what.startswith("trying planned-viscera2d, width 16") for what in told)
    recipe = recipe_from_json((planned / "plan.json").read_text(), where="plan")
    assert again.recipe.loss == recipe.loss


@pytest.mark.slow
def test_a_context_network_and_a_3d_one_are_measured_too(tmp_path):
    from viscera.planning.choices import slice_recipes, volume_recipe
    from viscera.planning.grounds import grounds_of_store
    from viscera.planning.measurement import Trial, measure

    viscera.synthesize(tmp_path / "set", cases=3, shape=(24, 40, 40), seed=1)
    recipe = viscera.find_recipe("viscera25d")
    viscera.prepare(tmp_path / "slices", {"nnunet": tmp_path / "set"}, recipe=recipe, jobs=1)
    grounds = grounds_of_store(tmp_path / "slices", lambda *said: None)
    [narrow, _] = slice_recipes("2.5D with context", recipe, recipe.preparation, window=(64, 64))
    found = measure(Trial(narrow, grounds.sample(recipe.preparation), 0.0, "cpu"))
    assert found is not None
    assert min(found.context_step_s, found.seen_s, found.step_s) > 0
    volume, _ = volume_recipe(recipe, grounds.fingerprint, None, device="cpu", most=32**3)
    viscera.prepare(tmp_path / "volumes", {"nnunet": tmp_path / "set"}, recipe=volume, jobs=1)
    grounds = grounds_of_store(tmp_path / "volumes", lambda *said: None)
    found = measure(Trial(volume, grounds.sample(volume.preparation), 0.0, "cpu"))
    assert found is not None
    assert found.steps >= 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"data": {}}, "data names no data set"),
        ({"data": "nowhere", "hours": 0}, "hours must be more than 0"),
        ({"data": "nowhere", "out": "plan.txt"}, "a plan is a .json file"),
        ({"data": "nowhere", "label_space": "flare13"}, "nowhere is not a prepared store"),
    ],
)
def test_python_is_refused_alike(arguments, said):
    with pytest.raises(viscera.VisceraError, match=said):
        viscera.plan(**arguments)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("plan", "one prepared store, or data sets as LAYOUT=DIR"),
        ("plan store nnunet=set", "one prepared store, or data sets as LAYOUT=DIR"),
        ("plan nowhere", "nowhere is not a prepared store"),
        ("plan nnunet=set --hours 0", "hours must be more than 0"),
        ("plan nnunet=set --max-memory 0", "max_memory must be more than 0"),
        ("plan nnunet=set --out plan.txt", "a plan is a .json file"),
        ("plan nnunet=set --out there.json", "there.json exists already. Choose another name or pass --overwrite"),
        ("plan nnunet=set --out nowhere/plan.json", "lies in none that is there"),
        ("plan nnunet=set --label-space flar13", "Did you mean 'flare13'"),
        ("plan nnunett=set", "nnunett"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_work_begins(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nnunet_set(tmp_path / "set", {"one": 1})
    (tmp_path / "there.json").write_text("{}")
    code, text = call(words)
    assert code == 2
    assert re.search(said, text), text
    assert not (tmp_path / "plan.json").exists()
    assert (tmp_path / "there.json").read_text() == "{}"


def test_splits_in_a_data_sets_folder_are_heeded_though_only_a_sample_is_tried(tmp_path):
    assert call(f"synth {tmp_path / 'set'} --cases 8 --shape 16 24 24 --jobs 1")[0] == 0
    cases = [f"case_{number:04d}" for number in range(1, 9)]
    splits = tmp_path / "set" / "splits.json"
    splits.write_text(json.dumps({"training": cases[:7], "validation": cases[7:], "test": []}))
    sources, problems = find_sources("nnunet", tmp_path / "set")

    def look():
        return grounds_of_data(sources, problems, space=None, folder=tmp_path / "sample", tell=lambda *_: None)

    found = look()
    assert (found.fingerprint.training_cases, found.fingerprint.validation_cases) == (7, 1)
    assert found.notes == ("set: divided as splits.json says",)
    splits.write_text(json.dumps({"training": cases[:7]}))
    with pytest.raises(DataSetError, match="does not list case 'case_0008'"):
        look()


def test_a_plan_for_splits_of_ones_own_counts_the_cases_that_are_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("synth set --cases 6 --shape 16 24 24 --jobs 1")[0] == 0
    cases = [f"case_{number:04d}" for number in range(1, 7)]
    folds = [{"train": cases[2:], "val": cases[:2]}, {"train": cases[:5], "val": cases[5:]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    sources, problems = find_sources("nnunet", tmp_path / "set")
    counted = []
    for fold in (0, 1):
        request = Request(own=OwnSplits.of(("splits_final.json", fold)))
        plan = plan_data(sources, problems, request, tell=lambda *_: None, trial=lambda trial: QUICK)
        counted.append((plan.fingerprint.training_cases, plan.fingerprint.validation_cases))
    assert counted == [(4, 2), (5, 1)]
    with pytest.raises(SettingError, match="store is a store, whose cases are divided already"):
        plan_store(Path("store"), request, tell=lambda *_: None)
