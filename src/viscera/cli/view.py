"""viscera view: a picture of a scan with its labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from viscera.cli.console import say


@dataclass(frozen=True)
class Options:
    """Draw a scan with its labels, as radiology shows it: the patient's right on the left, front on top."""

    ct: Annotated[Positional[Path], arg(metavar="CT")]
    """The scan."""
    labels: Annotated[Positional[Path], arg(metavar="LABELS")]
    """A label map on its grid, with NAME.json beside it where the organs are to have names."""
    truth: Annotated[Positional[Path | None], arg(metavar="TRUTH")] = None
    """The true label map: adds columns for the truth and for agreement (yellow), false (green) and missed (red)."""
    png: Path = Path("view.png")
    """The picture."""
    axial: int = 5
    """Axial slices."""
    coronal: int = 1
    """Coronal slices."""
    sagittal: int = 0
    """Sagittal slices."""
    overwrite: bool = False
    """Replace a picture that stands there."""
