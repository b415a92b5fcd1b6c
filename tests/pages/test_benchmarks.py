"""Every benchmark starts; what the tables are made of."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.machine import alternate, instructions, rows
from benchmarks.tables import filled, interval, kind, results, table

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for file in (ROOT / "benchmarks").rglob("*.py")
    if "argparse.ArgumentParser" in file.read_text()
)


def test_there_are_at_most_eighteen_scripts_of_at_most_400_lines():
    scripts = [file for file in (ROOT / "benchmarks").rglob("*.py") if file.parent.name != "archive"]
    assert len(scripts) <= 18
    assert all(len(file.read_text().splitlines()) <= 400 for file in scripts)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_answers_help(script):
    done = subprocess.run(
        [sys.executable, "-m", script, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"-m {script} " in done.stdout


def test_rivals_take_turns_and_those_with_fewer_rounds_sit_out_the_last_ones():
    said = []
    seconds = alternate({"one": (lambda: said.append("one"), 3), "two": (lambda: said.append("two"), 1)})
    assert said == ["one", "two", "one", "one"]
    assert [len(times) for times in seconds.values()] == [3, 1]


def test_a_rival_is_compared_with_ours_by_medians():
    assert [row["times_ours"] for row in rows({"viscera": [1.0, 9.0, 2.0], "other": [4.0]})] == [1.0, 2.0]


def test_a_marked_part_is_filled_and_everything_else_stays():
    page = "a\n<!-- speed -->\nold\n<!-- /speed -->\nb <!-- tree --> c\n"
    assert filled(page, {"speed": "new\\1", "tree": "x"}) == page.replace("old", "new\\1")


def test_a_table_has_as_many_columns_as_its_head():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_a_mean_is_shown_with_its_interval():
    assert interval({"dice": 0.5, "interval": [0.25, 0.75]}) == "0.500 [0.250, 0.750]"


def test_every_result_says_on_which_processor_it_was_measured():
    assert {kind(found) for found in results().values()} == {"Intel Xeon, AMX", "AMD EPYC, AVX2"}
    assert instructions() in ("AMX", "AVX-512", "AVX2", "")
