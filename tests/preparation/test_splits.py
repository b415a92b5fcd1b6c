import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscera.errors import SettingError
from viscera.preparation.splits import Fractions, Member, divide, fold_of, group_by_patient


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
