"""Small text files below a folder, as tests of what the system says of itself need them."""

from collections.abc import Mapping
from pathlib import Path


def files(root: Path, contents: Mapping[str, str]) -> Path:
    """Write files below a root."""
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
