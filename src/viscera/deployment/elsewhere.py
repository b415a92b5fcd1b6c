"""What `viscera predict` took on other kinds of processor: figures that were measured, and the kinds of which there are none.

elsewhere.json is written by `make tables` from benchmarks/results/speed.json; nothing is estimated from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from viscera.io.json_codec import from_json
from viscera.json_text import load_text
from viscera.networks.processor import KINDS, Processor

FILE = Path(__file__).with_name("elsewhere.json")


@dataclass(frozen=True)
class Figure:
    """The command with the bundled weights, once measured.

    Attributes:
        kind: Of the processor, as ``Processor.kind`` names it.
        processor: Its name.
        cores: That it used.
        scan: Name and shape.
        runtime: That ran the network.
        precision: Of the network; None where the measurement does not say.
        command_s: Seconds of the whole command in a new process, the median.
        file_to_file_s: Of these from the scan's file to that of its labels; None where it was not measured.
        commit: Of viscera.
        date: Day of the measurement.
    """

    kind: str
    processor: str
    cores: int
    scan: str
    runtime: str
    precision: str | None
    command_s: float
    file_to_file_s: float | None
    commit: str
    date: str


@dataclass(frozen=True)
class Figures:
    """What elsewhere.json holds."""

    figures: tuple[Figure, ...]


def measured_figures(file: Path = FILE) -> tuple[Figure, ...]:
    """Return the measured figures, as they stand in the package.

    Raises:
        FileError: The file is damaged.
    """
    return from_json(
        Figures, load_text(file), what=f"{file.name} is not a table of measured times", remedy="Install viscera again."
    ).figures


def unmeasured_kinds(figures: Sequence[Figure]) -> list[str]:
    """List the kinds of processor of which there is no figure."""
    there = {figure.kind for figure in figures}
    return [kind for kind, _ in KINDS if kind not in there]


def about_kinds(processor: Processor, figures: Sequence[Figure]) -> str:
    """Say whether there are figures of this kind of processor, and of which others there are none."""
    missing = [kind for kind in unmeasured_kinds(figures) if kind != processor.kind]
    if processor.kind in {figure.kind for figure in figures}:
        text = f"This processor is of the kind {processor.kind}."
    else:
        text = f"This processor is of the kind {processor.kind}, of which there is no measured figure."
    return f"{text} No figures of: {', '.join(missing)}." if missing else text
