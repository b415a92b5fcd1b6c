"""A study that finds its files damaged, its cells another store's, or its processes deaf."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from test_study import TINY

from viscera.config.recipe_json import recipe_to_json
from viscera.errors import RunError
from viscera.learning.study import runs
from viscera.learning.study.child import train_and_score
from viscera.learning.study.scoring import read_labels, score_run
from viscera.preparation.store import open_store


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 5}'])
def test_a_damaged_study_and_a_damaged_result_are_as_good_as_none(text, tmp_path):
    (tmp_path / "study.json").write_text(text)
    (tmp_path / runs.RESULT).write_text(text)
    assert runs.study_before(tmp_path / "study.json") is None
    assert runs.finished(tmp_path, ["a__a"]) is None


def test_a_damaged_recipe_of_a_cell_counts_as_another_one_and_says_why(tmp_path):
    file = tmp_path / runs.WANTED
    assert runs.changed(file, TINY) == ""
    file.write_text(recipe_to_json(TINY))
    assert runs.changed(file, TINY) == ""
    file.write_text(recipe_to_json(replace(TINY, training=replace(TINY.training, epochs=7))))
    assert "epochs" in runs.changed(file, TINY)
    file.write_text("{")
    assert file.name in runs.changed(file, TINY)


def test_the_child_of_a_cell_trains_scores_and_keeps_its_labels(small_store, tmp_path):
    (tmp_path / runs.WANTED).write_text(recipe_to_json(TINY))
    train_and_score(tmp_path, small_store, "validation", accelerator="cpu")
    store = open_store(small_store)
    [name] = store.names("validation")
    assert json.loads((tmp_path / runs.SCORES).read_text())["epochs"] == 1
    labels = read_labels(tmp_path / "labels" / f"{name}.npz")
    assert labels.shape == store.case(name).image.shape
    assert np.isin(labels, range(len(store.space.classes))).all()


@pytest.mark.slow
def test_a_child_that_cannot_train_ends_with_2_and_the_reason(tmp_path):
    (tmp_path / runs.WANTED).write_text(recipe_to_json(TINY))
    command = [
        sys.executable,
        "-m",
        "viscera.learning.study.child",
        str(tmp_path),
        str(tmp_path / "none"),
        "test",
        "cpu",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 2
    assert done.stderr.startswith("StoreError: ")


def test_a_split_without_cases_is_refused(small_store, tmp_path):
    (tmp_path / runs.WANTED).write_text(recipe_to_json(TINY))
    train_and_score(tmp_path, small_store, "validation", accelerator="cpu")
    store = open_store(small_store)
    empty = replace(store, splits=dict.fromkeys(store.splits, "training"))
    with pytest.raises(RunError, match="no test cases to score. Prepare it with more patients"):
        score_run(tmp_path / "run", empty, "test", accelerator="cpu")


def test_a_process_that_does_not_listen_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "PATIENCE_S", 0.3)
    code = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    children = runs.Children()
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "deaf\n"
    children.alive.add(child)
    started = time.monotonic()
    children.stop()
    assert child.wait(10) == -9
    assert time.monotonic() - started < 20
    child.stdout.close()
    assert children.call([sys.executable, "-c", ""], tmp_path / "said", {}) == -15
