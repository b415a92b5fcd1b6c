"""viscera study: one recipe trained for every cell of a grid of settings, on the same cases, in one table."""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import counted, say
from viscera.config import Accelerator
from viscera.errors import RunError, SettingError
from viscera.learning.study.grid import STUDIES, make_cells, parse_grid, recipes_of, short_names, text_of
from viscera.recipes.catalogue import find_recipe

if TYPE_CHECKING:
    from viscera.learning.study.results import CellResult, ClassScore, Study
    from viscera.learning.study.runs import Plan, Workers
    from viscera.preparation.store import Store


@dataclass(frozen=True)
class Options:
    """Train and score a recipe once for every cell of a grid of settings, and compare the cells in one table and page.

    `viscera study upv STORE OUT` is the study of architecture, depth and contrast: 12 runs of upv1-small (prepare the
    store with --recipe upv1-small). `viscera study RECIPE STORE OUT --grid loss.alpha=1,5,10 training.seed=0,1` varies any
    settings of any recipe. OUT gets study.json, table.csv, study.html and a folder for each cell. The same command goes
    on after an interruption: finished cells are kept, failed ones are tried again.
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """upv (small, for a CPU), upv-full (full width, depths 5 to 7), a recipe's name, or an edited recipe.json."""
    store: Annotated[Positional[Path], arg(metavar="STORE")]
    """What `viscera prepare` wrote."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """The study's folder."""
    grid: tuple[str, ...] = ()
    """SETTING=VALUE,VALUE ..., in every combination. Settings are named as `viscera info RECIPE` prints them; values are
    JSON or text, lists in brackets. upv and upv-full have a grid of their own."""
    jobs: int = 0
    """Runs at a time, which share the cores; 0: one per CUDA device, without one as many as there are cores."""
    epochs: int = 0
    """Instead of the recipe's training.epochs; 0: the recipe's."""
    split: Literal["test", "validation"] = "test"
    """Whose cases are scored."""
    device: Accelerator = "auto"
    """Where the networks run; auto takes GPUs where there are any."""
    show: tuple[str, ...] = ()
    """CASE:SLICE ..., which cases and axial slices of the prepared grid (0: at the feet) the page's error grids show; else the
    best, median and worst case. Said once more with everything finished, only the page is made anew."""
    overwrite: bool = False
    """Run this grid's cells anew."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera study", config=(FlagCreatePairsOff,))
    from viscera.learning.study.runs import Watch, run_study
    from viscera.preparation.store import open_store

    store = open_store(options.store)
    plan = plan_of(options, store)
    places = places_of(options.show, store)
    workers = workers_of(options)
    for note in plan.notes:
        say(f"note: {note}")
    teller = Teller(len(plan.cells))
    watch = Watch(teller.kept, teller.started, teller.finished)
    say(f"study '{plan.name}': {counted(len(plan.cells), 'cell')}, {workers.jobs} at a time")
    study = run_study(plan, store, options.out, workers=workers, overwrite=options.overwrite, watch=watch)
    sys.stdout.write(table(study))
    say(f"table:  {options.out / 'table.csv'}")
    failed = [cell.name for cell in study.results if cell.failure]
    if len(failed) < len(study.results):
        from viscera.reports.study import write_study_report

        say(f"report: {write_study_report(study, options.out, store, places=places)}")
    if failed:
        say(f"{counted(len(failed), 'cell')} failed: {', '.join(failed)}. The same command tries them again.")
    return 2 if failed else 0


def plan_of(options: Options, store: "Store") -> "Plan":
    """Make the cells with their recipes, all checked.

    Raises:
        SettingError: No such study or recipe, or a setting that is wrong.
        RunError: The store has no cases to score.
    """
    from viscera.learning.setup import check_fit
    from viscera.learning.study.runs import Plan

    known = STUDIES.get(options.name)
    if known is None and not options.grid:
        find_recipe(options.name)
        raise SettingError(
            f"recipe '{options.name}' has no grid of its own",
            f"Say what to vary, for example --grid training.seed=0,1, or choose one of {', '.join(STUDIES)}.",
        )
    base = find_recipe(known.recipe if known else options.name)
    grid = parse_grid(options.grid or (known.words if known else ()))
    if options.epochs and "training.epochs" in grid:
        raise SettingError("--epochs and a grid of training.epochs contradict each other", "Leave one out.")
    if options.epochs:
        base = replace(base, training=replace(base.training, epochs=options.epochs))
    cells = make_cells(grid)
    name = options.name if known else base.name
    recipes = recipes_of(base, cells, study=name)
    for recipe in recipes:
        check_fit(recipe)
    split, notes = split_of(options, store)
    return Plan(name, base.name, list(zip(cells, recipes, strict=True)), split, notes)


def split_of(options: Options, store: "Store") -> tuple[Literal["test", "validation"], tuple[str, ...]]:
    """Return the split to score, with a note where it is another than was asked for."""
    if store.names(options.split):
        return options.split, ()
    if options.split == "test" and store.names("validation"):
        return "validation", (
            f"{store.path.name} has no test cases: validation cases are scored, by which the best epochs were chosen too, so "
            "scores are too high.",
        )
    raise RunError(
        f"{store.path} has no {options.split} cases to score", "Prepare it with more patients.", file=store.path
    )


def places_of(words: Sequence[str], store: "Store") -> list[tuple[str, int]]:
    """Read which slices of which cases are to be shown.

    Raises:
        SettingError: A word is not of that form, or names no slice of the store.
    """
    places = []
    for word in words:
        case, _, number = word.rpartition(":")
        if case not in store.names() or not number.isdecimal():
            known = ", ".join(store.names()[:3])
            raise SettingError(f"--show takes CASE:SLICE, got '{word}'", f"The store's cases are {known} ...")
        slices = len(store.case(case).image)
        if int(number) >= slices:
            raise SettingError(f"--show {word}: the case has {slices} slices, 0 to {slices - 1}.")
        places.append((case, int(number)))
    return places


def workers_of(options: Options) -> "Workers":
    """Share devices and cores among the runs."""
    from viscera.io.cores import usable_cores
    from viscera.learning.study.runs import Workers
    from viscera.networks.device import device_type

    devices: tuple[str, ...] = ()
    if device_type(options.device) == "cuda":
        import torch

        named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices = tuple(named.split(",")) if named else tuple(map(str, range(torch.cuda.device_count())))
    cores = usable_cores()
    if options.jobs < 0:
        raise SettingError(f"--jobs must not be negative, got {options.jobs}.")
    jobs = options.jobs or len(devices) or cores
    return Workers(jobs, max(1, cores // jobs), devices, options.device)


class Teller:
    """Says a line for each finished run, and which are running."""

    def __init__(self, cells: int) -> None:
        self.cells, self.done, self.running = cells, 0, list[str]()

    def kept(self, results: "Sequence[CellResult]") -> None:
        """Say how many cells were finished before."""
        self.done = len(results)
        if results:
            say(f"{counted(len(results), 'cell')} of {self.cells} finished already")

    def started(self, name: str) -> None:
        """Remember what is running."""
        self.running.append(name)

    def finished(self, result: "CellResult") -> None:
        """Say how a run went."""
        self.done += 1
        self.running.remove(result.name)
        mean = result.of("mean")
        outcome = f"failed: {result.failure}"
        if not result.failure and mean:
            outcome = f"mean IoU {number(mean.pooled)}, best epoch {result.best_epoch} of {result.epochs}, "
            outcome += f"{result.seconds / 60:.1f} min"
        running = f"; running: {', '.join(self.running)}" if self.running else ""
        say(f"{self.done} of {self.cells}: {result.name}: {outcome}{running}")


def table(study: "Study") -> str:
    """Return the cells as lines of text: settings, pooled IoU of each class, mean over organs with its interval."""
    settings = list(study.results[0].settings) if study.results else []
    short = short_names(settings)
    organs = [organ for organ in study.organs if organ != "mean"]
    lines = [[*(short[setting] for setting in settings), *organs, "mean", "mean per case [95 %]", "best epoch", "min"]]
    for cell in study.results:
        values = [text_of(cell.settings[setting]) for setting in settings]
        if cell.failure:
            lines.append([*values, f"failed: {cell.failure}"])
            continue
        pooled = [number(score.pooled) for score in cell.classes]
        epoch = f"{cell.best_epoch} of {cell.epochs}"
        mean = cell.of("mean")
        lines.append([*values, *pooled, interval(mean) if mean else "-", epoch, f"{cell.seconds / 60:.1f}"])
    whole = [line for line in lines if len(line) == len(lines[0])]
    widths = [max(len(line[column]) for line in whole) for column in range(len(lines[0]))]
    rows = ["  ".join(f"{word:<{width}}" for word, width in zip(line, widths, strict=False)) for line in lines]
    title = f"IoU over all voxels of the {study.split} cases, on the prepared grid"
    return "\n".join([title, *(row.rstrip() for row in rows)]) + "\n"


def number(value: float) -> str:
    """Return a score for people."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def interval(score: "ClassScore") -> str:
    """Return a mean over cases with its interval."""
    around = "" if math.isnan(score.low) else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{number(score.mean)}{around}"
