"""Three stages over many items: the next one is read while the present one is worked on and the last one is written.

Each stage has a thread of its own; the middle one's is the caller's, which so can be interrupted. At most one item waits
between two stages, so what is held does not grow with the number of items. What an item is, predict.py knows.
"""

import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Found = TypeVar("Found")
Written = TypeVar("Written")
Result = TypeVar("Result")


def run_stages(
    items: Sequence[Item],
    *,
    read: Callable[[Item], Read],
    work: Callable[[Read], Found],
    write: Callable[[Found], Written],
    done: Callable[[Item, Written | Exception], None],
    beside: Callable[[Item], bool] = lambda item: True,
) -> None:
    """Take items through three stages; an item that cannot be used does not stop the others.

    That holds for every exception, also one that is a fault of ours: what it means, ``done`` decides. An interruption, and
    what ``done`` or ``beside`` raise, is raised when the other threads have finished what they are at: nothing more is begun.
    A single item needs no threads.

    Args:
        items: In their order.
        read: The first stage, on a thread of its own.
        work: The second, on the caller's thread; gets what ``read`` returned.
        write: The third, on a thread of its own; gets what ``work`` returned.
        done: Told of each item, in their order and on the caller's thread, what ``write`` returned, or what was
            raised.
        beside: Whether an item may be read while those before it are still worked on and written; asked of each, in
            their order. Otherwise it waits until they are done, so that it is the only one held.
    """
    if len(items) < 2:
        for item in items:
            try:
                outcome = write(work(read(item)))
            except Exception as error:  # whatever a scan causes is that scan's (docs/promises.md)
                outcome = _without_arrays(error)
            done(item, outcome)
        return
    with ThreadPoolExecutor(1, "reading") as reader, ThreadPoolExecutor(1, "writing") as writer:
        ahead: Future[Read] | None = None
        behind: tuple[Item, Future[Written]] | None = None
        beside(items[0])
        for item, after in zip(items, [*items[1:], None], strict=True):
            if ahead is None:
                behind = _finish(behind, done)
                ahead = reader.submit(read, item)
            present = _outcome(ahead)
            ahead = reader.submit(read, after) if after is not None and beside(after) else None
            found: Found | Exception
            try:
                found = present if isinstance(present, Exception) else work(present)
            except Exception as error:  # whatever a scan causes is that scan's (docs/promises.md)
                found = _without_arrays(error)
            del present  # what nobody needs any more must not be held while the next item is
            behind = _finish(behind, done)
            if isinstance(found, Exception):
                done(item, found)
            else:
                behind = item, writer.submit(write, found)
            del found
        _finish(behind, done)


def _finish(behind: tuple[Item, Future[Written]] | None, done: Callable[[Item, Written | Exception], None]) -> None:
    """Wait until an item is written, and tell of it."""
    if behind is not None:
        done(behind[0], _outcome(behind[1]))


def _outcome(future: Future[Result]) -> Result | Exception:
    """Wait for what a stage returns, or for why the item cannot be used."""
    try:
        return future.result()
    except Exception as error:  # whatever a scan causes is that scan's (docs/promises.md)
        return _without_arrays(error)


def _without_arrays(error: Exception) -> Exception:
    """Return an error that holds no arrays: the frames of a failed stage would, for as long as somebody keeps the error."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    return error
