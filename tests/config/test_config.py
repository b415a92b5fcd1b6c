"""Recipes: to JSON and back, ranges, messages; the shipped ones against the numbers of their sources."""

from dataclasses import replace

import pytest

from viscera.config import AddedBoundaryLoss, SummedBoundaryLoss, Training, Window
from viscera.config.recipe_json import check_recipe, recipe_from_json, recipe_to_json
from viscera.errors import SettingError
from viscera.recipes.catalogue import RECIPES, find_recipe
from viscera.recipes.zhang2d import ZHANG2D, ZHANG2D_PAPER


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_survives_json(recipe):
    assert recipe_from_json(recipe_to_json(recipe), where="x") == recipe
    assert check_recipe(recipe) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"training": {"epochs": 0}}', r"x\.json: training\.epochs: .*greater than or equal to 1 \(got 0\)"),
        ('{"trainnig": {}}', "no setting 'trainnig'. Did you mean 'training'"),
        ('{"network": {"kind": "upv", "dept": 5}}', "no setting 'network.dept'. Did you mean 'network.depth'"),
        ('{"network": {"kind": "upv", "depth": 9}}', r"network\.depth: .*less than or equal to 8 \(got 9\)"),
        (
            '{"network": {"kind": "upv", "widths": [8, 16]}}',
            "network has no 'widths' where it is of this kind: leave it",
        ),
        ('{"loss": {"kind": "added", "class_weights": "equal"}}', "loss.*class_weights"),
        ('{"network": {"widths": [8]}}', "network.widths"),
        ('{"preparation": {"size": [100, 128]}}', r"preparation\.size\.0: .*multiple of 16"),
        ('{"intensity": {"low_hu": 400, "high_hu": -400}}', "low_hu 400 must be below high_hu -400"),
        ("{", "Invalid JSON"),
        ('{"training": {"precision": "fp8"}}', "training.precision"),
    ],
)
def test_settings_out_of_range_are_named(text, message):
    with pytest.raises(SettingError, match=message):
        recipe_from_json(text, where="x.json")


def test_a_recipe_can_be_read_from_an_edited_file(tmp_path):
    file = tmp_path / "mine.json"
    mine = replace(ZHANG2D, training=Training(epochs=1), intensity=Window(-160, 240))
    file.write_text(recipe_to_json(mine))
    assert find_recipe(str(file)) == mine


def test_a_misspelt_recipe_is_guessed():
    with pytest.raises(SettingError, match="no recipe 'zang2d'. Did you mean 'zhang2d'"):
        find_recipe("zang2d")


def test_an_unknown_label_space_is_named():
    with pytest.raises(SettingError, match="no label space 'twelve'. Choose one of zhang12"):
        _ = replace(ZHANG2D, label_space="twelve").space


def test_both_losses_of_zhang2d_and_both_failing_weights_are_recipes():
    assert isinstance(ZHANG2D.loss, AddedBoundaryLoss)
    assert isinstance(ZHANG2D_PAPER.loss, SummedBoundaryLoss)
    assert RECIPES["zhang2d-uniform"].loss.class_weights == "uniform"
    assert RECIPES["zhang2d-inverse-frequency"].loss.class_weights == "inverse_frequency"
    assert len(ZHANG2D.loss.class_weights) == len(ZHANG2D.space.classes) == 12
