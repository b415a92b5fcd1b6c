"""viscera info: what there is."""

import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.datasets.descriptions import LAYOUTS
from viscera.errors import SettingError, did_you_mean
from viscera.labels import SPACES
from viscera.networks.cards import FOLDER, Card, Figure, shipped_titles, shipped_weights
from viscera.recipes.catalogue import RECIPES

TOPICS = ("recipes", "layouts", "organs", "weights", "system")
PACKAGES = {
    "viscera": "",
    "numpy": "",
    "nibabel": "",
    "opencv-python-headless": "",
    "connected-components-3d": "",
    "edt": "",
    "openvino": "openvino",
    "torch": "train",
    "lightning-fabric": "train",
    "scipy": "train",
    "onnx": "train",
    "onnxruntime": "onnx",
    "pydicom": "dicom",
}
"""{package: the extra that brings it; "" for those that every installation has}."""


@dataclass(frozen=True)
class Options:
    """Tell what there is: recipes, layouts of data sets, organs and label spaces, weights, this machine; or all of one recipe."""

    topic: Annotated[Positional[str], arg(metavar="TOPIC")] = "all"
    """recipes, layouts, organs, weights (all that is known of those that come with viscera), system, or a recipe's name (prints its
    JSON, to edit and train from)."""
    json: bool = False
    """For programs."""


def main(arguments: list[str], shipped: Path = FOLDER) -> int:
    """Run the verb.

    Args:
        arguments: After the verb.
        shipped: Where the bundled weights are.
    """
    options = tyro.cli(Options, args=arguments, prog="viscera info", config=(FlagCreatePairsOff,))
    if options.topic in RECIPES:
        sys.stdout.write(json.dumps(asdict(RECIPES[options.topic]), indent=2) + "\n")
        return 0
    if options.topic != "all" and options.topic not in TOPICS:
        names = (*TOPICS, *RECIPES)
        raise SettingError(
            f"there is no topic '{options.topic}'",
            f"{did_you_mean(options.topic, names)} Choose one of {', '.join(names)}.",
        )
    if options.topic == "weights":
        return _show_weights(shipped, for_programs=options.json)
    facts = {topic: _facts(topic, shipped) for topic in (TOPICS if options.topic == "all" else (options.topic,))}
    if options.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return 0
    for topic, rows in facts.items():
        sys.stdout.write("\n".join([topic, *_rows(rows)]) + "\n")
    return 0


def _facts(topic: str, shipped: Path) -> dict[str, str]:
    match topic:
        case "recipes":
            return {name: recipe.about for name, recipe in RECIPES.items()}
        case "layouts":
            return dict(LAYOUTS)
        case "organs":
            return {name: ", ".join(space.organs) for name, space in SPACES.items()}
        case "weights":
            return shipped_titles(shipped)
        case _:
            return _system()


def _show_weights(folder: Path, *, for_programs: bool) -> int:
    """Show the cards of the bundled weights, the way out where there are none."""
    cards = shipped_weights(folder)
    if for_programs:
        sys.stdout.write(json.dumps({"weights": {card.name: asdict(card) for card in cards}}, indent=2) + "\n")
    else:
        sys.stdout.write(
            "\n".join(map(_card_text, cards)) or f"none: {folder} holds no card. Train your own: viscera train\n"
        )
    return 0


def _card_text(card: Card) -> str:
    """Return a card for people."""
    low, high = card.training_range.slice_spacing_mm
    least, most = card.training_range.intensity_hu
    evidence = {one.name: f"{one.what} ({'real' if one.real else 'synthetic'})" for one in card.evidence}
    data = {one.name: f"{one.what} [{one.licence}]" for one in card.training_data}
    parts = {
        "trained": f"{card.date}, recipe {card.recipe}, commit {card.commit}, seeds {', '.join(map(str, card.seeds))}",
        "knows": f"slices {low:g} to {high:g} mm apart, {least:g} to {most:g} HU, {card.training_range.scan_range}",
        "sha256": card.sha256,
    }
    figures = {organ: ", ".join(map(_figure_text, one.figures)) or "-" for organ, one in card.organs.items()}
    tested, others = ({organ: figures[organ] for organ in card.of_standing(one)} for one in ("shipped", "experimental"))
    organs = {"organs, tested on real scans": tested, "experimental (--organs all)": others}
    sections = organs | {"measured on": evidence, "learnt from": data}
    lines = [f"{card.name} {card.version}: {card.title}", *_rows(parts)]
    for title, rows in sections.items():
        lines += [f"\n{title}", *(_rows(rows) if rows else ["  none"])]
    lines += ["\nknown failures", *(f"  - {failure}" for failure in card.known_failures), f"\n{card.notice}"]
    return "\n".join(lines) + "\n"


def _figure_text(figure: Figure) -> str:
    """Return a figure with its interval."""
    interval = "" if figure.low is None or figure.high is None else f" ({figure.low:.3f} to {figure.high:.3f})"
    return f"{figure.measure} {figure.mean:.3f}{interval} on {figure.on}, n = {figure.cases}"


def _rows(rows: dict[str, str]) -> list[str]:
    """Return names and what they are, in two columns."""
    width = max(map(len, rows), default=0)
    return [f"  {name:<{width}}  {what}" for name, what in rows.items()]


def _system() -> dict[str, str]:
    """Tell versions and machine without importing anything heavy."""
    facts = {"python": platform.python_version(), "platform": platform.platform(), "cores": str(os.cpu_count())}
    for package, extra in PACKAGES.items():
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = f"not installed (pip install 'viscera[{extra}]')" if extra else "not installed"
    return facts
