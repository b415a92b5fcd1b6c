"""viscera evaluate --cluster: the same scores, whoever computed them; finished cases are kept until all are."""

import json
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import viscera
from dask_threads import files, threads
from makers import call
from viscera.evaluation.evaluate import evaluate
from viscera.evaluation.on_cluster import kept_beside, score_over
from viscera.io import nifti
from viscera.volume import with_voxels


@pytest.fixture(scope="module")
def cluster():
    with threads() as found:
        yield found


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Four patients in truth; predictions of which one lacks an organ, one is shifted, and one is damaged."""
    viscera.synthesize(tmp_path / "set", cases=4, shape=(16, 32, 32), annotate=["liver", "spleen"])
    (tmp_path / "set/labelsTr").rename(tmp_path / "truth")
    for number, change in enumerate(
        [np.copy, lambda labels: labels * (labels != 2), partial(np.roll, shift=1, axis=1)]
    ):
        labels = nifti.read(tmp_path / f"truth/case_000{number + 1}.nii.gz")
        changed = with_voxels(labels, change(labels.voxels))
        nifti.write(tmp_path / f"found/case_000{number + 1}.nii.gz", changed)
    (tmp_path / "found/case_0004.nii.gz").write_bytes(b"no labels")
    for folder in ("truth", "found"):
        (tmp_path / folder / "dataset.json").write_bytes((tmp_path / "set/dataset.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_same_scores_come_of_a_cluster(cluster, place):
    before = files(place / "truth") | files(place / "found")
    for out, words in {"here": "--jobs 1", "there": f"--cluster {cluster.address.url}"}.items():
        code, said = call(
            f"evaluate truth found --versus truth --json {out}.json --csv {out}.csv --mode flare --confusion {words}"
        )
        assert (code, "1 problem" in said) == (2, True), said
    assert Path("there.json").read_bytes() == Path("here.json").read_bytes()
    assert Path("there.csv").read_bytes() == Path("here.csv").read_bytes()
    assert json.loads(Path("there.json").read_text())["problems"][0]["file"] == "found/case_0004.nii.gz"
    assert not kept_beside(Path("there.json")).exists()
    assert files(place / "truth") | files(place / "found") == before


def test_an_interruption_keeps_finished_cases_by_their_contents(cluster, place):
    kept = kept_beside(Path("scores.json"))
    score = partial(score_over, cluster, kept)
    expected = evaluate(Path("truth"), Path("found"))
    assert any(math.isinf(row.values["hd95_mm"]) for row in expected.scores)
    assert repr(evaluate(Path("truth"), Path("found"), workers=score)) == repr(expected)

    def stop(case: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(Path("truth"), Path("found"), workers=score, done=stop)
    ends = time.monotonic() + 60  # a worker may still have a case that it had begun
    while len(names := [file.name for file in kept.iterdir()]) > 3 and time.monotonic() < ends:
        time.sleep(0.05)
    assert len(names) == 3  # the damaged one is tried again
    assert all(name.endswith(".json") for name in names)
    assert repr(evaluate(Path("truth"), Path("found"), workers=score)) == repr(expected)  # infinite distances, too
    told = [file for file in kept.iterdir() if '"case_0003"' in file.read_text()]
    told[0].write_text(told[0].read_text().replace('"case_0003"', '"kept"'))
    again = evaluate(Path("truth"), Path("found"), workers=score)
    assert {row.case for row in again.scores} == {"case_0001", "case_0002", "kept"}  # read, not scored
    nifti.write(Path("found/case_0003.nii.gz"), nifti.read(Path("truth/case_0003.nii.gz")), overwrite=True)
    anew = evaluate(Path("truth"), Path("found"), workers=score)
    assert {row.case for row in anew.scores} == {"case_0001", "case_0002", "case_0003"}
    next(file for file in kept.iterdir() if '"case_0001"' in file.read_text()).write_text("damaged")
    assert repr(evaluate(Path("truth"), Path("found"), workers=score)) == repr(anew)


def test_a_command_that_writes_no_scores_is_refused(place):
    code, said = call("evaluate truth found --cluster local:2")
    assert (code, "--cluster needs --json, beside which finished cases are kept until all are" in said) == (2, True)
    code, said = call("evaluate truth found --cluster cloud:2 --json scores.json")
    assert (code, "neither local:N nor tcp://HOST:PORT" in said) == (2, True)
    assert sorted(file.name for file in place.iterdir()) == ["found", "set", "truth"]
