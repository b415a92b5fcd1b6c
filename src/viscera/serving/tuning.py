"""Fine-tuning in a process of its own: corrections -> new weights, and whether they are better than those that serve.

    WORK/job.json       what is to be done; written by improving.py
    WORK/store, run     as `viscera prepare` and `viscera train` write them, so that what was interrupted goes on
    WORK/progress.json  how far it is
    WORK/result.json    the comparison, or what went wrong

`python -m viscera.serving.tuning WORK` does it. The process ends when its standard input does, so it never outlives the server.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from viscera.config import Accelerator, Machine, Recipe
from viscera.config.ranges import STRICT, Count, Positive
from viscera.errors import FileError, VisceraError
from viscera.inference.model import Model, load_model
from viscera.io.atomic import write_json, write_text
from viscera.io.json_codec import from_json, to_json
from viscera.io.locks import locked
from viscera.json_text import read_text
from viscera.serving.comparing import conclude, judge
from viscera.serving.corrections import Correction, filled, source_of
from viscera.serving.versions import Comparison

JOB, PROGRESS, RESULT, LOG = "job.json", "progress.json", "result.json", "log.txt"
BATCH = 8
"""Slices per step, so that a laptop holds them."""
NICENESS = 5
"""So that whoever waits for a segmentation does not wait for this."""
SAVE_EVERY_S = 15.0

Tell = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True)
class Settings:
    """Of a fine-tuning.

    Attributes:
        max_epochs: Rounds.
        steps: Of a round, at most: fewer where there are fewer slices.
        learning_rate: AdamW's, at its highest.
    """

    __pydantic_config__ = STRICT

    max_epochs: Count = 5
    steps: Count = 30
    learning_rate: Positive = 3e-4


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        model: Its name.
        version: Which serves.
        weights: Its file, to begin with and to compare with.
        organs: That it gives; () for all.
        corrections: Which.
        settings: Of the training.
        device: Where.
    """

    __pydantic_config__ = STRICT

    model: str
    version: int
    weights: str
    organs: tuple[str, ...]
    corrections: tuple[Correction, ...]
    settings: Settings
    device: Accelerator

    def of_side(self, *, held_back: bool) -> tuple[Correction, ...]:
        """Return those to train on, or those held back."""
        return tuple(one for one in self.corrections if one.held_back == held_back)


def fine_tuning(recipe: Recipe, settings: Settings, *, drawn: int) -> Recipe:
    """Return a recipe for a few short rounds from trained weights.

    Args:
        recipe: Of the weights.
        settings: How long.
        drawn: What a round could draw: slices or patches.
    """
    batch = min(recipe.training.batch_size, BATCH)
    training = replace(
        recipe.training,
        epochs=settings.max_epochs,
        visits_per_slice=min(1.0, settings.steps * batch / max(drawn, 1)),
        batch_size=batch,
        accumulate=1,
        learning_rate=settings.learning_rate,
        schedule="cosine",
        warm_up=0.1,
        average_decay=0.0,
        patience_epochs=0,
    )
    return replace(recipe, training=training, sampling=replace(recipe.sampling, fold=None))


def tune(work: Path, job: Job, tell: Tell) -> dict[str, object]:
    """Prepare, train and compare; return what goes into result.json."""
    from viscera.learning import training
    from viscera.learning.setup import training_index
    from viscera.preparation.own_splits import OwnSplits
    from viscera.preparation.prepare import Plan, prepare_store
    from viscera.preparation.store import open_store

    weights, mine = Path(job.weights), job.of_side(held_back=False)
    store, run, splits = work / "store", work / "run", work / "splits.json"
    serves = load_model(weights, accelerator=job.device, runtime="torch")
    recipe, sources = serves.recipe, []
    for number, one in enumerate(mine, start=1):
        file = filled(one, serves, work / "labels" / f"{one.case}.nii.gz")
        sources.append(source_of(one, file, recipe.space))
        tell({"stage": "filling in", "done": number, "of": len(mine)})
    write_json(splits, {"training": [source.name for source in sources]})
    done: list[str] = []

    def prepared(name: str, how: str) -> None:
        done.append(name)
        tell({"stage": "preparing", "done": len(done), "of": len(sources)})

    result = prepare_store(
        store,
        sources,
        space=recipe.space,
        preparation=recipe.preparation,
        plan=Plan(1, own=OwnSplits(splits)),
        on_done=prepared,
    )
    if result.problems:
        problem = result.problems[0]
        raise FileError(f"a correction cannot be trained on: {problem.what}", problem.remedy)
    opened = open_store(store)
    drawn = len(training_index([opened.case(name) for name in opened.names("training")], recipe))
    recipe = fine_tuning(recipe, job.settings, drawn=drawn)
    epochs = recipe.training.epochs

    def step(epoch: int, number: int, steps: int) -> None:
        tell({"stage": "training", "epoch": epoch, "total_epochs": epochs, "step": number, "steps": steps})

    best = training.train(
        recipe,
        opened,
        run,
        machine=Machine(job.device, save_every_s=SAVE_EVERY_S),
        start=weights,
        context=weights if recipe.context is not None else None,
        existing="resume",
        watch=training.Watch(step=step),
    )
    new = best.with_name("last.safetensors")
    comparison = compare(job, serves, load_model(new, accelerator=job.device, runtime="torch"), tell)
    return {"weights": str(new), "training_cases": len(sources), "comparison": asdict(comparison)}


def compare(job: Job, old: Model, new: Model, tell: Tell) -> Comparison:
    """Segment the corrections that were held back with both versions, and compare with what people drew."""
    held, outcomes = job.of_side(held_back=True), []
    for number, one in enumerate(held, start=1):
        outcomes.append(judge(one, (old, new), organs=job.organs))
        tell({"stage": "comparing", "done": number, "of": len(held)})
    return conclude([found for found, _ in outcomes], [found for _, found in outcomes], old=job.version)


def read_job(work: Path) -> Job:
    """Return the job in a folder.

    Raises:
        FileError: It is damaged.
    """
    file, remedy = work / JOB, "Start the training again."
    text = read_text(file, remedy=remedy)
    return from_json(Job, text, what=f"{file} is not a job of viscera serve", remedy=remedy)


def main(arguments: list[str]) -> int:
    """Do the job in a folder; what went wrong is in result.json."""
    work = Path(arguments[0])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    try:
        with locked(work, what="is being trained in"):
            job = read_job(work)
            found = tune(work, job, lambda facts: write_json(work / PROGRESS, dict(facts)))
    except VisceraError as error:
        found = {"what": error.what, "remedy": error.remedy}
    write_text(work / RESULT, to_json(found))
    return 0


def _end_with_parent() -> None:
    """End this process when its standard input does, which the server holds; every file is whole at every instant."""
    while os.read(0, 1):
        pass
    if (
        os.name == "posix" and os.getpgrp() == os.getpid()
    ):  # improving.py began it so, with the processes that prepare scans
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
