"""The rows of gpu.py: what is measured on a GPU, one function per row, grouped into parts.

A row is a name and a function that returns what it found. What it raises is that row's failure, and the next one is measured.
"""

import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

import viscera
from benchmarks.machine import ROOT
from benchmarks.peers.child import Order, competing
from viscera.config import ForegroundScore, Machine, Postprocessing, Recipe
from viscera.datasets.sources import Source
from viscera.deployment.flops import flops
from viscera.io.atomic import write_json
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.index import draw_places, read_batch
from viscera.learning.sampling.reading import step_generator
from viscera.learning.setup import Session, begin, scaled
from viscera.learning.training import Watch, train
from viscera.networks.build import build_network
from viscera.networks.cards import find_shipped
from viscera.networks.unet import parameter_count
from viscera.networks.weights import Weights, save_weights
from viscera.preparation.case import prepare_case
from viscera.preparation.store import create_store, open_store, write_case
from viscera.synthesis.patient import synthesize

WARM_UP = 5
"""Steps before the clock starts."""
MEASURED = (-160.0, 240.0, 80.0, 60.0)
"""HU of organs (low, high, mean, SD) for networks that were never trained."""
Row = tuple[str, Callable[[], Mapping[str, object]]]


@dataclass(frozen=True)
class Work:
    """What the parts share.

    Attributes:
        device: "cuda" or "cpu".
        folder: For stores, weights and label maps.
        scan: To segment; "" for a synthetic one.
        seconds: That each training is timed for.
        nnunet_python: A Python with nnU-Net.
        quick: Everything tiny.
    """

    device: str
    folder: str
    scan: str
    seconds: float
    nnunet_python: str
    quick: bool = False

    @property
    def place(self) -> Path:
        """The folder."""
        return Path(self.folder)


@dataclass(frozen=True)
class Part:
    """Rows that are measured in one process.

    Attributes:
        rows: Lists them.
        limit_s: How long they may take together.
    """

    rows: Callable[[Work], Iterator[Row]]
    limit_s: float


def run_part(name: str, work: Work, write: Callable[[Mapping[str, object]], object]) -> None:
    """Measure the rows of a part, and write each as soon as it is known."""
    for row, measure in PARTS[name].rows(work):
        began = time.perf_counter()
        try:
            found = dict(measure())
        except Exception as error:  # whatever a row raises is that row's result
            found = {"failed": f"{type(error).__name__}: {error}"[:500]}
        write({"part": name, "name": row} | found | {"row_s": round(time.perf_counter() - began, 2)})
        gc.collect()
        if work.device == "cuda":
            torch.cuda.empty_cache()


# --- memory and time on a device


def synchronize(device: str) -> None:
    """Wait until the device has done everything."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def memory_of(device: str) -> Iterator[dict[str, object]]:
    """Note how much device memory a block takes at most; nothing on a CPU."""
    found: dict[str, object] = {}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device == "cuda":
        found["peak_allocated_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        found["peak_reserved_mib"] = round(torch.cuda.max_memory_reserved() / 2**20)


def rate(run: Callable[[], object], work: Work, *, warm_up: int = WARM_UP) -> float:
    """Return how often per second something runs on the device."""
    for _ in range(1 if work.quick else warm_up):
        run()
    synchronize(work.device)
    start, times = time.perf_counter(), 0
    while times == 0 or time.perf_counter() - start < work.seconds:
        run()
        times += 1
        if times % 4 == 0:
            synchronize(work.device)
    synchronize(work.device)
    return times / (time.perf_counter() - start)


# --- the card


def card_rows(work: Work) -> Iterator[Row]:
    """List what the card is, and what it reaches at best."""
    yield "card", partial(card, work)
    brief = replace(work, seconds=min(work.seconds, 1.0))
    for name, kind in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        yield f"peak, {name}", partial(peak, brief, kind)


def card(work: Work) -> dict[str, object]:
    """Return what the device is."""
    if work.device == "cpu":
        return {"card": "none: this ran on the CPU"}
    torch.zeros(1, device="cuda")
    of, (free, total) = torch.cuda.get_device_properties(0), torch.cuda.mem_get_info()
    said = {"card": of.name, "memory_gib": round(total / 2**30, 1), "used_mib": round((total - free) / 2**20)}
    said |= {"capability": f"{of.major}.{of.minor}", "multiprocessors": of.multi_processor_count}
    return said | {"cudnn": torch.backends.cudnn.version()}


def peak(work: Work, kind: torch.dtype) -> dict[str, object]:
    """Return the TFLOP/s of a matrix product and of a convolution, and the GB/s of a copy."""
    side, channels, pixels, batch = (64, 8, 8, 2) if work.quick else (8192, 512, 32, 64)
    matrix = torch.rand(side, side, device=work.device, dtype=kind)
    image = torch.rand(batch, channels, pixels, pixels, device=work.device, dtype=kind)
    image = image.contiguous(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(channels, channels, 3, padding=1)
    each = flops(convolution, image.shape)
    convolution = convolution.to(work.device, kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
    other = torch.empty_like(matrix)
    with torch.inference_mode():
        products = rate(lambda: torch.mm(matrix, matrix, out=other), work)
        convolutions = rate(lambda: convolution(image), work)
        copies = rate(lambda: other.copy_(matrix), work)
    return {
        "matrix_tflop_per_s": round(products * 2 * side**3 / 1e12, 3),
        "convolution_tflop_per_s": round(convolutions * each / 1e12, 3),
        "copy_gb_per_s": round(copies * 2 * matrix.nbytes / 1e9, 3),
    }


# --- stores to train from


STORES = {"zhang2d": "zhang2d", "viscera2d": "viscera2d-16", "gao2step": "gao2step", "runet": "runet"}
"""{store: recipe that it is prepared for}."""
QUICK: dict[str, dict[str, object]] = {
    "zhang2d": {"preparation.size": (32, 32)},
    "viscera2d": {"preparation.spacing_mm": 20.0, "sampling.window": (16, 32)},
    "gao2step": {"preparation.spacing_mm": (12.0, 12.0, 12.0), "sampling.size": (16, 16, 16)},
    "runet": {"sampling.size": (16, 16, 16), "sampling.stride": (1, 1, 1)},
}
"""{store: settings that make everything tiny}."""


def recipe_of(name: str, work: Work, **settings: object) -> Recipe:
    """Return a recipe as it is trained here: for any number of steps, from every case."""
    store = name.partition("-")[0]
    wanted: dict[str, object] = {"training.epochs": 1, "training.visits_per_slice": 2000}
    if store in ("gao2step", "runet"):
        wanted["sampling.cases"] = "any"
    wanted |= {key.replace("__", "."): value for key, value in settings.items()}
    if work.quick:
        wanted |= QUICK[store] | {"network.widths": (4, 8), "training.batch_size": 2}
    return viscera.find_recipe(name, wanted)


def store_rows(work: Work) -> Iterator[Row]:
    """List what is made to train from."""
    yield "patients", partial(make_patients, work)
    for store, name in STORES.items():
        yield f"store of {store}", partial(make_store, work, store, name)


def make_patients(work: Work) -> dict[str, object]:
    """Make synthetic patients."""
    count, shape = (1, (16, 32, 32)) if work.quick else (4, (80, 192, 192))
    viscera.synthesize(work.place / "patients", cases=count, shape=shape)
    return {"cases": count, "shape": shape}


def make_store(work: Work, store: str, recipe: str) -> dict[str, object]:
    """Prepare them for a recipe, all for training; in threads, since processes would take seconds to start."""
    wanted, cases = recipe_of(recipe, work), viscera.find_cases("nnunet", work.place / "patients")
    create_store(work.place / store, space=wanted.space, preparation=wanted.preparation)

    def prepare(source: Source) -> str:
        """Write one case; return its name."""
        case, about = prepare_case(source, space=wanted.space, preparation=wanted.preparation)
        write_case(work.place / store, case, about)
        return case.name

    with ThreadPoolExecutor() as pool:
        sides = dict.fromkeys(pool.map(prepare, cases), "training")
    write_json(work.place / store / "splits.json", {"seed": 0, "fractions": {}, "cases": sides})
    return {"cases": len(sides)}


# --- training


class EnoughError(Exception):
    """The training has been timed."""


class StepTimer:
    """Times the steps of a training after the first ones, and then ends it."""

    def __init__(self, work: Work) -> None:
        self.work, self.warm_up = work, 1 if work.quick else WARM_UP
        self.start, self.seconds, self.steps = 0.0, 0.0, 0

    def step(self, epoch: int, step: int, steps: int) -> None:
        """Note a step."""
        if step == self.warm_up:
            synchronize(self.work.device)
            self.start = time.perf_counter()
        elif step > self.warm_up and time.perf_counter() - self.start >= self.work.seconds:
            synchronize(self.work.device)
            self.seconds, self.steps = time.perf_counter() - self.start, step - self.warm_up
            raise EnoughError


def loop(recipe: Recipe, work: Work, *, threads: int = 2) -> dict[str, object]:
    """Time the training loop as `viscera train` runs it."""
    run, timer = work.place / "run", StepTimer(work)
    store = open_store(work.place / recipe.name.partition("-")[0])
    machine = Machine(accelerator=work.device, threads=threads)  # type: ignore[arg-type]
    with memory_of(work.device) as memory:
        try:
            train(recipe, store, run, machine=machine, existing="overwrite", watch=Watch(step=timer.step))
        except EnoughError:
            pass
    if not timer.steps:
        raise RuntimeError(f"the training ended within the first {timer.warm_up} steps")
    each = timer.seconds / timer.steps
    return about(recipe) | {"what": "loop", "threads": threads} | pace(recipe, each) | memory


def about(recipe: Recipe) -> dict[str, object]:
    """Say what is trained: parameters, batch, size, precision."""
    network = build_network(recipe.network, classes=len(recipe.space.classes), softmax=recipe.softmax)
    plan = recipe.training
    return {
        "recipe": recipe.name,
        "parameters": parameter_count(network),
        "batch": plan.batch_size,
        "size": size_of(recipe),
        "precision": plan.precision,
        "checkpointing": recipe.network.checkpointing,
    }


def size_of(recipe: Recipe) -> tuple[int, ...]:
    """Return the sides of what the network sees."""
    return recipe.sampling.size or recipe.sampling.window or recipe.preparation.size  # type: ignore[union-attr]


def pace(recipe: Recipe, step_s: float) -> dict[str, object]:
    """Return what a step's seconds amount to."""
    network = build_network(recipe.network, classes=len(recipe.space.classes), softmax=recipe.softmax)
    each = 3 * flops(network, (1, recipe.network.slices, *size_of(recipe)))
    per_s = recipe.training.batch_size / step_s
    unit = "slices_per_s" if recipe.dimensions == 2 else "patches_per_s"
    return {"step_s": round(step_s, 5), unit: round(per_s, 2), "tflop_per_s": round(per_s * each / 1e12, 3)}


def mixed(work: Work) -> str:
    """Return the half precision that the device trains in."""
    return "16-mixed" if work.device == "cuda" else "bf16-mixed"


def loops_2d(work: Work) -> Iterator[Row]:
    """List the trainings of 2D networks."""
    half = mixed(work)
    zhang = partial(recipe_of, "zhang2d", work)
    yield "zhang2d", lambda: loop(zhang(training__precision=half), work)
    yield "zhang2d, 8 reading threads", lambda: loop(zhang(training__precision=half), work, threads=8)
    yield "zhang2d, bf16", lambda: loop(zhang(training__precision="bf16-mixed"), work)
    checkpointed = {"training__precision": half, "network__checkpointing": True}
    yield "zhang2d, checkpointing", lambda: loop(zhang(**checkpointed), work)
    for name in ("viscera2d-16", "viscera2d-64"):
        yield name, partial(loop_of, name, work, threads=2)
        yield f"{name}, 8 reading threads", partial(loop_of, name, work, threads=8)


def loop_of(name: str, work: Work, *, threads: int = 2, **settings: object) -> dict[str, object]:
    """Time the loop of a recipe in half precision."""
    return loop(recipe_of(name, work, training__precision=mixed(work), **settings), work, threads=threads)


def loops_3d(work: Work) -> Iterator[Row]:
    """List the trainings of 3D networks."""
    for name in ("gao2step", "runet"):
        yield name, partial(loop_of, name, work)
        yield f"{name}, 8 reading threads", partial(loop_of, name, work, threads=8)
        yield f"{name}, checkpointing", partial(loop_of, name, work, network__checkpointing=True)


def step_rows(work: Work) -> Iterator[Row]:
    """List steps on a batch that lies on the device: plain, with cuDNN's search, compiled."""
    for name in ("zhang2d", "gao2step", "runet"):
        for way in ("plain", "cudnn.benchmark"):
            yield f"{name}, {way}", partial(step_alone, name, work, way)
    yield "zhang2d, compiled", partial(step_alone, "zhang2d", work, "compiled")


def step_alone(name: str, work: Work, way: str) -> dict[str, object]:
    """Time the step on one batch that stays on the device."""
    recipe = recipe_of(name, work, training__precision=mixed(work))
    machine = Machine(accelerator=work.device)  # type: ignore[arg-type]
    session = begin(recipe, open_store(work.place / name), machine)
    batch = resident_batch(session)
    network = session.network
    if way == "compiled":
        network = torch.compile(network, backend="eager" if work.quick else "inductor")  # type: ignore[assignment]
    session.network.train()

    def step() -> None:
        """Learn from the batch."""
        loss = session.loss(network(batch.image), batch)
        session.fabric.backward(loss)
        session.optimizer.step()
        session.optimizer.zero_grad(set_to_none=True)

    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = way == "cudnn.benchmark"
    try:
        with memory_of(work.device) as memory:
            per_s = rate(step, work)
    finally:
        torch.backends.cudnn.benchmark = before
    return about(session.recipe) | {"what": "batch in memory", "way": way} | pace(recipe, 1 / per_s) | memory


def resident_batch(session: Session) -> Batch:
    """Return a batch of the session's, scaled, on its device."""
    recipe, generator = session.recipe, step_generator(0)
    numbers = np.arange(recipe.training.batch_size) % len(session.training)
    places = draw_places(session.training, len(numbers), generator)
    batch = read_batch(
        session.training, numbers, space=session.space, distance=recipe.loss.needed_distance, places=places
    )
    return scaled(batch.to(session.fabric.device), recipe)


# --- file to file


def scan_of(work: Work) -> Path:
    """Return the scan, or write a synthetic one."""
    if work.scan:
        return Path(work.scan)
    file = work.place / "synthetic.nii.gz"
    if not file.exists():
        shape = (16, 32, 32) if work.quick else (96, 384, 384)
        viscera.write(file, synthesize(np.random.default_rng(0), shape=shape).ct)
    return file


def weights_of(name: str, work: Work) -> Path:
    """Write an untrained network that looks at the whole scan, and whose labels are not tidied."""
    file = work.place / f"{name}.safetensors"
    if not file.exists():
        torch.manual_seed(0)
        recipe = replace(recipe_of(name, work), postprocessing=Postprocessing())
        if isinstance(recipe.intensity, ForegroundScore):
            recipe = replace(recipe, intensity=replace(recipe.intensity, measured=MEASURED))
        recipe = replace(recipe, inference=recipe.inference.everywhere())
        network = build_network(recipe.network, classes=len(recipe.space.classes), softmax=recipe.softmax)
        save_weights(file, Weights(recipe, recipe.space, network.state_dict(), {}))
    return file


def predictions_2d(work: Work) -> Iterator[Row]:
    """List scans segmented slice by slice."""
    starter = find_shipped().file
    yield "starter", partial(segmented, starter, work, rounds=3)
    yield "starter, as a command", partial(command, work)
    yield "starter, beside the CPU's labels", partial(agreement, starter, work)
    yield "zhang2d", lambda: segmented(weights_of("zhang2d", work), work, rounds=2)
    yield "viscera2d-64", lambda: segmented(weights_of("viscera2d-64", work), work, rounds=2)


def predictions_3d(work: Work) -> Iterator[Row]:
    """List scans segmented in windows."""
    for name in ("gao2step", "runet"):
        yield name, partial(untrained, name, work)


def untrained(name: str, work: Work) -> dict[str, object]:
    """Segment with an untrained network, once after a warm-up."""
    return segmented(weights_of(name, work), work, rounds=1)


def warm_scan(work: Work) -> Path:
    """Return a scan of a few slices, for what is set up at first sight."""
    file = work.place / "warm.nii.gz"
    if not file.exists():
        whole = viscera.read(scan_of(work))
        viscera.write(file, viscera.Volume(whole.voxels[:8].copy(), whole.affine))
    return file


def segmented(weights: Path, work: Work, *, rounds: int) -> dict[str, object]:
    """Time ``viscera.predict`` with a loaded model, file to file; the sidecar says what each stage took."""
    scan, out = scan_of(work), work.place / f"{weights.stem}_labels.nii.gz"
    began = time.perf_counter()
    model = viscera.load_model(weights, device=work.device)  # type: ignore[arg-type]
    loaded = time.perf_counter() - began
    viscera.predict(warm_scan(work), work.place / "warm_labels.nii.gz", model, organs="all", overwrite=True)
    seconds, runs = [], []
    with memory_of(work.device) as memory:
        for _ in range(1 if work.quick else rounds):
            began = time.perf_counter()
            viscera.predict(scan, out, model, organs="all", overwrite=True)
            seconds.append(round(time.perf_counter() - began, 3))
            runs.append(json.loads(out.with_name(f"{weights.stem}_labels.json").read_text())["run"])
    last = runs[-1]
    said = {"scan": scan.name, "shape": viscera.read(out).shape, "median_s": statistics.median(seconds)}
    said |= {"seconds": seconds, "load_s": round(loaded, 3), "stages_s": last["seconds"]}
    said |= {key: last[key] for key in ("runtime", "precision", "peak_memory_mib", "efficiency") if key in last}
    return said | memory


def command(work: Work) -> dict[str, object]:
    """Time `viscera predict` as a whole, in new processes."""
    out, seconds = work.place / "command.nii.gz", []
    words = [sys.executable, "-m", "viscera.cli", "predict", str(scan_of(work)), str(out)]
    words += ["--device", work.device, "--organs", "all", "--overwrite"]
    for _ in range(1 if work.quick else 3):
        began = time.perf_counter()
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds.append(round(time.perf_counter() - began, 3))
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-400:])
    return {"median_s": statistics.median(seconds), "seconds": seconds}


def agreement(weights: Path, work: Work) -> dict[str, object]:
    """Return the share of the voxels that the device labels otherwise than torch does on the CPU, and the CPU's seconds."""
    image, labels, seconds = viscera.read(scan_of(work)), {}, {}
    for device in ("cpu", work.device):
        model = viscera.load_model(weights, device=device, runtime="torch")  # type: ignore[arg-type]
        began = time.perf_counter()
        with warnings.catch_warnings(action="ignore"):
            labels[device] = viscera.segment(image, model, organs="all").voxels  # type: ignore[union-attr]
        seconds[f"{device}_s"] = round(time.perf_counter() - began, 3)
    unlike = float(np.mean(labels["cpu"] != labels[work.device]))
    return {"unlike_fraction": round(unlike, 7), "labelled_voxels": int(np.count_nonzero(labels["cpu"]))} | seconds


# --- nnU-Net's machinery


def peer_rows(work: Work) -> Iterator[Row]:
    """List scans that nnU-Net segments with the same networks; viscera's rows have the same names."""
    for name in ("zhang2d", "gao2step"):
        yield f"{name}, nnU-Net", partial(peer, name, work)


def peer(name: str, work: Work) -> dict[str, object]:
    """Let nnU-Net segment; its process measures its memory on the device."""
    if work.nnunet_python == sys.executable and find_spec("nnunetv2") is None:
        return {"left_out": "nnunetv2 is not installed here; give --nnunet-python"}
    scan, out = scan_of(work), work.place / f"{name}_nnunet.nii.gz"
    order = Order(
        str(scan), str(out), run=str(weights_of(name, work)), how={"device": work.device}, warm=str(warm_scan(work))
    )
    return competing("rivals nnunet", order, python=work.nnunet_python)


PARTS = {
    "card": Part(card_rows, 30.0),
    "stores": Part(store_rows, 75.0),
    "training_2d": Part(loops_2d, 110.0),
    "training_3d": Part(loops_3d, 100.0),
    "prediction_2d": Part(predictions_2d, 75.0),
    "prediction_3d": Part(predictions_3d, 80.0),
    "steps": Part(step_rows, 110.0),
    "nnunet": Part(peer_rows, 90.0),
}
"""{name: what is measured, in how many seconds}; the most needed first, as the last ones get what time is left."""
