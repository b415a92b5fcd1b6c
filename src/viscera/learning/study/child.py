"""What one process of a study does: train a cell and score it. Started by runs.py, as `python -m viscera.learning.study.child`.

A process of its own for each cell: a crash or a lack of memory ends that cell only, and threads and device are its own.
"""

import os
import sys
import time
import warnings
from pathlib import Path
from threading import Thread

from viscera.config import Accelerator, Machine
from viscera.config.recipe_json import recipe_from_json
from viscera.errors import VisceraError
from viscera.io.atomic import write_text
from viscera.json_text import read_text
from viscera.learning.study.results import cell_to_json
from viscera.learning.study.scoring import score_run
from viscera.learning.training import train
from viscera.preparation.store import Split, open_store

SCORES = "scores.json"
"""What a cell's process leaves: its result, still without name and settings."""


def train_and_score(folder: Path, store: Path, split: Split, *, accelerator: Accelerator) -> None:
    """Train the recipe in a cell's folder, going on where it was stopped, and write its scores there.

    Raises:
        VisceraError: It cannot be trained or scored.
    """
    wanted = folder / "wanted.json"
    recipe = recipe_from_json(read_text(wanted), where=wanted.name)
    opened = open_store(store)
    machine = Machine(accelerator=accelerator)
    train(recipe, opened, folder / "run", machine=machine, existing="resume")
    scored = score_run(folder / "run", opened, split, labels=folder / "labels", accelerator=accelerator)
    write_text(folder / SCORES, cell_to_json(scored))


def end_with_parent(parent: int) -> None:
    """End this process soon after the study's, even if that is killed: it would write where a second study writes."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main(folder: str, store: str, split: Split, accelerator: Accelerator) -> int:
    """Do so; return the exit code, the reason on stderr."""
    Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    warnings.showwarning = lambda message, *_, **__: sys.stderr.write(f"note: {message}\n")  # type: ignore[assignment]
    try:
        train_and_score(Path(folder), Path(store), split, accelerator=accelerator)
    except VisceraError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))  # type: ignore[arg-type]
