"""Randomness that depends on the place in the run only, and reading ahead."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from torch import Generator

Item = TypeVar("Item")


def step_generator(seed: int, *place: int) -> Generator:
    """Return a generator that depends only on the seed and the place in the run (epoch, step ...)."""
    state = np.random.SeedSequence([seed, *place]).generate_state(2, np.uint64)
    return Generator().manual_seed(int(state[0] >> 1))


def read_ahead(read: Callable[[int], Item], count: int, *, first: int = 0, threads: int = 2) -> Iterator[Item]:
    """Yield read(first) ... read(count - 1) in order while threads read the next ones.

    Threads, not processes: reading, distance transforms and copies release the interpreter lock, and no worker can die.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[Item]] = []
        for number in range(first, count):
            waiting.append(pool.submit(read, number))
            if len(waiting) > 2 * threads:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
