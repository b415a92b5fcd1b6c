import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from makers import SMALL_AFFINE, nnunet_set
from viscera.config import ResizedSlices
from viscera.datasets.layouts import find_sources
from viscera.errors import DataSetError, StoreError
from viscera.io import nifti
from viscera.labels import LabelSpace
from viscera.preparation.prepare import Plan, PrepareResult, prepare_store
from viscera.preparation.splits import update_splits
from viscera.preparation.store import open_store
from viscera.volume import Volume

SPACE = LabelSpace("three", ("liver", "spleen", "aorta"))


def prepare(store: Path, *data: tuple[str, Path], space: LabelSpace = SPACE) -> PrepareResult:
    found = [find_sources(layout, folder) for layout, folder in data]
    sources, problems = [one for ours, _ in found for one in ours], [one for _, ours in found for one in ours]
    small = ResizedSlices(size=(16, 16))
    return prepare_store(store, sources, problems=problems, space=space, preparation=small, plan=Plan(jobs=1))


def changes(found: PrepareResult) -> list[str]:
    return [note.partition("prepared anew: ")[2] for note in found.notes if "so prepared anew" in note]


@pytest.fixture
def ours(tmp_path) -> Path:
    return nnunet_set(tmp_path / "hospital_a" / "data", {"p0": 0, "p1": 1, "p2": 2})


@pytest.fixture
def theirs(tmp_path) -> Path:
    return nnunet_set(tmp_path / "hospital_b" / "data", {"p0": 10, "p1": 11, "p2": 12})


def test_another_data_set_of_the_same_name_does_not_take_the_place_of_the_first(tmp_path, ours, theirs):
    prepare(tmp_path / "store", ("nnunet", ours))
    before = open_store(tmp_path / "store").facts("data__p0")
    with pytest.raises(
        DataSetError, match=r"another data set called 'data': 3 of .* the same names, of which 0 show the"
    ) as e:
        prepare(tmp_path / "store", ("nnunet", theirs))
    assert "Give the data set a name of its own: nnunet:NAME=DIR." in e.value.remedy
    assert open_store(tmp_path / "store").facts("data__p0").source == before.source
    prepare(tmp_path / "store", ("nnunet:b", theirs))
    assert open_store(tmp_path / "store").names() == [f"{name}__p{n}" for name in ("b", "data") for n in range(3)]


def test_another_data_set_whose_cases_have_other_names_is_refused_too(tmp_path, ours):
    prepare(tmp_path / "store", ("nnunet", ours))
    others = nnunet_set(tmp_path / "hospital_b" / "data", {"q0": 10, "q1": 11})
    with pytest.raises(DataSetError, match=r"another data set called 'data': 0 of their cases have the same names"):
        prepare(tmp_path / "store", ("nnunet", others))


def test_one_scan_that_both_have_does_not_make_two_data_sets_one(tmp_path, ours):
    prepare(tmp_path / "store", ("nnunet", ours))
    others = nnunet_set(tmp_path / "hospital_b" / "data", {"p0": 0, "p1": 11, "p2": 12})
    with pytest.raises(DataSetError, match=r"3 of their cases have the same names, of which 1 show the same scan"):
        prepare(tmp_path / "store", ("nnunet", others))


def test_two_folders_of_one_name_in_one_command_are_refused(tmp_path, ours):
    others = nnunet_set(tmp_path / "hospital_b" / "data", {"q0": 10})
    with pytest.raises(
        DataSetError, match=r"two folders are data sets called 'data'\. Give one of .*: nnunet:NAME=DIR"
    ):
        prepare(tmp_path / "store", ("nnunet", ours), ("nnunet", others))
    with pytest.raises(
        DataSetError, match=r"two cases would both be 'data__p0' in the store\. Give each data set once"
    ):
        prepare(tmp_path / "store", ("nnunet", ours), ("nnunet", ours))
    assert not (tmp_path / "store").exists()


def test_names_of_data_set_and_case_that_run_together_are_told_apart(tmp_path):
    prepare(tmp_path / "store", ("nnunet", nnunet_set(tmp_path / "a", {"b__c": 1})))
    with pytest.raises(DataSetError, match=r"case 'a__b__c' in .* comes from data set 'a', not 'a__b'"):
        prepare(tmp_path / "store", ("nnunet", nnunet_set(tmp_path / "a__b", {"c": 2})))
    prepare(tmp_path / "hidden", ("nnunet", nnunet_set(tmp_path / ".data", {"c": 3})))
    with pytest.raises(DataSetError, match=r"comes from data set '\.data', not 'data'"):
        prepare(tmp_path / "hidden", ("nnunet", nnunet_set(tmp_path / "data", {"c": 4})))


def test_a_store_knows_its_data_sets_by_content_and_not_by_path(tmp_path, ours, theirs):
    prepare(tmp_path / "one", ("nnunet", ours), ("nnunet:b", theirs))
    found = json.loads((tmp_path / "one" / "datasets.json").read_text())
    assert {name: (one["layout"], one["cases"]) for name, one in found.items()} == {
        "b": ("nnunet", 3),
        "data": ("nnunet", 3),
    }
    assert found["b"]["fingerprint"] != found["data"]["fingerprint"]
    moved = Path(shutil.copytree(ours, tmp_path / "archive" / "data"))
    prepare(tmp_path / "two", ("nnunet", moved))
    assert json.loads((tmp_path / "two" / "datasets.json").read_text()) == {"data": found["data"]}
    texts = [file.read_text() for file in (tmp_path / "one").rglob("*.json")]
    assert not any("hospital_a" in text or str(tmp_path) in text for text in texts)
    nnunet_set(ours, {"p0": 77})
    prepare(tmp_path / "one", ("nnunet", ours))
    after = json.loads((tmp_path / "one" / "datasets.json").read_text())
    assert after["data"]["fingerprint"] != found["data"]["fingerprint"]
    assert after["b"] == found["b"]


def test_a_data_set_that_was_moved_and_touched_is_not_prepared_again(tmp_path, ours):
    prepare(tmp_path / "store", ("nnunet", ours))
    moved = tmp_path / "elsewhere" / "data"
    moved.parent.mkdir()
    shutil.copytree(ours, moved)
    for file in moved.rglob("*.nii.gz"):
        os.utime(file, (1, 1))
    for _ in range(2):
        found = prepare(tmp_path / "store", ("nnunet", moved))
        assert (found.prepared, changes(found)) == ((), [])
    stamp = open_store(tmp_path / "store").facts("data__p0").source.stamps[0]
    assert stamp[1] == 10**9


def test_labels_that_changed_under_the_same_size_and_date_are_noticed(tmp_path, ours):
    file = ours / "labelsTr/p1.nii"
    (ours / "labelsTr/p1.nii.gz").unlink()
    nifti.write(file, Volume(np.zeros((4, 32, 32), np.uint8), SMALL_AFFINE))
    prepare(tmp_path / "store", ("nnunet", ours))
    before = file.stat()
    nifti.write(file, Volume(np.ones((4, 32, 32), np.uint8), SMALL_AFFINE), overwrite=True)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    found = prepare(tmp_path / "store", ("nnunet", ours))
    assert (found.prepared, changes(found)) == (("data__p1",), ["labels (1 case)"])
    assert open_store(tmp_path / "store").facts("data__p1").voxels["spleen"] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "annotated.json").write_text('{"p0": ["liver"]}'), "organs annotated (1 case)"),
        (lambda folder: (folder / "patients.json").write_text('{"p0": "A", "p1": "A"}'), "patient (2 cases)"),
        (
            lambda folder: nnunet_set(folder, {}, organs=("liver", "aorta")),
            "names of the labels (3 cases), organs annotated (3 cases)",
        ),
        (lambda folder: nnunet_set(folder, {"p2": 99}), "scan (1 case)"),
    ],
)
def test_whatever_changed_after_a_store_was_prepared_is_prepared_anew_and_said(tmp_path, ours, change, said):
    prepare(tmp_path / "store", ("nnunet", ours))
    assert changes(prepare(tmp_path / "store", ("nnunet", ours))) == []
    change(ours)
    found = prepare(tmp_path / "store", ("nnunet", ours))
    assert changes(found) == [said]
    assert len(found.prepared) == max(int(number) for number in said if number.isdigit())
    assert changes(prepare(tmp_path / "store", ("nnunet", ours))) == []


def test_a_patient_never_stands_on_two_sides_once_patients_json_says_who_is_who(tmp_path):
    cases = {f"pat{n}_{phase}": 2 * n + number for n in range(6) for number, phase in enumerate(("art", "ven"))}
    folder = nnunet_set(tmp_path / "set", cases)
    first = prepare(tmp_path / "store", ("nnunet", folder))
    assert any("6 groups of cases have names with the same stem (pat0_art, pat0_ven)" in note for note in first.notes)
    (folder / "patients.json").write_text(json.dumps({case: case[:4] for case in cases}))
    second = prepare(tmp_path / "store", ("nnunet", folder))
    prepare(tmp_path / "fresh", ("nnunet", folder))
    for place in ("store", "fresh"):
        sides = open_store(tmp_path / place).splits
        assert all(sides[f"set__pat{n}_art"] == sides[f"set__pat{n}_ven"] for n in range(6))
    assert set(open_store(tmp_path / "fresh").splits.values()) == {"training", "validation", "test"}
    assert any("so some were moved: " in note and "prepare a new store" in note for note in second.notes)
    assert not any("same stem" in note for note in second.notes)


def test_a_word_that_is_no_split_in_a_stores_splits_is_refused_and_not_dropped(tmp_path, ours):
    prepare(tmp_path / "store", ("nnunet", ours))
    file = tmp_path / "store" / "splits.json"
    content = json.loads(file.read_text())
    content["cases"]["data__p0"] = "train"
    file.write_text(json.dumps(content))
    with pytest.raises(
        StoreError, match=r"splits.json: case 'data__p0' is in 'train', which is not a split\. Write training, val"
    ):
        open_store(tmp_path / "store")
    with pytest.raises(StoreError, match=r"'train', which is not a split"):
        prepare(tmp_path / "store", ("nnunet", ours))


def test_a_case_in_splits_that_is_gone_is_said(tmp_path, ours):
    prepare(tmp_path / "store", ("nnunet", ours))
    shutil.rmtree(tmp_path / "store" / "cases" / "data__p1")
    store = open_store(tmp_path / "store")
    notes = update_splits(store, fractions=Plan().fractions, seed=0)
    assert notes == ["data__p1: had a side in splits.json, but is no case to learn from any more"]


def test_a_lesions_voxels_never_become_known_background_of_the_organ_around_them(tmp_path):
    kits = nnunet_set(tmp_path / "kits", {"c0": 0}, organs=("kidney", "tumor", "cyst"))
    whole = prepare(tmp_path / "whole", ("nnunet", kits), space=LabelSpace("one", ("kidney",)))
    case = open_store(tmp_path / "whole").case("kits__c0")
    assert case.known is None
    assert set(np.unique(case.truth[:, -4:])) == {1}  # the stripes of all three
    assert "kits: kidney_cyst: merged into kidney (1 case)" in whole.notes
    both = nnunet_set(tmp_path / "both", {"c0": 0}, organs=("kidney_left", "kidney_right", "cyst"))
    prepare(tmp_path / "sides", ("nnunet", both), space=LabelSpace("sides", ("kidney_left", "kidney_right")))
    sided = open_store(tmp_path / "sides").case("both__c0")
    assert sided.known is not None
    assert not (sided.known & (sided.truth == 0))[:, -4:].any()


def test_a_misspelt_organ_is_unknown_in_the_store(tmp_path):
    amos = nnunet_set(tmp_path / "amos", {"c0": 0}, organs=("liver", "arota"))
    found = prepare(tmp_path / "store", ("nnunet", amos))
    case = open_store(tmp_path / "store").case("amos__c0")
    assert case.annotated == ("liver",)
    assert case.known is not None
    assert not case.known[:, -4:, 8:].any()
    assert case.known[:, -4:, :8].all()
    assert any(
        "arota: viscera does not know this name" in note and "Did you mean 'aorta'?" in note for note in found.notes
    )
