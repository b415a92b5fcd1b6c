import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscera.config import ResizedSlices
from viscera.datasets.sources import Source
from viscera.errors import DataSetError, RunError, SettingError
from viscera.labels import ABDOMENCT1K
from viscera.preparation.splits import (
    Fractions,
    Member,
    divide,
    fold_of,
    group_by_patient,
    of_split,
    unlabelled_cases,
    update_splits,
)
from viscera.preparation.store import Facts, SourceFacts, create_store, open_store, write_case


def cohort(dataset: str, patients: int, *, start: int = 0) -> list[Member]:
    """Patients with one case each."""
    numbers = range(start, start + patients)
    return [Member(f"{dataset}__{n:03}", dataset, f"{n:03}", f"{dataset} {n}") for n in numbers]


def sides(splits: dict[str, str], dataset: str) -> dict[str, int]:
    own = [split for name, split in splits.items() if name.startswith(dataset)]
    return {split: own.count(split) for split in ("training", "validation", "test")}


members = st.lists(
    st.builds(
        lambda dataset, patient, image: (dataset, patient, image),
        st.sampled_from(["amos", "flare", "word"]),
        st.sampled_from("abcdefgh"),
        st.sampled_from("0123456789"),
    ),
    max_size=40,
).map(lambda rows: [Member(f"{d}__{n:03}", d, p, i) for n, (d, p, i) in enumerate(rows)])
fractions = st.sampled_from([Fractions(), Fractions(0.5, 0.25, 0.25), Fractions(0.8, 0.2, 0.0), Fractions(1, 0, 0)])


@given(members, fractions, st.integers(0, 9))
def test_one_patient_never_stands_on_two_sides(cases, shares, seed):
    splits = divide(cases, fractions=shares, seed=seed)
    assert splits.keys() == {case.name for case in cases}
    for a in cases:
        for b in cases:
            if (a.dataset, a.patient) == (b.dataset, b.patient) or a.image_sha256 == b.image_sha256:
                assert splits[a.name] == splits[b.name]


@given(members, st.integers(0, 9), st.randoms())
def test_the_order_of_the_cases_does_not_matter(cases, seed, random):
    shuffled = random.sample(cases, len(cases))
    assert divide(cases, seed=seed) == divide(shuffled, seed=seed)


@given(st.integers(1, 60), st.integers(0, 9))
def test_each_data_set_is_divided_by_the_fractions(patients, seed):
    found = sides(divide(cohort("amos", patients), seed=seed), "amos")
    least = 1 if patients >= 3 else 0
    assert found["validation"] == max(least, int(0.1 * patients + 0.5))
    assert found["test"] == max(least, int(0.2 * patients + 0.5))
    assert found["training"] >= 1


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
def test_a_data_set_is_divided_the_same_whatever_else_is_there(first, second, seed):
    alone = divide(cohort("amos", first), seed=seed)
    both = divide(cohort("amos", first) + cohort("word", second), seed=seed)
    assert alone.items() <= both.items()


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 9), st.integers(0, 9))
def test_sides_are_kept_when_cases_join(before, more, seed, other_seed):
    old = divide(cohort("amos", before), seed=seed)
    cases = cohort("amos", before + more) + cohort("word", 5)
    new = divide(cases, seed=other_seed, before=old)
    assert old.items() <= new.items()
    if more >= 2 and before + more >= 3:
        assert min(sides(new, "amos").values()) >= 1


def test_seeds_differ():
    drawn = {json.dumps(divide(cohort("amos", 30), seed=seed), sort_keys=True) for seed in range(5)}
    assert len(drawn) == 5


def test_the_same_scan_in_two_data_sets_is_one_patient():
    twin = Member("word__twin", "word", "someone else", "amos 3")
    splits = divide([*cohort("amos", 10), *cohort("word", 10), twin])
    assert splits["word__twin"] == splits["amos__003"]


def test_patients_of_the_same_name_in_two_data_sets_are_two():
    assert len(group_by_patient([*cohort("amos", 3), *cohort("word", 3)])) == 6


def test_patients_are_chained_through_shared_scans():
    chain = [
        Member("a", "x", "1", "A"),
        Member("b", "x", "2", "A"),
        Member("c", "x", "2", "B"),
        Member("d", "y", "1", "B"),
    ]
    assert [[member.name for member in group] for group in group_by_patient(chain)] == [["a", "b", "c", "d"]]


def test_two_patients_that_turn_out_to_be_one_go_to_training():
    cases = [Member("a", "x", "1", "A"), Member("b", "x", "2", "B"), Member("c", "x", "1", "B")]
    assert set(divide(cases, before={"a": "test", "b": "training"}).values()) == {"training"}
    assert set(divide(cases, before={"a": "test", "b": "validation"}).values()) == {"validation"}


def test_scans_of_which_nothing_is_known_are_not_the_same():
    cases = [Member("a", "x", "1", ""), Member("b", "x", "2", ""), Member("c", "x", "1", "")]
    assert [[member.name for member in group] for group in group_by_patient(cases)] == [["a", "c"], ["b"]]


def test_the_seed_is_0_unless_another_is_given():
    cases = cohort("amos", 40)
    assert divide(cases) == divide(cases, seed=0)
    assert fold_of(cases, folds=5) == fold_of(cases, folds=5, seed=0)


def test_no_cases_give_no_splits():
    assert divide([]) == {}


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (0, 0.5, 0.5), (1.2, -0.2, 0), (0.7, 0.1, 0.1)])
def test_fractions_that_are_no_division_are_refused(shares):
    with pytest.raises(SettingError, match=r"fractions must be 0 or more, add up to 1 and leave some for training"):
        Fractions(*shares)


def test_folds_deal_out_each_data_sets_patients_evenly_and_keep_a_patients_scans_together():
    members = [Member(f"a__{n}{scan}", "a", str(n), f"{n}{scan}") for n in range(7) for scan in "xy"]
    members += [Member(f"b__{n}", "b", str(n), f"b{n}") for n in range(3)]
    folds = fold_of(members, folds=3)
    assert all(folds[f"a__{n}x"] == folds[f"a__{n}y"] for n in range(7))
    counts = [
        [sum(folds[f"a__{n}x"] == k for n in range(7)), sum(folds[f"b__{n}"] == k for n in range(3))] for k in (1, 2, 3)
    ]
    assert sorted(a for a, _ in counts) == [2, 2, 3]
    assert [b for _, b in counts] == [1, 1, 1]
    assert folds == fold_of(reversed(members), folds=3)
    assert folds != fold_of(members, folds=3, seed=1)


# A fraction's borders


def test_fractions_may_miss_1_by_rounding_and_may_be_0_but_for_training():
    Fractions(0.7, 0.2, 0.1 + 9e-7)
    Fractions(1.0, 0.0, 0.0)
    for shares in ((0.7, 0.2, 0.1 + 2e-6), (0.7, 0.2, 0.1 - 2e-6), (0.0, 0.5, 0.5)):
        with pytest.raises(SettingError, match=r", got 0(\.7)?, 0\.[25], 0\.\d+"):
            Fractions(*shares)


@pytest.mark.parametrize(
    ("patients", "shares", "expected"),
    [
        # (validation, test), rounded half up; at least one of each above 0 from three patients on.
        (15, Fractions(0.7, 0.1, 0.2), (2, 3)),
        (14, Fractions(0.7, 0.1, 0.2), (1, 3)),
        (3, Fractions(0.7, 0.1, 0.2), (1, 1)),
        (2, Fractions(0.7, 0.1, 0.2), (0, 0)),
        (2, Fractions(0.5, 0.25, 0.25), (1, 0)),
        (9, Fractions(0.8, 0.2, 0.0), (2, 0)),
        (9, Fractions(1, 0, 0), (0, 0)),
        (1, Fractions(0.2, 0.4, 0.4), (0, 0)),
        (4, Fractions(0.1, 0.5, 0.4), (2, 1)),
    ],
)
def test_shares_are_rounded_to_whole_patients_and_one_is_left_to_train_on(patients, shares, expected):
    for seed in range(3):
        found = sides(divide(cohort("amos", patients), fractions=shares, seed=seed), "amos")
        assert (found["validation"], found["test"]) == expected
        assert found["training"] == patients - sum(expected)


def test_what_is_missing_is_counted_from_the_sides_that_are_kept():
    cases = cohort("amos", 20)
    kept = {case.name: "test" for case in cases[:3]}
    assert sides(divide(cases, before=kept), "amos") == {"training": 14, "validation": 2, "test": 4}
    kept = {case.name: "test" for case in cases[:9]}  # more than wanted: all stay
    assert sides(divide(cases, before=kept), "amos") == {"training": 9, "validation": 2, "test": 9}
    # Whoever trains already need not be left over.
    kept = {cases[0].name: "training"}
    assert sides(divide(cases[:3], before=kept), "amos") == {"training": 1, "validation": 1, "test": 1}


def test_folds_begin_with_another_one_for_each_data_set_and_are_numbered_from_1():
    members = [case for dataset in ("a", "b", "c", "d") for case in cohort(dataset, 1)]
    assert fold_of(members, folds=3) == {"a__000": 1, "b__000": 2, "c__000": 3, "d__000": 1}
    assert sorted(fold_of(cohort("a", 5), folds=2).values()) == [1, 1, 1, 2, 2]
    assert fold_of(cohort("a", 5), folds=2) == fold_of(cohort("a", 5), folds=2, seed=0)


def test_folds_are_dealt_out_one_after_the_other_in_the_drawn_order():
    folds = fold_of([*cohort("a", 7), *cohort("b", 7)], folds=3, seed=2)
    for number, name in enumerate("ab"):
        drawn = np.random.default_rng([2, ord(name)]).permutation(7)
        dealt = [(1, 2, 3, 1, 2, 3, 1), (2, 3, 1, 2, 3, 1, 2)][number]
        assert [folds[f"{name}__{chosen:03}"] for chosen in drawn] == list(dealt)


def test_folds_of_a_data_set_depend_on_its_name():
    drawn = set()
    for name in ("a", "b", "c"):
        folds = fold_of(cohort(name, 12), folds=12)
        first = folds[f"{name}__000"]
        drawn.add(tuple((folds[case.name] - first) % 12 for case in cohort(name, 12)))
    assert len(drawn) == 3


# Of a store


@pytest.fixture
def store_of(tmp_path, make_case):
    """Return a function that makes a store of {case: (patient, scan, annotated organs)}."""

    def make(cases, splits=None):
        store = create_store(tmp_path / "store", space=ABDOMENCT1K, preparation=ResizedSlices(size=(16, 16)))
        for name, (patient, scan, annotated) in cases.items():
            case = make_case(name, annotated=annotated, labels=np.zeros((1, 16, 16), np.uint8))
            source = SourceFacts(f"{name}.nii.gz", (), "", (), (), (), annotated, ())
            facts = Facts(name, case.dataset, patient, annotated, (), source, case.geometry, scan, {}, {})
            write_case(store.path, case, facts)
        if splits is not None:
            content = json.dumps({"seed": 0, "fractions": {}, "cases": splits})
            (store.path / "splits.json").write_text(content)
        return open_store(store.path)

    return make


LIVER = ("liver",)
WHOLE, HALF = Fractions(1, 0, 0), Fractions(0.5, 0.25, 0.25)


def test_unlabelled_cases_are_free_unless_they_show_a_labelled_patient_last_one_of_training(store_of):
    cases = {
        "a__1": ("p", "A", LIVER),
        "a__2": ("p", "B", LIVER),
        "b__1": ("x", "B", ()),
        "b__2": ("x", "C", ()),
        "b__3": ("z", "D", ()),
        "b__4": ("y", "E", ()),
        "c__1": ("q", "F", LIVER),
        "c__2": ("q", "G", ()),
    }
    splits = {"a__1": "training", "a__2": "validation", "c__1": "test"}
    # A copy of a test patient stands behind one of training only where there is none of another split.
    shown = {"b__1": "a__2", "b__2": "a__2", "c__2": "c__1"}
    assert unlabelled_cases(store_of(cases, splits)) == (["b__3", "b__4"], shown)


def test_cases_of_one_scan_are_noted_and_stand_together(store_of):
    cases = {"a__1": ("p", "A", LIVER), "b__1": ("p", "A", LIVER), "b__2": ("q", "B", LIVER), "b__3": ("r", "C", ())}
    store = store_of(cases)
    notes = update_splits(store, fractions=HALF, seed=4)
    assert notes == ["a__1, b__1: the same scan, so one patient"]
    written = json.loads((store.path / "splits.json").read_text())
    assert (written["seed"], written["fractions"]) == (4, {"training": 0.5, "validation": 0.25, "test": 0.25})
    members = [Member(name, name[0], patient, scan) for name, (patient, scan, organs) in cases.items() if organs]
    assert written["cases"] == divide(members, fractions=HALF, seed=4)
    assert list(written["cases"]) == ["a__1", "b__1", "b__2"]  # without the case that annotates nothing


def test_a_file_of_splits_is_written_only_if_it_changes(store_of):
    store = store_of({f"a__{n}": (str(n), str(n), LIVER) for n in range(6)})
    file = store.path / "splits.json"
    assert update_splits(store, fractions=HALF, seed=0) == []
    before = file.stat().st_mtime_ns, file.read_text()
    again = open_store(store.path)
    assert update_splits(again, fractions=HALF, seed=0) == []
    assert (file.stat().st_mtime_ns, file.read_text()) == before
    update_splits(again, fractions=HALF, seed=1)  # sides stay, the seed is another
    assert json.loads(file.read_text())["cases"] == json.loads(before[1])["cases"]
    assert json.loads(file.read_text())["seed"] == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_seed_of_a_store_is_the_one_of_its_draw(store_of, seed):
    cases = {f"a__{n:02}": (str(n), str(n), LIVER) for n in range(12)}
    store = store_of(cases)
    update_splits(store, fractions=HALF, seed=seed)
    members = [Member(name, "a", patient, scan) for name, (patient, scan, _) in cases.items()]
    drawn = [divide(members, fractions=HALF, seed=other) for other in range(3)]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    assert json.loads((store.path / "splits.json").read_text())["cases"] == drawn[seed]


def test_sides_that_are_brought_along_go_before_those_of_the_store(store_of):
    cases = {f"a__{n}": (str(n), str(n), LIVER) for n in range(4)}
    store = store_of(cases, splits={"a__0": "test", "a__1": "training"})
    notes = update_splits(store, fractions=WHOLE, seed=0, given={"a__0": "validation"})
    assert json.loads((store.path / "splits.json").read_text())["cases"] == {
        "a__0": "validation",
        "a__1": "training",
        "a__2": "training",
        "a__3": "training",
    }
    [note] = notes
    assert "so some were moved: a__0 from test to validation. For a division" in note


@pytest.mark.parametrize("given", [{"a__1": "test", "a__2": "training"}, {"a__2": "test"}, {"a__3": "test"}])
def test_one_patient_on_two_sides_of_what_is_brought_along_is_refused(store_of, given):
    cases = {f"a__{n}": ("p" if n else "q", str(n), LIVER) for n in range(4)}
    store = store_of(cases, splits={"a__1": "training"})
    with pytest.raises(DataSetError, match=r"'a__1' \(\w+\) and 'a__[23]' \(\w+\) show one patient"):
        update_splits(store, fractions=WHOLE, seed=0, given=given)
    assert json.loads((store.path / "splits.json").read_text())["cases"] == {"a__1": "training"}


@pytest.mark.parametrize(("moved", "more"), [(5, ""), (6, " and 1 more")])
def test_up_to_five_cases_that_were_moved_are_named(store_of, moved, more):
    # Each pair turns out to be one patient, of whom one half was tested on.
    cases = {f"a__{n}{half}": (str(n), f"{n}{half}", LIVER) for n in range(moved) for half in "xy"}
    splits = {name: "training" if name.endswith("x") else "test" for name in cases}
    [note] = update_splits(store_of(cases, splits=splits), fractions=WHOLE, seed=0)
    named = ", ".join(f"a__{n}y from test to training" for n in range(5))
    assert note.startswith(
        f"cases now known to show one patient were in different splits, so some were moved: {named}{more}. For"
    )


def test_cases_that_are_gone_are_noted(store_of):
    store = store_of({"a__1": ("1", "1", LIVER)}, splits={"a__0": "test", "a__1": "training"})
    assert update_splits(store, fractions=WHOLE, seed=0) == [
        "a__0: had a side in splits.json, but is no case to learn from any more"
    ]


# Of a run


def sources(*names, folder=Path()):
    return [Source(name, "amos", name, folder / f"{name}.nii.gz", None, (), ()) for name in names]


def run_with(folder, content):
    (folder / "run.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_the_cases_of_a_runs_split_are_kept_in_their_order(tmp_path):
    run = run_with(tmp_path, {"splits": {"test": ["amos__c", "amos__a"], "training": ["amos__b"]}, "scans": {}})
    assert [source.name for source in of_split(sources("a", "b", "c"), run, "test")] == ["a", "c"]
    assert [source.name for source in of_split(sources("a", "b", "c"), run, "training")] == ["b"]
    assert of_split(sources("a", "b"), None, "all") == sources("a", "b")
    with pytest.raises(SettingError, match=r"none of the 2 cases is in the split 'training' of"):
        of_split(sources("a", "c"), run, "training")


def hospital(folder, **scans):
    folder.mkdir()
    for name, voxels in scans.items():
        (folder / f"{name}.nii.gz").write_bytes(voxels)
    return sources(*scans, folder=folder)


def test_cases_of_another_hospital_with_the_names_of_a_runs_are_not_in_its_splits(tmp_path):
    ours = hospital(tmp_path / "ours", a=b"1", b=b"2", c=b"3")
    scans = {f"amos__{source.name}": hashlib.sha256(source.image.read_bytes()).hexdigest() for source in ours}
    run = run_with(tmp_path, {"splits": {"test": ["amos__a", "amos__b"]}, "scans": scans})
    assert of_split(ours, run, "test") == ours[:2]
    assert of_split(hospital(tmp_path / "moved", a=b"1", b=b"2"), run, "test")  # the same scans in another place
    other = hospital(tmp_path / "other", a=b"1", b=b"another patient")
    with pytest.raises(
        SettingError, match=r"amos__b is another scan file than the case of that name that .* knows\. Give"
    ):
        of_split(other, run, "test")
    others = hospital(tmp_path / "others", a=b"one more", b=b"another patient", c=b"who is in no split")
    with pytest.raises(SettingError, match=r"amos__a is another .* knows \(and 1 of the other 1 cases\)"):
        of_split(others, run, "test")
    assert of_split(others, run, "all") == others


def test_a_run_of_an_older_viscera_cannot_tell_whose_scans_its_splits_are(tmp_path):
    run = run_with(tmp_path, {"splits": {"test": ["amos__a"]}})
    with pytest.warns(UserWarning, match="whether these are its scans is not checked"):
        assert of_split(sources("a"), run, "test") == sources("a")


def test_without_a_run_there_are_no_splits(tmp_path):
    for run in (None, tmp_path, tmp_path / "gone"):
        with pytest.raises(RunError, match=r"--split test needs the folder of a run, with its run\.json"):
            of_split(sources("a"), run, "test")


@pytest.mark.parametrize(
    "content", ["{", [], {}, {"splits": []}, {"splits": {"training": []}}, {"splits": {"test": 3}}]
)
def test_a_run_that_does_not_list_a_split_is_damaged(tmp_path, content):
    with pytest.raises(
        RunError, match=r"run\.json is damaged: it does not list the cases of 'test'\. Copy it again, or train again\."
    ):
        of_split(sources("a"), run_with(tmp_path, content), "test")
