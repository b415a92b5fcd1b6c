"""viscera view: a picture of a scan with its labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera import nifti
from viscera.cli.console import say
from viscera.cli.inputs import data_sets
from viscera.errors import FileError
from viscera.figures import Look, montage
from viscera.label_files import read_names
from viscera.pairing import Task, case_name, find_tasks, match
from viscera.volume import require_same_grid


@dataclass(frozen=True)
class Options:
    """Draw a scan with its labels, as radiology shows it: the patient's right on the left, front on top."""

    ct: Annotated[Positional[Path], arg(metavar="CT")]
    """The scan."""
    labels: Annotated[Positional[Path], arg(metavar="LABELS")]
    """A label map on its grid, with NAME.json beside it."""
    truth: Annotated[Positional[str], arg(metavar="TRUTH")] = ""
    """The true label map, as a file or as the data set LAYOUT=DIR that holds the case: adds columns for the truth and for
    agreement (yellow), false (green) and missed (red)."""
    png: Path = Path("view.png")
    """The picture."""
    axial: int = 4
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
    if options.png.exists() and not options.overwrite:
        raise FileError(f"{options.png} exists already. Choose another name or say --overwrite.")
    ct = nifti.read(options.ct)
    look = Look(
        axial=options.axial, coronal=options.coronal, sagittal=options.sagittal, title=case_name(options.labels)
    )
    if options.truth:
        pair, _ = match(task_of(options))
        names, annotated = pair.space.labels, pair.annotated
        montage(ct, pair.prediction, truth=pair.truth, names=names, annotated=annotated, out=options.png, look=look)
    else:
        labels = nifti.read(options.labels)
        require_same_grid(ct, labels, where=options.labels.name)
        montage(ct, labels, truth=None, names=read_names(options.labels), out=options.png, look=look)
    say(f"picture: {options.png}")
    return 0


def task_of(options: Options) -> Task:
    """Give the label map and its truth.

    Raises:
        FileError: The data set does not hold the case.
    """
    if "=" in options.truth and not Path(options.truth).exists():
        return find_tasks(data_sets([options.truth])[0], options.labels)[0][0]
    return Task(case_name(options.labels), options.labels, Path(options.truth))
