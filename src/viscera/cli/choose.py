"""viscera choose: cross-validated runs -> which networks to take, and what post-processing is worth."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import counted, progress, say, show_table
from viscera.config import Accelerator
from viscera.errors import FileError, SettingError
from viscera.labels import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from viscera.learning.cross_validation.choosing import Finding


@dataclass(frozen=True)
class Options:
    """Compare cross-validated runs (viscera train --folds) on the cases that their folds held out, and choose.

    Taken is the run with the highest mean Dice, of annotated organs. Its networks and those of the other runs together are taken
    instead where that is better by more than noise: the 95 % interval of the difference over patients lies above 0, and Wilcoxon's
    test gives less than 0.05. Post-processing is chosen organ by organ in the same way: holes filled, only the largest piece kept,
    and what the recipe has, such as edges moved by HU. It replaces the recipe's own. `viscera predict --weights FILE` segments
    with what was chosen.
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]")]
    """Finished cross-validated runs. Of one alone, only post-processing is chosen."""
    out: Path
    """The choice: a .json file. It names the weights by their paths from its own folder; keep them together."""
    store: Path | None = None
    """Where the cases are, if not where the runs were trained on them."""
    device: Accelerator = "auto"
    """Where networks run; auto takes a GPU where there is one."""
    overwrite: bool = False
    """Replace a file that stands there."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera choose", config=(FlagCreatePairsOff,))
    if options.out.suffix != ".json":
        raise SettingError(f"--out {options.out}: a choice is a JSON file", "Give a name that ends in .json.")
    if options.out.exists() and not options.overwrite:
        raise FileError(f"{options.out} exists already", "Choose another name or pass --overwrite.", file=options.out)
    from viscera.learning.cross_validation.choosing import words_of
    from viscera.learning.cross_validation.trying import ChoiceWatch, choose

    with progress() as bar:
        tasks = {what: bar.add_task(what, total=None, visible=False) for what in ("together", "post-processing")}

        def told(what: str, done: int, cases: int) -> None:
            bar.update(tasks[what], completed=done, total=cases, visible=True)

        found = choose(
            options.runs,
            options.out,
            store=options.store,
            accelerator=options.device,
            watch=ChoiceWatch(
                labelled=lambda done, cases: told("together", done, cases),
                tidied=lambda done, cases: told("post-processing", done, cases),
            ),
        )
    show_findings("Dice of held-out cases: second minus first", found.decision.findings)
    show_findings("Post-processing: Dice with it minus without", found.tidying)
    say(f"on {counted(found.cases, 'held-out case')} of {counted(found.patients, 'patient')}, annotated organs only")
    for line in (*found.decision.why, *(f"note: {note}" for note in found.notes)):
        say(line)
    say(f"post-processing: {words_of(found.postprocessing)}")
    say(f"chosen: {found.decision.chosen.name}\nnext:   viscera predict SCAN OUT --weights {options.out}")
    return 0


def show_findings(title: str, findings: "Sequence[Finding]") -> None:
    """Show comparisons in which anything differs."""
    differing = [one for one in findings if not (one.difference == one.low == one.high == 0)]
    rows = [
        (
            one.what,
            readable(one.organ),
            str(one.patients),
            f"{one.difference:+.3f}",
            f"{one.low:+.3f} to {one.high:+.3f}",
            f"{one.p_value:.2g}",
            "yes" if one.better else "",
        )
        for one in differing
    ]
    columns = ("what", "organ", "patients", "Dice", "95 %", "p", "better")
    if rows:
        show_table(title, columns, rows)
    if len(differing) < len(findings):
        say(f"{counted(len(findings) - len(differing), 'comparison')} in which nothing differs: not shown")
