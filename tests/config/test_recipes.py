"""Every shipped recipe: its network builds, and two steps on a batch as the training loop makes it lower the loss."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from viscera.config import Recipe, SliceSampling, UpvShape
from viscera.learning.augmentation.changes import change_batch, draw_changes
from viscera.learning.context import ContextMaps
from viscera.learning.losses import class_weights, loss_for
from viscera.learning.sampling.index import draw_places, open_training, read_batch
from viscera.learning.sampling.order import epoch_order
from viscera.learning.sampling.reading import step_generator
from viscera.learning.setup import check_fit, scaled, with_measurements
from viscera.networks.build import context_network, network_of
from viscera.networks.torch_runner import TorchRunner
from viscera.networks.unet import UNet, parameter_count
from viscera.recipes.catalogue import RECIPES

GENTLE = 2e-3
"""The first step of Adam overshoots with runet's 0.01."""


def made_small(recipe: Recipe) -> Recipe:
    """The recipe for images of 32 pixels: patches of that size, and no more levels than it can halve."""
    if isinstance(recipe.network, UpvShape):
        recipe = replace(recipe, network=replace(recipe.network, width=4))
    if isinstance(recipe.sampling, SliceSampling):
        return replace(recipe, sampling=replace(recipe.sampling, window=(32, 32)))
    sampling = replace(recipe.sampling, size=(32, 32, 32))
    return replace(recipe, sampling=sampling, network=replace(recipe.network, widths=recipe.network.widths[:3]))


SLOW = (
    *("gao2step-tumour-finetune", "gao2step-tumour", "gao2step-finetune", "gao2step", "gao2step-finder"),
    *("runet-paper", "runet", "viscera2d-64", "zhang2d-paper", "zhang2d-inverse-frequency", "zhang2d-uniform"),
)
"""Recipes of which another one trains the same network, or the same with fewer channels or smaller patches."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in RECIPES])
def test_every_recipe_takes_two_steps(name, make_case, tmp_path):
    recipe = RECIPES[name]
    check_fit(recipe)
    network_of(recipe)
    recipe = made_small(recipe)
    organ = recipe.space.organs[0]
    labels = np.zeros((9, 64, 64), np.uint8)
    labels[:, 16:40, 12:52] = recipe.space.index(organ)
    image = np.where(labels > 0, 100, -80).astype(np.int16)
    image[:, 20:30] += 10
    case = make_case("a__0", annotated=(organ, *recipe.space.organs[-1:]), labels=labels, image=image)
    recipe = with_measurements(recipe, [case], None)
    reach = recipe.reach
    torch.manual_seed(0)
    maps = None
    if recipe.context is not None:
        case = replace(case, geometry=replace(case.geometry, step=(Fraction(1), Fraction(1))))
        maps = ContextMaps(tmp_path, recipe, TorchRunner(context_network(recipe).eval()))
    index = open_training([case], recipe.sampling, reach=reach, maps=maps)
    network = network_of(recipe)
    optimizer = torch.optim.AdamW(network.parameters(), lr=min(recipe.training.learning_rate, GENTLE))
    weights = class_weights(recipe.loss.class_weights, [100] * len(recipe.space.classes))
    loss_of = loss_for(recipe.loss, class_weights=weights, deep=recipe.network.deep_supervision)
    numbers = epoch_order(index, recipe.sampling, visits=2, generator=step_generator(0))
    losses = []
    for _ in range(3):
        generator = step_generator(1)
        changes = draw_changes(recipe.augmentation, 2, generator)
        batch = read_batch(
            index,
            numbers,
            space=recipe.space,
            distance=recipe.loss.needed_distance,
            places=draw_places(index, 2, generator),
        )
        batch = change_batch(scaled(batch, recipe), changes, stride=network.stride)
        outputs = network(batch.image)
        loss = loss_of(outputs, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize(("name", "width"), [("viscera2d-16", 16), ("viscera2d-24", 24), ("viscera2d", 32)])
def test_viscera2d_has_the_parameters_of_a_u_net_of_its_width(name, width):
    # A level of width w: two 3x3 convolutions (9 w_in w + 9 w w) and two batch normalisations (4 w).
    down = [(3 if level == 0 else width << (level - 1), width << level) for level in range(5)]
    up = [(width << (level + 1), width << level) for level in range(4)]  # the skip and the raised level together
    blocks = sum(9 * a * w + 9 * w * w + 4 * w for a, w in [*down, *up])
    raised = sum((width << (level + 1)) * (width << level) * 4 + (width << level) for level in range(4))
    recipe = RECIPES[name]
    assert recipe.network.widths == tuple(width << level for level in range(5))
    assert parameter_count(UNet(recipe.network, classes=12)) == blocks + raised + width * 12 + 12
