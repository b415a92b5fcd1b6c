"""`make fuzz N=1`: damage 20,000 NIfTI files, 6,000 descriptors and 3,000 other files (times N), and count what came of it."""

import sys
import tempfile
from pathlib import Path

from fuzzing.run import AMOUNTS, fuzz, write_results

if __name__ == "__main__":
    times = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    kept = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(
            Path(folder),
            {group: max(1, round(times * count)) for group, count in AMOUNTS.items()},
            seed=seed,
            kept=kept,
        )
    write_results(found, Path("benchmarks/results/fuzz.json"), seed=seed)
    sys.stdout.write(found.table())
    sys.exit(1 if found.bad else 0)
