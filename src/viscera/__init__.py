"""viscera: abdominal organ segmentation in CT, from data sets that annotate different organs.

Segment what you have in memory (a ``viscera.Volume``, a nibabel image, a SimpleITK image, or an array with its affine) and
get the same kind back, on the same grid:

    import nibabel, viscera

    labels = viscera.segment(nibabel.load("scan.nii.gz"))

or files, without holding them: ``viscera.predict("scans", "labels")``. Which number is which organ:
``viscera.load_model().labels``. Load the model once for many scans: ``viscera.segment(image, model)``.

Train a network of your own, and measure it:

    recipe = viscera.find_recipe("viscera2d-16", {"training.epochs": 4})
    viscera.prepare("store", {"nnunet": "Dataset001"}, recipe=recipe)
    viscera.train(recipe, "store", "run")
    cases = viscera.find_cases("nnunet", "Dataset001", split="test", run="run")
    viscera.predict(cases, "labels", "run")
    scores = viscera.evaluate(cases, "labels")

What can be put right raises a ``viscera.VisceraError`` whose message says how. Every function does what the verb of the same
name does (``viscera --help``). Importing this module imports nothing else; each name is loaded when it is first used.

Public is what ``__all__`` lists, and the attributes that the documentation of these names describes. All other modules and
names are internal: they may change in any release. Not a medical device.

Example:
    >>> import viscera
    >>> viscera.LabelSpace("two", ("liver", "spleen")).labels
    {1: 'liver', 2: 'spleen'}
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viscera.api.data import find_cases, prepare, synthesize
    from viscera.api.planning import plan
    from viscera.api.reading import read
    from viscera.api.scoring import compare, evaluate, report
    from viscera.api.segmenting import load_model, predict, segment
    from viscera.api.training import cross_validate, train
    from viscera.config.recipe import Recipe
    from viscera.errors import VisceraError
    from viscera.evaluation.scores import Evaluation
    from viscera.inference.model import Model
    from viscera.io.nifti import write
    from viscera.labels import LabelSpace
    from viscera.recipes.catalogue import find_recipe
    from viscera.reports.notebook import view
    from viscera.volume import Volume

    __version__: str

_PLACES = {
    "viscera.api.data": ("find_cases", "prepare", "synthesize"),
    "viscera.api.planning": ("plan",),
    "viscera.api.reading": ("read",),
    "viscera.api.scoring": ("compare", "evaluate", "report"),
    "viscera.api.segmenting": ("load_model", "predict", "segment"),
    "viscera.api.training": ("cross_validate", "train"),
    "viscera.config.recipe": ("Recipe",),
    "viscera.errors": ("VisceraError",),
    "viscera.evaluation.scores": ("Evaluation",),
    "viscera.inference.model": ("Model",),
    "viscera.io.nifti": ("write",),
    "viscera.labels": ("LabelSpace",),
    "viscera.recipes.catalogue": ("find_recipe",),
    "viscera.reports.notebook": ("view",),
    "viscera.volume": ("Volume",),
}
"""Where each public name is defined (PEP 562: loaded when it is first used)."""

__all__ = [
    "Evaluation",
    "LabelSpace",
    "Model",
    "Recipe",
    "VisceraError",
    "Volume",
    "__version__",
    "compare",
    "cross_validate",
    "evaluate",
    "find_cases",
    "find_recipe",
    "load_model",
    "plan",
    "predict",
    "prepare",
    "read",
    "report",
    "segment",
    "synthesize",
    "train",
    "view",
    "write",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        found: object = version("viscera")
    else:
        place = next((place for place, names in _PLACES.items() if name in names), None)
        if place is None:
            raise AttributeError(f"module 'viscera' has no attribute '{name}'")
        found = getattr(import_module(place), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
