"""The networks that are offered, each loaded once, and the queue in which scans wait for them: one at a time.

A network takes all cores and a scan a gigabyte, so two at once would be no faster and could fail together.
"""

import asyncio
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from viscera.config import Accelerator
from viscera.errors import LabelError, SettingError, did_you_mean
from viscera.inference.model import Model, load_model
from viscera.inference.segment import only_organs, prepare_scan, segment_prepared
from viscera.io import nifti, scans
from viscera.io.nifti import GridWarning
from viscera.io.scans import LeftOutWarning, Scan
from viscera.labels import organ_name
from viscera.networks.cards import as_shipped, find_shipped
from viscera.preparation.body import coarse_scan
from viscera.preparation.intensity import hounsfield
from viscera.quality.glance import scan_doubts
from viscera.serving.last_result import LastResult, thinned
from viscera.serving.names import safe_name
from viscera.serving.protocol import as_listed, dense, model_info
from viscera.serving.versions import Versions
from viscera.volume import Volume, with_voxels

MOST_WAITING = 16
"""Scans; whoever comes then is told to come again."""
PATIENCE_S = 0.5
"""Between two looks for room of what goes on in the background."""
MOST_VOXELS = 2**30
"""Of a scan: 1000 slices of 1024x1024."""

Result = TypeVar("Result")


class BusyError(Exception):
    """Too many scans are waiting."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in a scan.

    Attributes:
        labels: uint8 on the scan's grid, numbered without gaps.
        names: {organ: label} of those that are there.
        doubts: What speaks against the result as a whole, in sentences.
        notes: How the scan was read, where that was not plain.
        seconds: That it took.
    """

    labels: Volume
    names: dict[str, int]
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


def load_models(
    weights: Sequence[Path], *, accelerator: Accelerator = "auto", graphs: Path | None = None
) -> dict[str, Model]:
    """Load what is to be offered.

    Args:
        weights: Runs, .safetensors files or exports, each offered by its name; the bundled weights come first, whatever else.
        accelerator: Where they run.
        graphs: As for ``load_model``.

    Returns:
        {name: model}.

    Raises:
        WeightsError: There are no such weights.
        SettingError: Two have one name.
    """
    models = {"starter": load_model(find_shipped(), accelerator=accelerator, runtime="auto", graphs=graphs)}
    for path in weights:
        name = "_".join(safe_name(path.absolute().name.removesuffix(".safetensors"), what="weights").split())
        if name in models:
            raise SettingError(f"two weights would be offered as '{name}'", f"Rename {path}.")
        models[name] = load_model(as_shipped(path) or path, accelerator=accelerator, runtime="auto", graphs=graphs)
    return models


def load_served(models: dict[str, Model], versions: Versions, *, accelerator: Accelerator = "auto") -> None:
    """Put the versions that serve into the place of the first ones.

    Raises:
        WeightsError: One is gone, or another than was written; or versions.json belongs to other weights.
    """
    for name in versions.first:
        if versions.history(name).serving != 1:
            models[name] = load_model(versions.file(name), accelerator=accelerator, runtime="auto")


def describe(model: Model, labels: Sequence[str]) -> dict[str, object]:
    """Return what a client is told of a model that gives these organs."""
    card = model.card
    text = f"{card.title} ({card.name} {card.version})" if card else f"recipe {model.recipe.name}"
    return model_info(labels, description=f"{text}; {len(labels)} structures; not a medical device")


def find_organs(model: Model, organs: Sequence[str], usual: tuple[str, ...]) -> tuple[str, ...]:
    """Return the organs that a client wants: those that it names, else those that the model usually gives.

    Raises:
        LabelError: The model does not know one.
    """
    known = model.output_space.organs
    named = tuple(dict.fromkeys(organ_name(organ) for organ in organs))
    for name in named:
        if name not in known:
            raise LabelError(
                f"the model does not know an organ that is asked for.{did_you_mean(name, known)}",
                f"It knows {', '.join(known)}.",
            )
    return named or usual


def require_size(scan: Scan) -> None:
    """Refuse a scan that no memory would hold, by its header alone: what is sent compressed may be a thousand times larger.

    Raises:
        FileError, GeometryError: It is no scan.
        SettingError: It is too large.
    """
    if isinstance(scan, Path):
        with nifti.open_slabs(scan) as opened:
            z, y, x = opened.shape
    else:
        z, y, x = scan.shape
    if z * y * x > MOST_VOXELS:
        raise SettingError(f"the scan has {z}x{y}x{x} voxels, more than {MOST_VOXELS}", "Crop it to the abdomen.")


def find_labels(
    scan: Scan, model: Model, organs: tuple[str, ...], *, listed: Sequence[str] = (), last: LastResult | None = None
) -> Found:
    """Segment a scan as ``viscera.segment`` does, and number the labels without gaps, or as they are listed.

    Args:
        scan: A file or a series.
        model: From ``load_models``.
        organs: From ``find_organs``.
        listed: What /info/ lists, where labels are to be numbered so; it holds all organs.
        last: Keeps the result, small.

    Raises:
        FileError, GeometryError: It is no CT.
        SettingError: It is too large.
    """
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as notes:  # of the whole process, which the queue makes safe
        warnings.simplefilter("always")
        require_size(scan)
        ct = scans.read(scan)
        ct = with_voxels(ct, hounsfield(ct, where=scan.name))
        coarse, prepared, small = coarse_scan(ct), prepare_scan(ct, model), thinned(ct)
        del ct
    wanted = [model.output_space.index(organ) for organ in organs]
    labels = segment_prepared(prepared, model, organs=wanted).labels
    if wanted:
        labels = with_voxels(labels, only_organs(labels.voxels, wanted))
    names = {index: organ for index, organ in model.output_space.labels.items() if not wanted or index in wanted}
    doubts = tuple(str(sign["message"]) for sign in scan_doubts(coarse, labels, names))
    if last is not None:
        last.put(small, labels, names)
    voxels, there = as_listed(labels.voxels, names, listed) if listed else dense(labels.voxels, names)
    told = tuple(
        dict.fromkeys(str(note.message) for note in notes if issubclass(note.category, GridWarning | LeftOutWarning))
    )
    return Found(with_voxels(labels, voxels), there, doubts, told, time.perf_counter() - start)


class Queue:
    """Runs one piece of work at a time, in the order in which they come, on a thread of its own."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._pool = ThreadPoolExecutor(1, "viscera serve")
        self._most, self._waiting, self._lock = most, 0, threading.Lock()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Wait for the turn, and for the result.

        Raises:
            BusyError: Too many are waiting.
        """
        return await asyncio.wrap_future(self._submit(work))

    def wait(self, work: Callable[[], Result], *, go_on: Callable[[], None] = lambda: None) -> Result:
        """Wait for room, for the turn and for the result, on a thread that may wait: work in the background.

        Args:
            work: What is to be done.
            go_on: Called while there is no room; what it raises ends the waiting.
        """
        while True:
            try:
                return self._submit(work).result()
            except BusyError:
                go_on()
                time.sleep(PATIENCE_S)

    @property
    def waiting(self) -> int:
        """How much waits or is being worked on."""
        with self._lock:
            return self._waiting

    def _submit(self, work: Callable[[], Result]) -> "Future[Result]":
        with self._lock:
            if self._waiting >= self._most:
                raise BusyError
            self._waiting += 1
        try:
            future = self._pool.submit(work)
        except BaseException:
            self._leave()
            raise
        future.add_done_callback(lambda _: self._leave())
        return future

    def _leave(self) -> None:
        with self._lock:
            self._waiting -= 1

    def close(self) -> None:
        """Forget what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
