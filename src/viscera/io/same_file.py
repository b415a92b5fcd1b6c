"""Whether two paths are one file, whatever their spelling: links, hard links, "..", another case where the disk has none.

Verbs ask before they write, so that what they are given is never replaced by what they make of it.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from viscera.errors import FileError


class Files:
    """Some paths, and whether another one is any of them."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._names: dict[object, Path] = {}
        for path in paths:
            for key in _keys(path):
                self._names.setdefault(key, path)

    def same_as(self, path: Path) -> Path | None:
        """Return which of them a path is, or None."""
        return next((self._names[key] for key in _keys(path) if key in self._names), None)


def refuse_inputs(outputs: Iterable[Path | None], inputs: Iterable[Path]) -> None:
    """Stop before any work if something that is to be written is one of the files that are read, or is to be written twice.

    Args:
        outputs: Files; None counts for nothing.
        inputs: Files, or folders, which stand for the files directly in them.

    Raises:
        FileError: An output is an input, or another output.
    """
    wanted = [path for path in outputs if path is not None]
    places: set[object] = set()
    for path in wanted:
        place = next(_keys(path))
        if place in places:
            raise FileError(f"{path} is named twice as an output", "Give each output a name of its own.", file=path)
        places.add(place)
    given = Files(file for path in inputs for file in _files_of(path)) if wanted else Files(())
    for path in wanted:
        same = given.same_as(path)
        if same is not None:
            named = "" if same == path else f": it is the same file as {same}"
            raise FileError(
                f"{path} is an input of this command, and would be replaced{named}", "Choose another output.", file=path
            )


def _files_of(path: Path) -> Iterator[Path]:
    """Yield a file, or the files directly in a folder."""
    if not path.is_dir():
        yield path
        return
    try:
        yield from (entry for entry in path.iterdir() if not entry.is_dir())
    except OSError:  # whoever reads the folder says so
        return


def _keys(path: Path) -> Iterator[object]:
    """Yield by what a path is known: where it leads, and which file on which disk that is."""
    try:
        yield path.resolve()
    except (OSError, RuntimeError):  # a link that leads to itself
        yield Path(os.path.abspath(path))  # noqa: PTH100 (resolve is what failed)
    try:
        found = path.stat()
    except OSError:
        return
    yield found.st_dev, found.st_ino
