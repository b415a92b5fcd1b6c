"""What every benchmark's JSON says about itself (machine, commit, date, versions), rivals in turn, rows of several machines."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DATA = ROOT.parent / "shared" / "data"
"""The real scans, which are not in the repository."""
INSTRUCTIONS = ("AMX", "AVX-512", "AVX2")
"""Abilities of a processor, the widest first."""


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
    from viscera.networks.processor import this_processor  # peers import this file where viscera is not installed

    return this_processor().name


def instructions() -> str:
    """Return the widest vector instructions that the processor has; "" where they are not known."""
    from viscera.networks.processor import this_processor

    abilities = this_processor().abilities
    return next((name for name in INSTRUCTIONS if name in abilities), "")


def commit(checkout: Path = ROOT) -> str:
    """Return the short hash of a checkout's commit, with a + where files differ from it; "" outside of git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True, check=False)
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


def same_processor(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Return whether rows of several machines are of one kind of processor; older rows have no key, but a name."""
    if one["key"] and other["key"]:
        return (one["key"], one["cores"]) == (other["key"], other["cores"])
    return all(one[fact] == other[fact] for fact in ("machine", "instructions", "cores"))


def replaced(old: Sequence[Mapping], new: Sequence[Mapping], same: Sequence[str]) -> list[Mapping]:
    """Return the rows of several machines, where new rows take the place of those that they measured anew.

    Args:
        old: All rows so far.
        new: Of this machine. They stand where the first that they replace stood, or at the end.
        same: The fields in which a row must agree, besides the kind of processor, to be replaced.
    """

    def is_old(row: Mapping) -> bool:
        return any(same_processor(row, one) and all(row[field] == one[field] for field in same) for one in new)

    stale = [is_old(row) for row in old]
    place = stale.index(True) if True in stale else len(old)
    kept = [row for row, gone in zip(old, stale, strict=True) if not gone]
    return [*kept[:place], *new, *kept[place:]]  # none was stale before this place


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


def save(name: str, content: Mapping[str, object] | Sequence[Mapping]) -> Path:
    """Write benchmarks/results/NAME.json."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path
