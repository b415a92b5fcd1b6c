"""What speaks against whole results is always said: an empty map, and a scan that is none of an abdomen."""

import json
from collections.abc import Sequence
from pathlib import Path

from viscera.cli.console import counted, say

MOST_NAMES = 10
"""Of scans, that are named in a line."""
NOTHING = "nothing"
"""The kind of the sign of an empty map."""


def tell_doubts(sidecars: Sequence[Path], *, said: bool = False) -> str:
    """Say what is doubtful: of one scan why, of several which; return what the summary is to end with.

    Args:
        sidecars: The NAME.json of each result.
        said: The reasons have been shown.
    """
    doubts = {path: found for path in sidecars if (found := _doubts(path))}
    empty = [path for path, found in doubts.items() if any(kind == NOTHING for kind, _ in found)]
    if len(sidecars) == 1:
        for _, message in () if said else next(iter(doubts.values()), ()):
            say(f"doubtful: {message}")
        return ": an empty label map" if empty else ", but doubtful" if doubts else ""
    if doubts:
        say(f"doubtful, as their NAME.json say under doubts: {_names(list(doubts))}")
    if empty:
        say(f"nothing was found in {counted(len(empty), 'scan')}: {_names(empty)}")
    parts = [f"{len(doubts)} doubtful"] * bool(doubts) + [f"{len(empty)} with an empty label map"] * bool(empty)
    return f" ({', '.join(parts)})" if parts else ""


def _doubts(sidecar: Path) -> list[tuple[str, str]]:
    """Return the kind and the message of each sign of a whole scan."""
    try:
        return [(str(sign["kind"]), str(sign["message"])) for sign in json.loads(sidecar.read_text())["doubts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # made by an older version, or taken away meanwhile


def _names(sidecars: Sequence[Path]) -> str:
    """Name results, not all of many."""
    more = len(sidecars) - MOST_NAMES
    return ", ".join(path.stem for path in sidecars[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
