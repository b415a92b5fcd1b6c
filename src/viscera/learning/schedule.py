"""What changes along a training: the learning rate of each step, and the moving average of the weights."""

import copy
import math

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from viscera.config import Training

POLY_POWER = 0.9
"""Chen et al. 2017, arXiv:1606.00915, and nnU-Net."""


def learning_rate(plan: Training, step: int, *, steps: int) -> float:
    """Return the learning rate of a step.

    Args:
        plan: The schedule.
        step: From 0, over all epochs.
        steps: Of an epoch.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5 without restarts (cosine).
    """
    whole = plan.epochs * steps
    rising = min(1.0, (step + 1) / max(1, round(plan.warm_up * whole)))
    if plan.schedule == "cosine":
        return plan.learning_rate * rising * (1 + math.cos(math.pi * step / whole)) / 2
    if plan.schedule == "poly":
        epochs = plan.poly_epochs or plan.epochs
        return plan.learning_rate * rising * (1 - min(step // steps, epochs - 1) / epochs) ** POLY_POWER
    return plan.learning_rate * rising * plan.step_gamma ** (step // steps // plan.step_epochs)


def plan_change(before: Training, now: Training, *, step: int, steps: int) -> str:
    """Say what another number of epochs does to a run that goes on; "" where it changes nothing at once.

    Args:
        before: The plan that the run had until now.
        now: The plan that it goes on with: other epochs, nothing else.
        step: From 0, over all epochs; the one that comes next.
        steps: Of an epoch.

    Example:
        >>> two, four = (Training(epochs=epochs, schedule="cosine", learning_rate=1e-3) for epochs in (2, 4))
        >>> plan_change(two, four, step=20, steps=10).partition(": ")[2]
        'the learning rate (cosine, over all epochs) goes on at 0.0005; its last was 6.16e-06'
    """
    epochs = f"epochs was {before.epochs}, now {now.epochs}"
    if now.epochs * steps <= step and now.epochs < before.epochs:
        return f"{epochs}, and {step // steps} are done: nothing is left to train"
    if now.epochs == before.epochs or step == 0:
        return ""
    last, planned, coming = (
        learning_rate(plan, at, steps=steps) for plan, at in ((before, step - 1), (before, step), (now, step))
    )
    if coming == planned:
        return ""
    ended = step >= before.epochs * steps
    rather = f"; its last was {last:.3g}" if ended else f" instead of {planned:.3g}"
    return f"{epochs}: the learning rate ({now.schedule}, over all epochs) goes on at {coming:.3g}{rather}"


def moving_average(network: torch.nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a network that follows it: old * d + new * (1 - d) at each ``update_parameters``.

    In step n, d = min(decay, (1 + n) / (10 + n)), so that the random weights at the beginning are soon forgotten. Running
    statistics of batch normalisation are averaged alike; whole numbers are copied.
    """

    def follow(averages: list[Tensor], news: list[Tensor], count: Tensor | int) -> None:
        """Move the averages by one step."""
        number = int(count)
        share = 1 - min(decay, (1 + number) / (10 + number))
        for average, new in zip(averages, news, strict=True):
            if average.is_floating_point():
                average.lerp_(new, share)
            else:
                average.copy_(new)

    return AveragedModel(copy.deepcopy(network), multi_avg_fn=follow, use_buffers=True)  # type: ignore[arg-type]
