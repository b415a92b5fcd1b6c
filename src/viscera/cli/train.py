"""viscera train: a store -> a run with weights."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import AvoidSubcommands, FlagCreatePairsOff, Positional, arg

from viscera.cli.console import progress, say
from viscera.config import Machine, Recipe
from viscera.recipes import find_recipe


@dataclass(frozen=True)
class Options:
    """Train a recipe on the training cases of a store; every setting of the recipe can be said anew.

    The folder RUN gets best.safetensors (lowest validation loss) and last.safetensors, a row per epoch in log.csv and
    log.jsonl, curves.png, and the state from which --resume goes on. Another form of loss is another recipe.
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """A recipe's name (`viscera info recipes`) or an edited recipe.json."""
    store: Annotated[Positional[Path], arg(metavar="STORE")]
    """What `viscera prepare` wrote."""
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder for weights and logs."""
    settings: Annotated[Recipe, arg(name="")]
    machine: Machine = Machine()
    resume: bool = False
    """Go on with the run that stands there; begin where none does."""
    overwrite: bool = False
    """Begin anew where a run stands."""


def main(arguments: list[str]) -> int:
    """Run the verb: the recipe's name, said first, gives the defaults of all settings."""
    named = arguments[0] if arguments and not arguments[0].startswith("-") else "zhang2d"
    default = Options(named, tyro.MISSING, tyro.MISSING, find_recipe(named))
    config = (AvoidSubcommands, FlagCreatePairsOff)
    options = tyro.cli(Options, args=arguments, prog="viscera train", default=default, config=config)
    from viscera.cases import open_store
    from viscera.figures import training_curves
    from viscera.training import Watch, train

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # after its import, which sets it to INFO
    store = open_store(options.store)
    with progress() as bar:
        task = bar.add_task("epoch 1", total=None)

        def step(epoch: int, done: int, steps: int) -> None:
            bar.update(task, description=f"epoch {epoch}/{options.settings.training.epochs}", completed=done, total=steps)

        best = train(
            options.settings,
            store,
            options.run,
            machine=options.machine,
            resume=options.resume,
            overwrite=options.overwrite,
            watch=Watch(step, lambda run: show_epoch(training_curves(run, run / "curves.png").with_name("log.jsonl"))),
        )
    say(f"weights: {best}\ncurves:  {options.run / 'curves.png'}\nnext:    viscera predict SCAN OUT --weights {options.run}")
    return 0


def show_epoch(log: Path) -> None:
    """Say how the newest epoch went."""
    row = json.loads(log.read_text().splitlines()[-1])
    dice = [score for score in row["val_dice"].values() if score is not None]
    mean = f"{sum(dice) / len(dice):.3f}" if dice else "-"
    loss = "-" if row["val_loss"] is None else f"{row['val_loss']:.4f}"
    say(f"epoch {row['epoch']}: training loss {row['train_loss']:.4f}, validation loss {loss}, Dice {mean}, {row['seconds']:.0f} s")
