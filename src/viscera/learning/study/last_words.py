"""Why a process of a study ended, from its exit code and what it said."""

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

WORDS_OF_ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")
"""How the last words of a process begin."""
FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\",:;]+/)+")
"""What of a path is not told."""
LONGEST_REASON = 500


def reason(code: int, text: str, *, folders: Sequence[Path]) -> str:
    r"""Return why a process ended, in its own last words, naming no folders: they may name a patient.

    Args:
        code: Its exit code; negative: the signal that ended it.
        text: All it said.
        folders: Those that it was given.

    Example:
        >>> reason(2, "note: slow\nSettingError: /data/x/store has no cases.\n", folders=[])
        'SettingError: store has no cases.'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if WORDS_OF_ERROR.match(line)]
    said = " ".join(lines[starts[-1] :] if starts else lines[-3:])
    known = {name for one in folders for name in (str(one), str(one.resolve())) if os.sep in name}
    for folder in sorted(known, key=len, reverse=True):
        said = said.replace(folder, Path(folder).name)
    said = FOLDERS.sub("", said)[:LONGEST_REASON]
    if code >= 0:
        return said or f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    memory = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
    return f"stopped by {name}{memory}" + (f": {said}" if said else "")
