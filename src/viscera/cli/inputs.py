"""What several verbs take: data sets named as LAYOUT=DIR."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.errors import SettingError, did_you_mean

if TYPE_CHECKING:
    from viscera.datasets.sources import Problem, Source


def data_set(text: str) -> tuple[str, Path]:
    """Take LAYOUT=DIR apart.

    Raises:
        SettingError: It is not of that form, or there is no such layout.
    """
    from viscera.datasets.layouts import LAYOUTS

    layout, equals, folder = text.partition("=")
    if not equals:
        raise SettingError(f"a data set is named as LAYOUT=DIR, got '{text}'", f"Layouts: {', '.join(LAYOUTS)}.")
    if layout not in LAYOUTS:
        raise SettingError(
            f"there is no layout '{layout}'", f"{did_you_mean(layout, LAYOUTS)} Choose one of {', '.join(LAYOUTS)}."
        )
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
