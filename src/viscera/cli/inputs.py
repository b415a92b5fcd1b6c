"""What several verbs take: data sets named as LAYOUT=DIR, and their cases of one split."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.errors import RunError, SettingError, did_you_mean

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
        raise SettingError(f"a data set is named as LAYOUT=DIR, got '{text}'. Layouts: {', '.join(LAYOUTS)}.")
    if layout not in LAYOUTS:
        raise SettingError(
            f"there is no layout '{layout}'.{did_you_mean(layout, LAYOUTS)} Choose one of {', '.join(LAYOUTS)}."
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


def of_split(sources: Sequence["Source"], run: Path | None, split: str) -> list["Source"]:
    """Keep the cases of a split of the store that a run was trained on; all where ``split`` is "all".

    Raises:
        RunError: The run does not say what its splits are.
        SettingError: None of the cases is in the split.
    """
    from viscera.preparation.case import case_name

    if split == "all":
        return list(sources)
    facts = run / "run.json" if run else None
    if facts is None or not facts.is_file():
        raise RunError(f"--split {split} needs the folder of a run, with its run.json; {run} is none.")
    try:
        chosen = set(json.loads(facts.read_text())["splits"][split])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{facts} is damaged: it does not list the cases of '{split}'. Copy it again, or train again."
        ) from error
    kept = [source for source in sources if case_name(source) in chosen]
    if not kept:
        raise SettingError(f"none of the {len(sources)} cases is in the split '{split}' of {run}.")
    return kept
