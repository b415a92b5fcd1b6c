"""viscera prepare --cluster: the same store, whoever prepared it."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import viscera
from dask_threads import files, threads
from makers import call
from ports import free_port
from viscera.datasets.layouts import find_sources
from viscera.errors import SettingError
from viscera.io.cluster_pieces import DEATHS, Place, noted, require_place
from viscera.io.cluster_sharing import require_fit, shared_notes
from viscera.preparation.on_cluster import prepare_over, prepare_there
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.store import create_store
from viscera.recipes.catalogue import find_recipe

RECIPE = find_recipe("zhang2d")


@pytest.fixture(scope="module")
def cluster():
    with threads() as found:
        yield found


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    """Four patients, and a damaged scan."""
    folder = tmp_path_factory.mktemp("sets") / "patients"
    viscera.synthesize(folder, cases=4, shape=(16, 32, 32), annotate=["liver", "spleen"])
    shutil.copy(folder / "labelsTr/case_0001.nii.gz", folder / "labelsTr/broken.nii.gz")
    (folder / "imagesTr/broken_0000.nii.gz").write_bytes(b"no scan")
    return folder


def prepare(store: Path, patients: Path, **more):
    sources, problems = find_sources("nnunet", patients)
    facts = {"space": RECIPE.space, "preparation": RECIPE.preparation}
    return prepare_store(store, sources, problems=problems, **facts, **more)


def test_the_same_store_comes_of_a_cluster_by_relative_paths_too(cluster, patients, tmp_path, monkeypatch):
    monkeypatch.chdir(patients.parent)
    here, said = call(f"prepare {tmp_path}/here --data nnunet=patients --jobs 1")
    there, told = call(f"prepare {tmp_path}/there --data nnunet=patients --cluster {cluster.address.url}")
    assert (here, there) == (2, 2)
    assert "4 scans prepared" in told
    assert "2 workers at tcp://127.0.0.1" in told
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert said.partition("problem")[2] == told.replace("/there", "/here").partition("problem")[2]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "there/cases").rglob("*.npy")}
    code, told = call(f"prepare {tmp_path}/there --data nnunet=patients --cluster {cluster.address.url}")
    assert (code, "0 scans prepared, 4 done before" in told) == (2, True)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_an_interruption_keeps_what_is_done_and_the_same_command_goes_on(cluster, patients, tmp_path):
    def stop(name: str, how: str) -> None:
        raise KeyboardInterrupt

    plan = Plan(prepare_all=partial(prepare_over, cluster))
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "store", patients, plan=plan, on_done=stop)
    result = prepare(tmp_path / "store", patients, plan=plan)
    assert 0 <= len(result.skipped) == 4 - len(result.prepared)
    prepare(tmp_path / "whole", patients, plan=Plan(jobs=1))
    assert files(tmp_path / "store") == files(tmp_path / "whole")


def test_a_case_is_set_aside_when_two_workers_died_of_it_in_one_command(patients, tmp_path):
    store = create_store(tmp_path / "store", space=RECIPE.space, preparation=RECIPE.preparation)
    source = next(one for one in find_sources("nnunet", patients)[0] if one.name == "case_0001")
    with shared_notes(store.path) as place:
        assert prepare_there(place, store, source) is None
        note = _note_left_behind(place, "patients__case_0001", deaths=DEATHS)
        problem = prepare_there(place, store, source)
        assert problem is not None
        assert (problem.case, problem.file) == ("case_0001", "imagesTr/case_0001_0000.nii.gz")
        assert problem.what == "2 workers died while they prepared it"
        assert not note.exists()
        assert prepare_there(place, store, source) is None  # the next command tries it again
    assert not (store.path / ".cluster").exists()


def _note_left_behind(place: Place, key: str, *, deaths: int) -> Path:
    """Leave a note as killed processes do."""
    before = set(place.probe.parent.iterdir())
    with noted(place, key, name="it", doing="prepared"):
        [note] = [file for file in set(place.probe.parent.iterdir()) - before if file.suffix == ".begun"]
    note.write_text(f"{place.token} {deaths}\n")
    return note


def test_what_cannot_be_is_told_before_any_work(patients, tmp_path):
    for words, message in {
        "--cluster local:0": "there must be 1 to 1024 workers",
        "--cluster local:2 --jobs 2": "--jobs 2 is of processes that this command starts, --cluster local:2 has others",
        f"--cluster tcp://127.0.0.1:{free_port()}": "no scheduler answers at tcp://127.0.0.1",
    }.items():
        code, said = call(f"prepare {tmp_path}/store --data nnunet={patients} {words}")
        assert (code, message in said) == (2, True), said
    assert not (tmp_path / "store").exists()


def test_a_worker_that_sees_other_files_is_told_before_any_work(cluster, patients, tmp_path):
    with shared_notes(tmp_path / "store") as place:
        fits = partial(require_place, place)
        require_fit(cluster, fits)
        for message, other in {
            "has viscera .*, not 0.0.0": replace(place, viscera="0.0.0"),
            "cannot write to .*/.cluster, or that is another folder there. Choose an output": replace(
                place, token="another"
            ),
            "does not see gone.nii.gz. Put what is read on a disk": replace(
                place, inputs=(Path("/nowhere/gone.nii.gz"),)
            ),
        }.items():
            with pytest.raises(SettingError, match=f"the worker tcp://127.0.0.1:.* cannot be used: it {message}"):
                require_fit(cluster, partial(require_place, other))
