"""What a plan stands on, from data sets or from a store: a fingerprint, and some prepared cases to try networks on."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from viscera.config import Preparation, ScannerGrid
from viscera.datasets.sources import Problem, Source
from viscera.errors import DataSetError, StoreError, VisceraError
from viscera.inference.memory import look_at
from viscera.labels import LabelSpace, fit
from viscera.learning.cases import require_apart
from viscera.planning.choices import choose_space
from viscera.planning.fingerprint import (
    Annotation,
    Fingerprint,
    Grid,
    annotations_of,
    median_grid,
    organ_sizes,
)
from viscera.planning.reasons import Reason
from viscera.preparation.case import case_name
from viscera.preparation.own_splits import OwnSplits, read_own_splits
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.splits import Fractions
from viscera.preparation.store import Facts, Split, Store, open_store

SAMPLE, MOST_SAMPLED = 3, 12
"""Cases of each data set that are measured and tried, evenly along their names; at most, of all sets."""

Item = TypeVar("Item")
One = TypeVar("One", Source, Facts)

Tell = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is (0: not known)."""


@dataclass(frozen=True)
class Grounds:
    """What a plan stands on.

    Attributes:
        fingerprint: Of the data.
        space: Of the labels.
        space_reason: Why.
        standing: How the store was prepared; None where there is none yet.
        sample: Makes a store whose training cases are the sampled ones, prepared so.
        notes: What the user should know.
    """

    fingerprint: Fingerprint
    space: LabelSpace
    space_reason: Reason
    standing: Preparation | None
    sample: Callable[[Preparation], Store]
    notes: tuple[str, ...] = ()


def evenly(items: Sequence[Item], many: int) -> list[Item]:
    """Return some items, evenly along their order, the middle one where only one is wanted.

    Example:
        >>> evenly("abcdef", 3)
        ['b', 'd', 'f']
    """
    many = min(many, len(items))
    return [items[(2 * number + 1) * len(items) // (2 * many)] for number in range(many)]


def grounds_of_store(path: Path, tell: Tell) -> Grounds:
    """Return what a prepared store gives.

    Raises:
        StoreError: There is none, it is damaged, or it has no training cases.
    """
    store = open_store(path)
    names = [name for name in store.names() if name in store.splits]
    facts = []
    for number, name in enumerate(names):
        tell("cases looked at", number, len(names))
        facts.append(store.facts(name))
    training = [one for one in facts if store.splits[one.name] == "training"]
    validation = [one for one in facts if store.splits[one.name] == "validation"]
    if not training:
        raise StoreError(
            f"{path} has no training cases", "Prepare a data set with labels first: viscera prepare --help.", file=path
        )
    require_apart(store)
    chosen = _sampled(training)
    largest = max(training, key=lambda one: (one.geometry.size[0] * one.geometry.size[1], one.name))
    names = sorted({one.name for one in chosen} | {largest.name})
    sample = replace(store, splits=dict.fromkeys(names, "training"))
    fingerprint = _fingerprint(
        [Annotation(one.dataset, one.annotated) for one in facts],
        [_scanner_grid(one) for one in facts],
        store.space,
        counts=(
            len(training),
            sum(one.geometry.prepared_shape[0] for one in training),
            len(validation),
            sum(one.geometry.prepared_shape[0] for one in validation),
        ),
    )
    reason = Reason("label_space", store.space.name, "The store was prepared for it.", "data")
    return Grounds(
        _with_organs(fingerprint, sample, tell), store.space, reason, store.preparation, lambda preparation: sample
    )


def grounds_of_data(
    sources: Sequence[Source],
    problems: Sequence[Problem],
    *,
    space: str | None,
    folder: Path,
    tell: Tell,
    own: OwnSplits = OwnSplits(),
) -> Grounds:
    """Return what data sets give: of every header, and of a sample that is prepared into a temporary folder.

    Args:
        sources: The cases.
        problems: What finding them brought up.
        space: A label space that is asked for.
        folder: Where the sample may be prepared.
        tell: Whom to tell.
        own: Which file divides them; without one, those in their folders.

    Raises:
        LabelError: No label space fits.
        DataSetError: No case annotates an organ, none can be used, or a file of splits is wrong.
        SettingError: A fold was asked for, and no file lists folds.
    """
    ways = {(source.organs, source.annotated) for source in sources}
    annotated = [{value: organ for value, organ in organs if organ in given} for organs, given in sorted(ways)]
    found, reason = choose_space(annotated, space)
    fits = {way: fit(found, dict(way[0]), way[1]).annotated for way in ways}
    usable = [source for source in sources if fits[source.organs, source.annotated]]
    if not usable:
        raise DataSetError(
            f"no case annotates an organ of label space '{found.name}'", "See viscera info organs, and annotated.json."
        )
    grids, slices, unread = [], [], 0
    for number, source in enumerate(usable):
        tell("headers read", number, len(usable))
        try:
            look = look_at(source.image)
        except VisceraError:
            unread += 1
            continue
        grids.append(Grid(look.shape, look.spacing_mm))
        slices.append(look.shape[0])
    if not grids:
        raise DataSetError(f"none of {len(usable)} scans can be read", "viscera prepare says what is wrong with each.")
    given, said = read_own_splits(sources, problems, own=own)
    fingerprint = _fingerprint(
        [Annotation(source.dataset, fits[source.organs, source.annotated]) for source in usable],
        grids,
        found,
        counts=_counts(usable, given, float(np.mean(slices))),
    )
    maker = _SampleMaker(tuple(_sampled(usable)), found, folder, tell)
    whole = maker.store(ScannerGrid())
    unusable = len(problems) + unread
    notes = [*said, *([f"{unusable} cases cannot be used: viscera prepare says why"] if unusable else [])]
    return Grounds(_with_organs(fingerprint, whole, tell), found, reason, None, maker.store, tuple(notes))


@dataclass(frozen=True)
class _SampleMaker:
    """Prepares a sample of data sets, in one way after the other.

    Attributes:
        sources: The sample.
        space: Of its labels.
        folder: Where.
        tell: Whom to tell.
    """

    sources: tuple[Source, ...]
    space: LabelSpace
    folder: Path
    tell: Tell

    def store(self, preparation: Preparation) -> Store:
        """Return the sample prepared so."""
        path = self.folder / re.sub(r"[^\w.]+", "-", f"{preparation.kind} {preparation.described}")
        if not (path / "splits.json").is_file():
            done: list[str] = []

            def tell(name: str, how: str) -> None:
                done.append(name)
                self.tell(f"sample prepared ({preparation.grid})", len(done), len(self.sources))

            self.tell(f"sample prepared ({preparation.grid})", 0, len(self.sources))
            plan = Plan(own=None)  # they list more cases than the sample
            result = prepare_store(
                path, self.sources, space=self.space, preparation=preparation, plan=plan, on_done=tell
            )
            if not result.prepared and not result.skipped:
                first = result.problems[0]
                raise DataSetError(
                    f"none of {len(self.sources)} sampled scans can be prepared. The first, {first.case}: {first.what}",
                    first.remedy,
                )
        store = open_store(path)
        return replace(store, splits=dict.fromkeys(store.names(), "training"))


def _sampled(cases: Sequence[One]) -> list[One]:
    """Return some cases of each data set."""
    sets = sorted({case.dataset for case in cases})
    chosen = [one for name in sets for one in evenly([case for case in cases if case.dataset == name], SAMPLE)]
    return evenly(chosen, MOST_SAMPLED)


def _counts(cases: Sequence[Source], given: Mapping[str, Split], each: float) -> tuple[int, int, int, int]:
    """Return about how many cases will be for training, their slices, and the same for validation, by slices of each case."""
    sides = [given.get(case_name(case)) for case in cases]
    training, validation = _split_sizes([case.dataset for case in cases if case_name(case) not in given])
    training, validation = training + sides.count("training"), validation + sides.count("validation")
    return training, round(training * each), validation, round(validation * each)


def _split_sizes(datasets: Sequence[str]) -> tuple[int, int]:
    """Return about how many cases will be for training and for validation (preparation/splits.py: by patient)."""
    shares, training, validation = Fractions(), 0, 0
    for name in set(datasets):
        cases = datasets.count(name)
        judged = max(1, round(shares.validation * cases)) if cases > 2 else 0
        tested = max(1, round(shares.test * cases)) if cases > 2 else 0
        training, validation = training + max(1, cases - judged - tested), validation + judged
    return training, validation


def _scanner_grid(facts: Facts) -> Grid:
    """Return a case's grid on the scanner, axial."""
    spacings = np.linalg.norm(facts.geometry.affine[:3, :3], axis=0)
    z, y, x = (float(spacings[axis]) for axis in facts.geometry.turn.axes)
    return Grid(facts.geometry.axial_shape, (z, y, x))


def _fingerprint(
    cases: Sequence[Annotation], grids: Sequence[Grid], space: LabelSpace, *, counts: tuple[int, int, int, int]
) -> Fingerprint:
    """Return a fingerprint without organs."""
    annotated, many = annotations_of(cases)
    middle, extent = median_grid(grids)
    known = {organ for case in cases for organ in case.organs}
    return Fingerprint(
        organs=space.organs,
        annotated=annotated,
        cases=many,
        partly=sum(set(case.organs) < known for case in cases),
        spacing_mm=middle.spacing_mm,
        shape=middle.shape,
        extent_mm=extent,
        training_cases=counts[0],
        training_slices=counts[1],
        validation_cases=counts[2],
        validation_slices=counts[3],
    )


def _with_organs(fingerprint: Fingerprint, sample: Store, tell: Tell) -> Fingerprint:
    names = sample.names("training")
    tell("organs measured", 0, len(names))
    sizes, hu = organ_sizes([sample.case(name) for name in names], sample.space)
    return replace(fingerprint, sampled=len(names), sizes=sizes, hu=hu)
