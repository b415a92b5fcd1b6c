"""What a training run writes beside its weights: recipe, facts, one row per epoch.

    RUN/recipe.json       every setting, written once
    RUN/run.json          versions, device, precision, cases of each split with the hash of their scans, which fresh patients
    RUN/log.jsonl, .csv   one row per epoch; TensorBoard and Weights & Biases on request

Case names stand in run.json only, not in the weights: weights travel, and a case may be named after a patient.
"""

import csv
import importlib.util
import io
import json
import platform
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from viscera.config import Recipe, Training
from viscera.config.recipe_json import first_difference, recipe_from_json, recipe_to_json
from viscera.errors import RunError, SettingError
from viscera.io.atomic import replacing, write_json, write_text, writing
from viscera.json_text import parse_json, read_json, read_text
from viscera.learning.contents import Contents, changes, contents_of
from viscera.networks.find_weights import FOLDS, fold_folder
from viscera.preparation.store import Case, Store

STATE = "state.safetensors"
ANEW = "Copy the run again, or train anew: --overwrite."
Row = Mapping[str, object]
Log = Callable[[Row], None]


def claim_run(run: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> Training:
    """Make the folder this run's own.

    Args:
        run: The folder.
        recipe: Written there; on ``resume`` it must be the one that stands there, but for the number of epochs.
        resume: Go on with the run that stands there.
        overwrite: Begin anew where a run stands already.

    Returns:
        The plan that the run had until now; the recipe's where none stood there.

    Raises:
        RunError: A run stands there, and neither ``resume`` nor ``overwrite`` was said; or the state to go on from is gone; or a
            cross-validated run stands there.
        SettingError: The run to be resumed has other settings.
        FileError: The folder cannot be written to.
    """
    file, before = run / "recipe.json", recipe.training
    if (run / FOLDS).is_file():
        raise RunError(
            f"{run} holds a cross-validated run", f"Choose another folder, or one of its folds: {fold_folder(run, 0)}."
        )
    if file.is_file() and resume:
        old = recipe_from_json(read_text(file, error=RunError, remedy=ANEW), where=str(file))
        before = old.training
        longer = replace(old, training=replace(old.training, epochs=recipe.training.epochs))
        if longer != recipe:
            differs = first_difference(*(json.loads(recipe_to_json(one)) for one in (longer, recipe)))
            raise SettingError(f"{run} was begun with other settings: {differs}", "Say them again, or train anew.")
        if len(read_rows(run)) > 1 and not (run / STATE).is_file():  # one: killed before the first state was written
            raise RunError(
                f"{run} holds a run, but not the state to go on from ({STATE} is gone)",
                "Put it back, or pass --overwrite to begin anew.",
                file=run / STATE,
            )
    elif file.is_file() and not overwrite:
        raise RunError(
            f"{run} holds a run already", "Pass --resume to go on, --overwrite to begin anew, or choose another folder."
        )
    with replacing(file) as part:
        part.write_text(recipe_to_json(recipe) + "\n", encoding="utf-8")
        if not resume:  # only now, when there is room for a new run
            remove_run(run)
    return before


def remove_run(run: Path) -> None:
    """Remove what a run left but its recipe, the state first: without it nothing goes on with what is left."""
    logs = ("log.jsonl", "log.csv", "curves.png", "run.json")
    for name in (STATE, "best.safetensors", "best.json", "last.safetensors", "last.json", *logs):
        with writing(run / name):
            (run / name).unlink(missing_ok=True)
    for folder in ("fresh", "context"):
        shutil.rmtree(run / folder, ignore_errors=True)


def write_facts(
    run: Path,
    store: Store,
    *,
    training: Sequence[Case],
    device: str,
    precision: str,
    devices: int = 1,
    fresh: Row | None = None,
    distilled: Row | None = None,
) -> dict[str, object]:
    """Write run.json; return the part of it that goes into the weights, which names no case.

    Args:
        run: The run's folder.
        store: What it is trained on.
        training: The cases that it is trained on: the store's training cases, perhaps without a fold.
        device: Where it is trained.
        precision: In which numbers.
        devices: By how many processes.
        fresh: Which patients are made for it (``OnlinePatients.facts``); None: none.
        distilled: Who teaches it beside the labels (distillation/teacher.py); None: nobody.

    Raises:
        RunError: A run is to be resumed whose store has other cases by now.
        SettingError: A run is to be resumed that had other fresh patients or another teacher.
    """
    facts: dict[str, object] = {
        "viscera": version("viscera"),
        "torch": version("torch"),
        "python": platform.python_version(),
        "device": device,
        "precision": precision,
    }
    splits = {"training": [case.name for case in training]} | {
        split: store.names(split) for split in ("validation", "test")
    }
    facts |= ({"devices": devices} if devices > 1 else {}) | ({} if fresh is None else {"fresh": dict(fresh)})
    facts |= {} if distilled is None else {"distilled": dict(distilled)}
    before: dict = _facts_before(run) or facts
    _require_same_sources(run, before, facts)
    contents = contents_of(store, [*splits["training"], *splits["validation"]])
    if (run / STATE).is_file() and "splits" in before:
        changed = sum(
            len(set(before["splits"].get(split, ())) ^ set(names)) for split, names in splits.items() if split != "test"
        )
        if changed:
            raise RunError(
                f"{store.path} has changed since {run} was begun: {changed} training or validation cases came or went",
                "Train anew in another folder, or give the store as it was.",
                file=store.path,
            )
        require_same(run, store, before.get("contents"), contents)
    scans = {name: store.facts(name).source.image_sha256 for names in splits.values() for name in names}
    where = {"store": str(store.path.resolve()), "splits": splits, "contents": contents, "scans": scans}
    write_json(run / "run.json", facts | where)
    filled = Counter(organ for case in training for organ in case.pseudo_annotated)
    return facts | {
        "cases": {split: len(names) for split, names in splits.items()},
        "unlabelled_cases": sum(not case.annotated for case in training),
        "pseudo_labelled_cases": dict(sorted(filled.items())),
    }


def _require_same_sources(run: Path, before: Row, now: Row) -> None:
    """Raise SettingError where a run is to be resumed that had other fresh patients or another teacher."""
    for name, what in (("fresh", "other fresh patients"), ("distilled", "another teacher")):
        old, new = before.get(name), now.get(name)
        if old != new:
            differs = first_difference({name: old}, {name: new})
            if None in (old, new):
                differs = f"{name}: none {'before' if old is None else 'now'}"
            raise SettingError(f"{run} was begun with {what}: {differs}", "Say them again, or train anew.")


def require_same(run: Path, store: Store, before: Contents | None, now: Contents) -> None:
    """Raise RunError where the cases of a store are not those that a run was begun with; note where that cannot be told."""
    if before is None:
        warnings.warn(
            f"{run} was begun by an older viscera: whether its store still holds the same labels is not checked",
            stacklevel=2,
        )
        return
    changed = changes(before, now)
    if changed:
        more = f" (and {len(changed) - 1} more cases)" if len(changed) > 1 else ""
        raise RunError(
            f"{store.path} has changed since {run} was begun: {changed[0]}{more}",
            "Train anew in another folder, or give the store as it was.",
            file=store.path,
        )


def read_rows(run: Path) -> list[dict]:
    """Return the rows of the epochs done so far.

    Raises:
        RunError: A line is not an epoch's.
    """
    file = run / "log.jsonl"
    lines = read_text(file, error=RunError, remedy=ANEW).splitlines() if file.is_file() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line, constants=True)
        except ValueError as error:
            raise RunError(f"{file}, line {number}: is not an epoch ({error})", ANEW, file=file) from error
        if not isinstance(row, dict) or type(row.get("epoch")) is not int:
            raise RunError(f"{file}, line {number}: is not an epoch", ANEW, file=file)
        rows.append(row)
    return rows


def _facts_before(run: Path) -> dict:
    """Return what run.json says of a run that is to be resumed; nothing without one.

    Raises:
        RunError: It is damaged.
    """
    file = run / "run.json"
    if not file.is_file():
        return {}
    found = read_json(file, error=RunError, remedy=ANEW)
    splits = found.get("splits", {})
    if not isinstance(splits, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in splits.values()
    ):
        raise RunError(f"{file} is damaged: it does not list the cases of the run", ANEW, file=file)
    return found


def write_row(run: Path, row: Row) -> None:
    """Add an epoch's row to log.jsonl and log.csv, in place of that of an epoch that is done once more."""
    rows = [old for old in read_rows(run) if old["epoch"] < row["epoch"]] + [dict(row)]
    write_text(run / "log.jsonl", "".join(json.dumps(one) + "\n" for one in rows))
    flat = [_flat(one) for one in rows]
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(key for one in flat for key in one)))
    table.writeheader()
    table.writerows(flat)
    write_text(run / "log.csv", text.getvalue())


def open_log(kind: str, run: Path, recipe: Recipe) -> Log:
    """Open a further log, "tensorboard" or "wandb".

    Raises:
        SettingError: Its package is not installed.
    """
    if importlib.util.find_spec(kind) is None:
        raise SettingError(f"{kind} is not installed", f"Run: pip install 'viscera[{kind}]'.")
    if kind == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter  # here, because it is an optional dependency

        writer = SummaryWriter(run / "tensorboard")

        def log(row: Row) -> None:
            """Write the numbers of an epoch."""
            for name, value in _flat(row).items():
                if isinstance(value, int | float):
                    writer.add_scalar(name, value, row["epoch"])
            writer.flush()

        return log
    import wandb  # pyright: ignore[reportMissingImports]  # here, because it is an optional dependency

    board = wandb.init(project="viscera", dir=run, name=run.name, config=asdict(recipe), id=run.name, resume="allow")
    return lambda row: board.log({name: value for name, value in _flat(row).items() if value is not None})


def _flat(row: Row) -> dict[str, object]:
    """Write {"val_dice": {"liver": 0.9}} as {"val_dice/liver": 0.9}."""
    flat: dict[str, object] = {}
    for key, value in row.items():
        flat |= {f"{key}/{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
    return flat
