"""Every bad input gets its exit code and a message that says what to do; docs/bad_inputs.md lists them all."""

import re
from pathlib import Path

import pytest
import torch

from bad_inputs.table import BAD_INPUTS, TABLE, make_base, run


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bad") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "600")
        make_base(folder)
    return folder


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: bad.title)
def test_a_bad_input_gets_its_exit_code_and_message_and_spoils_no_good_one(bad, base, tmp_path, monkeypatch):
    if "cuda" in bad.command and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("COLUMNS", "600")  # so that tables do not break their cells
    code, message = run(bad, base=base, folder=tmp_path / "here")
    assert code == bad.exit_code, message
    assert re.search(bad.message, message, re.DOTALL), message
    assert "Traceback" not in message
    assert "fault of viscera" not in message
    assert not bad.survives or (tmp_path / "here" / bad.survives).is_file()


def test_the_committed_table_lists_exactly_these_inputs():
    rows = TABLE.read_text().splitlines()
    listed = [row.split(" | ")[0].removeprefix("| ") for row in rows if row.startswith("| ")]
    titles = [bad.title for bad in BAD_INPUTS]
    assert listed[1:] == titles
    assert len(set(titles)) == len(titles) >= 36
