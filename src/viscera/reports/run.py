"""The page of a training run: curves, scores at the best epoch, recipe, provenance."""

from pathlib import Path

from viscera.errors import RunError
from viscera.figures.curves import Epoch, best_epoch, curves_figure, read_log
from viscera.json_text import read_json
from viscera.labels import readable
from viscera.reports.page import Cell, Page, Row, Section, Table, chart, facts_table, number_cell

OURS = "Pass a folder that viscera train wrote."


def is_run(folder: Path) -> bool:
    """Tell whether a folder is one that ``viscera train`` wrote."""
    return (folder / "recipe.json").is_file()


def run_page(run: Path) -> Page:
    """Return the page of a run.

    Raises:
        RunError: No epoch is finished.
        FileError: A file of the run cannot be read.
    """
    log = run / "log.jsonl"
    if not log.is_file():
        raise RunError(f"{run.name} has no log.jsonl: no epoch is finished yet", "Go on with viscera train --resume.")
    epochs = read_log(log)
    recipe = read_json(run / "recipe.json", remedy=OURS)
    facts = read_json(run / "run.json", remedy=OURS) if (run / "run.json").is_file() else {}
    best = best_epoch(epochs) or epochs[-1]
    sections = [
        Section(
            "Curves",
            "The dashed line marks the best epoch, that of the lowest validation loss. Scores are those of training, "
            "on resized slices; viscera evaluate measures predictions on the scanner's own grid.",
            charts=(chart(curves_figure(epochs), "training curves"),),
        ),
        Section(f"Scores per organ, epoch {best.epoch}", _unscored(best), table=_score_table(best)),
    ]
    cases = _case_table(facts)
    if cases is not None:
        sections.append(Section("Cases", "Patients are never shared between splits.", table=cases))
    sections.append(Section("Recipe", table=facts_table(recipe)))
    provenance = {name: value for name, value in facts.items() if name not in ("splits", "contents", "scans")}
    if provenance:
        sections.append(Section("Provenance", table=facts_table(provenance)))
    subtitle = f"Recipe {recipe.get('name', 'unnamed')}, label space {recipe.get('label_space', 'unnamed')}."
    return Page("Training run", run.resolve().name, subtitle, _tiles(epochs, best), tuple(sections))


def _tiles(epochs: list[Epoch], best: Epoch) -> tuple[tuple[str, str], ...]:
    tiles = [("epochs", str(epochs[-1].epoch)), ("best epoch", str(best.epoch))]
    if best.val_loss is not None:
        tiles.append(("validation loss, best epoch", f"{best.val_loss:.4f}"))
    if best.val_dice:
        tiles.append(("mean validation Dice, best epoch", f"{sum(best.val_dice.values()) / len(best.val_dice):.3f}"))
    seconds = sum(entry.seconds or 0 for entry in epochs)
    if seconds:
        tiles.append(("training time", duration(seconds)))
    return tuple(tiles)


def duration(seconds: float) -> str:
    """Return a duration for people.

    Example:
        >>> duration(42), duration(200), duration(7500)
        ('42 s', '3 min 20 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _unscored(best: Epoch) -> str:
    missing = [readable(organ) for organ in best.train_dice if organ not in best.val_dice]
    return f"No validation case annotates {', '.join(missing)}: not scored." if missing else ""


def _score_table(best: Epoch) -> Table:
    organs = list(dict.fromkeys([*best.val_dice, *best.train_dice, *best.val_iou]))
    columns = [best.val_dice, best.val_iou, best.train_dice]
    rows = [
        Row((Cell(readable(organ)), *(number_cell(scores.get(organ), bar=True) for scores in columns)))
        for organ in organs
    ]
    means = [number_cell(sum(scores.values()) / len(scores) if scores else None, bar=True) for scores in columns]
    rows.append(Row((Cell("mean"), *means), total=True))
    return Table(("organ", "validation Dice", "validation IoU", "training Dice"), tuple(rows))


def _case_table(facts: dict[str, object]) -> Table | None:
    """Count the cases of each split; their names stay in run.json."""
    splits = facts.get("splits")
    if not isinstance(splits, dict):
        return None
    rows = [
        Row((Cell(str(split)), Cell(str(len(names)), number=len(names))))
        for split, names in splits.items()
        if isinstance(names, list)
    ]
    return Table(("split", "cases"), tuple(rows))
