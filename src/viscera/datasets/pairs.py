"""Layouts with scans in one folder, label files in another, and label values that are the same everywhere.

Such a layout is a value of PairLayout; a new one is a few lines here. Layouts that describe themselves in a file are in
nnunet.py and msd.py.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from viscera.datasets.sources import Found, Problem, Source, files_by_case, pair_files
from viscera.errors import VisceraError
from viscera.io import nifti
from viscera.io.label_values import whole_labels
from viscera.labels import ABDOMENCT1K, FLARE13, TUMOUR

READERS = 4
"""Label files read at a time; each costs the memory of one label map."""


@dataclass(frozen=True)
class PairLayout:
    """Where scans and labels lie, how they are named, and what the label values mean.

    Attributes:
        folders: (images, labels) folders, relative to the data set; the first pair that exists counts.
        image_suffix: What the file names of images have after the case's name.
        case_name: A format of the case's number, for writing.
        organs: {label value: organ}.
        partial: Cases annotate different organs, and nothing but the values in a label file says which.
    """

    folders: tuple[tuple[str, str], ...]
    image_suffix: str
    case_name: str
    organs: Mapping[int, str]
    partial: bool = False


ABDOMENCT1K_PAIRS = PairLayout((("Image", "Mask"),), "_0000", "Case_{:05d}", ABDOMENCT1K.labels)
"""Ma et al. 2021, doi:10.1109/TPAMI.2021.3100536."""

RADIOTHERAPY_PAIRS = PairLayout(
    (("ct", "label"),),
    "",
    "{}",
    {
        1: "urinary_bladder",
        2: "colon",
        3: "femoral_head_left",
        4: "femoral_head_right",
        5: "kidney_left",
        6: "kidney_right",
        7: "liver",
        8: "rectum",
        9: "small_bowel",
        10: "spinal_cord",
        11: "stomach",
    },
)
"""The radiotherapy set of Zhang 2025 (zhang2d)."""

FLARE_PAIRS = PairLayout(
    (("imagesTr", "labelsTr"), ("images", "labels"), ("imagesTr2200", "labelsTr2200")),
    "_0000",
    "FLARE_{:04d}",
    {**FLARE13.labels, 14: TUMOUR},
    partial=True,
)
"""FLARE22 and FLARE23 (Ma et al. 2024, arXiv:2408.12534); 14 is FLARE23's tumour."""

PAIRS = {"abdomenct1k": ABDOMENCT1K_PAIRS, "radiotherapy": RADIOTHERAPY_PAIRS, "flare": FLARE_PAIRS}
"""{layout: its description}."""


def folders_of(layout: PairLayout, folder: Path) -> tuple[Path, Path] | None:
    """Return the folders of images and labels, or None where the layout's are not there."""
    for images, labels in layout.folders:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            return folder / images, folder / labels
    return None


def find(layout: PairLayout, folder: Path) -> Found | None:
    """Find the cases, or None where the folder is not laid out so. Every organ of the layout counts as annotated."""
    places = folders_of(layout, folder)
    # A dataset.json gives the label values a meaning of its own.
    if places is None or (layout.partial and (folder / "dataset.json").exists()):
        return None
    images, labels = places
    cases = files_by_case(images, suffix=layout.image_suffix)
    return pair_files(folder, cases, files_by_case(labels), organs=layout.organs)


def keep_present(sources: list[Source]) -> Found:
    """Count as annotated only the organs that each label file holds, at the price of reading it.

    That takes an organ which was looked for and is absent for one that was not looked for: some evidence is lost, none
    invented.
    """
    with ThreadPoolExecutor(READERS) as pool:
        results = list(pool.map(_only_present, sources))
    kept = [result for result in results if isinstance(result, Source)]
    return kept, [result for result in results if isinstance(result, Problem)]


def _only_present(source: Source) -> Source | Problem:
    if not isinstance(source.labels, Path):
        return source
    try:
        voxels, _ = whole_labels(nifti.read(source.labels).voxels, where=source.labels.name, file=source.labels)
    except VisceraError as error:
        file = f"{source.labels.parent.name}/{source.labels.name}"
        return Problem(source.name, file, error.what, error.remedy or "Replace the file, or remove the case.")
    present = set().union(*(np.unique(section).tolist() for section in voxels))
    return replace(source, annotated=tuple(organ for value, organ in source.organs if value in present))
