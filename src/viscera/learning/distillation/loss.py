"""What a student learns of its teacher's probabilities, beside what it learns from labels.

    loss = (1 - weight) * loss of the labels + weight * (T^2 * KL(teacher || student) + soft Dice)

KL: of both softmaxes at temperature T, mean over the pixels at which the teacher does not contradict a label. Soft Dice: over the
organs that the teacher shows in the batch, at the same pixels, at temperature 1.

A teacher contradicts where its most probable class is another than that of a labelled pixel, or an annotated organ where the labels
show none. There the label alone teaches. Unannotated organs, and pixels whose label may be anything, take the teacher's
probabilities.

Source: Hinton et al. 2015, arXiv:1503.02531 (temperature, T^2, weighted sum with the labels' loss); Liu et al. 2019,
arXiv:1903.04197 (for segmentation: KL pixel by pixel); Wang et al. 2023, arXiv:2303.16296 (Dice semimetric losses: a Dice of soft
labels whose minimum is the soft label itself, tried with distillation on LiTS and KiTS). Departs: the mask of contradictions is
ours.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from viscera.learning.distillation.settings import Distillation
from viscera.learning.losses import SMOOTH, LossFunction
from viscera.learning.sampling.batch import Batch

Said = Callable[[Tensor], Tensor]
"""From scaled images (batch, channel, *space) to the teacher's logits (batch, class, *space), without gradients."""


def taught_loss(
    settings: Distillation, labelled: LossFunction, teacher: Said, *, unannotated: Literal["marginal", "background"]
) -> LossFunction:
    """Return a loss of labels and of what a teacher says of the batch's images, changed as the student sees them.

    Args:
        settings: Temperature and weight.
        labelled: The loss of the labels.
        teacher: Is asked for each batch.
        unannotated: What the labels' loss takes an organ for that a case does not annotate; for background: then no teacher may
            teach that it is there.
    """
    return partial(_taught_loss, settings, labelled, teacher, unannotated)


def _taught_loss(
    settings: Distillation,
    labelled: LossFunction,
    teacher: Said,
    unannotated: Literal["marginal", "background"],
    outputs: Tensor | Sequence[Tensor],
    batch: Batch,
) -> Float[Tensor, ""]:
    """Return the loss of a batch; a network that answers at several resolutions is taught at the finest."""
    annotated = batch.annotated if unannotated == "marginal" else torch.ones_like(batch.annotated)
    logits, said = outputs if isinstance(outputs, Tensor) else outputs[0], teacher(batch.image)
    free = not_contradicted(said, batch, annotated)
    soft = soft_loss(logits, said, free, temperature=settings.temperature)
    return (1 - settings.weight) * labelled(outputs, batch) + settings.weight * soft  # type: ignore[arg-type]


def not_contradicted(
    said: Float[Tensor, "batch class *space"], batch: Batch, annotated: Bool[Tensor, "batch class"]
) -> Bool[Tensor, "batch *space"]:
    """Tell where a teacher's most probable class may be true, by the labels."""
    answer, labels = said.max(1).indices, batch.labels.long()
    known_organ = annotated.gather(1, answer.flatten(1)).view_as(answer)
    return ~(batch.known & (answer != labels) & ((labels > 0) | known_organ))


def soft_loss(
    logits: Float[Tensor, "batch class *space"],
    said: Float[Tensor, "batch class *space"],
    free: Bool[Tensor, "batch *space"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Return T^2 times the mean KL divergence, and the soft Dice loss.

    Args:
        logits: The student's.
        said: The teacher's.
        free: At which pixels the teacher teaches.
        temperature: T.

    Returns:
        At least 0, and 0 where the student says what the teacher says; 0 with zero gradient where no pixel is free.
    """
    student, teacher = (each.float() for each in (logits, said))
    logs, wanted = (torch.log_softmax(each / temperature, 1) for each in (student, teacher))
    apart = (wanted.exp() * (wanted - logs)).sum(1) * free
    divergence = temperature**2 * apart.sum() / free.sum().clamp(min=1)
    return divergence + _soft_dice(student.softmax(1), teacher.softmax(1), free)


def _soft_dice(
    found: Float[Tensor, "batch class *space"],
    wanted: Float[Tensor, "batch class *space"],
    free: Bool[Tensor, "batch *space"],
) -> Float[Tensor, ""]:
    """Return sum |p - q| / sum (p + q), the mean over the organs that the teacher shows; 0 where it shows none."""
    found, wanted = (each[:, 1:] * free[:, None] for each in (found, wanted))
    axes = (0, *range(2, found.ndim))
    shown = (wanted > 0.5).any(0).flatten(1).any(1)
    errors = (found - wanted).abs().sum(axes) / ((found + wanted).sum(axes) + SMOOTH)
    return (errors * shown).sum() / shown.sum().clamp(min=1)
