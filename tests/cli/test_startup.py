"""What a command imports before it has anything to do: nothing heavy. No times are measured here."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from viscera.cli.startup import kept_graphs, starting

HEAVY = ("torch", "scipy", "nibabel", "openvino", "onnx", "pydicom", "matplotlib", "cv2", "lightning_fabric")

LOADED = """
import sys
from viscera.cli.command import main
try:
    main({arguments!r})
except SystemExit:
    pass
print("loaded", *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def loaded_by(*arguments: str) -> set[str]:
    """Return the packages that a process holds after a command."""
    script = LOADED.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["predit"]])
def test_command_without_a_verb_loads_nothing_beyond_python(arguments: list[str]) -> None:
    loaded = loaded_by(*arguments)
    assert not loaded & {*HEAVY, "numpy", "tyro", "rich", "pydantic"}


@pytest.mark.parametrize("verb", ["predict"])
def test_help_of_a_verb_loads_nothing_heavy(verb: str) -> None:
    assert not loaded_by(verb, "--help") & set(HEAVY)


def test_info_loads_neither_numpy_nor_pydantic() -> None:
    assert not loaded_by("info") & {*HEAVY, "numpy", "pydantic"}


def test_predicting_slices_needs_no_scipy() -> None:
    script = "import sys, viscera.inference.segment, viscera.inference.predict; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_options_are_checked_before_torch_is_loaded() -> None:
    rooms = "viscera.inference.dicom_objects, viscera.inference.dicom_jobs"
    script = f"import sys, {rooms}; print({{'torch', 'nibabel'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_collector_is_off_while_starting_and_on_again_after_it() -> None:
    with starting():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_collector_is_on_again_after_a_start_that_failed() -> None:
    with pytest.raises(ZeroDivisionError), starting():
        _ = 1 / 0
    assert gc.isenabled()
    gc.unfreeze()


def test_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with starting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


def test_graphs_are_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept_graphs() == tmp_path / "viscera" / "graphs"


def test_user_without_a_home_keeps_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it is where no home is known
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert kept_graphs() is None
