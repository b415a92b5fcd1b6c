"""What `viscera train --folds` tells: which fold is at work, and at the end the scores of all cases."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.console import counted, progress, say

if TYPE_CHECKING:
    from viscera.evaluation.scores import Evaluation
    from viscera.learning.cross_validation.running import FoldWatch


@contextmanager
def watching_folds(epochs: int) -> "Iterator[FoldWatch]":
    """Yield whom a cross-validation is to tell: a line per fold, and bars of what follows its training."""
    from viscera.cli.train import training_watch
    from viscera.learning.cross_validation.running import FoldWatch

    def fold(number: int, cases: int, held_out: int) -> None:
        say(f"fold {number}: {counted(cases, 'training case')}, {held_out} held out")

    with progress() as bar:
        training = training_watch(epochs, bar)
        tasks = {what: bar.add_task(what, total=None, visible=False) for what in ("held-out cases", "scores")}

        def told(what: str, done: int, cases: int) -> None:
            bar.update(tasks[what], completed=done, total=cases, visible=True)

        yield FoldWatch(
            fold,
            training,
            labelled=lambda done, cases: told("held-out cases", done, cases),
            scored=lambda done, cases: told("scores", done, cases),
        )


def show_out_of_fold(run: Path, found: "Evaluation | None", *, only: int | None) -> None:
    """Show the scores of all held-out cases, or say what is still missing."""
    if found is None and only is None:
        say("not all folds are finished: another process is at one of them. The table follows when it ends.")
        return
    if found is None:
        say(
            f"fold {only} is done; the table of all cases follows with the last fold\n"
            f"next:    the other folds: the same command with --fold N. This one alone: viscera predict SCAN OUT --weights {run} "
            f"--fold {only}"
        )
        return
    from viscera.cli.evaluate import show_scores

    show_scores(found, ("dice", "nsd", "hd95_mm"))
    for note in found.notes:
        say(f"note: {note}")
    scores = run / "out_of_fold" / "scores.json"
    say(
        f"scores:  {scores} (viscera report {scores})\n"
        f"next:    viscera predict SCAN OUT --weights {run}   (all folds; one of them: --fold K)\n"
        f"         viscera choose {run} --out CHOICE.json   (what post-processing is worth)"
    )
