"""viscera report: one HTML page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import say


@dataclass(frozen=True)
class Options:
    """Write one self-contained HTML page: of a run its curves and scores; of an evaluation tables, box plots and, given
    where the scans are, montages of the best and worst cases; of a store its HU and label statistics.
    """

    target: Annotated[Positional[Path], arg(metavar="TARGET")]
    """A run's folder, a store, or the JSON that `viscera evaluate --json` wrote."""
    out: Path | None = None
    """The page; beside the target by default."""
    overwrite: bool = False
    """Replace a page that stands there."""
