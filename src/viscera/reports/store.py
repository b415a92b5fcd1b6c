"""The page of a prepared store: HU of every scan, voxels of every organ, splits, problems."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from viscera.datasets.sources import Problem
from viscera.errors import StoreError
from viscera.figures.data_set import ScanHu, hu_distribution, label_frequencies
from viscera.json_text import load_json
from viscera.labels import readable
from viscera.preparation.prepare import notes_of
from viscera.preparation.store import Facts, open_store
from viscera.reports.page import MISSING, Cell, Page, Row, Section, Table, chart, problem_table, without_folders

SPLITS = ("training", "validation", "test")


def is_store(folder: Path) -> bool:
    """Tell whether a folder is one that ``viscera prepare`` wrote."""
    return (folder / "store.json").is_file()


def store_page(store: Path) -> Page:
    """Return the page of a prepared store.

    Raises:
        StoreError: It has no cases, or is damaged.
    """
    opened = open_store(store)
    facts = [opened.facts(name) for name in opened.names()]
    if not facts:
        raise StoreError(f"{store.name} holds no prepared case", "Prepare one with viscera prepare.")
    organs = opened.space.organs
    by_set = {
        name: [case for case in facts if case.dataset == name] for name in sorted({case.dataset for case in facts})
    }
    voxels = {name: _voxels(cases, organs) for name, cases in by_set.items()}
    sections = [
        *_intensities(by_set),
        Section(
            "Label frequencies",
            "Voxels after preparation. What a data set does not annotate is unknown, not zero.",
            charts=(chart(label_frequencies(voxels), "label frequencies"),),
            table=_annotation_table(by_set, organs),
        ),
    ]
    splits = _splits(opened.splits, by_set)
    if splits is not None:
        sections.append(Section("Splits", "Drawn by patient.", table=splits))
    problems = _problems(store)
    if problems:
        text = "These files are not in the store."
        sections.append(Section("Problems", text, table=problem_table(problems)))
    notes = tuple(without_folders(note) for note in notes_of(opened, opened.names()))
    if notes:
        sections.append(Section("Notes", notes=notes))
    unlabelled = sum(not case.annotated for case in facts)
    tiles = (
        ("cases", str(len(facts))),
        *((("unlabelled", str(unlabelled)),) if unlabelled else ()),
        ("data sets", str(len(by_set))),
        ("problems", str(len(problems))),
    )
    subtitle = f"Label space {opened.space.name}, {opened.preparation.grid}."
    return Page("Prepared store", store.resolve().name, subtitle, tiles, tuple(sections))


def _intensities(by_set: Mapping[str, Sequence[Facts]]) -> list[Section]:
    """Draw the HU of the scans of which they are known; nothing where there are none."""
    scans = {
        name: [ScanHu(**{key: float(value) for key, value in case.hu.items()}) for case in cases if case.hu]
        for name, cases in by_set.items()
    }
    if not any(scans.values()):
        return []
    text = "One bar per scan: range in grey, 10 % to 90 % percentile in blue, mean in red."
    return [Section("Intensities", text, charts=(chart(hu_distribution(scans), "HU"),))]


def _voxels(cases: Sequence[Facts], organs: Sequence[str]) -> dict[str, int | None]:
    """Sum the voxels over the cases that annotate an organ; None where none does."""
    return {
        organ: sum(case.voxels.get(organ, 0) for case in cases if organ in case.annotated)
        if any(organ in case.annotated for case in cases)
        else None
        for organ in organs
    }


def _annotation_table(by_set: Mapping[str, Sequence[Facts]], organs: Sequence[str]) -> Table:
    """Count the cases that annotate each organ, per data set."""
    rows = []
    for organ in organs:
        counts = [sum(organ in case.annotated for case in cases) for cases in by_set.values()]
        rows.append(Row((Cell(readable(organ)), *(Cell(str(n) if n else MISSING, number=n) for n in counts))))
    rows.append(
        Row((Cell("cases"), *(Cell(str(len(cases)), number=len(cases)) for cases in by_set.values())), total=True)
    )
    return Table(("annotated organ", *by_set), tuple(rows))


def _splits(split_of: Mapping[str, str], by_set: Mapping[str, Sequence[Facts]]) -> Table | None:
    """Count the cases of each split per data set; None where there are no splits yet."""
    if not split_of:
        return None
    rows = []
    for split in SPLITS:
        counts = [sum(split_of.get(case.name) == split for case in cases) for cases in by_set.values()]
        rows.append(Row((Cell(split), *(Cell(str(n), number=n) for n in counts))))
    none = [sum(case.name not in split_of for case in cases) for cases in by_set.values()]
    if any(none):
        rows.append(Row((Cell("in no split (unlabelled)"), *(Cell(str(n), number=n) for n in none))))
    return Table(("split", *by_set), tuple(rows))


def _problems(store: Path) -> list[Problem]:
    file = store / "problems.json"
    if not file.is_file():
        return []
    try:
        problems = [Problem(**problem) for problem in load_json(file)]
        if not all(isinstance(text, str) for problem in problems for text in vars(problem).values()):
            raise TypeError("a problem is not told in words")
        return problems
    except (ValueError, TypeError) as error:
        raise StoreError(f"{file.name} is damaged ({error})", "Remove it and prepare again.", file=file) from error
