"""Three stages over many items: the next one is read while the present one is worked on and the last one is written.

Each stage has a thread of its own; the middle one's is the caller's, which so can be interrupted. At most one item waits
between two stages, so what is held does not grow with the number of items. What an item is, predict.py knows.
"""

import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from viscera.errors import VisceraError

Item = TypeVar("Item")
Read = TypeVar("Read")
Found = TypeVar("Found")
Written = TypeVar("Written")
Value = TypeVar("Value")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stages(Generic[Item, Read, Found, Written]):
    """What is done to each item; every stage gets what the one before gave.

    Attributes:
        read: On the first thread.
        work: On the caller's.
        write: On the last thread.
    """

    read: Callable[[Item], Read]
    work: Callable[[Read], Found]
    write: Callable[[Found], Written]


def run_stages(
    items: Sequence[Item],
    stages: Stages[Item, Read, Found, Written],
    *,
    done: Callable[[Item, Written | VisceraError], None],
    beside: Callable[[Item], bool] = lambda item: True,
) -> None:
    """Take items through three stages; an item that cannot be used does not stop the others.

    A fault (anything but a VisceraError) or an interruption is raised when the other threads have finished what they are
    at: nothing more is begun. A single item needs no threads.

    Args:
        items: In their order.
        stages: What is done to each.
        done: Told of each item, in their order and on the caller's thread, what ``write`` gave, or what was wrong.
        beside: Whether an item may be read while those before it are still worked on and written; asked of each, in
            their order. Otherwise it waits until they are done, so that it is the only one held.
    """
    if len(items) < 2:
        for item in items:
            done(item, _then(stages.write, _then(stages.work, _then(stages.read, item))))
        return
    with ThreadPoolExecutor(1, "reading") as reader, ThreadPoolExecutor(1, "writing") as writer:
        ahead: Future[Read] | None = None
        behind: tuple[Item, Future[Written]] | None = None
        beside(items[0])
        for item, after in zip(items, [*items[1:], None], strict=True):
            if ahead is None:
                behind = _settled(behind, done)
                ahead = reader.submit(stages.read, item)
            present = _tried(ahead.result)
            ahead = reader.submit(stages.read, after) if after is not None and beside(after) else None
            found = _then(stages.work, present)
            del present  # what nobody needs any more must not be held while the next item is
            behind = _settled(behind, done)
            if isinstance(found, VisceraError):
                done(item, found)
            else:
                behind = item, writer.submit(stages.write, found)
            del found
        _settled(behind, done)


def _settled(behind: tuple[Item, Future[Written]] | None, done: Callable[[Item, Written | VisceraError], None]) -> None:
    """Wait until an item is written, and tell of it."""
    if behind is not None:
        done(behind[0], _tried(behind[1].result))


def _then(stage: Callable[[Value], Result], given: Value | VisceraError) -> Result | VisceraError:
    """Give what a stage gives; where nothing came to it, why."""
    return given if isinstance(given, VisceraError) else _tried(partial(stage, given))


def _tried(stage: Callable[[], Value]) -> Value | VisceraError:
    """Give what a stage gives, or why the item cannot be used."""
    try:
        return stage()
    except VisceraError as error:
        # The frames of a failed stage hold its arrays, for as long as somebody keeps the error.
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        return error
