"""`make coverage`, its end: what coverage counted, by room, to benchmarks/results/coverage.json.

    PYTHONPATH=. python tools/covered.py build/coverage.json

The gate (--cov-fail-under in the Makefile) is for "percent": lines and branches together. Files directly in src/viscera are the
room "".
"""

import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.machine import facts, save
from viscera.json_text import load_json


def by_room(counted: dict) -> dict[str, dict[str, float]]:
    """Return {room: what it has, and what no test reaches} of coverage's JSON.

    Example:
        >>> some = {"num_statements": 8, "missing_lines": 1, "num_branches": 2, "missing_branches": 0}
        >>> by_room({"files": {"/x/src/viscera/io/nifti.py": {"summary": some}, "src/viscera/errors.py": {"summary": some}}})["io"]
        {'lines': 8, 'branches': 2, 'missing_lines': 1, 'missing_branches': 0, 'percent': 90.0}
    """
    rooms: dict[str, dict[str, float]] = defaultdict(
        lambda: dict.fromkeys(("lines", "branches", "missing_lines", "missing_branches"), 0)
    )
    for name, file in counted["files"].items():
        room, _, rest = name.rpartition("src/viscera/")[2].partition("/")
        found, summary = rooms[room if rest else ""], file["summary"]
        found["lines"] += summary["num_statements"]
        found["branches"] += summary["num_branches"]
        found["missing_lines"] += summary["missing_lines"]
        found["missing_branches"] += summary["missing_branches"]
    return {room: row | {"percent": percent(row)} for room, row in sorted(rooms.items())}


def percent(row: dict[str, float]) -> float:
    """Return how many per cent of lines and branches together are reached; 100 where there are none."""
    there = row["lines"] + row["branches"]
    missing = row["missing_lines"] + row["missing_branches"]
    return round(100 * (1 - missing / there), 2) if there else 100.0


def main(file: str) -> None:
    """Write the result, and say it."""
    rooms = by_room(load_json(Path(file)))
    keys = ("lines", "branches", "missing_lines", "missing_branches")
    whole: dict[str, float] = {key: sum(row[key] for row in rooms.values()) for key in keys}
    reached = {
        "lines_percent": round(100 * (1 - whole["missing_lines"] / whole["lines"]), 2),
        "branches_percent": round(100 * (1 - whole["missing_branches"] / whole["branches"]), 2),
    }
    save("coverage", facts("coverage", "pytest") | whole | {"percent": percent(whole)} | reached | {"rooms": rooms})
    sys.stdout.write(f"{percent(whole):.2f} % of lines and branches\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
