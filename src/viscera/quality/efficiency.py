"""What segmenting a scan costs: seconds, memory, GPU memory and CPU over time, sampled beside the work as FLARE does.

The facts stand in the NAME.json of each prediction; the report shows them as a table. Seconds per stage are in networks/device.py.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import psutil

from viscera.errors import FileError
from viscera.io.json_codec import FINITE, from_json
from viscera.json_text import load_json

INTERVAL_S = 0.1
"""Between two samples: FLARE's."""

TOLERATED_S = 15.0
TOLERATED_GPU_MIB = 4096.0
"""What FLARE23 tolerates without a loss of rank: 15 s and 4 GB per scan."""

MIB = 2**20


@dataclass(frozen=True)
class Reading:
    """One sample.

    Attributes:
        clock_s: When.
        memory_mib: Resident memory of this process.
        cpu_s: CPU seconds that this process has used so far, all threads together.
        gpu_mib: Used memory of the GPU, whoever uses it; None without a GPU.
    """

    clock_s: float
    memory_mib: float
    cpu_s: float
    gpu_mib: float | None = None


@dataclass(frozen=True)
class Efficiency:
    """What a block of work cost.

    Attributes:
        seconds: From its start to its end.
        samples: From how many readings the rest comes.
        peak_memory_mib: The most resident memory that was seen; a peak between two readings may be missed.
        cpu_area_percent_s: Area under the curve of CPU utilisation, where 100 % is one core: 100 x CPU seconds. FLARE's
            100 % is the whole machine, so that its area is this one, divided by the number of cores.
        max_gpu_mib: The most GPU memory in use that was seen, as nvidia-smi shows it; None on the CPU.
        gpu_memory_area_mib_s: Area under the curve of GPU memory; None on the CPU.
    """

    __pydantic_config__ = FINITE

    seconds: float
    samples: int
    peak_memory_mib: float
    cpu_area_percent_s: float
    max_gpu_mib: float | None = None
    gpu_memory_area_mib_s: float | None = None

    @property
    def seconds_beyond(self) -> float:
        """Seconds over TOLERATED_S."""
        return max(self.seconds - TOLERATED_S, 0.0)

    @property
    def gpu_mib_beyond(self) -> float | None:
        """GPU memory over TOLERATED_GPU_MIB; None on the CPU."""
        return None if self.max_gpu_mib is None else max(self.max_gpu_mib - TOLERATED_GPU_MIB, 0.0)

    def to_json(self) -> dict[str, object]:
        """Return the values, and what lies beyond FLARE's tolerances, for a JSON file; three decimals."""
        beyond = {"seconds": _rounded(self.seconds_beyond), "gpu_mib": _rounded(self.gpu_mib_beyond)}
        return {**{name: _rounded(value) for name, value in asdict(self).items()}, "beyond_tolerance": beyond}


@dataclass(frozen=True)
class CaseEfficiency:
    """What segmenting one scan cost.

    Attributes:
        case: Its name.
        shape: Voxels of the scan along the axes (x, y, z) of the NIfTI file; None where nobody noted it.
        efficiency: The cost.
    """

    case: str
    shape: tuple[int, int, int] | None
    efficiency: Efficiency


@dataclass(frozen=True)
class Meter:
    """The readings so far; complete when the block is over.

    Attributes:
        take: Takes a reading.
        readings: Since the block began, or since the last lap.
    """

    take: Callable[[], Reading]
    readings: list[Reading] = field(default_factory=list)

    @property
    def result(self) -> Efficiency:
        """What the block cost, inside of it: up to the last reading."""
        return efficiency_of(self.readings)

    def lap(self) -> Efficiency:
        """Return what it cost since the last lap, or since the block began; the next lap begins here."""
        with suppress(RuntimeError):
            self.readings.append(self.take())
        count = len(self.readings)  # readings that are taken beside this belong to the next lap
        found = efficiency_of(self.readings[:count])
        del self.readings[: count - 1]
        return found


@contextmanager
def sample_efficiency(
    device: str = "cpu", *, interval_s: float = INTERVAL_S, read: Callable[[], Reading] | None = None
) -> Iterator[Meter]:
    """Measure what a block costs, with readings at its start, every ``interval_s`` beside it, and at its end.

    What the block returns or raises is not touched. A reading that torch refuses (RuntimeError) is left out, except for
    the first, which is taken before the block.

    Args:
        device: As torch names it: "cpu", "cuda", "cuda:1".
        interval_s: Between two readings, above 0.
        read: Takes a reading; of this process and ``device`` by default.

    Source:
        github.com/JunMa11/FLARE, FLARE22/Evaluation/Efficiency.py and load_json.py (every 0.1 s: used memory of the GPU,
        CPU utilisation of the machine). Departs: area by trapezoids over the time of each reading, where the original
        multiplies the sum of its samples with 0.1 s however long they took; the maximum is the largest reading, as in
        FLARE24's load_json.py, where FLARE22 left out values in less than 2 % of the samples; CPU and memory are this
        process's, without the start of a container.

    Example:
        >>> with sample_efficiency() as meter:
        ...     total = sum(range(1000))
        >>> meter.result.samples, meter.result.max_gpu_mib
        (2, None)
    """
    take = read or partial(reading, _with_index(device))
    meter, over = Meter(take, [take()]), threading.Event()

    def sample() -> None:
        """Read until the block is over."""
        while not over.wait(interval_s):
            with suppress(RuntimeError):
                meter.readings.append(take())

    thread = threading.Thread(target=sample, name="efficiency", daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        over.set()
        thread.join()
        with suppress(RuntimeError):  # else it would hide why the block failed
            meter.readings.append(take())


def reading(device: str) -> Reading:
    """Take a reading of this process and of a device."""
    memory_mib = psutil.Process().memory_info().rss / MIB
    return Reading(time.perf_counter(), memory_mib, time.process_time(), used_gpu_mib(device))


def used_gpu_mib(device: str) -> float | None:
    """Return the used memory of a GPU, all processes and torch's cache together; None if the device is none."""
    if not device.startswith("cuda"):
        return None
    import torch  # here, so that reading reports needs none

    free, total = torch.cuda.mem_get_info(torch.device(device))
    return (total - free) / MIB


def _with_index(device: str) -> str:
    """Name the GPU that "cuda" means here, since each thread has a current one of its own."""
    if device != "cuda":
        return device
    import torch

    return f"cuda:{torch.cuda.current_device()}"


def efficiency_of(readings: Sequence[Reading]) -> Efficiency:
    """Return what readings, at least one, amount to.

    Example:
        >>> efficiency_of([Reading(0.0, 100.0, 0.0, 2000.0), Reading(2.0, 300.0, 3.0, 4000.0)])
        Efficiency(seconds=2.0, samples=2, peak_memory_mib=300.0, cpu_area_percent_s=300.0, max_gpu_mib=4000.0, \
gpu_memory_area_mib_s=6000.0)
    """
    first, last = readings[0], readings[-1]
    gpu = [(one.clock_s, one.gpu_mib) for one in readings if one.gpu_mib is not None]
    return Efficiency(
        seconds=last.clock_s - first.clock_s,
        samples=len(readings),
        peak_memory_mib=max(one.memory_mib for one in readings),
        cpu_area_percent_s=100 * (last.cpu_s - first.cpu_s),
        max_gpu_mib=max((mib for _, mib in gpu), default=None),
        gpu_memory_area_mib_s=sum((b - a) * (one + two) / 2 for (a, one), (b, two) in pairwise(gpu)) if gpu else None,
    )


def read_case_efficiency(sidecar: Path, *, case: str) -> CaseEfficiency | None:
    """Return what a prediction cost by its NAME.json; None where there is none, or it does not say."""
    try:
        run = load_json(sidecar)["run"]
        return from_json(CaseEfficiency, {"shape": None, **run, "case": case}, what=sidecar.name, remedy="")
    except (OSError, ValueError, KeyError, TypeError, FileError):
        return None  # files of others may lie there, and older ones of ours say nothing


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
