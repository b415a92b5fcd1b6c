"""From a raw scan and its labels to a Case: the image prepared (image.py), the labels alike and in the label space.

``prepare_image`` is what training and prediction share: a scan to be segmented takes the same way as those learnt from.
Preparing whole data sets on all cores is in prepare.py.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Int, Int16, Integer, UInt8

from viscera.config import Preparation
from viscera.datasets.read_labels import read_labels
from viscera.datasets.sources import Source, label_files
from viscera.errors import LabelError, VisceraError
from viscera.io import scans
from viscera.io.atomic import sha256
from viscera.io.label_values import LARGEST_LABEL
from viscera.io.nifti import GridWarning
from viscera.io.scans import files_of
from viscera.labels import Fit, LabelSpace, fit
from viscera.preparation.geometry import Geometry
from viscera.preparation.image import prepare_file, prepare_image
from viscera.preparation.intensity import hounsfield
from viscera.preparation.resampling import resample_labels, resample_labels_along_z
from viscera.preparation.shear import straighten
from viscera.preparation.store import Case, Facts, SourceFacts
from viscera.volume import require_same_grid, with_voxels

__all__ = [
    "PreparedLabels",
    "case_name",
    "count_voxels",
    "describe",
    "hu_statistics",
    "prepare_case",
    "prepare_file",
    "prepare_image",
    "prepare_labels",
    "without_folders",
]


@dataclass(frozen=True, eq=False)
class PreparedLabels:
    """Labels in the label space, on the prepared grid.

    Attributes:
        labels: Index in the space.
        known: False where the label may be anything; None where all is known.
        annotated: Organs of the space that are annotated.
        notes: For the user.
    """

    labels: UInt8[np.ndarray, "z y x"]
    known: Bool[np.ndarray, "z y x"] | None
    annotated: tuple[str, ...]
    notes: tuple[str, ...]


def prepare_labels(
    labels: Integer[np.ndarray, "z y x"], source: Source, *, space: LabelSpace, geometry: Geometry
) -> PreparedLabels:
    """Turn and resize or cut labels as their image, and give them the space's indices.

    Args:
        labels: Values of ``source.organs``, on the scanner's grid.
        source: What the values mean, and what is annotated.
        space: Where to.
        geometry: The image's.

    Raises:
        LabelError: A value means nothing, is negative, or above LARGEST_LABEL.
    """
    values = fit(space, dict(source.organs), source.annotated, unknown=source.unknown)
    counts = _count_values(labels, where=source.name)
    _require_known_values(counts, values, source)
    axial = geometry.turn.apply(labels)
    small = resample_labels(axial, geometry.pixel_grid)
    if geometry.slice_grid is not None:
        small = resample_labels_along_z(small, geometry.slice_grid)
    table, unknown = np.zeros(len(counts), np.uint8), np.zeros(len(counts), bool)
    for value, index in values.values.items():
        table[value : value + 1] = index
    unknown[[value for value in values.unknown if value < len(counts)]] = True
    return PreparedLabels(
        labels=table[small],
        known=~unknown[small] if counts[unknown].any() else None,
        annotated=values.annotated,
        notes=(
            *values.notes,
            *_notes_of_absence(counts, values, space),
            *_notes_of_loss(axial, values, space, geometry),
        ),
    )


def _count_values(labels: Integer[np.ndarray, "z y x"], *, where: str) -> Int[np.ndarray, " value"]:
    """Count the voxels of each value from 0 to the largest."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > LARGEST_LABEL:
        wrong = low if low < 0 else high
        raise LabelError(
            f"{where}: the labels hold {wrong}, but labels are 0 to {LARGEST_LABEL}", "Correct the label file."
        )
    counts = np.zeros(high + 1, np.int64)
    for part in labels:
        counts += np.bincount(part.ravel(), minlength=high + 1)
    return counts


def _require_known_values(counts: Int[np.ndarray, " value"], values: Fit, source: Source) -> None:
    allowed = {0, *values.values, *values.unknown}
    strange = [value for value in np.flatnonzero(counts).tolist() if value not in allowed]
    if strange:
        names = ", ".join(f"{value} {organ}" for value, organ in source.organs)
        held = ", ".join(f"{value} ({counts[value]} voxels)" for value in strange[:5])
        more = f" and {len(strange) - 5} more values" if len(strange) > 5 else ""
        raise LabelError(
            f"{source.name}: the labels hold {held}{more}, but the data set names 0 background, {names}",
            "Correct the label file, or name the value in the data set.",
        )


def _notes_of_absence(counts: Int[np.ndarray, " value"], values: Fit, space: LabelSpace) -> list[str]:
    """Say which annotated organs the labels do not hold."""
    if not values.annotated:
        return [f"none of its annotated organs is in label space '{space.name}', so nothing can be learnt from it"]
    present = {index for value, index in values.values.items() if value < len(counts) and counts[value]}
    absent = [organ for organ in values.annotated if space.index(organ) not in present]
    if absent and len(absent) == len(values.annotated):
        return [f"the labels hold none of the annotated organs ({', '.join(absent)}): taken as absent from the scan"]
    return [f"{organ}: annotated, but absent from the scan" for organ in absent]


def _notes_of_loss(
    axial: Integer[np.ndarray, "z y x"], values: Fit, space: LabelSpace, geometry: Geometry
) -> list[str]:
    """Say how many labelled voxels were cut off with what is not the body."""
    if geometry.step is None:
        return []
    rows, columns = geometry.pixel_grid.inside(geometry.axial_shape[1:])
    middle = axial[:, rows]
    beside = middle[:, :, : columns.start], middle[:, :, columns.stop :]
    outside = np.concatenate([part[part > 0] for part in (axial[:, : rows.start], axial[:, rows.stop :], *beside)])
    lost: dict[str, int] = {}
    for value, count in zip(*(found.tolist() for found in np.unique(outside, return_counts=True)), strict=True):
        index = values.values.get(value, 0)
        if index:
            lost[space.classes[index]] = lost.get(space.classes[index], 0) + count
    if not lost:
        return []
    organs = ", ".join(f"{organ} {count}" for organ, count in lost.items())
    return [
        f"{sum(lost.values())} labelled voxels lie outside the body's box and are cut off ({organs}). "
        "Look at the scan, or raise preparation.margin_mm"
    ]


def prepare_case(source: Source, *, space: LabelSpace, preparation: Preparation) -> tuple[Case, Facts]:
    """Read, check and prepare one case.

    An error carries, as its note, the file that is at fault, relative to the data set's folder.

    Args:
        source: Where its files are.
        space: Of the labels.
        preparation: What to do.

    Raises:
        VisceraError: It cannot be used; the message says why and what to do.
    """
    stamped = describe(source)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with _about(stamped.image):
            scan = scans.read(source.image)
            ct, shear = straighten(with_voxels(scan, hounsfield(scan, where=source.name)))
            image, geometry = prepare_image(ct, preparation)
            image_hash = scans.sha256_of(source.image)
        grid = with_voxels(scan, np.broadcast_to(np.uint8(0), scan.shape))
        if shear is not None:
            warnings.warn(f"{shear.noted}, and so are their labels", GridWarning, stacklevel=2)
        del scan, ct  # their voxels: the labels may need the memory
        prepared = None
        with _about(", ".join(stamped.labels)):
            if source.labels is not None:
                volume = read_labels(source)
                require_same_grid(grid, volume, where=source.name)
                voxels = volume.voxels if shear is None else shear.forth(volume.voxels)
                prepared = prepare_labels(voxels, source, space=space, geometry=geometry)
            label_hashes = tuple(sha256(file) for file in label_files(source))
    notes = tuple(dict.fromkeys(without_folders(str(warning.message), source) for warning in caught))
    name = case_name(source)
    if prepared is None:
        case = Case(name, source.dataset, source.patient, image, None, None, (), geometry)
        notes += ("no labels",)
    else:
        annotated = prepared.annotated
        case = Case(name, source.dataset, source.patient, image, prepared.labels, prepared.known, annotated, geometry)
        notes += prepared.notes
    facts = Facts(
        name=name,
        dataset=case.dataset,
        patient=case.patient,
        annotated=case.annotated,
        notes=notes,
        source=_with_hashes(stamped, image_hash, label_hashes),
        geometry=geometry,
        image_sha256=hashlib.sha256(np.ascontiguousarray(image).data).hexdigest(),
        hu=hu_statistics(image),
        voxels=count_voxels(case, space),
    )
    return case, facts


def hu_statistics(image: Int16[np.ndarray, "z y x"]) -> dict[str, float]:
    """Return minimum, maximum, mean, and percentiles: the lowest HU that 10 % and 90 % of the voxels do not exceed."""
    counts = np.zeros(65536, np.int64)
    for part in image:
        counts += np.bincount(part.ravel().astype(np.int32) + 32768, minlength=65536)
    hu = np.arange(-32768, 32768)
    shares = np.cumsum(counts) / image.size
    return {
        "minimum": float(hu[counts > 0][0]),
        "maximum": float(hu[counts > 0][-1]),
        "mean": round(float((counts * hu).sum() / image.size), 4),
        "p10": float(hu[np.searchsorted(shares, 0.1 - 1e-12)]),
        "p90": float(hu[np.searchsorted(shares, 0.9 - 1e-12)]),
    }


def count_voxels(case: Case, space: LabelSpace) -> dict[str, int]:
    """Count the known voxels of each class of a prepared case; empty without labels."""
    if case.labels is None:
        return {}
    labels = case.labels if case.known is None else case.labels[case.known]
    counts = np.bincount(labels.ravel(), minlength=len(space.classes)).tolist()
    return dict(zip(space.classes, counts, strict=True))


def case_name(source: Source) -> str:
    """Return the name that a source's case has in the store."""
    return f"{source.dataset.lstrip('.')}__{source.name}"


def describe(source: Source) -> SourceFacts:
    """Return what case.json says of a source, without the checksums, which take reading the files.

    Raises:
        FileNotFoundError: A file is gone.
    """
    labels = label_files(source)
    stamps = _stamp(files_of(source.image)), *(_stamp((file,)) for file in labels)
    image = _relative(files_of(source.image)[0], source)
    if not isinstance(source.image, Path):
        image = str(PurePosixPath(image).parent)  # of the folder that holds the series
    return SourceFacts(
        image,
        tuple(_relative(file, source) for file in labels),
        "",
        (),
        stamps,
        source.organs,
        source.annotated,
        source.unknown,
    )


def _stamp(files: Sequence[Path]) -> tuple[int, int, int]:
    """Return bytes, mtime and ctime (ns) of a file; of several the sum, and the times of the last."""
    found = [file.stat() for file in files]
    times = max(one.st_mtime_ns for one in found), max(one.st_ctime_ns for one in found)
    return sum(one.st_size for one in found), *times


def without_folders(text: str, source: Source) -> str:
    """Return a message without the folders of a source's files, and without the case's name in front."""
    for file in (*files_of(source.image), *label_files(source)):
        text = text.replace(str(file), _relative(file, source))
    return text.removeprefix(f"{source.name}: ")


def _relative(file: Path, source: Source) -> str:
    """Return a file's path from the data set's folder on, its name alone where that folder is not above it."""
    for parent in file.parents:
        if parent == source.origin.folder if source.origin else parent.name == source.dataset:
            return file.relative_to(parent).as_posix()
    return file.name


def _with_hashes(source: SourceFacts, image: str, labels: tuple[str, ...]) -> SourceFacts:
    return SourceFacts(**vars(source) | {"image_sha256": image, "labels_sha256": labels})


@contextmanager
def _about(file: str) -> Iterator[None]:
    """Say on errors that name no file which one they are about."""
    try:
        yield
    except VisceraError as error:
        error.file = error.file or file
        raise
