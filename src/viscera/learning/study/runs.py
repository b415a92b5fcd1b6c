"""Running a study: every cell in a process of its own, some at a time, resumable.

A cell whose result.json stands there is finished. One that failed has none: it is recorded in study.json, the others go on,
and it is tried again when the study is run again.
"""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

from viscera.config import Accelerator, Recipe
from viscera.config.recipe_json import recipe_from_json, recipe_to_json
from viscera.errors import FileError, RunError, SettingError
from viscera.io.atomic import write_text
from viscera.io.locks import LOCK, locked
from viscera.json_text import read_text
from viscera.learning.contents import changes, contents_of
from viscera.learning.study.grid import Cell, difference
from viscera.learning.study.last_words import reason
from viscera.learning.study.results import CellResult, Study, cell_from_json, cell_to_json, study_from_json
from viscera.preparation.store import Split, Store

SCORES, RESULT, WANTED, MESSAGES = "scores.json", "result.json", "wanted.json", "messages.txt"
PATIENCE_S = 10.0
"""How long a process that is told to stop may take before it is killed."""


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        name: Of the study.
        base: Name of the recipe that the cells change.
        cells: Each with its recipe.
        split: Whose cases are scored.
        notes: What the reader should know.
    """

    name: str
    base: str
    cells: Sequence[tuple[Cell, Recipe]]
    split: Split
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workers:
    """How much is run at once. Nothing here changes what is learnt, but for rounding.

    Attributes:
        jobs: Runs at a time.
        threads: CPU threads of each.
        devices: CUDA devices, as CUDA_VISIBLE_DEVICES names them, dealt out in turn; () leaves the choice to torch.
        accelerator: Where the networks run.
    """

    jobs: int = 1
    threads: int = 1
    devices: tuple[str, ...] = ()
    accelerator: Accelerator = "auto"


@dataclass(frozen=True)
class Watch:
    """Whom to tell how far the study is.

    Attributes:
        kept: Called with the results that stand already, before anything is run.
        started: Called with the name of a cell, from its own thread.
        finished: Called with the result of a cell that was just run, failed ones included.
    """

    kept: Callable[[Sequence[CellResult]], None] = lambda results: None
    started: Callable[[str], None] = lambda name: None
    finished: Callable[[CellResult], None] = lambda result: None


def run_study(
    plan: Plan,
    store: Store,
    out: Path,
    *,
    workers: Workers = Workers(),
    overwrite: bool = False,
    watch: Watch = Watch(),
) -> Study:
    """Run the cells that are not finished yet; write study.json and table.csv after each.

    Args:
        plan: What to run.
        store: Trained and scored on.
        out: The study's folder.
        workers: How much at once.
        overwrite: Run finished cells anew, and cells that stand there with other settings.
        watch: Whom to tell.

    Raises:
        RunError: The folder holds something else, another study, or cells with other settings.
        StoreError: The store is for other organs or another preparation.
    """
    for _, recipe in plan.cells:
        store.require(space=recipe.space, preparation=recipe.preparation)
    require_place(out)  # before a lock is put there
    with locked(out, what="holds a study that is being run", error=RunError):
        return _run_in(plan, store, out, workers=workers, overwrite=overwrite, watch=watch)


def _run_in(plan: Plan, store: Store, out: Path, *, workers: Workers, overwrite: bool, watch: Watch) -> Study:
    """Run a study in a folder that is this process's own."""
    claim(plan, out, overwrite=overwrite)
    names = store.names(plan.split)
    refuse_changed(plan, store, out)
    done: dict[str, CellResult] = {}
    for cell, _ in plan.cells:
        found = finished(out / "cells" / cell.folder, names)
        if found is not None:
            done[cell.folder] = replace(found, name=cell.name, settings=dict(cell.settings))
    watch.kept(list(done.values()))
    save(plan, store, out, done)
    children = Children()

    def run(cell: Cell, recipe: Recipe, slot: int) -> CellResult:
        watch.started(cell.name)
        place = Place(out / "cells" / cell.folder, store.path, plan.split)
        return run_cell(cell, recipe, place, children=children, workers=workers, slot=slot)

    def keep(result: CellResult) -> None:
        done[result.folder] = result
        save(plan, store, out, done)
        watch.finished(result)

    todo = [(cell, recipe) for cell, recipe in plan.cells if cell.folder not in done]
    in_parallel(todo, run, keep, jobs=workers.jobs, children=children)
    return save(plan, store, out, done)


def require_place(out: Path) -> None:
    """Raise RunError where a study's folder holds something else."""
    foreign = not out.is_dir() or any(one.name != LOCK for one in out.iterdir()) if out.exists() else False
    if foreign and not (out / "study.json").is_file():
        raise RunError(f"{out} holds something that is not a study", "Give a new or an empty folder.")


def claim(plan: Plan, out: Path, *, overwrite: bool) -> None:
    """Make the folder this study's own.

    Raises:
        RunError: It holds something else, another study, or cells with other settings.
    """
    file = out / "study.json"
    if file.is_file():
        before = study_before(file)
        if before and (before.name, before.recipe) != (plan.name, plan.base):
            raise RunError(
                f"{out} holds the study '{before.name}' of recipe {before.recipe}, not '{plan.name}' of {plan.base}",
                "Choose another folder.",
            )
    others = {}
    for cell, recipe in plan.cells:
        folder = out / "cells" / cell.folder
        change = changed(folder / WANTED, recipe)
        if overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        elif change:
            others[cell.folder] = change
    if others:
        folder, change = next(iter(others.items()))
        raise RunError(
            f"{len(others)} of {len(plan.cells)} cells in {out} were run with other settings ({folder}: {change})",
            "Say the same settings again, --overwrite to run this grid anew, or choose another folder.",
        )


def refuse_changed(plan: Plan, store: Store, out: Path) -> None:
    """Raise RunError where a cell was run on other labels than the store holds now: its scores stand beside no others."""
    now = contents_of(store, [*store.names("training"), *store.names("validation"), *store.names(plan.split)])
    for cell, _ in plan.cells:
        file = out / "cells" / cell.folder / "run" / "run.json"
        before = json.loads(file.read_text()).get("contents", {}) if file.is_file() else {}
        changed = changes(before, {name: now[name] for name in before if name in now})
        if changed:
            raise RunError(
                f"{store.path} has changed since cell {cell.folder} was run: {changed[0]}",
                "Pass --overwrite to run this grid anew, or give the store as it was.",
                file=store.path,
            )


def study_before(file: Path) -> Study | None:
    """Read the study that stands there; None where the file is damaged: it is written anew."""
    try:
        return study_from_json(read_text(file), where=str(file))
    except FileError:
        return None


def changed(file: Path, recipe: Recipe) -> str:
    """Say in what the recipe that a cell was begun with differs; "" where it does not, or none was begun."""
    if not file.is_file():
        return ""
    try:
        return difference(recipe_from_json(read_text(file), where=file.name), recipe)
    except (FileError, SettingError) as error:
        return str(error)


def finished(folder: Path, names: Sequence[str]) -> CellResult | None:
    """Return a cell's result if it is finished and of these cases; None otherwise."""
    file = folder / RESULT
    if not file.is_file():
        return None
    try:
        found = cell_from_json(read_text(file), where=str(file))
    except FileError:
        return None
    return found if [case.case for case in found.cases] == list(names) else None


def save(plan: Plan, store: Store, out: Path, done: Mapping[str, CellResult]) -> Study:
    """Write study.json and table.csv with what is done so far."""
    results = tuple(done[cell.folder] for cell, _ in plan.cells if cell.folder in done)
    study = Study(
        name=plan.name,
        store=store.path.resolve().name,
        recipe=plan.base,
        split=plan.split,
        results=results,
        cells=len(plan.cells),
        notes=plan.notes,
    )
    write_text(out / "study.json", study.to_json())
    write_text(out / "table.csv", study.to_csv())
    return study


@dataclass(frozen=True)
class Place:
    """Where a cell is run.

    Attributes:
        folder: The cell's.
        store: The store's.
        split: Whose cases are scored.
    """

    folder: Path
    store: Path
    split: Split


@dataclass
class Children:
    """Processes that were started and not yet waited for; all can be stopped."""

    alive: set[subprocess.Popen] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False

    def call(self, command: Sequence[str], messages: Path, environment: Mapping[str, str]) -> int:
        """Run a command to its end, what it says written to a file; return its exit code, negative for a signal."""
        with messages.open("wb") as file, self.lock:
            if self.stopped:
                return -signal.SIGTERM
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
            self.alive.add(child)
        code = child.wait()
        with self.lock:
            self.alive.discard(child)
        return code

    def stop(self) -> None:
        """Stop all, and start none any more."""
        with self.lock:
            self.stopped = True
            alive = list(self.alive)
        for child in alive:
            child.terminate()
        for child in alive:
            try:
                child.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                child.kill()


def in_parallel(
    todo: Sequence[tuple[Cell, Recipe]],
    run: Callable[[Cell, Recipe, int], CellResult],
    keep: Callable[[CellResult], None],
    *,
    jobs: int,
    children: Children,
) -> None:
    """Run cells, some at a time; when anything is raised, an interruption say, all processes are stopped.

    Args:
        todo: The cells.
        run: Runs one; gets the number of its place among the jobs.
        keep: Gets each result, in this thread.
        jobs: How many at a time.
        children: The processes that ``run`` starts.
    """
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)

    def take_turn(cell: Cell, recipe: Recipe) -> CellResult:
        """Wait for a place, run a cell, give the place back."""
        slot = slots.get()
        try:
            return run(cell, recipe, slot)
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(take_turn, *one) for one in todo]):
                keep(future.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()


def run_cell(
    cell: Cell, recipe: Recipe, place: Place, *, children: Children, workers: Workers, slot: int
) -> CellResult:
    """Train and score a cell; return its result, or the reason why there is none."""
    folder = place.folder
    (folder / RESULT).unlink(missing_ok=True)
    write_text(folder / WANTED, recipe_to_json(recipe) + "\n")
    command = [
        sys.executable,
        "-m",
        "viscera.learning.study.child",
        folder,
        place.store,
        place.split,
        workers.accelerator,
    ]
    environment = os.environ | environment_of(workers, slot)
    code = children.call([str(word) for word in command], folder / MESSAGES, environment)
    result = CellResult(cell.name, dict(cell.settings), folder=cell.folder)
    if code:
        text = (folder / MESSAGES).read_text(errors="replace")
        return replace(result, failure=reason(code, text, folders=(folder, place.store)))
    scored = cell_from_json(read_text(folder / SCORES), where=SCORES)
    result = replace(scored, name=result.name, settings=result.settings, folder=result.folder)
    write_text(folder / RESULT, cell_to_json(result))
    (folder / SCORES).unlink()
    return result


def environment_of(workers: Workers, slot: int) -> dict[str, str]:
    """Return what keeps a process to its share of the machine.

    Example:
        >>> environment_of(Workers(jobs=3, threads=2, devices=("0", "1")), 2)
        {'OMP_NUM_THREADS': '2', 'CUDA_VISIBLE_DEVICES': '0'}
    """
    share = {"OMP_NUM_THREADS": str(workers.threads)}
    if workers.devices:
        share["CUDA_VISIBLE_DEVICES"] = workers.devices[slot % len(workers.devices)]
    return share
