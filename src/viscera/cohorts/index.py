"""What was read before: a hidden file beside the table, one line of JSON per file of results, so that only new ones are read.

A file is known by its folder's hash and its name, and unchanged if size and time of change are the same, or its SHA-256 is.
Lines are added while files are read, so that an interrupted run goes on. A line that is damaged, or of other columns, counts
for nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path

from viscera.cohorts.columns import ORGAN, SCAN, Column, Value, checked
from viscera.cohorts.results import Found
from viscera.io.atomic import replacing, writing
from viscera.json_text import parse_json

FORM = hashlib.sha256(repr((1, ORGAN, SCAN)).encode()).hexdigest()[:16]
"""Of a line: the columns and a number that grows whenever what they hold is made otherwise."""
BATCH = 200
"""Lines that are written at once."""

Key = tuple[str, str]
"""The hash of a folder, and the name of a file in it."""


@dataclass(frozen=True)
class Entry:
    """A file that was read.

    Attributes:
        size: In bytes.
        mtime_ns: When it was changed.
        sha256: Of its contents.
        found: What it says.
    """

    size: int
    mtime_ns: int
    sha256: str
    found: Found


@dataclass
class Index:
    """All that was read before, and what was made of it.

    Attributes:
        file: Where it stands.
        entries: {folder and name: what was read}.
        fingerprint: Of all files of which the outputs were made.
        outputs: {name: SHA-256 of the table or page that was written}.
    """

    file: Path
    entries: dict[Key, Entry] = field(default_factory=dict)
    fingerprint: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    _waiting: list[str] = field(default_factory=list)

    def add(self, key: Key, entry: Entry) -> None:
        """Note a file that was read; it is on the disk after some more, or ``flush``."""
        self.entries[key] = entry
        self._waiting.append(_line(key, entry))
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait."""
        if not self._waiting:
            return
        with writing(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write("\n" + "".join(self._waiting))  # what a kill has left of a line stays on its own
        self._waiting.clear()

    def write(self, keys: Mapping[Key, object]) -> None:
        """Write all anew, of ``keys`` only, and of what the outputs were made."""
        self.entries = {key: entry for key, entry in self.entries.items() if key in keys}
        self._waiting.clear()
        with replacing(self.file) as part, part.open("w", encoding="utf-8") as lines:
            made = {"form": FORM, "fingerprint": self.fingerprint, "outputs": self.outputs}
            lines.write(json.dumps(made) + "\n")
            lines.writelines(_line(key, entry) for key, entry in self.entries.items())


def index_file(output: Path) -> Path:
    """Return where the index of a table or page stands."""
    return output.with_name(f".{output.name}.read.jsonl")


def open_index(output: Path) -> Index:
    """Read what was noted beside an output; nothing where there is none."""
    index = Index(index_file(output))
    with suppress(OSError), index.file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError, TypeError, KeyError, AttributeError):
                _take(index, line)
    return index


def _line(key: Key, entry: Entry) -> str:
    """Return a line."""
    stamp = (entry.size, entry.mtime_ns, entry.sha256)
    return json.dumps({"form": FORM, "key": key, "stamp": stamp, "found": astuple(entry.found)}) + "\n"


def _take(index: Index, line: str) -> None:
    """Take a line into an index, if it is of this form.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is damaged.
    """
    facts = parse_json(line) if line.strip() else {}
    if facts.get("form") != FORM:
        return
    if "outputs" in facts:
        index.fingerprint = str(facts["fingerprint"])
        index.outputs = {str(name): str(digest) for name, digest in facts["outputs"].items()}
        return
    folder, name = facts["key"]
    size, mtime_ns, digest = facts["stamp"]
    what, label_map, scan, organs, kind, problem = facts["found"]
    if what not in ("result", "failure", "other") or not all(
        isinstance(text, str) for text in (label_map, kind, problem)
    ):
        return
    values = _values(scan, SCAN) if what == "result" else ()
    found = Found(what, label_map, values, tuple(_values(organ, ORGAN) for organ in organs), kind, problem)
    index.entries[str(folder), str(name)] = Entry(int(size), int(mtime_ns), str(digest), found)


def _values(values: list[object], columns: tuple[Column, ...]) -> tuple[Value, ...]:
    """Return values of columns, checked anew: anybody may have changed the file."""
    return tuple(checked(value, column) for value, column in zip(values, columns, strict=True))
