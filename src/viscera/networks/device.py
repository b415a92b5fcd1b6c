"""Where computation runs (device, cores, memory that is kept) and what it costs (seconds, peak memory).

Nothing here imports torch, unless a GPU is there to be asked for: segmenting a scan on a CPU needs none.
"""

import ctypes
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import psutil

from viscera.config import Accelerator
from viscera.errors import SettingError
from viscera.io.cores import usable_cores, usable_threads
from viscera.io.extras import is_installed, require_train

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
"""Parameters of glibc's mallopt."""
LARGEST_KEPT = 64 * 2**20
"""Bytes of the blocks that are given back where memory is to be spared."""


def device_type(accelerator: Accelerator) -> Literal["cpu", "cuda"]:
    """Resolve "auto": a GPU where torch can use one.

    Raises:
        SettingError: A GPU is asked for and there is none, or no torch to use it.
    """
    if accelerator == "cpu" or (accelerator == "auto" and not has_driver()):
        return "cpu"
    if accelerator == "auto" and not is_installed("torch"):
        return "cpu"
    require_train("a GPU", "torch")
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if accelerator == "cuda":
        raise SettingError("torch finds no CUDA GPU", "Choose cpu or auto, or install torch for CUDA.")
    return "cpu"


def has_driver() -> bool:
    """Tell whether NVIDIA's driver is installed, without which torch finds no GPU; importing torch to ask takes over a second."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


_chosen = 0
"""Cores that ``use_cores`` was told of; 0: all."""


def cores() -> int:
    """Return how many cores to compute on: those of ``use_cores``, or all that this process may use.

    OMP_NUM_THREADS says otherwise, and so does a program that has loaded torch and set its threads. A container's quota
    counts, and two threads of one core count once: they share the units that multiply.
    """
    if _chosen:
        return _chosen
    if "torch" in sys.modules:
        return sys.modules["torch"].get_num_threads()
    allowed = usable_cores()
    return usable_threads(min(allowed, psutil.cpu_count(logical=False) or allowed))


def use_cores(count: int = 0) -> int:
    """Let OpenCV, torch, and what runs networks compute on so many cores; before models are loaded, which keep to it.

    Args:
        count: 0: as many as ``cores`` says.

    Returns:
        How many that are.

    Raises:
        SettingError: A negative number.
    """
    global _chosen
    if count < 0:
        raise SettingError(f"--jobs must not be negative, got {count}.")
    _chosen = count
    cv2.setNumThreads(cores())
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(cores())
    return cores()


def keep_freed_memory(*, spare: bool = False) -> None:
    """Tell glibc to keep freed memory, instead of giving large blocks back and faulting their pages in again.

    Measured (benchmarks/results/training_cpu.json, one round): 1.2 times the slices per second at 256x256, nothing at 128x128.
    Elsewhere than on Linux with glibc nothing is done.

    Args:
        spare: Give blocks of LARGEST_KEPT back all the same. The large tensors of a 3D network seldom fit into the holes that
            others left: a 128x128x128 window of gao2step takes 1.8 GB and 4.5 s with all pages kept, 1.5 GB and 5.1 s so, 1.4
            GB and 7 s with none kept (one core, medians of 3); on two cores 2.1, 2.6 and 3.4 s.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    large = ((M_MMAP_MAX, 65536), (M_MMAP_THRESHOLD, LARGEST_KEPT)) if spare else ((M_MMAP_MAX, 0),)
    for parameter, value in (*large, (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 256 * 2**20)):
        mallopt(parameter, value)


def release_freed_memory() -> None:
    """Return to the system what ``keep_freed_memory`` keeps, to stay below a limit; 20 ms for a scan's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def allow_open_files() -> None:
    """Let this process open as many files as the system allows it: every memory-mapped array keeps one open.

    Many systems begin with 1024, which 500 cases exceed. Windows has no such limit.
    """
    if sys.platform == "win32":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def peak_memory_mib() -> float:
    """Return the most memory that this process has held so far (resident set), in MiB."""
    with suppress(
        OSError
    ):  # Linux: getrusage would give the peak of the process that started this one, if that is larger
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 2**10
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@dataclass
class Stopwatch:
    """Seconds per named stage, added up.

    Example:
        >>> clock = Stopwatch({})
        >>> with clock.stage("read"):
        ...     pass
        >>> list(clock.seconds)
        ['read']
    """

    seconds: dict[str, float]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
