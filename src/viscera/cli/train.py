"""viscera train: a store -> a run with weights."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import AvoidSubcommands, FlagCreatePairsOff, Positional, arg

from viscera.cli.console import progress, say
from viscera.cli.templates import read_donors, read_templates
from viscera.config import Machine, Recipe
from viscera.errors import SettingError
from viscera.networks.find_weights import FOLDS
from viscera.recipes.catalogue import find_recipe

if TYPE_CHECKING:
    from rich.progress import Progress

    from viscera.learning.distillation.settings import Distillation
    from viscera.learning.synthetic_patients import OnlinePatients, TrainingData
    from viscera.learning.training import Watch
    from viscera.preparation.store import Store


@dataclass(frozen=True)
class FoldOptions:
    """Cross-validation: a network for each part of the cases, which is trained on the others."""

    folds: int = 0
    """How many parts; 0: as many as RUN or --splits has, and without these no cross-validation."""
    fold: int | None = None
    """Train this fold alone, counted from 0: the same command with --fold 0, --fold 1 ... runs on several devices at a time.
    The one that ends last writes the table."""
    splits: Path | None = None
    """Your own folds, instead of drawn ones: nnU-Net's splits_final.json, or {"folds": [[CASE, ...], ...]}, what each holds out.
    All training and validation cases of the store must be in it, each held out once, and a patient in one fold only."""

    @property
    def asked(self) -> bool:
        """Whether a cross-validation is asked for."""
        return bool(self.folds) or self.fold is not None or self.splits is not None


@dataclass(frozen=True)
class DistilOptions:
    """A student: one network that learns from trained ones, beside the labels."""

    distil: Path | None = None
    """Trained networks to learn from: a cross-validated run, all of whose folds teach (an ensemble at the cost of one network),
    what `viscera choose` wrote, or a run. Annotated organs keep their labels; all else, and unlabelled cases, takes the teacher's
    probabilities. It is asked in every step, which takes longer with each of its networks."""
    distil_temperature: float = 2.0
    """By which logits are divided before the softmax that is learnt; above 1 small probabilities count more."""
    distil_weight: float = 0.5
    """Of the teacher's part of the loss; the labels' part is 1 less it."""

    def settings(self) -> "Distillation | None":
        """Return what is asked for, checked.

        Raises:
            SettingError: A number out of its range, or numbers without a teacher.
        """
        from viscera.learning.distillation.settings import Distillation

        if self.distil is None:
            if self != DistilOptions():
                raise SettingError("there is no --distil, but its temperature or weight is given", "Say who teaches.")
            return None
        return Distillation(self.distil, self.distil_temperature, self.distil_weight)


@dataclass(frozen=True)
class Beginning:
    """How a run begins."""

    start: Path | None = None
    """Weights to begin with, to fine-tune them: a run's folder or a .safetensors file of the same network, or starter:
    those that come with viscera. Organs that they do not know begin anew."""
    context_weights: Path | None = None
    """For a recipe with context (viscera25d): a context network that is trained already, a run's folder or weights that have one;
    it stays as it is. Without it the run trains its own first."""
    resume: bool = False
    """Go on with the run that stands there; begin where none does."""
    overwrite: bool = False
    """Begin anew where a run stands."""
    folds: Annotated[FoldOptions, arg(name="")] = FoldOptions()
    """Cross-validation."""
    student: Annotated[DistilOptions, arg(name="")] = DistilOptions()
    """Who teaches."""

    @property
    def existing(self) -> Literal["refuse", "resume", "overwrite"]:
        """What to do where a run stands."""
        return "resume" if self.resume else "overwrite" if self.overwrite else "refuse"


@dataclass(frozen=True)
class FreshOptions:
    """Synthetic patients that are made while the network trains, for each epoch others."""

    patients: int = 0
    """For each epoch; 0: none. The steps of an epoch stay those of the store's training cases. Those of two epochs are in
    RUN/fresh at a time: some 6 MB a patient."""
    only: bool = False
    """Learn from them alone, not from the store's training cases; validate on the store's all the same."""
    seed: int = 0
    """Another seed gives other patients."""
    shape: tuple[int, int, int] = (96, 160, 160)
    """Slices, rows and columns of a scan, before it is prepared as the store's were."""
    variety: Literal["plain", "rich"] = "rich"
    """How much patients and scans differ (see `viscera synth --help`)."""
    tumours: bool = False
    """Give every patient one to four tumours in liver, kidneys, pancreas, colon or spleen, labelled."""
    template: tuple[Path, ...] = ()
    """Label maps to make the patients from, in turn, instead of procedural anatomy; a JSON beside each names its values."""
    template_image: tuple[Path, ...] = ()
    """The scan of each template, for the body's outline and what the labels lack; its HU are not used."""
    ignore_labels: tuple[str, ...] = ()
    """Names in the templates to leave out."""
    donor: tuple[Path, ...] = ()
    """Label maps whose organs take the place of the patients' own in some of them, fitted to these; organs are enough."""
    mixing: bool = True
    """Let the templates, where there are several, give organs to each other's patients."""
    jobs: int = 0
    """Processes that make them; 0: one per core but one, at most 8."""


def main(arguments: list[str]) -> int:
    """Run the verb: train, with progress on stderr and curves in the run's folder."""
    recipe, store, run, machine, fresh, beginning = parse(arguments)
    if beginning.folds.asked or (run / FOLDS).is_file():
        return cross_validate(recipe, store, run, machine=machine, fresh=fresh, beginning=beginning)
    from viscera.figures.curves import training_curves
    from viscera.learning.devices import find_world
    from viscera.learning.synthetic_patients import TrainingData
    from viscera.learning.training import Watch, train

    first = find_world(machine.devices).is_first
    if not first:
        warnings.simplefilter("ignore")  # the first process says them
    supply = supply_of(store, fresh)
    if first and isinstance(supply, TrainingData):
        say(f"making {supply.fresh.patients} patients for the first epoch")
    with watching(recipe.training.epochs) if first else nullcontext(Watch()) as watch:
        best = train(
            recipe,
            supply,
            run,
            machine=machine,
            start=beginning.start,
            context=beginning.context_weights,
            distil=beginning.student.settings(),
            existing=beginning.existing,
            watch=watch,
        )
    if not first:
        return 0
    if beginning.existing == "resume":  # it may have been killed when all was trained, and the curves were not drawn
        training_curves(run, run / "curves.png")
    say(f"weights: {best}\ncurves:  {run / 'curves.png'}\nnext:    viscera predict SCAN OUT --weights {run}")
    return 0


def cross_validate(
    recipe: Recipe,
    store: Path,
    run: Path,
    *,
    machine: Machine,
    fresh: FreshOptions,
    beginning: Beginning,
) -> int:
    """Train a network per fold, and show the scores of all cases once every fold is finished."""
    from viscera.cli.folds import show_out_of_fold, watching_folds
    from viscera.learning.cross_validation.running import FoldPlan, cross_validate
    from viscera.learning.training import Given

    folds, supply = beginning.folds, supply_of(store, fresh)
    given = Given(beginning.start, beginning.context_weights, beginning.student.settings())
    with watching_folds(recipe.training.epochs) as watch:
        found = cross_validate(
            recipe,
            supply,
            run,
            FoldPlan(folds.folds or None, folds.splits, folds.fold, given),
            machine=machine,
            existing=beginning.existing,
            watch=watch,
        )
    show_out_of_fold(run, found, only=folds.fold)
    return 0


def supply_of(store: Path, fresh: FreshOptions) -> "Store | TrainingData":
    """Return what is learnt from: the store, with fresh patients where they are asked for."""
    import lightning_fabric  # noqa: F401  (sets its logger to INFO)

    from viscera.learning.synthetic_patients import TrainingData
    from viscera.preparation.store import open_store

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    opened, made = open_store(store), read_fresh(fresh)
    return opened if made is None else TrainingData(opened, made)


def parse(arguments: list[str]) -> tuple[Recipe, Path, Path, Machine, FreshOptions, Beginning]:
    """Return what the command line asks for: the recipe's name, said first, gives the defaults of all settings."""
    named = arguments[0] if arguments and not arguments[0].startswith("-") else "zhang2d"

    def command(
        recipe: Annotated[Positional[str], arg(metavar="RECIPE")],
        store: Annotated[Positional[Path], arg(metavar="STORE")],
        run: Annotated[Positional[Path], arg(metavar="RUN")],
        *,
        settings: Annotated[Recipe, arg(name="")] = find_recipe(named),  # noqa: B008  (known only here)
        machine: Machine = Machine(),
        fresh: FreshOptions = FreshOptions(),
        beginning: Annotated[Beginning, arg(name="")] = Beginning(),
    ) -> tuple[Recipe, Path, Path, Machine, FreshOptions, Beginning]:
        """Train a recipe on the training cases of a store; every setting of the recipe can be overridden.

        The folder RUN gets best.safetensors (lowest validation loss) and last.safetensors, a row per epoch in log.csv and
        log.jsonl, curves.png, and the state from which --resume goes on. Another form of loss is another recipe.

        With --folds 5 the training and validation cases are divided by patient into five parts, and a network is trained for each
        in RUN/fold_0 to RUN/fold_4, which validates on that part and learns from the others; test cases stay out. Each case is
        then labelled by the network that did not learn from it: RUN/out_of_fold, with a table of scores. `viscera predict
        --weights RUN` asks all five networks, `viscera choose RUN` looks for what post-processing is worth. With --distil RUN one
        network learns what all five say, and labels at the cost of one.

        Args:
            recipe: A recipe's name (`viscera info recipes`) or an edited recipe.json.
            store: What `viscera prepare` wrote.
            run: Folder for weights and logs.
            settings: Of the recipe.
            machine: Where to train.
            fresh: Synthetic patients beside the store's.
            beginning: Of the run.
        """
        return settings, store, run, machine, fresh, beginning

    return tyro.cli(command, args=arguments, prog="viscera train", config=(AvoidSubcommands, FlagCreatePairsOff))


@contextmanager
def watching(epochs: int) -> "Iterator[Watch]":
    """Yield whom a training is to tell: a bar of its steps, and after each epoch the curves and a line."""
    with progress() as bar:
        yield training_watch(epochs, bar)


def training_watch(epochs: int, bar: "Progress") -> "Watch":
    """Return whom a training is to tell, with a bar of its steps among others."""
    from viscera.figures.curves import training_curves
    from viscera.learning.training import Watch

    task = bar.add_task("epoch 1", total=None)

    def step(epoch: int, done: int, steps: int) -> None:
        bar.update(task, description=f"epoch {epoch}/{epochs}", completed=done, total=steps)

    def epoch(run: Path) -> None:
        training_curves(run, run / "curves.png")
        show_epoch(run)

    return Watch(step, epoch)


def read_fresh(options: FreshOptions) -> "OnlinePatients | None":
    """Return what is to be made for each epoch, with the templates read; None where nothing is.

    Raises:
        SettingError: A setting out of its range, or settings of patients of which there are none.
        VisceraError: A file is not a template.
    """
    from viscera.learning.synthetic_patients import OnlinePatients
    from viscera.synthesis.variety import VARIETIES

    if options.patients == 0:
        if options != FreshOptions():
            raise SettingError(
                "--fresh.patients is 0, but other --fresh settings are given", "Say how many, or leave them out."
            )
        return None
    templates = read_templates(
        options.template, options.template_image, ignore=options.ignore_labels, prefix="--fresh."
    )
    return OnlinePatients(
        patients=options.patients,
        only=options.only,
        seed=options.seed,
        shape=options.shape,
        variety=VARIETIES[options.variety],
        tumours=options.tumours,
        templates=templates,
        donors=read_donors(options.donor, templates if options.mixing else (), prefix="--fresh."),
        jobs=options.jobs,
    )


def show_epoch(run: Path) -> None:
    """Say how the newest epoch went."""
    row = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    dice = [score for score in row["val_dice"].values() if score is not None]
    mean = f"{sum(dice) / len(dice):.3f}" if dice else "-"
    loss = "-" if row["val_loss"] is None else f"{row['val_loss']:.4f}"
    losses = f"training loss {row['train_loss']:.4f}, validation loss {loss}"
    say(f"epoch {row['epoch']}: {losses}, validation Dice {mean}, {row['seconds']:.0f} s")
