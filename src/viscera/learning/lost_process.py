"""When one of several processes that train together ends, all end, within half a minute and with the reason.

A connection that is closed shows at once between CPUs; between GPUs, and where a machine is gone, the others would wait for days.
So each process says every two seconds that it is alive, in the store through which torch brought them together, and a thread
listens. Whoever fails leaves the reason there.
"""

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING

import torch.distributed as dist

from viscera.errors import RunError, VisceraError
from viscera.learning.devices import World

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEAT_S = 2.0
SILENT_BEATS = 10
"""After so many a process counts as gone: 20 s are more than a disk that stalls usually takes. Beats, not the clock: where all are
stopped for a while (scontrol suspend), nobody has missed any when they go on."""
GRACE_S = 3.0
"""For the main thread, to end with a better reason than this one has."""
FAILED = "viscera/failed"
HOW_TO_GO_ON = "The same command with --resume goes on from the last saved state, on any number of devices."
BROKEN = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "pair closure",
    "Socket closed",
    "gloo",
    "NCCL",
)
"""What torch says of a connection to a process that has ended."""


@contextmanager
def together(world: World) -> Iterator[None]:
    """Train with other processes: what ends one of them ends all.

    Raises:
        RunError: Another process ended, or is not heard of any more.
    """
    if world.size == 1:
        yield
        return
    watch = Watch(world)
    watch.start()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grad strides do not match")  # of a head that is a matrix product
            yield
        dist.barrier()  # nobody leaves while others need the store that the first process may keep
    except BaseException as error:
        if not is_broken(error):
            watch.tell(error)
            raise
        reason = watch.reason(GRACE_S) or "killed, out of memory, or its machine or network is down"
        raise RunError(f"another of the {world.size} processes is gone ({reason})", HOW_TO_GO_ON) from error
    finally:
        watch.ended.set()


def is_broken(error: BaseException) -> bool:
    """Tell whether an error says that another process cannot be reached any more."""
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and any(words in str(error) for words in BROKEN)
    )


class Watch(Thread):
    """Say that this process is alive, and end it when another one is not."""

    def __init__(self, world: World) -> None:
        """Watch the other processes of a world, once they are connected."""
        super().__init__(name="watch-processes", daemon=True)
        self.world, self.ended = world, Event()
        self.store: Store | None = None
        self.heard: dict[int, tuple[bytes, int]] = {}
        self.beats, self.looked = 0, 0

    def run(self) -> None:
        """Beat until the training has ended, while another thread speaks and listens: the store may not answer any more."""
        Thread(target=self._listen, name="listen-to-processes", daemon=True).start()
        while not self.ended.wait(BEAT_S):
            self.beats += 1
            if self.looked and self.beats - self.looked > SILENT_BEATS:
                self._end("process 0, or its machine, does not answer")

    def _listen(self) -> None:
        """Look at the others at each beat."""
        while not self.ended.wait(BEAT_S):
            if not dist.is_initialized():
                continue
            try:
                if self.store is None:
                    self.store = _connected()
                reason = self.look(self.store)
            except (dist.DistError, RuntimeError):
                reason = "process 0, or its machine, is gone"
            self.looked = self.beats
            if reason:
                self._end(reason)

    def look(self, store: "Store") -> str:
        """Say that this process is alive; return why another has ended, "" where none has."""
        store.set(_beat(self.world.rank), str(self.beats))
        if store.check([FAILED]):
            return store.get(FAILED).decode()
        for rank in set(range(self.world.size)) - {self.world.rank}:
            beat = store.get(_beat(rank)) if store.check([_beat(rank)]) else b""
            before, since = self.heard.get(rank, (None, self.beats))
            if beat != before:
                self.heard[rank] = (beat, self.beats)
            elif self.beats - since > SILENT_BEATS:
                return f"process {rank} has not been heard of for {SILENT_BEATS * BEAT_S:g} s"
        return ""

    def tell(self, error: BaseException) -> None:
        """Leave for the others why this process ends; where it keeps their store, wait until they have read it."""
        what = str(error) if isinstance(error, VisceraError) else ""
        reason = f"process {self.world.rank} ended: {type(error).__name__}{': ' if what else ''}{what}"
        with suppress(dist.DistError, RuntimeError):
            if dist.is_initialized():
                store = self.store or _connected()
                if not store.check([FAILED]):
                    store.set(FAILED, reason)
                if self.world.is_first and self.world.launcher != "torchrun":
                    time.sleep(BEAT_S + 1)

    def reason(self, within_s: float) -> str:
        """Return why another process ended, "" where it does not say so."""
        until = time.monotonic() + within_s
        with suppress(dist.DistError, RuntimeError):
            store = self.store or _connected()
            while time.monotonic() < until:
                if store.check([FAILED]):
                    return store.get(FAILED).decode()
                time.sleep(0.1)
        return ""

    def _end(self, reason: str) -> None:
        """End this process, whose main thread may wait for another one for ever."""
        if self.ended.wait(GRACE_S):
            return
        sys.stderr.write(f"viscera: RunError: {reason}. {HOW_TO_GO_ON}\n")
        sys.stderr.flush()
        os._exit(2)


def _beat(rank: int) -> str:
    return f"viscera/beat/{rank}"


def _connected() -> "Store":
    """Return a connection of its own to the store that brought the processes together: one that no collective waits on."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
