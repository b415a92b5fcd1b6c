"""viscera synth: a synthetic data set."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from annotated_types import Ge
from tyro.conf import Positional, arg

from viscera.cli.console import progress, say
from viscera.errors import SettingError, did_you_mean


@dataclass(frozen=True)
class Options:
    """Write a data set of synthetic patients, with complete truth or with the organs that you name annotated.

    For trying things out, for tests, and for studies in which the truth must be known. No patient's data went into it.
    """

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """A new folder."""
    layout: str = "nnunet"
    """How it lies on disk: see `viscera info layouts`."""
    annotate: tuple[str, ...] = ()
    """Organs to label; all that the layout can hold where none is named."""
    cases: Annotated[int, Ge(1)] = 10
    """Patients."""
    seed: int = 0
    """Another seed gives other patients."""
    shape: tuple[int, int, int] = (96, 256, 256)
    """Slices, rows and columns of a scan."""
    scan: Literal["abdomen", "upper", "pelvis", "random"] = "abdomen"
    """Which part of the body."""
    tumours: bool = False
    """Give every patient one to four tumours. They are labelled where the layout and --annotate have a label for them,
    and belong to the organ that they grow in elsewhere."""
    jobs: int = 0
    """Processes; 0: one per core."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera synth")
    from viscera.datasets import LAYOUTS
    from viscera.synthesis.cohort import Cohort, write_cohort

    if options.layout not in LAYOUTS:
        hint = did_you_mean(options.layout, LAYOUTS)
        raise SettingError(f"there is no layout '{options.layout}'.{hint} Choose one of {', '.join(LAYOUTS)}.")
    if options.cases < 1 or min(options.shape) < 16:
        raise SettingError("--cases must be at least 1, and --shape at least 16 in each direction.")
    if min(options.jobs, options.seed) < 0:
        raise SettingError(f"--jobs and --seed must not be negative, got {options.jobs} and {options.seed}.")
    cohort = Cohort(
        options.layout,
        options.annotate,
        options.cases,
        options.seed,
        options.shape,
        options.scan,
        options.tumours,
    )
    with progress() as bar:
        task = bar.add_task("patients", total=options.cases)
        write_cohort(options.out, cohort, jobs=options.jobs or os.cpu_count() or 1, done=lambda: bar.advance(task))
    say(f"next: viscera prepare STORE --data {options.layout}={options.out}")
    return 0
