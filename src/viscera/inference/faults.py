"""Faults that a scan causes in viscera or a library: a row for the user, and a traceback in a log without patients in it.

The log names functions, lines and the scan's file, and nothing else: messages of libraries may hold paths and headers.
"""

from datetime import datetime
from importlib.metadata import version

from viscera.errors import FileError, VisceraError
from viscera.inference.jobs import ScanJob
from viscera.io.frames import causes, frame_lines
from viscera.io.scans import files_of

LOG = "viscera-faults.log"


def as_problem(job: ScanJob, error: Exception) -> VisceraError:
    """Return what to tell the user of whatever a scan caused; what is not told by a VisceraError gets into the log.

    Args:
        job: The scan.
        error: What was raised.
    """
    if isinstance(error, VisceraError):
        return error
    if isinstance(error, MemoryError):
        what, remedy = "it does not fit into memory", "Close other programs, or pass --max-memory MIB."
    elif isinstance(error, OSError) and error.strerror:
        what, remedy = error.strerror, "Check the scan, its folder and the disk."
    else:
        what, remedy = f"an unexpected fault ({type(error).__name__})", "Leave this scan out to go on with the others."
    place = job.output.with_name(LOG)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(describe(job.scan.name, error))
        remedy += (
            f" {LOG} beside the output says where it happened; if the file is sound, please report it with that log."
        )
    except OSError:  # the row is the more important
        remedy += " If the file is sound, please report it."
    problem = FileError(f"{job.scan.name}: {what}", remedy, file=files_of(job.scan)[0])
    problem.__cause__ = error
    return problem


def describe(scan: str, error: BaseException) -> str:
    """Return a traceback as text, with nothing in it that could name a patient but the scan's file name."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    lines = [f"{now} viscera {version('viscera')}: {scan!r}"]
    for one in causes(error):
        lines += [f"{type(one).__module__}.{type(one).__qualname__}", *frame_lines(one)]
    return "\n".join(lines) + "\n\n"
