"""What training takes on this machine: some real steps, in a process of its own so that its peak of memory is its own.

The steps are those of learning/training.py: cases are read and changed, the network learns, slices are validated. A process that
the system kills for lack of memory is a measurement, too.
"""

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from viscera.config import Accelerator, Machine, Recipe
from viscera.io.free_memory import MIB
from viscera.io.processes import share_out
from viscera.networks.device import device_type, peak_memory_mib
from viscera.preparation.store import Store

if TYPE_CHECKING:
    from viscera.learning.setup import Session

MOST_STEPS = 60
"""Of a trial."""
LEAST_STEPS = 3
"""Of a trial: the first is slower than all others."""


@dataclass(frozen=True)
class Trial:
    """What is to be tried.

    Attributes:
        recipe: The candidate.
        store: Holds some cases, prepared as it wants them.
        seconds: When to stop, once there are LEAST_STEPS.
        device: Where.
        folder: For what a context network needs; removed by whoever made it, even if the trial is killed. None: the system's.
    """

    recipe: Recipe
    store: Store
    seconds: float
    device: Accelerator = "auto"
    folder: Path | None = None


@dataclass(frozen=True)
class Measured:
    """What a trial took.

    Attributes:
        steps: Timed steps of the network, the first of all not counted.
        step_s: Seconds of a step, the mean of the later half.
        validated_s: Seconds to validate a slice or patch.
        held_mib: Resident memory before the first step.
        peak_mib: The most resident memory at any time.
        gpu_mib: The most that torch reserved on the GPU; 0 on a CPU.
        gpu_free_mib: What was free there before; 0 on a CPU.
        context_step_s: Seconds of a step of the context network; 0 without one.
        seen_s: Seconds that the context network takes to look at a case.
        cpu_share: Of the time of the threads, how much they were computing; what is missing on a CPU, other programs had.
    """

    steps: int
    step_s: float
    validated_s: float
    held_mib: float
    peak_mib: float
    gpu_mib: float = 0.0
    gpu_free_mib: float = 0.0
    context_step_s: float = 0.0
    seen_s: float = 0.0
    cpu_share: float = 1.0


class _EnoughError(Exception):
    """Ends an epoch early; never leaves this file."""


Measure = Callable[[Trial], Measured | None]
"""Runs a trial; None where the memory did not suffice."""


def measure(trial: Trial) -> Measured | None:
    """Run a trial in a process of its own; None where memory did not suffice.

    Raises:
        VisceraError: The recipe does not fit the store or the machine.
    """
    for _, measured, died in share_out(_attempt, [trial], jobs=1):
        return None if died else measured
    return None


def _attempt(trial: Trial) -> Measured | None:
    import torch

    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="trial-", dir=trial.folder) as folder:
            warnings.simplefilter("ignore")  # what they say is said when the plan is trained
            return _measure(trial, Path(folder))
    except (MemoryError, torch.OutOfMemoryError):
        return None
    except RuntimeError as error:
        if "not enough memory" in str(error) or "alloc" in str(error):  # as torch says it on a CPU
            return None
        raise


def _measure(trial: Trial, folder: Path) -> Measured:
    """Run a trial in this process."""
    import lightning_fabric  # noqa: F401  (before its logger is told to be quiet)
    import psutil
    import torch

    from viscera.learning.context import coarse_supply, context_recipe, open_maps
    from viscera.learning.setup import begin
    from viscera.networks.build import context_network

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    machine, recipe = Machine(trial.device), trial.recipe
    on_gpu = device_type(trial.device) == "cuda"
    gpu_free = torch.cuda.mem_get_info()[0] / MIB if on_gpu else 0.0
    session = begin(recipe, trial.store, machine)
    context_step_s = seen_s = 0.0
    held = psutil.Process().memory_info().rss / MIB
    if recipe.context is not None:
        coarse = coarse_supply(trial.store, folder, recipe)
        _, context_step_s = _timed(begin(context_recipe(recipe), coarse, machine), trial.seconds)
        tensors = context_network(recipe).state_dict()
        maps = open_maps(folder, recipe, tensors, session.fabric.device)
        began = time.perf_counter()
        for case in session.training.cases:
            maps.of(case)
        seen_s = (time.perf_counter() - began) / len(session.training.cases)
        session = session.with_context(maps, tensors)
    began, busy = time.perf_counter(), time.process_time()
    steps, step_s = _timed(session, trial.seconds)
    cpu_share = (time.process_time() - busy) / (time.perf_counter() - began) / torch.get_num_threads()
    return Measured(
        steps=steps,
        step_s=step_s,
        validated_s=_validated(session),
        held_mib=held,
        peak_mib=peak_memory_mib(),
        gpu_mib=torch.cuda.max_memory_reserved() / MIB if on_gpu else 0.0,
        gpu_free_mib=gpu_free,
        context_step_s=context_step_s,
        seen_s=seen_s,
        cpu_share=min(1.0, cpu_share),
    )


def _timed(session: "Session", seconds: float) -> tuple[int, float]:
    """Train until there is enough to tell; return the steps and the seconds of one."""
    import torch

    from viscera.learning.progress import Progress
    from viscera.learning.training import Watch, run_epoch

    plan = session.recipe.training
    visits = MOST_STEPS * plan.batch_size / len(session.training)
    session = replace(
        session,
        recipe=replace(session.recipe, training=replace(plan, visits_per_slice=visits, epochs=1, accumulate=1)),
    )
    ends: list[float] = []

    def step(epoch: int, done: int, steps: int) -> None:
        """Note when a step ended."""
        if session.fabric.device.type == "cuda":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        if len(ends) > LEAST_STEPS and ends[-1] - ends[0] >= seconds:
            raise _EnoughError

    with suppress(_EnoughError):
        run_epoch(
            session,
            Progress(),
            Path(),
            index_of=lambda epoch: session.training,
            save_every_s=inf,
            watch=Watch(step=step),
        )
    took = np.diff(ends)
    return len(took), float(took[len(took) // 2 :].mean())


def _validated(session: "Session") -> float:
    """Validate a case whose slices are largest; return the seconds of a slice or patch."""
    from viscera.learning.sampling.index import open_validation
    from viscera.learning.validation import validate

    recipe = session.recipe
    largest = max(session.training.cases, key=lambda case: case.image[0].size)
    index = open_validation([largest], recipe.sampling, reach=recipe.reach, contrast=recipe.contrast)
    if session.maps is not None:
        index = replace(index, maps=session.maps)
    if recipe.dimensions == 2:  # two batches tell as much as all
        index = replace(index, positions=index.positions[: 2 * recipe.training.batch_size])
    began = time.perf_counter()
    validate(replace(session, validation=index))
    return (time.perf_counter() - began) / max(1, len(index))
