"""gpu.py's rows on the card itself, the stores to train from, and training: what each costs in time and memory.

A row is a name and a function that returns what it found; what it raises is that row's failure (gpu.py).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import viscera
from viscera.config import Machine, Recipe
from viscera.datasets.sources import Source
from viscera.deployment.flops import flops
from viscera.io.atomic import write_json
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.index import draw_places, read_batch
from viscera.learning.sampling.reading import step_generator
from viscera.learning.setup import Session, begin, scaled
from viscera.learning.training import Watch, train
from viscera.networks.build import build_network
from viscera.networks.unet import parameter_count
from viscera.preparation.case import prepare_case
from viscera.preparation.store import create_store, open_store, write_case

WARM_UP = 5
"""Steps before the clock starts."""
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
    with memory_of(work.device) as memory, suppress(EnoughError):
        train(recipe, store, run, machine=machine, existing="overwrite", watch=Watch(step=timer.step))
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
