"""Logits of a 3D network -> labels on the scanner's grid: viscera's ``on_axial`` beside nnU-Net's export, on the same logits.

The logits are smooth, as a network's are: an organ-like body per class, 14 classes, half precision as nnU-Net keeps them. Both
begin with them in memory and end with a label map in memory; the memory is what the process held at most beyond the logits.
Both grids cover the same block of the patient, so both interpolate at the same places.

    python -m benchmarks.peers.export volumes [--before CHECKOUT] [--nnunet-python FILE]       writes results/volumes_cpu.json

measures the rest of 3D prediction, in CPU seconds and with untrained networks: a window in fp32 and int8, the windows of LIDC that
the bundled finder leaves, sums of windows (beside another checkout's), and the whole beside nnU-Net. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine import DATA, ROOT, alternate, facts, save
from benchmarks.peers.child import Clock, Order, Segment, competing, measured

if TYPE_CHECKING:
    from viscera.config import Recipe
    from viscera.volume import Volume

LIDC = "lidc/LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz"
VOLUMES = ("gao2step-small", "runet-small", "gao2step", "runet")
MIDDLE = slice(107, 167)
"""Of LIDC's slices, for the whole way."""
WIDE = 128
"""Windows so large are timed once."""
CLASSES = 14
GRID = (275, 512, 512)
SPACING_MM = (1.25, 0.75, 0.75)
PREPARED_MM = 1.5
PLANES = 4
"""Planes that are handed over at once, as viscera's windows do."""


def prepared_shape(grid: tuple[int, ...] = GRID) -> tuple[int, int, int]:
    """Return the voxels of the prepared grid."""
    z, y, x = (round(count * old / PREPARED_MM) for count, old in zip(grid, SPACING_MM, strict=True))
    return z, y, x


def write_logits(file: Path, grid: tuple[int, ...] = GRID) -> None:
    """Write logits of waved ellipsoids, plane by plane."""
    shape = prepared_shape(grid)
    logits = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=(CLASSES, *shape))
    draw = np.random.default_rng(0)
    centres, radii = draw.uniform(0.25, 0.75, (CLASSES, 3)), draw.uniform(0.08, 0.2, (CLASSES, 3))
    waves = draw.uniform(0, 2 * np.pi, (CLASSES, 2))
    y, x = (
        np.linspace(0, 1, count)[:, None] if axis else np.linspace(0, 1, count)
        for axis, count in ((1, shape[1]), (0, shape[2]))
    )
    for plane in range(shape[0]):
        z = plane / shape[0]
        logits[0, plane] = 0
        for index in range(1, CLASSES):
            (cz, cy, cx), (rz, ry, rx) = centres[index], radii[index]
            far = ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2
            wave = 0.2 * np.sin(24 * y + waves[index, 0] + 9 * z) * np.sin(24 * x + waves[index, 1])
            logits[index, plane] = np.clip(6 * (1 + wave - np.sqrt(far)), -12, 12)
    logits.flush()


def load(order: Order, clock: Clock) -> Segment:
    """Read the logits and return what exports them; ``how["who"]``: viscera or nnU-Net."""
    logits = np.load(order.scan)
    grid = tuple(int(count) for count in order.how["grid"].split("x"))
    export = our_export(logits, grid) if order.how["who"] == "viscera" else their_export(logits, grid)

    def segment(_: str, out: str) -> None:
        """Export, and keep the labels for comparison."""
        with clock.stage("labels"):
            labels = export()
        with clock.stage("kept for comparison"):
            np.save(out, labels)

    return segment


def our_export(logits: np.ndarray, grid: tuple[int, ...]) -> Callable[[], np.ndarray]:
    """Return viscera's export."""
    from viscera.inference.volumes import on_axial
    from viscera.inference.windows import Planes
    from viscera.preparation.geometry import Geometry
    from viscera.preparation.resampling import SliceGrid
    from viscera.volume import axial_turn

    z, y, x = logits.shape[1:]
    affine = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]) * np.array([*SPACING_MM, 1])
    slice_grid = SliceGrid(z, Fraction(0), Fraction(grid[0], z))
    step = Fraction(grid[1], y), Fraction(grid[2], x)
    geometry = Geometry((grid[0], grid[1], grid[2]), affine, axial_turn(affine), (y, x), (0, 0), step, slice_grid)

    def planes() -> Iterator[Planes]:
        """Return the logits as windows finish them."""
        for first in range(0, z, PLANES):
            part = logits[:, first : first + PLANES].astype(np.float32)
            yield Planes(first, first + part.shape[1], part, (slice(0, y), slice(0, x)))

    return lambda: on_axial(planes(), geometry)


def their_export(logits: np.ndarray, grid: tuple[int, ...]) -> Callable[[], np.ndarray]:
    """Return nnU-Net's export."""
    import torch
    from nnunetv2.inference.export_prediction import (  # pyright: ignore[reportMissingImports]
        convert_predicted_logits_to_segmentation_with_correct_shape,
    )
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # pyright: ignore[reportMissingImports]

    from benchmarks.peers import rivals as nnunet

    spacing_mm = [old * count / new for old, count, new in zip(SPACING_MM, grid, logits.shape[1:], strict=True)]
    configuration = nnunet.configuration_of(list(logits.shape[1:]), spacing_mm)
    manager = PlansManager(nnunet.plans_of({"3d_fullres": configuration}))
    properties = {
        "spacing": list(SPACING_MM),
        "shape_before_cropping": grid,
        "shape_after_cropping_and_before_resampling": grid,
        "bbox_used_for_cropping": [[0, count] for count in grid],
    }
    return lambda: convert_predicted_logits_to_segmentation_with_correct_shape(
        torch.from_numpy(logits),
        manager,
        manager.get_configuration("3d_fullres"),
        manager.get_label_manager(nnunet.dataset_of(CLASSES)),
        properties,
        num_threads_torch=torch.get_num_threads(),
    )


def compare(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Time both in alternating rounds; give rows for the JSON."""
    grid = tuple(options.export_grid or GRID)
    logits = folder / "logits.npy"
    write_logits(logits, grid)
    own_mib = logits.stat().st_size / 2**20
    rivals = {"viscera": (sys.executable, options.rounds)}
    if options.nnunet_python:
        rivals["nnU-Net"] = (options.nnunet_python, options.slow_rounds)
    found: dict[str, list[dict]] = {name: [] for name in rivals}
    for number in range(options.rounds):
        for name, (python, rounds) in rivals.items():
            if number < rounds:
                how = {"who": name, "grid": "x".join(map(str, grid))}
                order = Order(str(logits), str(folder / f"export_{len(name)}.npy"), how=how, most_gib=options.most_gib)
                found[name].append(competing("export", order, python=python, threads=options.threads))
                print("3D export", name, found[name][-1], flush=True)
    rows = []
    for name, rounds in found.items():
        failed = next((one["failed"] for one in rounds if "failed" in one), None)
        if failed:
            rows.append({"name": name, "failed": failed, "rounds": len(rounds)})
            continue
        seconds = [one["stages"]["labels"] for one in rounds]
        beyond = [one["peak_mib"] - one["start_up_mib"] for one in rounds]
        rows.append(
            {
                "name": name,
                "rounds": len(rounds),
                "median_s": statistics.median(seconds),
                "seconds": seconds,
                "peak_mib_beyond_logits": round(max(beyond), 1),
            }
        )
    ours = rows[0]
    for row in rows[1:]:
        if "median_s" in row and "median_s" in ours:
            row["times_ours"] = round(row["median_s"] / ours["median_s"], 1)
            kept = [np.load(folder / f"export_{len(name)}.npy", mmap_mode="r") for name in (ours["name"], row["name"])]
            row["voxels_unlike_ours_fraction"] = round(float(np.mean(kept[0] != kept[1])), 7)
    return {
        "classes": CLASSES,
        "prepared": "x".join(map(str, prepared_shape(grid))),
        "grid": "x".join(map(str, grid)),
        "logits_mib": round(own_mib, 1),
        "rows": rows,
    }


def volumes(data: Path, sources: Mapping[str, Path], *, nnunet_python: str | None, rounds: int) -> dict[str, object]:
    """Measure the parts of 3D prediction; see the top."""
    from viscera.io import nifti
    from viscera.recipes.catalogue import RECIPES
    from viscera.volume import Volume

    whole, folder = nifti.read(data / LIDC), Path(tempfile.mkdtemp())
    rows: list[Mapping] = []
    for name in VOLUMES:
        write_untrained(folder / f"{name}.safetensors", RECIPES[name])
        rows.append({"recipe": name, **window_row(folder / f"{name}.safetensors", whole, rounds=rounds)})
        print(json.dumps(rows[-1]), flush=True)
    scan, run = folder / "scan.nii.gz", folder / f"{VOLUMES[0]}.safetensors"
    nifti.write(scan, Volume(whole.voxels[MIDDLE], whole.affine))
    sums: dict[str, list[dict[str, float]]] = {state: [] for state in sources}
    for _ in range(rounds):
        for state, source in sources.items():
            words = [sys.executable, "-m", "benchmarks.peers.export", "sums", str(run), str(scan)]
            place = os.environ | {"PYTHONPATH": str(source / "src")}
            said = subprocess.run(words, env=place, cwd=ROOT, capture_output=True, check=True, text=True).stdout
            sums[state].append(json.loads(said))
    medians = {
        state: {key: round(statistics.median(one[key] for one in each), 3) for key in each[0]}
        for state, each in sums.items()
    }
    beside = beside_nnunet(run, scan, folder, python=nnunet_python) if nnunet_python else {}
    shutil.rmtree(folder)
    return {"load": os.getloadavg()[0], "networks": rows, "sums_of_windows": medians, "whole_command": beside}


def write_untrained(file: Path, recipe: "Recipe") -> None:
    """Write untrained weights of a recipe."""
    import torch

    from viscera.config import ForegroundScore
    from viscera.networks.build import build_network
    from viscera.networks.weights import Weights, save_weights

    torch.manual_seed(0)
    if isinstance(recipe.intensity, ForegroundScore):
        recipe = replace(recipe, intensity=replace(recipe.intensity, measured=(-160.0, 240.0, 80.0, 60.0)))
    network = build_network(recipe.network, classes=len(recipe.space.classes), softmax=recipe.softmax)
    save_weights(file, Weights(recipe, recipe.space, network.state_dict(), {}))


def window_row(weights: Path, ct: "Volume", *, rounds: int) -> dict[str, object]:
    """Return CPU seconds of a window in fp32 and int8; of a scan's windows all, and those that the bundled finder leaves."""
    from viscera.deployment.int8 import quantised
    from viscera.inference.model import load_model, with_others
    from viscera.inference.plans import places, plan_of
    from viscera.inference.region import windows_of
    from viscera.inference.segment import finder_blocks, prepare_scan
    from viscera.networks.doors import openvino_module
    from viscera.networks.onnx import to_onnx
    from viscera.networks.runners import OpenVinoRunner

    model = load_model(weights, accelerator="cpu", runtime=None)
    finder, plan, file = load_model(Path("starter"), accelerator="cpu"), plan_of(model), weights.with_suffix(".xml")
    graph, shape = to_onnx(model.module, channels=1, labels=False), (model.network.stride, 3)
    image = np.random.default_rng(0).normal(size=(1, 1, *plan.size)).astype(np.float32)
    openvino_module().save_model(quantised(graph, [image[..., :32, :32, :32]]), file, compress_to_fp16=False)
    runners = {"fp32": OpenVinoRunner(graph, shape, exact=True), "int8": OpenVinoRunner(file, shape)}
    often = 1 if max(plan.size) >= WIDE else rounds
    taken = alternate({key: (partial(one, image), often) for key, one in runners.items()}, clock=time.process_time)
    seconds = {key: statistics.median(each) for key, each in taken.items()}
    scan = prepare_scan(ct, with_others(model, finder=finder))
    prepared, began = scan.images[model.recipe.preparation][0].shape, time.process_time()
    blocks = finder_blocks(scan, model=model, finder=finder, organs=(), watch=lambda done, parts: None)
    finding, found = time.process_time() - began, len(windows_of(prepared, plan, blocks))
    return {
        "window": plan.size,
        "prepared": prepared,
        "window_cpu_s": {key: round(one, 3) for key, one in seconds.items()},
        "int8_times_as_fast": round(seconds["fp32"] / seconds["int8"], 2),
        "windows": len(places(prepared, plan)),
        "windows_found": found,
        "finder_cpu_s": round(finding, 2),
        "estimated_scan_cpu_s": {key: round(one * found + finding, 1) for key, one in seconds.items()},
    }


def sums_once(weights: Path, scan: Path) -> Mapping[str, float]:
    """Segment all windows of a scan; return CPU seconds of the network, of all else about windows, and from sums to labels."""
    from viscera.inference.model import load_model
    from viscera.inference.plans import places, plan_of
    from viscera.inference.segment import prepare_scan
    from viscera.inference.volumes import on_axial
    from viscera.inference.windows import finished_planes
    from viscera.io import nifti

    model = load_model(weights, accelerator="cpu", runtime="openvino")
    image, geometry = prepare_scan(nifti.read(scan), model).images[model.recipe.preparation]
    network, plan = model.network, plan_of(model)
    chosen, passes = places(image.shape, plan), [0.0]

    def timed(stack: np.ndarray) -> np.ndarray:
        """Pass through the network."""
        began = time.process_time()
        logits = network(stack)
        passes.append(time.process_time() - began)
        return logits

    seen = replace(model, network=timed)  # type: ignore[arg-type]
    began = time.process_time()
    planes = list(finished_planes(image, seen, plan, chosen=chosen))
    summed = time.process_time()
    on_axial(planes, geometry)
    ended = time.process_time()
    named = {"network_cpu_s": sum(passes), "sums_cpu_s": summed - began - sum(passes), "labels_cpu_s": ended - summed}
    return {"windows": len(chosen)} | named


def beside_nnunet(run: Path, scan: Path, folder: Path, *, python: str) -> dict[str, object]:
    """Return CPU and wall seconds of `viscera predict` and of nnU-Net's process, starts included, every window."""
    words = [sys.executable, "-m", "viscera.cli", "predict", str(scan), str(folder / "ours.nii.gz"), "--overwrite"]
    words += ["--weights", str(run), "--region", "whole", "--runtime", "openvino"]
    order = Order(str(scan), str(folder / "theirs.nii.gz"), run=str(run))
    found = {}
    for name in ("viscera, first start", "viscera", "nnU-Net"):
        before, began = os.times(), time.perf_counter()
        if name == "nnU-Net":
            said = competing("rivals nnunet", order, python=python)
        else:
            subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
            said = {}
        cpu = sum(os.times()[2:4]) - sum(before[2:4])
        found[name] = {"cpu_s": round(cpu, 2), "wall_s": round(time.perf_counter() - began, 2)} | said
    return found | {"nnU-Net_times_ours_cpu": round(found["nnU-Net"]["cpu_s"] / found["viscera"]["cpu_s"], 1)}


def main() -> None:
    """Run ``volumes``, or what it asks of other processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("sums").add_argument("files", nargs=2, type=Path)
    whole = verbs.add_parser("volumes")
    whole.add_argument("--before", type=Path, help="another checkout, whose sums take turns with ours")
    whole.add_argument("--nnunet-python", help="the Python of an environment that has nnunetv2")
    whole.add_argument("--rounds", type=int, default=3)
    whole.add_argument("--data", type=Path, default=DATA, help="folder of the real scans")
    options = parser.parse_args()
    if options.verb == "sums":
        print(json.dumps(sums_once(*options.files)))
        return
    sources = ({"before": options.before.absolute()} if options.before else {}) | {"after": ROOT}
    found = volumes(options.data, sources, nnunet_python=options.nnunet_python, rounds=options.rounds)
    print(save("volumes_cpu", facts("torch", "openvino") | found))


if __name__ == "__main__":
    if sys.argv[1].startswith("{"):  # an order of child.py's
        measured(load)
    else:
        main()
