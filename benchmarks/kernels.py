"""Single parts of viscera beside the plain way to do them: speed, and what it changes.

    python -m benchmarks.kernels files                        reading and writing NIfTI: nibabel, SimpleITK
    python -m benchmarks.kernels upsampling RUN               labels on the scanner's slices: interpolated everywhere, nearest
    python -m benchmarks.kernels int8 RUN STORE               one network in int8, bf16 and fp32, and what its organs' Dice loses
    python -m benchmarks.kernels training                     training steps on the CPU: torch as it comes, bf16, channels last, ...
    python -m benchmarks.kernels generation [--template ...]  synthetic patients per second on one core and two

Rivals take turns. RUN is a trained 2D network's, STORE its prepared store. Dice, NSD, HD95 and tidying are in label_maps.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import cv2
import nibabel
import numpy as np
import torch
from isal import igzip
from torch import nn

from benchmarks.machine import DATA, RESULTS, ROOT, alternate, facts, rows, save
from viscera.cli.templates import read_templates
from viscera.config import AddedBoundaryLoss, ResizedSlices, SliceInference, SpacedSlices, UNetShape
from viscera.datasets.synthetic import Cohort, make_patient
from viscera.deployment.export import Yardstick, measure
from viscera.deployment.int8 import SLICES, drawn_inputs, quantised
from viscera.inference.model import Model, load_model
from viscera.inference.segment import prepare_scan
from viscera.inference.slices import enlargement_of, slice_logits
from viscera.inference.upsampling import Enlargement, enlarged_labels, plain_labels, side_of
from viscera.io import nifti
from viscera.learning.losses import boundary_loss
from viscera.learning.synthetic_patients import FIRST, make_fresh
from viscera.networks.device import keep_freed_memory
from viscera.networks.doors import openvino_module
from viscera.networks.onnx import shape_of, to_onnx
from viscera.networks.runners import OpenVinoRunner, input_channels
from viscera.networks.torch_runner import TorchRunner
from viscera.networks.unet import UNet
from viscera.preparation.store import Store, open_store
from viscera.recipes.catalogue import find_recipe
from viscera.synthesis.variety import RICH
from viscera.volume import Volume, with_voxels

LIDC = DATA / "lidc" / "LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz"
HCC = DATA / "hcc_tace" / "HCC_048_portal_venous_ct.nii.gz"
TRAINING_WAYS = ("torch as it comes", "bf16", "bf16, channels last", "bf16, channels last, pages kept")
TRAINING_CASES = ((16, 128, 8), (16, 256, 8))
"""Base width, size of a slice, batch."""
STEPS = 12
CHUNKS = 16
"""Timed in each round of int8, from as many cases as there are."""
OURS = "openvino int8"


def files(options: argparse.Namespace) -> dict[str, object]:
    """Time reading a scan and writing labels of it; noise of LIDC's size where the scan is missing."""
    import SimpleITK as Sitk

    with tempfile.TemporaryDirectory() as folder:
        scan, out = LIDC, Path(folder) / "labels.nii.gz"
        if not scan.exists():
            scan = Path(folder) / "noise.nii.gz"
            noise = np.random.default_rng(0).normal(0, 20, (275, 512, 512)).astype(np.int16)
            nifti.write(scan, Volume(noise, np.diag([1.0, -0.8, -0.8, 1.0])))
        ct = nifti.read(scan)
        labels = with_voxels(ct, np.digitize(ct.voxels, [-500, -50, 30, 90, 200]).astype(np.uint8))
        other = nibabel.Nifti1Image(labels.voxels.T, nibabel.load(scan).affine)  # type: ignore[attr-defined]
        third = Sitk.GetImageFromArray(labels.voxels)
        readers: dict[str, Callable] = {
            "viscera": lambda: nifti.read(scan),
            "nibabel on isal": lambda: on_isal(scan),
            "nibabel, as stored": lambda: np.asarray(nibabel.load(scan).dataobj),  # type: ignore[attr-defined]
            "nibabel, get_fdata": lambda: nibabel.load(scan).get_fdata(),  # type: ignore[attr-defined]
            "SimpleITK": lambda: Sitk.GetArrayFromImage(Sitk.ReadImage(str(scan))),
        }
        writers: dict[str, Callable] = {
            "viscera": lambda: nifti.write(out, labels, overwrite=True),
            "nibabel": lambda: nibabel.save(other, out),
            "SimpleITK": lambda: Sitk.WriteImage(third, str(out), useCompression=True),
        }
        reading, writing = (
            rows(alternate({name: (run, options.rounds) for name, run in rivals.items()}))
            for rivals in (readers, writers)
        )
    shape = "x".join(map(str, ct.shape[::-1]))
    cpu = {}
    for real in filter(Path.exists, (LIDC, *sorted((DATA / "hcc_tace").glob("*_ct.nii.gz")))):
        both = {"viscera": (partial(nifti.read, real), options.rounds)}
        both["nibabel on isal"] = partial(on_isal, real), options.rounds
        cpu[real.name] = rows(alternate(both, clock=time.process_time))
    return facts("nibabel", "isal", "simpleitk") | {
        "read_cpu": cpu,
        "read": {"what": f"reading {scan.name} ({shape}, int16)", "rows": reading},
        "write": {"what": f"writing labels of it ({shape}, uint8)", "rows": writing},
    }


def on_isal(scan: Path) -> np.ndarray:
    """Read a scan as nibabel would if it unpacked with isal."""
    with igzip.open(scan) as stream:
        return np.asarray(nibabel.Nifti1Image.from_stream(stream).dataobj)


def upsampling(options: argparse.Namespace) -> dict[str, object]:
    """Time who turns logits of prepared slices into labels on the scanner's, 4 at a time, as viscera predict takes them."""
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    model = load_model(options.run, accelerator="cpu")
    preparations = {
        "256x256 to 512x512": ResizedSlices(size=(256, 256)),
        "2.5 mm to the scanner's": SpacedSlices(spacing_mm=2.5, margin_mm=10),
    }
    cases = []
    for name, preparation in preparations.items():
        changed = replace(model, recipe=replace(model.recipe, preparation=preparation))
        cases.append({"name": name} | enlarged(options.scan, changed, rounds=options.rounds))
    content = {"scan": options.scan.name, "recipe": model.recipe.name, "threads": options.threads, "cases": cases}
    return facts("torch", "numpy", "opencv-python-headless") | content


def enlarged(path: Path, model: Model, *, rounds: int) -> dict[str, object]:
    """Time the rivals on the logits of one scan; viscera's labels are those of the argmax of interpolated logits."""
    image, geometry = prepare_scan(nifti.read(path), model).images[model.recipe.preparation]
    parts = [range(first, min(first + 4, len(image))) for first in range(0, len(image), 4)]
    logits = [slice_logits(image, model, part) for part in parts]
    enlargement = enlargement_of(geometry)
    ways = {"viscera": enlarged_labels, "interpolated": plain_labels, "nearest": nearest}
    labels = {name: np.concatenate([way(part, enlargement) for part in logits]) for name, way in ways.items()}
    runs = {name: partial(for_all, partial(way, enlargement=enlargement), logits) for name, way in ways.items()}
    seconds = alternate({name: (run, rounds) for name, run in runs.items()})
    per_100 = {name: [round(100 / len(image) * time, 4) for time in times] for name, times in seconds.items()}
    unlike = {name: int((found != labels["interpolated"]).sum()) for name, found in labels.items()}
    return {
        "prepared": "x".join(map(str, image.shape)),
        "enlarged": "x".join(map(str, enlargement.size)),
        "step": [str(step if step is not None else Fraction(1)) for step in geometry.raster.step],
        "classes": int(logits[0].shape[1]),
        "logits": str(logits[0].dtype).removeprefix("torch."),
        "open_fraction": round(float(np.mean([open_fraction(part, enlargement) for part in logits])), 4),
        "pixels_unlike_interpolated": unlike,
        "pixels": int(labels["viscera"].size),
        "per_100_slices": rows(per_100),
    }


@torch.inference_mode()
def for_all(work: Callable[[torch.Tensor], object], parts: Sequence[torch.Tensor]) -> None:
    """Do the work on each tensor and forget the result."""
    for part in parts:
        work(part)


@torch.inference_mode()
def nearest(logits: torch.Tensor, enlargement: Enlargement) -> np.ndarray:
    """Return the labels of the nearest prepared pixels: not the argmax of interpolated logits, but what peers do for speed."""
    y, x = (np.where(side.high_weight > side.low_weight, side.high, side.low) for side in sides_of(logits, enlargement))
    low = logits.contiguous().float().max(1).indices.to(torch.uint8).numpy()
    return low.take(x, axis=2).take(y, axis=1)


def open_fraction(logits: torch.Tensor, enlargement: Enlargement) -> float:
    """Return the share of the pixels whose four prepared neighbours do not all have the same class."""
    low = logits.float().argmax(1).numpy()
    y, x = sides_of(logits, enlargement)
    corners = [low[:, row][:, :, column] for row in (y.low, y.high) for column in (x.low, x.high)]
    return float(np.mean(np.any([corner != corners[0] for corner in corners[1:]], axis=0)))


def sides_of(logits: torch.Tensor, enlargement: Enlargement) -> list:
    """Return how rows and columns are mixed."""
    size, factors, start = enlargement.size, enlargement.factors or (None, None), enlargement.start
    shape = logits.shape[2:]
    return [side_of(int(shape[axis]), size[axis], factor=factors[axis], start=start[axis]) for axis in (0, 1)]


def int8(options: argparse.Namespace) -> dict[str, object]:
    """Time a network in each precision on the same real slices, and measure Dice on the cases of a split."""
    torch.set_num_threads(options.threads)
    model, store = load_model(options.run, accelerator="cpu"), open_store(options.store)
    rivals, chunks = runners(model, store), real_chunks(model, store, split=options.split)
    for runner in rivals.values():
        for_all(runner, chunks)  # warm
    times = alternate({name: (partial(for_all, runner, chunks), options.rounds) for name, runner in rivals.items()})
    slices, timed = sum(map(len, chunks)), rows(times, ours=OURS)
    for row in timed:
        row["ms_per_slice"] = round(1000 * statistics.median(times[str(row["name"])]) / slices, 3)
        runner = rivals[str(row["name"])]
        if isinstance(runner, OpenVinoRunner):
            found = measure(model, runner, yardstick=Yardstick(store, options.split))
            row |= asdict(found)
            row["largest_dice_difference_points"] = max(map(abs, found.dice_difference_points.values()), default=0)
    return facts("torch", "numpy", "openvino") | {
        "recipe": model.recipe.name,
        "weights_sha256": model.weights_sha256,
        "threads": options.threads,
        "chunk": "x".join(map(str, chunks[0].shape)),
        "slices": slices,
        "calibration_slices": SLICES,
        "rivals": timed,
    }


def runners(model: Model, store: Store) -> dict[str, nn.Module]:
    """Return the network in each way; int8's scales are taken from slices of training cases."""
    openvino = openvino_module()
    shape = shape_of(model.network)
    graph = to_onnx(model.network, channels=input_channels(model.recipe.network), labels=True)
    drawn = drawn_inputs(model, store, generator=np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.xml"
        openvino.save_model(quantised(graph, drawn), file, compress_to_fp16=False)
        small = OpenVinoRunner(file, shape)
    return {
        "torch fp32": TorchRunner(model.network, model.device, exact=True),
        "torch bf16": TorchRunner(model.network, model.device),
        "openvino fp32": OpenVinoRunner(graph, shape, exact=True),
        "openvino bf16": OpenVinoRunner(graph, shape),
        OURS: small,
    }


def real_chunks(model: Model, store: Store, *, split: str) -> list[torch.Tensor]:
    """Return inputs: as many slices as predict takes, from the middle of each case in turn, all of the first one's size."""
    settings, seeing = model.recipe.inference, replace(model, network=nn.Identity(), autocast=None)
    if not isinstance(settings, SliceInference):
        raise SystemExit(f"{model.recipe.name} segments windows: this benchmark is for slices")
    images = [store.case(name).image for name in store.names(split)]
    starts = [(image, len(image) // 2) for image in images]
    chunks = [
        slice_logits(image, seeing, range(middle, min(len(image), middle + settings.batch_size)))
        for image, middle in starts
    ]
    alike = [chunk for chunk in chunks if chunk.shape == chunks[0].shape]
    return [alike[number % len(alike)] for number in range(CHUNKS)]


def training(options: argparse.Namespace) -> dict[str, object]:
    """Time training steps, each way in a process of its own, in turn."""
    found: dict[tuple, list[float]] = {}
    for _ in range(options.rounds):
        for case in TRAINING_CASES:
            for way in range(len(TRAINING_WAYS)):
                words = [sys.executable, "-m", "benchmarks.kernels", "training", "--one", *map(str, (way, *case))]
                done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
                found.setdefault((case, way), []).append(round(float(done.stdout), 2))
    timed = [
        {
            "network": f"U-Net, base width {base}",
            "slice": f"{size}x{size}, batch {batch}",
            "how": TRAINING_WAYS[way],
            "slices_per_s": statistics.median(values),
            "rounds": values,
        }
        for ((base, size, batch), way), values in sorted(found.items())
    ]
    return facts("torch") | {"rows": timed}


def slices_per_s(way: int, base: int, size: int, *, batch: int) -> float:
    """Time training steps on random slices."""
    if way == 3:
        keep_freed_memory()
    layout = torch.channels_last if way >= 2 else torch.contiguous_format
    widths = tuple(base * 2**level for level in range(5))
    network = UNet(UNetShape(widths=widths), classes=12).to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    image = torch.rand(batch, 1, size, size).contiguous(memory_format=layout)
    labels = torch.randint(0, 12, (batch, size, size), dtype=torch.uint8)
    distance, known = torch.rand(batch, size, size) * 50, torch.ones(batch, size, size, dtype=torch.bool)
    weights, loss, start = torch.ones(12), AddedBoundaryLoss(), 0.0
    for step in range(STEPS + 3):
        if step == 3:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=way >= 1):
            logits = network(image)
        boundary_loss(loss, logits, labels=labels, distance=distance, known=known, class_weights=weights).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return STEPS * batch / (time.perf_counter() - start)


def generation(options: argparse.Namespace) -> dict[str, object]:
    """Time how patients are made, alone and as `viscera train --fresh.patients` does: prepared for starter and written."""
    z, y, x = options.shape
    cohort = Cohort("nnunet", seed=0, shape=(z, y, x), variety=RICH)
    kinds = {"procedural": cohort}
    if options.template:
        kinds["template"] = replace(cohort, templates=read_templates(options.template[:1], options.template[1:]))
    trained = options.training_slices_per_s or training_rate()
    found = []
    for name, kind in kinds.items():
        for what, work in (("made", make), ("made, prepared and written", make_case)):
            for row in made(kind, work, patients=options.patients, rounds=options.rounds):
                rate = round(float(str(row["slices_per_s"])) / trained, 2)
                found.append({"patients": name, "what": what} | row | {"times_training": rate})
    settings = {"shape": options.shape, "patients": options.patients, "recipe": "starter"}
    return facts("numpy", "opencv-python-headless") | settings | {"training_slices_per_s": trained, "rows": found}


def training_rate() -> float:
    """Return the slices per second of the fastest training in training_cpu.json, at 128x128."""
    trained = json.loads((RESULTS / "training_cpu.json").read_text())["rows"]
    return max(row["slices_per_s"] for row in trained if row["slice"].startswith("128x128"))


def make(cohort: Cohort, number: int, _: Store) -> float:
    """Make a patient; return this process's peak memory in MiB."""
    make_patient(cohort, number)
    return getrusage(RUSAGE_SELF).ru_maxrss / 2**10


def make_case(cohort: Cohort, number: int, place: Store) -> float:
    """Make a case, as a training does; return this process's peak memory in MiB."""
    make_fresh(place, cohort, FIRST + number, name=f"{number:06d}")
    return getrusage(RUSAGE_SELF).ru_maxrss / 2**10


def made(cohort: Cohort, work: Callable[..., float], *, patients: int, rounds: int) -> list[dict[str, object]]:
    """Return a row for one core and for two; each in its own processes, which have made patients before they are timed."""
    found, recipe = [], find_recipe("starter")
    for cores in range(1, min(2, os.cpu_count() or 1) + 1):
        seconds, peak = [], 0.0
        spawn = get_context("spawn")
        with ProcessPoolExecutor(cores, mp_context=spawn) as pool, tempfile.TemporaryDirectory() as folder:
            for number in range(rounds + 1):
                place = Store(Path(folder) / str(number), recipe.space, recipe.preparation)
                (place.path / "cases").mkdir(parents=True)
                start = time.perf_counter()
                tasks = [pool.submit(work, cohort, one, place) for one in range(1, patients + 1)]
                peak = max(task.result() for task in tasks)
                seconds.append((time.perf_counter() - start) / patients)
        each = statistics.median(seconds[1:])
        row: dict[str, object] = {"cores": cores, "patients_per_s": round(1 / each, 3)}
        row |= {"slices_per_s": round(cohort.shape[0] / each, 1), "peak_mib_of_a_process": round(peak)}
        found.append(row | {"seconds_per_patient": [round(one, 3) for one in seconds[1:]]})
    return found


KERNELS = {
    "files": (files, "files", 5),
    "upsampling": (upsampling, "upsampling", 5),
    "int8": (int8, "int8", 9),
    "training": (training, "training_cpu", 3),
    "generation": (generation, "generation", 3),
}
"""{sub-command: (what measures, its JSON in benchmarks/results, rounds)}."""


def main() -> None:
    """Run a sub-command and save what it measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    added = {name: verbs.add_parser(name) for name in KERNELS}
    for name, (_, result, rounds) in KERNELS.items():
        added[name].add_argument("--rounds", type=int, default=rounds)
        added[name].add_argument("--name", default=result, help="of the JSON in benchmarks/results")
    for name in ("upsampling", "int8"):
        added[name].add_argument("run", type=Path)
        added[name].add_argument("--threads", type=int, default=torch.get_num_threads() if name == "upsampling" else 1)
    added["upsampling"].add_argument("--scan", type=Path, default=HCC)
    added["int8"].add_argument("store", type=Path)
    added["int8"].add_argument("--split", default="test")
    added["training"].add_argument("--one", type=int, nargs=4, help="for the processes: way, base, size, batch")
    added["generation"].add_argument("--patients", type=int, default=8, help="in each round")
    added["generation"].add_argument("--shape", type=int, nargs=3, default=(96, 160, 160))
    added["generation"].add_argument("--template", type=Path, nargs="+", default=[], help="a label map, and its scan")
    added["generation"].add_argument("--training-slices-per-s", type=float)
    options = parser.parse_args()
    if options.verb == "training" and options.one:
        way, base, size, batch = options.one
        print(slices_per_s(way, base, size, batch=batch))
        return
    content = KERNELS[options.verb][0](options)
    print(json.dumps(content, indent=1))
    print(save(options.name, content))


if __name__ == "__main__":
    main()
