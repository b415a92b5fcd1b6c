"""Every setting of a recipe: its type, unit, meaning and range.

A recipe is a value. A variant is another value (``dataclasses.replace``), not a subclass; alternatives are dataclasses in
a union, told apart by one ``match`` where they are used. The recipes themselves, with the source of each number, are in
recipes/. Ranges are checked when a recipe is read from JSON or the command line (recipe_json.py).
"""

from viscera.config.augmentation import Augmentation, RichAugmentation, SliceAugmentation, VolumeAugmentation
from viscera.config.context import Context
from viscera.config.inference import Inference, Postprocessing, SliceInference, WindowInference
from viscera.config.losses import (
    AddedBoundaryLoss,
    ClassWeights,
    Distance,
    Loss,
    PartialLoss,
    SigmoidLoss,
    SummedBoundaryLoss,
)
from viscera.config.networks import AttentionUNetShape, NetworkShape, PlainUNetShape, Softmax, UNetShape, UpvShape
from viscera.config.preparation import (
    Contrast,
    ForegroundScore,
    Intensity,
    Preparation,
    RawHU,
    ResizedSlices,
    ScannerGrid,
    SpacedSlices,
    SpacedVolumes,
    Spacing,
    Window,
)
from viscera.config.ranges import STRICT, Accelerator, Count, Fraction, Positive, Precision
from viscera.config.recipe import Recipe
from viscera.config.sampling import PatchSampling, Sampling, SliceSampling
from viscera.config.training import Machine, Training

__all__ = [
    "STRICT",
    "Accelerator",
    "AddedBoundaryLoss",
    "AttentionUNetShape",
    "Augmentation",
    "ClassWeights",
    "Context",
    "Contrast",
    "Count",
    "Distance",
    "ForegroundScore",
    "Fraction",
    "Inference",
    "Intensity",
    "Loss",
    "Machine",
    "NetworkShape",
    "PartialLoss",
    "PatchSampling",
    "PlainUNetShape",
    "Positive",
    "Postprocessing",
    "Precision",
    "Preparation",
    "RawHU",
    "Recipe",
    "ResizedSlices",
    "RichAugmentation",
    "Sampling",
    "ScannerGrid",
    "SigmoidLoss",
    "SliceAugmentation",
    "SliceInference",
    "SliceSampling",
    "Softmax",
    "SpacedSlices",
    "SpacedVolumes",
    "Spacing",
    "SummedBoundaryLoss",
    "Training",
    "UNetShape",
    "UpvShape",
    "VolumeAugmentation",
    "Window",
    "WindowInference",
]
