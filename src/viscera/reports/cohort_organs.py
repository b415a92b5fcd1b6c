"""Of a cohort's page, what is said of each organ: how its volumes are distributed, in a picture and in numbers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from viscera.cohorts.columns import Value
from viscera.cohorts.outliers import FAR
from viscera.labels import readable
from viscera.reports.page import MISSING, Cell, Row, Section, Table, counted

BINS = 24
ENDS = (1.0, 99.0)
"""Percentiles between which the bars lie; the outermost hold all beyond."""
WIDTH, HEIGHT, FOOT = 240, 96, 16
"""Of a picture, and of the line of numbers below it."""


@dataclass(frozen=True)
class OrganRow:
    """What the page needs of a row.

    Attributes:
        source: Of the folder.
        case: The scan's result.
        organ: Its name.
        volume_ml: None without statistics, as all that follows.
        mean_hu: None where it was not found, too.
        cut: It touches the border.
        dice: The predicted one.
        flags: How many.
        kinds: Of its flags.
        volume_z: Robust z of its volume.
        hu_z: Of its mean HU.
        scan_kinds: Of the scan's flags.
    """

    source: str
    case: str
    organ: str
    volume_ml: float | None
    mean_hu: float | None
    cut: bool | None
    dice: float | None
    flags: int | None
    kinds: tuple[str, ...]
    volume_z: float | None
    hu_z: float | None
    scan_kinds: tuple[str, ...]

    @classmethod
    def of(cls, row: Mapping[str, Value]) -> "OrganRow":
        """Take what is needed of a row of the table."""
        cut, flags = row["touches_border"], row["flags"]
        return cls(
            str(row["source"]),
            str(row["case"]),
            str(row["organ"]),
            _number(row["volume_ml"]),
            _number(row["mean_hu"]),
            None if cut is None else bool(cut),
            _number(row["predicted_dice"]),
            None if flags is None else int(flags),
            _kinds(row["flag_kinds"]),
            _number(row["volume_robust_z"]),
            _number(row["mean_hu_robust_z"]),
            _kinds(row["scan_flag_kinds"]),
        )

    @property
    def farthest(self) -> float:
        """The larger of both robust z, without its sign; 0 where neither is known."""
        return max(abs(self.volume_z or 0.0), abs(self.hu_z or 0.0))

    @property
    def is_far(self) -> bool:
        """Whether it is an outlier."""
        return self.farthest > FAR


def organ_section(rows: Sequence[OrganRow]) -> Section:
    """Return the distributions of volumes, and a table of each organ."""
    title, by_organ = "Volumes and flags of each organ", defaultdict(list)
    for row in rows:
        by_organ[row.organ].append(row)
    measured = {organ: [row for row in own if row.volume_ml is not None] for organ, own in by_organ.items()}
    if not any(measured.values()):
        return Section(title, "No volumes are at hand: viscera predict --statistics writes them.")
    charts = tuple(
        histogram(organ, [row.volume_ml for row in own if row.volume_ml and not row.cut])
        for organ, own in measured.items()
        if sum(bool(row.volume_ml) and not row.cut for row in own) > 1
    )
    table = Table(
        (
            "organ",
            "scans",
            "found",
            "cut off",
            "median (ml)",
            "quartiles (ml)",
            "flagged",
            "outliers",
            "predicted Dice",
        ),
        tuple(_row(organ, own) for organ, own in measured.items() if own),
    )
    text = (
        f"Volumes of organs that are whole in the scan. Bars between the {ENDS[0]:g}st and {ENDS[1]:g}th percentile, the outermost "
        "ones with all beyond. Medians are of whole organs, too; predicted Dice is the median."
    )
    return Section(title, text, charts=charts, table=table)


def histogram(organ: str, volumes_ml: Sequence[float]) -> str:
    """Return a picture of volumes as an SVG element, with what it shows in words.

    Args:
        organ: Its name.
        volumes_ml: At least one.
    """
    values = np.asarray(volumes_ml, np.float64)
    low, high = np.percentile(values, ENDS)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(values.clip(low, high), BINS, (low, high))
    width, top = WIDTH / BINS, HEIGHT / max(1, counts.max())
    bars = "".join(
        f'<rect x="{number * width + 0.5:.1f}" y="{HEIGHT - count * top:.1f}" width="{width - 1:.1f}" height="{count * top:.1f}"/>'
        for number, count in enumerate(counts.tolist())
        if count
    )
    median = float(np.median(values))
    at = (median - low) / (high - low) * WIDTH
    name = escape(readable(organ))
    said = f"{name}: {counted(values.size, 'volume')}, median {median:.0f} ml, from {values.min():.0f} to {values.max():.0f} ml"
    return (
        f'<svg class="bars" viewBox="0 -18 {WIDTH} {HEIGHT + FOOT + 18}" role="img" aria-label="{said}"><title>{said}</title>'
        f'<text x="0" y="-6" class="name">{name}</text><text x="{WIDTH}" y="-6" text-anchor="end">median {median:.0f} ml</text>'
        f'<g class="bar">{bars}</g><line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{HEIGHT}"/>'
        f'<text x="0" y="{HEIGHT + 13}">{low:.0f}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 13}" text-anchor="end">{high:.0f} ml</text></svg>'
    )


def _row(organ: str, own: Sequence[OrganRow]) -> Row:
    """Return an organ's row of numbers."""
    found = [row for row in own if row.volume_ml]
    cut = sum(bool(row.cut) for row in found)
    whole = [row.volume_ml for row in found if row.volume_ml is not None and not row.cut]
    flagged, far = sum(bool(row.flags) for row in own), sum(row.is_far for row in own)
    dice = [row.dice for row in own if row.dice is not None]
    low, middle, high = np.percentile(whole, (25, 50, 75)).tolist() if whole else (None, None, None)
    return Row(
        (
            Cell(readable(organ)),
            Cell(str(len(own)), len(own)),
            _share(len(found), len(own)),
            _share(cut, len(found)),
            Cell(MISSING) if middle is None else Cell(f"{middle:.1f}", middle),
            Cell(MISSING) if low is None else Cell(f"{low:.1f} to {high:.1f}", low),
            _share(flagged, len(own)),
            _share(far, len(own)),
            Cell(f"{np.median(dice):.2f}", float(np.median(dice))) if dice else Cell(MISSING),
        )
    )


def _share(part: int, whole: int) -> Cell:
    share = part / whole if whole else 0.0
    return Cell(str(part), part, share=round(share, 3), small=f"{share:.0%}")


def _number(value: Value) -> float | None:
    return None if value is None else float(value)


def _kinds(value: Value) -> tuple[str, ...]:
    return tuple(str(value).split(";")) if value else ()
