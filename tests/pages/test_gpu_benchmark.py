"""benchmarks/gpu.py on the CPU, in tiny: the rows of its parts, what one failure costs, and what it says without a GPU."""

import json
import sys

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import PARTS, Part, run_part
from benchmarks.gpu_training import Work


def rows_of(part: str, work: Work) -> list[dict]:
    found: list[dict] = []
    run_part(part, work, lambda row: found.append(dict(row)))
    return found


@pytest.fixture
def work(tmp_path) -> Work:
    return Work("cpu", str(tmp_path), "", 0.01, sys.executable, quick=True)


@pytest.mark.slow
def test_the_card_is_measured_and_3d_scans_are_segmented(work):
    rows = [*rows_of("card", work), *rows_of("prediction_3d", work)]
    assert [row for row in rows if "failed" in row] == []
    assert {row["name"] for row in rows} >= {"peak, fp16", "gao2step", "runet"}
    assert all(row["median_s"] > 0 for row in rows if row["part"] == "prediction_3d")


@pytest.mark.slow
def test_a_row_that_fails_says_why_and_the_next_one_is_measured(work, monkeypatch):
    def broken() -> dict[str, object]:
        raise RuntimeError("CUDA error: out of luck")

    monkeypatch.setitem(PARTS, "luck", Part(lambda work: iter([("bad", broken), ("good", lambda: {"x": 1})]), 1.0))
    bad, good = rows_of("luck", work)
    assert bad["failed"] == "RuntimeError: CUDA error: out of luck"
    assert good["x"] == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "gpu.json")])
    gpu.main()
    assert "torch finds no CUDA device here, so nothing was measured" in capsys.readouterr().out
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.slow
def test_the_whole_command_measures_every_row_and_a_part_that_takes_too_long_is_stopped(capsys, monkeypatch, tmp_path):
    file = tmp_path / "gpu.json"
    words = ["gpu", "--device", "cpu", "--quick", "--limit", "1000", "--out", str(file)]
    monkeypatch.setitem(PARTS, "nnunet", Part(PARTS["nnunet"].rows, 1.1))
    for name, part in list(PARTS.items())[:-1]:
        monkeypatch.setitem(PARTS, name, Part(part.rows, 300.0))
    monkeypatch.setattr(sys, "argv", words)
    gpu.main()
    found = json.loads(file.read_text())
    *rows, last = found["rows"]
    assert [row for row in rows if "failed" in row] == []
    assert {row["part"] for row in rows} == {*PARTS} - {"nnunet"}
    assert last == {"part": "nnunet", "failed": "stopped after 1 s"}
    assert found["machine"]
    assert found["card"] == "none: this ran on the CPU"
