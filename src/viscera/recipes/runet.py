"""runet: 3D attention U-Net whose last layer is a softmax regularised by total variation (FLARE21).

Source: Ding et al. 2021, "Regularized U-Net for Fast Medical Image Segmentation" (FLARE21): sections 2.1 (regularised softmax),
2.3, 2.4 (network, loss, parameters), 3.2 (post-processing), table 3 (training).

Published: liver DSC 94.5 %, NSD 79 % (tolerance 1 mm) on the validation set; the other values are missing in the text.

Departs: weight and step of the regularisation are not stated (ours: 1 and 1, lambda learnt); the loss's Dice has no background
class and its smoothing 1e-5 above and below; slices shorter than a patch repeat their last voxels, as published, but these
do not count; kidneys keep two components (``runet-paper``: three).
"""

from dataclasses import replace

from viscera.config import (
    AttentionUNetShape,
    PartialLoss,
    PatchSampling,
    Postprocessing,
    RawHU,
    Recipe,
    ScannerGrid,
    Softmax,
    SpacedVolumes,
    Training,
    Window,
    WindowInference,
)
from viscera.recipes.gao2step import NOTHING

RUNET = Recipe(
    name="runet",
    about="3D attention U-Net with regularised softmax on strided patches (Ding 2021, FLARE21): for a GPU",
    label_space="abdomenct1k",  # FLARE21's: liver, kidney, spleen, pancreas
    preparation=ScannerGrid(),  # section 2.3: none
    intensity=RawHU(),  # section 2.3: none
    network=AttentionUNetShape(widths=(40, 72, 136, 320)),  # section 2.4: nearest to its parameters and operations
    softmax=Softmax(iterations=1),  # section 2.1
    loss=PartialLoss(unannotated="marginal", exclusion=0.0, dice=1.0, dice_form="linear", alpha=0.0),  # section 2.4
    sampling=PatchSampling(size=(128, 128, 128), stride=(1, 4, 4), foreground_fraction=0.0),  # table 3
    augmentation=NOTHING,  # table 3: the random phase is all
    training=Training(
        epochs=50,
        visits_per_slice=1,
        batch_size=2,
        learning_rate=0.01,
        weight_decay=0.0,
        schedule="step",
        step_epochs=50,
        step_gamma=1.0,
    ),  # table 3: Adam, fixed
    inference=WindowInference(overlap=0.5, region="find"),
    postprocessing=Postprocessing(largest_components={"liver": 1, "kidney": 2, "spleen": 1, "pancreas": 1}),
)
"""As published, but for the third component of the kidneys and the region."""

RUNET_PAPER = replace(
    RUNET,
    name="runet-paper",
    about="runet with every window and, of the kidneys, three components",
    inference=replace(RUNET.inference, region="whole"),
    postprocessing=Postprocessing(
        largest_components={"liver": 1, "kidney": 3, "spleen": 1, "pancreas": 1}
    ),  # section 3.2
)

RUNET_SMALL = replace(
    RUNET,
    name="runet-small",
    about="runet at 3 mm, patches of 64 and a quarter of the width: trains on two CPU cores in minutes",
    preparation=SpacedVolumes(spacing_mm=(3.0, 3.0, 3.0)),
    intensity=Window(low_hu=-400, high_hu=400),
    network=AttentionUNetShape(widths=(8, 16, 32, 64)),
    loss=replace(RUNET.loss, dice_form="log"),
    sampling=PatchSampling(
        size=(64, 64, 64), stride=(1, 2, 2), foreground_fraction=0.5, off_centre=0.75, organs_alike=True
    ),
    training=Training(
        epochs=20,
        visits_per_slice=4,
        batch_size=2,
        learning_rate=3e-3,
        weight_decay=1e-4,
        schedule="cosine",
        warm_up=0.03,
        average_decay=0.99,
    ),
)
"""Departs for minutes instead of hours: 3 mm voxels of which every second is taken in the plane, a window of HU, patches on
organs, a schedule, an average of the weights, -log Dice."""
