"""The bundled weights on OpenVINO without torch: in int8 where this processor is faster with it, which is measured once.

What was measured is kept for each kind of processor, since a home folder may serve several. On a processor with AMX or AVX-512
and VNNI int8 multiplies more numbers at once than fp32; with AVX2 alone it depends on the processor, so no table decides.
"""

import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from viscera.errors import FileError
from viscera.io.atomic import write_json
from viscera.json_text import load_json
from viscera.networks.bundled_graphs import BundledGraph, find_graph
from viscera.networks.cards import Shipped
from viscera.networks.processor import this_processor
from viscera.networks.runners import CannotRunError, OpenVinoRunner, missing_runtime

FASTER = 1.15
"""Times faster than the other graph int8 must be, since it is a little less exact."""
ROUNDS = 4
"""Of which the quickest counts, in turn."""
PIXELS = (144, 176)
"""Of the slice that is timed: a body on 2.5 mm pixels."""


def bundled_runner(shipped: Shipped, *, choices: Path | None, precision: str | None = None) -> OpenVinoRunner | None:
    """Run bundled weights by the graphs that come with them; None where there are none, or no OpenVINO to run them.

    Args:
        shipped: The weights.
        choices: Folder in which is kept whether int8 is faster on this processor; None: it is not kept, and measured each time.
        precision: int8 or fp32, whichever is faster here, so that several machines do the same; None: the faster.

    Raises:
        WeightsError: A graph is damaged.
    """
    if missing_runtime("openvino"):
        return None
    exact, small = find_graph(shipped, "fp32"), find_graph(shipped, "int8")
    if exact is None:
        return None
    try:
        if small is None:
            return _runner(exact)
        if precision is not None:
            return _runner(small if precision == "int8" else exact)
        kept = None if choices is None else choices / f"int8-{this_processor().key}-{shipped.card.sha256[:16]}.json"
        faster = None if kept is None else _read(kept)
        if faster is not None:
            return _runner(small if faster >= FASTER else exact)
        runners = _runner(exact), _runner(small)
        faster = times_faster(*runners)
        if kept is not None:
            _keep(kept, faster)
        return runners[faster >= FASTER]
    except CannotRunError:
        return None  # torch tells why, or does it itself


def bundled_context(shipped: Shipped) -> OpenVinoRunner | None:
    """Run the context network of bundled weights; None where there is no graph of it, or no OpenVINO to run it.

    Raises:
        WeightsError: The graph is damaged.
    """
    graph = None if missing_runtime("openvino") else find_graph(shipped, "context")
    try:
        return None if graph is None else _runner(graph)
    except CannotRunError:
        return None


def _runner(graph: BundledGraph) -> OpenVinoRunner:
    return OpenVinoRunner(graph.file, (graph.stride, graph.dimensions), weights=graph.weights)


def times_faster(exact: OpenVinoRunner, small: OpenVinoRunner) -> float:
    """Measure how many times faster the second network is on this processor: some tenths of a second.

    Threads are as many as for a scan, since several cores share what they have, the memory and the warmth.
    """
    channels = exact.channels
    image = np.random.default_rng(0).random((1, channels, *PIXELS), np.float32)
    seconds: dict[OpenVinoRunner, list[float]] = {exact: [], small: []}
    for _ in range(ROUNDS):
        for runner, times in seconds.items():
            times.append(_seconds(runner, image))
    return min(seconds[exact]) / min(seconds[small])


def _seconds(runner: OpenVinoRunner, image: Float32[np.ndarray, "1 channel y x"]) -> float:
    """Time one slice on each core at once."""
    with runner.threads() as pool:
        start = time.perf_counter()
        for work in [pool.submit(runner, image) for _ in range(runner.streams)]:
            work.result()
        return time.perf_counter() - start


def _read(kept: Path) -> float | None:
    """Return what was measured before; None where nothing was, or the file is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return float(load_json(kept)["int8_times_faster"])
    return None


def _keep(kept: Path, faster: float) -> None:
    """Keep what was measured; whatever goes wrong costs the next start its time, and nothing else."""
    with suppress(OSError, FileError):
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(kept, {"processor": this_processor().name, "int8_times_faster": round(faster, 3)})
