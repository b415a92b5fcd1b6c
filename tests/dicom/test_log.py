import json
import subprocess
import sys

import pytest

from viscera.dicom.log import append_result
from viscera.errors import FileError, SettingError

WRITER = """
import sys
from pathlib import Path
from viscera.dicom.log import append_result
for number in range(25):
    append_result(Path(sys.argv[1]), {"writer": int(sys.argv[2]), "number": number, "text": "x" * 20_000})
"""


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_result_is_one_line_and_the_lines_before_it_stay_as_they_were(tmp_path):
    file = tmp_path / "new" / "results.jsonl"
    append_result(file, {"series_uid": "1.2", "outcome": "done"})
    before = file.read_bytes()
    append_result(file, {"time": "noon", "note": "two\nlines"})
    assert file.read_bytes().startswith(before)
    first, second = rows(file)
    assert list(first) == ["time", "series_uid", "outcome"]
    assert first["time"].endswith("+00:00")
    assert second == {"time": "noon", "note": "two\nlines"}


def test_lines_of_processes_that_write_at_the_same_time_stay_whole(tmp_path):
    file = tmp_path / "results.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, file, str(one)]) for one in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 4
    found = rows(file)
    assert sorted((row["writer"], row["number"]) for row in found) == [(w, n) for w in range(4) for n in range(25)]
    for one in range(4):
        assert [row["number"] for row in found if row["writer"] == one] == list(range(25))


def test_what_a_killed_process_left_of_a_line_does_not_spoil_the_next_one(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text('{"outcome": "done"}\n{"outcome": "do')
    append_result(file, {"outcome": "next"})
    append_result(file, {"outcome": "last"})
    whole, torn, following, last = file.read_text().splitlines()
    assert (json.loads(whole), torn) == ({"outcome": "done"}, '{"outcome": "do')
    assert [json.loads(following)["outcome"], json.loads(last)["outcome"]] == ["next", "last"]


@pytest.mark.parametrize("value", [float("nan"), b"bytes", object()])
def test_a_row_that_is_not_json_leaves_the_log_as_it_was(tmp_path, value):
    file = tmp_path / "results.jsonl"
    append_result(file, {"outcome": "done"})
    before = file.read_bytes()
    with pytest.raises(SettingError, match="a result cannot be written as a line of JSON"):
        append_result(file, {"outcome": value})
    assert file.read_bytes() == before


def test_a_log_that_cannot_be_written_to_is_an_error_that_says_so(tmp_path):
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(FileError, match=r"cannot write .*results.jsonl"):
        append_result(tmp_path / "results.jsonl", {"outcome": "done"})
