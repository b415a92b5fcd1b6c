"""Names that come from the net: of files, scans, tags. None leads out of the folder that it is for."""

import re

from viscera.errors import FileError

LONGEST_NAME = 120
FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
"""What separates folders on any system, what Windows takes for no name, and what cannot be shown."""
REPLACED = re.compile(r'[:*?"<>|]')
"""Of these, what titles of scans hold ("2: CT Abdomen") and what leads nowhere."""
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Devices of Windows."""


def safe_name(name: str, *, what: str) -> str:
    r"""Return a name that may stand in a folder: itself.

    Args:
        name: From the net.
        what: What it names, for the message.

    Raises:
        FileError: It could lead elsewhere, is hidden, empty or too long. The message does not repeat it.

    Example:
        >>> safe_name("liver 003.nii.gz", what="scan")
        'liver 003.nii.gz'
        >>> safe_name("../etc/passwd", what="scan")
        Traceback (most recent call last):
        viscera.errors.FileError: the name of the scan cannot be that of a file. Use letters, digits, spaces, '-', '_' and '.', ...
    """
    wrong = FORBIDDEN.search(name) or RESERVED.fullmatch(name) or name != name.strip() or name.endswith(".")
    if not name or wrong or name.startswith(".") or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise FileError(
            f"the name of the {what} cannot be that of a file",
            f"Use letters, digits, spaces, '-', '_' and '.', not at the start, at most {LONGEST_NAME} bytes.",
        )
    return name


def title_name(title: str, *, what: str) -> str:
    """Return the name for a title that a client gives, which 3D Slicer takes from a series: "2: CT Abdomen".

    Args:
        title: From the net.
        what: What it names, for the message.

    Raises:
        FileError: As ``safe_name``.

    Example:
        >>> title_name("2: CT Abdomen", what="scan")
        '2_ CT Abdomen'
    """
    return safe_name(REPLACED.sub("_", title.strip()), what=what)
