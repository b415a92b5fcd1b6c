"""viscera view: a picture of a scan with its labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import say
from viscera.errors import FileError


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


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera view", config=(FlagCreatePairsOff,))
    from viscera import nifti
    from viscera.evaluation import read_names
    from viscera.figures import Look, montage

    if options.png.exists() and not options.overwrite:
        raise FileError(f"{options.png} exists already. Choose another name or say --overwrite.")
    labels = nifti.read(options.labels)
    truth = nifti.read(options.truth) if options.truth else None
    look = Look(axial=options.axial, coronal=options.coronal, sagittal=options.sagittal)
    names = read_names(options.labels)
    montage(nifti.read(options.ct), labels, truth=truth, names=names, out=options.png, look=look)
    say(f"picture: {options.png}")
    return 0
