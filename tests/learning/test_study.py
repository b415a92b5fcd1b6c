"""A study: its grid, its runs (failing, resumed, stopped), its scores against an independent count, its files."""

import csv
import io
import json
import math
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from viscera.cli.command import main
from viscera.cli.study import Options, places_of, plan_of, split_of, table
from viscera.config import PartialLoss, Recipe, ResizedSlices, SliceInference, Training, UNetShape
from viscera.config.recipe_json import recipe_to_json
from viscera.errors import FileError, RunError, SettingError, StoreError
from viscera.evaluation.counts import count_case
from viscera.inference.model import load_model
from viscera.inference.prepared import prepared_labels
from viscera.learning.setup import check_fit
from viscera.learning.study.grid import STUDIES, Cell, make_cells, parse_grid, recipe_of, recipes_of
from viscera.learning.study.last_words import reason
from viscera.learning.study.results import (
    CaseScore,
    CellResult,
    ClassScore,
    Study,
    cell_from_json,
    cell_to_json,
    study_from_json,
)
from viscera.learning.study.runs import Children, Plan, in_parallel, run_study
from viscera.learning.study.scoring import class_scores, read_labels, score_run, write_labels
from viscera.preparation.store import open_store
from viscera.recipes.catalogue import RECIPES

TINY = Recipe(
    name="tiny",
    label_space="abdomenct1k",
    preparation=ResizedSlices(size=(16, 16)),
    network=UNetShape(widths=(4, 8)),
    training=Training(epochs=1, visits_per_slice=1, batch_size=4, precision="32-true"),
    inference=SliceInference(batch_size=3),
)
CLASSES = ("background", "liver", "kidney", "spleen")


# --- the grid


def test_values_are_json_where_they_can_be_and_otherwise_text():
    words = ["network.depth=4,0.5", "a.b=true,null", "contrast.method=none,clahe", "network.widths=[8,16],[16,32]"]
    assert parse_grid(words) == {
        "network.depth": [4, 0.5],
        "a.b": [True, None],
        "contrast.method": ["none", "clahe"],
        "network.widths": [[8, 16], [16, 32]],
    }
    assert parse_grid(['loss={"kind":"partial","alpha":1},x'])["loss"] == [{"kind": "partial", "alpha": 1}, "x"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the grid is empty"),
        (["loss.alpha"], "SETTING=VALUE,VALUE, got 'loss.alpha'"),
        (["=1,2"], "got '=1,2'"),
        (["loss..alpha=1"], "got 'loss..alpha=1'"),
        (["loss.alpha=1,,2"], "a value is missing"),
        (["loss.alpha="], "a value is missing"),
        (["loss.alpha=1,5,1"], "1 is said twice"),
        (["loss.alpha=1", "loss.alpha=2"], "names loss.alpha twice"),
    ],
)
def test_a_grid_that_cannot_be_read_is_refused_with_what_to_say(words, message):
    with pytest.raises(SettingError, match=message):
        parse_grid(words)


def test_cells_are_all_combinations_with_short_names():
    cells = make_cells(
        parse_grid(["network.variant=1,2", "network.depth=4,5", "contrast.method=none,equalisation,clahe"])
    )
    assert len(cells) == 12
    assert cells[-1] == Cell(
        "variant=2 depth=5 contrast=clahe",
        "variant-2_depth-5_contrast-clahe",
        {"network.variant": 2, "network.depth": 5, "contrast.method": "clahe"},
    )


def test_folders_are_unique_and_safe_even_where_only_signs_or_capitals_differ():
    values = ["a/b", "a b", "A B", "..", "x" * 200, "x" * 201, [1, 2], "[1,2]", "-1"]
    cells = make_cells({"s.one": values, "other.one": [1]})
    folders = [cell.folder for cell in cells]
    assert len({folder.lower() for folder in folders}) == len(values) - 1  # [1,2] and "[1,2]" read the same
    assert all(len(folder) < 100 and not set(folder) & set('/\\:*?"<>| ') for folder in folders)


def test_a_cell_changes_its_settings_and_no_other():
    cell = make_cells({"training.seed": [3], "loss.alpha": [2.5]})[0]
    changed = recipe_of(TINY, cell, study="mine")
    assert (changed.training.seed, changed.loss.alpha) == (3, 2.5)
    same = replace(
        changed,
        name="tiny",
        about="",
        training=replace(changed.training, seed=0),
        loss=replace(changed.loss, alpha=TINY.loss.alpha),
    )
    assert same == TINY
    assert changed.name == "mine_seed-3_alpha-2.5"


def test_a_changed_kind_brings_its_own_defaults():
    cell = make_cells({"loss.alpha": [2], "loss.kind": ["partial"]})[0]
    assert recipe_of(TINY, cell, study="s").loss == PartialLoss(alpha=2)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"training.epocs": [1]}, "there is no setting 'training.epocs'. Did you mean 'training.epochs'"),
        ({"trainng.epochs": [1]}, "no section 'trainng'. Did you mean 'training'"),
        ({"name.first": [1]}, "no section 'name'"),
        ({"training.epochs": [1, 0]}, "--grid epochs=0: training.epochs: .*greater than 0|--grid epochs=0"),
        ({"training.epochs": ["many"]}, "training.epochs: .*got 'many'"),
        ({"loss.alpha": [1, 1.0]}, "'alpha=1' and 'alpha=1.0' are the same recipe"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_trained(grid, message):
    with pytest.raises(SettingError, match=message):
        recipes_of(TINY, make_cells(grid), study="s")


@pytest.mark.parametrize("name", STUDIES)
def test_every_named_study_has_a_recipe_and_valid_cells(name):
    known = STUDIES[name]
    cells = make_cells(parse_grid(known.words))
    recipes = recipes_of(RECIPES[known.recipe], cells, study=name)
    assert len({recipe.name for recipe in recipes}) == len(cells)
    for recipe in recipes:
        check_fit(recipe)


def test_a_recipe_without_a_grid_is_told_to_say_one(small_store):
    store = open_store(small_store)
    with pytest.raises(SettingError, match=r"'zhang2d' has no grid of its own.*--grid training.seed=0,1.*upv"):
        plan_of(Options("zhang2d", small_store, Path("out")), store)
    with pytest.raises(SettingError, match="there is no recipe 'upw'"):
        plan_of(Options("upw", small_store, Path("out")), store)
    with pytest.raises(SettingError, match="contradict each other"):
        plan_of(Options("zhang2d", small_store, Path("out"), grid=("training.epochs=1,2",), epochs=3), store)


def test_without_test_cases_validation_cases_are_scored_with_a_note(small_store):
    store, options = open_store(small_store), Options("upv", small_store, Path("out"))
    assert split_of(options, store) == ("test", ())
    trained = {name: "training" if split == "test" else split for name, split in store.splits.items()}
    split, notes = split_of(options, replace(store, splits=trained))
    assert split == "validation"
    assert "scores are too high" in notes[0]
    with pytest.raises(RunError, match="no test cases to score"):
        split_of(options, replace(store, splits=dict.fromkeys(store.splits, "training")))


# --- scores


def naive(cases, organ):
    """Return [(intersection, union)] of the cases that annotate an organ, from sets of voxels."""
    pairs = []
    for truth, labels, known, annotated in cases:
        if organ != "background" and organ not in annotated:
            continue
        inside = known if known is not None else np.ones(truth.shape, bool)
        others = [CLASSES.index(one) for one in CLASSES[1:] if one not in annotated]
        found = np.where(np.isin(labels, others), 0, labels)
        index = CLASSES.index(organ)
        true = {tuple(voxel) for voxel in np.argwhere((truth == index) & inside)}
        said = {tuple(voxel) for voxel in np.argwhere((found == index) & inside)}
        pairs.append((len(true & said), len(true | said)))
    return pairs


@pytest.fixture
def cases():
    generator = np.random.default_rng(3)
    made = []
    for number in range(5):
        annotated = ("liver", "kidney", "spleen") if number % 2 == 0 else ("liver", "spleen")
        shown = [0, *(CLASSES.index(organ) for organ in annotated if not (number == 4 and organ == "spleen"))]
        truth = generator.choice(shown, (3, 6, 7)).astype(np.uint8)
        labels = np.where(generator.random(truth.shape) < 0.6, truth, generator.integers(0, 4, truth.shape))
        known = generator.random(truth.shape) < 0.8 if number in (1, 2) else None
        made.append((truth, labels.astype(np.uint8), known, annotated))
    return made


def test_intersections_and_unions_are_those_of_sets_of_voxels(cases, make_case):
    counts = [
        count_case(make_case(f"d__{number}", annotated=annotated, labels=truth, known=known), labels, classes=CLASSES)
        for number, (truth, labels, known, annotated) in enumerate(cases)
    ]
    scores = {one.organ: one for one in class_scores(counts, classes=CLASSES, generator=np.random.default_rng(0))}
    assert list(scores) == [*CLASSES, "mean"]
    for organ in CLASSES:
        pairs = naive(cases, organ)
        assert [one.voxels[organ] for one in counts if organ in one.voxels] == pairs
        each = [both / union for both, union in pairs if union]
        assert scores[organ].pooled == pytest.approx(sum(b for b, _ in pairs) / sum(u for _, u in pairs))
        assert scores[organ].mean == pytest.approx(np.mean(each))
        assert scores[organ].cases == len(each)
        assert min(each) <= scores[organ].low <= scores[organ].mean <= scores[organ].high <= max(each)
    organs = [scores[organ] for organ in CLASSES[1:]]
    assert scores["mean"].pooled == pytest.approx(np.mean([one.pooled for one in organs]))
    assert scores["mean"].mean == pytest.approx(np.mean([one.mean for one in organs]))


def test_a_class_that_nobody_shows_has_no_score(make_case):
    empty = np.zeros((1, 2, 2), np.uint8)
    case = make_case("d__p", annotated=("liver", "kidney"), labels=empty)
    scores = class_scores(
        [count_case(case, empty, classes=CLASSES)], classes=CLASSES, generator=np.random.default_rng()
    )
    background, liver, kidney, spleen, mean = scores
    assert (background.pooled, background.mean, background.cases) == (1, 1, 1)
    assert math.isnan(background.low)  # one patient
    for score in (liver, kidney, spleen, mean):
        assert math.isnan(score.pooled)
        assert math.isnan(score.mean)
        assert score.cases == 0


def test_a_false_find_of_an_organ_that_is_annotated_but_absent_counts_as_none_right(make_case):
    case = make_case("d__p", annotated=("liver",), labels=np.zeros((1, 2, 2), np.uint8))
    found = np.array([[[1, 0], [3, 0]]], np.uint8)
    counts = count_case(case, found, classes=CLASSES)
    assert counts.voxels == {"background": (3, 4), "liver": (0, 1)}  # spleen is not annotated: background


def test_labels_are_read_as_they_were_written(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (3, 4, 5)).astype(np.uint8)
    write_labels(tmp_path / "new" / "a.npz", labels)
    assert np.array_equal(read_labels(tmp_path / "new" / "a.npz"), labels)
    (tmp_path / "b.npz").write_bytes((tmp_path / "new" / "a.npz").read_bytes()[:50])
    with pytest.raises(RunError, match=r"b.npz: no labels of a study"):
        read_labels(tmp_path / "b.npz")


# --- what is written


STUDY = Study(
    "mine",
    "store",
    "tiny",
    "test",
    (
        CellResult(
            "alpha=1",
            {"loss.alpha": 1, "network.widths": [4, 8]},
            epochs=3,
            best_epoch=2,
            seconds=61.5,
            parameters=1697,
            classes=(
                ClassScore("background", 0.99, 0.98, 0.97, 0.99, 2),
                ClassScore("liver", 0.8, 0.75, math.nan, math.nan, 1),
                ClassScore("mean", 0.8, 0.75, math.nan, math.nan, 1),
            ),
            cases=(CaseScore("a__1", "a/1", {"background": 0.97, "liver": 0.75}), CaseScore("a__2", "a/2", {})),
            folder="alpha-1",
        ),
        CellResult("alpha=5", {"loss.alpha": 5, "network.widths": [4, 8]}, failure="RunError: no", folder="alpha-5"),
    ),
    cells=2,
    notes=("a note",),
)


def test_a_study_is_read_as_it_was_written():
    text = STUDY.to_json()
    assert study_from_json(text, where="x").to_json() == text
    assert "NaN" not in text
    assert cell_to_json(cell_from_json(cell_to_json(STUDY.results[0]), where="x")) == cell_to_json(STUDY.results[0])
    assert STUDY.organs == ("background", "liver", "mean")
    for wrong in ("{", "[]", '{"results": []}', "null"):
        with pytest.raises(FileError, match="study.json is not a study"):
            study_from_json(wrong, where="study.json")


def test_the_table_has_a_row_per_cell_with_settings_costs_and_scores():
    rows = list(csv.DictReader(io.StringIO(STUDY.to_csv())))
    assert [row["loss.alpha"] for row in rows] == ["1", "5"]
    assert (rows[0]["liver pooled"], rows[0]["liver low"], rows[0]["background cases"]) == ("0.8", "", "2")
    assert (rows[1]["failure"], rows[1]["liver pooled"]) == ("RunError: no", "")


def test_the_table_for_people_names_failures_and_tells_pooled_from_mean():
    lines = table(STUDY).splitlines()
    assert lines[1].split()[:5] == ["alpha", "widths", "background", "liver", "mean"]
    assert lines[2].split() == ["1", "[4,8]", "0.990", "0.800", "0.800", "0.750", "2", "of", "3", "1.0"]
    assert lines[3].split() == ["5", "[4,8]", "failed:", "RunError:", "no"]


# --- runs


def test_a_reason_is_the_last_error_without_folders():
    folder = Path("patients/mueller/store")
    text = "note: slow\nTraceback ...\nValueError: early\nRunError: patients/mueller/store has no cases.\nPrepare /a/b/c.nii.\n"
    assert reason(1, text, folders=[folder]) == "RunError: store has no cases. Prepare c.nii."
    assert reason(2, "RunError: 0.5 is too much.", folders=[Path(), Path("data")]) == "RunError: 0.5 is too much."
    assert reason(-9, "", folders=[]) == "stopped by SIGKILL, perhaps for lack of memory"
    assert reason(3, "", folders=[]) == "ended with exit code 3"
    assert reason(1, "one\ntwo\nthree\nfour", folders=[]) == "two three four"


def test_as_many_run_at_once_as_there_are_jobs_and_every_place_is_given_back(tmp_path):
    cells = [(cell, TINY) for cell in make_cells({"a": [1, 2, 3, 4, 5]})]
    running, most, lock, kept = set(), [], threading.Lock(), []

    def run(cell, recipe, slot):
        with lock:
            assert slot not in running
            running.add(slot)
            most.append(len(running))
        time.sleep(0.02)
        with lock:
            running.discard(slot)
        return CellResult(cell.name, {})

    in_parallel(cells, run, kept.append, jobs=2, children=Children())
    assert {one.name for one in kept} == {cell.name for cell, _ in cells}
    assert max(most) == 2


def test_an_interruption_stops_what_is_running_and_starts_nothing_more(tmp_path):
    children, cells = Children(), [(cell, TINY) for cell in make_cells({"a": [1, 2, 3]})]
    started = []

    def run(cell, recipe, slot):
        if cell.name == "a=1":
            while not children.alive:
                time.sleep(0.01)
            return CellResult(cell.name, {})
        started.append(cell.name)
        sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
        return CellResult(cell.name, {}, failure=str(children.call(sleep, tmp_path / cell.folder, {})))

    def keep(result):
        raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        in_parallel(cells, run, keep, jobs=2, children=children)
    assert time.monotonic() - begun < 30
    assert not children.alive
    assert children.call([sys.executable, "-c", ""], tmp_path / "x", {}) == -15


# --- from the command line


@pytest.fixture(scope="module")
def studied(small_store, tmp_path_factory):
    """Run a study of two cells by the command: one network that fits, one that halves 16x16 slices five times."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.json").write_text(recipe_to_json(TINY))
    words = ["study", str(folder / "tiny.json"), str(small_store), str(folder / "out"), "--device", "cpu"]
    words += ["--grid", "network.widths=[4,8],[2,2,2,2,2,2]", "--jobs", "2", "--epochs", "1"]
    with pytest.MonkeyPatch.context() as patch:
        streams = io.StringIO(), io.StringIO()
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        code = main(words)
    return folder / "out", words, code, *(stream.getvalue() for stream in streams)


def test_a_failing_run_is_recorded_and_the_other_goes_on(studied):
    out, _, code, text, messages = studied
    assert code == 2
    study = study_from_json((out / "study.json").read_text(), where="x")
    good, bad = study.results
    assert not good.failure
    assert "16" in bad.failure
    assert "32" in bad.failure  # what would work
    assert "/" not in bad.failure.replace("16x16", "")
    assert "failed: " in text
    assert "2 of 2:" in messages
    assert "The same command tries them again." in messages


def test_a_cell_tells_its_training_and_scores_that_its_kept_labels_have(studied, small_store):
    out, *_ = studied
    store, good = open_store(small_store), study_from_json((out / "study.json").read_text(), where="x").results[0]
    folder = out / "cells" / good.folder
    assert (good.epochs, good.best_epoch) == (1, 1)
    assert good.parameters == sum(
        one.numel() for one in load_model(folder / "run", accelerator="cpu").module.parameters()
    )
    assert [case.case for case in good.cases] == store.names("test") == ["b__f"]
    labels, truth = read_labels(folder / "labels" / "b__f.npz"), store.case("b__f").truth
    both, either = ((truth == 1) & (labels == 1)).sum(), ((truth == 1) | (labels == 1)).sum()
    assert good.cases[0].iou["liver"] == pytest.approx(both / either if either else math.nan, nan_ok=True)
    assert set(good.cases[0].iou) == {"background", "liver"}  # data set b annotates no other
    assert (good.of("liver").cases, good.of("spleen").cases) == (1 if either else 0, 0)
    again = score_run(folder / "run", store, "test", accelerator="cpu")
    assert again.cases[0].case == "b__f"
    assert np.array_equal(
        prepared_labels(store.case("b__f").image, load_model(folder / "run", accelerator="cpu")), labels
    )


def test_a_finished_cell_is_not_run_again(studied, small_store, tmp_path, monkeypatch):
    out = shutil.copytree(studied[0], tmp_path / "out")
    store = open_store(small_store)
    recipe = replace(TINY, network=UNetShape(widths=(4, 8)))
    cell = make_cells({"network.widths": [[4, 8]]})[0]
    plan = Plan("tiny", "tiny", [(cell, recipe_of(recipe, cell, study="tiny"))], "test")
    log = out / "cells" / cell.folder / "run" / "log.jsonl"
    before = log.stat().st_mtime_ns
    monkeypatch.setattr(sys, "executable", "/no/python")  # any process would fail
    study = run_study(plan, store, out)
    assert [one.failure for one in study.results] == [""]
    assert log.stat().st_mtime_ns == before


def test_a_cell_with_other_settings_or_a_foreign_folder_is_refused(studied, small_store, tmp_path, capsys):
    out, words, *_ = studied
    assert main([*words[:-1], "2"]) == 2
    assert "training.epochs was 1, now 2" in capsys.readouterr().err
    store = open_store(small_store)
    plan = Plan("other", "tiny", [], "test")
    with pytest.raises(RunError, match="holds the study 'tiny' of recipe tiny, not 'other'"):
        run_study(plan, store, out)
    with pytest.raises(RunError, match="holds something that is not a study"):
        run_study(plan, store, small_store)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="holds something that is not a study"):
        run_study(plan, store, tmp_path / "file")


def test_a_store_for_another_preparation_is_refused_before_anything_is_written(small_store, tmp_path):
    cell = make_cells({"preparation.size": [[32, 32]]})[0]
    plan = Plan("tiny", "tiny", [(cell, recipe_of(TINY, cell, study="tiny"))], "test")
    with pytest.raises(StoreError, match="size 16x16, not size 32x32"):
        run_study(plan, open_store(small_store), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_result_names_files_that_are_there(studied):
    out, *_ = studied
    assert json.loads((out / "study.json").read_text())["cells"] == 2
    assert (out / "table.csv").read_text().startswith("cell,network.widths,failure,")
    assert (out / "study.html").read_text().lstrip().startswith("<!")


def test_the_slices_to_show_are_checked(small_store):
    store = open_store(small_store)
    name = store.names()[0]
    slices = len(store.case(name).image)
    assert places_of([f"{name}:0", f"{name}:{slices - 1}"], store) == [(name, 0), (name, slices - 1)]
    for word, message in (
        (f"{name}:{slices}", f"the case has {slices} slices"),
        (name, "takes CASE:SLICE"),
        ("nobody:1", "The store's cases are"),
    ):
        with pytest.raises(SettingError, match=message):
            places_of([word], store)
