"""viscera2d: zhang2d's U-Net, brought to what is known to help, for data sets that annotate different organs.

What differs from zhang2d, where it comes from, and what was lost without it: Dice points over all organs of unseen synthetic
patients, two data sets, two seeds, 770 steps (benchmarks/results/ablation.json, with intervals; zhang2d itself: 14.0).

- unannotated organs are unknown: marginal loss (Shi et al. 2021, doi:10.1016/j.media.2021.101979): 2.4; exclusion term: 1.1
  (with three disjoint data sets and plainer training it cost 1.1 to 1.3: benchmarks/results/partial_labels.json)
- Dice beside cross-entropy (Wong et al. 2018, doi:10.1007/978-3-030-00931-1_70): 30.8; boundary weights (Zhang 2025): 3.6
- small rotations, scaling, elastic deformation, gamma, noise, blur, cut fields of view instead of quarter turns (nnU-Net:
  Isensee et al. 2021, doi:10.1038/s41592-020-01008-z): 7.8, mostly in one of the two seeds
- rare organs and small data sets are drawn more often (MultiTalent: Ulrich et al. 2023, arXiv:2303.14444): 5.2
- learning rate with warm-up and cosine (Loshchilov & Hutter 2017, arXiv:1608.03983): 0.8
- pixels of one spacing, cut to the body, instead of every slice on the same number of pixels: 0.7
- three neighbouring slices seen at once: 0.5
- moving average of the weights: 0.3 (unannotated organs 0.7)
"""

from dataclasses import replace

from viscera.config import (
    PartialLoss,
    Postprocessing,
    Recipe,
    RichAugmentation,
    SliceInference,
    SliceSampling,
    SpacedSlices,
    Training,
    UNetShape,
    Window,
)


def of_width(width: int) -> UNetShape:
    """Return the network whose first level has so many channels."""
    return UNetShape(widths=tuple(width * 2**level for level in range(5)), slices=3)


VISCERA2D = Recipe(
    name="viscera2d",
    about="ours: 2.5D U-Net of width 32 on 2.5 mm pixels, marginal and exclusion loss: learns from mixed data sets",
    label_space="zhang12",
    preparation=SpacedSlices(spacing_mm=2.5, margin_mm=10),
    intensity=Window(low_hu=-400, high_hu=400),
    network=of_width(32),
    loss=PartialLoss(unannotated="marginal", exclusion=1.0, dice=1.0, alpha=10.0, sigma_pixels=3.0),
    sampling=SliceSampling(dataset_power=0.5, organ_fraction=0.33, window=(128, 160)),
    augmentation=RichAugmentation(),
    training=Training(
        epochs=30,
        visits_per_slice=1,
        batch_size=16,
        learning_rate=2e-3,
        schedule="cosine",
        warm_up=0.03,
        average_decay=0.999,
    ),
    inference=SliceInference(step_mm=3.0),
)
"""Width 32: 7.8 M parameters."""

VISCERA2D_16 = replace(
    VISCERA2D, name="viscera2d-16", about="viscera2d of width 16: trains and segments on a CPU", network=of_width(16)
)
"""For CPUs."""

VISCERA2D_24 = replace(
    VISCERA2D, name="viscera2d-24", about="viscera2d of width 24: between speed and accuracy", network=of_width(24)
)

VISCERA2D_64 = replace(
    VISCERA2D, name="viscera2d-64", about="viscera2d of zhang2d's width, 64: for a GPU", network=of_width(64)
)

VISCERA2D_TUMOUR = replace(
    VISCERA2D_16,
    name="viscera2d-tumour",
    about="viscera2d of width 16 for tumours beside FLARE's 13 organs: alone, or for viscera predict --tumour",
    label_space="flare14",
    intensity=Window(low_hu=-150, high_hu=250),
    sampling=replace(VISCERA2D.sampling, organ_fraction=0.6, lesion_fraction=0.7),
    training=replace(VISCERA2D.training, visits_per_slice=0.5, batch_size=8, learning_rate=1.5e-3),
    postprocessing=Postprocessing(smallest_ml={"tumour": 1.0}),
)
"""Two in five of its slices show a lesion, small, middling and large ones alike; finds of less than 1 ml, a ball
of 12 mm, are dropped (chosen on validation patients)."""
