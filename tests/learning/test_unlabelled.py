"""Scans without labels, from the folder to the student: prepared, in no split, labelled by teachers, then learnt from."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from makers import PARTIAL_RECIPE as RECIPE
from makers import call
from viscera.config import (
    AddedBoundaryLoss,
    PartialLoss,
    PatchSampling,
    SliceSampling,
)
from viscera.config.recipe_json import recipe_to_json
from viscera.io import nifti
from viscera.io.atomic import write_json
from viscera.labels import ABDOMENCT1K, LabelSpace
from viscera.learning.cases import chosen_cases, training_cases
from viscera.learning.sampling.index import read_batch
from viscera.learning.sampling.patches import PatchIndex, draw_patch_places, patch_start
from viscera.learning.sampling.reading import step_generator
from viscera.preparation.splits import unlabelled_cases
from viscera.preparation.store import UNSURE, Store, open_store, write_case
from viscera.reports.store import store_page
from viscera.volume import Volume

ORGANS = ABDOMENCT1K.organs


# What is drawn from them


def test_patches_of_an_unlabelled_case_lie_about_what_teachers_gave_it(make_case):
    pseudo = np.zeros((6, 8, 8), np.uint8)
    pseudo[4, 5, 6], pseudo[0] = 2, UNSURE
    case = make_case("a__0", annotated=(), labels=np.zeros(pseudo.shape, np.uint8))
    case = replace(case, labels=None, pseudo=pseudo, pseudo_annotated=("spleen",))
    index = PatchIndex.of([case], PatchSampling(size=(2, 2, 2), foreground_fraction=1))
    places = draw_patch_places(5, step_generator(0))
    assert {patch_start(index, 0, place) for place in places} == {(3, 4, 5)}
    numbers, space = np.zeros(5, np.int64), LabelSpace("two", ("liver", "spleen"))
    batch = read_batch(index, numbers, space=space, distance="boundary", places=places)
    assert not batch.labels.any()
    assert batch.known.all()
    assert batch.annotated.tolist() == [[True, False, False]] * 5
    assert batch.pseudo_annotated.tolist() == [[False, False, True]] * 5
    assert (batch.pseudo[:, 1, 1, 1] == 2).all()
    assert batch.distance[0, 1, 1, 1] == 1


# Which of them are learnt from


@pytest.fixture
def store(small_store, tmp_path, make_case) -> Store:
    """Copy the small store; add unlabelled cases: c__0 all filled in, c__1 the liver only, c__2 nothing."""
    path = tmp_path / "store"
    shutil.copytree(small_store, path)
    known = open_store(path)
    for number, organs in enumerate((ORGANS, ("liver",), ())):
        name, old = f"c__{number}", known.case("a__a")
        pseudo = np.array(old.labels)
        case = replace(make_case(name, annotated=(), labels=pseudo), labels=None)
        facts = replace(known.facts("a__a"), name=name, dataset="c", patient=name, annotated=(), voxels={})
        write_case(path, case, replace(facts, image_sha256=f"hash of {name}"))
        fill(path, name, organs, pseudo)
    return open_store(path)


def fill(path: Path, name: str, organs: tuple[str, ...], pseudo: np.ndarray) -> None:
    """Return a case pseudo-labels, as filling.py writes them."""
    write_json(path / "cases" / name / "pseudo.json", {"organs": list(organs)})
    np.save(path / "cases" / name / "pseudo.npy", pseudo)


def test_unlabelled_cases_are_learnt_from_exactly_where_teachers_filled_them_in(store):
    assert training_cases(store, RECIPE) == ["a__a", "a__c", "a__e", "b__b", "c__0", "c__1"]


@pytest.mark.parametrize("loss", [PartialLoss(pseudo=0), AddedBoundaryLoss()])
def test_a_loss_that_does_not_learn_from_pseudo_labels_gets_no_unlabelled_case(store, loss):
    assert training_cases(store, replace(RECIPE, loss=loss)) == ["a__a", "a__c", "a__e", "b__b"]


def test_a_case_is_complete_by_truth_and_pseudo_labels_together_but_not_for_validation(store):
    complete = PatchSampling(cases="complete")
    assert training_cases(store, replace(RECIPE, sampling=complete)) == ["a__a", "a__c", "a__e", "c__0"]
    fill(store.path, "b__b", ORGANS[1:], np.zeros((4, 16, 16), np.uint8))
    assert training_cases(store, replace(RECIPE, sampling=complete)) == ["a__a", "a__c", "a__e", "b__b", "c__0"]
    truth_only = replace(RECIPE, sampling=complete, loss=PartialLoss(pseudo=0))
    assert training_cases(store, truth_only) == ["a__a", "a__c", "a__e"]
    assert chosen_cases(store, ["b__b", "a__a"], complete) == ["a__a"]


def test_folds_of_labelled_cases_stay_when_unlabelled_ones_join(store):
    with_all, without = [], []
    for number in (1, 2):
        sampling = SliceSampling(fold=(number, 2))
        with_all.append(training_cases(store, replace(RECIPE, sampling=sampling)))
        without.append(training_cases(store, replace(RECIPE, sampling=sampling, loss=PartialLoss(pseudo=0))))
    assert [[name for name in names if name[0] != "c"] for names in with_all] == without
    assert sorted(name for names in with_all for name in names if name[0] == "c") == ["c__0", "c__1"]


def test_a_scan_that_turns_out_to_be_a_test_patient_is_no_longer_learnt_from(store):
    test = store.path / "cases" / "b__f" / "case.json"
    write_json(test, json.loads(test.read_text()) | {"image_sha256": "hash of c__0"})
    assert unlabelled_cases(store) == (["c__1", "c__2"], {"c__0": "b__f"})
    assert "c__0" not in training_cases(store, RECIPE)


def test_the_page_of_a_store_counts_unlabelled_cases(store, small_store):
    assert ("unlabelled", "3") in store_page(store.path).tiles
    assert "unlabelled" not in dict(store_page(small_store).tiles)


# The whole way


def scan(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return HU and labels of a patient with a liver and, brighter, a spleen."""
    generator = np.random.default_rng(number)
    labels = np.zeros((4, 16, 16), np.uint8)
    shift = number % 3
    labels[1:, 3 + shift : 9 + shift, 2:7], labels[1:, 8:13, 10:14] = 1, 3
    return (np.choose(labels, [-100, 80, 0, 250]) + generator.normal(0, 20, labels.shape)).astype(np.int16), labels


def put(path: Path, voxels: np.ndarray) -> None:
    affine = np.array([[0, 0, -2, 0], [0, -2, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]], float)
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(path, Volume(voxels, affine))


def done(command: str) -> str:
    code, text = call(command)
    assert code == 0, text
    return text


@pytest.mark.slow
@pytest.mark.filterwarnings("always::viscera.learning.pseudolabels.teachers.TeacherWarning")
def test_from_a_folder_of_scans_to_a_student_that_learnt_from_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("recipe.json").write_text(recipe_to_json(RECIPE))
    for number in range(1, 6):
        hu, labels = scan(number)
        put(Path("known", "Image", f"Case_{number:05d}_0000.nii.gz"), hu)
        put(Path("known", "Mask", f"Case_{number:05d}.nii.gz"), labels)
    done("prepare store --data abdomenct1k=known --recipe recipe.json --jobs 1")
    before = Path("store", "splits.json").read_bytes()
    (tested,) = open_store(Path("store")).names("test")
    for number in (6, 7):
        put(Path("more", f"x{number}_0000.nii.gz"), scan(number)[0])
    put(Path("more", "again.nii.gz"), scan(int(tested[-5:]))[0])

    said = done("prepare store --data abdomenct1k=known images=more --recipe recipe.json --jobs 1")
    assert "more: no labels (3 cases)" in said
    assert ", 3 unlabelled (" in said
    assert f"{tested}, more__again: the same scan, so one patient" in said
    assert Path("store", "splits.json").read_bytes() == before

    train = "train recipe.json store {} --machine.accelerator cpu --machine.threads 1 --training.seed {}"
    for seed in (0, 1):
        done(train.format(f"teacher{seed}", seed))
    assert not any("more" in name for name in splits("teacher0")["training"])
    said = done("pseudolabel teacher0 teacher1 store --device cpu")
    assert f"1 unlabelled scan left out: the same scan or patient as a labelled case: more__again ({tested})" in said
    assert "Pseudo-labels of unlabelled scans" in said
    assert "2 of 2 cases filled in" in said
    store = open_store(Path("store"))
    for number in (6, 7):
        given, truth = store.case(f"more__x{number}").pseudo, scan(number)[1]
        for organ in (1, 3):
            both = ((given == organ) & (truth == organ)).sum()
            assert 2 * both / ((given == organ).sum() + (truth == organ).sum()) > 0.7

    done(train.format("student", 2))
    assert splits("student")["training"][-2:] == ["more__x6", "more__x7"]
    assert splits("student")["validation"] == splits("teacher0")["validation"]
    assert splits("student")["test"] == [tested]
    assert json.loads(Path("student", "last.json").read_text())["provenance"]["pseudo_labelled_cases"]["liver"] == 2
    done("predict images=more maps --weights student --device cpu")
    assert {file.name for file in Path("maps").glob("*.nii.gz")} == {"x6.nii.gz", "x7.nii.gz", "again.nii.gz"}


def splits(run: str) -> dict[str, list[str]]:
    """Return the cases that a run saw."""
    return json.loads(Path(run, "run.json").read_text())["splits"]
