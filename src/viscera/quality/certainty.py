"""How sure a network was of a result, as numbers: inference/certainty.py finds them, with torch."""

from dataclasses import dataclass

SURE = 0.75
"""Probability from which a network is said to be sure of a pixel."""


@dataclass(frozen=True)
class Edge:
    """How sure the network was of one organ.

    Attributes:
        pixels: Of the prepared slices, of this organ, with another label above, below, left or right in the slice.
        probability: Mean over them of the largest class's probability, in [1 / classes, 1]; None without pixels.
        entropy_bits: Mean over them of the probabilities' entropy: 0 where one class is certain, 1 where two are equal;
            None without pixels.
        dropped_fraction: Share of the voxels that the network gave the organ of which post-processing made another label;
            0 for none.
        mean_probability: Mean over all pixels that got the organ of its probability; None without any.
        uncertain_fraction: Share of them at which this is below SURE; None without any.
        expected_dice: What Dice the network expects of itself: its label against its own probabilities, in [0, 1]; None without
            any. A network that is sure of a wrong label expects too much.
    """

    pixels: int
    probability: float | None
    entropy_bits: float | None
    dropped_fraction: float
    mean_probability: float | None = None
    uncertain_fraction: float | None = None
    expected_dice: float | None = None


@dataclass(frozen=True)
class Handedness:
    """How sure a network was: the mean, over the pixels that it gave an organ, of the largest probability.

    Attributes:
        as_is: On the scan.
        mirrored: On the scan with left and right exchanged.
    """

    as_is: float
    mirrored: float
