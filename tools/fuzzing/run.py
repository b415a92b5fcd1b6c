"""Damage files, read them, and count what came of it."""

import resource
import shutil
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzzing.damage import damage
from fuzzing.seeds import make_seeds
from fuzzing.targets import TARGETS, AbsurdError, Target
from viscera.errors import VisceraError
from viscera.io.atomic import write_json

AMOUNTS = {"nifti": 20_000, "descriptor": 6_000, "metadata": 3_000, "dicom": 3_000}
MOST_MIB = 512
"""That one damaged file may add to the memory that the process ever had."""


class TooSlowError(BaseException):
    """An input takes longer than it may; not an Exception, so that no reader can take it for one of its own."""


@dataclass
class Findings:
    """What came of all inputs.

    Attributes:
        outcomes: {(group, outcome): count}; read, refused, fault, slow, memory or absurd.
        examples: {signature: how often}, of what must not be.
        slowest_s: Of all that ended.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    @property
    def bad(self) -> int:
        """How many inputs came out as none may."""
        return sum(count for (_, outcome), count in self.outcomes.items() if outcome not in ("read", "refused"))

    def table(self) -> str:
        """Return all counts, and one line for each way of going wrong."""
        rows = [f"{group:<12} {outcome:<8} {count:>6}" for (group, outcome), count in sorted(self.outcomes.items())]
        rows += [f"{count:>6} x {what}" for what, count in self.examples.most_common(60)]
        return "\n".join([*rows, f"slowest: {self.slowest_s:.2f} s"]) + "\n"


def fuzz(folder: Path, amounts: Mapping[str, int], *, seed: int, kept: Path | None = None) -> Findings:
    """Damage and read so many files of each group.

    Args:
        folder: Empty; is worked in.
        amounts: {group: inputs}.
        seed: Of what is done to them.
        kept: Folder that gets the first input of each way of going wrong; None: none is kept.
    """
    make_seeds(folder)
    shutil.copy(folder / "run/recipe.json", folder / "good_recipe.json")
    random, findings = Random(seed), Findings()
    for group, amount in amounts.items():
        targets = [target for target in TARGETS if target.group == group]
        seeds = {target.file: (folder / target.file).read_bytes() for target in targets}
        for target in targets:  # else what is refused would say nothing
            target.read(folder)
        for target in random.choices(targets, [target.weight for target in targets], k=amount):
            file = folder / target.file
            content = damage(seeds[target.file], file.name, random)
            outcome, signature, seconds = try_input(target, folder, content)
            file.write_bytes(seeds[target.file])
            findings.outcomes[group, outcome] += 1
            findings.slowest_s = max(findings.slowest_s, seconds)
            if signature:
                if kept and not findings.examples[signature]:
                    kept.mkdir(parents=True, exist_ok=True)
                    (kept / f"{len(findings.examples):03d}__{target.name.replace(' ', '_')}__{file.name}").write_bytes(
                        content
                    )
                findings.examples[signature] += 1
    return findings


def try_input(target: Target, folder: Path, content: bytes) -> tuple[str, str, float]:
    """Read one damaged file.

    Returns:
        The outcome, its signature where it is one that must not be, and the seconds.
    """
    (folder / target.file).write_bytes(content)
    before_mib, began, signature = _most_mib(), time.perf_counter(), ""
    try:
        with _limit(target.limit_s), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(folder)
        outcome = "read"
    except VisceraError:
        outcome = "refused"
    except AbsurdError:
        outcome, signature = "absurd", f"{target.name}: a geometry that no body has"
    except TooSlowError as error:
        outcome, signature = "slow", f"{target.name}: slow at {_where(error)}"
    except Exception as error:
        outcome, signature = "fault", f"{target.name}: {type(error).__name__} at {_where(error)}: {str(error)[:80]!r}"
    if outcome != "slow" and _most_mib() - before_mib > MOST_MIB:
        outcome, signature = "memory", f"{target.name}: {_most_mib() - before_mib:.0f} MiB"
    return outcome, signature, time.perf_counter() - began


def write_results(findings: Findings, file: Path, *, seed: int) -> None:
    """Write the counts as JSON, as benchmarks do."""
    groups = sorted({group for group, _ in findings.outcomes})
    counts = {
        group: {outcome: count for (one, outcome), count in sorted(findings.outcomes.items()) if one == group}
        for group in groups
    }
    from benchmarks.machine import facts as of_machine

    facts = of_machine("viscera", "nibabel", "isal") | {
        "seed": seed,
        "limit_s": 2.0,
        "limit_mib": MOST_MIB,
    }
    write_json(
        file, facts | {"inputs": counts, "slowest_s": round(findings.slowest_s, 2), "findings": dict(findings.examples)}
    )


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise TooSlowError in what takes longer."""

    def end(number: int, frame: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _most_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _where(error: BaseException) -> str:
    """Name the innermost line of viscera's that an exception came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/viscera/" in frame.filename]
    if not frames:
        return "?"
    return f"{frames[-1].filename.rpartition('/viscera/')[2]}:{frames[-1].lineno}"
