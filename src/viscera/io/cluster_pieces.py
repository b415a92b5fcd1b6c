"""What any worker of a cluster does with a piece of work: it looks whether it can be used, and notes what it begins.

Before it begins a piece, a worker notes that in a file on the disk that all share, and holds a lock on it. Who finds the note of
the same command, and nobody holding the lock, knows that a worker died of the piece, whatever happened to the scheduler; who finds
it held waits, since two would otherwise write the same files. The note goes with the piece's end.
"""

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar
from uuid import uuid4

from viscera.errors import RunError, VisceraError
from viscera.io.atomic import writing
from viscera.io.locks import TakenError, only_writer

Item = TypeVar("Item")
Result = TypeVar("Result")
DEATHS = 2
"""So many workers may die of a piece before it is set aside."""
WAIT_S = 100.0
"""How long a piece is waited for that another worker still has; network file systems free the locks of a machine that is gone
after about 90 s."""
UNFIT_S = 1.0
"""How long a worker that cannot be used holds on to a piece, so that others are quicker to take it."""

_ONE_PIECE = Lock()
"""Held by who works: a worker with several threads is given several pieces, and does one of them on all of its cores."""


class UnfitError(VisceraError):
    """A worker sees other files than who gave it work, or cannot run what it takes."""


@dataclass(frozen=True)
class Place:
    """By what a worker knows that it sees the same files as who asks.

    Attributes:
        viscera: The version of who asks.
        probe: A file that who asks has written where results go.
        token: What stands in it; of one command.
        inputs: Files that must be there.
    """

    viscera: str
    probe: Path
    token: str
    inputs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Work(Generic[Item, Result]):
    """What is done with all pieces of a command. Both functions can be pickled.

    Attributes:
        get_ready: Called before each piece; raises UnfitError where this worker can do none.
        do: What becomes of a piece. What it raises ends the command.
    """

    get_ready: Callable[[], object]
    do: Callable[[Item], Result]


@dataclass(frozen=True)
class Answer(Generic[Result]):
    """What a worker answers to a piece of work.

    Attributes:
        result: What became of it; None where the worker is unfit.
        unfit: Why this worker can do none, and another one is to be asked; "" where it can.
        worker: Its address.
        notes: (kind, text) of what was warned of.
    """

    result: Result | None = None
    unfit: str = ""
    worker: str = ""
    notes: tuple[tuple[type[Warning], str], ...] = ()


def answer(work: Work[Item, Result], item: Item) -> Answer[Result]:
    """Do a piece of work on a worker, if it can be used."""
    from distributed import get_worker

    where = get_worker().address
    with _ONE_PIECE, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            work.get_ready()
        except UnfitError as error:
            time.sleep(UNFIT_S)
            return Answer(unfit=str(error), worker=where)
        result = work.do(item)
    notes = tuple(
        (one.category, str(one.message))
        for one in told
        if one.category is UserWarning or one.category.__module__.startswith("viscera")
    )
    return Answer(result, worker=where, notes=notes)


def why_unfit(get_ready: Callable[[], object]) -> str:
    """Return why this worker cannot be used, "" where it can; what it takes is then loaded."""
    with _ONE_PIECE:
        try:
            get_ready()
        except UnfitError as error:
            return str(error)
    return ""


@lru_cache(maxsize=1)
def require_place(place: Place) -> None:
    """Raise UnfitError unless this worker sees the files that it has to, and writes to the same folder; once for each command."""
    here = version("viscera")
    if here != place.viscera:
        raise UnfitError(f"it has viscera {here}, not {place.viscera}", "Start workers in the same environment.")
    try:
        seen = place.probe.read_text(encoding="ascii") == place.token
        own = place.probe.with_name(f"{place.probe.name}-{uuid4().hex}")
        own.touch()
        own.unlink()
    except (OSError, ValueError):
        seen = False
    if not seen:
        raise UnfitError(
            f"it cannot write to {place.probe.parent}, or that is another folder there",
            "Choose an output on a disk that all machines share.",
        )
    gone = next((file for file in place.inputs if not file.exists()), None)
    if gone is not None:
        raise UnfitError(f"it does not see {gone.name}", "Put what is read on a disk that all machines share.")


@contextmanager
def begun(
    note: Path, token: str, *, name: str, doing: str, clear_up: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Note that a piece has been begun, as long as the block lasts.

    Args:
        note: The file; of this piece whatever the command.
        token: Of the command.
        name: What messages call the piece.
        doing: What workers do with it, as in "segmented".
        clear_up: Removes what workers that died left of it.

    Raises:
        RunError: As many workers died of it as may.
        TakenError: Another worker has it, and does not end.
        FileError: Nothing can be written there.
    """
    with writing(note):
        note.parent.mkdir(parents=True, exist_ok=True)
    with _when_free(note):
        died = _deaths(note, token)
        try:
            if died >= DEATHS:
                clear_up()
                raise RunError(
                    f"{name}: {died} workers died while they {doing} it",
                    "See their logs for the reason (memory, in most cases); the same command tries it again.",
                )
            with writing(note):
                note.write_text(f"{token} {died + 1}\n", encoding="ascii")
            yield
        finally:
            with writing(note):
                note.unlink(missing_ok=True)


def noted(place: Place, key: str, *, name: str, doing: str) -> AbstractContextManager[None]:
    """Note beside a place's probe that a piece has been begun; see ``begun``.

    Args:
        place: Of the command.
        key: Tells the piece from all others that have their notes there.
        name: What messages call it.
        doing: What workers do with it.
    """
    note = place.probe.with_name(f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.begun")
    return begun(note, place.token, name=name, doing=doing)


def _deaths(note: Path, token: str) -> int:
    """Return how many workers have begun a piece in this command, and not ended it."""
    try:
        whose, count = note.read_text(encoding="ascii").split()
        return int(count) if whose == token else 0
    except (OSError, ValueError):
        return 0


@contextmanager
def _when_free(note: Path) -> Iterator[None]:
    """Hold the lock of a note, as soon as who holds it lets it go."""
    ends = time.monotonic() + WAIT_S
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(only_writer(note))
                break
            except TakenError:
                if time.monotonic() > ends:
                    raise
                time.sleep(UNFIT_S / 4)
        yield
