"""Which CT series a folder or a ZIP holds, whatever its files are called and however they are nested."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from viscera.dicom.series import LPS_TO_RAS, Series, Slice
from viscera.errors import VisceraError


@dataclass(frozen=True, eq=False)
class Found:
    """What was found.

    Attributes:
        series: The CT series that can be segmented, in the order of their names.
        problems: {name: why a CT series cannot be segmented}.
        notes: What was left out, such as "3 files are no CT slices (RTSTRUCT 1, SEG 2)".
    """

    series: tuple[Series, ...]
    problems: Mapping[str, VisceraError] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_series(place: Path, *, series_uid: str | None = None) -> Found:
    """Find the CT series of a folder (in any nesting) or of a ZIP file.

    Args:
        place: The folder, or the ZIP.
        series_uid: Only the series with this Series Instance UID.

    Raises:
        FileError: There is no such place, or no CT series in it.
    """
    import pydicom

    groups: dict[str, list] = defaultdict(list)
    for file in sorted(place.rglob("*")):
        if file.is_file():
            header = pydicom.dcmread(file, stop_before_pixels=True)
            if series_uid in (None, header.SeriesInstanceUID):
                groups[header.SeriesInstanceUID].append((file, header))
    found = []
    for number, members in enumerate(groups.values(), start=1):
        first = members[0][1]
        along_x, along_y = np.reshape(np.array(first.ImageOrientationPatient, float), (2, 3))
        normal = np.cross(along_x, along_y)
        members.sort(key=lambda one: float(normal @ np.array(one[1].ImagePositionPatient, float)))
        positions = np.array([one[1].ImagePositionPatient for one in members], float)
        rows, columns = (float(value) for value in first.PixelSpacing)
        lps = np.eye(4)
        lps[:3, 0] = (positions[-1] - positions[0]) / max(1, len(members) - 1)
        lps[:3, 1], lps[:3, 2], lps[:3, 3] = along_y * rows, along_x * columns, positions[0]
        found.append(
            Series(
                place.name if len(groups) == 1 else f"{place.name}_{number}",
                tuple(Slice(file, str(header.SOPInstanceUID)) for file, header in members),
                LPS_TO_RAS @ lps,
                (len(members), first.Rows, first.Columns),
                str(first.SeriesInstanceUID),
                str(first.StudyInstanceUID),
                str(first.get("FrameOfReferenceUID", "")),
            )
        )
    return Found(tuple(found))
