"""Many synthetic patients as a data set on disk, in any layout, with any organs annotated."""

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from pebble import ProcessExpired

from viscera.datasets.pairs import PAIRS
from viscera.datasets.sources import read_json
from viscera.datasets.writing import check_layout, remove_case, write_case
from viscera.errors import DataSetError, LabelError, RunError, SettingError, did_you_mean
from viscera.io.atomic import HIDDEN, write_json, writing
from viscera.io.locks import LOCK, locked
from viscera.io.processes import process_pool, result_of
from viscera.labels import FLARE13, PART_OF, SIDES, TUMOUR, ZHANG12, organ_name
from viscera.synthesis.canvas import ORGANS
from viscera.synthesis.grafting import Donor
from viscera.synthesis.patient import Patient, Scan, check_options, synthesize
from viscera.synthesis.template.patient import synthesize_from
from viscera.synthesis.template.template import Template
from viscera.synthesis.variety import INGREDIENTS, PLAIN, Variety

UNFINISHED = ".unfinished.json"
"""What an interrupted data set holds so far."""

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
        donors: Whose organs take the place of the patients' own in some of them; see synthesis/grafting.py.
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
    donors: tuple[Donor, ...] = ()


MakeAll = Callable[[Path, Cohort, Sequence[int]], Generator[Patient]]
"""Yields the patients of these numbers, in their order; the folder is the data set's."""


def write_cohort(folder: Path, cohort: Cohort, *, jobs: int | MakeAll, done: Callable[[], None] = lambda: None) -> None:
    """Write a synthetic data set.

    An interrupted one goes on where it was: until the last patient is written, a hidden file says how many are.

    Args:
        folder: New, empty, or left by an interruption.
        cohort: What it holds.
        jobs: Processes; or who makes the patients elsewhere, as ``make_over`` (synthetic_on_cluster.py).
        done: Called after each patient.

    Raises:
        VisceraError: As ``check_cohort`` does.
        FileError: The disk is full, or the folder cannot be written to.
        RunError: A process died, or none can be started.
    """
    check_cohort(folder, cohort)
    annotate = _annotated(cohort)
    if folder.is_dir():
        _written(folder, cohort)  # refuses a foreign folder before a lock is put there
    with locked(folder, what="is being written", error=DataSetError), writing(folder):
        make = partial(_make_here, jobs) if isinstance(jobs, int) else jobs
        _write_patients(folder, cohort, annotate, make=make, done=done)
    with suppress(OSError):
        (folder / LOCK).unlink()
    with writing(folder):
        (folder / UNFINISHED).unlink(missing_ok=True)  # last: it tells that the folder is ours


def _write_patients(
    folder: Path, cohort: Cohort, annotate: Sequence[str], *, make: MakeAll, done: Callable[[], None]
) -> None:
    """Write the patients that are not written yet."""
    first = _written(folder, cohort) + 1
    for _ in range(1, first):
        done()
    if first <= cohort.cases:  # the first one, too, may be there by half
        remove_case(cohort.layout, folder, number=first)
    write_json(folder / UNFINISHED, _facts(cohort) | {"written": first - 1})
    numbers = range(first, cohort.cases + 1)
    with closing(make(folder, cohort, numbers)) as patients:
        for number, patient in zip(numbers, patients, strict=True):
            write_case(
                cohort.layout,
                folder,
                number=number,
                ct=patient.ct,
                labels=patient.labels,
                organs=patient.organs,
                annotate=tuple(name for name in annotate if name in patient.organs.values() or name not in ORGANS),
            )
            write_json(folder / UNFINISHED, _facts(cohort) | {"written": number})
            done()


def _make_here(jobs: int, folder: Path, cohort: Cohort, numbers: Sequence[int]) -> Generator[Patient]:
    """Make patients in processes of this machine."""
    with process_pool(jobs) as pool:
        tasks = deque(pool.schedule(make_patient, args=(cohort, number)) for number in numbers)
        for number in numbers:
            try:
                yield result_of(tasks.popleft(), pool)
            except ProcessExpired as error:
                raise RunError(
                    f"the process that made case {number} died, probably for lack of memory",
                    "The same command goes on; pass fewer --jobs to need less memory.",
                ) from error


def _written(folder: Path, cohort: Cohort) -> int:
    """Return how many patients of a cohort an interrupted call has written.

    Raises:
        DataSetError: The folder holds something else.
    """
    _require_own(folder)
    file = folder / UNFINISHED
    if not file.is_file():
        return 0
    found = read_json(file)
    written = found.pop("written", None)
    if not isinstance(written, int) or found != _facts(cohort):
        raise DataSetError(
            f"{folder} holds an unfinished data set of other settings",
            "Say the settings again with which it was begun, or give a new folder.",
            file=folder,
        )
    return written


def _require_own(folder: Path) -> None:
    """Raise DataSetError where a folder holds something, and no unfinished data set of ours."""
    if not folder.is_dir() or (folder / UNFINISHED).is_file():
        return
    names = {HIDDEN.sub("", one.name) for one in folder.iterdir()}  # one killed at its first write left that half
    if names - {LOCK, UNFINISHED}:
        raise DataSetError(f"{folder} is not empty", "Give a new folder for the synthetic data set.", file=folder)


def _facts(cohort: Cohort) -> dict[str, object]:
    """Return for JSON all that decides what is written, but for how many."""
    facts: dict[str, object] = {
        name: getattr(cohort, name) for name in ("layout", "annotate", "seed", "shape", "scan", "tumours")
    }
    varied = [name for name in INGREDIENTS if getattr(cohort.variety, name)]
    templates = [template.fingerprint for template in cohort.templates]
    facts |= {"annotate": list(cohort.annotate), "shape": list(cohort.shape), "variety": varied}
    facts |= {"templates": templates, "viscera": version("viscera")}
    if cohort.donors:
        facts["donors"] = [donor.fingerprint for donor in cohort.donors]
    return facts


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
    _require_own(folder)
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
        return synthesize_from(
            varied, generator, shape=cohort.shape, scan=cohort.scan, tumours=tumours, donors=cohort.donors
        )
    return synthesize(
        generator,
        shape=cohort.shape,
        scan=cohort.scan,
        tumours=tumours,
        variety=cohort.variety,
        donors=cohort.donors,
    )


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
