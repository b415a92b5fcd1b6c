"""Patients made while a network trains: which they are, that a killed run ends alike, and what happens when a process dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from makers import rows, same, tensors
from viscera.cli.command import main
from viscera.config import (
    Machine,
    PatchSampling,
    Recipe,
    ResizedSlices,
    SliceInference,
    SpacedSlices,
    Training,
    UNetShape,
)
from viscera.config.recipe_json import recipe_to_json
from viscera.datasets.sources import Source
from viscera.datasets.synthetic import Cohort, make_patient
from viscera.errors import RunError, SettingError
from viscera.io import nifti
from viscera.labels import ABDOMENCT1K, STARTER19, LabelSpace
from viscera.learning.cases import fresh_organs
from viscera.learning.run_folder import claim_run
from viscera.learning.setup import begin, epoch_indices
from viscera.learning.synthetic_patients import (
    FIRST,
    OnlinePatients,
    PatientWorker,
    TrainingData,
    make_fresh,
    open_patients,
)
from viscera.learning.training import Watch, train
from viscera.preparation.case import prepare_case
from viscera.preparation.store import Case, Store, open_store
from viscera.synthesis.canvas import ORGANS
from viscera.synthesis.patient import synthesize
from viscera.synthesis.template.template import Reshaping, Template
from viscera.synthesis.variety import PLAIN, RICH

RECIPE = Recipe(
    name="tiny",
    label_space="abdomenct1k",
    preparation=ResizedSlices(size=(16, 16)),
    network=UNetShape(widths=(4, 8)),
    training=Training(epochs=3, visits_per_slice=2, batch_size=4, learning_rate=5e-3, precision="32-true"),
    inference=SliceInference(batch_size=2),
)
STEPS = 4 * 4 * 2 // 4
"""Of an epoch: four training cases of four slices, each visited twice, in batches of four."""
FRESH = OnlinePatients(patients=2, shape=(16, 48, 48), variety=PLAIN, jobs=1)
ON_CPU = Machine(accelerator="cpu", save_every_s=0)
SMALL = Cohort("nnunet", seed=0, shape=(16, 48, 48))


def made(folder: Path, cohort: Cohort, number: int, *, space=ABDOMENCT1K, preparation=RECIPE.preparation) -> Case:
    (folder / "cases").mkdir(parents=True)
    store = Store(folder, space, preparation)
    make_fresh(store, cohort, number, name="000001")
    return store.case("fresh__000001")


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.fixture
def supply(small_store) -> TrainingData:
    return TrainingData(open_store(small_store), FRESH)


@pytest.fixture(scope="module")
def finished(small_store, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run") / "whole"
    train(RECIPE, TrainingData(open_store(small_store), FRESH), run, machine=ON_CPU)
    return run


def test_a_patient_is_prepared_as_if_it_had_been_written_to_files_and_prepared_from_them(tmp_path):
    preparation = SpacedSlices(spacing_mm=6.0)
    rich = replace(SMALL, variety=RICH)
    case = made(tmp_path / "here", rich, 1, space=STARTER19, preparation=preparation)
    patient = make_patient(rich, 1)
    image, labels = tmp_path / "x" / "image.nii.gz", tmp_path / "x" / "labels.nii.gz"
    nifti.write(image, patient.ct)
    nifti.write(labels, patient.labels)
    source = Source("x", "x", "x", image, labels, tuple(patient.organs.items()), ORGANS)
    expected, _ = prepare_case(source, space=STARTER19, preparation=preparation)
    assert np.array_equal(case.image, expected.image)
    assert np.array_equal(case.truth, expected.truth)
    assert case.annotated == expected.annotated == STARTER19.organs
    assert case.known is None
    assert expected.known is None


def test_a_patient_depends_on_seed_and_number_only_and_is_none_of_a_data_set_with_the_same_seed(tmp_path):
    first = made(tmp_path / "a", SMALL, FIRST)
    assert np.array_equal(first.image, made(tmp_path / "b", SMALL, FIRST).image)
    others = [made(tmp_path / "c", SMALL, FIRST + 1), made(tmp_path / "d", replace(SMALL, seed=1), FIRST)]
    others += [made(tmp_path / f"{number}", SMALL, number) for number in (1, 2)]  # of `viscera synth --seed 0`
    assert not any(np.array_equal(first.image, other.image) for other in others)


@pytest.mark.slow
def test_an_epoch_has_its_own_patients_and_only_those_of_the_next_are_kept_beside_them(supply, tmp_path):
    seen = []
    with PatientWorker(tmp_path, supply, epochs=3) as maker:
        for epoch in range(3):
            maker.need(epoch)
            cases = open_patients(tmp_path, epoch, supply)
            seen += [np.array(case.image).tobytes() for case in cases]
            assert [case.name for case in cases] == [f"fresh__{2 * epoch + 1:06d}", f"fresh__{2 * epoch + 2:06d}"]
            there = {folder.name for folder in (tmp_path / "fresh").iterdir()}
            assert there == {f"epoch_{number:04d}" for number in range(epoch + 1, min(epoch + 3, 4))}
    assert len(set(seen)) == 6
    assert not (tmp_path / "fresh").exists()


def test_an_epoch_draws_from_the_stores_cases_and_the_fresh_ones_or_from_these_alone(small_store, tmp_path):
    both = TrainingData(open_store(small_store), replace(FRESH, patients=1))
    alone = TrainingData(both.store, replace(both.fresh, only=True))
    session = begin(RECIPE, both, ON_CPU)
    own = [case.name for case in session.training.cases]
    # The second one finds what the first one had made: no process starts.
    with epoch_indices(session, both, tmp_path) as first, epoch_indices(session, alone, tmp_path) as second:
        assert [case.name for case in first(2).cases] == [*own, "fresh__000003"]
        assert [case.name for case in second(2).cases] == ["fresh__000003"]
        assert (len(first(2)), len(second(2))) == (4 * len(own) + 16, 16)
    assert session.steps == STEPS


@pytest.mark.slow
def test_an_epoch_has_as_many_steps_as_without_fresh_patients_and_nothing_is_left(finished):
    assert [row["step"] for row in rows(finished)] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert not (finished / "fresh").exists()
    assert json.loads((finished / "run.json").read_text())["fresh"]["patients"] == 2


def test_fresh_patients_change_what_is_learnt(small_store, finished, tmp_path):
    train(RECIPE, open_store(small_store), tmp_path / "without", machine=ON_CPU)
    assert not same(tensors(tmp_path / "without"), tensors(finished))


@pytest.mark.slow
def test_a_run_that_is_killed_in_an_epoch_goes_on_with_the_same_patients_to_the_same_weights(
    supply, finished, tmp_path
):
    def step(epoch: int, done: int, steps: int) -> None:
        if (epoch, done) == (2, 3):
            raise Killed

    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(RECIPE, supply, run, machine=ON_CPU, watch=Watch(step=step))
    kept, half = (run / "fresh" / "epoch_0002" / "cases" / f"fresh__00000{number}" for number in (3, 4))
    before = kept.stat().st_mtime_ns
    half.rename(half.with_name(".1.fresh__000004"))  # as if it had been killed while writing that
    other = replace(supply.fresh, seed=1)
    with pytest.raises(SettingError, match=r"was begun with other fresh patients: fresh\.seed was 0, now 1\. Say them"):
        train(RECIPE, TrainingData(supply.store, other), run, existing="resume")
    with pytest.raises(SettingError, match=r"fresh was \{'patients': 2.*, now None"):
        train(RECIPE, supply.store, run, existing="resume")
    resumed = []

    def note(epoch: int, done: int, steps: int) -> None:
        if epoch == 2:
            resumed.append((kept.stat().st_mtime_ns, half.is_dir()))

    train(RECIPE, supply, run, machine=ON_CPU, existing="resume", watch=Watch(step=note))
    assert resumed == [(before, True)] * (STEPS - 2)  # the state was saved after the second step
    assert same(tensors(run), tensors(finished))
    assert rows(run) == rows(finished)


def test_overwriting_a_run_removes_its_fresh_patients_and_forgets_which_they_were(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "fresh" / "epoch_0001" / "cases" / "fresh__000001").mkdir(parents=True)  # would be taken for a whole one
    claim_run(run, RECIPE, resume=False, overwrite=True)
    assert {file.name for file in run.iterdir()} == {"recipe.json", ".lock"}


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_with_advice_and_without_a_hang(supply, tmp_path):
    def kill(epoch: int, done: int, steps: int) -> None:
        for child in psutil.Process().children():
            with suppress(psutil.ZombieProcess):  # killed at an earlier step, and not yet waited for
                if any("spawn_main" in word for word in child.cmdline()):
                    child.kill()

    with pytest.raises(RunError, match=r"fresh patients for epoch 2 died, probably for lack of memory\. Pass --resume"):
        train(RECIPE, supply, tmp_path / "run", machine=ON_CPU, watch=Watch(step=kill))


def test_a_folder_that_cannot_be_written_to_is_said(supply, tmp_path):
    (tmp_path / "fresh").write_text("a file")
    maker = PatientWorker(tmp_path, supply, epochs=1)
    with maker, pytest.raises(RunError, match=r"cannot be written to .*fresh: .*\. Make room, and pass --resume"):
        maker.need(0)


@pytest.mark.slow
def test_processes_end_with_a_run_that_is_killed(small_store, tmp_path):
    code = (
        "from pathlib import Path\nfrom viscera.preparation.store import open_store\n"
        "from viscera.learning.synthetic_patients import *\n"
        "if __name__ == '__main__':\n"
        "    patients = OnlinePatients(patients=1, shape=(16, 48, 48), jobs=1)\n"
        f"    supply = TrainingData(open_store(Path({str(small_store)!r})), patients)\n"
        f"    maker = PatientWorker(Path({str(tmp_path)!r}), supply, epochs=1); maker.need(0)\n"
        "    print('made', flush=True); import time; time.sleep(60)\n"
    )
    (tmp_path / "make.py").write_text(code)
    with subprocess.Popen([sys.executable, tmp_path / "make.py"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "made\n"
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert any("spawn_main" in word for worker in workers for word in worker.cmdline())
        os.kill(parent.pid, signal.SIGKILL)
    psutil.wait_procs(workers, timeout=20)
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"patients": 0}, "patients 0, seed 0, jobs 0. Ask for at least 1 patient"),
        ({"seed": -1}, "seed -1, jobs 0"),
        ({"shape": (96, 160, 8)}, "shape 96x160x8. Give at least 16"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, said):
    with pytest.raises(SettingError, match=said):
        OnlinePatients(**{"patients": 1} | wrong)


def test_a_store_without_training_cases_is_refused_for_it_says_how_long_an_epoch_is(small_store, tmp_path):
    shutil.copytree(small_store, tmp_path / "store")
    splits = json.loads((tmp_path / "store" / "splits.json").read_text())
    splits["cases"] = dict.fromkeys(splits["cases"], "validation")
    (tmp_path / "store" / "splits.json").write_text(json.dumps(splits))
    supply = TrainingData(open_store(tmp_path / "store"), replace(FRESH, only=True))
    with pytest.raises(SettingError, match="no training cases, and fresh patients cannot stand for them"):
        train(RECIPE, supply, tmp_path / "run")


def small_template(*annotated: str) -> Template:
    nothing = np.zeros((4, 4, 4), np.uint8)
    return Template(nothing, nothing, nothing, (0.0, 0.0, 0.0), annotated, (), Reshaping())


def test_templates_that_do_not_annotate_what_is_asked_for_are_refused(small_store):
    both = replace(FRESH, templates=(small_template("liver", "spleen"), small_template("liver")))
    supply = TrainingData(open_store(small_store), both)
    assert fresh_organs(supply, RECIPE) == {"liver", "spleen"}
    complete = replace(RECIPE, sampling=PatchSampling(cases="complete"))
    with pytest.raises(
        SettingError, match=r"template 1 does not annotate kidney, pancreas\. Pass --sampling.cases any"
    ):
        fresh_organs(supply, complete)
    with pytest.raises(SettingError, match="template 1 does not annotate liver, kidney, spleen, pancreas. Take templ"):
        fresh_organs(TrainingData(supply.store, replace(FRESH, templates=(small_template("skin"),))), RECIPE)
    assert both.facts()["templates"] != replace(both, templates=both.templates[::-1]).facts()["templates"]


def test_organs_that_only_the_store_annotates_are_not_learnt_from_fresh_patients_alone(small_store):
    partly = replace(FRESH, only=True, templates=(small_template("liver", "spleen"),))
    supply = TrainingData(open_store(small_store), partly)
    with pytest.warns(
        UserWarning, match="no training case annotates kidney, pancreas: the network will never find them"
    ):
        begin(RECIPE, supply, ON_CPU)
    begin(RECIPE, TrainingData(supply.store, replace(partly, only=False)), ON_CPU)  # without a warning


def test_organs_that_synthetic_patients_lack_are_not_annotated():
    assert FRESH.annotated(LabelSpace("x", ("liver", "tumour"))) == [("liver",)]


def test_fresh_patients_with_tumours_are_those_without_but_for_the_lesions_and_label_them(tmp_path):
    space = LabelSpace("x", ("liver", "tumour"))
    sick, cohort = replace(FRESH, tumours=True), replace(SMALL, shape=(32, 64, 64))
    assert sick.annotated(space) == [("liver", "tumour")]
    assert sick.facts() == FRESH.facts() | {"tumours": True}
    well, ill = (
        made(tmp_path / str(tumours), replace(cohort, tumours=tumours), 1, space=space) for tumours in (False, True)
    )
    assert well.annotated == ("liver",)
    assert ill.annotated == ("liver", "tumour")
    lesion = np.asarray(ill.labels) == 2
    assert lesion.any()
    assert not (np.asarray(well.labels) == 2).any()
    assert np.array_equal(np.asarray(well.labels)[~lesion], np.asarray(ill.labels)[~lesion])


@pytest.mark.slow
def test_the_command_makes_patients_of_a_label_map_and_says_what_does_not_go_together(small_store, tmp_path, capsys):
    patient = synthesize(np.random.default_rng(5), shape=(24, 48, 48), scan="upper", orientation="axial")
    labels = tmp_path / "labels.nii.gz"
    # In the size of a doll, so that its template is small.
    doll = np.array([[0, 0, -2, 0], [0, -2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1.0]])
    nifti.write(labels, replace(patient.labels, affine=doll))
    (tmp_path / "labels.json").write_text(json.dumps({"labels": {name: n for n, name in patient.organs.items()}}))
    once = replace(RECIPE, training=replace(RECIPE.training, epochs=1))
    (tmp_path / "recipe.json").write_text(recipe_to_json(once))
    words = ["train", str(tmp_path / "recipe.json"), str(small_store), str(tmp_path / "run"), "--machine.accelerator",
             "cpu"]  # fmt: skip
    assert main([*words, "--fresh.only"]) == 2
    assert "--fresh.patients is 0, but other --fresh settings are given" in capsys.readouterr().err
    fresh = ["--fresh.patients", "1", "--fresh.shape", "16", "48", "48", "--fresh.template", str(labels)]
    assert main([*words, *fresh, "--fresh.template-image", "a", "b"]) == 2
    assert "--fresh.template-image names 2 scans, --fresh.template 1 label maps" in capsys.readouterr().err
    assert main([*words, *fresh, "--fresh.only", "--fresh.variety", "plain"]) == 0
    noted = json.loads((tmp_path / "run" / "run.json").read_text())["fresh"]
    assert (noted["only"], noted["variety"], len(noted["templates"])) == (True, [], 1)
    assert rows(tmp_path / "run")[0]["step"] == STEPS


@pytest.mark.slow
def test_two_processes_train_on_the_patients_that_the_first_has_made(small_store, tmp_path):
    (tmp_path / "recipe.json").write_text(recipe_to_json(RECIPE))
    command = [sys.executable, "-m", "viscera.cli", "train", str(tmp_path / "recipe.json"), str(small_store),
               str(tmp_path / "two"), "--machine.devices", "2", "--machine.accelerator", "cpu", "--fresh.patients", "2",
               "--fresh.shape", "16", "48", "48"]  # fmt: skip
    subprocess.run(command, check=True, timeout=200)
    assert [row["step"] for row in rows(tmp_path / "two")] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert not (tmp_path / "two" / "fresh").exists()
