"""Rows -> CSV."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Protocol, runtime_checkable

from viscera.io.json_codec import without_nan


@runtime_checkable
class TextFile(Protocol):
    """What takes text."""

    def write(self, text: str, /) -> object:
        """Take some."""
        ...


def to_csv(rows: Sequence[Mapping[str, object]], *, columns: Iterable[str] = ()) -> str:
    r"""Return rows as CSV under a header; what a row lacks, NaN, infinity and None become empty fields.

    Args:
        rows: {column: value}.
        columns: Those that come first, in this order; the rest in order of appearance.

    Example:
        >>> to_csv([{"case": "a", "dice": 0.5}, {"case": "b", "dice": float("nan"), "note": "x"}])
        'case,dice,note\na,0.5,\nb,,x\n'
    """
    text = StringIO()
    write_csv(text, rows, list(dict.fromkeys([*columns, *(name for row in rows for name in row)])))
    return text.getvalue()


def write_csv(file: TextFile, rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Write rows as ``to_csv`` has them, one after the other, so that they need not be in memory.

    Args:
        file: Opened with newline="".
        rows: {column: value}.
        columns: All that there are, in this order.
    """
    table = csv.DictWriter(file, list(columns), lineterminator="\n")
    table.writeheader()
    table.writerows(without_nan(row) for row in rows)
