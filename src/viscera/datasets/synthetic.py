"""Many synthetic patients as a data set on disk, in any layout, with any organs annotated."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from viscera.datasets.pairs import PAIRS
from viscera.datasets.writing import check_layout, write_case
from viscera.errors import DataSetError, FileError, LabelError, SettingError, did_you_mean
from viscera.io.processes import process_pool
from viscera.labels import FLARE13, PART_OF, SIDES, TUMOUR, ZHANG12, organ_name
from viscera.synthesis.canvas import ORGANS
from viscera.synthesis.patient import Patient, Scan, check_options, synthesize
from viscera.synthesis.template.patient import synthesize_from
from viscera.synthesis.template.template import Template
from viscera.synthesis.variety import PLAIN, Variety

MOST_VOXELS = 2**29
"""Of a synthetic scan: 1 GiB of int16, four times 512x512x512. While it is painted it takes many times that."""


@dataclass(frozen=True)
class Cohort:
    """What a synthetic data set holds.

    Attributes:
        layout: How it lies on disk, one of datasets.LAYOUTS.
        annotate: Organs that are labelled; empty for all that the layout can hold.
        cases: Number of patients.
        seed: Patient n depends on (seed, n) only, so a larger cohort begins with a smaller one's patients.
        shape: Slices, rows and columns.
        scan: Which part of the body.
        tumours: Whether every patient has some. Where they are not annotated, the organs' labels go on beneath them.
        variety: How much patients and scans differ.
        templates: Label maps that the patients are made from, in turn; procedural anatomy where there is none.
    """

    layout: str
    annotate: tuple[str, ...] = ()
    cases: int = 10
    seed: int = 0
    shape: tuple[int, int, int] = (96, 256, 256)
    scan: Scan = "abdomen"
    tumours: bool = False
    variety: Variety = PLAIN
    templates: tuple[Template, ...] = ()


def write_cohort(folder: Path, cohort: Cohort, *, jobs: int, done: Callable[[], None] = lambda: None) -> None:
    """Write a synthetic data set.

    Args:
        folder: New or empty.
        cohort: What it holds.
        jobs: Processes.
        done: Called after each patient.

    Raises:
        VisceraError: As ``check_cohort`` does.
    """
    check_cohort(folder, cohort)
    annotate = _annotated(cohort)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make {folder}: {error.strerror}", "Choose a folder that you may write to.") from error
    with process_pool(jobs) as pool:
        tasks = deque(pool.schedule(make_patient, args=(cohort, number)) for number in range(1, cohort.cases + 1))
        for number in range(1, cohort.cases + 1):
            patient = tasks.popleft().result()
            write_case(
                cohort.layout,
                folder,
                number=number,
                ct=patient.ct,
                labels=patient.labels,
                organs=patient.organs,
                annotate=tuple(name for name in annotate if name in patient.organs.values() or name not in ORGANS),
            )
            done()


def check_cohort(folder: Path, cohort: Cohort) -> None:
    """Raise an error unless a cohort can be made and written; no patient is made for that.

    Raises:
        DataSetError: The folder is not empty, or is a file.
        LabelError: The layout, or the patients, cannot hold an organ.
        SettingError: There is no such layout, or it holds no labels; fewer than one patient; a shape that cannot be; an organ
            beside its sides; tumours are to be annotated, but the patients have none.
    """
    if folder.exists() and not folder.is_dir():
        raise DataSetError(f"{folder} is a file", "Give a new folder for the synthetic data set.", file=folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise DataSetError(f"{folder} is not empty", "Give a new folder for the synthetic data set.", file=folder)
    if cohort.cases < 1 or min(cohort.shape) < 16 or math.prod(cohort.shape) > MOST_VOXELS:
        raise SettingError(
            f"there must be at least 1 case, and at least 16 voxels in each direction, {MOST_VOXELS} in all; "
            f"got {cohort.cases} and {'x'.join(map(str, cohort.shape))}",
            "Give other numbers.",
        )
    check_options(cohort.shape, None, cohort.scan, orientation="axial", tumours="none")
    annotate = _annotated(cohort)
    possible = (*ORGANS, *SIDES, TUMOUR)
    for organ in annotate:
        if organ not in possible:
            hint = "Leave it out: all organs are labelled then." if organ == "all" else did_you_mean(organ, possible)
            raise LabelError(
                f"synthetic patients have no '{organ}' that could be annotated",
                f"{hint} They have {', '.join(possible)}.",
            )
    if TUMOUR in annotate and not cohort.tumours:
        raise SettingError("tumours are to be annotated, but the patients have none", "Ask for them (--tumours).")
    check_layout(cohort.layout, folder, annotate=annotate)


def make_patient(cohort: Cohort, number: int) -> Patient:
    """Return patient ``number`` (from 1) of a cohort."""
    cv2.setNumThreads(1)
    tumours = "none" if not cohort.tumours else "labelled" if TUMOUR in _annotated(cohort) else "unlabelled"
    generator = np.random.default_rng([cohort.seed, number])
    if cohort.templates:
        template = cohort.templates[(number - 1) % len(cohort.templates)]
        varied = replace(template, reshaping=replace(template.reshaping, variety=cohort.variety))
        return synthesize_from(varied, generator, shape=cohort.shape, scan=cohort.scan, tumours=tumours)
    return synthesize(generator, shape=cohort.shape, scan=cohort.scan, tumours=tumours, variety=cohort.variety)


def _annotated(cohort: Cohort) -> tuple[str, ...]:
    """Return the names of what a cohort annotates."""
    chosen = cohort.annotate or default_organs(cohort.layout, tumours=cohort.tumours)
    return tuple(organ_name(organ) for organ in chosen)


def default_organs(layout: str, *, tumours: bool = False) -> tuple[str, ...]:
    """Return the organs that a synthetic data set annotates unless told otherwise: all that the layout can hold.

    Layouts that can hold any organ get those of zhang2d and FLARE, left and right apart.

    Args:
        layout: How the data set lies on disk.
        tumours: Whether the patients have tumours.
    """
    organs = [organ for organ in ZHANG12.organs + FLARE13.organs if organ not in SIDES]
    organs = dict.fromkeys([*organs, *(side for organ in ZHANG12.organs for side in SIDES.get(organ, ()))])
    if tumours:
        organs[TUMOUR] = None
    if layout not in PAIRS:
        return tuple(organs)
    held = set(PAIRS[layout].organs.values())
    return tuple(organ for organ in organs if organ in held or PART_OF.get(organ) in held)
