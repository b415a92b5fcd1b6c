"""viscera demo: the whole way on synthetic patients, by the very commands that a user would type."""

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
from viscera.io.atomic import write_text

SHAPE = ("96", "128", "128")
SEEDS = {"abdomenct1k": 1, "radiotherapy": 2}
VISITS = "0.35"
"""Of each slice per epoch: neighbouring slices 5 mm apart teach nearly the same."""


@dataclass(frozen=True)
class Options:
    """Go the whole way in minutes, on synthetic patients.

    Write two data sets that annotate different organs, prepare them, train a small viscera2d, segment the patients that it
    never saw, measure, draw. Each step is a command that is shown before it runs; on your own data you would type the same.
    Run it again to go on after an interruption.
    """

    out: Annotated[Positional[Path], arg(metavar="OUT")] = Path("demo")
    """Folder for everything."""
    cases: int = 32
    """Patients per data set."""
    epochs: int = 4
    """Of training; fewer are quicker and worse."""
    recipe: str = "viscera2d-16"
    """What is trained."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera demo", config=(FlagCreatePairsOff,))
    if options.cases < 5 or options.epochs < 1:
        raise SettingError(
            "--cases must be at least 5 (training, validation and test need patients), --epochs at least 1."
        )
    return _demo(options)


def _demo(options: Options) -> int:  # pragma: no cover  (slow: test_demo.py, test_the_whole_demo_...)
    """Go the whole way, a verb after the other."""
    started = time.perf_counter()
    out = options.out
    sets = {layout: out / layout for layout in SEEDS}
    named = [f"{layout}={folder}" for layout, folder in sets.items()]
    say(
        f"In {out}: {len(SEEDS)} data sets of {options.cases} synthetic patients, a network trained on them ({options.recipe}), "
        "labels and scores\nof patients that it never saw, report.html, overlay.png. Minutes on two cores, nothing is downloaded. "
        "Ctrl-C keeps what\nis finished; the same command goes on from there."
    )
    for layout in SEEDS:
        write_patients(out, layout, options.cases)
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


def write_patients(out: Path, layout: str, cases: int) -> None:
    """Write a data set of synthetic patients to OUT/LAYOUT, unless it stands there; one left unfinished is made anew."""
    folder, unfinished = out / layout, out / f"{layout}.unfinished"
    if unfinished.exists():  # this command began the folder: no other is ever deleted
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        write_text(unfinished, "")
        step("synth", folder, "--layout", layout, "--cases", cases, "--seed", SEEDS[layout], "--shape", *SHAPE)
    unfinished.unlink(missing_ok=True)


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
