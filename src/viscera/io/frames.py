"""Where in which code something was raised, as lines of text in which nothing names a patient or a user's folder."""

import traceback
from collections.abc import Iterator
from pathlib import PurePath

MOST_CAUSES = 8
"""Exceptions of a chain that are told of."""
MOST_FRAMES = 20
"""At either end: of a recursion without end there are a thousand."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it came from, at most eight, none of them twice."""
    one: BaseException | None = error
    seen: set[int] = set()
    while one is not None and id(one) not in seen and len(seen) < MOST_CAUSES:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def frame_lines(error: BaseException) -> list[str]:
    """Return the first and last frames of an exception: file, line, function."""
    frames = [*traceback.extract_tb(error.__traceback__)]
    if len(frames) > 2 * MOST_FRAMES:
        frames = [*frames[:MOST_FRAMES], *frames[-MOST_FRAMES:]]
    return [f"  {place(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]


def place(file: str) -> str:
    """Return a file of code within its package, else its name alone.

    Example:
        >>> place("/home/miller/venv/lib/python3.11/site-packages/numpy/core/numeric.py")
        'numpy/core/numeric.py'
        >>> place("/home/miller/script.py")
        'script.py'
    """
    parts = PurePath(file.replace("\\", "/")).parts
    for top in ("site-packages", "src"):
        if top in parts[:-1]:
            return "/".join(parts[len(parts) - parts[::-1].index(top) :])
    return parts[-1] if parts else "?"
