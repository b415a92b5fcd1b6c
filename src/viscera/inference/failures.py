"""NAME.failed.json: why a scan has no label map, beside where that would stand, so that a folder of results tells of each scan.

It is written where a command segments several scans, and goes away when the scan is segmented. It holds the scan's file name
and the message, without folders.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from viscera.errors import VisceraError
from viscera.io import nifti
from viscera.io.atomic import write_json
from viscera.io.paths_in_text import without_folders
from viscera.json_text import load_json

KEY = "failed"
"""In the JSON: by it such a file is known."""


@dataclass(frozen=True)
class Failure:
    """Why a scan has no label map.

    Attributes:
        scan: Its file's name, or a series' name.
        label_map: The name of the file that it would have become.
        error: The kind of error.
        what: What is wrong, without folders.
        remedy: What to do, likewise.
        date: When, with the offset from UTC.
        viscera: Its version.
    """

    scan: str
    label_map: str
    error: str
    what: str
    remedy: str
    date: str
    viscera: str


def failure_file(output: Path) -> Path:
    """Return where the failure of a label map is told.

    Example:
        >>> failure_file(Path("out/liver_003.nii.gz")).name
        'liver_003.failed.json'
    """
    return output.with_name(f"{nifti.stem(output)}.failed.json")


def note_failure(output: Path, scan: str, error: VisceraError) -> None:
    """Write down why a scan has no label map; what cannot be written is not worth another failure.

    Args:
        output: Where the label map would stand.
        scan: The scan's file name, or a series' name.
        error: Why it does not.
    """
    file = failure_file(output)
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    what, remedy = (without_folders(text, str(error.file or "")) for text in (error.what, error.remedy))
    failure = Failure(scan, output.name, type(error).__name__, what, remedy, now, version("viscera"))
    with suppress(VisceraError):
        if not file.exists() or read_failure(file) is not None:
            write_json(file, {KEY: asdict(failure)})


def forget_failure(output: Path) -> None:
    """Remove the note of a failure, now that the label map stands there."""
    file = failure_file(output)
    with suppress(OSError):
        if file.exists() and read_failure(file) is not None:
            file.unlink(missing_ok=True)


def read_failure(file: Path) -> Failure | None:
    """Return what a NAME.failed.json says; None where it is something else, or cannot be read."""
    try:
        facts = load_json(file)
    except (OSError, ValueError):
        return None
    return failure_of(facts) if isinstance(facts, dict) else None


def failure_of(facts: Mapping[str, object]) -> Failure | None:
    """Return the failure that an object tells of; None where it tells of something else."""
    failed = facts.get(KEY)
    names = Failure.__dataclass_fields__
    if not isinstance(failed, dict) or not all(isinstance(failed.get(name), str) for name in names):
        return None
    return Failure(**{name: failed[name] for name in names})
