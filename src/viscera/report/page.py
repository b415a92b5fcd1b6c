"""What a report page consists of, and how it becomes one HTML file that loads nothing from elsewhere.

The other files of this package fill a ``Page``; templates/report.html lays it out.
"""

import json
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path, PurePath

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from viscera.errors import FileError
from viscera.figures import inline_svg

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
        charts: SVG elements.
        images: (caption, PNG in base64).
        table: Below them.
    """

    title: str
    text: str = ""
    charts: tuple[Markup, ...] = ()
    images: tuple[tuple[str, str], ...] = ()
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


def render(page: Page) -> str:
    """Give the page as HTML. Every text is escaped; only the charts, which viscera drew, are taken as they are."""
    template = files("viscera").joinpath("templates", "report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(page=page)


def chart(figure: Figure, name: str) -> Markup:
    """Give a figure as an SVG element; ``name`` must be unique on the page."""
    return Markup(inline_svg(figure, name))  # safe: matplotlib escapes the texts that it draws


def number_cell(value: float | None, *, digits: int = 3, bar: bool = False) -> Cell:
    """Give a number's cell, "–" for None; ``bar`` draws a share in [0, 1] behind it."""
    if value is None:
        return Cell(MISSING)
    return Cell(f"{value:.{digits}f}", number=value, share=round(min(max(value, 0.0), 1.0), 3) if bar else None)


def facts_table(facts: dict[str, object]) -> Table:
    """Give a table of names and values; nested settings are named with dots."""
    rows = [Row((Cell(name), Cell(text))) for name, text in _flat(facts, "")]
    return Table(("setting", "value"), tuple(rows), words=2)


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        FileError: Missing, unreadable, or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path.name} cannot be read: {error.strerror}. Check the path.") from error
    except ValueError as error:
        raise FileError(f"{path.name} is no JSON ({error}). Pass a file that viscera wrote.") from error
    if not isinstance(value, dict):
        raise FileError(
            f"{path.name} holds a JSON {type(value).__name__}, not an object. Pass a file that viscera wrote."
        )
    return value


def _flat(value: object, name: str) -> list[tuple[str, str]]:
    """List (name.of.setting, text), with paths cut to their last part: a folder may be named after a patient."""
    if isinstance(value, dict) and value:
        return [pair for key, one in value.items() for pair in _flat(one, f"{name}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [(name, ", ".join(text for one in value for _, text in _flat(one, "")) or MISSING)]
    if value is None or value == {}:
        return [(name, MISSING)]
    if isinstance(value, float):
        return [(name, f"{value:.6g}")]
    text = str(value)
    return [(name, PurePath(text.replace("\\", "/")).name if text.startswith(("/", "~")) or ":\\" in text else text)]
