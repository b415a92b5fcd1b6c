"""viscera demo: the whole way on synthetic patients, by the very commands that a user would say."""

import json
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import say
from viscera.errors import SettingError
from viscera.io import nifti

SHAPE = ("96", "128", "128")
VISITS = "0.7"
"""Of each slice per epoch: neighbouring slices 5 mm apart teach nearly the same."""
SEEDS = {"abdomenct1k": 1, "radiotherapy": 2}


@dataclass(frozen=True)
class Options:
    """Go the whole way in minutes, on synthetic patients.

    Write two data sets that annotate different organs, prepare them, train a small zhang2d, segment the patients that it
    never saw, measure, draw. Each step is a command that is shown before it runs; on your own data you would say the same.
    Run it again to go on after an interruption.
    """

    out: Annotated[Positional[Path], arg(metavar="OUT")] = Path("demo")
    """Folder for everything."""
    cases: int = 32
    """Patients per data set."""
    epochs: int = 7
    """Of training; fewer are quicker and worse."""
    recipe: str = "zhang2d-small"
    """What is trained."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera demo", config=(FlagCreatePairsOff,))
    if options.cases < 5 or options.epochs < 1:
        raise SettingError(
            "--cases must be at least 5 (training, validation and test need patients), --epochs at least 1."
        )
    started = time.perf_counter()
    out = options.out
    sets = {layout: out / layout for layout in SEEDS}
    named = [f"{layout}={folder}" for layout, folder in sets.items()]
    for layout, folder in sets.items():
        written = out / f"{layout}.written"
        if not written.exists():
            shutil.rmtree(folder, ignore_errors=True)
            step(
                "synth",
                folder,
                "--layout",
                layout,
                "--cases",
                options.cases,
                "--seed",
                SEEDS[layout],
                "--shape",
                *SHAPE,
            )
            written.touch()
    step("prepare", out / "store", "--data", *named, "--recipe", options.recipe)
    length = ("--training.epochs", options.epochs, "--training.visits-per-slice", VISITS)
    step("train", options.recipe, out / "store", out / "run", *length, "--resume")
    run, predictions = out / "run", [out / "predictions" / layout for layout in sets]
    for name, folder in zip(named, predictions, strict=True):
        step("predict", name, folder, "--weights", run, "--split", "test", "--statistics")
    pairs = [word for pair in zip(named, predictions, strict=True) for word in pair]
    unseen = ("--split", "test", "--run", run)
    page, scores = out / "report.html", out / "scores.json"
    step("report", run, "--out", out / "training.html", "--overwrite")
    first = min(nifti.find_files(predictions[-1]))
    scan = sets["radiotherapy"] / "ct" / first.name
    step("view", scan, first, named[-1], "--png", out / "overlay.png", "--overwrite")
    step("evaluate", *pairs, *unseen, "--json", scores, "--html", page, "--overwrite")
    mean = next(
        row for row in json.loads(scores.read_text())["summary"] if (row["organ"], row["metric"]) == ("mean", "dice")
    )
    say(f"\nmean Dice over annotated organs of unseen patients: {mean['mean']:.3f}")
    say(
        f"report:  {page}\noverlay: {out / 'overlay.png'}\nall of it took {(time.perf_counter() - started) / 60:.1f} minutes"
    )
    return 0


def step(verb: str, *words: object) -> None:
    """Show a command and run it.

    Raises:
        SettingError: It did not end well.
    """
    from viscera.cli.command import find_verb

    arguments = [str(word) for word in words]
    say(f"\n$ viscera {verb} {shlex.join(arguments)}")
    code = find_verb(verb)(arguments)
    if code:
        raise SettingError(f"viscera {verb} ended with {code}; what it said stands above.")
