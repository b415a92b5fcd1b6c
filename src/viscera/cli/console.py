"""What the verbs share: progress and tables on stderr, results on stdout."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from viscera.datasets import LAYOUTS, Problem, Source, find_sources
from viscera.errors import RunError, SettingError, did_you_mean
from viscera.preprocessing import case_name


def say(text: str) -> None:
    """Write a message for the user to stderr."""
    sys.stderr.write(text + "\n")


def progress() -> Progress:
    """Give a progress bar on stderr."""
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
    table = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 or stderr else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(stderr=stderr)
    console.width = max(console.width, 100)
    console.print(table)


def show_problems(problems: Sequence[Problem]) -> None:
    """Show what went wrong with which file, and what to do."""
    rows = [(problem.case, problem.file, problem.what, problem.remedy) for problem in problems]
    show_table(f"{len(problems)} problems", ("case", "file", "what is wrong", "what to do"), rows, stderr=True)


def data_set(text: str) -> tuple[str, Path]:
    """Take LAYOUT=DIR apart.

    Raises:
        SettingError: It is not of that form, or there is no such layout.
    """
    layout, equals, folder = text.partition("=")
    if not equals:
        raise SettingError(f"a data set is named as LAYOUT=DIR, got '{text}'. Layouts: {', '.join(LAYOUTS)}.")
    if layout not in LAYOUTS:
        raise SettingError(f"there is no layout '{layout}'.{did_you_mean(layout, LAYOUTS)} Choose one of {', '.join(LAYOUTS)}.")
    return layout, Path(folder)


def data_sets(texts: Sequence[str]) -> tuple[list[Source], list[Problem]]:
    """Find the cases of data sets named as LAYOUT=DIR."""
    sources, problems = [], []
    for text in texts:
        found, wrong = find_sources(*data_set(text))
        sources += found
        problems += wrong
    return sources, problems


def of_split(sources: Sequence[Source], run: Path | None, split: str) -> list[Source]:
    """Keep the cases of a split of the store that a run was trained on; all where ``split`` is "all".

    Raises:
        RunError: The run does not say what its splits are.
        SettingError: None of the cases is in the split.
    """
    if split == "all":
        return list(sources)
    facts = run / "run.json" if run else None
    if facts is None or not facts.is_file():
        raise RunError(f"--split {split} needs the folder of a run, with its run.json; {run} is none.")
    chosen = set(json.loads(facts.read_text())["splits"][split])
    kept = [source for source in sources if case_name(source) in chosen]
    if not kept:
        raise SettingError(f"none of the {len(sources)} cases is in the split '{split}' of {run}.")
    return kept
