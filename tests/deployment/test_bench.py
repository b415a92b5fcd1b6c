"""viscera bench: what is measured, and what is said of it; every number derived from the rounds or from the network."""

import json
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from viscera.cli.bench import conclusion, main, table_rows
from viscera.deployment.bench import (
    LAUNCHER,
    WHOLE,
    Bench,
    Plan,
    Speed,
    _start_up,
    bench,
    runtimes_here,
    steps,
    write_synthetic_scan,
    write_untrained_weights,
)
from viscera.deployment.flops import NotedRunner, flops
from viscera.errors import FileError, RunError, SettingError, VisceraError
from viscera.inference.model import load_model
from viscera.io import nifti
from viscera.networks.processor import this_processor
from viscera.networks.runners import missing_packages
from viscera.networks.torch_runner import TorchRunner
from viscera.networks.weights import load_weights
from viscera.recipes.catalogue import RECIPES

SMALL = RECIPES["zhang2d-small"]
NEEDED = {"torch", "openvino", "onnx"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Bench a scan of 8x64x64 that names a patient, by the command, on torch and OpenVINO."""
    folder = tmp_path_factory.mktemp("Doe_Jane")
    write_synthetic_scan(folder / "Doe_Jane.nii.gz", shape=(8, 64, 64))
    words = [str(folder / "Doe_Jane.nii.gz"), "--recipe", "zhang2d-small", "--rounds", "1"]
    runtimes = [name for name in ("torch", "openvino") if not missing_packages(name)]
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        shown = []
        patch.setattr("viscera.cli.bench.show_table", lambda title, columns, rows: shown.append((title, columns, rows)))
        patch.setattr("tempfile.tempdir", str(folder))
        patch.setattr("viscera.deployment.bench.Plan", partial(Plan, peak_seconds=0.001, peak_sizes=((8, 16),)))
        assert main([*words, "--runtime", *runtimes, "--json", str(folder / "bench.json")]) == 0
    torch.set_num_threads(threads)
    return folder, runtimes, shown


@pytest.mark.slow
def test_each_runtime_has_every_stage_and_what_follows_from_the_rounds(measured):
    folder, runtimes, [(title, columns, rows), _] = measured
    written = json.loads((folder / "bench.json").read_text())
    assert title == "8x64x64, zhang2d-small: median (range) of 1"
    assert list(columns[1:]) == list(written["runtimes"]) == runtimes
    assert {name.removesuffix(" (s)") for name, *_ in rows} >= {
        "read",
        "prepare",
        "network",
        "postprocess",
        "write",
        WHOLE,
    }
    assert all(len(row) == 1 + len(runtimes) for row in rows)
    weights = folder / "again.safetensors"
    write_untrained_weights(weights, SMALL)
    expected = flops(load_model(weights, accelerator="cpu").module, (8, 1, 128, 128))
    for name, facts in written["runtimes"].items():
        assert facts["name"] == name
        assert facts["network_images"] == 8  # an untrained network skips no slice
        assert facts["network_gflop"] == pytest.approx(expected / 1e9, abs=1e-3)
        assert sum(facts["median_s"].values()) - facts["median_s"][WHOLE] < 1.1 * facts["median_s"][WHOLE] + 0.01
        assert facts["slices_per_s"] == pytest.approx(8 / facts["median_s"][WHOLE], rel=0.05)
        assert 0 < facts["network_alone_s"][0] < facts["median_s"][WHOLE]
        assert facts["peak_fraction"] == pytest.approx(
            facts["network_gflop_per_s"] / facts["convolution_peak_gflop_per_s"], rel=0.05
        )
        assert len(facts["start_up_s"]) == 1
        assert facts["start_up_s"][0] > facts["median_s"][WHOLE]  # importing torch takes longer than eight small slices
        assert 100 < facts["peak_memory_mib"] < 5000
    assert written["scan"] == {"slices": 8, "rows": 64, "columns": 64}
    assert (written["trained"], written["synthetic_scan"]) == (False, False)
    assert written["conclusion"].startswith("With ")
    assert written["machine"]["versions"]["torch"] == torch.__version__
    processor = this_processor()
    assert written["machine"]["processor_facts"]["abilities"] == list(processor.abilities)
    assert (written["machine"]["processor"], written["machine"]["cores"]) == (processor.name, processor.cores)
    assert {figure["kind"] for figure in written["elsewhere"]} >= {"AMX", "AVX2"}


@pytest.mark.slow
def test_nothing_of_the_patient_is_written_and_nothing_else_is_left(measured):
    folder, *_ = measured
    text = (folder / "bench.json").read_text()
    assert "Doe" not in text
    assert str(folder) not in text
    assert not list(folder.glob("*viscera-bench*"))


def test_a_json_file_is_replaced_only_if_wished_and_before_anything_is_measured(tmp_path):
    (tmp_path / "b.json").write_text("mine")
    with pytest.raises(FileError, match=r"b\.json exists already.*--overwrite"):
        main(["--json", str(tmp_path / "b.json")])
    assert (tmp_path / "b.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "-1"], "--jobs must not be negative, got -1"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--shape", "8", "4", "64"], "shape must be at least 4x16x16"),
        (["--recipe", "zhang3d"], "there is no recipe 'zhang3d'"),
        (["--weights", "nowhere"], "no weights at nowhere"),
        (["--weights", "run", "--recipe", "zhang2d"], "--recipe is for untrained networks"),
        (["scan.nii", "--shape", "8", "64", "64"], "--shape is for the synthetic scan"),
        (["nowhere.nii.gz", "--recipe", "zhang2d-small"], "nowhere.nii.gz"),
    ],
)
def test_what_makes_no_sense_is_explained_and_leaves_nothing(tmp_path, monkeypatch, words, message):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(VisceraError, match=message):
        main(words)
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def interrupted(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("viscera.deployment.bench.convolution_loads", interrupted)
    words = ["--recipe", "zhang2d-small", "--shape", "8", "64", "64", "--rounds", "1", "--runtime", "torch"]
    with pytest.raises(KeyboardInterrupt):
        main([*words, "--json", str(tmp_path / "b.json")])
    assert not list(tmp_path.iterdir())


def test_rounds_alternate_and_every_step_is_told(tmp_path, monkeypatch):
    runtimes = tuple(name for name in ("torch", "onnx") if not missing_packages(name))
    write_synthetic_scan(tmp_path / "s.nii.gz", shape=(4, 16, 16))
    write_untrained_weights(tmp_path / "w.safetensors", SMALL)
    monkeypatch.setattr("viscera.deployment.bench._start_up", lambda scan, weights, name, *, plan, folder: (3.0, 100.0))
    plan, told = Plan(runtimes, rounds=2, device="cpu", peak_seconds=0.001, peak_sizes=((8, 16),)), []
    found = bench(tmp_path / "s.nii.gz", tmp_path / "w.safetensors", plan=plan, folder=tmp_path, watch=told.append)
    assert len(told) == steps(plan)
    rounds = [what for what in told if "round" in what]
    assert rounds == [f"{name}: round {number} of 2" for number in (1, 2) for name in runtimes]
    for name in runtimes:
        speed = found.speeds[name]
        assert list(speed.seconds)[-1] == WHOLE
        assert {len(values) for values in speed.seconds.values()} == {2}
        assert speed.images == 4
        assert speed.start_up_s == [3.0, 3.0]  # as many as rounds, where those are fewer than three


def test_a_runtime_that_is_not_installed_is_named_with_the_remedy(tmp_path, monkeypatch):
    write_synthetic_scan(tmp_path / "s.nii.gz", shape=(4, 16, 16))
    write_untrained_weights(tmp_path / "w.safetensors", SMALL)
    monkeypatch.setattr("viscera.deployment.bench.missing_packages", lambda name: ["onnxruntime"])
    with pytest.raises(SettingError, match=r"--runtime onnx: onnxruntime not installed.*pip install 'viscera\[onnx\]'"):
        bench(tmp_path / "s.nii.gz", tmp_path / "w.safetensors", plan=Plan(("onnx",)), folder=tmp_path)


def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(RunError, match="ends with code 2.*there is no scan at"):
        _start_up(tmp_path / "s.nii.gz", tmp_path / "none", "torch", plan=Plan(("torch",)), folder=tmp_path)


def test_memory_is_the_commands_own_not_that_of_who_starts_it():
    code = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10)"
    large = b"x" * (400 * 2**20)
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, sys.executable, "-c", code], capture_output=True, check=True
    )
    assert int(done.stdout) < 200 < len(large) / 2**20


def test_calls_of_several_threads_are_added_up():
    class Slow(nn.Module):
        stride, dimensions = 1, 2

        def forward(self, image):
            time.sleep(0.02)
            return image

    network = TorchRunner(Slow())
    noted = NotedRunner(network)
    threads = [threading.Thread(target=noted, args=(np.zeros((1, 3, 4, size), np.float32),)) for size in (4, 4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    network(np.zeros((1, 3, 4, 2), np.float32))  # not noted
    assert noted.calls.shapes == {(1, 3, 4, 4): 2, (1, 3, 4, 8): 1}
    assert noted.calls.seconds >= 3 * 0.02


@pytest.mark.parametrize("name", ["viscera2d-16", "gao2step-small", "upv1-small"])
def test_untrained_weights_load_as_any_others_and_are_always_the_same(tmp_path, name):
    state = torch.random.get_rng_state()
    for file in ("a", "b"):
        write_untrained_weights(tmp_path / f"{file}.safetensors", RECIPES[name])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert load_weights(tmp_path / "a.safetensors").recipe.network == RECIPES[name].network
    assert load_model(tmp_path / "a.safetensors", accelerator="cpu").network is not None


def test_a_synthetic_scan_has_the_shape_that_was_asked_for(tmp_path):
    write_synthetic_scan(tmp_path / "s.nii.gz", shape=(5, 16, 24))
    assert nifti.read(tmp_path / "s.nii.gz").voxels.ravel().size == 5 * 16 * 24


def test_volumes_and_gpus_are_measured_on_torch():
    assert runtimes_here(RECIPES["gao2step"], "cpu") == ("torch",)
    assert runtimes_here(SMALL, "cuda") == ("torch",)
    assert set(runtimes_here(SMALL, "cpu")) == {name for name in NEEDED if not missing_packages(name)}


SPEED = Speed(
    facts={"name": "openvino", "version": "1", "precision": "bf16", "threads": 10**6},
    seconds={"read": [0.2, 0.4, 0.3], "network": [1.0, 2.0, 1.4], WHOLE: [1.5, 2.6, 2.0]},
    network_s=[1.0, 1.8, 1.2],
    network_flop=600 * 10**9,
    images=100,
    peak_flop_per_s=1000e9,
    start_up_s=[1.0, 1.1, 1.2],
    peak_memory_mib=512.4,
)
BENCH = Bench((100, 512, 512), SMALL, "openvino", "cpu", {"openvino": SPEED})


def test_medians_shares_and_the_peak_are_those_derived_by_hand():
    assert SPEED.median(WHOLE) == 2.0
    assert SPEED.flop_per_s == 600e9 / 1.2
    assert SPEED.peak_fraction == 0.5
    on_gpu = replace(SPEED, network_s=[])
    assert on_gpu.peak_fraction == pytest.approx(600 / 1.4 / 1000)
    assert replace(SPEED, peak_flop_per_s=0.0).peak_fraction is None
    rows = dict(table_rows(BENCH))
    assert rows["file to file (s)"] == "2.000 (1.500-2.600)"
    assert rows["slices per second"] == "50.0"
    assert rows["network, of that peak"] == "50%"
    assert list(rows)[:3] == ["read (s)", "network (s)", "file to file (s)"]
    facts = BENCH.to_json()["runtimes"]["openvino"]
    assert facts["median_s"] == {stage: statistics.median(values) for stage, values in SPEED.seconds.items()}
    assert (facts["slices_per_s"], facts["peak_fraction"], facts["network_gflop"]) == (50.0, 0.5, 600.0)


def test_a_stage_that_a_runtime_does_not_have_is_a_dash():
    torchs = replace(SPEED, seconds={**SPEED.seconds, "region": [0.1], WHOLE: [2.0]}, peak_flop_per_s=0.0)
    rows = {name: values for name, *values in table_rows(replace(BENCH, speeds={"openvino": SPEED, "torch": torchs}))}
    assert rows["region (s)"] == ["-", "0.100 (0.100-0.100)"]
    assert rows["network, of that peak"] == ["50%", "-"]


def sentence(**changes) -> str:
    return conclusion(replace(BENCH, **changes))


def test_the_sentence_says_what_limits_and_what_would_help(monkeypatch):
    assert sentence() == (
        "With openvino the scan takes 2.00 s, 70% of it in the stage 'network', where the network reaches 50% of this machine's "
        "convolution peak. A smaller network, more cores or a GPU would help."
    )
    quick = replace(SPEED, seconds={stage: [value / 2 for value in values] for stage, values in SPEED.seconds.items()})
    assert sentence(speeds={"openvino": SPEED, "onnx": quick}).endswith("onnx takes 50% of that: --runtime onnx.")
    assert "Starting takes longer, 2.50 s" in sentence(speeds={"openvino": replace(SPEED, start_up_s=[2.5])})
    few = replace(SPEED, facts={**SPEED.facts, "threads": 0})
    assert "It had 0 of" in sentence(speeds={"openvino": few})
    reading = replace(SPEED, seconds={"read": [1.5], "network": [0.4], WHOLE: [2.0]})
    assert sentence(speeds={"openvino": reading}) == (
        "With openvino the scan takes 2.00 s, 75% of it in the stage 'read'. A scan that is a .nii needs no decompressing."
    )
    preparing = replace(SPEED, seconds={"prepare": [1.5], WHOLE: [2.0]})
    assert sentence(speeds={"openvino": preparing}).endswith("No setting changes that.")
    monkeypatch.setattr("viscera.networks.runners.missing_packages", lambda name: ["openvino"])
    assert "pip install 'viscera[openvino]'" in sentence(usual="torch", speeds={"torch": SPEED})
