"""What every benchmark's JSON says about itself (machine, commit, date, versions), and how rivals are timed."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DATA = ROOT.parent / "shared" / "data"
"""The real scans, which are not in the repository."""
INSTRUCTIONS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
"""{flag of the processor: name}, the widest first."""


def facts(*packages: str) -> dict[str, object]:
    """Return the machine, the commit, the date, and the versions of packages."""
    return {
        "machine": machine(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def machine() -> str:
    """Return the processor's name."""
    return _of_processor("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """Return the widest vector instructions that the processor has; "" where they are not known."""
    flags = _of_processor("flags").split()
    return next((name for flag, name in INSTRUCTIONS.items() if flag in flags), "")


def _of_processor(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def commit() -> str:
    """Return the short hash of the checkout's commit, with a + where files differ from it; "" outside of git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "src") else "")


def alternate(
    rivals: Mapping[str, tuple[Callable[[], object], int]], *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time rivals in turn, so that a busy machine slows all of them alike.

    Args:
        rivals: {name: (what to run, in how many rounds)}. Those with fewer rounds sit out the last ones.
        clock: time.process_time for CPU seconds, which a busy machine hardly changes.

    Returns:
        {name: seconds of each round}.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(max(rounds for _, rounds in rivals.values())):
        for name, (run, rounds) in rivals.items():
            if number < rounds:
                start = clock()
                run()
                seconds[name].append(round(clock() - start, 4))
    return seconds


def rows(seconds: Mapping[str, list[float]], *, ours: str = "viscera") -> list[dict[str, object]]:
    """Return each rival's median and how many times as long it takes as ours."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "name": name,
            "median_s": medians[name],
            "times_ours": round(medians[name] / medians[ours], 1),
            "seconds": times,
        }
        for name, times in seconds.items()
    ]


def convolution_gflops() -> float:
    """Return the GFLOP per CPU second of 3x3 convolutions with 64 channels, which suit every processor; with torch's threads."""
    import torch

    from viscera.deployment.flops import Chain, flops

    chain = Chain(64).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    image = torch.rand(4, 1, 128, 128)
    with torch.inference_mode():
        chain(image)
        start = time.process_time()
        chain(image)
    return flops(chain, image.shape) / 1e9 / (time.process_time() - start)


def save(name: str, content: Mapping[str, object]) -> Path:
    """Write benchmarks/results/NAME.json."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path
