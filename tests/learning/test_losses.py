"""zhang2d's losses against their formulas written out pixel by pixel."""

import math
from dataclasses import replace

import pytest
import torch

from viscera.config import AddedBoundaryLoss, PartialLoss, SummedBoundaryLoss
from viscera.errors import SettingError
from viscera.learning.losses import class_weights, loss_for
from viscera.learning.sampling.batch import Batch

WEIGHTS = torch.tensor([0.3, 2.0, 1.0])


def some_batch(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator).to(torch.uint8)
    distance = torch.rand(2, 4, 5, generator=generator) * 10
    return logits, labels, distance


def boundary_loss(settings, logits, *, labels, distance, known):
    annotated = torch.ones((len(labels), 3), dtype=torch.bool)
    batch = Batch(labels[:, None], labels, known, distance, annotated, torch.zeros_like(labels), ~annotated)
    return loss_for(settings, class_weights=WEIGHTS)(logits, batch)


def by_hand(settings, logits, labels, distance, known):
    """The formulas of Zhang 2025, one pixel after the other."""
    weighted = weights = near = summed = pixels = 0.0
    for n in range(logits.shape[0]):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                if not known[n, y, x]:
                    continue
                c = int(labels[n, y, x])
                values = [float(v) for v in logits[n, :, y, x]]
                error = -values[c] + math.log(sum(math.exp(v) for v in values))
                g = math.exp(-(float(distance[n, y, x]) ** 2) / (2 * settings.sigma_pixels**2))
                w0 = float(WEIGHTS[c])
                weighted, weights, near = weighted + w0 * error, weights + w0, near + w0 * g * error
                summed += (w0 + getattr(settings, "amplitude", 0) * g) * error
                pixels += 1
    if isinstance(settings, SummedBoundaryLoss):
        return summed / pixels
    return weighted / weights + settings.alpha * near / pixels


@pytest.mark.parametrize(
    "settings", [AddedBoundaryLoss(), SummedBoundaryLoss(), AddedBoundaryLoss(alpha=0, sigma_pixels=1)]
)
@pytest.mark.parametrize("hidden", [0, 7, 39])
def test_loss_is_the_published_formula_over_known_pixels(settings, hidden):
    logits, labels, distance = some_batch()
    known = torch.ones(labels.shape, dtype=torch.bool)
    known.view(-1)[:hidden] = False
    if hidden == 39:
        labels.view(-1)[-1] = 0  # the one pixel that is left, of weight 0.3
    loss = boundary_loss(settings, logits, labels=labels, distance=distance, known=known)
    assert loss.item() == pytest.approx(by_hand(settings, logits, labels, distance, known), rel=1e-5)


def test_without_boundary_term_the_code_form_is_torchs_weighted_cross_entropy():
    logits, labels, distance = some_batch(1)
    known = torch.ones(labels.shape, dtype=torch.bool)
    ours = boundary_loss(AddedBoundaryLoss(alpha=0), logits, labels=labels, distance=distance, known=known)
    theirs = torch.nn.functional.cross_entropy(logits.float(), labels.long(), weight=WEIGHTS)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.parametrize("settings", [AddedBoundaryLoss(), SummedBoundaryLoss()])
def test_unknown_pixels_have_no_gradient_and_nothing_known_gives_zero(settings):
    logits, labels, distance = some_batch(2)
    logits.requires_grad_()
    known = torch.zeros(labels.shape, dtype=torch.bool)
    known[0, 0, 0] = True
    boundary_loss(settings, logits, labels=labels, distance=distance, known=known).backward()
    assert (logits.grad.abs().sum(1) > 0).sum() == 1
    nothing = boundary_loss(settings, logits, labels=labels, distance=distance, known=torch.zeros_like(known))
    assert nothing.item() == 0


def test_bf16_logits_are_computed_in_fp32():
    logits, labels, distance = some_batch(3)
    known = torch.ones(labels.shape, dtype=torch.bool)
    low = logits.bfloat16()
    arguments = {"labels": labels, "distance": distance, "known": known}
    ours = boundary_loss(AddedBoundaryLoss(), low, **arguments)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(boundary_loss(AddedBoundaryLoss(), low.double(), **arguments).item(), rel=1e-6)


def test_class_weights_by_inverse_frequency_balance_the_classes():
    weights = class_weights("inverse_frequency", [1000, 10, 0, 100])
    assert weights[2] == 0
    assert weights[[0, 1, 3]] * torch.tensor([1000, 10, 100]) == pytest.approx(
        torch.full((3,), weights[0].item() * 1000)
    )
    assert weights[[0, 1, 3]].mean() == pytest.approx(1)
    assert class_weights("uniform", [5, 1]).tolist() == [1, 1]


def test_class_weights_that_are_given_are_taken_in_their_order():
    weights = class_weights((1.0, 2.5), [7, 9])
    assert weights.tolist() == [1, 2.5]
    assert class_weights("uniform", [0, 5, 1]).dtype == weights.dtype == torch.float32
    # 1/1000, 1/10, 1/1 over their mean; a class of a single voxel counts.
    inverse = class_weights("inverse_frequency", [1000, 10, 1, 0])
    assert inverse.dtype == torch.float32
    assert inverse.tolist() == pytest.approx([0.001 / 0.367, 0.1 / 0.367, 1 / 0.367, 0])


def deep_batch(distance: torch.Tensor) -> Batch:
    """Two patches of 4x8x8 voxels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 4, 8, 8), generator=generator).to(torch.uint8)
    known = torch.rand(labels.shape, generator=generator) < 0.8
    annotated = torch.ones((2, 3), dtype=torch.bool)
    return Batch(labels[:, None].short(), labels, known, distance, annotated, torch.zeros_like(labels), ~annotated)


@pytest.mark.parametrize("flat", [False, True])
def test_coarser_outputs_learn_from_the_voxels_near_the_middle_of_their_own_along_each_axis(flat):
    generator = torch.Generator().manual_seed(1)
    distance = torch.rand((2, 1, 1, 1) if flat else (2, 4, 8, 8), generator=generator) * 10
    batch = deep_batch(distance)
    logits = [torch.randn(2, 3, *size, generator=generator) for size in ((4, 8, 8), (4, 4, 2), (2, 2, 2))]
    # 4x4x2 of 4x8x8: every slice, every second row from 1, every fourth column from 2.
    part = (slice(None), slice(None), slice(1, None, 2), slice(2, None, 4))
    coarse = Batch(
        batch.image[:, :, :, 1::2, 2::4],
        batch.labels[part],
        batch.known[part],
        distance if flat else distance[part],
        batch.annotated,
        batch.pseudo[part],
        batch.pseudo_annotated,
    )
    settings = AddedBoundaryLoss(alpha=3.0)
    plain = loss_for(settings, class_weights=WEIGHTS)
    expected = 2 / 3 * plain(logits[0], batch) + 1 / 3 * plain(logits[1], coarse)
    deep = loss_for(settings, class_weights=WEIGHTS, deep=True)
    assert deep(logits, batch).item() == pytest.approx(expected.item(), rel=1e-6)
    assert (
        deep(logits[0], batch).item() == deep(logits[:1], batch).item() == pytest.approx(plain(logits[0], batch).item())
    )
    assert deep(logits[:2], batch).item() == pytest.approx(plain(logits[0], batch).item())


def test_coarser_outputs_see_the_pseudo_labels_of_their_voxels():
    batch = deep_batch(torch.zeros(2, 1, 1, 1))
    pseudo = torch.where(batch.labels == 0, 2, 0).to(torch.uint8)
    annotated = torch.tensor([[True, True, False]] * 2)
    labels = torch.where(batch.labels == 2, 0, batch.labels)
    batch = replace(batch, labels=labels, pseudo=pseudo, annotated=annotated, pseudo_annotated=~annotated)
    generator = torch.Generator().manual_seed(1)
    logits = [torch.randn(2, 3, *size, generator=generator) for size in ((4, 8, 8), (2, 4, 4), (1, 2, 2))]
    part = (slice(None), *[slice(1, None, 2)] * 3)
    coarse = replace(
        batch,
        image=batch.image[:, :, 1::2, 1::2, 1::2],
        labels=labels[part],
        known=batch.known[part],
        pseudo=pseudo[part],
    )
    settings = PartialLoss(pseudo=1.0, alpha=0.0)
    plain = loss_for(settings, class_weights=WEIGHTS)
    expected = 2 / 3 * plain(logits[0], batch) + 1 / 3 * plain(logits[1], coarse)
    deep = loss_for(settings, class_weights=WEIGHTS, deep=True)
    assert deep(logits, batch).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_wrong_number_of_class_weights_is_refused():
    message = r"2 numbers, but background and organs make 3 classes\. Give one per class, background first\."
    with pytest.raises(SettingError, match=message):
        class_weights((1.0, 2.0), [1, 1, 1])
