"""docs/two_step.md: its commands, in order and as they stand there, on smaller patients and for one epoch."""

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from makers import call
from viscera.labels import FLARE14

PAGE = Path(__file__).parents[2] / "docs" / "two_step.md"
SMALLER = {
    "synth": "--cases 6 --shape 24 32 32 --jobs 1",
    "prepare": "--jobs 1",
    "train": "--training.epochs 1 --training.visits-per-slice 2 --network.widths 4 8 --sampling.size 16 16 16 "
    "--inference.size 64 64 64 "
    "--machine.accelerator cpu --machine.threads 1",
    "predict": "--device cpu",
    "evaluate": "--jobs 1",
}
"""What is added to the page's commands: it overrides their sizes, and nothing else."""


pytestmark = pytest.mark.slow  # two 3D networks are trained


@pytest.fixture(scope="module")
def way(tmp_path_factory) -> tuple[Path, dict[str, tuple[int, str]]]:
    """Type the page."""
    folder = tmp_path_factory.mktemp("two_step")
    lines = re.findall(r"^viscera .*$", "".join(re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.S | re.M)), re.M)
    outcome = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "600")
        for line in lines:
            outcome[line] = call(f"{line.removeprefix('viscera ')} {SMALLER[line.split()[1]]}")
    return folder, outcome


def test_every_command_of_the_page_ends_well(way):
    for line, (code, said) in way[1].items():
        assert code == 0, f"{line}\n{said}"


def test_label_maps_hold_organs_and_tumour_on_the_scanners_grid_and_say_what_they_cost(way):
    folder, _ = way
    maps = sorted((folder / "predictions").glob("*.nii.gz"))
    assert maps
    for file in maps:
        case = file.name.removesuffix(".nii.gz")
        scan, labels = nibabel.load(folder / "flare" / "imagesTr" / f"{case}_0000.nii.gz"), nibabel.load(file)
        assert labels.shape == scan.shape
        assert np.allclose(labels.affine, scan.affine)
        facts = json.loads(file.with_name(f"{case}.json").read_text())
        assert tuple(facts["labels"].values()) == FLARE14.organs
        found = np.asarray(labels.dataobj)
        assert found.max() <= 14
        voxel_ml = abs(np.linalg.det(scan.affine[:3, :3])) / 1000
        assert facts["tumours"]["volume_ml"] == pytest.approx((found == 14).sum() * voxel_ml)
        assert facts["run"]["shape"] == list(scan.shape)
        assert facts["run"]["efficiency"]["seconds"] > 0


def test_scores_hold_flares_and_our_own_and_the_page_both_tables(way):
    folder, _ = way
    rows = json.loads((folder / "scores.json").read_text())["cases"]
    assert {row["organ"] for row in rows} == set(FLARE14.organs)
    assert all({"flare_dice", "flare_nsd", "dice", "nsd"} <= row.keys() for row in rows)
    page = (folder / "scores.html").read_text()
    assert "DSC" in page
    assert "Running time" in page
