"""One competitor of speed.py in a process of its own: seconds per stage, peak memory, the labels it wrote.

A competitor has ``load(order, clock)``: it does what must be done once (imports, weights, compiling) and returns what segments a
scan, file to file. ``measured(load)`` is all that its module does when it is run; speed.py reads the JSON that it leaves. A few
slices are segmented first: what is imported, compiled or allotted only then belongs to the start-up too.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.machine import ROOT

OUT_OF_MEMORY = ("MemoryError", "allocate memory", "not enough memory", "bad_alloc")
"""What numpy, torch and C++ say where the memory does not suffice."""


@dataclass(frozen=True)
class Order:
    """What a competitor is to do.

    Attributes:
        scan: The scan's file; of the 3D export, the logits'.
        out: Where the labels go.
        run: Weights file or run folder of viscera's; all paths are absolute.
        how: What is special to the competitor: runtime, order of interpolation.
        warm: A scan of a few slices that is segmented first; none where empty.
        most_gib: Above this the process gets no more memory, and fails instead of the machine; 0: no limit.
        started: Unix time at which the process was started.
    """

    scan: str
    out: str
    run: str = ""
    how: dict[str, str] = field(default_factory=dict)
    warm: str = ""
    most_gib: float = 0.0
    started: float = 0.0


class Clock:
    """Seconds per stage; the time of a stage within a stage counts for the inner one only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + taken - self._inner.pop()
            self._inner[-1] += taken

    def wrap(self, owner: object, name: str, stage: str) -> None:
        """Time a function or method of a rival's wherever it is called from now on."""
        timed = getattr(owner, name)

        def within(*arguments: object, **settings: object) -> object:
            """Call it."""
            with self.stage(stage):
                return timed(*arguments, **settings)

        setattr(owner, name, within)


Segment = Callable[[str, str], Mapping[str, object] | None]
"""Segments a scan into a file, the clock timing its stages; what it gives besides goes into the JSON."""


def measured(load: Callable[[Order, Clock], Segment]) -> None:
    """Do the order given on the command line, and write what it took beside the labels."""
    order = Order(**json.loads(sys.argv[1]))
    if order.most_gib:
        most = int(order.most_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    clock = Clock()
    segment = load(order, clock)
    found: dict[str, object] = {"start_up_s": round(time.time() - order.started, 3)}
    if order.warm:
        start = time.perf_counter()
        segment(order.warm, str(Path(order.out).with_name("warm.nii.gz")))
        found["warm_up_s"] = round(time.perf_counter() - start, 3)
        clock.seconds.clear()
    found["start_up_mib"] = peak_mib()
    start = time.perf_counter()
    besides = segment(order.scan, order.out)
    found["seconds"] = round(time.perf_counter() - start, 3)
    found["stages"] = {stage: round(value, 3) for stage, value in clock.seconds.items()}
    found["peak_mib"] = peak_mib()
    Path(order.out + ".json").write_text(json.dumps(found | dict(besides or {})))


def peak_mib() -> float:
    """Return the most memory that this process has held so far.

    Not ru_maxrss, which begins with what the process that started this one held.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10, 1)


def competing(competitor: str, order: Order, *, python: str = sys.executable, threads: int = 0) -> dict:
    """Run a competitor in a process of its own; return what it wrote, or {"failed": why}.

    Args:
        competitor: Its module in this folder, and what else it is told: "rivals monai".
        order: What it is to do; ``started`` is filled in here.
        python: Which Python runs it.
        threads: How many it may use; 0: as many as it takes by itself.
    """
    report = Path(order.out + ".json")
    report.unlink(missing_ok=True)
    environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    order_json = json.dumps(asdict(order) | {"started": time.time()})
    words = [python, "-m", *f"benchmarks.peers.{competitor}".split(), order_json]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    if done.returncode or not report.exists():
        last = (done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1]
        short = any(words in done.stderr for words in OUT_OF_MEMORY)
        return {"failed": f"more than {order.most_gib:g} GiB of memory" if short else last[:300]}
    return json.loads(report.read_text())


def plain_network(run: str) -> tuple:
    """Return (network, weights) of a run as torch has them: fp32, nothing folded, in evaluation mode.

    What peers get: viscera's tricks (folding, channels last, kept memory) are viscera's.
    """
    from viscera.networks.build import build_network
    from viscera.networks.weights import fill_network, find_weights, load_weights

    weights = load_weights(find_weights(Path(run)))
    network = build_network(weights.recipe.network, classes=len(weights.space.classes))
    fill_network(network, weights.tensors, where=run)
    return network.eval(), weights
