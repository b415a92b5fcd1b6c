"""Writing files so that a kill at any instant leaves the old file or the new one, never half of one."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from viscera.errors import FileError


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Return a temporary path beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    Args:
        path: Where the file is to stand in the end. Its folder is made.
        overwrite: Whether a file that stands there already may be replaced.

    Raises:
        FileError: The file exists and must not be replaced, or its folder cannot be written to.
    """
    if path.exists() and not overwrite:
        raise FileError(f"{path.name} exists already", "Choose another name or pass --overwrite.", file=path)
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        raise FileError(f"cannot write {path}: {error.strerror}", "Choose a folder that you may write to.") from error
    finally:
        with suppress(OSError):  # else it would hide the reason
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, overwrite: bool = True) -> None:
    """Write a text file whole or not at all."""
    with replacing(path, overwrite=overwrite) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, overwrite: bool = True) -> None:
    """Write an indented JSON file whole or not at all; NaN and infinity are refused (JSON has none)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", overwrite=overwrite)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
