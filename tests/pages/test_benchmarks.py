"""Every benchmark starts; what the tables are made of."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.machine import INSTRUCTIONS, alternate, instructions, replaced, rows, same_processor
from benchmarks.shortcuts import beside, dice_per_organ
from benchmarks.tables import (
    ELSEWHERE,
    elsewhere,
    filled,
    in_points,
    interval,
    kind,
    measurements,
    newest,
    results,
    speed,
    table,
)
from viscera.deployment.elsewhere import measured_figures
from viscera.labels import LabelSpace

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for file in (ROOT / "benchmarks").rglob("*.py")
    if "argparse.ArgumentParser" in file.read_text()
)


def test_there_are_at_most_eighteen_scripts_of_at_most_400_lines():
    files = [file for file in (ROOT / "benchmarks").rglob("*.py") if file.parent.name != "archive"]
    assert sum('__name__ == "__main__"' in file.read_text() for file in files) <= 18
    assert all(len(file.read_text().splitlines()) <= 400 for file in files)


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


def test_a_difference_is_shown_in_points_and_without_an_interval_where_one_patient_has_none():
    assert in_points([-0.011, -0.02, 0.003]) == "-1.1 [-2.0, +0.3]"
    assert in_points([0.0012, None, None], 2) == "+0.12"


def test_an_organ_that_the_truth_does_not_show_has_no_dice():
    truth, found = np.array([1, 1, 0, 0], np.uint8), np.array([1, 0, 2, 0], np.uint8)
    dice = dice_per_organ(truth, found, LabelSpace("two", ("liver", "spleen")))
    assert dice[0] == pytest.approx(2 / 3)  # one voxel of two and one
    assert np.isnan(dice[1])


def test_an_arm_is_compared_over_the_patients_that_show_an_organ_and_over_organs_alike():
    exact = np.array([[0.9, 0.5], [0.7, np.nan]])
    row = beside("arm", exact + np.array([[-0.1, 0.2], [-0.3, 0.0]]), exact, LabelSpace("two", ("liver", "spleen")))
    assert row["organs"]["spleen"]["patients"] == 1
    assert row["organs"]["liver"]["difference"][0] == pytest.approx(-0.2)
    assert row["mean_difference"][0] == pytest.approx((-0.2 + 0.2) / 2)
    assert (row["worst_organ"], row["worst_difference_of_a_case"]) == ("liver", -0.3)


def test_every_result_says_on_which_processor_it_was_measured():
    kinds = {kind(found) for found in measurements(results())}
    assert kinds >= {"Intel Xeon, AMX", "AMD EPYC, AVX2"}
    assert {one.rpartition(", ")[2] for one in kinds} <= set(INSTRUCTIONS)
    assert instructions() in ("AMX", "AVX-512", "AVX2", "")


def row(**changes) -> dict:
    """Return a row of speed.json."""
    same = {"machine": "AMD EPYC", "instructions": "AVX2", "kind": "AVX2", "cores": 2, "key": "a", "runtime": "torch"}
    which = {"scan": "LIDC", "state": "after", "way": "default", "precision": "fp32", "date": "2026-11-26 12:02 UTC"}
    measured = {"commit": "1234567", "file_to_file_s": 1.0, "command_s": 3.0, "cpu_s": 4.0, "peak_mib": 600.0}
    return same | which | measured | changes


AMX_ROW = row(machine="Intel(R) Xeon(R) Processor", instructions="AMX", kind="AMX", key=None, state="before")
SAME = ("scan", "state", "way")


def test_a_measurement_replaces_the_rows_of_its_own_processor_scan_state_and_way_only():
    others = [AMX_ROW, row(key="b"), row(scan="HCC"), row(state="before"), row(way="--organs all"), row(cores=4)]
    old = [others[0], row(command_s=9.0), *others[1:]]
    new = row(command_s=2.0)
    assert replaced(old, [new], SAME) == [others[0], new, *others[1:]]
    assert replaced(others, [new], SAME) == [*others, new]
    assert replaced([], [new], SAME) == [new]


def test_a_row_without_a_key_is_of_the_processor_of_its_name_instructions_and_cores():
    assert same_processor(row(key=None), row(key="b"))
    assert not same_processor(row(), row(key="b"))
    assert not same_processor(row(key=None, cores=4), row())
    assert not same_processor(row(key=None), row(instructions="AVX-512"))


def test_the_table_of_speeds_is_never_of_one_kind_of_processor():
    with pytest.raises(ValueError, match="at least two kinds"):
        speed([row(), row(scan="HCC", machine="Other")])
    text = speed([row(), AMX_ROW])
    assert "| AMD EPYC, AVX2, 2 cores | torch fp32 | LIDC | 1.0 | 3.0 | 4.0 | 600 | 2026-11-26, 1234567 |" in text
    assert text.endswith("Of an earlier viscera: Intel Xeon, AMX.")
    assert "earlier" not in speed([row(state="before"), AMX_ROW])


def test_where_a_scan_was_measured_again_the_row_before_is_not_shown():
    before, elsewhere_, statistics_ = row(state="before"), row(state="before", scan="HCC"), row(way="--statistics")
    assert newest([before, row(), elsewhere_, statistics_, AMX_ROW]) == [row(), elsewhere_, AMX_ROW]


def test_what_is_not_known_is_a_dash():
    unknown = row(precision=None, file_to_file_s=None, cpu_s=None, peak_mib=None)
    assert "| torch | LIDC | - | 3.0 | - | - |" in speed([unknown, AMX_ROW])


def test_the_package_holds_the_figures_of_the_results(tmp_path):
    rows_ = results()["speed"]
    assert ELSEWHERE.read_text() == elsewhere(rows_)
    assert {figure.kind for figure in measured_figures()} == {one["kind"] for one in rows_}
    (tmp_path / "elsewhere.json").write_text(elsewhere([row()]))
    (figure,) = measured_figures(tmp_path / "elsewhere.json")
    assert (figure.kind, figure.processor, figure.command_s, figure.date) == ("AVX2", "AMD EPYC", 3.0, "2026-11-26")
