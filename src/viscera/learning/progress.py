"""How far a run has come, and the sums and scores of its present epoch.

These scores are of prepared slices, to watch a training by; scores of whole scans on the scanner's grid are in evaluation/.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor

from viscera.errors import RunError
from viscera.learning.devices import total
from viscera.learning.sampling.batch import Batch


@dataclass
class Progress:
    """How far a run has come: the part of its state that is not a tensor. Sums are over the present epoch."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    slices: int = 0
    seconds: float = 0.0
    counts: list[list[int]] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    scaler: dict = field(default_factory=dict)


@dataclass
class Sums:
    """Loss and counts over the present epoch, of this device's items: kept on it so that no step waits for them."""

    loss: Float[Tensor, ""]
    slices: int
    counts: Int[Tensor, "class 3"]

    @staticmethod
    def of(progress: Progress, device: torch.device) -> "Sums":
        """Take up the sums of an epoch that was interrupted; those over all devices, so on one of them only."""
        loss = torch.tensor(progress.loss_sum, dtype=torch.float64, device=device)
        return Sums(loss, progress.slices, torch.tensor(progress.counts or [[0, 0, 0]], device=device))

    def add(self, loss: Float[Tensor, ""], counts: Int[Tensor, "batch class 3"]) -> None:
        """Count a batch."""
        self.loss = self.loss + loss.double() * len(counts)
        self.slices += len(counts)
        self.counts = self.counts + counts.sum(0)

    def store(self, progress: Progress, fabric: Fabric) -> None:
        """Put the sums over all devices into the progress.

        Raises:
            RunError: The loss is not finite.
        """
        loss, counts = total(fabric, self.loss.clone()), total(fabric, self.counts.clone())
        slices = total(fabric, torch.tensor(self.slices, device=self.counts.device))
        progress.loss_sum, progress.slices, progress.counts = loss.item(), int(slices), counts.tolist()
        if not math.isfinite(progress.loss_sum):
            raise RunError(
                f"the loss is no longer finite in epoch {progress.epoch + 1}, step {progress.step}",
                "Lower --training.learning-rate, or pass --training.precision 32-true.",
            )


def class_counts(logits: Float[Tensor, "batch class *space"], batch: Batch) -> Int[Tensor, "batch class 3"]:
    """Count pixels or voxels per item and class: in both, predicted, true; known pixels and annotated classes only."""
    predicted = logits.max(1).indices.to(torch.uint8)  # several times as fast as argmax on a CPU
    counts, axes = [], tuple(range(1, batch.labels.ndim))
    for index in range(logits.shape[1]):
        here, there = (predicted == index) & batch.known, (batch.labels == index) & batch.known
        counts.append(torch.stack([(here & there).sum(axes), here.sum(axes), there.sum(axes)], dim=-1))
    return torch.stack(counts, dim=1) * batch.annotated[..., None]


def dice_and_iou(counts: Int[np.ndarray, "case class 3"]) -> Float[np.ndarray, "2 class"]:
    """Return Dice and IoU per class, the mean over cases; NaN where no case has or predicts the class."""
    both, predicted, true = np.moveaxis(counts.astype(float), -1, 0)
    total = predicted + true
    with np.errstate(invalid="ignore"):
        scores = np.stack([2 * both / total, both / (total - both)])
    found = ~np.isnan(scores)
    return np.where(found.any(1), np.where(found, scores, 0).sum(1) / np.maximum(found.sum(1), 1), np.nan)


def by_organ(scores: Float[np.ndarray, " class"], organs: tuple[str, ...]) -> dict[str, float | None]:
    """Return {organ: score}, None where there is none."""
    return {
        organ: None if math.isnan(score) else round(float(score), 6)
        for organ, score in zip(organs, scores[1:], strict=True)
    }
