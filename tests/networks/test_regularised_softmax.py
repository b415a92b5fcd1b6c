"""The regularised softmax: adjoint operators, gradients, energy and total variation, networks with it."""

import copy

import pytest
import torch

from viscera.config import AttentionUNetShape, PlainUNetShape, Softmax, UNetShape
from viscera.errors import SettingError
from viscera.networks.build import build_network
from viscera.networks.regularised_softmax import Regularised, RegularisedSoftmax, div, grad

SPACES = [(5, 7), (4, 5, 6), (1, 6), (1, 1, 1)]


def layer(iterations: int = 1, weight: float = 1.0, step: float = 0.3) -> RegularisedSoftmax:
    return RegularisedSoftmax(Softmax(iterations=iterations, weight=weight, step=step)).double()


def noise(*space: int, classes: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(2, classes, *space, generator=generator, dtype=torch.float64)


def variation(probabilities: torch.Tensor) -> float:
    """Isotropic total variation, written out with shifted arrays."""
    squares = torch.zeros_like(probabilities)
    for axis in range(2, probabilities.ndim):
        last = probabilities.narrow(axis, -1, 1)
        shifted = torch.cat([probabilities.narrow(axis, 1, probabilities.shape[axis] - 1), last], dim=axis)
        squares += (shifted - probabilities) ** 2
    return squares.sqrt().sum().item()


def energy(probabilities: torch.Tensor, logits: torch.Tensor, weight: float) -> float:
    fit = -(probabilities * logits).sum() + torch.special.xlogy(probabilities, probabilities).sum()
    return fit.item() + weight * variation(probabilities)


@pytest.mark.parametrize("space", SPACES)
def test_divergence_is_the_negative_adjoint_of_the_gradient(space: tuple[int, ...]):
    generator = torch.Generator().manual_seed(1)
    image, *field = torch.randn(1 + len(space), 2, 3, *space, generator=generator, dtype=torch.float64)
    inner = sum((slope * part).sum() for slope, part in zip(grad(image), field, strict=True))
    assert inner.item() == pytest.approx(-(image * div(field)).sum().item(), abs=1e-10)


def test_gradient_is_the_forward_difference_and_zero_at_the_last_voxel():
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    along_rows, along_columns = grad((5 * rows + columns**2)[None, None])
    assert along_rows[0, 0].tolist() == [[5.0] * 4, [5.0] * 4, [0.0] * 4]
    assert along_columns[0, 0].tolist() == [[1.0, 3.0, 5.0, 0.0]] * 3


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("space", [(3, 4), (2, 3, 3)])
def test_gradients_are_those_of_finite_differences_in_logits_and_weight(space: tuple[int, ...], iterations: int):
    module = layer(iterations, weight=0.7, step=2.5)  # some vectors are longer than 1, some are not
    logits = noise(*space, classes=3)[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda o, _: module(o).softmax(1), (logits, module.weight))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("iterations", [1, 4])
def test_weight_zero_is_the_plain_softmax_to_the_bit(space: tuple[int, ...], iterations: int):
    logits = noise(*space).float()
    assert torch.equal(layer(iterations, weight=0.0).float()(logits), logits)


@pytest.mark.parametrize("space", [(24, 24), (10, 10, 10)])
def test_one_step_and_many_lower_total_variation_and_energy(space: tuple[int, ...]):
    logits = noise(*space)
    plain, once, often = logits.softmax(1), layer(1)(logits).softmax(1), layer(100)(logits).softmax(1)
    assert variation(often) < variation(once) < variation(plain)
    assert energy(often, logits, 1.0) < energy(once, logits, 1.0) < energy(plain, logits, 1.0)


def test_many_steps_reach_the_minimum_that_the_dual_bounds_from_below():
    logits = noise(8, 8, classes=3)
    with torch.no_grad():
        regularised = layer(3000, weight=0.5, step=0.8)(logits)
    dual = -regularised.logsumexp(1).sum().item()  # min over U of -<U, o> + <U, log U> + lambda <U, div eta>
    assert energy(regularised.softmax(1), logits, 0.5) == pytest.approx(dual, rel=1e-3)
    assert energy(regularised.softmax(1), logits, 0.5) >= dual


def test_one_step_removes_speckle_and_keeps_an_organ_with_its_corners():
    logits = torch.zeros(1, 2, 12, 12, 12)
    logits[:, 1] = -4.0
    logits[:, 1, 3:9, 3:9, 3:9] = 4.0  # the organ
    logits[:, 1, 1, 1, 1] = 1.0  # the speckle
    found = RegularisedSoftmax(Softmax(iterations=1, weight=1.0, step=0.3))(logits).argmax(1)
    expected = torch.zeros(1, 12, 12, 12, dtype=torch.long)
    expected[:, 3:9, 3:9, 3:9] = 1
    assert logits.argmax(1)[0, 1, 1, 1] == 1
    assert torch.equal(found, expected)


def test_constant_logits_stay_and_have_finite_gradients():
    logits = torch.full((1, 3, 4, 4, 4), 2.0, requires_grad=True)
    module = RegularisedSoftmax(Softmax(iterations=2))
    regularised = module(logits)
    assert torch.equal(regularised, logits)
    regularised.square().sum().backward()
    assert logits.grad is not None
    assert module.weight.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(module.weight.grad)


def test_mixed_precision_computes_in_single_precision():
    logits = noise(6, 6, 6).bfloat16()
    module = RegularisedSoftmax(Softmax(iterations=2, step=0.3))
    with torch.autocast("cpu", torch.bfloat16):
        regularised = module(logits)
    assert regularised.dtype == torch.float32
    assert torch.equal(regularised, module(logits.float()))


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        (UNetShape(widths=(4, 8)), (8, 8)),
        (PlainUNetShape(widths=(4, 8)), (8, 8, 8)),
        (AttentionUNetShape(widths=(4, 8)), (8, 8, 8)),
    ],
    ids=["unet", "plain3d", "attention3d"],
)
def test_any_network_may_end_in_it_and_learns_its_weight(shape: UNetShape, sides: tuple[int, ...]):
    network = build_network(shape, classes=3, softmax=Softmax(iterations=1, weight=0.5)).train()
    assert isinstance(network, Regularised)
    assert (network.stride, network.dimensions) == (2, len(sides))
    outputs = network(torch.randn(2, 1, *sides))
    finest = outputs[0] if isinstance(outputs, list) else outputs
    assert finest.shape == (2, 3, *sides)
    finest.square().mean().backward()
    assert network.last.weight.grad != 0


def test_with_deep_supervision_only_the_finest_logits_are_regularised():
    torch.manual_seed(0)
    network = build_network(PlainUNetShape(widths=(4, 6, 8)), classes=3, softmax=Softmax(iterations=1)).train()
    bare = copy.deepcopy(network.network)
    patch = torch.randn(1, 1, 8, 8, 8)
    (finest, coarse), (bare_finest, bare_coarse) = network(patch), bare(patch)
    assert torch.equal(coarse, bare_coarse)
    assert torch.equal(finest, network.last(bare_finest))
    assert not torch.equal(finest, bare_finest)
    assert torch.equal(network.eval()(patch), network.last(bare.eval()(patch)))


def test_settings_that_have_no_regularised_softmax_are_named():
    with pytest.raises(SettingError, match="softmax.iterations of 1 or more, got 0"):
        RegularisedSoftmax(Softmax())
    with pytest.raises(SettingError, match="'sigmoid' gives no distribution .* Set network.heads to 'softmax'"):
        build_network(UNetShape(widths=(4, 8), heads="sigmoid"), classes=3, softmax=Softmax(iterations=1))
    assert not isinstance(build_network(UNetShape(widths=(4, 8), heads="sigmoid"), classes=3), Regularised)
