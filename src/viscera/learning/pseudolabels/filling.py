"""Pseudo-labels: teachers fill in the organs that a case does not annotate, where they agree and are confident.

    STORE/cases/CASE/pseudo.npy    the organ that the teachers give, UNSURE where they do not know, 0 elsewhere
    STORE/cases/CASE/pseudo.json   organs filled in, organs rejected and why, teachers, settings
    STORE/pseudolabels.csv         one row per case and organ

Training cases lack some organs, unlabelled cases all. Truth (labels.npy, case.json) is never touched, nor is any validation
or test case, nor another scan of its patient. pseudo.json is written last and
removed first, so that where it stands, pseudo.npy belongs to it. Who may teach is decided in teachers.py, what the
teachers agree on in consensus.py, which organs are believed in acceptance.py; learning/losses.py learns from the outcome.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from viscera.errors import FileError, RunError, StoreError, VisceraError
from viscera.inference.model import Model
from viscera.io.atomic import replacing, write_text, writing
from viscera.io.csv_text import to_csv
from viscera.io.json_codec import from_json, to_json
from viscera.io.locks import locked
from viscera.json_text import load_json
from viscera.learning.pseudolabels.acceptance import COLUMNS, Acceptance, Verdict
from viscera.learning.pseudolabels.consensus import fill_case
from viscera.learning.pseudolabels.teachers import Teacher, check_teachers, finds_of, teachers_for
from viscera.preparation.splits import unlabelled_cases
from viscera.preparation.store import Store

TABLE = "pseudolabels.csv"
NUMBERS = ("agreement", "confident_fraction", "volume_ml", "voxels")
"""Of a verdict; in pseudo.json each is {organ: value}."""


@dataclass(frozen=True)
class Watch:
    """Whom to tell how far the work is.

    Attributes:
        case: Called with the name of a case when it is done, or was done before.
        slices: Called with the slices done and the slices of the case.
    """

    case: Callable[[str], None] = lambda name: None
    slices: Callable[[int, int], None] = lambda done, slices: None


def open_organs(store: Store) -> dict[str, tuple[str, ...]]:
    """Return {case: organs that it does not annotate}: training cases that lack any, then unlabelled cases, all organs."""
    lacking = {
        name: tuple(organ for organ in store.space.organs if organ not in store.facts(name).annotated)
        for name in store.names("training")
    }
    lacking |= dict.fromkeys(unlabelled_cases(store)[0], store.space.organs)
    return {name: organs for name, organs in lacking.items() if organs}


def usual_volumes(store: Store, *, at_least: int) -> dict[str, tuple[float, float]]:
    """Return percentiles 1 and 99 of the volume in ml of each organ that enough training cases annotate and show."""
    volumes: dict[str, list[float]] = {}
    for name in store.names("training"):
        facts = store.facts(name)
        for organ in facts.annotated:
            if facts.voxels.get(organ, 0):
                voxel_ml = math.prod(facts.geometry.spacing_mm) / 1000
                volumes.setdefault(organ, []).append(facts.voxels[organ] * voxel_ml)
    enough = {organ: np.percentile(found, (1, 99)) for organ, found in volumes.items() if len(found) >= at_least}
    return {organ: (float(low), float(high)) for organ, (low, high) in enough.items()}


@dataclass(frozen=True)
class Filling:
    """What all cases of a store share.

    Attributes:
        settings: When teachers are believed.
        usual: From ``usual_volumes``.
        origin: Teachers and settings, for pseudo.json.
    """

    settings: Acceptance
    usual: Mapping[str, tuple[float, float]]
    origin: Mapping[str, object]


@dataclass(frozen=True)
class Question:
    """What the teachers are asked about a case.

    Attributes:
        name: The case.
        organs: Those that it does not annotate.
        asked: Numbers of the teachers that are asked.
        runs: Their names.
        silent: {organ: reason} of organs that they cannot be asked about.
        finds: Dice with which the worst of them finds an organ.
    """

    name: str
    organs: tuple[str, ...]
    asked: tuple[int, ...]
    runs: tuple[str, ...]
    silent: Mapping[str, str]
    finds: Mapping[str, float]


FillAll = Callable[[Store, Filling, Sequence[Question]], Generator[tuple[str, "list[Verdict] | VisceraError"]]]
"""Yields each case that is asked about, in any order, with its verdicts, or why it could not be filled in."""


def pseudolabel_store(
    store: Store,
    teachers: Sequence[Teacher],
    *,
    settings: Acceptance,
    overwrite: bool = False,
    watch: Watch = Watch(),
    fill_all: FillAll | None = None,
) -> list[tuple[str, Verdict]]:
    """Fill in what the training and the unlabelled cases of a store do not annotate; a case that is done is skipped.

    Args:
        store: Its pseudo.npy, pseudo.json and pseudolabels.csv are written.
        teachers: Two or more, from ``find_teacher``.
        settings: When they are believed.
        overwrite: Replace pseudo-labels of other teachers or settings.
        watch: Whom to tell.
        fill_all: Who fills cases in elsewhere, as ``fill_over`` (on_cluster.py); None: this process.

    Returns:
        Each case with the verdict on each organ that it does not annotate: the rows of pseudolabels.csv.

    Raises:
        SettingError, StoreError, RunError: As ``check_teachers``; or other pseudo-labels stand there.
        RunError: Workers died of some cases; all others are filled in.
    """
    fill = fill_all or partial(_fill_here, teachers, watch)
    with locked(store.path, what="is being prepared or filled in", error=StoreError):
        return _fill(store, teachers, fill, settings=settings, overwrite=overwrite, watch=watch)


def _fill(
    store: Store, teachers: Sequence[Teacher], fill: FillAll, *, settings: Acceptance, overwrite: bool, watch: Watch
) -> list[tuple[str, Verdict]]:
    """Fill in a store that no other process writes to."""
    lacking = open_organs(store)
    check_teachers(teachers, store, list(lacking))
    origin = {
        "teachers": sorted((teacher.facts() for teacher in teachers), key=lambda facts: facts["weights_sha256"]),
        "settings": asdict(settings),
    }
    done = {name: read_verdicts(store.path / "cases" / name, origin) for name in lacking}
    others = [name for name, rows in done.items() if rows is None and _stands(store.path / "cases" / name)]
    if others and not overwrite:
        raise StoreError(
            f"{len(others)} cases of {store.path} ({others[0]} ...) have pseudo-labels of other teachers or settings",
            "Pass --overwrite to replace them, or --remove to take them out.",
        )
    filling = Filling(settings, usual_volumes(store, at_least=settings.volume_cases), origin)
    for name in lacking:
        if done[name] is not None:
            watch.case(name)
    wrong: dict[str, VisceraError] = {}
    open_ = [question(store, teachers, name, organs) for name, organs in lacking.items() if done[name] is None]
    with closing(fill(store, filling, open_)) as filled:
        for name, found in filled:
            if isinstance(found, VisceraError):
                wrong[name] = found
            else:
                done[name] = found
            watch.case(name)
    if wrong:
        first = min(wrong)
        raise RunError(
            f"{len(wrong)} cases could not be filled in; {first}: {wrong[first].what.removeprefix(f'{first}: ')}",
            f"All others are done. {wrong[first].remedy}",
        )
    table = [(name, verdict) for name, rows in done.items() for verdict in rows or []]
    rows = [{"case": name, **asdict(verdict)} for name, verdict in table]
    write_text(store.path / TABLE, to_csv(rows, columns=COLUMNS))
    return table


def question(store: Store, teachers: Sequence[Teacher], name: str, organs: Sequence[str]) -> Question:
    """Return what the teachers are asked about a case."""
    asked = teachers_for(teachers, name, store.facts(name).image_sha256)
    numbers = tuple(number for number, teacher in enumerate(teachers) if teacher in asked)
    names = tuple(teacher.run for teacher in asked)
    return Question(name, tuple(organs), numbers, names, untaught(asked), finds_of(asked))


def _fill_here(
    teachers: Sequence[Teacher], watch: Watch, store: Store, filling: Filling, questions: Sequence[Question]
) -> Generator[tuple[str, list[Verdict] | VisceraError]]:
    """Fill cases in, one after the other."""
    for one in questions:
        yield one.name, fill_in(store, [teacher.model for teacher in teachers], filling, one, watch=watch.slices)


def fill_in(
    store: Store,
    models: Sequence[Model],
    filling: Filling,
    one: Question,
    *,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> list[Verdict]:
    """Fill in a case with all teachers' models at hand, write that down, and return the verdict on each organ."""
    folder = store.path / "cases" / one.name
    remove_from(folder)
    pseudo, rows = fill_case(
        store.case(one.name),
        [models[number] for number in one.asked],
        organs=[organ for organ in one.organs if organ not in one.silent],
        settings=filling.settings,
        usual_ml=filling.usual,
        finds=one.finds,
        watch=watch,
    )
    rows += [Verdict(organ, "rejected", one.silent[organ]) for organ in one.organs if organ in one.silent]
    write_pseudo(folder, pseudo, rows, origin={**filling.origin, "asked": list(one.runs)})
    return rows


def untaught(teachers: Sequence[Teacher]) -> dict[str, str]:
    """Return {organ: reason} of the organs that a teacher, as far as is known, never saw annotated."""
    reasons: dict[str, str] = {}
    for teacher in teachers:
        taught = teacher.seen.taught if teacher.seen else None
        for organ in teacher.model.space.organs if taught is not None else ():
            if organ not in (taught or ()):
                reasons.setdefault(organ, f"not taught: no training case of {teacher.run} annotates it")
    return reasons


def write_pseudo(
    folder: Path, pseudo: UInt8[np.ndarray, "z y x"], rows: Sequence[Verdict], *, origin: Mapping[str, object]
) -> None:
    """Write a case's pseudo-labels, their reasons and their origin; pseudo.npy only where an organ was accepted."""
    believed = [row.organ for row in rows if row.verdict != "rejected"]
    if believed:
        with replacing(folder / "pseudo.npy") as part, part.open("wb") as file:
            np.save(file, pseudo)
    reasons = {word: {row.organ: row.reason for row in rows if row.verdict == word} for word in ("absent", "rejected")}
    numbers = {
        name: {row.organ: getattr(row, name) for row in rows if row.organ in believed or name != "voxels"}
        for name in NUMBERS
    }
    facts = {"organs": believed, **reasons, **origin, **numbers, "viscera": version("viscera")}
    write_text(folder / "pseudo.json", to_json(facts))


def read_verdicts(folder: Path, origin: Mapping[str, object]) -> list[Verdict] | None:
    """Read back a case's verdicts; None where it has none of this origin, or a damaged file."""
    try:
        found = load_json(folder / "pseudo.json")
        if found["settings"] != origin["settings"] or _hashes(found) != _hashes(origin):
            return None
        if found["organs"] and not (folder / "pseudo.npy").is_file():
            return None
        return [_verdict(organ, found) for organ in found["agreement"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError, FileError):
        return None


def _verdict(organ: str, found: Mapping) -> Verdict:
    """Put a verdict together from pseudo.json; voxels it has of the believed organs only."""
    word = next((word for word in ("absent", "rejected") if organ in found[word]), "accepted")
    numbers = {name: found[name][organ] for name in NUMBERS if name != "voxels" or organ in found[name]}
    row = {"organ": organ, "verdict": word, "reason": found.get(word, {}).get(organ, ""), **numbers}
    return from_json(Verdict, row, what="pseudo.json is damaged", remedy="")


def remove_from(folder: Path) -> bool:
    """Remove a case's pseudo-labels, the file that vouches for them first; tell whether it had any."""
    had = _stands(folder)
    for file in (folder / "pseudo.json", folder / "pseudo.npy", *folder.glob(".*.pseudo.*")):
        file.unlink(missing_ok=True)
    return had


def remove_all(store: Store) -> int:
    """Remove all pseudo-labels of a store and their table; return the number of cases that had some."""
    with locked(store.path, what="is being prepared or filled in", error=StoreError), writing(store.path / TABLE):
        (store.path / TABLE).unlink(missing_ok=True)
        return sum(remove_from(store.path / "cases" / name) for name in store.names())


def _hashes(origin: Mapping) -> set[str]:
    return {teacher["weights_sha256"] for teacher in origin["teachers"]}


def _stands(folder: Path) -> bool:
    return (folder / "pseudo.json").exists()
