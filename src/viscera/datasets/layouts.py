"""Data sets on disk: which cases a folder holds, and which organs each of them annotates.

Every layout is described in LAYOUTS (descriptions.py) and found by a file of its own here (those that are two folders of files
share pairs.py). A file annotated.json in the data set's folder has the last word on what is annotated (annotations.py), a file
patients.json on who is who (patients.py).

To add a layout of two folders with fixed label values: a PairLayout in pairs.PAIRS and a line in LAYOUTS. To add any
other: a file with ``find(folder)``, which gives the cases, or None where the folder is something else; a line in
LAYOUTS; a case in ``_find``; and, for synthetic data sets, one in writing.py.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from viscera.datasets import msd, nnunet, pairs, totalsegmentator, unlabelled
from viscera.datasets.annotations import REST, annotate, read_annotations
from viscera.datasets.annotations import AnnotationWarning as AnnotationWarning
from viscera.datasets.descriptions import LAYOUTS as LAYOUTS
from viscera.datasets.patients import name_patients
from viscera.datasets.sources import LONGEST_DATASET, Found, Origin, Problem, Source, wrong_with_name
from viscera.errors import DataSetError, SettingError, did_you_mean
from viscera.io.dicom_files import holds_dicom
from viscera.labels import TUMOUR


def find_sources(layout: str, folder: Path) -> tuple[list[Source], list[Problem]]:
    """Find the cases of a data set. Images are not opened, except the label files of 'flare' without annotated.json.

    Args:
        layout: One of LAYOUTS; "LAYOUT:NAME" gives the data set a name other than its folder's.
        folder: The data set's.

    Returns:
        The cases that have an image and labels (in 'images', an image), sorted by name, and a problem for each of the
        others.

    Raises:
        SettingError: There is no such layout.
        DataSetError: The folder is not laid out so, holds no case, or describes itself wrongly.
        LabelError: annotated.json lists an organ that no label can hold.

    Warns:
        AnnotationWarning: In 'flare', organs were taken for annotated because a case's label file holds them; in 'dicom',
            series have no truth, or ROIs are not understood.
    """
    layout, name = split_layout(layout)
    folder = folder.absolute()  # so that "." has a name
    if folder.name in ("", ".."):
        folder = folder.resolve()
    if not folder.is_dir():
        raise DataSetError(f"{folder}: no such folder", "Check the path.", file=folder)
    if not name and (wrong := wrong_with_name(folder.name, longest=LONGEST_DATASET)):
        raise DataSetError(
            f"the data set's folder is called {folder.name!a}: {wrong}",
            f"Give it a name: {layout}:NAME=DIR.",
            file=folder,
        )
    found = _find(layout, folder)
    if found is None or not any(found):
        raise _not_such(layout, folder)
    sources, problems = _with_usable_names(*found)
    annotations = read_annotations(folder)
    cases = [*(source.name for source in sources), *(problem.case for problem in problems)]
    if layout in pairs.PAIRS and pairs.PAIRS[layout].partial:
        unlisted = [source for source in sources if source.name not in annotations and REST not in annotations]
        sources, more = _with_present_organs(folder, sources, unlisted)
        problems = problems + more
    sources = annotate(folder, sources, annotations, cases=cases)
    sources = name_patients(folder, sources, cases=cases)
    origin = Origin(layout, folder)
    return [replace(source, dataset=name or source.dataset, origin=origin) for source in sources], problems


def split_layout(text: str) -> tuple[str, str]:
    """Take "LAYOUT" or "LAYOUT:NAME" apart; the name is "" where none is given.

    Raises:
        SettingError: There is no such layout, or nothing can be named so.
    """
    layout, colon, name = text.partition(":")
    if layout not in LAYOUTS:
        raise SettingError(
            f"there is no layout '{layout}'", f"{did_you_mean(layout, LAYOUTS)} Choose one of {', '.join(LAYOUTS)}."
        )
    wrong = wrong_with_name(name, longest=LONGEST_DATASET) or ("__" in name) * "'__' parts it from the case's"
    if colon and wrong:
        raise SettingError(
            f"a data set cannot be named {name[:200]!a}: {wrong}", "Name it as in nnunet:hospital_a=DIR."
        )
    return layout, name


def _with_usable_names(sources: Sequence[Source], problems: list[Problem]) -> Found:
    """Turn cases that no file can be named after into problems."""
    wrong = {source.name: wrong_with_name(source.name) for source in sources}
    more = [
        Problem(ascii(source.name)[1:-1], ascii(source.image.name)[1:-1], wrong[source.name], "rename its files")
        for source in sources
        if wrong[source.name]
    ]
    return [source for source in sources if not wrong[source.name]], problems + more


def _with_present_organs(folder: Path, sources: Sequence[Source], unlisted: list[Source]) -> Found:
    """Let the organs that are present in the label files of some of the sources count as annotated; warn of it."""
    kept, problems = pairs.keep_present(unlisted)
    replaced = {source.name for source in unlisted}
    if any({organ for _, organ in source.organs} - {TUMOUR, *source.annotated} for source in kept):
        warnings.warn(
            f"{folder.name}: nothing says which organs were annotated in {len(kept)} cases, so those found in each "
            "label file count, and absent organs as not annotated. List them in annotated.json if you know better.",
            AnnotationWarning,
            stacklevel=3,
        )
    rest = [source for source in sources if source.name not in replaced]
    return sorted([*rest, *kept], key=lambda source: source.name), problems


def _find(layout: str, folder: Path) -> Found | None:
    match layout:
        case "nnunet":
            return nnunet.find(folder)
        case "msd":
            return msd.find(folder)
        case "totalsegmentator":
            return totalsegmentator.find(folder)
        case "dicom":
            from viscera.datasets import dicom  # what it needs is not loaded for other layouts

            return dicom.find(folder)
        case "images":
            return unlabelled.find(folder)
        case _:
            return pairs.find(pairs.PAIRS[layout], folder)


def _not_such(layout: str, folder: Path) -> DataSetError:
    """Say what was expected, what is there, and what it looks like instead."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
    there = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") or "nothing"
    text = f"{folder} is no '{layout}' data set: expected {LAYOUTS[layout]}; found {there}"
    if others := _alike(folder, besides=layout):
        return DataSetError(text, f"It looks like {' or '.join(map(repr, others))}: use that layout.", file=folder)
    for child in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        others = [layout] if layout == "images" and unlabelled.find(child) else _alike(child)
        if others:
            remedy = f"Its folder {child.name} looks like '{others[0]}': did you mean that one?"
            return DataSetError(text, remedy, file=folder)
    return DataSetError(text, "Check the path and the names.", file=folder)


def _alike(folder: Path, *, besides: str = "") -> list[str]:
    """Return the layouts that find cases in a folder; never 'images', which any folder of NIfTI files would look like."""
    alike = []
    if besides != "dicom" and holds_dicom(folder):
        alike.append("dicom")
    for layout in LAYOUTS.keys() - {besides, "images", "dicom"}:
        try:
            found = _find(layout, folder)
        except DataSetError:
            found = None
        if found is not None and found[0]:
            alike.append(layout)
    return sorted(alike)
