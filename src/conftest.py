"""Doctests write where nothing else is."""

from pathlib import Path

import pytest

collect_ignore = ["conftest.py"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each doctest in a folder of its own."""
    monkeypatch.chdir(tmp_path)
