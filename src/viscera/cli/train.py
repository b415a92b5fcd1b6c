"""viscera train: a store -> a run with weights."""

import json
import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import AvoidSubcommands, FlagCreatePairsOff, Positional, arg

from viscera.cli.console import progress, say
from viscera.config import Machine, Recipe
from viscera.recipes import find_recipe


def main(arguments: list[str]) -> int:
    """Run the verb: the recipe's name, said first, gives the defaults of all settings."""
    named = arguments[0] if arguments and not arguments[0].startswith("-") else "zhang2d"

    def command(
        recipe: Annotated[Positional[str], arg(metavar="RECIPE")],
        store: Annotated[Positional[Path], arg(metavar="STORE")],
        run: Annotated[Positional[Path], arg(metavar="RUN")],
        *,
        settings: Annotated[Recipe, arg(name="")] = find_recipe(named),  # noqa: B008  (known only here)
        machine: Machine = Machine(),
        start: Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> int:
        """Train a recipe on the training cases of a store; every setting of the recipe can be said anew.

        The folder RUN gets best.safetensors (lowest validation loss) and last.safetensors, a row per epoch in log.csv and
        log.jsonl, curves.png, and the state from which --resume goes on. Another form of loss is another recipe.

        Args:
            recipe: A recipe's name (`viscera info recipes`) or an edited recipe.json.
            store: What `viscera prepare` wrote.
            run: Folder for weights and logs.
            settings: Of the recipe.
            machine: Where to train.
            start: Weights to begin with, to fine-tune them: a run's folder or a .safetensors file of the same network, or starter:
                those that come with viscera. Organs that they do not know begin anew.
            resume: Go on with the run that stands there; begin where none does.
            overwrite: Begin anew where a run stands.
        """
        existing = "resume" if resume else "overwrite" if overwrite else "refuse"
        return train_and_show(settings, store, run, machine=machine, start=start, existing=existing)

    config = (AvoidSubcommands, FlagCreatePairsOff)
    return tyro.cli(command, args=arguments, prog="viscera train", config=config)


def train_and_show(
    recipe: Recipe,
    store: Path,
    run: Path,
    *,
    machine: Machine,
    start: Path | None = None,
    existing: Literal["refuse", "resume", "overwrite"],
) -> int:
    """Train, with progress on stderr and curves in the run's folder."""
    from viscera.cases import open_store
    from viscera.figures import training_curves
    from viscera.training import Watch, train

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # after its import, which sets it to INFO
    with progress() as bar:
        task = bar.add_task("epoch 1", total=None)

        def step(epoch: int, done: int, steps: int) -> None:
            bar.update(task, description=f"epoch {epoch}/{recipe.training.epochs}", completed=done, total=steps)

        def epoch(run: Path) -> None:
            training_curves(run, run / "curves.png")
            show_epoch(run)

        watch = Watch(step, epoch)
        best = train(
            recipe,
            open_store(store),
            run,
            machine=machine,
            start=start,
            existing=existing,
            watch=watch,
        )
    say(f"weights: {best}\ncurves:  {run / 'curves.png'}\nnext:    viscera predict SCAN OUT --weights {run}")
    return 0


def show_epoch(run: Path) -> None:
    """Say how the newest epoch went."""
    row = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    dice = [score for score in row["val_dice"].values() if score is not None]
    mean = f"{sum(dice) / len(dice):.3f}" if dice else "-"
    loss = "-" if row["val_loss"] is None else f"{row['val_loss']:.4f}"
    losses = f"training loss {row['train_loss']:.4f}, validation loss {loss}"
    say(f"epoch {row['epoch']}: {losses}, validation Dice {mean}, {row['seconds']:.0f} s")
