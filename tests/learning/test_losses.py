"""zhang2d's losses against their formulas written out pixel by pixel."""

import math

import pytest
import torch

from viscera.config import AddedBoundaryLoss, SummedBoundaryLoss
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
@pytest.mark.parametrize("hidden", [0, 7])
def test_loss_is_the_published_formula_over_known_pixels(settings, hidden):
    logits, labels, distance = some_batch()
    known = torch.ones(labels.shape, dtype=torch.bool)
    known.view(-1)[:hidden] = False
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


def test_a_wrong_number_of_class_weights_is_refused():
    with pytest.raises(SettingError, match="2 numbers, but background and organs make 3 classes"):
        class_weights((1.0, 2.0), [1, 1, 1])
