"""Several processes that train one network together: who they are, how they share a batch, what they add up.

Processes are begun by `viscera train --machine.devices N` (on this machine), by torchrun or by srun (on one machine or several).
Each takes every n-th item of each batch, so that a batch holds the same items on any number of devices; loss and batch
normalisation (shared_norm.py) are over the whole batch. The first process alone writes the run. What happens when one of them
ends is in lost_process.py.
"""

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from viscera.config import Machine, PlainUNetShape, Recipe
from viscera.config.networks import NetworkShape
from viscera.errors import RunError, SettingError
from viscera.io.atomic import write_text
from viscera.learning.sampling.batch import Batch

LONGEST_WAIT = timedelta(days=2)
"""For the first process, which may have patients or a store of coarse voxels to make. Whoever dies is missed much sooner
(lost_process.py)."""
SEEN_WITHIN_S = 20.0
"""What the first process has written is to be seen by all: NFS shows a new file within some seconds."""


@dataclass(frozen=True)
class World:
    """Which processes train together, and which of them this is.

    Attributes:
        launcher: What began them.
        nodes: Machines.
        per_node: Processes on each.
        rank: This one's number, from 0.
    """

    launcher: Literal["viscera", "torchrun", "srun"] = "viscera"
    nodes: int = 1
    per_node: int = 1
    rank: int = 0

    @property
    def size(self) -> int:
        """Count the processes."""
        return self.nodes * self.per_node

    @property
    def is_first(self) -> bool:
        """Tell whether this is the process that writes and says how far the run is."""
        return self.rank == 0


def find_world(devices: int = 1, environment: Mapping[str, str] = os.environ) -> World:
    """Return which processes train together: those of torchrun or srun, else as many as are asked for.

    Args:
        devices: What the user asks for; torchrun and srun say it themselves.
        environment: Where they say it.

    Raises:
        SettingError: They began another number of processes than is asked for, or not as many on each machine.

    Example:
        >>> said = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", "RANK": "3"}
        >>> find_world(1, {"TORCHELASTIC_RUN_ID": "a", **said})
        World(launcher='torchrun', nodes=2, per_node=2, rank=3)
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        size, each, nodes, rank = (
            int(environment[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "RANK")
        )
        world = World("torchrun", nodes, each, rank)
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        size, rank = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_PROCID"])
        if "SLURM_NTASKS_PER_NODE" not in environment:
            raise SettingError(
                f"srun began {size} processes, but does not say how many on each machine",
                "Pass srun --ntasks-per-node.",
            )
        each = int(environment["SLURM_NTASKS_PER_NODE"])
        world = World("srun", max(1, size // each), each, rank)
    else:
        return World(per_node=devices, rank=int(environment.get("LOCAL_RANK", "0")) if devices > 1 else 0)
    if world.size != size:
        raise SettingError(
            f"{world.launcher} began {size} processes, but {each} on this machine of {world.nodes}",
            "Begin as many on each machine.",
        )
    if devices not in (1, each):
        raise SettingError(
            f"machine.devices is {devices}, but {world.launcher} began {each} processes on this machine",
            f"Leave --machine.devices out: {world.launcher} says how many.",
        )
    return world


def check_world(recipe: Recipe, machine: Machine, device: str) -> World:
    """Return which processes train together, once it is clear that they can share the recipe's batches.

    Raises:
        SettingError: They cannot, or the machine has too few GPUs.
    """
    if min(machine.devices, machine.threads) < 1:
        raise SettingError(
            f"machine.devices {machine.devices}, machine.threads {machine.threads}: each must be at least 1."
        )
    world = find_world(machine.devices)
    plan = recipe.training
    if plan.batch_size % world.size:
        near = max(1, plan.batch_size // world.size) * world.size
        raise SettingError(
            f"training.batch_size {plan.batch_size} cannot be shared by {world.size} devices",
            f"It is that of all devices together: take --training.batch-size {near}, or another number of devices.",
        )
    if device == "cuda" and torch.cuda.device_count() < world.per_node:
        raise SettingError(
            f"{world.per_node} processes on this machine, but each sees {torch.cuda.device_count()} GPUs",
            "Give all of them all GPUs of the machine (srun: --gpus-per-node, not --gpus-per-task), or begin fewer.",
        )
    return world


def launch(world: World, *, device: str, precision: str) -> Fabric:
    """Return Fabric with all processes begun and connected: gloo between CPUs, NCCL between GPUs.

    Raises:
        RunError: They cannot find each other.
    """
    match world.launcher:
        case "torchrun":
            place = TorchElasticEnvironment()
        case "srun":
            place = SLURMEnvironment(auto_requeue=False)
        case _:
            place = LightningEnvironment()  # Fabric would take any process of a SLURM job for one of several
    if world.size == 1:
        fabric = Fabric(accelerator=device, devices=1, precision=precision, plugins=[LightningEnvironment()])  # type: ignore[arg-type]
        fabric.launch()
        return fabric
    if world.nodes == 1 and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nothing of it need leave the machine
    strategy = DDPStrategy(timeout=LONGEST_WAIT)
    fabric = Fabric(
        accelerator=device,
        devices=world.per_node,
        num_nodes=world.nodes,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
        plugins=[place],
    )
    try:
        fabric.launch()
    except dist.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RunError(
            f"the {world.size} processes do not find each other at {where}: {str(error).splitlines()[0]}",
            "Let them reach that machine and port, and begin all of them.",
        ) from error
    return fabric


def leave_out_idle_heads(network: torch.nn.Module, shape: NetworkShape) -> None:
    """Ask for no gradient of heads that no loss looks at: DistributedDataParallel would wait for it."""
    match shape:
        case PlainUNetShape(deep_supervision=deep):
            heads = list(network.heads)  # type: ignore[arg-type]  # the coarsest first
            seen = max(1, len(heads) - 1) if deep else 1
            for head in heads[: len(heads) - seen]:
                head.requires_grad_(False)
        case _:
            pass


def total(fabric: Fabric, part: Tensor) -> Tensor:
    """Return the sum over all devices."""
    return torch.as_tensor(fabric.all_reduce(part, reduce_op="sum"))


class _Pooled(torch.autograd.Function):
    """The sum over all devices. Each differentiates by its own part: what follows is computed by all alike, and counts once."""

    @staticmethod
    def forward(ctx: object, part: Tensor) -> Tensor:  # type: ignore[override]
        whole = part.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def pooled(*sums: Tensor) -> tuple[Tensor, ...]:
    """Return sums over this device's items as those over the whole batch, in one exchange; differentiable.

    The gradient is this device's share of the whole: those of all devices are to be added, not averaged.
    """
    parts = _Pooled.apply(torch.cat([one.reshape(-1).double() for one in sums])).split([one.numel() for one in sums])
    return tuple(part.view(one.shape).to(one.dtype) for part, one in zip(parts, sums, strict=True))


def text_of_first(fabric: Fabric, text: str) -> str:
    """Return the first process's text on all of them."""
    content = text.encode() if fabric.is_global_zero else b""
    length = int(total(fabric, torch.tensor(len(content), device=fabric.device)))
    numbers = torch.zeros(length, dtype=torch.int64, device=fabric.device)
    if fabric.is_global_zero:
        numbers += torch.tensor([*content], device=fabric.device)
    return bytes(total(fabric, numbers).tolist()).decode()


def require_shared(fabric: Fabric, run: Path) -> None:
    """Raise RunError, on all processes alike, where one of them does not see what the first writes to the run's folder."""
    if fabric.world_size == 1:
        return
    note, token = run / ".together", text_of_first(fabric, f"{os.getpid()} {time.time_ns()}")
    if fabric.is_global_zero:
        write_text(note, token)
    fabric.barrier()
    seen, until = False, time.monotonic() + SEEN_WITHIN_S
    while not seen and time.monotonic() < until:
        seen = note.is_file() and note.read_text(encoding="utf-8") == token
        if not seen:
            time.sleep(0.2)
    blind = fabric.world_size - int(total(fabric, torch.tensor(int(seen), device=fabric.device)))
    if fabric.is_global_zero:
        note.unlink(missing_ok=True)
    if blind:
        raise RunError(
            f"{blind} of {fabric.world_size} processes do not see what the first one writes to {run}",
            "Choose a folder on a disk that all machines share.",
            file=run,
        )


@contextmanager
def first_goes_first(fabric: Fabric) -> Iterator[None]:
    """Let the others begin a block when the first process has ended it: they find what it has written."""
    if not fabric.is_global_zero:
        fabric.barrier()
    yield
    if fabric.is_global_zero:
        fabric.barrier()


def share_of(count: int, *, rank: int, world: int) -> tuple[slice, bool]:
    """Return which items of a batch are a device's, and whether that is one that only stands in: it has none of its own.

    Example:
        >>> share_of(5, rank=1, world=2), share_of(1, rank=1, world=2)
        ((slice(1, None, 2), False), (slice(0, 1, None), True))
    """
    return (slice(0, 1), True) if rank >= count else (slice(rank, None, world), False)


def without_weight(batch: Batch, *, batch_norm: bool) -> Batch:
    """Return a stand-in that adds nothing to the loss and its gradient.

    Args:
        batch: An item that is another device's.
        batch_norm: Whether the network normalises batches: then nothing is left of it; else an item of which nothing is known,
            since instance normalisation takes no empty batch.
    """
    if not batch_norm:
        return replace(batch, known=torch.zeros_like(batch.known))
    arrays = ((one.name, getattr(batch, one.name)) for one in fields(batch))
    return Batch(**{name: array[:0] for name, array in arrays if array is not None})


@dataclass
class SavingTimes:
    """When a run's state is saved: so many seconds after the last time, by the first process's clock.

    Several devices save together, since each has a part of the sums; they agree beforehand on the step at which they look at
    the clock next, so that steps between cost nothing.
    """

    fabric: Fabric
    every_s: float
    saved: float = field(default_factory=time.perf_counter)
    steps: int = 0
    next_look: int = 1

    def due(self) -> bool:
        """Tell after a step whether to save now."""
        self.steps += 1
        spent = time.perf_counter() - self.saved
        if self.fabric.world_size == 1:
            return spent >= self.every_s
        if self.steps < self.next_look:
            return False
        now = spent >= self.every_s
        left = self.every_s if now else self.every_s - spent
        ahead = min(max(1, math.ceil(left * self.steps / max(spent, 1e-9))), 2 * self.steps)
        told = torch.tensor([int(now), ahead] if self.fabric.is_global_zero else [0, 0], device=self.fabric.device)
        now, ahead = total(self.fabric, told).tolist()
        self.next_look = (0 if now else self.steps) + ahead
        return bool(now)

    def lap(self) -> float:
        """Return the seconds since the last time, and count anew."""
        now = time.perf_counter()
        seconds, self.saved, self.steps = now - self.saved, now, 0
        return seconds
