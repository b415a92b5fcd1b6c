"""viscera report: one HTML page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import say


@dataclass(frozen=True)
class Options:
    """Write one self-contained HTML page.

    Of a run: its settings, curves and scores; of a cross-validated one, scores of all cases. Of an evaluation: tables and charts
    (with pictures: `viscera evaluate --html`). Of a store: HU distribution, label frequencies, splits, problems.
    """

    target: Annotated[Positional[Path], arg(metavar="TARGET")]
    """A run's folder, a store, or the JSON that `viscera evaluate --json` wrote."""
    out: Path | None = None
    """The page; beside the target by default."""
    overwrite: bool = False
    """Replace a page that stands there."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera report", config=(FlagCreatePairsOff,))
    from viscera.reports.write import write_report

    target = options.target
    out = options.out or (target / "report.html" if target.is_dir() else target.with_suffix(".html"))
    say(f"report: {write_report(target, out, overwrite=options.overwrite)}")
    return 0
