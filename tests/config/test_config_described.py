"""What settings say of themselves to people, and settings that cannot be written."""

import pytest

from viscera.config.preparation import ForegroundScore, RawHU, SpacedSlices, SpacedVolumes
from viscera.config.recipe_json import override
from viscera.errors import SettingError
from viscera.recipes.catalogue import find_recipe

MEASURED = (-90.0, 210.0, 60.0, 45.0)


def test_measured_intensities_are_told_in_a_sentence_and_unknown_ones_go_in_as_they_are():
    score = ForegroundScore(measured=MEASURED)
    assert score.described == "Clip to -90 to 210 HU, subtract 60, divide by 45."
    assert score.window_hu == (-90, 210)
    assert ForegroundScore().window_hu is None
    assert ForegroundScore().described == RawHU().described == "HU go in as they are."


@pytest.mark.parametrize("measured", [(210.0, -90.0, 60.0, 45.0), (-90.0, 210.0, 60.0, 0.0)])
def test_percentiles_in_the_wrong_order_and_no_spread_are_refused(measured):
    with pytest.raises(SettingError, match="intensity"):
        ForegroundScore(measured=measured)


def test_grids_are_told_with_their_millimetres():
    assert SpacedSlices(spacing_mm=1.5, margin_mm=10).grid.startswith(
        "pixels of 1.5 mm, slices cut to the body and 10 mm"
    )
    volumes = SpacedVolumes(spacing_mm=(3.0, 1.5, 1.25), margin_mm=10)
    assert volumes.grid.startswith("voxels of 3x1.5x1.25 mm, slices cut to the body and 10 mm")


def test_a_setting_that_is_none_and_one_that_is_no_json_are_named():
    recipe = find_recipe("viscera2d-16")
    with pytest.raises(SettingError, match="there is no setting 'training.epochs.first'"):
        override(recipe, {"training.epochs.first": 1})
    with pytest.raises(SettingError, match="cannot be written as JSON"):
        override(recipe, {"training.epochs": object()})
