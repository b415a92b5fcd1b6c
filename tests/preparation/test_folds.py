"""Folds: every case held out once, patients whole, data sets alike; users' own folds, and each way they can be wrong."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from viscera.config import ResizedSlices
from viscera.errors import DataSetError, RunError, SettingError
from viscera.io.atomic import write_json
from viscera.labels import ABDOMENCT1K
from viscera.preparation.folds import draw_folds, fold_store, own_folds, require_whole
from viscera.preparation.store import Facts, SourceFacts, create_store, facts_to_json, open_store

ALL, SOME = ABDOMENCT1K.organs, ("liver", "spleen")


@pytest.fixture(scope="module")
def geometry(make_case):
    return make_case("a__x", annotated=(), labels=np.zeros((1, 2, 2), np.uint8)).geometry


@pytest.fixture
def store_of(tmp_path, geometry):
    """Return a function that makes a store of {case: (split or None, patient, annotated, hash of the voxels)}."""

    def make(cases):
        store = create_store(tmp_path / "store", space=ABDOMENCT1K, preparation=ResizedSlices(size=(16, 16)))
        for name, (_, patient, annotated, image) in cases.items():
            dataset = name.partition("__")[0]
            source = SourceFacts(f"{name}.nii.gz", (), "", (), (), (), annotated, ())
            facts = Facts(name, dataset, patient, annotated, (), source, geometry, image, {}, {})
            write_json(store.path / "cases" / name / "case.json", facts_to_json(facts))
        splits = {name: split for name, (split, *_) in cases.items() if split}
        write_json(store.path / "splits.json", {"cases": splits})
        return open_store(store.path)

    return make


def many(**changed):
    """Return 20 patients of a, of whom 8 annotate all, 7 of b, and two test cases, a patient with three scans among them."""
    cases = {f"a__{n:02}": ("training", str(n), ALL if n < 8 else SOME, "") for n in range(20)}
    cases |= {f"b__{n:02}": ("validation" if n < 2 else "training", str(n), SOME, "") for n in range(7)}
    cases |= {f"a__19{phase}": ("training", "19", SOME, "") for phase in "xy"}
    return cases | {"a__test": ("test", "t", ALL, ""), "b__test": ("test", "t", ALL, "")} | changed


def test_every_case_is_held_out_once_and_test_cases_never(store_of):
    store = store_of(many())
    folds = draw_folds(store, 5)
    assert sorted(folds.cases) == sorted([*store.names("training"), *store.names("validation")])
    held = [name for number in range(5) for name in folds.held_out(number)]
    assert sorted(held) == sorted(folds.cases)
    for number in range(5):
        own = fold_store(store, folds, number)
        assert own.names("test") == ["a__test", "b__test"]
        assert own.names("validation") == folds.held_out(number)
        assert sorted([*own.names("training"), *own.names("validation")]) == sorted(folds.cases)


def test_data_sets_and_annotated_organs_are_spread_evenly(store_of):
    folds = draw_folds(store_of(many()), 5)
    for chosen in (lambda n: n[0] == "a" and int(n[3:5]) < 8, lambda n: n[0] == "a", lambda n: n[0] == "b"):
        patients = {(name[:5], fold) for name, fold in folds.cases.items() if chosen(name)}
        counts = Counter(fold for _, fold in patients)
        assert max(counts.values()) - min(counts[fold] for fold in range(5)) <= 1
    totals = Counter(fold for _, fold in {(name[:5], fold) for name, fold in folds.cases.items()})
    assert max(totals.values()) - min(totals.values()) <= 2


def test_patients_stay_together_by_name_and_by_equal_voxels(store_of):
    twins = {"a__00": ("training", "0", ALL, "same"), "b__03": ("training", "3", SOME, "same")}
    for seed in range(5):
        folds = draw_folds(store_of(many(**twins)), 5, seed=seed)
        assert folds.cases["a__19"] == folds.cases["a__19x"] == folds.cases["a__19y"]
        assert folds.cases["a__00"] == folds.cases["b__03"]


def test_the_same_store_gives_the_same_folds_and_another_seed_others(store_of):
    store = store_of(many())
    assert draw_folds(store, 5) == draw_folds(store, 5)
    assert draw_folds(store, 5) != draw_folds(store, 5, seed=1)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_no_fold_is_empty_while_there_are_patients_enough(store_of, count):
    names = [f"{dataset}__{n}" for dataset in "abc" for n in range(3)]
    store = store_of({name: ("training", name, (ALL, SOME, ("liver",))[int(name[-1])], "") for name in names})
    assert {*draw_folds(store, count).cases.values()} == set(range(count))


@pytest.mark.parametrize(
    ("count", "message"), [(1, "two folds or more"), (28, "has 27 patients to train and validate")]
)
def test_folds_that_cannot_be_are_refused(store_of, count, message):
    with pytest.raises(SettingError, match=message):
        draw_folds(store_of(many()), count)


FEW = {
    "a__1": ("training", "1", ALL, ""),
    "a__2": ("training", "2", ALL, ""),
    "a__3": ("validation", "3", ALL, ""),
    "b__3": ("training", "3", ALL, ""),
    "b__4x": ("training", "4", SOME, ""),
    "b__4y": ("training", "4", SOME, ""),
    "b__scan": (None, "5", (), ""),
    "a__t": ("test", "9", ALL, ""),
}
NNUNET = [
    {"train": ["b__3", "4x", "4y"], "val": ["1", "2", "a__3"]},
    {"train": ["1", "2", "a__3"], "val": ["b__3", "4x", "4y"]},
]
EXPECTED = {"a__1": 0, "a__2": 0, "a__3": 0, "b__3": 1, "b__4x": 1, "b__4y": 1}


@pytest.mark.parametrize(
    "content",
    [
        NNUNET,
        {"folds": [["1", "2", "a__3"], ["b__3", "4x", "4y"]]},
        {"count": 2, "origin": "drawn", "cases": EXPECTED},
    ],
    ids=["nnunet", "ours", "folds.json"],
)
def test_own_folds_are_read_in_three_forms(store_of, tmp_path, content):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    folds = own_folds(store_of(FEW), file)
    assert (folds.count, folds.cases, folds.origin) == (2, EXPECTED, "mine.json")


def held(*folds):
    return {"folds": [list(fold) for fold in folds]}


WRONG = {
    "not JSON": ("[", "cannot be read as JSON"),
    "another form": ({"training": ["1"]}, "does not say which cases each fold holds out"),
    "no list": ([{"train": ["1"]}], "does not say which cases"),
    "a number for a name": (held(["1", 2]), "does not say which cases"),
    "one fold": (held(["1", "2", "a__3", "b__3", "4x", "4y"]), "has 1 folds"),
    "unknown": (
        held(["1", "2", "a__3", "b__33"], ["b__3", "4x", "4y"]),
        "case 'b__33', which is not in .* Did you mean 'b__3'",
    ),
    "two of one name": (held(["1", "2", "3"], ["b__3", "4x", "4y"]), "case '3' may be a__3 or b__3"),
    "a test case": (held(["1", "2", "a__3", "t"], ["b__3", "4x", "4y"]), "'t', which is for test in"),
    "nothing annotated": (
        held(["1", "2", "a__3"], ["b__3", "4x", "4y", "scan"]),
        "'scan', which annotates none of the organs",
    ),
    "left out": (held(["1", "2"], ["b__3", "4x", "4y"]), "holds case 'a__3' out in no fold"),
    "held out twice": (held(["1", "2", "a__3"], ["b__3", "4x", "4y", "1"]), "holds case 'a__1' out in folds 0 and 1"),
    "named twice": (held(["1", "1", "2", "a__3"], ["b__3", "4x", "4y"]), "'a__1' out in fold 0, twice"),
    "an empty fold": (held(["1", "2", "a__3"], ["b__3", "4x", "4y"], []), "fold 2 holds no case out"),
    "a patient in two": (
        held(["1", "2", "a__3", "4x"], ["b__3", "4y"]),
        "'b__4x' .fold 0. and 'b__4y' .fold 1. show one",
    ),
    "trains on what it holds out": (
        [NNUNET[0] | {"train": ["1", "b__3", "4x", "4y"]}, NNUNET[1]],
        "fold 0, case 'a__1': the fold trains on a case that it holds out",
    ),
    "neither": ([NNUNET[0] | {"train": ["b__3", "4x"]}, NNUNET[1]], "case 'b__4y': the fold neither trains on it nor"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG.keys())
def test_own_folds_that_are_wrong_are_refused(store_of, tmp_path, content, message):
    file = tmp_path / "mine.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataSetError, match=message):
        own_folds(store_of(FEW), file)


def test_own_folds_must_be_as_many_as_are_asked_for(store_of, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(NNUNET))
    assert own_folds(store_of(FEW), file, 2).count == 2
    with pytest.raises(SettingError, match="--folds 5: .* has 2 folds"):
        own_folds(store_of(FEW), file, 5)


def test_a_store_with_other_cases_than_the_folds_is_refused(store_of):
    store = store_of(FEW)
    folds = draw_folds(store, 2)
    require_whole(store, folds, where="RUN")
    with pytest.raises(RunError, match="has changed since RUN was begun: case 'a__1' is in no fold"):
        require_whole(store, without(folds, "a__1"), where="RUN")
    with pytest.raises(RunError, match="case 'gone' is not to train or validate on any more"):
        require_whole(store, replace(folds, cases={**folds.cases, "gone": 0}), where="RUN")


def without(folds, case):
    return replace(folds, cases={name: fold for name, fold in folds.cases.items() if name != case})
