"""What several test files need: the checker of array shapes, and where the real scans are."""

import os
from pathlib import Path

import pytest

# Array shapes in annotations are checked in tests only (beartype through jaxtyping's import hook).
from jaxtyping import install_import_hook

HOOK = install_import_hook("viscera", "checking.check")

SHARED_DATA = Path(os.environ.get("VISCERA_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the folder of real scans, or skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real scans beside the checkout")
    return SHARED_DATA
