"""A fault of viscera's own: exit code 1, two lines, and a file without anything of the patient."""

import os
import re
import subprocess
import sys

import pytest

from viscera.cli import command
from viscera.cli.faults import without_values

FAULTS = [
    KeyError("Miller_Anna_19520101"),
    ValueError("could not convert Miller in /data/Miller_Anna/ct.nii.gz"),
    RuntimeError('no "Miller" of Miller_Anna_19520101 (Miller/ct.nii.gz)'),
    RecursionError("maximum recursion depth exceeded"),
    OSError(71, "Protocol error", "/data/Miller_Anna"),
    MemoryError(),
]


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """Return a function that makes every verb fail in a way."""
    monkeypatch.setattr("platformdirs.user_log_path", lambda *_, **__: tmp_path / "state")
    monkeypatch.delenv("VISCERA_DEBUG", raising=False)

    def fail_with(error):
        def verb(arguments):
            raise error

        monkeypatch.setattr(command, "find_verb", lambda name: verb)

    return fail_with


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_fault_is_two_lines_and_a_file_in_which_nothing_names_the_patient(error, broken, tmp_path, capsys):
    broken(error)
    assert command.main(["predict", "/data/Miller_Anna/ct.nii.gz", "out.nii.gz"]) == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 2
    assert "a fault of viscera" in told
    assert "Traceback" not in told
    file = re.search(r"in (\S+\.txt);", told)
    assert file is not None
    text = (tmp_path / file[1]).read_text()
    assert f"{type(error).__module__}.{type(error).__name__}" in text
    assert re.search(r"viscera/cli/command\.py:\d+ main", text)
    for shown in (told.replace(str(tmp_path), ""), text):
        assert not re.search("miller|anna|1952|data", shown, re.IGNORECASE), shown
    assert str(tmp_path) not in text


def test_debugging_shows_the_whole_traceback(broken, monkeypatch, capsys):
    broken(KeyError("Miller"))
    monkeypatch.setenv("VISCERA_DEBUG", "1")
    assert command.main(["predict"]) == 1
    assert "Traceback" in (told := capsys.readouterr().err)
    assert "Miller" in told


def test_a_fault_where_no_folder_can_be_written_is_still_told(broken, monkeypatch, tmp_path, capsys):
    broken(ValueError("x"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("platformdirs.user_log_path", lambda *_, **__: tmp_path / "file")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "file"))
    assert command.main(["predict"]) == 1
    assert "could not be written" in capsys.readouterr().err


def test_leaving_and_interrupting_are_not_faults(broken, capsys):
    broken(SystemExit(2))
    with pytest.raises(SystemExit):
        command.main(["predict"])
    broken(KeyboardInterrupt())
    assert command.main(["predict"]) == 130
    assert "fault" not in capsys.readouterr().err


def test_a_message_keeps_what_helps_to_find_the_fault():
    assert without_values("expected float32 but got int16 of 3 axes") == "expected float32 but got int16 of 3 axes"
    assert without_values("operands could not be broadcast together") == "operands could not be broadcast together"
    assert without_values("invalid literal: 'Miller's") == "invalid literal: ..."
    assert "Miller" not in without_values("""unbalanced "Miller's""")


def test_frames_of_a_process_of_its_own_are_kept(broken, tmp_path, capsys):
    error = ValueError("x")
    error.__cause__ = RuntimeError(
        '\n"""\nTraceback:\n  File "/home/miller/src/viscera/io/nifti.py", line 7, in read\n"""'
    )
    broken(error)
    command.main(["predict"])
    (file,) = (tmp_path / "state").rglob("*.txt")
    assert "(in a process) viscera/io/nifti.py:7 read" in (text := file.read_text())
    assert "miller" not in text


def test_no_line_of_a_fault_is_on_stdout(tmp_path):
    code = (
        "import sys; from viscera.cli import command\n"
        "def verb(arguments): raise ValueError('x')\n"
        "command.find_verb = lambda name: verb\nsys.exit(command.main(['predict']))"
    )
    home = os.environ | {name: str(tmp_path) for name in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_STATE_HOME")}
    home.pop("VISCERA_DEBUG", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=home, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "a fault of viscera" in done.stderr
