"""`make mutation`: change the core in small ways, one at a time, and see whether its tests notice.

    PYTHONPATH=. python tools/mutation.py                  all of MODULES; half an hour to hours on one core
    PYTHONPATH=. python tools/mutation.py volume.py        some of them; what is known of the others stays
    PYTHONPATH=. python tools/mutation.py --again labels.py  only the mutants that survived the last run, against today's tests

mutmut makes the changes (mutants) in a copy of the checkout, in build/mutation. It mutates the bodies of functions that have no
decorator but staticmethod and classmethod: no properties, no constants. benchmarks/results/mutation.json gets, per module, how
many mutants there are, how many the tests killed (those that ran out of time included), and the others with their lines. Two kinds
stay out of the score: those that only change the wording of a message (``is_wording``), and those in mutation_equivalents.json,
which change nothing that a caller can see; each of these has its reason there.
"""

import argparse
import importlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, ROOT, commit, facts, save

MODULES: dict[str, tuple[str, ...]] = {
    "volume.py": ("test_volume.py",),
    "preparation/geometry.py": ("preparation/test_geometry.py",),
    "labels.py": ("test_labels.py",),
    "evaluation/metrics.py": ("evaluation/test_metrics.py",),
    "preparation/splits.py": ("preparation/test_splits.py",),
    "learning/losses.py": ("learning/test_losses.py", "learning/test_partial_losses.py"),
    "evaluation/statistics.py": ("evaluation/test_statistics.py", "evaluation/test_left_out.py"),
    "evaluation/comparing.py": ("evaluation/test_statistics.py", "evaluation/test_left_out.py"),
    "evaluation/pairing.py": ("evaluation/test_pairing.py",),
    "io/nifti_header.py": ("io/test_nifti.py", "io/test_doubtful_headers.py"),
    "io/label_values.py": ("io/test_label_values.py",),
    "evaluation/counts.py": ("evaluation/test_counts.py",),
}
"""{module of viscera: the files of tests/ that should notice}, the most important first."""
COPIED = ("src", "tests", "tools", "benchmarks", "docs", "examples", "README.md")
MEMORY_BYTES = 8 << 30
"""Of one process: a mutant whose loop never ends must not take the machine's."""
SCRATCH = ROOT / "build" / "mutation"
EQUIVALENTS = Path(__file__).with_name("mutation_equivalents.json")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
PROSE = re.compile(r"[A-Za-z]{2,}\W* \W*[A-Za-z]{2,}")
KILLED = {1: "killed", 3: "killed", 36: "timeout", 24: "timeout", -24: "timeout", 152: "timeout", 255: "timeout"}
"""{exit code of the tests, as mutmut keeps it: what it means}; 3 is an error of pytest itself, the others are SIGXCPU's."""
CONFIG = """[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/viscera/{module}"]
also_copy = {copied}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "forgetting", "-W", "default", "--hypothesis-seed=0"]
timeout_constant = 3.0
timeout_multiplier = 5.0
use_git_change_detection = false

[tool.pytest.ini_options]
pythonpath = [".", "tools"]
addopts = "--strict-markers -m 'not slow'"
markers = ["slow: takes more than a few seconds"]
"""
FORGETTING = """import functools, gc

def pytest_sessionstart():
    # mutmut forks from a process that has run the tests: what a mutated function computes must not be remembered from there.
    for found in gc.get_objects():
        if isinstance(found, functools._lru_cache_wrapper) and str(found.__module__).startswith("viscera"):
            found.cache_clear()
"""


def mutate(module: str, tests: Sequence[str], *, processes: int, again: bool) -> dict[str, object]:
    """Run the mutants of one module and return its part of the results.

    Args:
        module: Of MODULES.
        tests: Files of tests/.
        processes: How many at a time.
        again: Whether to run only those that the last run, which must have been here, did not see killed.
    """
    folder = SCRATCH / module.removesuffix(".py").replace("/", ".")
    if not again:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy2(source, folder / name)
    chosen = [f"tests/{name}" for name in tests]
    config = CONFIG.format(module=module, copied=json.dumps([*COPIED, "forgetting.py"]), tests=json.dumps(chosen))
    (folder / "forgetting.py").write_text(FORGETTING, encoding="utf-8")
    (folder / "pyproject.toml").write_text(config, encoding="utf-8")
    names = [survivor["mutant"] for survivor in found(folder, module)["survivors"]] if again else []
    start = time.monotonic()
    surroundings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    mutmut = Path(sys.executable).with_name("mutmut")
    if names or not again:
        command = [mutmut, "run", "--max-children", str(processes), *names]
        subprocess.run(command, cwd=folder, env=surroundings, check=True)
    return {"tests": chosen, **found(folder, module), "seconds": round(time.monotonic() - start), "commit": commit()}


def exit_codes(folder: Path, module: str) -> dict[str, int | None]:
    """Return mutmut's results: {mutant: exit code of its tests, None where they did not run}."""
    return json.loads((folder / f"mutants/src/viscera/{module}.meta").read_text(encoding="utf-8"))["exit_code_by_key"]


def found(folder: Path, module: str) -> dict[str, Any]:
    """Read mutmut's results from its folder."""
    path = Path("src") / "viscera" / module
    codes = exit_codes(folder, module)
    counts: Counter[str] = Counter()
    survivors = []
    reasons = equivalents(module)
    diff_of = importlib.import_module("mutmut.mutation.diff_apply").get_diff_for_mutant
    with chdir(folder):
        for name, code in codes.items():
            was, becomes = changed_lines(diff_of(name, path=str(path)))
            function = (
                name.partition("__mutmut_")[0].rpartition(".")[2].removeprefix("x").lstrip("_ǁ").replace("ǁ", ".")
            )
            if is_wording(was, becomes):
                counts["wording"] += 1
            elif code in KILLED:
                counts[KILLED[code]] += 1
            elif (function, was, becomes) in reasons:
                counts["equivalent"] += 1
            else:
                counts["survived"] += 1
                survivors.append({"mutant": name, "function": function, "was": was, "becomes": becomes, "code": code})
    killed = counts["killed"] + counts["timeout"]
    return {
        "mutants": len(codes),
        "wording": counts["wording"],
        "equivalent": counts["equivalent"],
        "killed": killed,
        "of_these_timeouts": counts["timeout"],
        "survived": counts["survived"],
        "killed_fraction": round(killed / max(1, killed + counts["survived"]), 3),
        "survivors": survivors,
    }


def changed_lines(diff: str) -> tuple[str, str]:
    """Return what a unified diff takes out and what it puts in, without indentation."""
    lines = diff.splitlines()[2:]
    was, becomes = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    return "\n".join(was), "\n".join(becomes)


def is_wording(was: str, becomes: str) -> bool:
    """Tell whether lines differ in nothing but one string, which has two words or more: a message for people.

    Names, keys, separators, units and formats have fewer words or are no plain strings, so they count.
    """
    if STRING.split(was) != STRING.split(becomes):
        return False
    pairs = zip(STRING.findall(was), STRING.findall(becomes), strict=True)
    different = [before for before, after in pairs if before != after]
    return len(different) == 1 and bool(PROSE.search(different[0]))


def equivalents(module: str) -> set[tuple[str, str, str]]:
    """Return the mutants of a module that are known to change nothing: (function, lines before, lines after)."""
    groups = json.loads(EQUIVALENTS.read_text(encoding="utf-8"))
    return {
        (group["function"], was, becomes)
        for group in groups
        if group["module"] == module
        for was, becomes in group["mutants"]
    }


def main() -> None:
    """Run the modules that are named, or all, and write benchmarks/results/mutation.json after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="only those that survived the last run")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(MODULES):
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(MODULES)}")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for module in options.modules or MODULES:
        row = mutate(module, MODULES[module], processes=options.processes, again=options.again)
        file = RESULTS / "mutation.json"
        known = json.loads(file.read_text(encoding="utf-8"))["modules"] if file.is_file() else {}
        known[module] = row
        save(
            "mutation",
            facts("mutmut", "pytest") | {"modules": {name: known[name] for name in MODULES if name in known}},
        )
        sys.stdout.write(f"{module}: {row['killed']} killed, {row['survived']} survived: {row['killed_fraction']}\n")


if __name__ == "__main__":
    main()
