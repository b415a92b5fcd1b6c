"""What becomes of every verb when an operation on a file fails, or the process is killed there: the slow tests, counted.

    PYTHONPATH=. python tools/fault_sweep.py        about 25 minutes on one core

The tests (tests/faults/) say what must hold; this only writes down how often it was tried, and how it ended.
"""

import json
import os
import subprocess
import sys

from benchmarks import machine

TESTS = "tests/faults/test_faults.py"


def main() -> int:
    """Run the sweeps; write benchmarks/results/faults.json after each verb."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "--timeout", "3600", "-p", "no:cacheprovider", TESTS]
    found_so_far: dict[str, list] = {"faults": [], "kills": []}
    process = subprocess.Popen(
        [*command, *sys.argv[1:]],
        cwd=machine.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        if line.startswith('{"verb"'):
            found = json.loads(line)
            found_so_far["kills" if "kills" in found else "faults"].append(found)
            machine.save("faults", machine.facts("torch", "pebble") | found_so_far)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
