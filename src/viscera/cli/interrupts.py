"""Ctrl-C and SIGTERM: the verb ends within two seconds, whatever it is computing, and says one line.

Python looks at signals between its own instructions only, so a step of a large network, or a file that is being packed, would
hold them up. What is finished is kept: every file is whole at every instant (io/atomic.py).
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread, current_thread, main_thread
from types import FrameType

GRACE_S = 1.5
"""What a verb has to end by itself: to end its processes and remove what is half-written."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = {
    "train": "the same command with --resume goes on",
    "serve": "say the same again",
    "listen": "say the same again",
    "view": "say the same again",
    "evaluate": "say the same again",
    "report": "say the same again",
    "bench": "say the same again",
    "export": "say the same again",
}
"""How to go on, where it is not the same command that does."""


class Interrupted(KeyboardInterrupt):
    """A signal asks this process to end; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def farewell(verb: str, number: int) -> str:
    r"""Return the line that ends a verb which a signal interrupts.

    Example:
        >>> farewell("prepare", signal.SIGTERM)
        'viscera: interrupted (SIGTERM). What was finished is kept; the same command goes on.\n'
    """
    how = AGAIN.get(verb, "the same command goes on")
    return f"viscera: interrupted ({signal.Signals(number).name}). What was finished is kept; {how}.\n"


@contextmanager
def interruptible(verb: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise Interrupted, and end this process if it has not ended by itself soon after.

    Only signals that have their usual effect are taken, and only on the main thread; a second one changes nothing.
    """
    mine = [number for number in SIGNALS if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)]
    if not mine or current_thread() is not main_thread():
        yield
        return
    hear, tell = os.pipe()
    os.set_blocking(tell, False)
    before = {number: signal.signal(number, _raise) for number in mine}
    earlier = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    ended = Event()
    Thread(target=_end_late, args=(verb, hear, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(earlier)
        for number, handler in before.items():
            if signal.getsignal(number) is _raise:
                signal.signal(number, handler)
        os.close(tell)  # the watch ends, unless it has heard a signal


def _raise(number: int, frame: FrameType | None) -> None:
    """Raise Interrupted, once."""
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(number)


def _end_late(verb: str, hear: int, ended: Event) -> None:
    """Wait for a signal, then for the verb to end; end the process if it does not. Other signals are passed over."""
    while heard := os.read(hear, 1):
        if heard[0] in SIGNALS:
            time.sleep(GRACE_S)
            with suppress(OSError, ValueError):
                if ended.is_set():  # the line is said; other threads hold the process up
                    os._exit(128 + heard[0])
                sys.stderr.write(farewell(verb, heard[0]))
                sys.stderr.flush()
            os._exit(128 + heard[0])
    os.close(hear)
