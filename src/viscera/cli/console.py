"""What the verbs share: progress and tables on stderr, results on stdout."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from viscera.datasets.sources import Problem


def say(text: str) -> None:
    """Write a message for the user to stderr."""
    sys.stderr.write(text + "\n")


def counted(number: int, what: str) -> str:
    """Return a number with its noun: "1 scan", "2 scans"."""
    return f"{number} {what}{'s' * (number != 1)}"


def progress() -> "Progress":
    """Return a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=False,
    )


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, stderr: bool = False) -> None:
    """Show a table; the first column is text, the others numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 or stderr else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(stderr=stderr)
    console.width = max(console.width, 100)
    console.print(table)


def show_problems(problems: Sequence["Problem"]) -> None:
    """Show what went wrong with which file, and what to do."""
    rows = [(problem.case, problem.file, problem.what, problem.remedy) for problem in problems]
    show_table(counted(len(problems), "problem"), ("case", "file", "what is wrong", "what to do"), rows, stderr=True)
