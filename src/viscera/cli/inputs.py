"""What several verbs take: data sets named as LAYOUT=DIR."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.errors import SettingError

if TYPE_CHECKING:
    from viscera.datasets.sources import Problem, Source


def data_set(text: str) -> tuple[str, Path]:
    """Take LAYOUT=DIR apart; LAYOUT may be LAYOUT:NAME, as ``find_sources`` takes it.

    Raises:
        SettingError: It is not of that form, or there is no such layout.
    """
    from viscera.datasets.layouts import LAYOUTS, split_layout

    layout, equals, folder = text.partition("=")
    if not equals:
        raise SettingError(f"a data set is named as LAYOUT=DIR, got '{text}'", f"Layouts: {', '.join(LAYOUTS)}.")
    split_layout(layout)
    return layout, Path(folder)


def data_sets(texts: Sequence[str]) -> tuple[list["Source"], list["Problem"]]:
    """Find the cases of data sets named as LAYOUT=DIR."""
    from viscera.datasets.layouts import find_sources

    sources, problems = [], []
    for text in texts:
        found, wrong = find_sources(*data_set(text))
        sources += found
        problems += wrong
    return sources, problems
