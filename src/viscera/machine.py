"""Where computation runs (device, precision, memory that is kept) and what it costs (seconds, peak memory)."""

import ctypes
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from viscera.config import Accelerator, Precision
from viscera.errors import SettingError

MALLOPT = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 256 * 2**20)}
"""glibc's parameters and what they are set to: take memory from one heap, keep it, grow it in large steps."""


def device_type(accelerator: Accelerator) -> Literal["cpu", "cuda"]:
    """Resolve "auto": a GPU where torch can use one.

    Raises:
        SettingError: A GPU is asked for and there is none.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise SettingError("torch finds no CUDA GPU. Choose cpu or auto, or install torch for CUDA.")
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return accelerator


def precision_of(setting: Literal["auto"] | Precision, device: str) -> Precision:
    """Resolve "auto": fp16 mixed on a GPU (zhang2d's), bf16 mixed on a CPU with such instructions, otherwise fp32."""
    if setting != "auto":
        return setting
    if device == "cuda":
        return "16-mixed"
    return "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"


def autocast_type(setting: Literal["auto"] | Precision, device: str) -> torch.dtype | None:
    """Give the type of mixed precision, or None for fp32."""
    return {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16, "32-true": None}[precision_of(setting, device)]


def keep_pages() -> None:
    """Tell glibc to keep freed memory, instead of giving large blocks back and faulting their pages in again.

    Measured (benchmarks/results/training_cpu.json, one round): 1.2 times the slices per second at 256x256, nothing at 128x128.
    Elsewhere than on Linux with glibc nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in MALLOPT.values():
            mallopt(parameter, value)


def allow_open_files() -> None:
    """Let this process open as many files as the system allows it: every memory-mapped array keeps one open.

    Many systems begin with 1024, which 500 cases exceed.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def peak_memory_mib() -> float:
    """Give the most memory that this process has held so far (resident set), in MiB."""
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
