"""zhang2d: 2D U-Net with boundary-weighted cross-entropy on a mixed, partially labelled set.

Source: Zhang, "Abdominal Medical Image Segmentation with 2D U-Net", Peking and Rice University, 2025 (paper and the README of
its code, github.com/smilezzm/Abdominal-organ-segmentation). Where the two differ, the code's values are the default and the
paper's have a recipe of their own.

Published: validation Dice .946 .876 .904 .976 .981 .883 .862 .905 .904 .972 .877, mean .917 (table III), with a split over
augmented slices, so that copies of one slice stand on both sides. Ours splits by patient: lower figures are to be expected.

Departs: the sixteen copies of a slice are drawn on the fly, not written to disk; the original draws four contrast and
brightness values per slice, ours a new one at each visit, from the same distribution.
"""

from dataclasses import replace

from viscera.config import (
    AddedBoundaryLoss,
    Recipe,
    ResizedSlices,
    SliceAugmentation,
    SliceInference,
    SummedBoundaryLoss,
    Training,
    UNetShape,
    Window,
)

CLASS_WEIGHTS = (0.3, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.6, 1.0, 1.0, 1.0, 1.0)
"""README, "Usage Notes"."""

ZHANG2D = Recipe(
    name="zhang2d",
    about="2D U-Net, boundary-weighted cross-entropy, 12 classes (Zhang 2025, its code): 31 M parameters, for a GPU",
    label_space="zhang12",  # table II
    preparation=ResizedSlices(size=(256, 256)),  # section II.B
    intensity=Window(low_hu=-400, high_hu=400),  # README, "HU Windowing"
    network=UNetShape(widths=(64, 128, 256, 512, 1024), checkpointing=False),  # README, "Model Architecture"; II.D
    loss=AddedBoundaryLoss(
        alpha=10, sigma_pixels=3, class_weights=CLASS_WEIGHTS, distance="boundary"
    ),  # README, "Loss"
    augmentation=SliceAugmentation(quarter_turns=True, contrast=0.04, brightness=0.03),  # of the code
    training=Training(
        epochs=6,
        visits_per_slice=16,  # 4 rotations x 4 contrasts
        batch_size=64,
        learning_rate=6e-4,
        weight_decay=1e-4,
        step_epochs=2,
        step_gamma=0.2,
    ),
    inference=SliceInference(),
)
"""As the code has it."""

ZHANG2D_PAPER = replace(
    ZHANG2D,
    name="zhang2d-paper",
    about="zhang2d with the loss as the paper writes it (equations 1 and 2)",
    loss=SummedBoundaryLoss(
        amplitude=6, sigma_pixels=4, class_weights=CLASS_WEIGHTS, distance="organ"
    ),  # eq. 1, 2; fig. 5b
)
"""The loss as the paper writes it."""

ZHANG2D_INVERSE_FREQUENCY = replace(
    ZHANG2D,
    name="zhang2d-inverse-frequency",
    about="zhang2d with class weights by inverse frequency: its figure 4c, too many false positives",
    loss=replace(ZHANG2D.loss, class_weights="inverse_frequency"),
)
"""Figure 4c: too many false positives."""

ZHANG2D_UNIFORM = replace(
    ZHANG2D,
    name="zhang2d-uniform",
    about="zhang2d with uniform class weights: its figure 4d, too many false negatives",
    loss=replace(ZHANG2D.loss, class_weights="uniform"),
)
"""Figure 4d: too many false negatives."""

ZHANG2D_SMALL = replace(
    ZHANG2D,
    name="zhang2d-small",
    about="zhang2d at 128x128 and a sixteenth of the parameters: trains on two CPU cores in minutes",
    preparation=ResizedSlices(size=(128, 128)),
    network=UNetShape(widths=(16, 32, 64, 128, 256)),
    loss=replace(ZHANG2D.loss, class_weights=(0.5, *CLASS_WEIGHTS[1:])),
    augmentation=replace(ZHANG2D.augmentation, quarter_turns=False),
    training=replace(
        ZHANG2D.training, visits_per_slice=1, batch_size=8, learning_rate=2e-3, step_epochs=3, step_gamma=0.3
    ),
)
"""A sixteenth of the parameters, a quarter of the pixels, one visit per slice.

Departs: no quarter turns, which need many more visits to pay (two epochs on synthetic patients: liver Dice .66 with them,
.92 without, and smaller batches); batch 8 for more steps; background weighs 0.5 instead of 0.3, which thickens every organ by
a part of a pixel, and a pixel is 3 mm here (femoral heads of unseen synthetic patients were predicted 16 % too large).
"""
