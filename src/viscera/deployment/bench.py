"""How fast scans are segmented on this machine: file to file in rounds, stage by stage, on one runtime after the other.

Rounds alternate, so that a machine that is busy for a while slows all runtimes alike. Start-up and memory are those of the
command itself, in processes of its own. Tables are the
command line's.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import torch

from viscera.config import Accelerator, ForegroundScore, Recipe
from viscera.deployment.flops import SIZES, Calls, Load, NotedRunner, convolution_loads, convolution_peak, flops
from viscera.errors import RunError, SettingError
from viscera.inference.jobs import ScanJob
from viscera.inference.model import Model, load_model
from viscera.inference.predict import predict_file
from viscera.io import nifti
from viscera.networks.build import context_network, network_of
from viscera.networks.exported import read_export
from viscera.networks.find_weights import find_weights, is_export
from viscera.networks.processor import this_processor
from viscera.networks.runners import PACKAGES, RuntimeName, missing_packages, runner_facts
from viscera.networks.weights import Weights, as_context, load_weights, save_weights
from viscera.synthesis.patient import synthesize
from viscera.volume import axial_turn

WHOLE = "file to file"
"""Stage: from the file of the scan to the file of its labels, all others included."""

START_UPS = 3
"""How many processes are started for each runtime."""

LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
"""Starts the command from a small process: Linux counts the memory of who starts a program as memory that it held itself."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        runtimes: In turn.
        rounds: Of each, after one to get ready.
        device: Where the networks run.
        jobs: Cores of the command in a process of its own; 0: all. Here it is for the caller to set them: ``use_cores``.
        peak_seconds: How long each convolution of the machine's peak runs, twice.
        peak_sizes: Channels and side of each.
    """

    runtimes: tuple[RuntimeName, ...]
    rounds: int = 5
    device: Accelerator = "auto"
    jobs: int = 0
    peak_seconds: float = 0.3
    peak_sizes: tuple[tuple[int, int], ...] = SIZES


@dataclass(frozen=True)
class Speed:
    """What one runtime took.

    Attributes:
        facts: Version, precision, threads.
        seconds: Stage -> those of each round; WHOLE is the last stage.
        network_s: Of each round, seconds in the network alone, per stream of calls: the stage "network" is also what goes in
            and comes out. Empty on a GPU, whose calls return before they are done.
        network_flop: What its convolutions computed in a round.
        images: Slices or windows that it computed in a round.
        peak_flop_per_s: Of typical convolutions on this machine, with this runtime and precision; 0 if there are none (int8).
        start_up_s: Of each process of the command, what it takes besides WHOLE.
        peak_memory_mib: The most that one of these processes held.
    """

    facts: Mapping[str, object]
    seconds: dict[str, list[float]]
    network_s: list[float]
    network_flop: int
    images: int
    peak_flop_per_s: float
    start_up_s: list[float]
    peak_memory_mib: float

    def median(self, stage: str) -> float:
        """Return the median seconds of a stage."""
        return statistics.median(self.seconds[stage])

    @property
    def flop_per_s(self) -> float:
        """What the network computes in each of its seconds; 0 if that is not known."""
        seconds = self.network_s or self.seconds.get("network", [])
        return self.network_flop / statistics.median(seconds) if seconds else 0.0

    @property
    def peak_fraction(self) -> float | None:
        """How much of the machine's peak that is; None if that is not known."""
        return self.flop_per_s / self.peak_flop_per_s if self.peak_flop_per_s and self.flop_per_s else None


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        shape: Axial slices, rows and columns of the scan.
        recipe: Of the network.
        usual: The runtime that `viscera predict` takes on this machine, if it was measured, else the first.
        device: Where the networks ran.
        speeds: By runtime.
    """

    shape: tuple[int, int, int]
    recipe: Recipe
    usual: RuntimeName
    device: str
    speeds: dict[RuntimeName, Speed]

    def to_json(self) -> dict[str, object]:
        """Return all of it for a JSON file: nothing in it says whose scan it was, or where it lay."""
        return {
            "machine": machine_facts(self.device),
            "scan": {"slices": self.shape[0], "rows": self.shape[1], "columns": self.shape[2]},
            "recipe": self.recipe.name,
            "usual_runtime": self.usual,
            "runtimes": {name: _speed_json(speed, slices=self.shape[0]) for name, speed in self.speeds.items()},
        }


def write_synthetic_scan(path: Path, *, shape: tuple[int, int, int]) -> None:
    """Write the scan of a synthetic patient, always the same.

    Args:
        path: A .nii.gz file.
        shape: Slices, rows and columns; 275x512x512 takes 12 s on one core.
    """
    nifti.write(path, synthesize(np.random.default_rng(0), shape=shape, orientation="axial").ct)


def write_untrained_weights(path: Path, recipe: Recipe) -> None:
    """Write the weights of an untrained network, always the same: good for measuring the network's time, and for nothing else.

    No slices or windows are skipped: where organs are is not known to it.
    """
    recipe = replace(recipe, inference=recipe.inference.everywhere())
    if isinstance(recipe.intensity, ForegroundScore):
        recipe = replace(recipe, intensity=replace(recipe.intensity, measured=(-1000.0, 1000.0, 0.0, 500.0)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tensors = network_of(recipe).state_dict()
        if recipe.context is not None:
            tensors |= as_context(context_network(recipe).state_dict())
    save_weights(path, Weights(recipe, recipe.space, tensors, {"trained": False}))


def runtimes_of(weights: Path, device: str) -> tuple[RuntimeName, ...]:
    """List the runtimes on which weights are to be measured: an exported network has its own.

    Raises:
        WeightsError: There are no weights, or they are damaged.
    """
    if is_export(weights):
        return (read_export(weights).kind,)
    return runtimes_here(load_weights(find_weights(weights)).recipe, device)


def runtimes_here(recipe: Recipe, device: str) -> tuple[RuntimeName, ...]:
    """List the runtimes that are installed and made for a recipe: of volumes and on a GPU, torch alone."""
    if device != "cpu" or not recipe.inference.whole_slices:
        return ("torch",)
    return tuple(name for name in PACKAGES if not missing_packages(name))


def bench(
    scan: Path,
    weights: Path,
    *,
    plan: Plan,
    folder: Path,
    watch: Callable[[str], None] = lambda what: None,
) -> Bench:
    """Measure how fast a scan is segmented.

    Args:
        scan: A .nii or .nii.gz file.
        weights: A run's folder, a .safetensors file or an exported folder.
        plan: What to measure.
        folder: For label maps; what stands in it may be overwritten.
        watch: Told before each of ``steps(plan)`` what is measured.

    Raises:
        SettingError: A runtime is not installed, or none of them can run the network.
        FileError, GeometryError, WeightsError: The scan or the weights cannot be used.
        RunError: The command fails in a process of its own.
    """
    shape = _axial_shape(scan)
    models = _load(weights, plan, watch)
    loads: dict[RuntimeName, list[Load]] = {}
    for name, model in models.items():
        loads[name] = convolution_loads(name, model.device, sizes=plan.peak_sizes)
    peaks = _peaks(loads, plan, watch)
    seconds, calls = _rounds(ScanJob(scan, folder / "labels.nii.gz"), models, plan, watch)
    # Again, since the machine may have been busy the first time.
    peaks = {name: max(peak, peaks[name]) for name, peak in _peaks(loads, plan, watch).items()}
    first = next(iter(models.values()))
    with torch.device("meta"):
        network = network_of(first.recipe)
        context = None if first.recipe.context is None else context_network(first.recipe)
    speeds = {}
    for name, model in models.items():
        starts = []
        for number in range(min(START_UPS, plan.rounds)):
            watch(f"{name}: start-up {number + 1}")
            starts.append(_start_up(scan, weights, name, plan=plan, folder=folder))
        shapes = calls[name][-1].shapes
        speeds[name] = Speed(
            facts=runner_facts(model.network),
            seconds=seconds[name],
            network_s=_network_seconds(calls[name], model),
            network_flop=sum(
                times * flops(context if context and len(shape) == 5 else network, shape)
                for shape, times in shapes.items()
            ),
            images=sum(times * shape[0] for shape, times in shapes.items() if context is None or len(shape) == 4),
            peak_flop_per_s=peaks[name]
            if model.network.precision in [load.runner.precision for load in loads[name]]
            else 0.0,
            start_up_s=[start for start, _ in starts],
            peak_memory_mib=max(memory for _, memory in starts),
        )
    recipe, device = first.recipe, first.device
    usual = "openvino" if "openvino" in runtimes_here(recipe, device) else "torch"
    return Bench(shape, recipe, usual if usual in speeds else next(iter(speeds)), device, speeds)


def steps(plan: Plan) -> int:
    """Count the steps of which ``bench`` tells: loading, the peak twice, the first round and the others, start-ups."""
    return len(plan.runtimes) * (1 + 2 + 1 + plan.rounds + min(START_UPS, plan.rounds))


def _axial_shape(scan: Path) -> tuple[int, int, int]:
    ct = nifti.read(scan)
    slices, rows, columns = axial_turn(ct.affine).apply(ct.voxels).shape
    return slices, rows, columns


def _load(weights: Path, plan: Plan, watch: Callable[[str], None]) -> dict[RuntimeName, Model]:
    """Put the network on all runtimes."""
    for name in plan.runtimes:
        if missing_packages(name):
            missing = " and ".join(missing_packages(name))
            raise SettingError(f"--runtime {name}: {missing} not installed", f"Say pip install 'viscera[{name}]'.")
    models: dict[RuntimeName, Model] = {}
    for name in plan.runtimes:
        watch(f"{name}: loading")
        model = load_model(weights, accelerator=plan.device, runtime=name)
        if model.network.name == name:  # else a warning has said why not
            models[name] = model
    if not models:
        raise SettingError(f"no runtime of {', '.join(plan.runtimes)} can run this network", "Pass --runtime torch.")
    return models


def _peaks(
    loads: Mapping[RuntimeName, list[Load]], plan: Plan, watch: Callable[[str], None]
) -> dict[RuntimeName, float]:
    """Measure the machine's convolution peak on each runtime."""
    peaks = {}
    for name, convolutions in loads.items():
        watch(f"{name}: convolutions")
        peaks[name] = convolution_peak(convolutions, seconds=plan.peak_seconds)
    return peaks


def _rounds(
    job: ScanJob, models: Mapping[RuntimeName, Model], plan: Plan, watch: Callable[[str], None]
) -> tuple[dict[RuntimeName, dict[str, list[float]]], dict[RuntimeName, list[Calls]]]:
    """Segment a scan again and again; return the seconds of each stage, and the network's calls, for each round."""
    seconds: dict[RuntimeName, dict[str, list[float]]] = {name: {} for name in models}
    calls: dict[RuntimeName, list[Calls]] = {name: [] for name in models}
    for number in range(plan.rounds + 1):
        for name, model in models.items():
            watch(f"{name}: round {number} of {plan.rounds}" if number else f"{name}: getting ready")
            noted = NotedRunner(model.network)
            seen = None if model.context is None else NotedRunner(model.context)
            start = time.perf_counter()
            predict_file(job, replace(model, network=noted, context=seen))
            whole = time.perf_counter() - start
            if number == 0:
                continue
            stages = json.loads(job.sidecar.read_text(encoding="utf-8"))["run"]["seconds"]
            for stage, value in (*stages.items(), (WHOLE, whole)):
                seconds[name].setdefault(stage, []).append(value)
            calls[name].append(noted.calls if seen is None else _together(noted, seen))
    for found in seconds.values():
        found[WHOLE] = found.pop(WHOLE)  # last, also if a stage was not there in the first round
    return seconds, calls


def _together(noted: NotedRunner, context: NotedRunner) -> Calls:
    """Return the calls of a network and of its context; the seconds of the second as if its threads had shared them out."""
    seconds = noted.calls.seconds + context.calls.seconds * noted.streams / context.streams
    return Calls(seconds, noted.calls.shapes | context.calls.shapes)


def _network_seconds(calls: Sequence[Calls], model: Model) -> list[float]:
    """Return the seconds in the network alone, of each round."""
    return [round_.seconds / model.network.streams for round_ in calls] if model.device == "cpu" else []


def _start_up(scan: Path, weights: Path, name: RuntimeName, *, plan: Plan, folder: Path) -> tuple[float, float]:
    """Run the command in a process of its own; return its seconds besides WHOLE, and its peak memory in MiB."""
    output = folder / f"start-{name}.nii.gz"
    words = [
        sys.executable,
        "-S",
        "-c",
        LAUNCHER,
        sys.executable,
        "-m",
        "viscera.cli",
        "predict",
        str(scan),
        str(output),
    ]
    words += ["--weights", str(weights), "--runtime", name, "--device", plan.device, "--overwrite"]
    words += ["--jobs", str(plan.jobs)] if plan.jobs else []
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise RunError(f"`viscera predict --runtime {name}` ends with code {done.returncode}: {last}")
    run = json.loads(ScanJob(scan, output).sidecar.read_text(encoding="utf-8"))["run"]
    return max(seconds - run["efficiency"]["seconds"], 0.0), run["peak_memory_mib"]


def machine_facts(device: str) -> dict[str, object]:
    """Tell what a time depends on: processor and its abilities, cores, memory, GPU, versions."""
    processor = this_processor()
    packages = ("viscera", "torch", *(PACKAGES[name][0] for name in PACKAGES if not missing_packages(name)), "numpy")
    return {
        "processor": processor.name,
        "processor_facts": processor.to_json(),
        "cores": processor.cores,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def _speed_json(speed: Speed, *, slices: int) -> dict[str, object]:
    whole = speed.median(WHOLE)
    fraction = speed.peak_fraction
    return {
        **speed.facts,
        "median_s": {stage: round(speed.median(stage), 4) for stage in speed.seconds},
        "rounds_s": {stage: [round(value, 4) for value in values] for stage, values in speed.seconds.items()},
        "network_alone_s": [round(value, 4) for value in speed.network_s],
        "slices_per_s": round(slices / whole, 2),
        "start_up_s": [round(value, 3) for value in speed.start_up_s],
        "peak_memory_mib": round(speed.peak_memory_mib, 1),
        "network_images": speed.images,
        "network_gflop": round(speed.network_flop / 1e9, 3),
        "network_gflop_per_s": round(speed.flop_per_s / 1e9, 1),
        "convolution_peak_gflop_per_s": round(speed.peak_flop_per_s / 1e9, 1),
        "peak_fraction": None if fraction is None else round(fraction, 3),
    }
