"""Single parts of viscera beside the plain way to do them: speed, and what it changes.

    python -m benchmarks.kernels files                        reading and writing NIfTI: nibabel, SimpleITK
    python -m benchmarks.kernels upsampling RUN               labels on the scanner's slices: interpolated everywhere, nearest
    python -m benchmarks.kernels int8 RUN STORE               one network in int8, bf16 and fp32, and what its organs' Dice loses
    python -m benchmarks.kernels training                     training steps on the CPU, by stage, and a convolution's peak
    python -m benchmarks.kernels generation [--template ...]  synthetic patients per second on one core and two
    python -m benchmarks.kernels shards STORE                 training slices from a store, a tar and zarr (shards.py)

Rivals take turns. RUN is a trained 2D network's, STORE its prepared store. Dice, NSD, HD95 and tidying are in label_maps.py.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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

from benchmarks.machine import DATA, RESULTS, alternate, convolution_gflops, facts, instructions, rows, save
from benchmarks.shards import add_options, shards
from viscera.cli.command import find_verb
from viscera.cli.templates import read_templates
from viscera.config import Machine, ResizedSlices, SliceInference, SpacedSlices
from viscera.datasets.synthetic import Cohort, make_patient
from viscera.deployment.export import Yardstick, measure
from viscera.deployment.flops import flops
from viscera.deployment.int8 import SLICES, drawn_inputs, quantised
from viscera.inference.model import Model, load_model
from viscera.inference.on_gpu import plain_labels
from viscera.inference.segment import prepare_scan
from viscera.inference.slices import enlargement_of, slice_inputs, slice_logits
from viscera.inference.upsampling import Enlargement, SliceLogits, sides_of
from viscera.io import nifti
from viscera.learning.augmentation.changes import change_batch, draw_changes
from viscera.learning.progress import class_counts
from viscera.learning.sampling.index import draw_places, read_batch
from viscera.learning.sampling.reading import step_generator
from viscera.learning.setup import Session, begin, scaled
from viscera.learning.synthetic_patients import FIRST, make_fresh
from viscera.networks.doors import openvino_module
from viscera.networks.onnx import shape_of, to_onnx
from viscera.networks.runners import OpenVinoRunner, Runner
from viscera.networks.torch_runner import TorchRunner
from viscera.preparation.store import Store, open_store
from viscera.recipes.catalogue import find_recipe
from viscera.synthesis.variety import RICH
from viscera.volume import Volume, with_voxels

LIDC = DATA / "lidc" / "LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz"
HCC = DATA / "hcc_tace" / "HCC_048_portal_venous_ct.nii.gz"
LAYOUTS = ("plain", "as viscera trains")
STAGES = ("data", "forward", "loss and scores", "backward, the loss's with it", "optimizer")
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
    logits = [torch.from_numpy(slice_logits(image, model, part)) for part in parts]
    enlargement = enlargement_of(geometry)
    ways = {"viscera": by_slices, "interpolated": plain_labels, "nearest": nearest}
    labels = {name: np.concatenate([way(part, enlargement) for part in logits]) for name, way in ways.items()}
    runs = {name: partial(for_all, partial(way, enlargement=enlargement), logits) for name, way in ways.items()}
    seconds = alternate({name: (run, rounds) for name, run in runs.items()})
    per_100 = {name: [round(100 / len(image) * time, 4) for time in times] for name, times in seconds.items()}
    unlike = {name: int((found != labels["interpolated"]).sum()) for name, found in labels.items()}
    return {
        "prepared": "x".join(map(str, image.shape)),
        "enlarged": "x".join(map(str, enlargement.size)),
        "step": [str(step) for step in geometry.step or (Fraction(1),) * 2],
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


def by_slices(logits: torch.Tensor, enlargement: Enlargement) -> np.ndarray:
    """Return viscera's labels."""
    return np.stack([SliceLogits.of(one).on_slice(enlargement) for one in logits.numpy()])


@torch.inference_mode()
def nearest(logits: torch.Tensor, enlargement: Enlargement) -> np.ndarray:
    """Return the labels of the nearest prepared pixels: not the argmax of interpolated logits, but what peers do for speed."""
    sides = sides_of(logits.shape[2:], enlargement)
    y, x = (np.where(side.high_weight > side.low_weight, side.high, side.low) for side in sides)
    low = logits.contiguous().float().max(1).indices.to(torch.uint8).numpy()
    return low.take(x, axis=2).take(y, axis=1)


def open_fraction(logits: torch.Tensor, enlargement: Enlargement) -> float:
    """Return the share of the pixels whose four prepared neighbours do not all have the same class."""
    low = logits.float().argmax(1).numpy()
    y, x = sides_of(logits.shape[2:], enlargement)
    corners = [low[:, row][:, :, column] for row in (y.low, y.high) for column in (x.low, x.high)]
    return float(np.mean(np.any([corner != corners[0] for corner in corners[1:]], axis=0)))


def int8(options: argparse.Namespace) -> dict[str, object]:
    """Time a network in each precision on the same real slices, and measure Dice on the cases of a split."""
    torch.set_num_threads(options.threads)
    model, store = load_model(options.run, accelerator="cpu", runtime=None), open_store(options.store)
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


def runners(model: Model, store: Store) -> dict[str, Runner]:
    """Return the network in each way; int8's scales are taken from slices of training cases."""
    openvino = openvino_module()
    shape = shape_of(model.module)
    graph = to_onnx(model.module, channels=model.recipe.channels, labels=True)
    drawn = drawn_inputs(model, store, generator=np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.xml"
        openvino.save_model(quantised(graph, drawn), file, compress_to_fp16=False)
        small = OpenVinoRunner(file, shape)
    return {
        "torch fp32": TorchRunner(model.module),
        "torch bf16": TorchRunner(model.module, torch.bfloat16),
        "openvino fp32": OpenVinoRunner(graph, shape, exact=True),
        "openvino bf16": OpenVinoRunner(graph, shape),
        OURS: small,
    }


def real_chunks(model: Model, store: Store, *, split: str) -> list[np.ndarray]:
    """Return inputs: as many slices as predict takes, from the middle of each case in turn, all of the first one's size."""
    settings = model.recipe.inference
    if not isinstance(settings, SliceInference):
        raise SystemExit(f"{model.recipe.name} segments windows: this benchmark is for slices")
    images = [store.case(name).image for name in store.names(split)]
    starts = [(image, len(image) // 2) for image in images]
    chunks = [slice_inputs(image, model, range(z, min(len(image), z + settings.batch_size))) for image, z in starts]
    alike = [chunk for chunk in chunks if chunk.shape == chunks[0].shape]
    return [alike[number % len(alike)] for number in range(CHUNKS)]


def training(options: argparse.Namespace) -> dict[str, object]:
    """Time training steps, the weights laid out plainly and as viscera lays them out, in turn: losses differ by rounding only."""
    torch.set_num_threads(options.threads)
    found, peaks = [], list[float]()
    for name in options.recipes:
        timed: dict[str, list[dict[str, float]]] = {how: [] for how in LAYOUTS}
        with tempfile.TemporaryDirectory() as folder:
            find_verb("synth")([f"{folder}/data", "--layout", "nnunet", "--cases", "8", "--shape", "96", "160", "160"])
            find_verb("prepare")([f"{folder}/store", "--data", f"nnunet={folder}/data", "--recipe", name])
            store = open_store(Path(folder) / "store")
            sessions = {how: begin(find_recipe(name), store, Machine(accelerator="cpu")) for how in LAYOUTS}
            sessions["plain"].network.module.to(memory_format=torch.contiguous_format)  # type: ignore[operator, call-overload]
            for number, (how, session) in itertools.product(range(options.rounds + 1), sessions.items()):
                peaks.append(convolution_gflops())
                timed[how].append(one_step(session, number))
        found += [training_row(name, how, rounds) for how, rounds in timed.items()]
    about = {"threads": options.threads, "load": round(os.getloadavg()[1], 1)}
    return facts("torch") | about | {"convolution_gflop_per_cpu_s": round(statistics.median(peaks), 1), "rows": found}


def one_step(session: Session, number: int) -> dict[str, float]:
    """Do a training step; return its loss, GFLOP and seconds, by stage those of the processor."""
    index, recipe, count = session.training, session.recipe, session.recipe.training.batch_size
    generator, distance = step_generator(0, number), session.recipe.loss.needed_distance
    numbers = torch.randint(len(index), (count,), generator=generator).numpy()
    changes, places = draw_changes(recipe.augmentation, count, generator), draw_places(index, count, generator)
    began, at = time.perf_counter(), [time.process_time()]
    batch = read_batch(index, numbers, space=session.space, distance=distance, places=places)
    batch = change_batch(scaled(batch, recipe), changes)
    at.append(time.process_time())
    outputs = session.network.train()(batch.image)
    at.append(time.process_time())
    loss = session.loss(outputs, batch)
    class_counts((outputs if isinstance(outputs, torch.Tensor) else outputs[0]).detach(), batch)
    at.append(time.process_time())
    loss.backward()
    at.append(time.process_time())
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    if session.average is not None:
        session.average.update_parameters(session.network.module)  # type: ignore[arg-type]
    at.append(time.process_time())
    seconds = dict(zip(STAGES, np.diff(at).tolist(), strict=True)) | {"step": at[-1] - at[0]}
    work = 3 * flops(session.network.module, batch.image.shape) / 1e9  # type: ignore[arg-type]
    return seconds | {"wall": time.perf_counter() - began, "loss": loss.item(), "gflop": work, "items": count}


def training_row(name: str, how: str, rounds: Sequence[Mapping[str, float]]) -> dict[str, object]:
    """Return the medians of all rounds but the first, and every round's loss."""
    median = {key: statistics.median(one[key] for one in rounds[1:]) for key in rounds[0]}
    clocks = {"items_per_cpu_s": "step", "items_per_s": "wall", "gflop_per_cpu_s": "step"}
    rates = {rate: round(median[rate.partition("_")[0]] / median[clock], 2) for rate, clock in clocks.items()}
    losses, each = ([round(one[key], 6) for one in rounds] for key in ("loss", "step"))
    stages = {"cpu_s": {key: round(median[key], 3) for key in ("step", *STAGES)}, "cpu_s_of_rounds": each[1:]}
    return {"recipe": name, "layout": how} | rates | stages | {"losses": losses}


def generation(options: argparse.Namespace) -> dict[str, object]:
    """Time how patients are made, alone and as `viscera train --fresh.patients` does: prepared for starter and written."""
    z, y, x = options.shape
    cohort = Cohort("nnunet", seed=0, shape=(z, y, x), variety=RICH)
    kinds = {"procedural": cohort}
    if options.template:
        kinds["template"] = replace(cohort, templates=read_templates(options.template[:1], options.template[1:]))
    rates = json.loads((RESULTS / "training_cpu.json").read_text())["rows"]  # the fastest: bf16 with AMX
    fastest = max(rate["slices_per_s"] for rate in rates if rate["slice"].startswith("128x128"))
    trained = options.training_slices_per_s or fastest
    found = []
    for name, kind in kinds.items():
        for what, work in (("made", make), ("made, prepared and written", make_case)):
            for row in made(kind, work, patients=options.patients, rounds=options.rounds):
                rate = round(float(str(row["slices_per_s"])) / trained, 2)
                found.append({"patients": name, "what": what} | row | {"times_training": rate})
    settings = {"shape": options.shape, "patients": options.patients, "recipe": "starter"}
    return facts("numpy", "opencv-python-headless") | settings | {"training_slices_per_s": trained, "rows": found}


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
    "training": (training, f"training_{instructions().lower().replace('-', '') or 'cpu'}", 5),
    "generation": (generation, "generation", 3),
    "shards": (shards, "shards", 5),
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
    for name in ("upsampling", "int8", "training"):
        added[name].add_argument("--threads", type=int, default=torch.get_num_threads() if name == "upsampling" else 1)
    added["upsampling"].add_argument("run", type=Path)
    added["int8"].add_argument("run", type=Path)
    added["upsampling"].add_argument("--scan", type=Path, default=HCC)
    added["int8"].add_argument("store", type=Path)
    add_options(added["shards"])
    added["int8"].add_argument("--split", default="test")
    added["training"].add_argument("--recipes", nargs="+", default=["viscera2d-16", "gao2step-small"])
    added["generation"].add_argument("--patients", type=int, default=8, help="in each round")
    added["generation"].add_argument("--shape", type=int, nargs=3, default=(96, 160, 160))
    added["generation"].add_argument("--template", type=Path, nargs="+", default=[], help="a label map, and its scan")
    added["generation"].add_argument("--training-slices-per-s", type=float)
    options = parser.parse_args()
    content = KERNELS[options.verb][0](options)
    print(json.dumps(content, indent=1), save(options.name, content), sep="\n")


if __name__ == "__main__":
    main()
