"""The page of a cohort: what was found, the worst scans first, distributions, outliers, and all rows to sort and filter.

One HTML file that loads nothing. Rows are data in the page, of which the browser shows fifty at a time (templates/cohort.html).
"""

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from viscera.cohorts.collect import Cohort, table_rows
from viscera.cohorts.columns import Value
from viscera.cohorts.outliers import FAR
from viscera.figures.thumbnails import thumbnail
from viscera.io.atomic import write_text
from viscera.labels import readable
from viscera.reports.cohort_organs import OrganRow, organ_section
from viscera.reports.page import MISSING, Cell, Page, Row, Section, Table, counted, render

WORST = 100
"""Scans that are shown first."""
MOST_FAILED = 1000
"""Rows of the table of scans without a result; the table on disk has all."""
FARTHEST = 50
"""Outliers that are listed; all are among the rows."""
EXPECTED = "border"
"""A kind of flag that many organs of every cohort have: it does not make a scan worse."""


@dataclass(frozen=True)
class Worst:
    """One of the worst scans.

    Attributes:
        case: Its name.
        source: Of its folder.
        flags: How many, but those of the border.
        dice: The lowest predicted Dice; None where none is.
        why: Its flags, in words.
        picture: JPEG in base64 of the montage beside its labels; "" without one.
    """

    case: str
    source: str
    flags: int
    dice: float | None
    why: tuple[str, ...]
    picture: str = ""

    @property
    def place(self) -> tuple[int, float, str, str]:
        """Most flags first, then the lowest Dice."""
        return -self.flags, 2.0 if self.dice is None else self.dice, self.source, self.case


def write_cohort_page(file: Path, cohort: Cohort, *, overwrite: bool = False) -> None:
    """Write the page.

    Args:
        file: Where.
        cohort: From ``collect``.
        overwrite: Replace a page that stands there.

    Raises:
        FileError: One stands there, or it cannot be written.
    """
    write_text(file, cohort_html(cohort, title=file.stem), overwrite=overwrite)


def cohort_html(cohort: Cohort, *, title: str) -> str:
    """Return the page."""
    rows = [OrganRow.of(row) for row in table_rows(cohort) if row["organ"] is not None]
    scans = worst_first(cohort)
    shown = [_with_picture(scan, cohort) for scan in scans[:WORST] if scan.flags or scan.dice is not None]
    counts = cohort.counts
    flagged = sum(scan.flags > 0 for scan in scans)
    far = sum(row.is_far for row in rows)
    page = Page(
        "Cohort",
        title,
        f"{counted(counts['read'], 'scan')} with a result, {counted(len(rows), 'row')} of organs. Flags and outliers are reasons "
        "to look, not proof; a result without either may still be wrong.",
        tiles=(
            ("scans found", str(counts["found"])),
            ("read", str(counts["read"])),
            ("failed", str(counts["failed"])),
            ("damaged", str(counts["damaged"])),
            ("scans with flags", str(flagged)),
            ("organ outliers", str(far)),
        ),
        sections=(
            organ_section(rows),
            _flag_section(rows, cohort),
            _far_section(rows),
            *_failed_section(cohort),
            _origin_section(cohort),
        ),
    )
    return render(page, "cohort.html", worst=shown, data=_data(rows, scans), far=FAR, readable=readable)


def worst_first(cohort: Cohort) -> list[Worst]:
    """Return the scans with a result, those with most flags first, then those with the lowest predicted Dice."""
    by_scan: dict[tuple[Value, Value], list[dict[str, Value]]] = defaultdict(list)
    for row in table_rows(cohort):
        if row["status"] == "read":
            by_scan[row["source"], row["case"]].append(row)
    return sorted((_worst(rows) for rows in by_scan.values()), key=lambda scan: scan.place)


def _worst(rows: Sequence[Mapping[str, Value]]) -> Worst:
    """Return how bad a scan is."""
    whole = _kinds(rows[0]["scan_flag_kinds"])
    organs = {str(row["organ"]): [kind for kind in _kinds(row["flag_kinds"]) if kind != EXPECTED] for row in rows}
    known = [float(row["predicted_dice"]) for row in rows if row["predicted_dice"] is not None]
    why = [f"the scan: {', '.join(map(_words, whole))}"] if whole else []
    why += [f"{readable(organ)}: {', '.join(map(_words, kinds))}" for organ, kinds in organs.items() if kinds]
    flags = len(whole) + sum(map(len, organs.values()))
    return Worst(str(rows[0]["case"]), str(rows[0]["source"]), flags, min(known, default=None), tuple(why))


def _with_picture(worst: Worst, cohort: Cohort) -> Worst:
    """Return a scan with the montage beside its labels, where there is one: NAME.png."""
    folder = next(scan.folder for scan in cohort.scans if (scan.source, scan.case) == (worst.source, worst.case))
    picture = thumbnail(folder / f"{worst.case}.png")
    encoded = "" if picture is None else base64.b64encode(picture).decode("ascii")
    return Worst(worst.case, worst.source, worst.flags, worst.dice, worst.why, encoded)


def _flag_section(rows: Sequence[OrganRow], cohort: Cohort) -> Section:
    """Return how often each kind of flag occurs."""
    title = "Quality flags"
    of_organs, of_scans = Counter(), Counter()
    for row in rows:
        of_organs.update(set(row.kinds))
    scans: dict[tuple[str, str], tuple[str, ...]] = {(row.source, row.case): row.scan_kinds for row in rows}
    for kinds in scans.values():
        of_scans.update(set(kinds))
    unflagged = sum(row.flags is None for row in rows)
    notes = (f"{counted(unflagged, 'organ')} without --statistics: not known.",) if unflagged else ()
    found = [("organ", kind, count, len(rows) - unflagged) for kind, count in of_organs.most_common()]
    found += [("scan", kind, count, cohort.counts["read"]) for kind, count in of_scans.most_common()]
    if not found:
        return Section(title, "There is none.", notes=notes)
    table = [
        Row((Cell(of), Cell(_words(kind)), Cell(str(count), count), _percent(count / max(1, whole))))
        for of, kind, count, whole in found
    ]
    text = "How many organs, and how many scans as a whole, have a flag of each kind."
    return Section(title, text, notes=notes, table=Table(("of", "flag", "how many", "share"), tuple(table), words=2))


def _far_section(rows: Sequence[OrganRow]) -> Section:
    """Return the organs that lie farthest from the median of all."""
    title = "Outliers"
    far = sorted((row for row in rows if row.is_far), key=lambda row: -row.farthest)
    text = (
        f"Robust z beyond {FAR:g}: 0.6745 times the distance from the organ's median, in median absolute deviations (Iglewicz and "
        "Hoaglin 1993). Volumes of organs that reach the scan's border are left out; HU differ with contrast."
    )
    if not far:
        return Section(title, text, notes=("There is none.",))
    table = [
        Row(
            (
                Cell(row.case, small=row.source),
                Cell(readable(row.organ)),
                _number(row.volume_ml, 1),
                _number(row.volume_z, 1),
                _number(row.mean_hu, 0),
                _number(row.hu_z, 1),
            )
        )
        for row in far[:FARTHEST]
    ]
    notes = (f"The {FARTHEST} farthest of {len(far)}; all are among the rows below.",) if len(far) > FARTHEST else ()
    columns = ("case", "organ", "volume (ml)", "z", "mean (HU)", "z of HU")
    return Section(title, text, notes=notes, table=Table(columns, tuple(table), words=2))


def _failed_section(cohort: Cohort) -> list[Section]:
    """Return the scans without a result."""
    failed = [scan for scan in cohort.scans if scan.status != "read"]
    if not failed:
        return []
    rows = [
        Row((Cell(scan.case), Cell(scan.source), Cell(scan.status), Cell(scan.found.problem)))
        for scan in failed[:MOST_FAILED]
    ]
    text = "What predict could not segment, and NAME.json that cannot be read."
    notes = (f"The first {MOST_FAILED} of {len(failed)}.",) if len(failed) > MOST_FAILED else ()
    columns = ("case", "source", "what", "why")
    return [Section("Scans without a result", text, notes=notes, table=Table(columns, tuple(rows), words=4))]


def _origin_section(cohort: Cohort) -> Section:
    """Return by what the results were made; more than one row is a mixture."""
    names = (
        "source",
        "viscera",
        "recipe",
        "weights",
        "weights_version",
        "weights_sha256",
        "device",
        "runtime",
        "precision",
    )
    made: Counter[tuple[str, ...]] = Counter()
    seen: set[tuple[Value, Value]] = set()
    for row in table_rows(cohort):
        if row["status"] == "read" and (key := (row["source"], row["case"])) not in seen:
            seen.add(key)
            made[tuple(_text(row[name])[:12] if name == "weights_sha256" else _text(row[name]) for name in names)] += 1
    rows = [Row((*map(Cell, how), Cell(str(count), count))) for how, count in made.most_common()]
    weights = {how[5] for how in made}
    mixed = len(weights) > 1
    notes = (f"{len(weights)} weights are mixed: compare them before the organs are.",) if mixed else ()
    text = "By which viscera, weights and runtime."
    columns = (*(name.replace("_", " ") for name in names), "scans")
    return Section("How they were made", text, notes=notes, table=Table(columns, tuple(rows), words=len(names)))


def _data(rows: Sequence[OrganRow], scans: Sequence[Worst]) -> str:
    """Return the rows as JSON that can stand in a page, column by column; the worst scan's come first."""
    rank = {(scan.source, scan.case): number for number, scan in enumerate(scans)}
    organs = list(dict.fromkeys(row.organ for row in rows))
    sources = list(dict.fromkeys(scan.source for scan in scans))
    kinds = sorted({kind for row in rows for kind in (*row.kinds, *row.scan_kinds)})
    at = {name: {one: number for number, one in enumerate(names)} for name, names in (("o", organs), ("k", kinds))}
    ordered = sorted(rows, key=lambda row: rank[row.source, row.case])
    columns = {
        "scan": [rank[row.source, row.case] for row in ordered],
        "organ": [at["o"][row.organ] for row in ordered],
        "volume": _rounded((row.volume_ml for row in ordered), 1),
        "hu": _rounded((row.mean_hu for row in ordered), 0),
        "cut": [None if row.cut is None else int(row.cut) for row in ordered],
        "dice": _rounded((row.dice for row in ordered), 3),
        "flags": [[at["k"][kind] for kind in row.kinds] for row in ordered],
        "z": _rounded((row.volume_z for row in ordered), 1),
        "huz": _rounded((row.hu_z for row in ordered), 1),
    }
    wholes = {(row.source, row.case): [at["k"][kind] for kind in row.scan_kinds] for row in rows}
    told = [[sources.index(scan.source), scan.case, wholes.get((scan.source, scan.case), [])] for scan in scans]
    facts = {
        "sources": sources,
        "organs": list(map(readable, organs)),
        "kinds": list(map(_words, kinds)),
        "scans": told,
        "rows": columns,
    }
    text = json.dumps(facts, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _rounded(values: Iterable[float | None], digits: int) -> list[float | int | None]:
    """Return numbers with as many digits as are shown."""
    return [None if value is None else round(value, digits) if digits else round(value) for value in values]


def _kinds(text: Value) -> list[str]:
    return str(text).split(";") if text else []


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _text(value: Value) -> str:
    return MISSING if value is None else str(value)


def _number(value: float | None, digits: int) -> Cell:
    return Cell(MISSING) if value is None else Cell(f"{value:.{digits}f}", value)


def _percent(share: float) -> Cell:
    return Cell(f"{share:.1%}", share, share=round(min(share, 1.0), 3))
