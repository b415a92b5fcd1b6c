"""Which graph of the bundled weights is run: int8 where this processor is faster with it, as it was measured once and kept."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from viscera.inference.model import load_model
from viscera.networks import bundled_runner as choosing
from viscera.networks.bundled_runner import FASTER, bundled_runner, times_faster
from viscera.networks.cards import find_shipped
from viscera.networks.processor import this_processor

pytest.importorskip("openvino")


@pytest.mark.parametrize(("faster", "precisions"), [(FASTER + 0.1, {"int8"}), (FASTER - 0.1, {"fp32", "bf16"})])
def test_what_was_measured_decides_and_is_measured_once(faster, precisions, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(choosing, "times_faster", lambda exact, small: asked.append((exact, small)) or faster)
    first = bundled_runner(find_shipped(), choices=tmp_path)
    again = bundled_runner(find_shipped(), choices=tmp_path)
    assert first is not None
    assert again is not None
    assert first.precision in precisions
    assert again.precision == first.precision
    ((exact, small),) = asked
    assert (exact.precision in ("fp32", "bf16"), small.precision) == (True, "int8")


def test_what_another_processor_measured_decides_nothing_here(tmp_path, monkeypatch):
    answers = iter([2.0, 1.0])
    monkeypatch.setattr(choosing, "times_faster", lambda exact, small: next(answers))
    bundled_runner(find_shipped(), choices=tmp_path)
    here = this_processor()
    monkeypatch.setattr(choosing, "this_processor", lambda: replace(here, name="another"))
    other = bundled_runner(find_shipped(), choices=tmp_path)
    assert other is not None
    assert other.precision != "int8"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("text", ["", "{}", '{"int8_times_faster": "much"}', "[1]"])
def test_a_damaged_note_is_measured_anew(text, tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "times_faster", lambda exact, small: 2.0)
    bundled_runner(find_shipped(), choices=tmp_path)
    (note,) = tmp_path.iterdir()
    note.write_text(text)
    found = bundled_runner(find_shipped(), choices=tmp_path)
    assert found is not None
    assert found.precision == "int8"
    assert json.loads(note.read_text())["int8_times_faster"] == 2.0


def test_without_a_folder_it_is_measured_each_time_and_nothing_is_kept(monkeypatch):
    asked = []
    monkeypatch.setattr(choosing, "times_faster", lambda exact, small: asked.append(1) or 1.0)
    for _ in range(2):
        bundled_runner(find_shipped(), choices=None)
    assert len(asked) == 2


def test_the_measurement_is_a_ratio_of_both_graphs_at_work(tmp_path):
    found = bundled_runner(find_shipped(), choices=tmp_path)
    (note,) = tmp_path.iterdir()
    assert 0.1 < json.loads(note.read_text())["int8_times_faster"] < 20
    assert found is not None
    assert times_faster(found, found) == pytest.approx(
        1, abs=0.9
    )  # the same graph twice, whatever else the machine does


def test_both_graphs_agree_with_torch_on_where_organs_are():
    model = load_model(Path("starter"), accelerator="cpu", runtime="torch")
    exact, channels = model.network, model.recipe.channels
    image = np.random.default_rng(0).random((1, channels, 32, 48), np.float32)
    for faster in (0.0, 2.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(choosing, "times_faster", lambda exact, small, faster=faster: faster)
            runner = bundled_runner(find_shipped(), choices=None)
        assert runner is not None
        assert np.abs(runner(image) - exact(image)).mean() < 0.1 * np.std(exact(image))


def test_loading_the_bundled_weights_imports_no_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from viscera.inference.model import load_model; "
        f"m = load_model(Path('starter'), accelerator='cpu', runtime='auto', graphs=Path({str(tmp_path)!r})); "
        "print(m.network.name, *sorted({'torch', 'scipy', 'onnx'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "openvino"
    assert "torch" not in done.stdout.split()


def test_cores_that_are_chosen_before_torch_is_loaded_are_torchs_too():
    code = (
        "import sys; from pathlib import Path; from viscera.networks.device import use_cores; use_cores(1); "
        "assert 'torch' not in sys.modules; from viscera.inference.model import load_model; "
        "m = load_model(Path('starter'), accelerator='cpu', runtime='torch'); "
        "print(m.network.name, m.network.streams, sys.modules['torch'].get_num_threads())"
    )
    usual = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=usual)
    assert done.stdout.split() == ["torch", "1", "1"]
