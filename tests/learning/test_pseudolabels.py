"""Pseudo-labels by teachers whose answer is known: a table of probabilities by HU, so that masks follow by hand."""

import csv
import json
import math
import shutil
import warnings
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import distance
from torch import nn

from makers import PARTIAL_RECIPE as RECIPE
from viscera.cli.command import main
from viscera.cli.pseudolabel import summary
from viscera.config import (
    Machine,
    PartialLoss,
    Recipe,
    ResizedSlices,
    SigmoidLoss,
    SliceInference,
)
from viscera.errors import RunError, SettingError, StoreError
from viscera.inference.model import Model
from viscera.io.atomic import write_json
from viscera.labels import ABDOMENCT1K, FLARE13
from viscera.learning.pseudolabels.acceptance import Acceptance, Finding, judge, together
from viscera.learning.pseudolabels.consensus import fill_case
from viscera.learning.pseudolabels.filling import (
    TABLE,
    Watch,
    open_organs,
    pseudolabel_store,
    remove_all,
    usual_volumes,
)
from viscera.learning.pseudolabels.teachers import (
    Seen,
    Teacher,
    TeacherWarning,
    check_teachers,
    find_teacher,
    read_seen,
)
from viscera.networks.torch_runner import TorchRunner
from viscera.preparation.splits import unlabelled_cases
from viscera.preparation.store import UNSURE, open_store, write_case

LIVER, KIDNEY, SPLEEN, PANCREAS = (ABDOMENCT1K.index(organ) for organ in ABDOMENCT1K.organs[:4])
LENIENT = Acceptance(min_dice=0, min_confident=0)
FINDS = dict.fromkeys(ABDOMENCT1K.organs, 0.9)
ELSEWHERE = Seen({"other__case": "1"}, {}, [frozenset(ABDOMENCT1K.organs)])


class Table(nn.Module):
    """The probabilities that a table gives for each HU; the background has the rest."""

    stride, dimensions = 1, 2

    def __init__(self, rows: dict[int, dict[int, float]], *, sigmoid: bool) -> None:
        super().__init__()
        table = torch.full((801, 5), 1e-9)
        for hu, row in rows.items():
            for index, probability in row.items():
                table[hu + 400, index] = probability
        table[:, 0] = 1 - table[:, 1:].sum(1)
        self.logits = table.logit() if sigmoid else table.log()
        if sigmoid:
            self.logits[:, 0] = 0

    def forward(self, image):
        return self.logits[(image[:, 0] * 800).round().long()].movedim(-1, 1)


class Nearest(nn.Module):
    """The class whose HU is nearest, with certainty; kidney and pancreas are never seen."""

    stride, dimensions = 1, 2

    def __init__(self, shift_hu: float = 0.0) -> None:
        super().__init__()
        self.centres = torch.tensor([-100.0, 80, 9999, 250, 9999]) + shift_hu

    def forward(self, image):
        return -(((image * 800 - 400 - self.centres[:, None, None]) / 30) ** 2)


def model(answering: nn.Module, sha256: str = "1", **changes) -> Model:
    return Model(TorchRunner(answering), replace(RECIPE, **changes), ABDOMENCT1K, "cpu", sha256)


def tables(*rows: dict[int, dict[int, float]], **changes) -> list[Model]:
    sigmoid = changes.get("network", RECIPE.network).heads == "sigmoid"
    return [model(Table(row, sigmoid=sigmoid), str(number), **changes) for number, row in enumerate(rows)]


def patient(make_case, hu, labels=None, known=None, annotated=("liver",)):
    image = np.broadcast_to(np.array(hu, np.int16), (1, 1, len(hu))) if isinstance(hu, list) else hu
    labels = np.zeros(image.shape, np.uint8) if labels is None else np.array(labels, np.uint8).reshape(image.shape)
    known = None if known is None else np.array(known, bool).reshape(image.shape)
    return make_case("b__x", annotated=annotated, labels=labels, known=known, image=np.array(image))


def fill(case, models, organs=("kidney", "spleen", "pancreas"), settings=LENIENT, **more):
    pseudo, rows = fill_case(case, models, organs=organs, settings=settings, **more)
    return pseudo, {row.organ: row for row in rows}


@pytest.mark.parametrize("heads", ["softmax", "sigmoid"])
def test_a_voxel_takes_a_label_where_all_teachers_say_so_with_confidence(make_case, heads):
    first = {1: {SPLEEN: 0.95}, 2: {SPLEEN: 0.95}, 3: {SPLEEN: 0.95}, 4: {SPLEEN: 0.3}, 5: {SPLEEN: 0.05}}
    second = {1: {SPLEEN: 0.86}, 2: {SPLEEN: 0.80}, 3: {LIVER: 0.9}, 4: {SPLEEN: 0.01}, 5: {SPLEEN: 0.09}}
    models = tables(first, second, network=replace(RECIPE.network, heads=heads))
    pseudo, rows = fill(patient(make_case, [1, 2, 3, 4, 5, 6]), models)
    # Means 0.905 and 0.875; then a teacher alone; then one that gives more than 0.1; then all at most 0.1.
    assert pseudo.tolist() == [[[SPLEEN, UNSURE, UNSURE, UNSURE, 0, 0]]]
    assert rows["spleen"].voxels == 1
    assert rows["spleen"].agreement == pytest.approx(2 * 2 / (3 + 2))
    assert rows["spleen"].confident_fraction == pytest.approx(1 / 3)
    assert rows["spleen"].volume_ml == pytest.approx(2.5 * 5 * 2 * 2 / 1000)


def test_truth_is_never_contradicted_and_nothing_is_said_where_nothing_is_known(make_case):
    sure = {1: {SPLEEN: 0.99}, 2: {SPLEEN: 0.6}}
    case = patient(make_case, [1, 1, 1, 2, 2, 2], [0, LIVER, 0, 0, LIVER, 0], [1, 1, 0, 1, 1, 0])
    pseudo, rows = fill(case, tables(sure, sure))
    assert pseudo.tolist() == [[[SPLEEN, 0, 0, UNSURE, 0, 0]]]
    # Four known voxels are given by both; two of them are liver in truth, which counts as disagreement.
    assert rows["spleen"].agreement == pytest.approx(2 * 2 / (4 + 4))


def test_the_agreement_is_the_mean_pairwise_dice(make_case):
    random = np.random.default_rng(3)
    hu = np.arange(-400, 368).reshape(3, 16, 16).astype(np.int16)
    given = random.random((3, hu.size)) < 0.5
    rows = [{int(v): {SPLEEN: 0.97} for v in hu.ravel()[mask]} for mask in given]
    found = fill(patient(make_case, hu), tables(*rows))[1]["spleen"]
    dice = [1 - distance.dice(given[a], given[b]) for a, b in combinations(range(3), 2)]
    assert found.agreement == pytest.approx(np.mean(dice))
    assert found.confident_fraction == pytest.approx(given.all(0).sum() / given.any(0).sum())


def test_a_rejected_organ_leaves_nothing_behind_and_an_accepted_ones_doubts_stay(make_case):
    first = {1: {KIDNEY: 0.99}, 2: {KIDNEY: 0.99}, 3: {SPLEEN: 0.99}, 4: {SPLEEN: 0.6, KIDNEY: 0.4}}
    second = {1: {KIDNEY: 0.99}, 2: {}, 3: {SPLEEN: 0.99}, 4: {SPLEEN: 0.6, KIDNEY: 0.4}}
    case = patient(make_case, [1, 2, 2, 2, 3, 4, 3, 3])
    pseudo, rows = fill(case, tables(first, second), settings=Acceptance())
    assert rows["kidney"].verdict == "rejected"
    assert rows["kidney"].reason == "teachers disagree: Dice 0.40, wanted 0.8"  # 2 x 1 / (4 + 1)
    assert rows["kidney"].voxels == 0
    assert rows["spleen"].verdict == "accepted"
    assert pseudo.tolist() == [[[0, 0, 0, 0, SPLEEN, UNSURE, SPLEEN, SPLEEN]]]


def test_an_organ_is_absent_only_if_every_teacher_rules_it_out_everywhere(make_case):
    case = patient(make_case, [1, 2, 2, 2])
    rows = fill(case, tables({1: {SPLEEN: 0.09}}, {1: {KIDNEY: 0.2}}), settings=Acceptance(), finds=FINDS)[1]
    assert (rows["spleen"].verdict, rows["spleen"].voxels) == ("absent", 0)
    assert rows["spleen"].reason == "absent: no teacher gives it more than 0.09 anywhere"
    assert rows["kidney"].verdict == "rejected"
    assert rows["kidney"].reason == "neither found nor ruled out: a teacher gives it 0.20 somewhere"
    assert math.isnan(rows["spleen"].agreement)


@pytest.mark.parametrize(
    ("finds", "why"),
    [({}, "it is not known how well they find it"), ({"spleen": 0.49}, "a teacher finds it with Dice 0.49")],
)
def test_teachers_who_do_not_know_an_organ_cannot_rule_it_out(make_case, finds, why):
    pseudo, rows = fill(patient(make_case, [1, 2]), tables({}, {}), settings=Acceptance(), finds=finds)
    assert rows["spleen"].verdict == "rejected"
    assert rows["spleen"].reason == f"not found, but teachers may not know it: {why} where it is annotated, wanted 0.5"
    assert not pseudo.any()


def test_each_case_is_labelled_by_the_teachers_who_did_not_learn_from_it(store_path):
    hashed(store_path)
    names = ["b__b", "b__d"]
    own = [Seen({name: f"hash of {name}"}, {}, [frozenset(ABDOMENCT1K.organs)]) for name in names]
    three = [
        Teacher(model(Nearest(shift), name), name, seen, FINDS)
        for shift, name, seen in zip((0.0, 5.0, 2.0), ("one", "two", "three"), (*own, ELSEWHERE), strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pseudolabel_store(open_store(store_path), three, settings=Acceptance())
    asked = {name: json.loads((store_path / "cases" / name / "pseudo.json").read_text())["asked"] for name in names}
    assert asked == {"b__b": ["two", "three"], "b__d": ["one", "three"]}
    with pytest.warns(TeacherWarning, match="trained on 2 of the 2 cases"):
        pseudolabel_store(open_store(store_path), three[:2], settings=Acceptance(), overwrite=True)


def test_a_network_gone_wrong_rules_nothing_out(make_case):
    broken = model(Table({}, sigmoid=False), "2")
    broken.module.logits[:] = math.nan
    pseudo, rows = fill(patient(make_case, [1, 2]), [*tables({}), broken], settings=Acceptance())
    assert {row.verdict for row in rows.values()} == {"rejected"}
    assert not pseudo.any()


def test_whatever_teachers_say_truth_order_and_batches_do_not_matter_to_what_is_open(make_case):
    random = np.random.default_rng(5)
    for _ in range(20):
        hu = random.integers(0, 40, (5, 8, 8)).astype(np.int16)
        labels = random.choice([0, 0, LIVER, KIDNEY], hu.shape).astype(np.uint8)
        known = random.random(hu.shape) < 0.8
        case = make_case("b__x", annotated=("liver", "kidney"), labels=labels, known=known, image=hu)
        rows = [{v: dict(enumerate(random.dirichlet([0.1] * 5)[1:].tolist(), 1)) for v in range(40)} for _ in range(2)]
        pseudo, verdicts = fill(case, tables(*rows), organs=("spleen", "pancreas"))
        assert not pseudo[(labels > 0) | ~known].any()
        assert set(np.unique(pseudo)) <= {0, SPLEEN, PANCREAS, UNSURE}
        for organ in ("spleen", "pancreas"):
            assert verdicts[organ].voxels == (pseudo == ABDOMENCT1K.index(organ)).sum()
        single = tables(*reversed(rows), inference=SliceInference(batch_size=1))
        assert np.array_equal(fill(case, single, organs=("spleen", "pancreas"))[0], pseudo)


def test_progress_ends_at_the_last_slice_and_no_organ_needs_no_teacher(make_case):
    seen = []
    hu = np.zeros((4, 2, 2), np.int16)
    fill(patient(make_case, hu), tables({}, {}), watch=lambda done, slices: seen.append((done, slices)))
    assert seen == [(3, 4), (4, 4)]
    assert not fill(patient(make_case, hu), [], organs=())[0].any()


BIG = Finding(given=(100, 100), shared=(100,), united=100, labelled=90, largest=0.99, cut_off=False, voxel_ml=1.0)


@pytest.mark.parametrize(
    ("changes", "usual", "reason"),
    [
        ({}, None, ""),
        ({}, (60.0, 150.0), ""),
        ({}, (1.0, 49.0), "implausibly large: 100 ml, annotated ones have 1 to 49 ml"),
        ({}, (201.0, 900.0), "implausibly small: 100 ml, annotated ones have 201 to 900 ml"),
        ({"cut_off": True}, (201.0, 900.0), ""),
        ({"cut_off": True}, (1.0, 49.0), "implausibly large: 100 ml, annotated ones have 1 to 49 ml"),
        ({"labelled": 49}, None, "too little is certain: 0.49 of its voxels are certain, wanted 0.5"),
        ({"shared": (79,)}, None, "teachers disagree: Dice 0.79, wanted 0.8"),
    ],
)
def test_an_organ_is_rejected_with_its_reason(changes, usual, reason):
    verdict = judge("liver", replace(BIG, **changes), settings=Acceptance(), usual_ml=usual)
    assert verdict.reason == reason
    assert verdict.verdict == ("rejected" if reason else "accepted")


def test_findings_of_parts_add_up():
    other = Finding((1, 2), (1,), 2, 1, math.nan, True)
    both = together([BIG, other], voxel_ml=2.0)
    assert (list(both.given), list(both.shared), both.united, both.labelled) == ([101, 102], [101], 102, 91)
    assert both.cut_off
    assert both.volume_ml == 203
    assert math.isnan(both.largest)
    assert math.isnan(together([other, BIG], voxel_ml=2.0).largest)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": 1.2}, "confidence must lie between 0 and 1, got 1.2"),
        ({"min_dice": math.nan}, "min_dice must lie between 0 and 1, got nan"),
        ({"doubt": 0.9}, "doubt 0.9 must be below confidence 0.9"),
        ({"volume_factor": 0.5}, "volume_factor 0.5 and volume_cases 5 must be at least 1"),
    ],
)
def test_settings_that_nothing_can_fulfil_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        Acceptance(**settings)


@pytest.fixture
def store_path(small_store, tmp_path) -> Path:
    """Copy the store, the patient of its validation split moved to training: two cases lack all but the liver."""
    shutil.copytree(small_store, tmp_path / "store")
    splits = json.loads((tmp_path / "store" / "splits.json").read_text())
    splits["cases"]["b__d"] = "training"
    write_json(tmp_path / "store" / "splits.json", splits)
    return tmp_path / "store"


def pair(seen: Seen | None = ELSEWHERE, **changes) -> list[Teacher]:
    return [
        Teacher(model(Nearest(shift), name, **changes), name, seen, FINDS)
        for name, shift in (("one", 0.0), ("two", 5.0))
    ]


def files_of(store: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(store)): file.read_bytes()
        for file in store.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def test_the_spleen_is_filled_in_where_it_is_and_truth_stays_as_it_was(store_path):
    before = files_of(store_path)
    store = open_store(store_path)
    assert open_organs(store) == dict.fromkeys(("b__b", "b__d"), ("kidney", "spleen", "pancreas"))
    done = []
    rows = pseudolabel_store(store, pair(), settings=Acceptance(), watch=Watch(case=done.append))
    assert done == ["b__b", "b__d"]
    spleen = np.zeros((4, 16, 16), bool)
    spleen[1:, 8:13, 10:14] = True  # conftest.py
    for name in done:
        case = store.case(name)
        assert case.pseudo_annotated == ("kidney", "spleen", "pancreas")
        assert np.array_equal(np.isin(case.pseudo, [SPLEEN]), spleen)
        assert not case.pseudo[case.labels > 0].any()
    after = files_of(store_path)
    assert {name: after[name] for name in before} == before
    added = {f"cases/{name}/pseudo.{kind}" for name in done for kind in ("npy", "json")}
    assert set(after) - set(before) == {*added, TABLE}
    table = list(csv.DictReader((store_path / TABLE).read_text().splitlines()))
    assert [(row["case"], row["organ"], row["verdict"]) for row in table] == [
        (name, organ, "accepted" if organ == "spleen" else "absent")
        for name in done
        for organ in ("kidney", "spleen", "pancreas")
    ]
    assert (table[1]["agreement"], table[1]["voxels"], table[0]["agreement"]) == ("1.0", "60", "")
    assert float(table[1]["volume_ml"]) == pytest.approx(60 * 5 * 2 * 2 / 1000)
    assert summary(rows) == [
        ("kidney", "0", "2", "0", ""),
        ("spleen", "2", "0", "0", ""),
        ("pancreas", "0", "2", "0", ""),
    ]


def test_the_origin_is_kept_without_paths(store_path):
    pseudolabel_store(open_store(store_path), pair(), settings=Acceptance())
    text = (store_path / "cases" / "b__b" / "pseudo.json").read_text()
    found = json.loads(text)
    assert str(store_path) not in text
    assert found["organs"] == ["kidney", "spleen", "pancreas"]
    assert found["teachers"] == [{"weights_sha256": run, "recipe": "tiny", "run": run} for run in ("one", "two")]
    assert found["settings"]["confidence"] == 0.9
    assert found["rejected"] == {}
    assert found["voxels"] == {"kidney": 0, "spleen": 60, "pancreas": 0}
    assert found["agreement"] == {"kidney": None, "spleen": 1.0, "pancreas": None}


def test_cases_that_are_done_are_skipped_and_others_need_a_word(store_path):
    store = open_store(store_path)
    rows = pseudolabel_store(store, pair(), settings=Acceptance())
    before = {file: file.stat().st_mtime_ns for file in store_path.rglob("pseudo.*")}
    assert len(before) == 4
    again = pseudolabel_store(store, pair()[::-1], settings=Acceptance())
    assert {file: file.stat().st_mtime_ns for file in store_path.rglob("pseudo.*")} == before
    assert str(again) == str(rows)  # NaN differs from itself, its text does not
    strict = Acceptance(confidence=0.95)
    with pytest.raises(StoreError, match=r"2 cases of .*b__b.* other teachers or settings. Pass --overwrite"):
        pseudolabel_store(store, pair(), settings=strict)
    pseudolabel_store(store, pair(), settings=strict, overwrite=True)
    assert json.loads((store_path / "cases" / "b__b" / "pseudo.json").read_text())["settings"]["confidence"] == 0.95


def test_an_interrupted_command_goes_on_and_leaves_no_half_case(store_path):
    store = open_store(store_path)

    def stop(name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pseudolabel_store(store, pair(), settings=Acceptance(), watch=Watch(case=stop))
    first = store_path / "cases" / "b__b" / "pseudo.npy"
    stamp = first.stat().st_mtime_ns
    half = store_path / "cases" / "b__d"
    shutil.copy(first, half / "pseudo.npy")  # as if killed before pseudo.json was written
    shutil.copy(first, half / ".123.pseudo.npy")
    assert store.case("b__d").pseudo is None
    pseudolabel_store(store, pair(), settings=Acceptance())
    assert first.stat().st_mtime_ns == stamp
    assert store.case("b__d").pseudo_annotated
    assert not (half / ".123.pseudo.npy").exists()
    (half / "pseudo.json").write_text("{")
    pseudolabel_store(store, pair(), settings=Acceptance(), overwrite=True)
    assert store.case("b__d").pseudo_annotated


def test_all_pseudo_labels_can_be_taken_out_again(store_path):
    before = files_of(store_path)
    store = open_store(store_path)
    pseudolabel_store(store, pair(), settings=Acceptance())
    assert remove_all(store) == 2
    assert files_of(store_path) == before
    assert remove_all(store) == 0


def test_where_every_organ_is_rejected_a_case_has_reasons_but_no_labels(store_path):
    unlike = [pair()[0], Teacher(model(Nearest(-200.0), "two"), "two", ELSEWHERE, FINDS)]
    store = open_store(store_path)
    rows = pseudolabel_store(store, unlike, settings=Acceptance(doubt=0, confidence=1, min_dice=1))
    spleen = [row for _, row in rows if row.organ == "spleen"]
    assert {row.reason.partition(":")[0] for row in spleen} == {"teachers disagree"}
    assert "spleen" not in store.case("b__b").pseudo_annotated
    assert summary(rows)[1][3:] == ("2", "teachers disagree")


def test_teachers_do_not_teach_what_they_were_never_taught(store_path):
    ignorant = Seen({"other__case": ""}, {}, [frozenset({"liver"}), frozenset({"liver", "kidney", "pancreas"})])
    teachers = [pair()[0], Teacher(pair()[1].model, "two", ignorant, FINDS)]
    rows = pseudolabel_store(open_store(store_path), teachers, settings=Acceptance())
    reasons = {row.reason for _, row in rows if row.organ == "spleen"}
    assert reasons == {"not taught: no training case of two annotates it"}


def test_volumes_are_compared_with_those_of_annotating_training_cases(store_path):
    # Spleens of 60 voxels in a, c and e; livers of 90 in all five training cases; a voxel is 5 x 2 x 2 mm.
    volumes = usual_volumes(open_store(store_path), at_least=3)
    assert volumes == {"liver": pytest.approx((1.8, 1.8)), "spleen": pytest.approx((1.2, 1.2))}
    assert set(usual_volumes(open_store(store_path), at_least=4)) == {"liver"}


def unlabelled(store: Path, name: str, like: str, make_case) -> None:
    """Add a case without labels: the scan of another one."""
    opened = open_store(store)
    old = opened.case(like)
    case = replace(make_case(name, annotated=(), labels=old.truth, image=np.array(old.image)), labels=None)
    facts = replace(opened.facts(like), name=name, dataset=case.dataset, patient=name, annotated=(), voxels={})
    write_case(store, case, facts)


def test_an_unlabelled_case_gets_every_organ_and_no_label_file(store_path, make_case):
    hashed(store_path)
    unlabelled(store_path, "new__g", "a__a", make_case)
    hashed(store_path)
    store = open_store(store_path)
    assert open_organs(store)["new__g"] == ABDOMENCT1K.organs
    rows = dict(pseudolabel_store(store, pair(), settings=Acceptance()))  # the last of each case
    assert list(rows) == ["b__b", "b__d", "new__g"]
    filled, truth = store.case("new__g"), store.case("a__a").labels
    assert filled.pseudo_annotated == ABDOMENCT1K.organs
    assert np.array_equal(np.where(filled.pseudo == UNSURE, truth, filled.pseudo), truth)
    assert (filled.pseudo != UNSURE).mean() > 0.9
    assert not (store_path / "cases" / "new__g" / "labels.npy").exists()
    assert remove_all(store) == 3


@pytest.mark.parametrize("like", ["a__a", "b__f"])
def test_an_unlabelled_scan_of_a_labelled_patient_is_left_out(store_path, make_case, like):
    hashed(store_path)
    unlabelled(store_path, "new__g", like, make_case)  # with the hash of the other
    store = open_store(store_path)
    assert unlabelled_cases(store) == ([], {"new__g": like})
    pseudolabel_store(store, pair(), settings=Acceptance())
    assert not (store_path / "cases" / "new__g" / "pseudo.json").exists()


def hashed(store: Path) -> Path:
    """Return each case the hash that real cases have."""
    for folder in (store / "cases").iterdir():
        facts = json.loads((folder / "case.json").read_text())
        write_json(folder / "case.json", facts | {"image_sha256": f"hash of {folder.name}"})
    return store


def test_a_teacher_that_saw_a_test_case_is_refused_by_its_voxels_or_else_its_name(store_path):
    everything = [frozenset(ABDOMENCT1K.organs)]
    names = ["b__b", "b__d"]

    def check(seen: Seen) -> None:
        check_teachers([pair()[0], Teacher(pair()[1].model, "two", seen, FINDS)], open_store(store_path), names)

    with pytest.raises(
        RunError, match=r"teacher two was trained on 1 of .*\(b__f ...\).*Train teachers on the training"
    ):
        check(Seen({"b__f": ""}, {}, everything))
    hashed(store_path)
    with pytest.raises(RunError, match=r"teacher two was trained on 1 of .*\(b__f ...\)"):
        check(Seen({"renamed__f": "hash of b__f"}, {}, everything))
    with pytest.raises(RunError, match=r"teacher two was chosen by its scores on 1 of .*\(b__f ...\)"):
        check(Seen({"a__a": "1"}, {"b__f": "hash of b__f"}, everything))
    check(Seen({"b__f": "hash of another scan of that name"}, {}, everything))
    with pytest.warns(TeacherWarning, match="trained on 2 of the 2 cases that they are to label.*--sampling.fold"):
        check(Seen({"b__b": "hash of b__b", "renamed__d": "hash of b__d"}, {}, everything))


def test_unfit_teachers_are_refused(store_path):
    store, names = open_store(store_path), ["b__b", "b__d"]
    one, two = pair()
    for teachers in ([one], [], [one, Teacher(one.model, "copy", ELSEWHERE, FINDS)]):
        with pytest.raises(SettingError, match="two or more different teachers.*equal weights.*--training.seed 1"):
            check_teachers(teachers, store, names)
    foreign = Teacher(replace(two.model, space=FLARE13), "two", ELSEWHERE, FINDS)
    with pytest.raises(StoreError, match=r"teacher two cannot label this store: .*'flare13'.*Train teachers on this"):
        check_teachers([one, foreign], store, names)
    larger = pair(preparation=ResizedSlices(size=(32, 32)))[1]
    with pytest.raises(
        StoreError, match=r"teacher two cannot label this store: .*16x16.*32x32.*Train teachers on this"
    ):
        check_teachers([one, larger], store, names)
    with pytest.warns(TeacherWarning, match="teachers one, two: run.json .* cannot be checked"):
        check_teachers(pair(seen=None), store, names)


@pytest.mark.parametrize("loss", [Recipe().loss, PartialLoss(unannotated="background")])
def test_a_teacher_that_took_unannotated_organs_for_background_is_refused(store_path, loss):
    mixed = Seen({"x": "1", "y": "2"}, {}, [frozenset(ABDOMENCT1K.organs), frozenset({"liver"})])
    with pytest.raises(RunError, match=r"one learnt from 1 training cases that .* is background \(loss.kind"):
        check_teachers(pair(mixed, loss=loss), open_store(store_path), [])
    for loss_or_seen in ((ELSEWHERE, loss), (mixed, PartialLoss()), (mixed, SigmoidLoss())):
        check_teachers(pair(loss_or_seen[0], loss=loss_or_seen[1]), open_store(store_path), [])


def test_what_a_run_saw_is_read_from_its_files(store_path, tmp_path):
    hashed(store_path)
    facts = {"splits": {"training": ["a__a", "b__b"], "validation": ["b__d"], "test": []}, "store": str(store_path)}
    write_json(tmp_path / "run.json", facts)
    seen = read_seen(tmp_path / "run.json")
    assert seen.training == {"a__a": "hash of a__a", "b__b": "hash of b__b"}
    assert seen.validation == {"b__d": "hash of b__d"}
    assert seen.taught == frozenset(ABDOMENCT1K.organs)
    write_json(tmp_path / "run.json", facts | {"store": str(tmp_path / "gone")})
    gone = read_seen(tmp_path / "run.json")
    assert (gone.training, gone.taught) == ({"a__a": "", "b__b": ""}, None)
    (tmp_path / "run.json").write_text('{"splits": []}')
    with pytest.raises(RunError, match=r"run.json is damaged.*Copy it again, or train again"):
        read_seen(tmp_path / "run.json")
    assert read_seen(tmp_path / "none.json") is None


@pytest.fixture(scope="module")
def runs(small_store, tmp_path_factory) -> list[Path]:
    """Train two teachers for two epochs."""
    from viscera.learning.training import train

    folders = []
    for seed in (0, 1):
        recipe = replace(RECIPE, training=replace(RECIPE.training, seed=seed))
        folders.append(tmp_path_factory.mktemp("runs") / f"seed{seed}")
        train(recipe, open_store(small_store), folders[-1], machine=Machine(accelerator="cpu"))
    return folders


@pytest.mark.filterwarnings("always::viscera.learning.pseudolabels.teachers.TeacherWarning")
def test_from_the_command_line_two_runs_fill_in_the_spleen_that_a_data_set_lacks(runs, store_path, small_store, capsys):
    shutil.copy(small_store / "splits.json", store_path / "splits.json")
    words = ["pseudolabel", *map(str, runs), str(store_path)]
    before = files_of(store_path)
    assert main(words) == 0
    shown = capsys.readouterr()
    assert all(organ in shown.out for organ in ("kidney", "spleen", "pancreas"))
    assert "trained on 1 of the 1 cases that they are to label" in shown.err
    assert "next: viscera train RECIPE" in shown.err
    after = files_of(store_path)
    assert {name: after[name] for name in before} == before
    case = open_store(store_path).case("b__b")
    assert "spleen" in case.pseudo_annotated
    spleen = np.zeros(case.image.shape, bool)
    spleen[1:, 8:13, 10:14] = True  # conftest.py
    assert distance.dice(spleen.ravel(), (case.pseudo == SPLEEN).ravel()) < 0.2
    assert find_teacher(runs[0]).facts()["run"] == "seed0"
    assert main([*words, "--confidence", "0.8"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--remove"]) == 2
    assert main(["pseudolabel", str(store_path), "--remove"]) == 0
    assert "1 case" in capsys.readouterr().err
    assert files_of(store_path) == before


def test_from_the_command_line_a_mistake_is_explained(runs, store_path, capsys):
    assert main(["pseudolabel", str(runs[0]), str(store_path)]) == 2
    assert "two or more different teachers" in capsys.readouterr().err
    assert main(["pseudolabel", *map(str, runs)]) == 2
    assert "not a prepared store" in capsys.readouterr().err
    assert main(["pseudolabel"]) == 2
    assert "RUN RUN STORE" in capsys.readouterr().err
    splits = json.loads((store_path / "splits.json").read_text())
    splits["cases"] = {name: "training" if name.startswith("a") else "test" for name in splits["cases"]}
    write_json(store_path / "splits.json", splits)
    assert main(["pseudolabel", *map(str, runs), str(store_path)]) == 0
    assert "nothing to fill in" in capsys.readouterr().err
