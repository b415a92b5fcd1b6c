"""viscera prepare: data sets -> a store to train from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, UseAppendAction

from viscera.cli.console import data_sets, progress, say, show_problems
from viscera.errors import SettingError
from viscera.preprocessing import prepare_store
from viscera.recipes import find_recipe


@dataclass(frozen=True)
class Options:
    """Turn data sets into one store to train from.

    Each scan is checked, turned to axial order and resized as the recipe wants it; each label becomes the recipe's. Which
    organs a case annotates is kept: what it does not annotate is unknown, not background. Scans that cannot be used are
    listed with what to do, and stop no other. Say the same again to go on after an interruption, or to add data sets.
    """

    store: Positional[Path]
    """Folder of the store."""
    data: tuple[str, ...]
    """Data sets as LAYOUT=DIR; see `viscera info layouts`. A file annotated.json in DIR ({case: [organs]}, "*" for all
    others) says which organs a case annotates where the layout does not know."""
    recipe: str = "zhang2d"
    """Whose preparation and organs: see `viscera info recipes`."""
    jobs: int = 0
    """Scans prepared at once; 0: one per core, fewer where memory is short."""
    seed: int = 0
    """Of the split into training, validation and test patients."""
    keep_going: bool = False
    """Exit with 0 even where scans could not be used."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera prepare")
    if options.jobs < 0:
        raise SettingError(f"--jobs must not be negative, got {options.jobs}.")
    recipe = find_recipe(options.recipe)
    return prepare(options, recipe)
