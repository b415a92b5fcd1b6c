"""Names and colours of organs for 3D Slicer and ITK-SNAP, one pair of files per folder of label maps."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from viscera.colours import colour
from viscera.errors import VisceraError
from viscera.inference.jobs import COLOUR_FILES
from viscera.io.atomic import write_text
from viscera.labels import LabelSpace

SLICER_HEAD = "# Color table file, 3D Slicer"
SNAP_HEAD = "# ITK-SNAP label description file: index R G B opacity visible mesh name"


class KeptWarning(UserWarning):
    """A file that viscera did not write stands where it would write one, and stays."""


def write_colours(folder: Path, space: LabelSpace) -> None:
    """Write the organs' names and colours for 3D Slicer (labels.ctbl) and ITK-SNAP (labels.itksnap.txt).

    Files of these names that viscera did not write stay, and no folder is too full for label maps because of its colours.

    Warns:
        KeptWarning: A file was not written, and why.
    """
    rows = [(index, organ, *colour(organ)) for index, organ in space.labels.items()]
    slicer = [SLICER_HEAD, "0 background 0 0 0 0"]
    slicer += [f"{index} {organ} {r} {g} {b} 255" for index, organ, r, g, b in rows]
    snap = [SNAP_HEAD, '0 0 0 0 0 0 0 "Clear Label"']
    snap += [f'{index} {r} {g} {b} 1 1 1 "{organ}"' for index, organ, r, g, b in rows]
    for name, lines in zip(COLOUR_FILES, (slicer, snap), strict=True):
        file = folder / name
        if os.path.lexists(file) and not _is_own_colours(file, lines[:2]):
            why = "exists already, and viscera did not write it: it stays, and names none of these organs' colours"
            warnings.warn(f"{file} {why}. To have them, choose another output folder.", KeptWarning, stacklevel=3)
            continue
        try:
            write_text(file, "\n".join(lines) + "\n")
        except (OSError, VisceraError) as error:
            warnings.warn(f"{file} was not written: {error}", KeptWarning, stacklevel=3)


def _is_own_colours(file: Path, head: Sequence[str]) -> bool:
    """Tell whether viscera wrote a file of colours, perhaps for another network's organs, by its first two lines."""
    try:
        with file.open(encoding="utf-8") as lines:
            return [lines.readline(200).rstrip("\n") for _ in head] == list(head)
    except (OSError, ValueError):
        return False
