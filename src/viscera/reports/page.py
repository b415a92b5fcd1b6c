"""What a report page consists of, and how it becomes one HTML file that loads nothing from elsewhere.

The other files of this package fill a ``Page``; templates/report.html lays it out.
"""

import base64
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from matplotlib.figure import Figure

from viscera.datasets.sources import Problem
from viscera.figures.canvas import inline_svg
from viscera.io.paths_in_text import last_part, without_folders

MISSING = "–"
"""Stands where there is no value."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What is read.
        number: What is sorted by; None sorts by the text.
        share: A bar behind the text, in [0, 1].
        small: Quieter text behind it.
    """

    text: str
    number: float | None = None
    share: float | None = None
    small: str = ""


@dataclass(frozen=True)
class Row:
    """One row; ``total`` sets it off."""

    cells: tuple[Cell, ...]
    total: bool = False


@dataclass(frozen=True)
class Table:
    """A table that the reader can sort; the first ``words`` columns hold words, the others numbers."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    words: int = 1


@dataclass(frozen=True)
class Section:
    """A titled part of the page.

    Attributes:
        title: Its heading.
        text: A sentence or two on how to read it.
        charts: SVG elements that ``chart`` gave; they go into the page as they are.
        images: (caption, PNG in base64).
        notes: Sentences, one below the other.
        table: Below them.
    """

    title: str
    text: str = ""
    charts: tuple[str, ...] = ()
    images: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    table: Table | None = None


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        kind: What is reported on, in a word or two.
        title: Its name.
        subtitle: One sentence.
        tiles: (name, value) of the few numbers that matter most.
        sections: From top to bottom.
    """

    kind: str
    title: str
    subtitle: str
    tiles: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...] = field(default=())

    @property
    def version(self) -> str:
        """Of viscera."""
        return version("viscera")


def render(page: Page, template: str = "report.html", **more: object) -> str:
    """Return the page as HTML. Every text is escaped; only the charts, which viscera drew, are taken as they are.

    Args:
        page: What it says.
        template: Which of templates/.
        more: What the template knows beside the page.
    """
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(page=page, **more)


def _template(name: str) -> str:
    """Return the text of a template."""
    return files("viscera.reports").joinpath("templates", name).read_text(encoding="utf-8")


def chart(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element, its texts escaped; ``name`` must be unique on the page."""
    return inline_svg(figure, name)


def png_base64(draw: Callable[[Path], Path]) -> str:
    """Return the PNG that ``draw`` writes to the path that it is given, in base64."""
    with tempfile.TemporaryDirectory() as folder:
        return base64.b64encode(draw(Path(folder) / "picture.png").read_bytes()).decode("ascii")


def counted(count: int, what: str) -> str:
    """Return a number of things.

    Example:
        >>> counted(1, "case"), counted(2, "case")
        ('1 case', '2 cases')
    """
    return f"{count} {what}{'' if count == 1 else 's'}"


def number_cell(value: float | None, *, digits: int = 3, bar: bool = False) -> Cell:
    """Return a number's cell, "–" for None, NaN and infinity; ``bar`` draws a share in [0, 1] behind it."""
    if value is None or not math.isfinite(value):
        return Cell(MISSING)
    return Cell(f"{value:.{digits}f}", number=value, share=round(min(max(value, 0.0), 1.0), 3) if bar else None)


def facts_table(facts: dict[str, object]) -> Table:
    """Return a table of names and values; nested settings are named with dots."""
    rows = [Row((Cell(name), Cell(text))) for name, text in _setting_rows(facts, "")]
    return Table(("setting", "value"), tuple(rows), words=2)


def problem_table(problems: Sequence[Problem]) -> Table:
    """Return a table of files that could not be used, and what to do about each."""
    rows = [
        Row(
            (
                Cell(problem.case),
                Cell(last_part(problem.file)),
                Cell(without_folders(problem.what, problem.file)),
                Cell(without_folders(problem.remedy, problem.file)),
            )
        )
        for problem in problems
    ]
    return Table(("case", "file", "problem", "remedy"), tuple(rows), words=4)


def _setting_rows(value: object, name: str) -> list[tuple[str, str]]:
    """List (name.of.setting, text), with paths cut to their last part."""
    if isinstance(value, dict) and value:
        return [pair for key, one in value.items() for pair in _setting_rows(one, f"{name}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [(name, ", ".join(text for one in value for _, text in _setting_rows(one, "")) or MISSING)]
    if value is None or value == {}:
        return [(name, MISSING)]
    if isinstance(value, float):
        return [(name, f"{value:.6g}")]
    return [(name, without_folders(str(value)) or MISSING)]
