"""What speaks against a whole result is in NAME.json and on the screen, with --statistics and without."""

import json

import numpy as np
import pytest

from makers import call, nearest_model
from viscera.cli.doubts import tell_doubts
from viscera.inference.jobs import ScanJob
from viscera.inference.predict import PredictOptions, predict_all, predict_file
from viscera.io import nifti
from viscera.volume import Volume

AFFINE = np.array([[0, 0, -4.0, 0], [0, -4.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1]])


def write_scan(path, *, factor: float = 1.0, seed: int = 0):
    """A block like muscle in air, without any organ."""
    hu = np.random.default_rng(seed).normal(-1000, 12, (24, 64, 64))
    hu[:, 12:52, 6:58] += 1040
    nifti.write(path, Volume(hu.round().astype(np.int16), AFFINE @ np.diag([factor, factor, factor, 1])))
    return path


def kinds(facts: dict) -> list[str]:
    return [doubt["kind"] for doubt in facts["doubts"]]


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("max_memory_mib", [None, 100_000])
def test_doubts_are_in_every_sidecar_with_and_without_statistics(tmp_path, statistics, max_memory_mib):
    job = ScanJob(write_scan(tmp_path / "a.nii.gz", factor=0.1), tmp_path / "out.nii.gz")
    options = PredictOptions(statistics=statistics)
    facts = predict_file(job, nearest_model((16, 16)), options=options, max_memory_mib=max_memory_mib)
    assert {"view", "slice_spacing"} <= set(kinds(facts))
    assert kinds(json.loads(job.sidecar.read_text())) == kinds(facts)
    assert ("statistics" in facts) == statistics


def test_a_scan_that_is_read_slab_by_slab_has_the_doubts_of_one_that_is_read_whole(tmp_path, monkeypatch):
    from viscera.inference.memory import Budget

    found = []
    for plan in ("overlapped", "slabs"):
        monkeypatch.setattr(Budget, "plan", lambda self, scan, plan=plan: plan)
        job = ScanJob(tmp_path / "a.nii.gz", tmp_path / plan / "a.nii.gz")
        if not job.scan.exists():
            write_scan(job.scan, factor=0.1)
        found.append(predict_file(job, nearest_model((16, 16)))["doubts"])
    assert found[0] == found[1] != []


def test_an_empty_map_is_named_in_the_summary_of_one_scan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scan(tmp_path / "a.nii.gz", factor=0.1)
    code, said = call("predict a.nii.gz out.nii.gz")
    assert code == 0
    assert "1 of 1 scan segmented, in out.nii.gz: an empty label map" in said
    assert "organs looked for none was found" in said
    assert "perhaps the header counts in centimetres" in said
    assert call("predict a.nii.gz out.nii.gz")[1].count("none was found") == 1, "what was done before is told of too"


def test_a_folder_gets_counts_and_names(tmp_path, capsys):
    sidecars = []
    for name, signs in (
        ("a", []),
        ("b", [{"kind": "nothing", "message": "nothing"}]),
        ("c", [{"kind": "view", "message": "small"}]),
    ):
        sidecars.append(tmp_path / f"{name}.json")
        sidecars[-1].write_text(json.dumps({"doubts": signs}))
    assert tell_doubts(sidecars) == " (2 doubtful, 1 with an empty label map)"
    said = capsys.readouterr().err
    assert "doubtful, as their NAME.json say under doubts: b, c\n" in said
    assert "nothing was found in 1 scan: b\n" in said


def test_of_many_doubtful_scans_ten_are_named(tmp_path, capsys):
    sidecars = [tmp_path / f"p{number:02d}.json" for number in range(13)]
    for path in sidecars:
        path.write_text(json.dumps({"doubts": [{"kind": "view", "message": "small"}]}))
    assert tell_doubts(sidecars) == " (13 doubtful)"
    assert "p09 and 3 more" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"doubts": 3}', '{"doubts": [3]}', '{"doubts": [{}]}'])
def test_sidecars_of_others_are_no_doubts(tmp_path, content, capsys):
    (tmp_path / "a.json").write_text(content)
    assert tell_doubts([tmp_path / "a.json", tmp_path / "gone.json"]) == ""
    assert capsys.readouterr().err == ""


def test_an_organ_that_was_found_is_not_nothing(tmp_path):
    """The network paints the block, which is at 40 HU, as the class whose centre is nearest."""
    job = ScanJob(write_scan(tmp_path / "scan.nii.gz"), tmp_path / "out.nii.gz")
    assert predict_all([job], nearest_model((64, 64))) == []
    assert nifti.read(job.output).voxels.any()
    assert "nothing" not in kinds(json.loads(job.sidecar.read_text()))
