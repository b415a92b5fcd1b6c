"""Corrections: scans with the labels that somebody corrected, and how they become cases to train on."""

from dataclasses import dataclass
from hashlib import sha256 as hash_of
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from viscera.config.ranges import STRICT
from viscera.datasets.sources import Source
from viscera.errors import DataSetError
from viscera.inference.model import Model
from viscera.inference.segment import prepare_scan, segment_prepared
from viscera.io import nifti
from viscera.io.label_values import whole_labels
from viscera.labels import LabelSpace, is_known, organ_name
from viscera.preparation.intensity import hounsfield
from viscera.volume import Volume, require_same_grid, with_voxels

UNKNOWN = 255
"""In a label map that is to be trained on: may be anything."""


@dataclass(frozen=True)
class Correction:
    """A scan with the labels that somebody corrected.

    Attributes:
        scan: Its file.
        labels: Their file, on the scan's grid.
        names: {name: value}.
        sha256: Of the labels' file.
        held_back: Whether it is for comparing only.
    """

    __pydantic_config__ = STRICT

    scan: str
    labels: str
    names: dict[str, int]
    sha256: str
    held_back: bool

    @property
    def case(self) -> str:
        """A name that tells nothing of the scan's, and is the same wherever the studies lie."""
        return f"c{hash_of(Path(self.scan).name.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"

    def values(self, space: LabelSpace) -> dict[int, str]:
        """Return {value: organ} of the organs that a label space has."""
        named = {value: organ_name(name) for name, value in self.names.items()}
        return {value: organ for value, organ in named.items() if organ in space.organs}

    def unknown(self, space: LabelSpace) -> tuple[int, ...]:
        """Return the values of which nothing is known: of names, such as a lesion's, that are no organ's."""
        named = {value: organ_name(name) for name, value in self.names.items()}
        return tuple(value for value, organ in named.items() if organ not in space.organs and not is_known(organ))


def source_of(correction: Correction, file: Path, space: LabelSpace) -> Source:
    """Return a correction as a case of a data set.

    Args:
        correction: Which.
        file: From ``filled``: with all organs.
        space: Of its labels.
    """
    return Source(
        name=correction.case,
        dataset="corrections",
        patient=correction.case,
        image=Path(correction.scan),
        labels=file,
        organs=tuple(space.labels.items()),
        annotated=tuple(space.organs),
        unknown=(UNKNOWN,),
    )


def filled(correction: Correction, model: Model, file: Path) -> Path:
    """Write a correction's labels, and what the model that serves finds of organs that it does not name.

    Else the network would learn that those are not there: a correction of the liver alone would make it forget the rest.

    Args:
        correction: Which.
        model: That serves.
        file: To write; one that stands there is of the same correction and model, and kept.

    Raises:
        DataSetError: It names no organ that the model knows.
        VisceraError: The scan or the labels cannot be read any more.
    """
    space = model.space
    if not correction.values(space):
        raise DataSetError("a correction names no organ that the model knows", "Rename its segments after organs.")
    if file.is_file():
        return file
    ct, truth, unknown = read_correction(correction, space)
    found = np.array(segmented(ct, model))
    found[np.isin(found, [space.index(organ) for organ in correction.values(space).values()])] = 0
    labels = np.where(truth > 0, truth, found)
    labels[unknown] = UNKNOWN
    file.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(file, with_voxels(ct, labels))
    return file


def read_correction(
    correction: Correction, space: LabelSpace
) -> tuple[Volume, UInt8[np.ndarray, "z y x"], Bool[np.ndarray, "z y x"]]:
    """Return a correction's scan (HU), its labels in a label space, and where they may be anything.

    Raises:
        VisceraError: The scan or the labels cannot be read any more, or lie on two grids.
    """
    ct, drawn = nifti.read(Path(correction.scan)), nifti.read(Path(correction.labels))
    require_same_grid(ct, drawn, where="the correction")
    whole, _ = whole_labels(drawn.voxels, where="the correction")
    table = np.zeros(256, np.uint8)
    for value, organ in correction.values(space).items():
        table[value] = space.index(organ)
    hu = with_voxels(ct, hounsfield(ct, where="the scan"))
    return hu, table[whole.astype(np.uint8)], np.isin(whole, correction.unknown(space))


def segmented(hu: Volume, model: Model) -> UInt8[np.ndarray, "z y x"]:
    """Return all that a model finds in a scan."""
    return np.asarray(segment_prepared(prepare_scan(hu, model), model).labels.voxels, np.uint8)
