"""viscera synth: a synthetic data set."""

import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from annotated_types import Ge
from tyro.conf import Positional, arg

from viscera.cli.clusters import Where, cluster_at, workers_at
from viscera.cli.console import progress, say
from viscera.cli.templates import read_donors, read_templates
from viscera.errors import SettingError, did_you_mean


@dataclass(frozen=True)
class Options:
    """Write a data set of synthetic patients, with complete truth or with the organs that you name annotated.

    For trying things out, for tests, for studies in which the truth must be known, and to train networks for real scans on
    (--variety rich). No patient's data goes into it, unless you give label maps as templates or donors.
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
    variety: Literal["plain", "rich"] = "plain"
    """How much patients and scans differ: average abdomens in one kind of scan, or everything that networks for real
    scans should have seen (scan ranges, contrast, lesions, body shapes, kernels, noise ...). --scan then counts only
    together with --without scan_range."""
    without: tuple[str, ...] = ()
    """Ingredients of a rich variety to leave out, such as kidneys or noise."""
    template: tuple[Path, ...] = ()
    """Label maps to make the patients from, in turn, instead of procedural anatomy: deformed, their organs moved, resized and
    painted anew. A JSON beside each names its values (`viscera predict` writes one)."""
    template_image: tuple[Path, ...] = ()
    """The scan of each template, for the body's outline and what the labels lack; its HU are not used."""
    ignore_labels: tuple[str, ...] = ()
    """Names in the templates to leave out, for instance those that viscera does not know."""
    donor: tuple[Path, ...] = ()
    """Label maps whose organs (liver, kidneys, spleen, pancreas ...) take the place of the patients' own in some of them,
    fitted to these. They need hold no more than organs; a JSON beside each names its values."""
    mixing: bool = True
    """Let the templates, where there are several, give organs to each other's patients."""
    jobs: int = 0
    """Processes; 0: one per core."""
    cluster: Where = None


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera synth")
    from viscera.datasets.layouts import LAYOUTS
    from viscera.datasets.synthetic import Cohort, check_cohort, write_cohort
    from viscera.synthesis.variety import VARIETIES, without

    if options.layout not in LAYOUTS:
        hint = did_you_mean(options.layout, LAYOUTS)
        raise SettingError(f"there is no layout '{options.layout}'", f"{hint} Choose one of {', '.join(LAYOUTS)}.")
    if options.cases < 1 or min(options.shape) < 16:
        raise SettingError("--cases must be at least 1, and --shape at least 16 in each direction.")
    if min(options.jobs, options.seed) < 0:
        raise SettingError(f"--jobs and --seed must not be negative, got {options.jobs} and {options.seed}.")
    if options.without and options.variety == "plain":
        raise SettingError(
            "--without takes ingredients out of a rich variety, but --variety is plain", "Add --variety rich."
        )
    cohort = Cohort(
        options.layout,
        options.annotate,
        options.cases,
        options.seed,
        options.shape,
        options.scan,
        options.tumours,
        without(VARIETIES[options.variety], options.without),
    )
    check_cohort(options.out, cohort)
    address = cluster_at(options.cluster, jobs=options.jobs)
    if address and (options.template or options.donor):
        raise SettingError("--template and --donor are read on this machine only", "Leave --cluster out, or them.")
    templates = read_templates(options.template, options.template_image, ignore=options.ignore_labels)
    donors = read_donors(options.donor, templates if options.mixing else ())
    cohort = replace(cohort, templates=templates, donors=donors)
    with workers_at(address) if address else nullcontext() as cluster, progress() as bar:
        task = bar.add_task("patients", total=options.cases)
        jobs = options.jobs or os.cpu_count() or 1
        if cluster:
            from viscera.datasets.synthetic_on_cluster import make_over

            jobs = partial(make_over, cluster)
        write_cohort(options.out, cohort, jobs=jobs, done=lambda: bar.advance(task))
    say(f"next: viscera prepare STORE --data {options.layout}={options.out}")
    return 0
