"""A process that dies, or that cannot be started, is told of; nobody waits for it for ever."""

import errno
import os
import signal
import subprocess
import sys
import time
from multiprocessing import util
from threading import Thread

import psutil
import pytest

from makers import call
from viscera.errors import RunError
from viscera.io.processes import share_out


def end_first_child() -> None:
    """Kill the first process that starts, before it can take up any work."""
    while True:
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
                return
        time.sleep(0.001)


def test_a_process_that_dies_before_it_takes_up_work_ends_no_caller():
    Thread(target=end_first_child, daemon=True).start()
    assert sorted(share_out(abs, [-1, -2], jobs=1)) == [(-2, None, True), (-1, None, True)]


def test_a_process_that_dies_takes_its_own_work_with_it():
    done = share_out(signal.raise_signal, [signal.SIGKILL, signal.SIGCONT, signal.SIGWINCH], jobs=2)
    assert {item: died for item, _, died in done} == {
        signal.SIGKILL: True,
        signal.SIGCONT: False,
        signal.SIGWINCH: False,
    }


def test_a_system_that_starts_no_process_is_named_as_the_cause(monkeypatch, tmp_path):
    def refuse(*words):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(util, "spawnv_passfds", refuse)
    with pytest.raises(
        RunError, match=r"no process can be started: Resource temporarily unavailable. Pass fewer --jobs"
    ):
        list(share_out(abs, [-1], jobs=1))
    code, said = call(f"synth {tmp_path}/new --cases 1 --shape 16 16 16 --jobs 1")
    assert (code, "RunError: no process can be started" in said) == (2, True), said


UNGUARDED = """
from viscera.io.processes import share_out

def main():
    print(list(share_out(abs, [-1], jobs=1)))

"""


@pytest.mark.parametrize(
    ("calls", "line"),
    [
        ("main()", 7),
        ("for _ in range(1):\n    main()", 8),
        ("if True:\n    pass\nmain()", 9),
        ("if __name__ == '__main__':\n    main()", None),
        ("import sys\nif sys.argv and __name__ == '__main__':\n    for _ in range(1):\n        main()", None),
    ],
)
def test_a_script_that_would_run_again_in_its_processes_is_told_so_before_any_starts(calls, line, tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED + calls + "\n")
    ran = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout == ("[(-1, 1, False)]\n" if line is None else "")
    if line is not None:
        assert f"script.py, line {line}: the processes that this starts would run the script again" in ran.stderr
        assert ran.stderr.count("Traceback") == 1


def test_synth_whose_process_dies_says_so_and_goes_on(tmp_path):
    Thread(target=end_first_child, daemon=True).start()
    command = f"synth {tmp_path}/new --cases 1 --shape 16 16 16 --jobs 1"
    code, said = call(command)
    assert code == 2
    assert "RunError: the process that made case 1 died, probably for lack of memory. The same command goes on" in said
    assert call(command)[0] == 0
