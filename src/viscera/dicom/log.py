"""The log of results: a file that only grows, one line of JSON per result, whoever writes to it at the same time."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from viscera.errors import FileError, SettingError
from viscera.io.atomic import writing
from viscera.io.locks import NO_LOCKS

WAIT_S = 60.0
"""How long a line waits for those of other processes, each of which takes milliseconds."""


def append_result(file: Path, row: Mapping[str, object]) -> None:
    r"""Append one result to a log, on the disk before this returns.

    A line is written by a single call to a file opened for appending, under a lock, so that lines of several processes
    never mix. What a killed process or a full disk left of a line stays as it is (it is evidence), but on a line of its own.

    Args:
        file: The log. It is made, and its folder.
        row: UIDs, hashes, versions, the outcome: never what a header says of the patient. "time" is added in front where it
            has none: UTC, as in "2026-01-31T12:34:56.789+00:00".

    Raises:
        SettingError: The row cannot be written as JSON; the log is as before.
        FileError: The log cannot be written to, or another process held it for a minute.

    Example:
        >>> append_result(Path("results.jsonl"), {"time": "now", "outcome": "done"})
        >>> Path("results.jsonl").read_text()
        '{"time": "now", "outcome": "done"}\n'
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    try:
        line = json.dumps({"time": now, **row}, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise SettingError(
            "a result cannot be written as a line of JSON",
            "Give it text, finite numbers, lists and objects.",
            file=file,
        ) from error
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file.with_name(f".{file.name}.lock"), timeout=WAIT_S)
        try:
            lock.acquire()
        except TimeoutError as error:
            raise FileError(
                f"{file} is held by another process",
                "Wait until it is done, then run the same command again.",
                file=file,
            ) from error
        except (NotImplementedError, OSError) as problem:
            if isinstance(problem, OSError) and problem.errno not in NO_LOCKS:
                raise  # on a disk that knows no locks the single call keeps lines apart as well as that disk can
        try:
            _append(file, line)
        finally:
            lock.release()


def _append(file: Path, line: bytes) -> None:
    """Write a line at the end of a file, after the end of the line before it, and wait for the disk."""
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end:
            os.lseek(descriptor, end - 1, os.SEEK_SET)
            if os.read(descriptor, 1) != b"\n":
                line = b"\n" + line
        if os.write(descriptor, line) != len(line):
            raise OSError(None, "the disk took only a part of the line")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
