"""Bad inputs, each with the command that meets it, the exit code and what the message must say.

test_bad_inputs.py runs them all. `PYTHONPATH=tests python -m bad_inputs.table` does too, and writes docs/bad_inputs.md.
"""

import contextlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from bad_inputs.commands import EVALUATION, MIXING, OTHERS, PREDICTION, TRAIN, TRAIN_MIXED, TRAINING
from bad_inputs.dicom import DICOM
from bad_inputs.files import NAMES, PARTIAL, RECIPE, VOLUME, BadInput, hu, nifti, organs, pair, text
from bad_inputs.looks import LOOKS, STUDIES
from bad_inputs.scans import FOLDERS, SCANS
from bad_inputs.speed import SPEED
from bad_inputs.volumes import VOLUMES
from makers import call

BAR = r"\|"
"""A vertical bar within a cell of a table."""
TABLE = Path(__file__).parents[2] / "docs" / "bad_inputs.md"
INTRO = """# What viscera says to bad inputs

Exit code 2: something that you can put right; 0: done, with a note where you should look. Every row is from a real run on
small files (`PYTHONPATH=tests python -m bad_inputs.table` writes this page anew; `tests/bad_inputs/test_bad_inputs.py`
checks exit codes and messages). A scan that cannot be used stops no other: the good ones beside it are prepared or segmented
all the same.
"""
BAD_INPUTS = [
    *SCANS,
    *FOLDERS,
    *TRAINING,
    *PREDICTION,
    *DICOM,
    *EVALUATION,
    *MIXING,
    *VOLUMES,
    *SPEED,
    *STUDIES,
    *LOOKS,
    *OTHERS,
]


def make_base(folder: Path) -> None:
    """Make what all need: data sets, a recipe, a scan, a truth with names, and by the commands stores and runs.

    Data set ``patients`` annotates all organs, ``lesser`` the liver only; store and run are of the first, mixed and its
    teachers of both; the run ``blind`` took what lesser does not annotate for background. Store ``solid`` and run ``deep``
    are 3D ones; the store ``plain`` is for a network of tumours, but no patient's tumours are annotated.
    """
    folder.mkdir()
    with contextlib.chdir(folder):
        text("recipe.json", RECIPE)
        text("names.json", NAMES)
        text("truth.json", NAMES)
        nifti("truth.nii.gz", organs())
        nifti("scan.nii.gz", hu())
        pair("Case_00001", hu(1))
        for number in (1, 2, 3):
            pair(f"Case_{number:05d}", hu(number), folder="patients")
            pair(f"Case_{number:05d}", hu(10 + number), folder="lesser")
        text("lesser/annotated.json", {"*": ["liver"]})
        text("partial.json", PARTIAL)
        text("volume.json", VOLUME)
        for command in (
            "prepare store --data abdomenct1k=patients --recipe recipe.json --jobs 1",
            f"{TRAIN} run",
            "prepare mixed --data abdomenct1k=patients abdomenct1k=lesser --recipe partial.json --jobs 1",
            f"{TRAIN_MIXED} teacher0",
            f"{TRAIN_MIXED} teacher1 --training.seed 1",
            "train recipe.json mixed blind",
            "prepare solid --data abdomenct1k=patients --recipe volume.json --jobs 1",
            "train volume.json solid deep",
            "prepare plain --data abdomenct1k=patients --recipe gao2step-tumour-small --jobs 1",
        ):
            code, message = call(command)
            if code:
                raise RuntimeError(message)


def run(bad: BadInput, *, base: Path, folder: Path) -> tuple[int, str]:
    """Return exit code and message of a bad input's command, run in ``folder``, which is made of ``base``."""
    shutil.copytree(base, folder)
    with contextlib.chdir(folder):
        bad.files()
        return call(bad.command)


def write_table() -> None:
    """Run all, and write docs/bad_inputs.md."""
    os.environ["COLUMNS"] = "600"
    rows = ["| what is wrong | command | exit code | message |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as place:
        make_base(Path(place, "base"))
        for number, bad in enumerate(BAD_INPUTS):
            code, message = run(bad, base=Path(place, "base"), folder=Path(place, str(number)))
            sound = code == bad.exit_code and re.search(bad.message, message, re.DOTALL)
            sys.stderr.write(
                "" if sound else f"{bad.title}: expected {bad.exit_code} {bad.message}\n  got {code} {message}\n"
            )
            cells = (bad.title, f"`viscera {bad.command}`", str(code), message.replace("\n", "<br>"))
            rows.append(f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |")
    TABLE.write_text(f"{INTRO}\n" + "\n".join(rows) + "\n")


if __name__ == "__main__":
    write_table()
