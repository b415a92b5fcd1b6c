"""Preparing whole data sets: many processes, one bad scan stops no other, a killed run goes on where it was.

What stands in the store already is told in origins.py. Every process prepares one case at a time with one thread and
writes it whole or not at all. What cannot be used becomes a Problem. A process that dies (out of memory) takes only its
case with it; that case is tried once more, alone.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import cv2
import psutil

from viscera.config import Preparation
from viscera.datasets.patients import note_of_stems
from viscera.datasets.sources import Problem, Source
from viscera.errors import DataSetError, StoreError, VisceraError
from viscera.io.atomic import write_json
from viscera.io.cores import usable_cores
from viscera.io.doors import HeaderDataError, ImageFileError, nibabel
from viscera.io.locks import locked
from viscera.io.processes import share_out
from viscera.labels import LabelSpace
from viscera.preparation.case import case_name, prepare_case, without_folders
from viscera.preparation.origins import (
    Standing,
    compare_all,
    notes_of_changes,
    refresh_stamps,
    require_one_folder_each,
    require_same_data_sets,
    write_data_sets,
)
from viscera.preparation.own_splits import OwnSplits, find_own_splits
from viscera.preparation.splits import Fractions, update_splits
from viscera.preparation.store import Store, create_store, open_store, remove_case, remove_leftovers, write_case

BYTES_PER_VOXEL = 10
"""The most that a scan takes while it is prepared, so that 512x512x300 voxels count as 1000 MiB with the process. Peaks
measured there: 363 MiB from int16 with uint8 labels, 792 MiB from a scaled scan with float64 labels."""
BYTES_PER_PROCESS = 250 * 2**20
"""Of the interpreter and the libraries (72 MiB measured) and of the prepared arrays."""
MEMORY_SHARE = 0.8
"""Of the free memory that all processes together may take."""

OnDone = Callable[[str, str], None]
PrepareAll = Callable[[Store, Sequence[Source]], Generator[tuple[Source, Problem | None]]]


@dataclass(frozen=True)
class Plan:
    """How to prepare; nothing here changes the prepared voxels."""

    jobs: int = 0
    """Processes; 0: one per core, fewer where memory is short."""
    seed: int = 0
    """Of the splits."""
    fractions: Fractions = field(default_factory=Fractions)
    """Of the splits."""
    own: OwnSplits | None = field(default_factory=OwnSplits)
    """Splits that are brought along; what they say nothing of is drawn. None: those in data sets' folders are left aside, too."""
    prepare_all: "PrepareAll | None" = None
    """Who prepares instead of processes of this machine: ``prepare_over`` (on_cluster.py)."""


@dataclass(frozen=True)
class PrepareResult:
    """What became of the sources.

    Attributes:
        prepared: Cases written now.
        skipped: Cases that stood there already, from the same files.
        problems: What could not be used; also in STORE/problems.json.
        notes: What the user should know, each once per data set.
    """

    prepared: tuple[str, ...]
    skipped: tuple[str, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def prepare_store(
    path: Path,
    sources: Sequence[Source],
    *,
    problems: Sequence[Problem] = (),
    space: LabelSpace,
    preparation: Preparation,
    plan: Plan = Plan(),
    on_done: OnDone = lambda name, how: None,
) -> PrepareResult:
    """Prepare the cases of data sets into a store, new or begun; divide them; write down the problems.

    Cases that stand there, made from the same files and annotated alike, are kept. One of which anything changed is
    prepared anew, with a note; if that fails, the old one is removed.

    Args:
        path: The store.
        sources: The cases.
        problems: What finding the sources brought up; joined with those found here.
        space: Of the labels.
        preparation: What to do to every scan.
        plan: Processes and splits.
        on_done: Called for every source with the case's name and "prepared", "skipped" or the problem.

    Raises:
        StoreError: The folder holds something else or was made with other settings; another process prepares it.
        DataSetError: Two sources would become the same case, two data sets go by one name, or the splits that were
            brought along do not fit.
    """
    require_one_folder_each(sources)
    _require_unique(sources)
    store = create_store(path, space=space, preparation=preparation)
    with locked(path, what="is being prepared", error=StoreError):
        remove_leftovers(path)
        standings = compare_all(store, sources)
        require_same_data_sets(store, standings)
        given, said = find_own_splits(store, sources, problems, own=plan.own) if plan.own is not None else ({}, [])
        refresh_stamps(store, standings)
        todo = [standing.source for standing in standings if not standing.is_current]
        names = {case_name(source) for source in todo}
        skipped = [name for name in map(case_name, sources) if name not in names]
        for name in skipped:
            on_done(name, "skipped")
        found = {}
        prepare = plan.prepare_all or partial(prepare_all, jobs=plan.jobs or fitting_jobs(todo))
        with closing(prepare(store, todo)) as outcomes:
            for source, problem in outcomes:
                if problem is not None:
                    found[case_name(source)] = problem
                    remove_case(path, case_name(source))
                on_done(case_name(source), "prepared" if problem is None else problem.what)
        every = (*problems, *(found[name] for name in map(case_name, sources) if name in found))
        write_json(path / "problems.json", [asdict(problem) for problem in every])
        said += update_splits(open_store(path), fractions=plan.fractions, seed=plan.seed, given=given)
        write_data_sets(store, sources)
    prepared = sorted(names - found.keys())
    notes = (*notes_of(store, [*prepared, *skipped]), *said, *_notes_of_sources(standings))
    return PrepareResult(tuple(prepared), tuple(skipped), every, notes)


def _notes_of_sources(standings: Sequence[Standing]) -> list[str]:
    """Return what should be known of data sets beside their cases' own notes."""
    notes = notes_of_changes(standings)
    for dataset in sorted({standing.source.dataset for standing in standings}):
        notes += note_of_stems(dataset, [one.source for one in standings if one.source.dataset == dataset])
    return notes


def notes_of(store: Store, names: Sequence[str]) -> list[str]:
    """Return the notes of cases, each once per data set, with the number of cases that it is about."""
    counts = Counter((facts.dataset, note) for facts in map(store.facts, names) for note in facts.notes)
    return [f"{dataset}: {note} ({count} case{'s' * (count > 1)})" for (dataset, note), count in sorted(counts.items())]


def fitting_jobs(sources: Sequence[Source]) -> int:
    """Return how many processes cores and free memory allow, even if the largest scans come together."""
    left = MEMORY_SHARE * psutil.virtual_memory().available
    jobs = 0
    for need in sorted(map(estimate_bytes, sources), reverse=True)[: usable_cores()]:
        left -= need
        if left < 0:
            break
        jobs += 1
    return max(1, jobs)


def estimate_bytes(source: Source) -> int:
    """Return the memory that preparing a source takes, by its header; a process's alone if that cannot be read."""
    voxels = 0
    with suppress(
        ImageFileError,
        HeaderDataError,
        OSError,
        EOFError,
        ValueError,
        zlib.error,
    ):
        if not isinstance(source.image, Path):
            voxels = math.prod(source.image.shape)
        elif source.image.is_file():  # a pipe would wait for ever
            dim = nibabel.load(source.image).header["dim"]  # type: ignore[attr-defined]
            voxels = math.prod(max(1, int(size)) for size in dim[1:4])
    return BYTES_PER_PROCESS + BYTES_PER_VOXEL * voxels


def prepare_all(store: Store, sources: Sequence[Source], *, jobs: int) -> Generator[tuple[Source, Problem | None]]:
    """Prepare sources in processes; yield each as it is done, with what was wrong.

    Leaving the iteration early stops the processes.
    """
    work, died = partial(attempt, store), []
    for source, problem, died_now in share_out(work, sources, jobs=jobs):
        if died_now:
            died.append(source)
        else:
            yield source, problem
    for source, problem, died_now in share_out(work, died, jobs=1):
        yield source, _killed(source) if died_now else problem


def attempt(store: Store, source: Source) -> Problem | None:
    """Prepare a source with one thread; return what was wrong."""
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(1) as pool:
        return problem_of(pool.submit(_prepare_one, store, source).exception(), source)


def _prepare_one(store: Store, source: Source) -> None:
    case, facts = prepare_case(source, space=store.space, preparation=store.preparation)
    write_case(store.path, case, facts)


def problem_of(error: BaseException | None, source: Source) -> Problem | None:
    """Say what went wrong with a source. Any exception will do: one odd file must not stop a thousand good ones."""
    match error:
        case None:
            return None
        case VisceraError():
            file = without_folders(str(error.file or source.image), source)
            remedy = error.remedy or "Correct the file, or take it out of the data set."
            return Problem(source.name, file, without_folders(error.what, source), without_folders(remedy, source))
        case MemoryError():
            what, remedy = "the memory did not suffice", "Prepare with fewer --jobs."
        case OSError():
            what, remedy = (
                f"{error.strerror or error}",
                "Check disk and permissions, then prepare again.",
            )
        case _:
            what = f"{type(error).__name__}: {error}"
            remedy = "This is a fault of viscera: please report it with this line."
    return Problem(source.name, without_folders(str(source.image), source), without_folders(what, source), remedy)


def _killed(source: Source) -> Problem:
    return Problem(
        source.name,
        without_folders(str(source.image), source),
        "the process that prepared it was killed twice, probably for lack of memory",
        "Prepare it on a machine with more memory, or crop the scan.",
    )


def _require_unique(sources: Sequence[Source]) -> None:
    first: dict[str, Source] = {}
    for source in sources:
        other = first.setdefault(case_name(source), source)
        if other is source:
            continue
        remedy = f"Rename one of the folders '{source.dataset}', or give it a name: LAYOUT:NAME=DIR."
        if other.image == source.image:
            remedy = "Give each data set once."
        raise DataSetError(f"two cases would both be '{case_name(source)}' in the store", remedy)
