"""Texts lose the folders of the paths in them, since a folder may be named after a patient."""

import re
from pathlib import PurePath

FOLDERS = re.compile(
    r"(?<![\w.~])(?:~|[A-Za-z]:)?[\\/](?=\S)(?:(?:(?!\.\w+\s)[^\\/:\n])*[\\/])*"  # absolute, spaces and all
    r"""|(?<![^\s'"(\\/:])[^\s'"(\\/:]+[\\/](?=\S+\.[a-z])"""  # relative, before the name of a file with an ending
)
"""The folders of paths in a text."""


def without_folders(text: str, *files: str) -> str:
    """Return a text in which files have lost their folders.

    Args:
        text: Any message.
        files: Paths that may occur in it; helps with relative ones that have spaces.

    Example:
        >>> without_folders("/home/Mrs Miller/ct.nii.gz is cut off")
        'ct.nii.gz is cut off'
        >>> without_folders("5.0/2.5 mm in her scans/1.nii.gz", "her scans/1.nii.gz")
        '5.0/2.5 mm in 1.nii.gz'
    """
    for file in filter(None, files):
        text = text.replace(file, last_part(file))
    return FOLDERS.sub("", text)


def last_part(file: str) -> str:
    """Return a path's last part, whatever the system that it was written on."""
    return PurePath(file.replace("\\", "/")).name
