"""Losses of partly annotated batches: what an unannotated organ must not change, gradients, oracles, pseudo-labels."""

import math
from dataclasses import replace

import pytest
import torch
from monai.losses import DiceLoss

from viscera.config import PartialLoss, SigmoidLoss
from viscera.errors import SettingError
from viscera.learning.losses import loss_for, partial_loss, sigmoid_loss
from viscera.learning.sampling.batch import Batch
from viscera.preparation.store import UNSURE

CLASSES = 4
LOSSES = {
    "partial": PartialLoss(alpha=3.0, exclusion=0.7, dice=1.3),
    "sigmoid": SigmoidLoss(alpha=3.0, dice=1.3),
}
WEIGHTS = torch.tensor([0.3, 2.0, 1.0, 0.5], dtype=torch.float64)


def some_batch(annotated: list[list[bool]], seed: int = 0) -> Batch:
    """Two slices with all classes, from which the labels of unannotated organs are taken away."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (2, 6, 5), generator=generator)
    seen = torch.tensor([[True, *row] for row in annotated])
    labels = torch.where(seen.gather(1, labels.flatten(1)).view(labels.shape), labels, 0)
    return Batch(
        image=torch.zeros(2, 1, 6, 5),
        labels=labels.to(torch.uint8),
        known=torch.rand((2, 6, 5), generator=generator) > 0.1,
        distance=torch.rand((2, 6, 5), generator=generator, dtype=torch.float64) * 5,
        annotated=seen,
        pseudo=torch.zeros(2, 6, 5, dtype=torch.uint8),
        pseudo_annotated=torch.zeros(2, CLASSES, dtype=torch.bool),
    )


def some_logits(seed: int = 1, *, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, CLASSES, 6, 5, generator=generator, dtype=torch.float64)


PARTLY = some_batch([[True, False, False], [True, True, False]])
WHOLLY = some_batch([[True] * 3] * 2)
NOTHING = some_batch([[False] * 3] * 2)


def loss(kind: str, logits: torch.Tensor, batch: Batch, **settings: object) -> torch.Tensor:
    return loss_for(replace(LOSSES[kind], **settings), class_weights=WEIGHTS)(logits, batch)


def test_moving_probability_between_background_and_unannotated_organs_changes_no_marginal_loss():
    logits = some_logits()
    p = logits.softmax(1)
    shares = torch.rand(2, CLASSES, 6, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    open_classes = torch.cat([torch.ones(2, 1, dtype=torch.bool), ~PARTLY.annotated[:, 1:]], 1)[:, :, None, None]
    dealt = shares * open_classes
    dealt = dealt / dealt.sum(1, keepdim=True) * (p * open_classes).sum(1, keepdim=True)
    at_background = (PARTLY.labels == 0)[:, None] & open_classes
    moved = torch.where(at_background, dealt, p).log()
    moved_p = moved.softmax(1)
    assert not torch.allclose(moved_p, p)
    assert loss("partial", moved, PARTLY).item() == pytest.approx(loss("partial", logits, PARTLY).item(), rel=1e-9)
    as_background = loss("partial", moved, PARTLY, unannotated="background")
    assert as_background.item() != pytest.approx(loss("partial", logits, PARTLY, unannotated="background").item())


def test_an_unannotated_organs_logit_changes_no_sigmoid_loss():
    logits = some_logits()
    moved = logits.clone()
    moved[0, 2:] += 5
    moved[1, 3] -= 7
    moved[:, 0] += 3
    assert loss("sigmoid", moved, PARTLY).item() == pytest.approx(loss("sigmoid", logits, PARTLY).item(), rel=1e-12)


def test_a_fully_annotated_batch_gives_the_ordinary_cross_entropy_dice_and_no_exclusion():
    logits, labels = some_logits(), WHOLLY.labels.long()
    batch = replace(WHOLLY, known=torch.ones_like(WHOLLY.known))
    entropy = torch.nn.functional.cross_entropy(logits, labels, weight=WEIGHTS)
    ours = loss("partial", logits, batch, alpha=0.0, dice=0.0)
    assert ours.item() == pytest.approx(entropy.item(), rel=1e-12)
    one_hot = torch.nn.functional.one_hot(labels, CLASSES).permute(0, 3, 1, 2).double()
    monai = DiceLoss(include_background=False, batch=True, smooth_nr=0, smooth_dr=0, reduction="none")
    with_dice = loss("partial", logits, batch, alpha=0.0, dice=1.0)
    expected = -(1 - monai(logits.softmax(1), one_hot)).log().mean()
    assert (with_dice - ours).item() == pytest.approx(expected.item(), rel=1e-9)
    sigmoid = loss("sigmoid", logits, batch, alpha=0.0, dice=1.0) - loss("sigmoid", logits, batch, alpha=0.0, dice=0.0)
    expected = -(1 - monai(logits.sigmoid(), one_hot)).log().mean()
    assert sigmoid.item() == pytest.approx(expected.item(), rel=1e-9)


def test_fully_annotated_sigmoid_cross_entropy_is_torchs():
    batch = replace(WHOLLY, known=torch.ones_like(WHOLLY.known))
    one_hot = torch.nn.functional.one_hot(batch.labels.long(), CLASSES).permute(0, 3, 1, 2).double()[:, 1:]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(some_logits()[:, 1:], one_hot)
    ours = sigmoid_loss(
        SigmoidLoss(dice=0.0, alpha=0.0), some_logits(), batch, class_weights=torch.ones(CLASSES, dtype=torch.float64)
    )
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)


def test_marginal_loss_is_its_formula_pixel_by_pixel():
    logits, settings = some_logits(), LOSSES["partial"]
    p, entropy, weights, exclusion, organ_pixels = logits.softmax(1), 0.0, 0.0, 0.0, 0
    for n, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(6), torch.arange(5)).tolist():
        if not PARTLY.known[n, y, x]:
            continue
        label, here = int(PARTLY.labels[n, y, x]), p[n, :, y, x]
        unannotated = sum(here[c] for c in range(CLASSES) if not PARTLY.annotated[n, c])
        q = here[label] if label else here[0] + unannotated
        g = torch.exp(-(PARTLY.distance[n, y, x] ** 2) / (2 * settings.sigma_pixels**2))
        weight = WEIGHTS[label] * (1 + settings.alpha * g)
        entropy, weights = entropy - weight * q.log(), weights + weight
        if label:
            exclusion, organ_pixels = exclusion - (1 - unannotated).log(), organ_pixels + 1
    dice = []
    for c in range(1, CLASSES):
        rows = PARTLY.annotated[:, c, None, None] & PARTLY.known
        truth, found = ((PARTLY.labels == c) & rows).double(), p[:, c] * rows
        if truth.sum():
            dice.append(-(2 * (found * truth).sum() / (found.sum() + truth.sum())).log())
    expected = entropy / weights + 1.3 * sum(dice) / len(dice) + 0.7 * exclusion / organ_pixels
    # Distances are float32.
    assert loss("partial", logits, PARTLY).item() == pytest.approx(expected.item(), rel=1e-7)


def test_linear_dice_is_its_formula_over_every_organ_that_is_annotated():
    # One slice annotates organ 1 and does not show it; the other annotates 1 and 2 and shows 2 only; 3 is of nobody.
    labels = torch.zeros(2, 6, 5, dtype=torch.uint8)
    labels[1, :2] = 2
    annotated = torch.tensor([[True, True, False, False], [True, True, True, False]])
    batch = replace(PARTLY, labels=labels, annotated=annotated)
    logits = some_logits()
    p, errors = logits.softmax(1), []
    for c in (1, 2):
        rows = annotated[:, c, None, None] & batch.known
        truth, found = ((labels == c) & rows).double(), p[:, c] * rows
        dice = (2 * (found * truth).sum() + 1e-5) / (found.sum() + truth.sum() + 1e-5)
        errors.append(1 - dice)
    settings = {"alpha": 0.0, "exclusion": 0.0, "dice_form": "linear"}
    without, with_dice = (loss("partial", logits, batch, dice=share, **settings) for share in (0.0, 2.0))
    assert (with_dice - without).item() == pytest.approx(2 * (sum(errors) / 2).item(), rel=1e-9)
    # An organ that is neither there nor found has Dice 1.
    sure = torch.full_like(logits, -1e3)
    sure[:, 0] = 1e3
    sure.scatter_(1, labels[:, None].long(), 2e3)
    perfect = [loss("partial", sure, batch, dice=share, **settings).item() for share in (0.0, 1.0)]
    assert perfect[1] - perfect[0] == pytest.approx(0, abs=1e-12)


def test_a_single_known_pixel_of_little_weight_counts_in_full():
    labels, known = torch.zeros(2, 6, 5, dtype=torch.uint8), torch.zeros(2, 6, 5, dtype=torch.bool)
    labels[1, 2, 3], known[1, 2, 3] = 1, True
    annotated = torch.tensor([[True, False, False, False], [True, True, False, False]])
    batch = replace(PARTLY, labels=labels, known=known, annotated=annotated)
    logits, weights = some_logits(), WEIGHTS / 100
    own = logits[1, :, 2, 3]
    p, s = own.softmax(0), own.sigmoid()
    entropy, exclusion = -p[1].log(), -(1 - p[2] - p[3]).log()
    log_dice = -(2 * p[1] / (p[1] + 1)).log()
    linear_dice = 1 - (2 * p[1] + 1e-5) / (p[1] + 1 + 1e-5)
    for form, dice in (("log", log_dice), ("linear", linear_dice)):
        settings = PartialLoss(alpha=3.0, exclusion=0.7, dice=1.3, dice_form=form)
        found = partial_loss(settings, logits, batch, class_weights=weights)
        assert found.item() == pytest.approx((entropy + 1.3 * dice + 0.7 * exclusion).item(), rel=1e-9)
    found = sigmoid_loss(SigmoidLoss(alpha=3.0, dice=1.3), logits, batch, class_weights=weights)
    expected = -s[1].log() - 1.3 * (2 * s[1] / (s[1] + 1)).log()
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_pseudo_labels_of_half_weight_are_halfway_between_none_and_full():
    batch = replace(
        PARTLY,
        pseudo=torch.where(PARTLY.labels == 0, 3, 0).to(torch.uint8),
        pseudo_annotated=torch.tensor([[False, False, False, True]] * 2),
    )
    for kind in LOSSES:
        none, quarter, full = (loss(kind, some_logits(), batch, pseudo=share).item() for share in (0.0, 0.25, 1.0))
        assert none != pytest.approx(full, rel=1e-3)
        assert quarter == pytest.approx(0.75 * none + 0.25 * full, rel=1e-12)
        only_first = replace(batch, pseudo_annotated=torch.tensor([[False] * 3 + [True], [False] * 4]))
        assert loss(kind, some_logits(), only_first, pseudo=1.0).item() != pytest.approx(none, rel=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_weight_of_a_pixel_is_its_classs_and_more_near_a_boundary(kind):
    # Two known pixels: the loss is their weighted mean.
    known = torch.zeros(2, 6, 5, dtype=torch.bool)
    known[0, 0, 0] = known[1, 2, 3] = True
    distance = torch.full((2, 6, 5), 50.0, dtype=torch.float64)
    distance[0, 0, 0] = 1.5
    labels = torch.zeros(2, 6, 5, dtype=torch.uint8)
    labels[0, 0, 0], labels[1, 2, 3] = 1, 3
    both = replace(WHOLLY, labels=labels, known=known, distance=distance)
    first, second = (replace(both, known=known & (torch.arange(2) == n)[:, None, None]) for n in (0, 1))
    settings = {"alpha": 2.0, "dice": 0.0, "sigma_pixels": 1.2} | ({"exclusion": 0.0} if kind == "partial" else {})
    one, two = (loss(kind, some_logits(), batch, **settings).item() for batch in (first, second))
    weights = 2.0 * (1 + 2 * math.exp(-(1.5**2) / (2 * 1.2**2))), 0.5
    expected = (weights[0] * one + weights[1] * two) / sum(weights)
    assert loss(kind, some_logits(), both, **settings).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_cases_that_annotate_nothing_give_zero_with_zero_gradient(kind):
    logits = some_logits().requires_grad_()
    value = loss(kind, logits, NOTHING)
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() < 1e-12


@pytest.mark.parametrize("kind", LOSSES)
def test_unknown_pixels_have_no_gradient(kind):
    logits = some_logits().requires_grad_()
    loss(kind, logits, PARTLY).backward()
    assert (logits.grad.abs().sum(1)[~PARTLY.known] == 0).all()
    assert (logits.grad.abs().sum(1)[PARTLY.known] > 0).any()


def test_an_unannotated_organ_has_no_gradient_of_its_own_at_background():
    logits = some_logits().requires_grad_()
    loss("sigmoid", logits, PARTLY).backward()
    assert (logits.grad[0, 2:] == 0).all()
    logits = some_logits().requires_grad_()
    loss("partial", logits, PARTLY, exclusion=0.0).backward()
    pull = logits.grad[1, [0, 3]][:, PARTLY.labels[1] == 0] / logits.softmax(1)[1, [0, 3]][:, PARTLY.labels[1] == 0]
    assert torch.allclose(pull[0], pull[1])  # background and the unannotated organ are pulled alike, by their share


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("batch", [PARTLY, WHOLLY, NOTHING])
@pytest.mark.parametrize("pseudo", [0.0, 0.4, 1.0])
def test_gradients_are_right(kind, batch, pseudo):
    logits = some_logits()[..., :3, :3].clone().requires_grad_()
    filled = with_pseudo(batch)
    arrays = ("labels", "known", "distance", "pseudo")
    part = replace(
        filled, **{name: getattr(filled, name)[:, :3, :3] for name in arrays}, image=batch.image[..., :3, :3]
    )
    assert torch.autograd.gradcheck(lambda values: loss(kind, values, part, pseudo=pseudo), (logits,))


@pytest.mark.parametrize("kind", LOSSES)
def test_bf16_logits_of_any_size_give_finite_losses_and_gradients(kind):
    for scale in (1.0, 1e2, 1e4):
        logits = some_logits(scale=scale).bfloat16().requires_grad_()
        batch = replace(PARTLY, distance=PARTLY.distance.float())
        value = loss_for(LOSSES[kind], class_weights=WEIGHTS.float())(logits, batch)
        value.backward()
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert logits.grad.isfinite().all()
        exact = loss_for(LOSSES[kind], class_weights=WEIGHTS)(logits.detach().double(), PARTLY)
        assert value.item() == pytest.approx(exact.item(), rel=1e-4)


def with_pseudo(batch: Batch, seed: int = 3) -> Batch:
    """The last organ is filled in wherever it is not annotated; a fifth of the pixels is left unsure."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(batch.labels.shape, generator=generator)
    pseudo = torch.where(draw < 0.3, CLASSES - 1, torch.where(draw < 0.5, UNSURE, 0))
    taught = torch.zeros_like(batch.annotated)
    taught[:, -1] = ~batch.annotated[:, -1]
    free = (batch.labels == 0) & taught[:, -1, None, None]
    return replace(batch, pseudo=torch.where(free, pseudo, 0).to(torch.uint8), pseudo_annotated=taught)


@pytest.mark.parametrize("kind", LOSSES)
def test_pseudo_labels_of_full_weight_without_doubt_count_as_truth_and_of_no_weight_not_at_all(kind):
    filled = with_pseudo(PARTLY)
    sure = replace(filled, pseudo=torch.where(filled.pseudo == UNSURE, 0, filled.pseudo))
    as_truth = replace(
        PARTLY,
        labels=torch.where(sure.pseudo > 0, sure.pseudo, PARTLY.labels),
        annotated=PARTLY.annotated | sure.pseudo_annotated,
    )
    logits, settings = some_logits(), {"exclusion": 0.0} if kind == "partial" else {}
    weights = torch.ones(CLASSES, dtype=torch.float64)
    plain = loss_for(replace(LOSSES[kind], **settings), class_weights=weights)
    ours = plain(logits, sure)
    assert ours.item() == pytest.approx(plain(logits, as_truth).item(), rel=1e-12)
    none = loss(kind, logits, filled, pseudo=0.0)
    assert none.item() == loss(kind, logits, PARTLY).item()
    half = loss(kind, logits, filled, pseudo=0.5).item()
    assert half == pytest.approx((none.item() + loss(kind, logits, filled, pseudo=1.0).item()) / 2, rel=1e-12)


def test_where_teachers_are_unsure_the_pixel_is_as_open_as_without_them():
    filled = with_pseudo(PARTLY)
    unsure = filled.pseudo == UNSURE
    logits = some_logits()
    moved = logits.clone()
    moved[:, 0] = torch.where(unsure, -30.0, logits[:, 0])
    moved[:, 3] = torch.where(unsure, torch.logaddexp(logits[:, 0], logits[:, 3]), logits[:, 3])
    settings = {"exclusion": 0.0, "dice": 0.0}
    assert loss("partial", moved, filled, **settings).item() == pytest.approx(
        loss("partial", logits, filled, **settings).item(), rel=1e-9
    )


def test_an_organ_that_is_not_found_at_all_is_pulled_as_strongly_as_one_half_found():
    organ = WHOLLY.labels == 1
    pulls = []
    for start in (0.0, -12.0):
        logits = torch.zeros(2, CLASSES, 6, 5, dtype=torch.float64)
        logits[:, 1] = start
        logits.requires_grad_()
        loss("partial", logits, replace(WHOLLY, known=torch.ones_like(WHOLLY.known)), alpha=0.0).backward()
        pulls.append(-logits.grad[:, 1][organ].sum().item())
    # -log Dice: sum over the organ's pixels of (1 - p) / pixels, up to the denominator's share.
    assert pulls[1] > pulls[0] > 0


def test_exclusion_pushes_unannotated_organs_off_annotated_ones_only():
    logits = some_logits().requires_grad_()
    nothing_else = PartialLoss(dice=0.0, exclusion=1.0)
    plain = partial_loss(replace(nothing_else, exclusion=0.0), logits, PARTLY, class_weights=WEIGHTS)
    (partial_loss(nothing_else, logits, PARTLY, class_weights=WEIGHTS) - plain).backward()
    on_organ = (PARTLY.labels > 0) & PARTLY.known
    assert (logits.grad[1, 3][on_organ[1]] > 0).all()
    assert (logits.grad[:, 1:].abs().sum(1)[~on_organ] < 1e-12).all()


def test_the_loss_and_the_networks_heads_must_fit(small_store, tmp_path):
    from viscera.config import Recipe, ResizedSlices, UNetShape
    from viscera.learning.training import train
    from viscera.preparation.store import open_store

    recipe = Recipe(
        label_space="abdomenct1k",
        preparation=ResizedSlices(size=(16, 16)),
        network=UNetShape(widths=(4, 8)),
        loss=SigmoidLoss(),
    )
    with pytest.raises(SettingError, match=r"network\.heads is softmax, but loss\.kind is sigmoid"):
        train(recipe, open_store(small_store), tmp_path / "run")
