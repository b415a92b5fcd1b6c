"""viscera train: a store -> a run with weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import AvoidSubcommands, Positional, arg

from viscera.config import Machine, Recipe
from viscera.recipes import find_recipe


@dataclass(frozen=True)
class Options:
    """Train a recipe on the training cases of a store; every setting of the recipe can be said anew.

    The folder RUN gets best.safetensors (lowest validation loss) and last.safetensors, a row per epoch in log.csv and
    log.jsonl, curves.png, and the state from which --resume goes on. Another form of loss is another recipe.
    """

    recipe: Positional[str]
    """A recipe's name (`viscera info recipes`) or an edited recipe.json."""
    store: Positional[Path]
    """What `viscera prepare` wrote."""
    run: Positional[Path]
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
    options = tyro.cli(Options, args=arguments, prog="viscera train", default=default, config=(AvoidSubcommands,))
    from viscera.cli.console import progress, say
    from viscera.cases import open_store
    from viscera.figures import training_curves
    from viscera.training import Watch, train

    store = open_store(options.store)
    with progress() as bar:
        task = bar.add_task("epoch 1", total=None)

        def step(epoch: int, done: int, steps: int) -> None:
            bar.update(task, description=f"epoch {epoch}/{options.settings.training.epochs}", completed=done, total=steps)

        def epoch(run: Path) -> None:
            training_curves(run, run / "curves.png")

        best = train(
            options.settings,
            store,
            options.run,
            machine=options.machine,
            resume=options.resume,
            overwrite=options.overwrite,
            watch=Watch(step, epoch),
        )
    say(f"weights: {best}\ncurves:  {options.run / 'curves.png'}\nnext:    viscera predict SCAN OUT --weights {options.run}")
    return 0
