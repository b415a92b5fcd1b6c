"""Trainings that several processes can do, one after the other: python processes.py STORE FOLDER NAME ... under torchrun.

Learning rates are so low that a rounding error stays one: at 5e-3 two runs whose first gradients agreed to 4e-6 differed in the
third digit after two steps.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

from viscera.config import (
    Machine,
    PartialLoss,
    PatchSampling,
    PlainUNetShape,
    Recipe,
    ResizedSlices,
    RichAugmentation,
    SigmoidLoss,
    SliceInference,
    SliceSampling,
    SummedBoundaryLoss,
    Training,
    UNetShape,
    VolumeAugmentation,
    Window,
    WindowInference,
)
from viscera.learning.training import train
from viscera.preparation.store import open_store

LIKE = Recipe(
    name="tiny",
    label_space="abdomenct1k",
    preparation=ResizedSlices(size=(16, 16)),
    intensity=Window(-400, 400),
    network=UNetShape(widths=(4, 8)),
    training=Training(epochs=2, visits_per_slice=2.0625, batch_size=4, learning_rate=1e-4, precision="32-true"),
    inference=SliceInference(batch_size=2),
)
"""33 of 16 slices an epoch: the ninth batch has one, which two processes cannot share."""
PLAN = LIKE.training
PARTIAL = PartialLoss(alpha=1.0)
VOLUMES = replace(
    LIKE,
    network=PlainUNetShape(widths=(4, 8, 8), deep_supervision=True),
    loss=replace(PARTIAL, dice_form="linear"),
    sampling=PatchSampling(size=(4, 8, 8)),
    augmentation=VolumeAugmentation(),
    training=replace(PLAN, visits_per_slice=3.25, batch_size=2),
    inference=WindowInference(size=(4, 8, 8)),
)
RECIPES = {
    "added": LIKE,
    "summed": replace(LIKE, loss=SummedBoundaryLoss()),
    "partial": replace(
        LIKE,
        loss=PARTIAL,
        augmentation=RichAugmentation(),
        sampling=SliceSampling(dataset_power=0.5, organ_fraction=0.5, paste=0.5),
        training=replace(PLAN, average_decay=0.9, accumulate=2),
    ),
    "sigmoid": replace(LIKE, loss=SigmoidLoss(), network=UNetShape(widths=(4, 8), heads="sigmoid", checkpointing=True)),
    "volumes": VOLUMES,
    "finest_level": replace(VOLUMES, network=PlainUNetShape(widths=(4, 8, 8), deep_supervision=False)),
    "volumes_batch_norm": replace(
        VOLUMES, network=PlainUNetShape(widths=(4, 8, 8), deep_supervision=True, norm="batch", checkpointing=True)
    ),
}

if __name__ == "__main__":
    import lightning_fabric  # noqa: F401  (sets its logger to INFO)

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    store, folder, *names = sys.argv[1:]
    for name in names or RECIPES:
        train(RECIPES[name], open_store(Path(store)), Path(folder) / name, machine=Machine("cpu", threads=1))
