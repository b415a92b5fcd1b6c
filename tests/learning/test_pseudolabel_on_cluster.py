"""viscera pseudolabel --cluster: the same pseudo-labels, whoever filled them in."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dask_threads import files, threads
from makers import PARTIAL_RECIPE, call
from viscera.learning.training import train
from viscera.preparation.store import open_store

pytestmark = pytest.mark.filterwarnings("always::viscera.learning.pseudolabels.teachers.TeacherWarning")


@pytest.fixture(scope="module")
def cluster():
    with threads() as found:
        yield found


@pytest.fixture
def place(small_store, tmp_path, monkeypatch) -> Path:
    """Two stores of the same cases, and two runs that were trained on them."""
    shutil.copytree(small_store, tmp_path / "here")
    for seed in (0, 1):
        recipe = replace(PARTIAL_RECIPE, training=replace(PARTIAL_RECIPE.training, seed=seed))
        train(recipe, open_store(tmp_path / "here"), tmp_path / f"run{seed}")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_same_pseudo_labels_come_of_a_cluster_and_what_is_done_is_not_done_again(cluster, place):
    assert call("pseudolabel run0 run1 here --device cpu")[0] == 0
    words = f"pseudolabel run0 run1 there --device cpu --cluster {cluster.address.url}"
    code, said = call(words)
    assert (code, "2 workers at tcp://" in said) == (0, True), said
    assert files(place / "there") == files(place / "here")
    assert list(place.glob("there/cases/*/pseudo.json"))
    before = {file: file.stat().st_mtime_ns for file in place.glob("there/cases/*/*")}
    assert call(words)[0] == 0
    assert {file: file.stat().st_mtime_ns for file in place.glob("there/cases/*/*")} == before


def test_what_cannot_be_is_told_first(place):
    code, said = call("pseudolabel run0 run1 there --cluster local")
    assert (code, "neither local:N nor tcp://HOST:PORT" in said) == (2, True)
    code, said = call("pseudolabel there --remove --cluster local:2")
    assert (code, "--remove takes no time, so no --cluster" in said) == (2, True)
