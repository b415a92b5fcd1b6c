"""model.json of an export: what a program needs to know to use the network: what goes in, how it is made, what comes out."""

import json
from dataclasses import asdict
from importlib.metadata import version

from viscera.colours import colour
from viscera.config import Postprocessing, Recipe, ResizedSlices, SpacedSlices, SpacedVolumes
from viscera.config.recipe_json import recipe_to_json
from viscera.inference.model import Model
from viscera.networks.exported import FORMAT
from viscera.networks.runners import shape_of_recipe
from viscera.preparation.resampling import AIR_HU, SMOOTH_ABOVE

NOTICE = "Not a medical device: for research, not for diagnosis or treatment. No warranty of any kind."


def describe(model: Model) -> dict[str, object]:
    """Return all that a program needs to use a written network, for JSON: what goes in and how it is made, what comes out."""
    recipe, stride, dimensions = model.recipe, model.network.stride, model.network.dimensions
    axes = ["z", "y", "x"][-dimensions:]
    sides: list[int | None] = [None] * dimensions
    if recipe.preparation.size is not None:
        sides = list(recipe.preparation.size)
    context = {} if recipe.context is None else {"context": _described(recipe)}
    return {
        "format": FORMAT,
        "viscera": version("viscera"),
        "notice": NOTICE,
        "recipe": recipe.name,
        "weights_sha256": model.weights_sha256,
        "labels": {
            "0": {"organ": "background", "colour": [0, 0, 0]},
            **{
                str(index): {"organ": organ, "colour": list(colour(organ))}
                for index, organ in model.space.labels.items()
            },
        },
        "input": {
            "name": "image",
            "type": "float32",
            "axes": ["batch", "channel", *axes],
            "shape": [None, recipe.channels, *sides],
            "multiple_of": stride,
            "channels": _channels(recipe),
        },
        **context,
        "outputs": {
            "logits": {"type": "float32", "axes": ["batch", "class", *axes], "classes": len(model.space.classes)},
            "labels": {"type": "uint8", "axes": ["batch", *axes], "is": "the class of the largest logit"},
        },
        "orientation": {
            "axes": ["z", "y", "x"],
            "z": "from the feet to the head (nibabel: S)",
            "y": "from front to back (nibabel: P)",
            "x": "from the patient's right to left (nibabel: L)",
        },
        "label_space": {"name": model.space.name, "organs": list(model.space.organs)},
        "steps": _steps(recipe),
        "units": {"image": "HU before intensity", "spacing": "mm"},
        "preparation": asdict(recipe.preparation),
        "contrast": asdict(recipe.contrast),
        "intensity": asdict(recipe.intensity),
        "inference": asdict(recipe.inference),
        "postprocessing": asdict(recipe.postprocessing),
        "settings": json.loads(recipe_to_json(recipe)),
    }


def _channels(recipe: Recipe) -> str:
    reach, shown = recipe.reach, "the slice or patch itself"
    if reach:
        shown = f"slices z-{reach} to z+{reach}, in order; the middle one is segmented; beyond the scan its last slice repeats"
    return shown if recipe.context is None else f"{shown}; then what the context network gives each organ, see context"


def _described(recipe: Recipe) -> dict[str, object]:
    """Say what the context network takes and gives."""
    pixels = recipe.context.pixels  # type: ignore[union-attr]
    return {
        "input": {"name": "image", "type": "float32", "axes": ["batch", "channel", "z", "y", "x"], "channels": 1},
        "multiple_of": shape_of_recipe(recipe.context.network)[0],  # type: ignore[union-attr]
        "image": f"the whole prepared scan in voxels of {pixels} pixels: their mean, along z linear or the mean; then intensity",
        "output": "logits; softmax, background left out, in 255 steps; each voxel is repeated on the pixels that it covers, "
        "and linear between its slices",
    }


def _steps(recipe: Recipe) -> list[str]:
    """Say in sentences what is done from a scan to labels."""
    match recipe.preparation:
        case ResizedSlices(size=(rows, columns)):
            grid = f"Resize each slice to {rows}x{columns} pixels, linearly, without smoothing, pixel centres at half steps; round."
        case SpacedSlices(spacing_mm=spacing, margin_mm=margin):
            grid = (
                f"Resample each slice to pixels of {spacing:g} mm (mean of the covered pixels where they grow by more than "
                f"{SMOOTH_ABOVE:g}, else linearly), cut to the body and {margin:g} mm around it; air is {AIR_HU} HU; round."
            )
        case SpacedVolumes(spacing_mm=(z, y, x), margin_mm=margin):
            grid = f"Resample to voxels of {z:g}x{y:g}x{x:g} mm (z, y, x), cut rows and columns to the body and {margin:g} mm."
        case _:
            grid = "The grid stays the scanner's."
    steps = ["Read HU as whole numbers, and turn them to the orientation.", grid]
    if recipe.contrast.method != "none":
        steps.append(f"Spread the grey levels of each slice: {recipe.contrast.method}, see contrast.")
    steps.append(recipe.intensity.described)
    if not recipe.inference.whole_slices:
        steps.append("Take overlapping windows (inference) and average their logits with Gaussian weights.")
    steps.append(
        "Enlarge the logits linearly to the scan's grid; the largest decides. Where grids are equal take labels."
    )
    if recipe.postprocessing != Postprocessing():
        steps.append("Tidy the labels, see postprocessing.")
    return steps
