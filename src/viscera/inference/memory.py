"""What predicting a scan takes of memory, by its header alone; and how scans are read so that it stays below a limit.

All numbers are upper bounds of resident memory (RSS), meant to lie 5 to 25 % above what is then taken.
"""

from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import psutil

from viscera.config import Preparation, Recipe
from viscera.errors import SettingError, VisceraError
from viscera.inference.context import DEPTH
from viscera.inference.model import Model
from viscera.inference.plans import PLANES_AT_ONCE, plan_of, sums_type
from viscera.inference.postprocessing.edges_by_hu import HALO_MM, SLAB_MM
from viscera.inference.postprocessing.slabs import MOST_AT_ONCE, PLANES, SLAB_BYTES
from viscera.io import nifti
from viscera.io.scans import Scan
from viscera.labels import has_lesions, organ_name
from viscera.preparation.resampling import HALVINGS
from viscera.preparation.shear import shear_of
from viscera.volume import Volume, axial_turn

MIB = 2**20

Plan = Literal["overlapped", "alone", "slabs"]
"""How a scan is read: while others are worked on; alone; or alone and slab by slab, never whole in memory."""

PER_PIXEL = {"bf16": 18, "fp16": 18, "fp32": 30}
"""Bytes of workspace per pixel of a batch and channel of a 2D network's first level. It is taken once for each thread that calls
the network and once more for what lies idle between their blocks. MiB that RSS rose by in label_slices beyond the labels, scans of
512x512, width 16, batch 4, 1 and 2 threads, against what is reckoned here:
256x256 (OpenVINO, bf16) 142-235 and 245-293 (reckoned 207 and 311), torch 101 and 170; ONNX Runtime in fp32 221 and 345 (303 and
455); 128x176 (OpenVINO, bf16) 40-73 and 51-79 (96 and 143)."""

PER_VOXEL = 18
"""The same of a 3D network, per voxel of a window: gao2step's took 1.5 GB for 128x128x128 (see machine.keep_freed_memory)."""

FULL_BYTES, HALF_BYTES = 4, 2
"""Of a sum of windows' logits in float32 and float16."""

KEPT_WORKSPACE = 0.5
"""Share of a network's workspace that a runtime other than torch keeps while the other networks of an ensemble compute. RSS rose by
105 MiB with five of width 16 on 24 slices of 176x176 (OpenVINO, bf16, one thread), by 51 with one (reckoned 166 and 76); with torch
five took 1 MiB beyond the 54 of one (reckoned 98 and 76)."""

AVERAGED = 4
"""Arrays of logits that an ensemble holds beside a network's own: two sums, and what one network's become while they are added."""

WHOLE_PLANES = 3
"""Prepared slices whose logits there are at once: two, and what is mixed of them."""

ENLARGED = 6
"""Bytes per class and pixel of a scanner's slice while its logits are enlarged."""

TIDIED, IN_PIECES = 8, 2
"""Bytes per voxel of post-processing, beside the labels and its result: of opening and closing (masks of a whole organ and slabs of
distances; 4.9 to 7.8 were measured where one fills the scan), and of filling and dropping beside what its slabs take (0 on real
scans; 1.5 where each voxel has one of eight labels by chance)."""

IN_LESIONS = 5
"""Bytes per voxel of small lesions that are dropped, if there are some at either end of the scan: a mask, and numbers of pieces."""

MOVED = 5, 40
"""Bytes per voxel of the slab in which edges are moved by HU: masks on the scanner's grid, and floats on the prepared one."""

READ_MIB = 14.0
"""Buffers of isal's thread and slabs of a file: RSS rose by 151 MiB while 137.5 MiB of voxels were read."""

ALWAYS_MIB = 20.0
"""Pieces of freed memory that nothing fits into."""


LATER_MIB = 48.0
"""What a run holds beyond that from its second scan on, given back or not: the peak of five scans in a row was 40 MiB higher."""


@dataclass(frozen=True, eq=False)
class Look:
    """What a scan's header says.

    Attributes:
        shape: Voxels of the axial slices, along (z, y, x).
        spacing_mm: Likewise.
        itemsize: Bytes of a voxel as it is read.
        hounsfield: Whether it is read as int16, so that nothing has to be converted.
        in_order: Whether the file's planes are axial slices, so that it can be prepared slab by slab.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    itemsize: int
    hounsfield: bool
    in_order: bool = True


@dataclass(frozen=True)
class Need:
    """MiB that a scan takes, one stage after the other.

    Attributes:
        reading: Until it is prepared.
        working: With the network and post-processing.
        writing: Statistics and compression.
        slabs: The most of all three if it is prepared slab by slab; None where that cannot be.
    """

    reading: float = 0.0
    working: float = 0.0
    writing: float = 0.0
    slabs: float | None = None

    @property
    def alone(self) -> float:
        """The most at any time, with no other scan beside it."""
        return max(self.reading, self.working, self.writing)


def look_at(scan: Scan) -> Look:
    """Read a scan's header.

    Raises:
        FileError, GeometryError: The file cannot be used.
    """
    if isinstance(scan, Path):
        with nifti.open_slabs(scan) as opened:
            grid, dtype = opened.grid, opened.dtype
    else:
        grid, dtype = Volume(np.broadcast_to(np.int16(0), scan.shape), scan.affine), np.dtype(np.int16)
    axes = axial_turn(grid.affine).axes
    z, y, x = (grid.shape[axis] for axis in axes)
    dz, dy, dx = (grid.spacing_mm[axis] for axis in axes)
    in_order = isinstance(scan, Path) and axes[0] == 0
    shear = shear_of(grid)
    if shear is not None:
        (y, x), in_order = shear.size, False
    return Look((z, y, x), (dz, dy, dx), dtype.itemsize, bool(dtype == np.int16), in_order)


def needed_mib(look: Look, model: Model, *, statistics: bool) -> Need:
    """Return what segmenting a scan takes, besides what the process held before.

    Args:
        look: The scan.
        model: With its other networks.
        statistics: Whether HU are kept until the end.
    """
    voxels = prod(look.shape)
    networks = model.networks
    sizes = [prepared_voxels(look, each) for each in {network.recipe.preparation for network in networks}]
    prepared = 2 * sum(sizes)
    # Labels and their tidied copy; beside them a finder's or a tumour network's.
    labels = (2 + len(networks) - 1) * voxels + tidied_bytes(model.recipe, look)
    kept = 2 * voxels if statistics else 0
    workspace = max(workspace_bytes(look, network) for network in networks)
    raw = 2 if look.hounsfield else look.itemsize + 2
    reading = (max(raw * voxels, 2 * voxels + prepared) / MIB) + READ_MIB
    measured = 5 * voxels if statistics else 0  # of the largest organ's box: a copy, and its components as uint32
    writing = (kept + measured + 2 * voxels) / MIB  # a copy of the labels where the file runs the other way
    slabs = None
    if look.in_order and not statistics:
        few = max(workspace_bytes(look, one_at_a_time(network)) for network in networks)
        # What is made of the slabs may be resampled along z, and is then there twice.
        slabs = max(2 * prepared / MIB + READ_MIB, (prepared + labels + few) / MIB, writing) + ALWAYS_MIB
    working = (prepared + kept + labels + workspace) / MIB
    return Need(reading + ALWAYS_MIB, working + ALWAYS_MIB, writing + ALWAYS_MIB, slabs)


def one_at_a_time(model: Model) -> Model:
    """Return a model that takes one slice per pass."""
    settings = model.recipe.inference
    if not settings.whole_slices:
        return model
    return replace(model, recipe=replace(model.recipe, inference=replace(settings, batch_size=1)))


def prepared_voxels(look: Look, preparation: Preparation) -> int:
    """Return the most voxels that a scan can have when it is prepared, whatever part of it the body takes."""
    slices, rows, columns = look.shape[0], *prepared_size(look, preparation)
    if preparation.slice_mm is not None:  # first within the slices, then along z
        slices += ceil(slices * look.spacing_mm[0] / preparation.slice_mm)
    return slices * rows * columns


def prepared_size(look: Look, preparation: Preparation) -> tuple[int, int]:
    """Return the most rows and columns that a slice can have when it is prepared."""
    if preparation.pixel_mm is None:
        return preparation.size or look.shape[1:]
    rows, columns = (
        ceil((count * old_mm + 2 * (preparation.margin_mm + old_mm)) / new_mm / HALVINGS + 0.01) * HALVINGS
        for count, old_mm, new_mm in zip(look.shape[1:], look.spacing_mm[1:], preparation.pixel_mm, strict=True)
    )
    return rows, columns


def workspace_bytes(look: Look, model: Model) -> float:
    """Return what a network takes while it computes, in the memory of the CPU, and what enlarging its logits does."""
    settings, classes = model.recipe.inference, len(model.space.classes)
    width = model.recipe.network.widths[0] * workspaces(model) if model.device == "cpu" else 0
    pixels = prod(prepared_size(look, model.recipe.preparation))
    enlarged = ENLARGED * classes * prod(look.shape[1:])  # where most of a slice is open, all its logits are
    if settings.whole_slices:
        per_pixel = PER_PIXEL.get(model.network.precision, PER_PIXEL["fp32"])
        seen = FULL_BYTES * seen_channels(model) if model.context is not None else 0
        given = FULL_BYTES * classes * (1 + averaged(model))
        passed = settings.batch_size * pixels * (per_pixel * width / model.recipe.network.stem**2 + given + seen)
        slices = (model.network.streams + 1) * (passed + enlarged)
        return slices if model.context is None else max(slices + kept_context(look, model), context_bytes(look, model))
    plan = plan_of(model)
    sums = (classes, plan.span[0], pixels)
    slab = FULL_BYTES if sums_type(sums, device=model.device) == "float32" else HALF_BYTES
    given = 4 * classes * (2 * PLANES_AT_ONCE + WHOLE_PLANES)
    held = slab * prod(sums) + (4 * plan.span[0] + given) * pixels
    averaging = FULL_BYTES * classes * prod(plan.size) * averaged(model) if model.device == "cpu" else 0
    return PER_VOXEL * prod(plan.size) * width + held + enlarged + averaging


def workspaces(model: Model) -> float:
    """Return how many times a network's workspace is held: torch gives it back after each network, other runtimes keep a part."""
    return 1 if model.network.name == "torch" else 1 + KEPT_WORKSPACE * max(0, len(model.members) - 1)


def averaged(model: Model) -> int:
    """Return how many arrays of logits more an ensemble holds than one network; 0 for one."""
    return (AVERAGED if model.recipe.network.heads == "softmax" else 2 * AVERAGED) if model.members else 0


def seen_channels(model: Model) -> int:
    """Return the channels of a network's input that are held at a time: of an ensemble all contexts', and one network's own."""
    organs = len(model.space.organs) * len(model.more_contexts)
    return model.recipe.channels + (organs + model.recipe.channels if organs else 0)


def coarse_voxels(look: Look, model: Model) -> tuple[int, int]:
    """Return the most coarse slices that a scan's context can have, and the voxels of one."""
    pixels, pixel_mm = model.recipe.context.pixels, model.recipe.preparation.pixel_mm  # type: ignore[union-attr]
    depth = ceil(look.shape[0] * look.spacing_mm[0] / (pixels * pixel_mm[0])) + 1  # type: ignore[index]
    return depth, prod(prepared_size(look, model.recipe.preparation)) // pixels**2


def kept_context(look: Look, model: Model) -> float:
    """Return what a scan's context takes while its slices are segmented."""
    return len(model.space.organs) * prod(coarse_voxels(look, model)) * (1 + 2 * len(model.more_contexts))


def context_bytes(look: Look, model: Model) -> float:
    """Return what the context network takes while it computes: once, before any slice is segmented."""
    depth, plane = coarse_voxels(look, model)
    width = model.recipe.context.network.widths[0] * workspaces(model) if model.device == "cpu" else 0  # type: ignore[union-attr]
    logits = 2 * FULL_BYTES * len(model.space.classes)
    return (
        min(depth, DEPTH) * plane * (PER_VOXEL * width + logits)
        + depth * plane * FULL_BYTES
        + kept_context(look, model)
    )


def tidied_bytes(recipe: Recipe, look: Look) -> int:
    """Return what post-processing takes beside the labels and its result, if its organs fill the scan.

    Args:
        recipe: Says what is done.
        look: The scan.
    """
    settings, (depth, *size) = recipe.postprocessing, look.shape
    if settings.opening_mm or settings.closing_mm:
        return TIDIED * prod(look.shape)
    if not any(vars(settings).values()):
        return 0
    slabs = min(MOST_AT_ONCE, cv2.getNumThreads()) * min(PLANES + 1, depth)
    pieces = (IN_PIECES * depth + SLAB_BYTES * slabs) * prod(size)
    if any(has_lesions(organ_name(organ)) for organ in settings.smallest_ml):
        pieces = max(pieces, IN_LESIONS * prod(look.shape))
    if not settings.edge_by_hu_mm:
        return pieces
    share, seen_share = (min(1.0, (SLAB_MM + 2 * more_mm) / (depth * look.spacing_mm[0])) for more_mm in (10, HALO_MM))
    prepared = prepared_voxels(look, recipe.preparation)
    moved = MOVED[0] * share * prod(look.shape) + (MOVED[1] * seen_share + 2) * prepared
    return max(pieces, int(moved))


class Budget:
    """The memory that a run may take: tells of its scans, one after the other, how each is to be read.

    Attributes:
        most_mib: The limit; None without one.
        held_mib: What the process held when the run began.
    """

    def __init__(self, model: Model, *, most_mib: float | None, statistics: bool) -> None:
        self.most_mib, self.held_mib = most_mib, psutil.Process().memory_info().rss / MIB
        self._need = partial(needed_mib, model=model, statistics=statistics)
        self._beside: deque[Need] = deque(maxlen=2)
        self._plans: dict[Scan, Plan | VisceraError] = {}
        self._last: Scan | None = None

    def admit(self, scan: Scan) -> bool:
        """Tell whether the next scan may be read while those before it are worked on and written."""
        try:
            need = Need() if self.most_mib is None else self._need(look_at(scan))
            self._plans[scan] = plan = self._planned(need, scan)
        except VisceraError as error:  # raised when it is its turn; nothing will be held for it
            self._plans[scan] = error
            return True
        if plan == "overlapped":
            self._plans[self._last or scan] = plan
        else:
            self._beside.clear()
        if plan != "slabs":
            self._beside.append(need)  # beside one that is read by slabs is no room
        self._last = scan
        return plan == "overlapped"

    def plan(self, scan: Scan) -> Plan:
        """Tell how a scan is to be read; it is "overlapped" too if the next one is read while it is worked on.

        Raises:
            SettingError: It does not fit into the limit.
            FileError, GeometryError: It cannot be used.
        """
        if scan not in self._plans:
            self.admit(scan)
        found = self._plans[scan]
        if isinstance(found, VisceraError):
            raise found
        return found

    def _planned(self, need: Need, scan: Scan) -> Plan:
        """Choose the first plan that fits."""
        held = self.held_mib + (0.0 if self._last is None else LATER_MIB)
        free = float("inf") if self.most_mib is None else self.most_mib - held
        stages = [before.writing for before in self._beside][:-1] + [before.working for before in self._beside][-1:]
        if self._beside and sum(stages) + need.reading <= free:
            return "overlapped"
        if need.alone <= free:
            return "alone"
        if need.slabs is not None and need.slabs <= free:
            return "slabs"
        least = held + min(need.alone, need.slabs or need.alone)
        raise SettingError(
            f"{scan.name}: --max-memory {self.most_mib:g}: this scan needs at least {ceil(least)} MiB, of which "
            f"{ceil(held)} are held before it is read",
            f"Pass --max-memory {ceil(least)} or more.",
        )
