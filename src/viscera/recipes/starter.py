"""starter: the networks whose weights come with viscera, learnt from synthetic anatomy.

viscera2d's network and losses for 19 organs, with the context of viscera25d. What differs, and why: real scans look otherwise than
synthetic ones, so intensities and shapes are changed more than where both are real; of organs that a patient has once, only the
largest piece is kept; edges of liver and spleen move to where their HU end. starter-2d is the same without context.
In the spirit of SynthSeg (Billot et al. 2023, doi:10.1016/j.media.2023.102789).
"""

from dataclasses import replace

from viscera.config import Postprocessing, RichAugmentation
from viscera.recipes.viscera2d import VISCERA2D, of_width
from viscera.recipes.viscera25d import VISCERA25D

ONE_PIECE = ("liver", "kidney_right", "kidney_left", "spleen", "pancreas", "gallbladder", "stomach", "urinary_bladder")

STARTER_2D = replace(
    VISCERA2D,
    name="starter-2d",
    about="starter without context: viscera2d of width 16 for 19 organs, to be trained on synthetic patients",
    label_space="starter19",
    network=of_width(16),
    augmentation=RichAugmentation(
        scale=0.2, stretch=0.08, gamma=0.35, contrast=0.2, brightness=0.05, noise=0.05, blur_pixels=1.2, probability=0.4
    ),
    postprocessing=Postprocessing(
        fill_holes=ONE_PIECE,
        largest_components=dict.fromkeys(ONE_PIECE, 1),
        edge_by_hu_mm={"liver": 4.0, "spleen": 4.0},  # of eight organs tried: benchmarks/results/edges_by_hu.json
    ),
)
"""1.9 M parameters."""

STARTER = replace(
    STARTER_2D,
    name="starter",
    about="for 19 organs, a network that sees the patient first (viscera25d's context), width 16: the bundled weights",
    context=VISCERA25D.context,
)
"""1.9 M parameters and 1.4 M of the context."""
