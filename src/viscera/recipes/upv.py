"""upv1, upv2: two 2D U-Nets of the study of architecture, depth and contrast on AbdomenCT-1K.

Source: the thesis on AbdomenCT-1K, Polytechnical University of Valencia, chapters 4 (methods) and 5 (experiments). Networks:
networks/upv.py, which says what of them is stated. The other depths and contrasts of the study: ``--network.depth``,
``--contrast.method``; all at once: ``viscera study upv``.

Published: test IoU of background, liver, kidneys, spleen, pancreas: upv1 with 5 levels .99 .84 .71 .68 .05, with 6 levels
.98 .73 .62 .55 .02; upv2 with 5 levels .99 .82 .65 .68 .01, with 6 .99 .82 .68 .67 .03, with 7 .98 .81 .68 .64 .01.

Not stated, so ours:
- width 32: 24 GB (chapter 4, "Software and Hardware") must hold the activations that a batch of 30 slices of 512x512 keeps for
  the backward pass, in single precision 15 GiB for U-Net 1 and 19 GiB for U-Net 2 at width 32, 30 and 38 GiB at width 64
- loss: cross-entropy, which goes with the softmax of five classes; a voxel of an organ that a case does not annotate is unknown
- optimizer: Adam (AdamW without weight decay) at a fixed rate
- HU to grey levels 0 to 255: -160 to 240 HU, soft tissue; 0 to 1 as the network's input
- augmentation: none is mentioned

Departs: the best epoch is the one of the lowest validation loss, in the thesis that of the highest validation IoU (177 of 200
for U-Net 1 with 5 levels, 57 with 6; 47 and 29 for U-Net 2); the log has every epoch's IoU. ``prepare`` splits patients, whose
slices all stay on one side.
"""

from dataclasses import replace

from viscera.config import (
    Contrast,
    PartialLoss,
    Recipe,
    ResizedSlices,
    SliceAugmentation,
    SliceInference,
    Training,
    UpvShape,
    Window,
)

UPV1 = Recipe(
    name="upv1",
    about="U-Net 1 of the depth and contrast study, 512x512, 5 levels, no normalisation (UPV thesis): for a GPU",
    label_space="abdomenct1k",  # chapter 5, "Dataset Selection"
    preparation=ResizedSlices(size=(512, 512)),  # likewise
    contrast=Contrast(method="equalisation"),  # chapter 5, "Methods for the preprocessing": the best of three
    intensity=Window(low_hu=-160, high_hu=240),
    network=UpvShape(variant=1, depth=5, width=32),  # depth: chapter 6, the best of 5, 6 and 7
    loss=PartialLoss(unannotated="marginal", exclusion=0.0, dice=0.0, alpha=0.0),
    augmentation=SliceAugmentation(quarter_turns=False, contrast=0.0, brightness=0.0),
    training=Training(
        epochs=200,  # chapter 4, "The Use of Various Epochs": 1 to 200
        visits_per_slice=1,
        batch_size=30,  # likewise
        learning_rate=3e-4,
        weight_decay=0.0,
        schedule="step",
        step_epochs=200,
        step_gamma=1.0,
    ),
    inference=SliceInference(batch_size=4),
)
"""U-Net 1."""

UPV2 = replace(
    UPV1,
    name="upv2",
    about="U-Net 2 of the same study: more convolutions before the first level and after the last",
    network=replace(UPV1.network, variant=2),
)
"""U-Net 2."""

UPV1_SMALL = replace(
    UPV1,
    name="upv1-small",
    about="upv1 at 128x128, 4 levels and a quarter of the width: trains on two CPU cores in minutes",
    preparation=ResizedSlices(size=(128, 128)),
    network=UpvShape(variant=1, depth=4, width=8, most=128),
    training=replace(UPV1.training, epochs=20, batch_size=8, learning_rate=1e-3, step_epochs=20),
)
"""Like the large one without normalisation and with cross-entropy alone: the organs come one after the other, the largest first.

One run each, ten synthetic patients of 48 slices, Dice of liver, kidney, spleen, pancreas of the one validation patient after
8, 12 and 16 epochs of 60 steps: .88 .01 .22 .00, .92 .78 .70 .02, .93 .86 .78 .51. With ``network.normalise``, ``loss.dice`` 1 and
a rate of 2e-3 all are there early, but no better later: .87 .84 .61 .49 after 5 epochs, .82 .80 .44 .65 after 12.
"""

UPV2_SMALL = replace(
    UPV1_SMALL,
    name="upv2-small",
    about="upv2 at 128x128, 4 levels and a quarter of the width: trains on two CPU cores in minutes",
    network=replace(UPV1_SMALL.network, variant=2),
)
