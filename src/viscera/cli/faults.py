"""What happens when viscera itself is at fault: two lines for the user, and a file that may be sent with a report.

The file says where in which code it happened and with which versions, and nothing of the patient: of the exception's message only
what cannot be a name, a path or a value.
"""

import os
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from viscera.io.frames import causes, frame_lines, place

PACKAGES = ("viscera", "torch", "numpy", "scipy", "nibabel", "opencv-python-headless", "pydantic", "safetensors")
"""Whose versions are said, and those of the runtimes where they are installed."""
RUNTIMES = ("openvino", "onnxruntime", "onnx")
ADDRESS = "https://github.com/viscera/viscera/issues"
TYPES = re.compile(r"u?int\d+|b?float\d+|complex\d+|[0-9]+[dD]|fp\d+|bf16|int8")
"""Words of letters and digits that name no case."""
LETTERS = 300
"""Of a message, at most."""


def report_fault(error: BaseException, arguments: Sequence[str]) -> int:
    """Tell the user of a fault of viscera's on stderr; return the exit code.

    Args:
        error: What was raised.
        arguments: Of the command, whose words are left out of what is written.
    """
    if os.environ.get("VISCERA_DEBUG") == "1":
        traceback.print_exception(error)
        return 1
    what = f"{type(error).__name__}: {without_values(str(error), arguments)}".rstrip(": ")
    file = _write(fault_text(error, arguments))
    details = f"details, without names or paths, in {file}" if file else "the details could not be written"
    sys.stderr.write(
        f"viscera: a fault of viscera, please report it at {ADDRESS} ({what})\n"
        f"viscera: {details}; VISCERA_DEBUG=1 shows everything.\n"
    )
    return 1


def fault_text(error: BaseException, arguments: Sequence[str]) -> str:
    """Return what the file says: types, frames and versions."""
    verb = arguments[0] if arguments and arguments[0].isidentifier() else "?"
    lines = [
        f"A fault of viscera, of which no part names a patient. Verb: {verb}",
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        ", ".join(f"{name} {found}" for name, found in _versions()),
    ]
    for one in causes(error):
        lines += ["", f"{type(one).__module__}.{type(one).__qualname__}: {without_values(str(one), arguments)}"]
        lines += frame_lines(one)
        # what a process of its own raised has its frames in a text
        lines += [
            f"  (in a process) {place(file)}:{line} {name}"
            for file, line, name in re.findall(r'File "([^"\n]+)", line (\d+), in (\w+|<\w+>)', str(one))
        ]
    return "\n".join(lines) + "\n"


def without_values(message: str, arguments: Sequence[str] = ()) -> str:
    """Return a message's first line without paths, quoted values, and words that the command or a file may have brought.

    Example:
        >>> without_values("no 'Mrs Miller' in /data/Miller/ct.nii.gz for case_0012, got float32", ["predict", "Miller"])
        "no '...' in ... for ..., got float32"
    """
    line = message.strip().split("\n")[0][: 10 * LETTERS]
    line = re.sub(r"""(['"`])(?:\\.|(?!\1).)*\1""", "'...'", line)
    line = re.sub(r"""(['"`]).*$""", "'...'", line) if line.count("'") % 2 or line.count('"') % 2 else line
    given = {part.lower() for word in arguments for part in re.split(r"\W+|_", word) if len(part) > 2}
    words = [_kept(word, given) for word in line.split()]
    short = " ".join(
        word for number, word in enumerate(words) if word != "..." or words[number - 1 : number] != ["..."]
    )
    return short[:LETTERS]


def _kept(word: str, given: set[str]) -> str:
    """Return a word, or dots (and the punctuation behind) where it may be a path, a name or a value of the user's."""
    bare = word.strip("()[]{}<>,;:.!?")
    ours = re.fullmatch(r"[A-Za-z'.=<>+-]*|[0-9.+-]*", bare) or TYPES.fullmatch(bare)
    if bare == "'...'" or (
        ours and not given & set(re.split(r"\W+|_", bare.lower())) and "." not in bare.strip("0123456789.")
    ):
        return word
    return "..." + word[len(word.rstrip(",;:)!?")) :]


def _versions() -> Iterator[tuple[str, str]]:
    for name in (*PACKAGES, *RUNTIMES):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            if name in PACKAGES:
                yield name, "not installed"


def _write(text: str) -> Path | None:
    """Write a fault to the user's folder of logs, or else to the system's temporary folder; None where neither takes it."""
    from platformdirs import user_log_path

    name = f"fault-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (user_log_path("viscera", appauthor=False), Path(tempfile.gettempdir()) / "viscera-faults"):
        if not folder.is_absolute():  # where there is no home
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError:
            continue
        return folder / name
    return None
