import json
from pathlib import Path

import pytest

from makers import nnunet_set
from viscera.config import ResizedSlices
from viscera.datasets.layouts import find_sources
from viscera.errors import DataSetError, SettingError, StoreError
from viscera.labels import LabelSpace
from viscera.preparation.own_splits import OwnSplits
from viscera.preparation.prepare import Plan, PrepareResult, prepare_store
from viscera.preparation.store import open_store

MINE = {"training": ["p0", "p1"], "validation": ["p2"], "test": ["p3"]}
SIDES = {"set__p0": "training", "set__p1": "training", "set__p2": "validation", "set__p3": "test"}
FOLDS = [{"train": ["p0", "p1", "p2"], "val": ["p3"]}, {"train": ["p1", "p2", "p3"], "val": ["p0"]}]


def prepare(store: Path, *folders: Path, file: Path | None = None, fold: int | None = None) -> PrepareResult:
    found = [find_sources("nnunet", folder) for folder in folders]
    return prepare_store(
        store,
        [source for ours, _ in found for source in ours],
        problems=[problem for _, ours in found for problem in ours],
        space=LabelSpace("two", ("liver", "spleen")),
        preparation=ResizedSlices(size=(16, 16)),
        plan=Plan(jobs=1, own=OwnSplits(file, fold)),
    )


def written(tmp_path: Path, content: object) -> Path:
    file = tmp_path / "mine.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.fixture
def folder(tmp_path) -> Path:
    return nnunet_set(tmp_path / "set", {f"p{n}": n for n in range(4)})


@pytest.mark.parametrize(
    "content",
    [
        MINE,
        {"train": ["p0", "p1"], "val": ["p2"], "ts": ["p3"]},
        {"p0": "Train", "p1": "training", "p2": "val", "p3": "testing"},
        {"seed": 0, "fractions": {}, "cases": SIDES},
        [MINE],
    ],
)
def test_a_split_that_is_brought_along_is_the_stores(tmp_path, folder, content):
    found = prepare(tmp_path / "store", folder, file=written(tmp_path, content))
    assert open_store(tmp_path / "store").splits == SIDES
    assert "set: divided as mine.json says" in found.notes


@pytest.mark.parametrize(("fold", "validated"), [(0, "p3"), (1, "p0")])
def test_a_fold_of_nnunets_is_chosen_by_its_number(tmp_path, folder, fold, validated):
    (folder / "splits_final.json").write_text(json.dumps(FOLDS))
    prepare(tmp_path / "file", folder, file=folder / "splits_final.json", fold=fold)
    prepare(tmp_path / "folder", folder, fold=fold)
    for store in ("file", "folder"):
        assert open_store(tmp_path / store).names("validation") == [f"set__{validated}"]
        assert len(open_store(tmp_path / store).names("training")) == 3


def test_a_split_in_the_data_sets_folder_counts_and_other_data_sets_are_drawn(tmp_path, folder):
    (folder / "splits.json").write_text(json.dumps(MINE))
    other = nnunet_set(tmp_path / "other", {f"q{n}": 10 + n for n in range(4)})
    prepare(tmp_path / "store", folder, other)
    splits = open_store(tmp_path / "store").splits
    assert SIDES.items() <= splits.items()
    assert {splits[f"other__q{n}"] for n in range(4)} == {"training", "validation", "test"}


def test_folds_of_which_none_was_chosen_are_not_used_in_silence(tmp_path, folder):
    (folder / "splits_final.json").write_text(json.dumps(FOLDS))
    found = prepare(tmp_path / "store", folder)
    assert "set: splits_final.json lists 2 folds and is not used; choose one by --fold" in found.notes


@pytest.mark.parametrize(
    ("content", "fold", "message"),
    [
        (MINE | {"trian": ["p3"]}, None, r"case 'p3' is in 'trian', which is no split\. Did you mean 'train'"),
        ({"p0": "training", "p1": 3}, None, r"case 'p1' is in 3, which is no split"),
        ({"training": ["p0", 1]}, None, r"case 1 is in 'training', which is no split"),
        (MINE | {"test": ["p3", "p4"]}, None, r"lists case 'p4', which is not in the data sets\. Correct the file"),
        (SIDES | {"set_p3": "test"}, None, r"'set_p3', which is not in the data sets\. Did you mean 'set__p3'"),
        (MINE | {"test": ["p3", "p0"]}, None, r"lists case 'p0' twice"),
        (MINE | {"test": ["p3", "set__p0"]}, None, r"lists case 'set__p0' twice"),
        (MINE | {"test": []}, None, r"does not list case 'p3' \(1 such case\)\. Add it to a split"),
        ({"test": ["p0", "p1", "p2", "p3"]}, None, r"leave no case for training"),
        ({}, None, r"does not say which cases are in which split"),
        ([], 0, r"has no fold 0: it lists 0"),
        ("[" * 100_000, None, r"cannot be read as JSON"),
        ("train: p0", None, r"cannot be read as JSON"),
        (FOLDS, None, r"lists 2 folds\. Choose one by --fold, from 0"),
        (FOLDS, 2, r"has no fold 2: it lists 2"),
        (["p0"], 0, r"does not say which cases"),
    ],
)
def test_a_split_that_is_not_understood_is_refused_before_any_work(tmp_path, folder, content, fold, message):
    with pytest.raises(DataSetError, match=message):
        prepare(tmp_path / "store", folder, file=written(tmp_path, content), fold=fold)
    assert open_store(tmp_path / "store").names() == []


def test_a_file_of_splits_that_is_not_there_and_folds_that_cannot_be_are_refused(tmp_path, folder):
    with pytest.raises(DataSetError, match=r"none\.json cannot be read as JSON: .*No such file"):
        prepare(tmp_path / "store", folder, file=tmp_path / "none.json")
    with pytest.raises(SettingError, match="the fold must not be negative, got -1"):
        OwnSplits(None, -1)
    with pytest.raises(SettingError, match="fold 1 was asked for, but no file lists folds"):
        prepare(tmp_path / "store", folder, file=written(tmp_path, MINE), fold=1)


def test_a_split_with_one_patient_on_two_sides_is_refused(tmp_path, folder):
    (folder / "patients.json").write_text('{"p0": "A", "p3": "A"}')
    with pytest.raises(
        DataSetError, match=r"'set__p0' \(training\) and 'set__p3' \(test\) show one patient, but are in diff"
    ):
        prepare(tmp_path / "store", folder, file=written(tmp_path, MINE))


def test_a_split_with_one_scan_on_two_sides_is_refused_and_not_written(tmp_path):
    twins = nnunet_set(tmp_path / "set", {"p0": 0, "p1": 1, "p2": 2, "p3": 0})
    with pytest.raises(DataSetError, match=r"'set__p0' \(training\) and 'set__p3' \(test\) show one patient"):
        prepare(tmp_path / "store", twins, file=written(tmp_path, MINE))
    assert open_store(tmp_path / "store").splits == {}


def test_a_side_in_the_store_is_not_changed_by_a_split_that_comes_later(tmp_path, folder):
    prepare(tmp_path / "store", folder, file=written(tmp_path, MINE))
    other = {"training": ["p3", "p1"], "validation": ["p2"], "test": ["p0"]}
    with pytest.raises(
        StoreError, match=r"'set__p3' is for test in .*, but for training in the splits given\. Prepare another"
    ):
        prepare(tmp_path / "store", folder, file=written(tmp_path, other))
    assert open_store(tmp_path / "store").splits == SIDES


def test_a_name_that_two_data_sets_have_must_be_written_in_full(tmp_path, folder):
    other = nnunet_set(tmp_path / "other", {"p0": 50})
    with pytest.raises(DataSetError, match=r"case 'p0' may be set__p0 or other__p0\. Write these longer names"):
        prepare(tmp_path / "store", folder, other, file=written(tmp_path, MINE))
    prepare(tmp_path / "store", folder, other, file=written(tmp_path, SIDES | {"other__p0": "test"}))
    assert open_store(tmp_path / "store").splits == SIDES | {"other__p0": "test"}


def test_a_case_that_cannot_be_used_may_be_listed(tmp_path, folder):
    (folder / "labelsTr/p1.nii.gz").unlink()
    prepare(tmp_path / "store", folder, file=written(tmp_path, MINE))
    assert open_store(tmp_path / "store").splits == {case: side for case, side in SIDES.items() if case != "set__p1"}
