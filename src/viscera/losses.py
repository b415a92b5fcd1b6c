"""Losses: of logits (batch, class, y, x) against labels (batch, y, x), as a scalar to be minimised.

Here are zhang2d's two forms of boundary-weighted cross-entropy, which call every voxel without a label background, as
published. Distances to the boundary are computed with the batch (sampling.py); class weights come from here.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from viscera.config import AddedBoundaryLoss, ClassWeights, SummedBoundaryLoss
from viscera.errors import SettingError


def boundary_loss(
    settings: AddedBoundaryLoss | SummedBoundaryLoss,
    logits: Float[Tensor, "batch class y x"],
    *,
    labels: UInt8[Tensor, "batch y x"],
    distance: Float[Tensor, "batch y x"],
    known: Bool[Tensor, "batch y x"],
    class_weights: Float[Tensor, " class"],
) -> Float[Tensor, ""]:
    """Give zhang2d's boundary-weighted cross-entropy over the known pixels.

    With w0 the class weights, g = exp(-d^2 / 2 sigma^2), CE the pixel's cross-entropy and y its class, the two forms are

        summed (the paper):  mean((w0[y] + A g) CE)
        added (the code):    sum(w0[y] CE) / sum(w0[y]) + alpha mean(w0[y] g CE)

    Args:
        settings: Which form, with its constants.
        logits: Network output; computed in float32 whatever its type.
        labels: True class per pixel.
        distance: d, in pixels.
        known: False where a pixel must not count.
        class_weights: w0, background first.

    Returns:
        The loss; 0, with zero gradient, where no pixel is known.

    Source: Zhang 2025, equations 1 and 2, and the README of its code.
    """
    errors = torch.nn.functional.cross_entropy(logits.float(), labels.long(), reduction="none")
    weights = class_weights[labels.long()] * known
    near = torch.exp(-(distance.float() ** 2) / (2 * settings.sigma_pixels**2)) * known
    pixels = known.sum().clamp(min=1)
    match settings:
        case SummedBoundaryLoss():
            return ((weights + settings.amplitude * near) * errors).sum() / pixels
        case AddedBoundaryLoss():
            whole = (weights * errors).sum() / weights.sum().clamp(min=1e-12)
            return whole + settings.alpha * (weights * near * errors).sum() / pixels


def class_weights(setting: ClassWeights, voxels: Sequence[int]) -> Float[Tensor, " class"]:
    """Give w0 per class, background first.

    Args:
        setting: Numbers; "uniform" (all 1: the false negatives of Zhang 2025, figure 4d); or "inverse_frequency" (in
            inverse proportion to the class's voxels, mean 1: the false positives of figure 4c).
        voxels: Voxels per class in the training set, background first. A class without voxels weighs 0.

    Raises:
        SettingError: As many numbers as classes are needed.
    """
    if setting == "uniform":
        return torch.ones(len(voxels))
    if setting == "inverse_frequency":
        counts = torch.tensor(voxels, dtype=torch.float64)
        inverse = torch.where(counts > 0, 1 / counts.clamp(min=1), 0)
        return (inverse / inverse[counts > 0].mean()).float()
    if len(setting) != len(voxels):
        raise SettingError(
            f"loss.class_weights has {len(setting)} numbers, but background and organs make {len(voxels)} classes. "
            "Give one per class, background first."
        )
    return torch.tensor(setting)
