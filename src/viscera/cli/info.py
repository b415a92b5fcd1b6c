"""viscera info: what there is."""

import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.errors import SettingError, did_you_mean
from viscera.labels import SPACES
from viscera.recipes import RECIPES

TOPICS = ("recipes", "layouts", "organs", "system")
PACKAGES = (
    "viscera",
    "torch",
    "numpy",
    "nibabel",
    "lightning-fabric",
    "opencv-python-headless",
    "connected-components-3d",
    "edt",
)


@dataclass(frozen=True)
class Options:
    """Tell what there is: recipes, layouts of data sets, organs and label spaces, this machine; or all of one recipe."""

    topic: Annotated[Positional[str], arg(metavar="TOPIC")] = "all"
    """recipes, layouts, organs, system, or a recipe's name (prints its JSON, to edit and train from)."""
    json: bool = False
    """For programs."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera info", config=(FlagCreatePairsOff,))
    if options.topic in RECIPES:
        sys.stdout.write(json.dumps(asdict(RECIPES[options.topic]), indent=2) + "\n")
        return 0
    if options.topic != "all" and options.topic not in TOPICS:
        names = (*TOPICS, *RECIPES)
        raise SettingError(
            f"there is no topic '{options.topic}'.{did_you_mean(options.topic, names)} Choose one of {', '.join(names)}."
        )
    facts = {topic: _facts(topic) for topic in (TOPICS if options.topic == "all" else (options.topic,))}
    if options.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return 0
    for topic, rows in facts.items():
        width = max(len(name) for name in rows)
        sys.stdout.write(f"{topic}\n")
        sys.stdout.writelines(f"  {name:<{width}}  {what}\n" for name, what in rows.items())
    return 0


def _facts(topic: str) -> dict[str, str]:
    match topic:
        case "recipes":
            return {name: recipe.about for name, recipe in RECIPES.items()}
        case "layouts":
            from viscera.datasets import LAYOUTS

            return dict(LAYOUTS)
        case "organs":
            return {name: ", ".join(space.organs) for name, space in SPACES.items()}
        case _:
            return _system()


def _system() -> dict[str, str]:
    """Tell versions and machine without importing anything heavy."""
    facts = {"python": platform.python_version(), "platform": platform.platform(), "cores": str(os.cpu_count())}
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts
