"""Losses: of logits (batch, class, y, x) or (batch, class, z, y, x) against a batch, as a scalar to be minimised.

``boundary_loss`` holds zhang2d's two forms of cross-entropy, which call every voxel without a label background, as
published. In ``partial_loss`` and ``sigmoid_loss`` a voxel of an organ that its case does not annotate is unknown: such a
case cannot teach the network that the organ is absent. Distances to the boundary are computed with the batch
(sampling/); class weights come from here.

Everything is computed in float32 from whatever the network gives, through log-sum-exp: no logarithm of a rounded sum of
probabilities. float64 stays float64.

Means and Dice are of a whole batch. Where several devices share one, each has the sums over its own items, and ``pooled`` turns
them into those over the batch: the loss is then the same number on all of them, whatever their share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from viscera.config import AddedBoundaryLoss, ClassWeights, Loss, PartialLoss, SigmoidLoss, SummedBoundaryLoss
from viscera.errors import SettingError
from viscera.learning.sampling.batch import Batch
from viscera.preparation.store import UNSURE

SMOOTH = 1e-5
"""Added above and below in the linear Dice (nnU-Net): an organ that is neither there nor found has Dice 1."""

TINY = 1e-30
"""Keeps the logarithm finite where probabilities are not float32 any more."""


LossFunction = Callable[[Tensor, Batch], Float[Tensor, ""]]
"""From a network's output and what should have come out to the loss."""

Pool = Callable[..., tuple[Tensor, ...]]
"""From sums over a device's items to those over the batch (learning/devices.py)."""


def alone(*sums: Tensor) -> tuple[Tensor, ...]:
    """Return the sums as they are: the device has the whole batch."""
    return sums


def loss_for(
    settings: Loss, *, class_weights: Float[Tensor, " class"], deep: bool = False, pooled: Pool = alone
) -> LossFunction:
    """Return a recipe's loss, ready to be called on logits and a batch.

    Args:
        settings: Which loss.
        class_weights: w0 per class, background first.
        deep: Whether the network may answer at several resolutions (deep supervision); then a list of logits is taken too.
        pooled: Adds sums up over the devices that share a batch.
    """
    match settings:
        case PartialLoss():
            loss = partial(partial_loss, settings, class_weights=class_weights, pooled=pooled)
        case SigmoidLoss():
            loss = partial(sigmoid_loss, settings, class_weights=class_weights, pooled=pooled)
        case AddedBoundaryLoss() | SummedBoundaryLoss():
            loss = partial(boundary_loss, settings, class_weights=class_weights, pooled=pooled)
    return partial(deep_loss, loss) if deep else loss


def deep_loss(loss: LossFunction, logits: Tensor | Sequence[Tensor], batch: Batch) -> Float[Tensor, ""]:
    """Return the loss of a network that answers at several resolutions (deep supervision), or at one.

    Each coarser output counts half as much as the next finer one, the coarsest not at all; the weights add up to 1.

    Args:
        loss: Of one output.
        logits: (batch, class, *space), finest first, each half as fine as the one before; or the finest alone.
        batch: What should have come out, at full resolution.

    Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z, and its code (nnUNetTrainer: weights 1 / 2^i, the last 0).
    """
    if isinstance(logits, Tensor):
        return loss(logits, batch)
    levels = logits[: max(1, len(logits) - 1)]
    weights = [0.5**level for level in range(len(levels))]
    total = torch.zeros((), device=levels[0].device)
    for level, weight in zip(levels, weights, strict=True):
        total = total + weight / sum(weights) * loss(level, _coarser(batch, level.shape[2:]))
    return total


def _coarser(batch: Batch, size: Sequence[int]) -> Batch:
    """Return every so-manyth voxel of a batch's labels, near the middle of those it stands for."""
    factors = [old // new for old, new in zip(batch.labels.shape[1:], size, strict=True)]
    if all(factor == 1 for factor in factors):
        return batch
    part = (..., *(slice(factor // 2, None, factor) for factor in factors))
    flat = batch.distance.shape[1:] != batch.labels.shape[1:]
    return replace(
        batch,
        image=batch.image[part],
        labels=batch.labels[part],
        known=batch.known[part],
        distance=batch.distance if flat else batch.distance[part],
        pseudo=batch.pseudo[part],
    )


def boundary_loss(
    settings: AddedBoundaryLoss | SummedBoundaryLoss,
    logits: Float[Tensor, "batch class *space"],
    batch: Batch,
    *,
    class_weights: Float[Tensor, " class"],
    pooled: Pool = alone,
) -> Float[Tensor, ""]:
    """Return zhang2d's boundary-weighted cross-entropy over the known pixels.

    With w0 the class weights, g = exp(-d^2 / 2 sigma^2), CE the pixel's cross-entropy and y its class, the two forms are

        summed (the paper):  mean((w0[y] + A g) CE)
        added (the code):    sum(w0[y] CE) / sum(w0[y]) + alpha mean(w0[y] g CE)

    Args:
        settings: Which form, with its constants.
        logits: Network output; computed in float32 whatever its type.
        batch: True class and d of each pixel; unknown ones do not count.
        class_weights: w0, background first.
        pooled: Adds sums up over the devices that share a batch.

    Returns:
        The loss; 0, with zero gradient, where no pixel is known.

    Source: Zhang 2025, equations 1 and 2, and the README of its code.
    """
    labels, known = batch.labels.long(), batch.known
    errors = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    weights = class_weights[labels] * known
    near = torch.exp(-(batch.distance.float() ** 2) / (2 * settings.sigma_pixels**2)) * known
    match settings:
        case SummedBoundaryLoss():
            sum_, pixels = pooled(((weights + settings.amplitude * near) * errors).sum(), known.sum())
            return sum_ / pixels.clamp(min=1)
        case AddedBoundaryLoss():
            whole, weight, nearby, pixels = pooled(
                (weights * errors).sum(), weights.sum(), (weights * near * errors).sum(), known.sum()
            )
            return whole / weight.clamp(min=1e-12) + settings.alpha * nearby / pixels.clamp(min=1)


def partial_loss(
    settings: PartialLoss,
    logits: Float[Tensor, "batch class *space"],
    batch: Batch,
    *,
    class_weights: Float[Tensor, " class"],
    pooled: Pool = alone,
) -> Float[Tensor, ""]:
    """Return marginal cross-entropy + dice * Dice + exclusion * exclusion term, over known pixels.

    With p the softmax, A the organs that the pixel's case annotates, U those that it does not:

        cross-entropy  mean of -log q, weighted by w0[y] (1 + alpha g): q = p_y on an organ of A, else p_0 + sum over U of p_d
        Dice           mean over organs of -log(2 sum(p t) / (sum(p) + sum(t))), sums over the slices that annotate the
                       organ; organs that no slice shows do not enter. Or, linear, 1 - Dice over all annotated organs
        exclusion      mean over pixels of an organ of A of -log(1 - sum over U of p_d)

    Background is not an organ of the Dice term, so merging U into it changes the cross-entropy only. A case that annotates
    everything gives the ordinary losses, one that annotates nothing gives 0 with zero gradient.

    Args:
        settings: Weights of the terms; whether unannotated organs are unknown, or background to compare with.
        logits: Network output.
        batch: Labels, and what they leave open.
        class_weights: w0, background first.
        pooled: Adds sums up over the devices that share a batch.

    Source:
        Shi et al. 2021, doi:10.1016/j.media.2021.101979 (marginal and exclusion losses); Fang & Yan 2020,
        doi:10.1109/TMI.2020.3001036 (merging classes); Zhang 2025, equation 2 (g); Wong et al. 2018,
        doi:10.1007/978-3-030-00931-1_70 (-log Dice: its pull on an organ that is not found at all is as strong as on any
        other, where that of 1 - Dice vanishes with p). Departs: the exclusion term is a cross-entropy of the summed
        probability, and Dice pools a batch (nnU-Net), without background.
    """
    logits = _full_precision(logits)
    if settings.unannotated == "background":
        batch = replace(batch, annotated=torch.ones_like(batch.annotated))
    weights = _pixel_weights(settings, batch, class_weights)
    annotated = _over(batch.annotated, batch.labels)
    own_set = batch.annotated.gather(1, batch.labels.flatten(1).long()).view_as(
        batch.known
    )  # a pasted organ may be of another
    organ = (batch.labels > 0) & batch.known & own_set
    everything = logits.logsumexp(1)
    excluded = everything - _log_sum(logits, annotated)
    excess, pixels = pooled((excluded * organ).sum(), organ.sum())
    exclusion = excess / pixels.clamp(min=1)

    def of(target: Target) -> Float[Tensor, ""]:
        """Return cross-entropy and Dice against a target."""
        own = logits.gather(1, target.labels[:, None])[:, 0]
        open_ = _log_sum(logits, target.open)
        errors = everything - torch.where(target.labels > 0, own, open_)
        sum_, weight = pooled((weights * errors).sum(), weights.sum())
        dice = _dice_loss(logits.softmax(1), target, form=settings.dice_form, pooled=pooled)
        return sum_ / weight.clamp(min=1e-12) + settings.dice * dice

    return _with_pseudo(of, batch, settings.pseudo, pooled) + settings.exclusion * exclusion


def sigmoid_loss(
    settings: SigmoidLoss,
    logits: Float[Tensor, "batch class *space"],
    batch: Batch,
    *,
    class_weights: Float[Tensor, " class"],
    pooled: Pool = alone,
) -> Float[Tensor, ""]:
    """Return binary cross-entropy + dice * Dice of each organ by itself, over the slices that annotate it.

    A pixel weighs w0[y] (1 + alpha g) in every organ's cross-entropy. Organs may overlap; the background's logit (0 from a
    network with sigmoid heads) takes no part.

    Args:
        settings: Weights of the terms.
        logits: Network output, background first.
        batch: Labels, and what they leave open.
        class_weights: w0 of a pixel by its class, background first.
        pooled: Adds sums up over the devices that share a batch.

    Source:
        Ulrich et al. 2023 (MultiTalent), arXiv:2303.14444: a sigmoid per organ, masked where a data set lacks it.
    """
    logits = _full_precision(logits)
    weights = _pixel_weights(settings, batch, class_weights)[:, None]

    def of(target: Target) -> Float[Tensor, ""]:
        """Return cross-entropy and Dice against a target."""
        counts = target.counts[:, 1:] * weights
        truth = _one_hot(target.labels, logits.shape[1])[:, 1:]
        errors = torch.nn.functional.softplus(logits[:, 1:]) - truth * logits[:, 1:]
        sum_, count = pooled((counts * errors).sum(), counts.sum())
        return sum_ / count.clamp(min=1e-12) + settings.dice * _dice_loss(logits.sigmoid(), target, pooled=pooled)

    return _with_pseudo(of, batch, settings.pseudo, pooled)


@dataclass(frozen=True)
class Target:
    """What the network should say, and where that is not determined.

    Attributes:
        labels: Class of each pixel; 0 is background or what else is open.
        open: Classes that a pixel of label 0 may have; always background.
        counts: Where the pixel counts for the class by itself (Dice, sigmoid).
    """

    labels: Int64[Tensor, "batch *space"]
    open: Bool[Tensor, "batch class *#space"]
    counts: Bool[Tensor, "batch class *space"]


def truth_target(batch: Batch) -> Target:
    """Return what the truth alone says: a pixel of label 0 may be any unannotated organ."""
    annotated = _over(batch.annotated, batch.labels)
    return Target(batch.labels.long(), ~annotated | _background(annotated), annotated & batch.known[:, None])


def pseudo_target(batch: Batch) -> Target:
    """Return what truth and pseudo-labels say together; where teachers are unsure, what the truth alone says."""
    annotated = _over(batch.annotated, batch.labels)
    sure = (batch.pseudo != UNSURE)[:, None]
    settled = annotated | (_over(batch.pseudo_annotated, batch.labels) & sure)
    labels = torch.where((batch.labels == 0) & sure[:, 0], batch.pseudo, batch.labels)
    return Target(labels.long(), ~settled | _background(annotated), settled & batch.known[:, None])


def _with_pseudo(of: Callable[["Target"], Tensor], batch: Batch, share: float, pooled: Pool) -> Float[Tensor, ""]:
    """Return the loss against the truth and against truth with pseudo-labels, weighed.

    All devices take the same way, that of the whole batch: each sum is one that all of them add to.
    """
    if share == 0 or not pooled(batch.pseudo_annotated.sum())[0]:
        return of(truth_target(batch))
    if share == 1:
        return of(pseudo_target(batch))
    return (1 - share) * of(truth_target(batch)) + share * of(pseudo_target(batch))


def _dice_loss(
    probabilities: Float[Tensor, "batch class *space"],
    target: Target,
    *,
    form: Literal["log", "linear"] = "log",
    pooled: Pool,
) -> Float[Tensor, ""]:
    """Return the mean of -log Dice over the organs that the batch shows, or of 1 - Dice over those annotated; 0 without any."""
    counts = target.counts[:, 1:]
    truth = _one_hot(target.labels, probabilities.shape[1])[:, 1:] * counts
    found = probabilities[:, 1:] * counts
    axes = (0, *range(2, truth.ndim))
    true, both, sums, seen = pooled(truth.sum(axes), (found * truth).sum(axes), found.sum(axes), counts.sum(axes))
    if form == "linear":
        there = seen > 0
        errors = 1 - (2 * both + SMOOTH) / (sums + true + SMOOTH)
        return (errors * there).sum() / there.sum().clamp(min=1)
    shown = true > 0
    # An organ that is not shown has log 1, a number of which 0 is left, not NaN.
    errors = (sums + true).where(shown, 1).log() - (2 * both).where(shown, 1).clamp(min=TINY).log()
    return errors.sum() / shown.sum().clamp(min=1)


def _one_hot(labels: Int64[Tensor, "batch *space"], classes: int) -> Bool[Tensor, "batch class *space"]:
    return labels[:, None] == _over(torch.arange(classes, device=labels.device)[None], labels)


def _log_sum(
    logits: Float[Tensor, "batch class *space"], chosen: Bool[Tensor, "batch class *#space"]
) -> Float[Tensor, "batch *space"]:
    """Return the log of the summed exponentials of the chosen classes' logits."""
    return logits.masked_fill(~chosen, -torch.inf).logsumexp(1)


def _background(annotated: Bool[Tensor, "batch class *#space"]) -> Bool[Tensor, "1 class *#space"]:
    first = torch.arange(annotated.shape[1], device=annotated.device) == 0
    return first.reshape(1, -1, *[1] * (annotated.ndim - 2))


def _over(values: Shaped[Tensor, "items class"], labels: Shaped[Tensor, "batch *space"]) -> Shaped[Tensor, "..."]:
    """Return values of each item and class with as many axes more as the labels have space."""
    return values.reshape(*values.shape, *[1] * (labels.ndim - 1))


def _pixel_weights(
    settings: PartialLoss | SigmoidLoss, batch: Batch, class_weights: Float[Tensor, " class"]
) -> Float[Tensor, "batch *space"]:
    """Return w0[y] (1 + alpha g) on known pixels, 0 elsewhere."""
    near = torch.exp(-(batch.distance.float() ** 2) / (2 * settings.sigma_pixels**2))
    return class_weights[batch.labels.long()] * (1 + settings.alpha * near) * batch.known


def _full_precision(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return logits if logits.dtype == torch.float64 else logits.float()


def class_weights(setting: ClassWeights, voxels: Sequence[int]) -> Float[Tensor, " class"]:
    """Return w0 per class, background first.

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
            f"loss.class_weights has {len(setting)} numbers, but background and organs make {len(voxels)} classes",
            "Give one per class, background first.",
        )
    return torch.tensor(setting)
