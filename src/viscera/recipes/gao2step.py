"""gao2step: two 3D U-Nets in nnU-Net's plain form, the first for 13 organs, the second for tumours (FLARE23).

Source: Gao et al. 2023, "A Two-Step Deep Learning Approach for Abdominal Organ Segmentation" (FLARE23 proceedings): sections
2.1 (preprocessing), 2.2 (networks, loss), 2.3 (merging), 3.2 (augmentation, patches), tables 2 and 3 (training).

Published: organ DSC 3.2 %, NSD 2.9 %, tumour DSC 0.005 % on the test set, 70 to 144 s and 3.3 to 3.8 GB of GPU memory per case,
with only the middle 50 slices predicted.

Departs:
- every slice is predicted, in the windows that hold organs; ``--inference.region middle`` is the paper's cut
- learning rate: (1 - epoch/500)^0.9 is not defined for epochs 501 to 1000; they keep epoch 500's, which is 0.4 % of the first
- optimizer: AdamW without weight decay, which is Adam
- patches that are not centred on an organ lie anywhere (the paper: centred on background)
- the organs' HU are those of every labelled voxel, not of a sample; beyond a scan its last voxels repeat, and do not count
- each organ keeps its largest component only (the paper names it as future work)
- cases: like the paper's, only those that annotate every organ; ``--sampling.cases any`` takes all of them, organs that a case
  does not annotate being unknown (the loss is marginal, which for complete cases is the ordinary one)
"""

from dataclasses import replace

from viscera.config import (
    ForegroundScore,
    PartialLoss,
    PatchSampling,
    PlainUNetShape,
    Postprocessing,
    Recipe,
    SpacedVolumes,
    Training,
    VolumeAugmentation,
    WindowInference,
)

LARGEST = {
    **dict.fromkeys(("liver", "kidney_right", "kidney_left", "spleen", "pancreas", "aorta", "inferior_vena_cava"), 1),
    **dict.fromkeys(
        ("adrenal_gland_right", "adrenal_gland_left", "gallbladder", "esophagus", "stomach", "duodenum"), 1
    ),
}
"""Each of FLARE's organs is one piece."""

NOTHING = VolumeAugmentation(flip_x=0, flip_y=0, smooth=0, noise=0, gamma=0, shift=0)

GAO2STEP = Recipe(
    name="gao2step",
    about="3D U-Net in nnU-Net's plain form, 13 organs of FLARE23 at 1 mm (Gao 2023): 31 M parameters, for a GPU",
    label_space="flare13",
    preparation=SpacedVolumes(spacing_mm=(1.0, 1.0, 1.0)),  # section 2.1
    intensity=ForegroundScore(low_percentile=0.5, high_percentile=99.5),  # section 2.1
    network=PlainUNetShape(widths=(32, 64, 128, 256, 320, 320), deep_supervision=True),  # section 2.2; table 2
    loss=PartialLoss(
        unannotated="marginal", exclusion=0.0, dice=1.0, dice_form="linear", alpha=0.0
    ),  # section 2.2: Dice + cross-entropy
    sampling=PatchSampling(size=(128, 128, 128), foreground_fraction=0.5, cases="complete"),  # section 3.2
    augmentation=VolumeAugmentation(),  # section 3.2
    training=Training(
        epochs=1000,
        visits_per_slice=2,  # "2 patches ... from each image"
        batch_size=2,
        learning_rate=1e-4,
        weight_decay=0.0,
        schedule="poly",
        poly_epochs=500,
    ),  # table 2
    inference=WindowInference(overlap=0.5, region="find"),
    postprocessing=Postprocessing(largest_components=LARGEST),
)
"""The first network: organs."""

GAO2STEP_TUMOUR = replace(
    GAO2STEP,
    name="gao2step-tumour",
    about="gao2step's second network: tumours, for viscera predict --tumour",
    label_space="tumour",
    postprocessing=Postprocessing(),
)
"""The second network: tumours; trained on the cases that annotate them."""

GAO2STEP_FINETUNE = replace(
    GAO2STEP,
    name="gao2step-finetune",
    about="gao2step's second stage: 40 epochs at 5e-5 without augmentation, with --start RUN",
    augmentation=NOTHING,
    training=replace(GAO2STEP.training, epochs=40, learning_rate=5e-5),
)
"""Table 3; section 3.2: augmentation "only for initial training stage"."""

GAO2STEP_TUMOUR_FINETUNE = replace(
    GAO2STEP_FINETUNE,
    name="gao2step-tumour-finetune",
    about="the same for tumours",
    label_space="tumour",
    postprocessing=Postprocessing(),
)

GAO2STEP_SMALL = replace(
    GAO2STEP,
    name="gao2step-small",
    about="gao2step at 3 mm, width 16 and patches of 64: trains on two CPU cores in half an hour",
    preparation=SpacedVolumes(spacing_mm=(3.0, 3.0, 3.0)),
    network=PlainUNetShape(widths=(16, 32, 64, 128), deep_supervision=True),
    loss=replace(GAO2STEP.loss, dice_form="log"),
    sampling=replace(
        GAO2STEP.sampling, size=(64, 64, 64), foreground_fraction=0.7, off_centre=0.75, organs_alike=True, cases="any"
    ),
    augmentation=VolumeAugmentation(flip_x=0, flip_y=0, noise_mean=(0.0, 0.0), noise_sd=(0.0, 0.3), gamma=0),
    training=Training(
        epochs=20,
        visits_per_slice=4,
        batch_size=2,
        learning_rate=2e-3,
        weight_decay=1e-4,
        schedule="cosine",
        warm_up=0.03,
        average_decay=0.99,
    ),
)
"""Departs for minutes instead of days: fewer voxels and parameters, a higher learning rate with warm-up, an average of the
weights, organs drawn alike and not in the middle of patches (the tumours' network had learnt the place instead of the tumour:
blobs in the middle of every window), -log Dice (whose pull on organs that are not found yet does not vanish), no flips (which
make left and right kidneys alike), milder noise; and every case, complete or not."""

GAO2STEP_TUMOUR_SMALL = replace(
    GAO2STEP_SMALL,
    name="gao2step-tumour-small",
    about="gao2step-small's second network: tumours",
    label_space="tumour",
    postprocessing=Postprocessing(),
)

GAO2STEP_FINDER = replace(
    GAO2STEP_SMALL,
    name="gao2step-finder",
    about="finds where the organs are, on every fifth voxel of gao2step's store: for viscera predict --finder",
    preparation=GAO2STEP.preparation,
    network=PlainUNetShape(widths=(16, 32, 64, 128), deep_supervision=False),
    sampling=replace(GAO2STEP_SMALL.sampling, stride=(5, 5, 5), foreground_fraction=0.0),
    training=replace(GAO2STEP_SMALL.training, epochs=5),
    inference=WindowInference(overlap=0.25, region="whole"),
    postprocessing=Postprocessing(),
)
"""Ours: trained on gao2step's own store, 5 mm between the voxels that it looks at, so that one window holds an abdomen."""

GAO2STEP_FINDER_SMALL = replace(
    GAO2STEP_FINDER,
    name="gao2step-finder-small",
    about="the same on every second voxel of gao2step-small's store",
    preparation=GAO2STEP_SMALL.preparation,
    sampling=replace(GAO2STEP_FINDER.sampling, stride=(2, 2, 2)),
)
