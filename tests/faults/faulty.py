"""The n-th operation on a file fails, or kills the process: SQLite's way of finding what is not safe.

Source: sqlite.org/testing.html, sections 3.2 (I/O errors) and 3.3 (crashes).
"""

import builtins
import errno
import io
import os
import signal
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

LASTING = {"open", "os.open", "write", "mkdir", "fsync"}
"""What goes on failing on a full disk; files can still be removed, renamed and closed."""


class Faults:
    """Counts the operations that change something under a folder, and lets one of them go wrong.

    Attributes:
        count: Operations so far.
        fired: Names of those that failed.
    """

    def __init__(self, root, number: int, code: int = 0, *, kill: bool = False):
        self.root, self.number, self.code, self.kill = f"{Path(root).resolve()}{os.sep}", number, code, kill
        self.count, self.fired, self.places, self.owner = 0, [], [], os.getpid()

    def touches(self, place) -> bool:
        if isinstance(place, int):
            try:
                place = os.readlink(f"/proc/self/fd/{place}")  # noqa: PTH115  (as cheap as can be)
            except OSError:
                return False
            if not place.startswith(os.sep):  # a pipe, not a file
                return False
        return os.path.abspath(os.fspath(place)).startswith(self.root)  # noqa: PTH100

    def meet(self, name: str, *places) -> None:
        """Note an operation; raise or kill where it is the one."""
        if os.getpid() != self.owner or not any(self.touches(place) for place in places):
            return
        self.count += 1
        again = self.code == errno.ENOSPC and self.count > self.number > 0 and name in LASTING
        if self.count == self.number or again:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            self.fired.append(name)
            self.places.append(str(places[-1]))
            place = places[-1] if not isinstance(places[-1], int) else None
            raise OSError(self.code, os.strerror(self.code), *([os.fspath(place)] if place is not None else []))


class FaultyFile:
    """An open file whose writes are operations; everything else is the file's own."""

    def __init__(self, file, faults: Faults, place):
        self._file, self._faults, self._place = file, faults, place

    def write(self, *arguments):
        self._faults.meet("write", self._place)
        return self._file.write(*arguments)

    def writelines(self, pieces):
        for piece in pieces:
            self.write(piece)

    def close(self):
        if self._file.closed:
            return
        try:
            self._faults.meet("close", self._place)
        finally:
            self._file.close()

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        self.close()

    def __iter__(self):
        return iter(self._file)

    def __getattr__(self, name):
        return getattr(self._file, name)


@contextmanager
def faults(root, number: int, code: int = 0, *, kill: bool = False):
    """Let the ``number``-th operation under a folder fail with an errno, or kill this process; 0: count only."""
    met = Faults(root, number, code, kill=kill)
    real_open = io.open

    def opened(file, mode="r", *arguments, **more):
        writes = bool(set(mode) & set("wax+"))
        if not writes or not (isinstance(file, int | str | os.PathLike) and met.touches(file)):
            return real_open(file, mode, *arguments, **more)
        met.meet("open", file)
        return FaultyFile(real_open(file, mode, *arguments, **more), met, file)

    def guarded(name: str, real, *, ends: int):
        def call(*arguments, **more):
            met.meet(name, *arguments[:ends])
            return real(*arguments, **more)

        return call

    def os_open(path, flags, *arguments, real=os.open, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and "dir_fd" not in more:
            met.meet("os.open", path)
        return real(path, flags, *arguments, **more)

    with ExitStack() as stack:
        for module in (builtins, io):
            stack.enter_context(patch.object(module, "open", opened))
        stack.enter_context(patch.object(os, "open", os_open))
        for name, ends in (
            *(("write", 1), ("fsync", 1), ("mkdir", 1), ("unlink", 1), ("remove", 1), ("rmdir", 1), ("chmod", 1)),
            *(("replace", 2), ("rename", 2)),
        ):
            stack.enter_context(patch.object(os, name, guarded(name, getattr(os, name), ends=ends)))
        yield met
