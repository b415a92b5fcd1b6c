"""Writing files so that a kill at any instant leaves the old file or the new one, never half of one.

Every writer goes through ``replacing``; what the system refuses becomes a FileError that names file, cause and remedy.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from viscera.errors import FileError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, the quota or the largest file is at its end."""
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
"""The place itself is the trouble: another one will do."""
ABANDONED_S = 24 * 3600
"""A half-written file of another machine (on a shared disk) is a leftover when nobody touched it for so long."""

HIDDEN = re.compile(r"^(\.\d+-[0-9a-f]{6}\.)+")
"""How ``hidden_name`` begins names, twice where what is hidden is written as such a file; the user knows the rest."""


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    It gets the permissions that the umask allows, whatever library writes it. What killed processes left half-written for
    the same ``path`` is removed.

    Args:
        path: Where the file is to stand in the end. Its folder is made.
        overwrite: Whether a file that stands there already may be replaced.

    Raises:
        FileError: The file exists and must not be replaced, is a device or a pipe, or cannot be written.
    """
    if not overwrite and path.exists():
        raise FileError(f"{path.name} exists already", "Choose another name or pass --overwrite.", file=path)
    if path.exists() and not (path.is_file() or path.is_dir()):  # it would be replaced, even /dev/null
        raise FileError(f"{path} is a device or a pipe, not a file", "Choose another name.", file=path)
    part = path.with_name(hidden_name(path.name))
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path)
            part.touch()
            mode = part.stat().st_mode
            yield part
            if part.stat().st_mode != mode:  # safetensors makes its files readable for their owner only
                part.chmod(mode)
            with part.open("r+b") as file:  # Windows flushes only what may be written
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            with suppress(OSError):  # else it would hide the reason
                part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system refuses while ``path`` is written into a FileError that says what to do."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> FileError:
    """Return what is wrong where a file or folder cannot be written, with the space left where that may be the reason.

    Example:
        >>> str(cannot_write(Path("/nowhere/a.json"), PermissionError(13, "Permission denied")))
        'cannot write /nowhere/a.json: Permission denied. Choose a folder that you may write to.'
    """
    return cannot_use(path, error, doing="write")


def cannot_use(path: Path | None, error: OSError, *, doing: str = "use") -> FileError:
    """Return what is wrong where the system refuses something; None: it does not say of which file."""
    path = path and path.with_name(HIDDEN.sub("", path.name))
    what = f"cannot {doing} {path or 'a file'}: {error.strerror or error}"
    if error.errno in REFUSED:
        return FileError(what, "Choose a folder that you may write to.", file=path)
    if error.errno in FULL or error.errno is None:  # None: numpy counts the bytes, but does not say why they are few
        return FileError(f"{what}{_space(path)}", "Make room, or choose another disk, and try again.", file=path)
    return FileError(what, "Check the disk and its connection, then try again.", file=path)


def _space(path: Path | None) -> str:
    """Return how much is free where a file is to stand, in brackets; nothing where that cannot be told."""
    with suppress(OSError, StopIteration):
        path = path or Path("file")
        folder = next(folder for folder in path.absolute().parents if folder.is_dir())
        return f" ({shutil.disk_usage(folder).free / 2**20:.1f} MiB are free in {folder})"
    return ""


def hidden_name(name: str) -> str:
    """Return the name under which this process writes what is to be called ``name``."""
    return f".{os.getpid()}-{_machine()}.{name}"


def remove_abandoned(path: Path) -> None:
    """Remove what processes that are gone left half-written for ``path``, files and folders.

    Raises:
        OSError: The folder cannot be read.
    """
    for child in path.parent.glob(f".*-*.{_literal(path.name)}"):
        begins = HIDDEN.match(child.name)
        if begins is None or child.name[begins.end() :] != path.name:
            continue
        pid, _, machine = begins[1].strip(".").partition("-")
        with suppress(OSError):  # a leftover is not worth a failure
            if machine == _machine():
                gone = int(pid) != os.getpid() and not psutil.pid_exists(int(pid))
            else:
                gone = time.time() - child.stat().st_mtime > ABANDONED_S
            if gone and child.is_dir():
                shutil.rmtree(child, ignore_errors=True)
            elif gone:
                child.unlink(missing_ok=True)


def _literal(name: str) -> str:
    """Return a file's name with what ``glob`` would take as a pattern escaped."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _machine() -> str:
    """Return six digits for this machine: process numbers mean something on their own machine only."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def write_text(path: Path, text: str, *, overwrite: bool = True) -> None:
    """Write a text file whole or not at all."""
    with replacing(path, overwrite=overwrite) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, overwrite: bool = True) -> None:
    """Write an indented JSON file whole or not at all; NaN and infinity are refused (JSON has none)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", overwrite=overwrite)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last even if the machine stops now.

    Raises:
        OSError: The disk or the system cannot.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
