"""Work shared out among processes: each is a fresh interpreter, and one that dies takes only its own piece of work with it.

pebble's pool does that; the standard library's and loky's lose every pending piece with one killed process (docs/decisions.md).
"""

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from threading import Thread
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

from viscera.errors import RunError
from viscera.io.main_guard import require_main_guard

Item = TypeVar("Item")
Result = TypeVar("Result")
DIED = (ProcessExpired, BrokenProcessPool, CancelledError)
"""What a task raises whose process died. One that dies before it takes up work ends the pool, and all tasks with it."""
LOOK_S = 1.0
"""How often it is looked whether the pool is still there; a task that is handed over as it ends would never be done."""


@contextmanager
def process_pool(jobs: int, *, niceness: int = 0) -> Iterator[ProcessPool]:
    """Run processes as long as the context lasts; leaving it ends them at once, whatever they are doing.

    Args:
        jobs: How many, at least 1.
        niceness: How far they stand back behind this process, where the system knows that.

    Raises:
        RunError: The system starts no further process, or those started would run the user's script again.
    """
    require_main_guard()
    # A fork would copy locks that other threads hold.
    context = get_context("spawn")
    pool = ProcessPool(jobs, context=context, initializer=_settle, initargs=(niceness,))  # pyright: ignore[reportArgumentType]
    try:
        with no_interrupts():
            _ = pool.active  # starts what will start the processes
        yield pool
    except BrokenProcessPool as error:
        reason = f": {error.__cause__.strerror}" if isinstance(error.__cause__, OSError) else ""
        raise RunError(f"no process can be started{reason}", "Pass fewer --jobs, or end other programs.") from error
    finally:
        pool.stop()
        pool.join()


def result_of(task: Future[Result], pool: ProcessPool) -> Result:
    """Return what a task of a pool gives, as soon as it is there.

    Raises:
        ProcessExpired: Its process died, or the pool ended.
    """
    while not wait([task], timeout=LOOK_S).done:
        if not pool.active:
            raise ProcessExpired("the pool ended")
    try:
        return task.result()
    except (BrokenProcessPool, CancelledError) as error:
        raise ProcessExpired("the pool ended") from error


@contextmanager
def no_interrupts() -> Iterator[None]:
    """Let threads begin, and processes of theirs, that Ctrl-C does not reach: it is for this process, which ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would let them through again in the thread that first starts a process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def share_out(
    work: Callable[[Item], Result], items: Sequence[Item], *, jobs: int
) -> Generator[tuple[Item, Result | None, bool]]:
    """Yield (item, its result, whether its process died) as each item is done. Leaving early ends the processes.

    Args:
        work: Can be pickled. What it raises is raised here.
        items: Can be pickled, each.
        jobs: Processes.
    """
    if not items:
        return
    with process_pool(min(jobs, len(items))) as pool:
        tasks: dict[Future[Result], Item] = {pool.schedule(work, args=(item,)): item for item in items}
        waiting = set(tasks)
        while waiting:
            done, waiting = wait(waiting, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            if not done and not pool.active:
                done, waiting = waiting, set()
            for task in done:
                died = not task.done() or task.cancelled() or isinstance(task.exception(), DIED)
                yield tasks[task], None if died else task.result(), died


def _settle(niceness: int) -> None:
    """Settle a process: out of the way, and ending with its parent, even if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    if niceness and hasattr(os, "nice"):
        os.nice(niceness)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process at once when its parent is gone; it would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
