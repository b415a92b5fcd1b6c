"""Recipe <-> JSON: names, types and ranges are checked, and what is wrong is said for people."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import get_args, get_type_hints

from viscera.config import Recipe
from viscera.errors import SettingError, did_you_mean
from viscera.json_text import parse_json

BESIDE = ("because", "data", "measured", "viscera")
"""What may stand beside "recipe" in a file of `viscera plan`: why the recipe is as it is. It is not read."""


def recipe_to_json(recipe: Recipe) -> str:
    """Return a recipe as indented JSON, every setting written out."""
    return json.dumps(asdict(recipe), indent=2)


def recipe_from_json(text: str, *, where: str) -> Recipe:
    """Read a recipe, checking names, types and ranges.

    Args:
        text: What ``recipe_to_json`` wrote, perhaps edited; or a plan, whose recipe stands under "recipe".
        where: The file, for messages.

    Raises:
        SettingError: The text is not JSON, or a setting is unknown, of another type or out of range.
    """
    import pydantic  # here, because `viscera --help` needs none of it

    try:
        found = parse_json(text, constants=True)
    except ValueError as error:
        raise SettingError(f"{where}: {_complaint([((), f'Invalid JSON: {error}', text)])}") from error
    if isinstance(found, dict) and "recipe" in found:
        if lost := sorted(found.keys() - {"recipe", *BESIDE}):
            raise SettingError(
                f"{where}: '{lost[0]}' stands beside the plan's recipe, where it would do nothing",
                'Move it into "recipe", or leave it out.',
            )
        text = json.dumps(found["recipe"])
    try:
        return pydantic.TypeAdapter(Recipe).validate_json(text)
    except pydantic.ValidationError as error:
        wrong = [(one["loc"], one["msg"], one["input"]) for one in error.errors()]
        raise SettingError(f"{where}: {_complaint(wrong)}") from error


def _complaint(found: list[tuple[tuple[int | str, ...], str, object]]) -> str:
    """Say what is wrong with the first bad setting, from pydantic's (place, message, value) of each.

    Of a union pydantic complains for every alternative. Those of another ``kind`` than the value's do not count, and the
    others are joined; their names in the place ("AddedBoundaryLoss", "literal['auto']") are not settings.
    """
    others = {place[:-1] for place, _, _ in found if place and place[-1] == "kind"}
    found = [one for one in found if one[0][:2] not in others] or found
    place, _, value = found[0]
    setting = _setting(place)
    same = dict.fromkeys(message for other, message, _ in found if _setting(other) == setting)
    text = " or ".join(
        message if not number else message.removeprefix("Input should be ") for number, message in enumerate(same)
    )
    if text.startswith("Unexpected") and setting in _settings():
        section, _, name = setting.partition(".")
        return f"{section} has no '{name}' where it is of this kind: leave it out, or change {section}.kind."
    if text.startswith("Unexpected"):
        return f"there is no setting '{setting}'.{did_you_mean(setting, _settings())} See viscera info zhang2d for all."
    if not setting:
        return f"no recipe: {text}. Begin with what viscera info zhang2d prints."
    return f"{setting}: {text} (got {value!r})."


def _setting(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place if isinstance(part, int) or (part.isidentifier() and part.islower()))


def _settings() -> list[str]:
    """List every setting of recipes as section.setting, of all kinds, and the sections."""
    sections = get_type_hints(Recipe)
    kinds = [(section, kind) for section, hint in sections.items() for kind in get_args(hint) or (hint,)]
    inner = [f"{section}.{item.name}" for section, kind in kinds if is_dataclass(kind) for item in fields(kind)]
    return [*sections, *dict.fromkeys(inner)]


def override(recipe: Recipe, settings: Mapping[str, object]) -> Recipe:
    """Return a recipe with other settings.

    Args:
        recipe: The recipe.
        settings: {"section.setting": value}, or {section: {setting: value}} for a section as a whole.

    Raises:
        SettingError: A setting is unknown, or of another type, or out of range.
    """
    where, content = f"recipe '{recipe.name}'", asdict(recipe)
    for name, value in settings.items():
        *sections, setting = name.split(".")
        part: object = content
        for section in sections:
            part = part.get(section) if isinstance(part, dict) else None
        if not isinstance(part, dict):
            raise SettingError(f"{where}: there is no setting '{name}'", f"{did_you_mean(name, _settings())}")
        part[setting] = value
    try:
        text = json.dumps(content)
    except TypeError as error:
        raise SettingError(
            f"{where}: a setting cannot be written as JSON: {error}", "Give numbers and names."
        ) from error
    return recipe_from_json(text, where=where)


def check_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe back if every setting is within its range (values from the command line are not yet checked)."""
    return recipe_from_json(recipe_to_json(recipe), where=f"recipe '{recipe.name}'")


def first_difference(old: object, new: object, name: str = "") -> str:
    """Name the first setting that differs; "" where none does."""
    if isinstance(old, dict) and isinstance(new, dict):
        each = (first_difference(old.get(key), new.get(key), f"{name}.{key}".lstrip(".")) for key in old | new)
        return next(filter(None, each), "")
    return "" if old == new else f"{name} was {old!r}, now {new!r}"
