"""What an export says of its recipe, and that a folder which cannot be put in its place leaves the earlier one."""

from dataclasses import replace

import pytest

from viscera.config import Postprocessing
from viscera.deployment.description import _steps
from viscera.deployment.export import _folder
from viscera.errors import VisceraError
from viscera.recipes.catalogue import find_recipe


def test_the_steps_of_an_exported_volume_network_name_its_grid_its_windows_and_its_tidying():
    recipe = find_recipe("gao2step")
    z, y, x = recipe.preparation.spacing_mm
    steps = _steps(replace(recipe, postprocessing=Postprocessing(fill_holes=("liver",))))
    assert any(step.startswith(f"Resample to voxels of {z:g}x{y:g}x{x:g} mm (z, y, x)") for step in steps)
    assert any("overlapping windows" in step for step in steps)
    assert steps[-1] == "Tidy the labels, see postprocessing."


def test_an_export_that_cannot_be_renamed_leaves_the_earlier_one(tmp_path):
    out = tmp_path / "export"
    out.mkdir()
    (out / "model.json").write_text("earlier")
    with pytest.raises((OSError, VisceraError)), _folder(out) as part:  # noqa: PT012
        (part / "model.json").write_text("later")
        (part / "model.json").unlink()
        part.rmdir()  # so that nothing can take the place
    assert (out / "model.json").read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["export"]
