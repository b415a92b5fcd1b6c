"""A short run of `make fuzz`, and everything that a longer one ever found."""

from pathlib import Path

import pytest

from fuzzing.run import fuzz, try_input
from fuzzing.seeds import make_seeds
from fuzzing.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
NAMES = {target.name.replace(" ", "_"): target for target in TARGETS}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    make_seeds(folder)
    (folder / "good_recipe.json").write_bytes((folder / "run/recipe.json").read_bytes())
    return folder


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_what_fuzzing_found_is_refused_and_stays_refused(file, seeds):
    target = NAMES[file.name.split("__")[1]]
    good = (seeds / target.file).read_bytes()
    outcome, signature, _ = try_input(target, seeds, file.read_bytes())
    (seeds / target.file).write_bytes(good)
    assert outcome in ("refused", "read"), signature


def test_damaged_files_of_every_kind_are_read_or_refused_in_time(tmp_path):
    found = fuzz(tmp_path, {"nifti": 500, "descriptor": 300, "metadata": 200, "dicom": 120}, seed=0)
    assert found.examples == {}
    for group in ("nifti", "descriptor", "metadata", "dicom"):  # else the damage would be too much, or none
        assert found.outcomes[group, "read"] > 10
        assert found.outcomes[group, "refused"] > 50
