"""Put what `make demo` reached into a result: python -m benchmarks.archive.demo DEMO_FOLDER MINUTES.

MINUTES are of the whole `make demo` on a fresh clone, set-up included, as measured by whoever ran it (time make demo).
"""

import json
import sys
from pathlib import Path

from benchmarks.machine import facts, save


def main() -> None:
    """Read the demo's scores and write benchmarks/results/demo.json."""
    folder, minutes = Path(sys.argv[1]), float(sys.argv[2])
    summary = json.loads((folder / "scores.json").read_text())["summary"]
    splits = json.loads((folder / "run" / "run.json").read_text())["splits"]
    by_organ: dict[str, dict] = {}
    for row in summary:
        text = "-" if row["mean"] is None else f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        entry = by_organ.setdefault(row["organ"], {"organ": row["organ"], "cases": row["cases"]})
        entry[row["metric"]] = text
        entry[f"{row['metric']}_mean"] = row["mean"]
    content = {
        "minutes": minutes,
        "training_patients": len(splits["training"]),
        "test_patients": len(splits["test"]),
        "organs": list(by_organ.values()),
    }
    print(save("demo", facts("torch") | content))


if __name__ == "__main__":
    main()
