"""starter: the network whose weights come with viscera, learnt from synthetic anatomy.

viscera25d's networks and losses for 19 organs. What differs, and why: real scans look otherwise than synthetic ones, so intensities
and shapes are changed more than where both are real; of organs that a patient has once, only the largest piece is kept; edges of
liver and spleen move to where their HU end; a narrower network of slices, for CPUs.
In the spirit of SynthSeg (Billot et al. 2023, doi:10.1016/j.media.2023.102789).
"""

from dataclasses import replace

from viscera.config import Postprocessing, RichAugmentation, UNetShape
from viscera.recipes.viscera2d import of_width
from viscera.recipes.viscera25d import VISCERA25D

ONE_PIECE = ("liver", "kidney_right", "kidney_left", "spleen", "pancreas", "gallbladder", "stomach", "urinary_bladder")

STARTER = replace(
    VISCERA25D,
    name="starter",
    about="viscera25d for 19 organs, to be trained on synthetic patients: the bundled weights",
    label_space="starter19",
    network=UNetShape(widths=(24, 48, 96, 192), slices=3, stem=2),
    augmentation=RichAugmentation(
        scale=0.2, stretch=0.08, gamma=0.35, contrast=0.2, brightness=0.05, noise=0.05, blur_pixels=1.2, probability=0.4
    ),
    postprocessing=Postprocessing(
        fill_holes=ONE_PIECE,
        largest_components=dict.fromkeys(ONE_PIECE, 1),
        edge_by_hu_mm={"liver": 4.0, "spleen": 4.0},  # of eight organs tried: benchmarks/results/edges_by_hu.json
    ),
)
"""1.1 M parameters and 1.4 M of the context."""

STARTER_2D = replace(
    STARTER,
    name="starter-2d",
    about="starter without context, viscera2d of width 16: what the bundled weights of version 1 were",
    network=of_width(16),
    context=None,
)
"""1.9 M parameters."""
