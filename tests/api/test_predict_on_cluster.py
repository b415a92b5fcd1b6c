"""viscera.predict with a cluster: the same files, whoever segments."""

from dataclasses import replace

import numpy as np
import pytest

import viscera
from dask_threads import threads
from makers import PARTIAL_RECIPE
from ports import free_port
from viscera.errors import SettingError
from viscera.io import nifti
from viscera.learning.training import train
from viscera.preparation.store import open_store
from viscera.volume import Volume


@pytest.fixture
def place(small_store, tmp_path, monkeypatch):
    """A run that was trained for a moment, and two scans."""
    recipe = replace(PARTIAL_RECIPE, training=replace(PARTIAL_RECIPE.training, epochs=1))
    train(recipe, open_store(small_store), tmp_path / "run")
    generator = np.random.default_rng(0)
    for name in "ab":
        hu = generator.integers(-100, 300, (6, 24, 24)).astype(np.int16)
        nifti.write(tmp_path / f"scans/{name}.nii.gz", Volume(hu, np.diag([5.0, -2.0, -2.0, 1.0])[[2, 1, 0, 3]]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_same_label_maps_come_of_a_cluster(place):
    told = []
    here = viscera.predict("scans", "here", "run", organs="all")
    with threads() as cluster:
        there = viscera.predict(
            "scans",
            "there",
            "run",
            organs="all",
            cluster=cluster.address.url,
            progress=lambda done, total: told.append((done, total)),
        )
    assert told == [(1, 2), (2, 2)]
    assert [path.name for path in there.labels] == [path.name for path in here.labels] == ["a.nii.gz", "b.nii.gz"]
    for one, two in zip(here.labels, there.labels, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_what_cannot_be_is_told_first(place):
    with pytest.raises(SettingError, match="a loaded model stays in this process"):
        viscera.predict("scans", "out", viscera.load_model("run", device="cpu"), cluster="local:2")
    with pytest.raises(SettingError, match="neither local:N nor tcp://HOST:PORT"):
        viscera.predict("scans", "out", "run", cluster="many")
    with pytest.raises(SettingError, match="no scheduler answers"):
        viscera.predict("scans", "out", "run", cluster=f"tcp://127.0.0.1:{free_port()}")
    assert not (place / "out").exists()
