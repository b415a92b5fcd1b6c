"""viscera demo: the whole way on synthetic patients, by the very commands that a user would say."""

import json
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import say
from viscera.errors import SettingError

SHAPE = ("64", "160", "160")
SEEDS = {"abdomenct1k": 1, "radiotherapy": 2}


@dataclass(frozen=True)
class Options:
    """Go the whole way in minutes: write two synthetic data sets that annotate different organs, prepare them, train a
    small zhang2d, segment the patients that it never saw, measure, draw.

    Each step is a command that is shown before it runs; on your own data you would say the same. Run it again to go on
    after an interruption.
    """

    out: Annotated[Positional[Path], arg(metavar="OUT")] = Path("demo")
    """Folder for everything."""
    cases: int = 24
    """Patients per data set."""
    epochs: int = 8
    """Of training; fewer are quicker and worse."""
    recipe: str = "zhang2d-small"
    """What is trained."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera demo", config=(FlagCreatePairsOff,))
    if options.cases < 5 or options.epochs < 1:
        raise SettingError("--cases must be at least 5 (training, validation and test need patients), --epochs at least 1.")
    started = time.perf_counter()
    out = options.out
    sets = {layout: out / layout for layout in SEEDS}
    named = [f"{layout}={folder}" for layout, folder in sets.items()]
    for layout, folder in sets.items():
        if not (out / f".{layout}").exists():
            step("synth", folder, "--layout", layout, "--cases", options.cases, "--seed", SEEDS[layout], "--shape", *SHAPE)
            (out / f".{layout}").touch()
    step("prepare", out / "store", "--data", *named, "--recipe", options.recipe)
    step("train", options.recipe, out / "store", out / "run", "--training.epochs", options.epochs, "--resume")
    predictions = {layout: out / "predictions" / layout for layout in sets}
    for layout, folder in predictions.items():
        step("predict", f"{layout}={sets[layout]}", folder, "--weights", out / "run", "--split", "test", "--statistics")
    scores = out / "scores.json"
    step("evaluate", *named, *predictions.values(), "--json", scores, "--overwrite")
    step("report", scores, "--overwrite")
    step("report", out / "run", "--overwrite")
    say(f"\nthe whole way took {(time.perf_counter() - started) / 60:.1f} minutes")
    return 0


def step(verb: str, *words: object) -> None:
    """Show a command and run it.

    Raises:
        SettingError: It did not end well.
    """
    from viscera.cli import run

    arguments = [str(word) for word in words]
    say(f"\n$ viscera {verb} {shlex.join(arguments)}")
    code = run(verb, arguments)
    if code:
        raise SettingError(f"viscera {verb} ended with {code}; what it said stands above.")
