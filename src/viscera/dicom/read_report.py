"""What a measurement report says of each organ, read from viscera's reports without the library that writes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.errors import FileError
from viscera.io.doors import pydicom_module

if TYPE_CHECKING:
    from pydicom import Dataset

OURS = "99VISCERA"
"""The coding scheme of what no standard has a code for."""
BORDER = ("TouchesBorder", OURS, "Touches the edge of the scan")
GROUP, VOLUME, MEAN, DEVIATION, YES = "125007", "118565006", "373098007", "386136009", "373066001"
TRACKED_AS, COMMENT = "112039", "121106"
"""Codes of DCM and SNOMED CT, by which content items are told apart."""
DAMAGED = (AttributeError, KeyError, IndexError, ValueError, TypeError, NotImplementedError)
"""What a file raises that lacks what it should have, or holds something else there."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one organ.

    Attributes:
        volume_ml: Of its voxels.
        mean_hu: None where it has none.
        sd_hu: Standard deviation; None where it has none.
        touches_border: Whether it goes on outside the scan, as far as one can tell.
        flags: What speaks against the result, a sentence each.
    """

    volume_ml: float
    mean_hu: float | None
    sd_hu: float | None
    touches_border: bool
    flags: tuple[str, ...] = ()


def read_report(file: Path) -> dict[str, Measured]:
    """Return {organ: what was measured} of a report that viscera wrote.

    Raises:
        FileError: It is not one.
    """
    pydicom = pydicom_module()
    from pydicom.errors import InvalidDicomError

    try:
        return measured_in(pydicom.dcmread(file))
    except (OSError, InvalidDicomError, *DAMAGED) as error:
        raise FileError(
            f"{file.name} is not a measurement report of viscera's", "Write it again.", file=file
        ) from error


def measured_in(report: "Dataset") -> dict[str, Measured]:
    """Return {organ: what was measured} of a report that was read; one of the ``DAMAGED`` where something is missing."""
    return dict(_measured(item) for item in items_below(report) if _name(item) == GROUP)


def items_below(item: "Dataset") -> "Iterator[Dataset]":
    """Yield all content items below one."""
    for child in item.get("ContentSequence") or []:
        yield child
        yield from items_below(child)


def _name(item: "Dataset") -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""


def _measured(group: "Dataset") -> tuple[str, Measured]:
    """Return what a measurement group says: organ, measurements."""
    texts = {TRACKED_AS: [], COMMENT: []}
    numbers: dict[str, float] = {}
    touches = None
    for item in group.ContentSequence:
        name = _name(item)
        if item.ValueType == "TEXT" and name in texts:
            texts[name].append(str(item.TextValue))
        elif item.ValueType == "NUM":
            derivations = [str(one.ConceptCodeSequence[0].CodeValue) for one in item.get("ContentSequence") or []]
            numbers[derivations[0] if derivations else name] = float(item.MeasuredValueSequence[0].FloatingPointValue)
        elif name == BORDER[0]:
            touches = str(item.ConceptCodeSequence[0].CodeValue) == YES
    if touches is None:
        raise KeyError(BORDER[0])
    [label], [_, *flags] = texts[TRACKED_AS], texts[COMMENT]
    return label, Measured(numbers[VOLUME], numbers.get(MEAN), numbers.get(DEVIATION), touches, tuple(flags))
