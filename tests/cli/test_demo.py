"""The demo's data sets, and the whole of it with as little as it takes."""

import json

import pytest

from makers import call
from viscera.cli.demo import write_patients


def test_a_data_set_that_stands_there_is_kept_and_one_left_unfinished_is_made_anew(tmp_path):
    folder, marker = tmp_path / "abdomenct1k", tmp_path / "abdomenct1k.unfinished"
    folder.mkdir()
    (folder / "precious").touch()
    write_patients(tmp_path, "abdomenct1k", 1)
    assert [file.name for file in folder.iterdir()] == ["precious"]
    marker.touch()  # as an interruption leaves it
    write_patients(tmp_path, "abdomenct1k", 1)
    assert not marker.exists()
    assert not (folder / "precious").exists()
    assert len(list(folder.rglob("*.nii.gz"))) == 2  # a scan and its labels


@pytest.mark.slow
def test_the_whole_demo_ends_with_a_report_a_picture_and_scores_of_unseen_patients(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = call("demo demo --cases 5 --epochs 1")
    assert code == 0, said
    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    [mean] = [row["mean"] for row in scores["summary"] if (row["organ"], row["metric"]) == ("mean", "dice")][:1]
    assert f"mean Dice over annotated organs of unseen patients: {mean:.3f}" in said
    for name in ("report.html", "training.html", "overlay.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 1000
