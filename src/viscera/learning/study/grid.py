"""The grid of a study: words like "network.depth=4,5" -> cells -> one checked recipe per cell.

A setting is named as in a recipe's JSON (`viscera info RECIPE` prints it). Types, ranges and names are checked where every
recipe's are (config/recipe_json.py), all cells before the first is trained.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from viscera.config import Recipe
from viscera.config.recipe_json import first_difference, recipe_from_json, recipe_to_json
from viscera.errors import SettingError, did_you_mean

GENERIC = ("kind", "method")
"""Last parts of settings that tell nothing without their section, by which they are named."""
LONGEST = 80
"""Letters of a folder's name."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    Attributes:
        name: For people: "variant=1 depth=4".
        folder: The same for files: "variant-1_depth-4"; unique.
        settings: {dotted setting: value as in JSON}.
    """

    name: str
    folder: str
    settings: Mapping[str, object]


@dataclass(frozen=True)
class DefaultGrid:
    """A study that has a name.

    Attributes:
        recipe: Name of the recipe that its cells change.
        words: Its grid.
        about: What it is, in a line.
    """

    recipe: str
    words: tuple[str, ...]
    about: str


STUDIES: dict[str, DefaultGrid] = {
    "upv": DefaultGrid(
        "upv1-small",
        ("network.variant=1,2", "network.depth=4,5", "contrast.method=none,equalisation,clahe"),
        "architectures x depths x contrasts of the thesis at small width, for a CPU: 12 runs",
    ),
    "upv-full": DefaultGrid(
        "upv1",
        ("network.variant=1,2", "network.depth=5,6,7", "contrast.method=none,equalisation,clahe"),
        "the thesis' own grid at full width, for GPUs: 18 runs",
    ),
}
"""Studies with a grid of their own. Source: the thesis' table 1 has depths 5 to 7."""


def parse_grid(words: Sequence[str]) -> dict[str, list[object]]:
    """Read words like "network.depth=4,5".

    Values are JSON where they can be (4, 0.5, true, null, [8,16]), else text; commas within brackets part nothing.

    Args:
        words: One per setting.

    Returns:
        {dotted setting: values}, in the order given.

    Raises:
        SettingError: A word is not of that form, or a setting or value is said twice.

    Example:
        >>> parse_grid(["loss.alpha=1,5", "contrast.method=none,clahe"])
        {'loss.alpha': [1, 5], 'contrast.method': ['none', 'clahe']}
    """
    grid: dict[str, list[object]] = {}
    for word in words:
        setting, equals, text = word.partition("=")
        setting = setting.strip().replace("-", "_")
        if not equals or not setting or not all(part.isidentifier() for part in setting.split(".")):
            raise SettingError(
                f"--grid takes SETTING=VALUE,VALUE, got '{word}'", "For example: --grid loss.alpha=1,5,10."
            )
        if setting in grid:
            raise SettingError(f"--grid names {setting} twice", f"Say all its values in one: {setting}=A,B.")
        parts = [part.strip() for part in _split(text)]
        if "" in parts:
            raise SettingError(f"--grid {word}: a value is missing", "For example: --grid loss.alpha=1,5,10.")
        values = [_value(part) for part in parts]
        for number, value in enumerate(values):
            if json.dumps(value) in map(json.dumps, values[:number]):
                raise SettingError(f"--grid {word}: {parts[number]} is said twice", "Leave one out.")
        grid[setting] = values
    if not grid:
        raise SettingError("the grid is empty: say what to vary, for example --grid loss.alpha=1,5,10.")
    return grid


def make_cells(grid: Mapping[str, Sequence[object]]) -> tuple[Cell, ...]:
    """Return every combination of values, the last setting varying fastest.

    Example:
        >>> [cell.folder for cell in make_cells({"network.depth": [4, 5], "contrast.method": ["none"]})]
        ['depth-4_contrast-none', 'depth-5_contrast-none']
    """
    short = short_names(list(grid))
    cells = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        words = [f"{short[setting]}={text_of(value)}" for setting, value in settings.items()]
        cells.append(Cell(" ".join(words), _folder(words), settings))
    return tuple(cells)


def short_names(settings: Sequence[str]) -> dict[str, str]:
    """Return {dotted setting: its last part, or its section where that tells nothing}; whole where two would be the same.

    Example:
        >>> short_names(["network.depth", "contrast.method"])
        {'network.depth': 'depth', 'contrast.method': 'contrast'}
        >>> short_names(["loss.alpha", "other.alpha"])
        {'loss.alpha': 'loss.alpha', 'other.alpha': 'other.alpha'}
    """
    short = {}
    for setting in settings:
        *sections, last = setting.split(".")
        short[setting] = sections[-1] if sections and last in GENERIC else last
    names = list(short.values())
    return {setting: name if names.count(name) == 1 else setting for setting, name in short.items()}


def recipe_of(base: Recipe, cell: Cell, *, study: str) -> Recipe:
    """Return the recipe of a cell: the base's JSON with the cell's settings.

    Where a ``kind`` changes, the rest of its section is what that kind has by default.

    Args:
        base: The study's recipe.
        cell: What to set.
        study: Its name, which the recipe's name begins with.

    Raises:
        SettingError: A setting is unknown, of another type or out of range.
    """
    name, about = f"{study}_{cell.folder}", f"{base.name} with {cell.name}, of the study {study}"
    found: dict[str, object] = json.loads(recipe_to_json(replace(base, name=name, about=about)))
    kinds_first = sorted(cell.settings.items(), key=lambda item: not item[0].endswith(".kind"))
    for setting, value in kinds_first:
        *sections, last = setting.split(".")
        inside = found
        for depth, section in enumerate(sections):
            inner = inside.get(section)
            if not isinstance(inner, dict):
                whole = ".".join(sections[: depth + 1])
                hint = did_you_mean(section, inside)
                raise SettingError(
                    f"--grid {setting}: recipe '{base.name}' has no section '{whole}'",
                    f"{hint} See viscera info {base.name}.",
                )
            if last == "kind" and depth == len(sections) - 1 and inner.get("kind") != value:
                inside[section] = inner = {}
            inside = inner
        inside[last] = value
    return recipe_from_json(json.dumps(found), where=f"--grid {cell.name}")


def recipes_of(base: Recipe, cells: Sequence[Cell], *, study: str) -> tuple[Recipe, ...]:
    """Return the recipe of each cell.

    Raises:
        SettingError: A setting is wrong, or two cells are the same.
    """
    recipes = tuple(recipe_of(base, cell, study=study) for cell in cells)
    seen: dict[str, str] = {}
    for cell, recipe in zip(cells, recipes, strict=True):
        other = seen.setdefault(recipe_to_json(replace(recipe, name="", about="")), cell.name)
        if other != cell.name:
            raise SettingError(f"--grid: the cells '{other}' and '{cell.name}' are the same recipe", "Leave one out.")
    return recipes


def difference(old: Recipe, new: Recipe) -> str:
    """Name the first setting, other than name and description, in which two recipes differ; "" without one."""
    return first_difference(*(json.loads(recipe_to_json(replace(recipe, name="", about=""))) for recipe in (old, new)))


def _split(text: str) -> list[str]:
    """Part a text at commas that are in neither brackets nor quotes."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == '"'
        if not quoted:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth <= 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _value(text: str) -> object:
    try:
        return json.loads(text, parse_constant=str)  # NaN and Infinity are not JSON
    except ValueError:
        return text


def text_of(value: object) -> str:
    """Return a value for names and tables: text as it is, else JSON."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _folder(words: Sequence[str]) -> str:
    """Return a name that every file system takes; what was lost or cut is made up for by a hash."""
    exact = "_".join(words)
    plain = re.sub(r"[^A-Za-z0-9.+_-]+", "-", "_".join(word.replace("=", "-", 1) for word in words))
    if len(plain) <= LONGEST and plain.lower() == plain and plain == exact.replace("=", "-"):
        return plain
    return f"{plain[:LONGEST].strip('-.')}-{hashlib.sha256(exact.encode()).hexdigest()[:6]}"
