"""Bad inputs, each with the command that meets it, the exit code and what the message must say.

test_bad_inputs.py runs them all. `python tests/bad_inputs.py` does too, and writes docs/bad_inputs.md.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from bad_files import (
    NAMES,
    RECIPE,
    SHAPE,
    affine_with,
    bad_bytes,
    bad_labels,
    bad_scan,
    copies,
    damaged_case,
    edited_recipe,
    foreign_layout,
    hu,
    nifti,
    no_training_cases,
    organs,
    other_weights,
    pair,
    pickled_weights,
    predictions,
    text,
    voxels_like,
    zero_spacing,
)

from viscera.cli import main

TABLE = Path(__file__).parents[1] / "docs" / "bad_inputs.md"
INTRO = """# What viscera says to bad inputs

Exit code 2: something that you can put right; 0: done, with a note where you should look. Every row is from a real run on
small files (`python tests/bad_inputs.py` writes this page anew, `tests/test_bad_inputs.py` checks exit codes and messages). A
scan that cannot be used stops no other: the good ones beside it are prepared or segmented all the same.
"""
SCAN = "data/Image/Case_00002_0000.nii.gz"
PREPARE = "prepare new --data abdomenct1k=data --recipe recipe.json --jobs 1"
TRAIN = "train recipe.json store"
PREDICT = "predict scan.nii.gz out.nii.gz --weights run"
GOOD = "new/cases/data__Case_00001/case.json"


def nothing() -> None:
    """Write no files beyond those of ``make_base``."""


@dataclass(frozen=True)
class BadInput:
    """One bad input.

    Attributes:
        title: What is wrong.
        command: The command line after `viscera`, run in a folder of its own.
        message: A regular expression that the output must match.
        files: Writes the bad files into the present folder, beside those of ``make_base``.
        exit_code: Expected.
        survives: A file that must stand afterwards: that of the good case.
    """

    title: str
    command: str
    message: str
    files: Callable[[], object] = nothing
    exit_code: int = 2
    survives: str = ""


def scan(title: str, message: str, files: Callable[[], object], exit_code: int = 0) -> BadInput:
    """Give a bad case beside a good one, to be prepared; the good one must come through."""
    return BadInput(title, PREPARE, message, files, exit_code or 2, GOOD)


SCANS = [
    scan("image and labels have different shapes", r"Case_00002.*another grid than the image \(7x16x16 voxels.* against 8x16x16", lambda: bad_labels(organs()[:, :, :7])),
]
