"""The recipes: one system per file, each value with its source. To add one, write a file and name it here."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from viscera.config import Recipe
from viscera.config.recipe_json import override, recipe_from_json
from viscera.errors import SettingError, did_you_mean
from viscera.json_text import read_text
from viscera.recipes.gao2step import (
    GAO2STEP,
    GAO2STEP_FINDER,
    GAO2STEP_FINDER_SMALL,
    GAO2STEP_FINETUNE,
    GAO2STEP_SMALL,
    GAO2STEP_TUMOUR,
    GAO2STEP_TUMOUR_FINETUNE,
    GAO2STEP_TUMOUR_SMALL,
)
from viscera.recipes.runet import RUNET, RUNET_PAPER, RUNET_SMALL
from viscera.recipes.starter import STARTER, STARTER_2D
from viscera.recipes.upv import UPV1, UPV1_SMALL, UPV2, UPV2_SMALL
from viscera.recipes.viscera2d import VISCERA2D, VISCERA2D_16, VISCERA2D_24, VISCERA2D_64, VISCERA2D_TUMOUR
from viscera.recipes.viscera25d import VISCERA25D, VISCERA25D_2D, VISCERA25D_3D
from viscera.recipes.zhang2d import ZHANG2D, ZHANG2D_INVERSE_FREQUENCY, ZHANG2D_PAPER, ZHANG2D_SMALL, ZHANG2D_UNIFORM

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *(ZHANG2D, ZHANG2D_PAPER, ZHANG2D_INVERSE_FREQUENCY, ZHANG2D_UNIFORM, ZHANG2D_SMALL),
        *(VISCERA2D, VISCERA2D_16, VISCERA2D_24, VISCERA2D_64, VISCERA2D_TUMOUR),
        *(VISCERA25D, VISCERA25D_2D, VISCERA25D_3D),
        *(STARTER, STARTER_2D),
        *(GAO2STEP, GAO2STEP_FINETUNE, GAO2STEP_TUMOUR, GAO2STEP_TUMOUR_FINETUNE, GAO2STEP_FINDER),
        *(GAO2STEP_SMALL, GAO2STEP_TUMOUR_SMALL, GAO2STEP_FINDER_SMALL),
        *(RUNET, RUNET_PAPER, RUNET_SMALL),
        *(UPV1, UPV2, UPV1_SMALL, UPV2_SMALL),
    )
}


def find_recipe(name: str | PathLike[str], settings: Mapping[str, object] | None = None) -> Recipe:
    """Return a recipe by its name, or from a JSON file (a run's recipe.json, or an edited copy).

    Args:
        name: A name (`viscera info recipes`), or a .json file.
        settings: Settings to override, as {"section.setting": value}. A section given as a whole is replaced as a whole, which
            a change of its ``kind`` asks for: {"contrast": {"method": "clahe"}}.

    Raises:
        SettingError: No recipe of that name and no such file; an unknown setting, or a value out of its range.

    Example:
        >>> import viscera
        >>> recipe = viscera.find_recipe("zhang2d-small", {"training.epochs": 3, "loss.class_weights": "uniform"})
        >>> recipe.training.epochs, recipe.loss.class_weights
        (3, 'uniform')
        >>> viscera.find_recipe("zhang2d-small", {"training.epoch": 3})
        Traceback (most recent call last):
        viscera.errors.SettingError: recipe 'zhang2d-small': there is no setting 'training.epoch'. Did you mean ...
    """
    return override(_find(str(name)), settings) if settings else _find(str(name))


def _find(name: str) -> Recipe:
    """Return a recipe as it is written down."""
    if name in RECIPES:
        return RECIPES[name]
    file = Path(name)
    if file.suffix == ".json" and file.is_file():
        return recipe_from_json(read_text(file, error=SettingError), where=name)
    known = ", ".join(RECIPES)
    raise SettingError(
        f"there is no recipe '{name}'", f"{did_you_mean(name, RECIPES)} Choose one of {known}, or give a .json file."
    )
