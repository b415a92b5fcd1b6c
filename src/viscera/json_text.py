"""Reading JSON that anybody may have written: bounded in size, depth and numbers, and each refusal has its reason.

The standard library's reader takes NaN, the last of two equal names, half of a surrogate pair and numbers of any length, and ends
with RecursionError where brackets nest deep. All readers of JSON go through here (what pydantic reads, by ``parse_json`` first).
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from viscera.errors import FileError, VisceraError

LARGEST_MIB = 256
"""Of a file. An evaluation of 10,000 cases of 20 organs has 60."""
DEEPEST = 64
"""Brackets within brackets. A recipe has 4, a dataset.json 3."""
DIGITS = 19
"""Of a whole number: times in ns have 19."""
LONGEST_NAME = 1000
"""Letters of a name in an object. Organs and cases have fewer than 100."""
ESCAPED = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
"""An escape that may stand for half of a surrogate pair, or for the zero that no path may hold."""


def parse_json(text: str | bytes, *, constants: bool = False) -> Any:  # noqa: ANN401  (as the standard library's)
    """Return what JSON says.

    Args:
        text: As UTF-8, where it is bytes; a byte order mark is passed over.
        constants: Let NaN and Infinity pass, which logs of a training that went astray hold.

    Raises:
        ValueError: It is not JSON, or beyond the bounds of this module.

    Example:
        >>> parse_json('{"liver": 1}')
        {'liver': 1}
        >>> parse_json('{"liver": 1, "liver": 2}')
        Traceback (most recent call last):
        ValueError: the name 'liver' stands twice in one object
    """
    if len(text) > LARGEST_MIB * 2**20:
        raise ValueError(f"it is larger than {LARGEST_MIB} MiB")
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    if _depth(text) > DEEPEST:
        raise ValueError(f"its brackets nest deeper than {DEEPEST}")
    value = json.loads(
        text,
        object_pairs_hook=_object,
        parse_int=_whole,
        parse_float=_number,
        parse_constant=float if constants else _refuse,
    )
    if ESCAPED.search(text):
        _require_text(value)
    return value


def load_json(path: Path, *, constants: bool = False) -> Any:  # noqa: ANN401
    """Return what a JSON file says.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read, or as ``parse_json``.
    """
    return parse_json(load_text(path), constants=constants)


def load_text(path: Path) -> str:
    """Return a text file's content, of a bounded size.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read, is too large or not UTF-8.
    """
    try:
        if path.stat().st_size > LARGEST_MIB * 2**20:
            raise ValueError(f"it is larger than {LARGEST_MIB} MiB")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or "it cannot be read") from error


def read_text(path: Path, *, error: type[VisceraError] = FileError, remedy: str = "Correct the file.") -> str:
    """Return a text file's content.

    Args:
        path: The file.
        error: What to raise.
        remedy: What to do, for the message.

    Raises:
        VisceraError: The ``error``: it cannot be read, is too large or not UTF-8.
    """
    try:
        return load_text(path)
    except (OSError, ValueError) as reason:
        raise error(f"{path} cannot be read: {reason}", remedy, file=path) from reason


def read_json(
    path: Path, *, error: type[VisceraError] = FileError, remedy: str = "Correct the file."
) -> dict[str, object]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        error: What to raise.
        remedy: What to do, for the message.

    Raises:
        VisceraError: The ``error``: it cannot be read, is not JSON or holds something else.
    """
    try:
        value = load_json(path)
    except FileNotFoundError as reason:
        raise error(f"{path}: no such file", "Check the path.", file=path) from reason
    except ValueError as reason:
        raise error(f"{path} cannot be read as JSON: {reason}", remedy, file=path) from reason
    if not isinstance(value, dict):
        raise error(f"{path} must hold an object {{...}}, not a {type(value).__name__}", remedy, file=path)
    return value


def _depth(text: str) -> int:
    """Return how deep brackets can nest in a text: those within strings count, too, unless that is too deep."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return 0
    deepest = depth = 0
    quoted = False
    for found in re.finditer(r'\\.|["\[\]{}]', text, re.DOTALL):
        letter = found[0]
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif not quoted and letter in "]}":
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object whose names are different, and names."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"the name {twice[:80]!r} stands twice in one object")
    for name in found:
        if len(name) > LONGEST_NAME:
            raise ValueError(f"a name has {len(name)} letters, more than {LONGEST_NAME}")
    return found


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS:
        raise ValueError(f"a whole number has {len(text)} digits, more than {DIGITS}")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number is too large: {text[:20]}")
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _require_text(value: object) -> None:
    """Raise ValueError where a string is not text that can be written, or holds a zero."""
    written = json.dumps(value, ensure_ascii=False)
    try:
        written.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("a string holds half of a surrogate pair") from error
    if "\\u0000" in written:
        raise ValueError("a string holds a zero character")
