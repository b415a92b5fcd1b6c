"""Data sets on disk: which cases a folder holds, and which organs each of them annotates.

Every layout is described in LAYOUTS and found by a file of its own here (those that are two folders of files share
pairs.py). A file annotated.json in the data set's folder has the last word on what is annotated (annotations.py).

To add a layout of two folders with fixed label values: a PairLayout in pairs.PAIRS and a line in LAYOUTS. To add any
other: a file with ``find(folder)``, which gives the cases, or None where the folder is something else; a line in
LAYOUTS; a case in ``_find``; and, for synthetic data sets, one in writing.py.
"""

import warnings
from pathlib import Path

from viscera.datasets import msd, nnunet, pairs, totalsegmentator, unlabelled
from viscera.datasets.annotations import REST, annotate, read_annotations
from viscera.datasets.sources import Found, Problem, Source
from viscera.errors import DataSetError, SettingError, did_you_mean
from viscera.labels import TUMOUR

LAYOUTS: dict[str, str] = {
    "abdomenct1k": "Image/Case_00001_0000.nii.gz, Mask/Case_00001.nii.gz: liver, kidney, spleen, pancreas",
    "radiotherapy": "ct/59.nii.gz, label/59.nii.gz: 11 organs of abdomen and pelvis",
    "nnunet": "dataset.json with channel_names, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz (nnU-Net v2)",
    "msd": "dataset.json with labels and training, imagesTr/CASE.nii.gz, labelsTr/CASE.nii.gz (Decathlon, nnU-Net v1)",
    "flare": "imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, no dataset.json: 13 organs and tumour",
    "totalsegmentator": "CASE/ct.nii.gz, CASE/segmentations/ORGAN.nii.gz: one binary mask per organ",
    "images": "CASE.nii.gz or CASE_0000.nii.gz: scans without labels, to segment or for pseudo-labels",
}
"""{layout: what its folder looks like and which organs it holds}."""


class AnnotationWarning(UserWarning):
    """Nothing says for certain which organs were annotated."""


def find_sources(layout: str, folder: Path) -> tuple[list[Source], list[Problem]]:
    """Find the cases of a data set. Images are not opened, except the label files of 'flare' without annotated.json.

    Args:
        layout: One of LAYOUTS.
        folder: The data set's.

    Returns:
        The cases that have an image and labels (in 'images', an image), sorted by name, and a problem for each of the
        others.

    Raises:
        SettingError: There is no such layout.
        DataSetError: The folder is not laid out so, holds no case, or describes itself wrongly.
        LabelError: annotated.json lists an organ that no label can hold.

    Warns:
        AnnotationWarning: In 'flare', organs were taken for annotated because a case's label file holds them.
    """
    if layout not in LAYOUTS:
        raise SettingError(
            f"no layout '{layout}'", f"{did_you_mean(layout, LAYOUTS)} Choose one of {', '.join(LAYOUTS)}."
        )
    folder = folder.absolute()  # so that "." has a name
    if not folder.is_dir():
        raise DataSetError(f"{folder}: no such folder", "Check the path.", file=folder)
    found = _find(layout, folder)
    if found is None or not any(found):
        raise _not_such(layout, folder)
    sources, problems = found
    annotations = read_annotations(folder)
    cases = [*(source.name for source in sources), *(problem.case for problem in problems)]
    if layout in pairs.PAIRS and pairs.PAIRS[layout].partial:
        unlisted = [source for source in sources if source.name not in annotations and REST not in annotations]
        kept, more = pairs.keep_present(unlisted)
        problems = problems + more
        replaced = {source.name for source in unlisted}
        sources = sorted([*(s for s in sources if s.name not in replaced), *kept], key=lambda source: source.name)
        if any({organ for _, organ in source.organs} - {TUMOUR, *source.annotated} for source in kept):
            warnings.warn(
                f"{folder.name}: nothing says which organs were annotated in {len(kept)} cases, so those found in each "
                "label file count, and absent organs as not annotated. List them in annotated.json if you know better.",
                AnnotationWarning,
                stacklevel=2,
            )
    return annotate(folder, sources, annotations, cases=cases), problems


def _find(layout: str, folder: Path) -> Found | None:
    match layout:
        case "nnunet":
            return nnunet.find(folder)
        case "msd":
            return msd.find(folder)
        case "totalsegmentator":
            return totalsegmentator.find(folder)
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
    for layout in LAYOUTS.keys() - {besides, "images"}:
        try:
            found = _find(layout, folder)
        except DataSetError:
            found = None
        if found is not None and found[0]:
            alike.append(layout)
    return sorted(alike)
