"""What the verbs share: progress and tables on stderr, results on stdout.

Names of files and organs are shown as they are: what rich would take for markup or an emoji is text, and what a terminal
would obey or cannot show is escaped.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from viscera.datasets.sources import Problem


UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, those that turn the direction of writing, and surrogates (names that are not UTF-8)."""


def shown(text: str) -> str:
    r"""Return a text as it can be shown.

    Example:
        >>> print(shown(f"a[/b]{chr(27)}[31m.nii.gz"))
        a[/b]\x1b[31m.nii.gz
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str) -> None:
    """Write a message for the user to stderr."""
    sys.stderr.write(shown(text) + "\n")


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
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        _plain_description(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=False,
    )


def _plain_description() -> "ProgressColumn":
    """Return the column that says what a bar counts, without markup."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Description(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(shown(task.description).replace("\n", "\\n"))

    return Description()


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, stderr: bool = False) -> None:
    """Show a table; the first column is text, the others numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=shown(title), title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(shown(column), justify="left" if number == 0 or stderr else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(shown, row))
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    console.width = max(console.width, 100)
    console.print(table)


def show_problems(problems: Sequence["Problem"]) -> None:
    """Show what went wrong with which file, and what to do."""
    rows = [(problem.case, problem.file, problem.what, problem.remedy) for problem in problems]
    show_table(counted(len(problems), "problem"), ("case", "file", "what is wrong", "what to do"), rows, stderr=True)
