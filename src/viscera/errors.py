"""Exceptions whose message tells the user what to change.

    VisceraError
    ├── FileError       a file that cannot be read or written as what it claims to be
    ├── GeometryError   grids that do not match, or that describe no scanner's grid
    ├── LabelError      organ names and label values that do not fit a label space
    ├── DataSetError    a folder that is not laid out as its layout says
    ├── StoreError      a prepared store that is missing, foreign or incomplete
    ├── SettingError    a setting outside its range, or settings that contradict each other
    ├── WeightsError    a weights file that is missing, damaged or made for something else
    └── RunError        a training run that cannot start, go on or finish

Each carries what is wrong (and where, what was got, what expected), the remedy and the file; its text is what and remedy.
The command line turns every VisceraError into one line on stderr and exit code 2; any other exception is a fault of ours,
for which it says what to report (cli/faults.py).
"""

import difflib
from collections.abc import Iterable
from pathlib import Path


class VisceraError(Exception):
    """Anything that the user can put right; the message says how.

    Args:
        what: What is wrong, and where: without a full stop if a remedy follows.
        remedy: What to do, as one sentence or more.
        file: The file that is wrong, where it is one.

    Example:
        >>> import viscera
        >>> try:
        ...     viscera.read("nowhere.nii.gz")
        ... except viscera.VisceraError as error:
        ...     print(error)
        ...     print(error.remedy)
        nowhere.nii.gz: no such file. Check the path.
        Check the path.
    """

    def __init__(self, what: str, remedy: str = "", *, file: Path | str | None = None) -> None:
        super().__init__(what, remedy)
        self.what, self.remedy, self.file = what, remedy.strip(), file

    def __str__(self) -> str:
        return f"{self.what}. {self.remedy}" if self.remedy else self.what


class FileError(VisceraError):
    """A file cannot be read or written as what it claims to be."""


class GeometryError(VisceraError):
    """Two grids do not match, or one is not a scanner's grid."""


class LabelError(VisceraError):
    """An organ name or a label value does not fit the label space."""


class DataSetError(VisceraError):
    """A folder is not laid out as its layout says."""


class StoreError(VisceraError):
    """A prepared store is missing, foreign or incomplete."""


class SettingError(VisceraError):
    """A setting is outside its range, or two settings contradict each other."""


class WeightsError(VisceraError):
    """A weights file is missing, damaged or made for something else."""


class RunError(VisceraError):
    """A training run cannot start, go on or finish."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return " Did you mean 'liver'?" for the valid name nearest to a misspelt one, or "" where none is near.

    Example:
        >>> did_you_mean("livr", ["liver", "spleen"])
        " Did you mean 'liver'?"
        >>> did_you_mean("xyz", ["liver", "spleen"])
        ''
    """
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
