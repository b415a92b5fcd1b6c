"""The loss and the counts of a store's validation cases, shared among the devices and put together."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int

from viscera.learning.devices import total
from viscera.learning.progress import class_counts
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.index import read_batch
from viscera.learning.sampling.reading import read_ahead
from viscera.learning.setup import Session, scaled


@torch.no_grad()
def validate(session: Session) -> tuple[float | None, Int[np.ndarray, "case class 3"]]:
    """Return the mean loss over the slices of the validation cases, or None without such cases, and each case's counts.

    The same on all devices: each takes every n-th of the same batches, and their sums are added.
    """
    fabric, index = session.fabric, session.validation
    classes = len(session.space.classes)
    sums = torch.zeros((len(index.cases), classes, 3), dtype=torch.int64, device=fabric.device)
    loss = torch.zeros((), dtype=torch.float64, device=fabric.device)
    size = session.recipe.training.batch_size
    parts = np.array_split(np.arange(len(index)), max(1, math.ceil(len(index) / size)))[
        fabric.global_rank :: fabric.world_size
    ]

    distance = session.recipe.loss.needed_distance

    def read(number: int) -> Batch:
        return read_batch(index, parts[number], space=session.space, distance=distance)

    network = session.result.eval()
    for part, batch in zip(
        parts, read_ahead(read, len(parts) if len(index) else 0, threads=session.threads), strict=False
    ):
        batch = scaled(batch.to(fabric.device), session.recipe)
        # The network itself, not its wrapper for several devices, whose every call waits for all of them: they may have
        # different numbers of batches here. So has the loss, which is each device's own.
        with fabric.autocast():
            logits = network(batch.image)
        seen = replace(batch, annotated=batch.annotated | session.never_annotated)
        loss += session.own_loss(logits, seen).double() * len(part)
        case = torch.from_numpy(index.positions[part, 0]).to(fabric.device)
        sums.index_add_(0, case, class_counts(logits, batch))
    loss, sums = total(fabric, loss), total(fabric, sums)
    return (loss.item() / len(index) if len(index) else None), sums.cpu().numpy()
