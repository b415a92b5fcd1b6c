"""Every shipped recipe: its network builds, and two steps on a batch as the training loop makes it lower the loss."""

import numpy as np
import pytest
import torch

from viscera.augmentation import change_batch, draw_changes
from viscera.losses import class_weights, loss_of
from viscera.networks.unet import UNet, parameter_count
from viscera.recipes import RECIPES
from viscera.sampling import SliceIndex, draw_places, epoch_order, read_batch, step_generator
from viscera.session import scaled


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_two_steps(name, make_case):
    recipe = RECIPES[name]
    labels = np.zeros((3, 32, 32), np.uint8)
    labels[:, 8:20, 6:26] = recipe.space.index("liver")
    image = np.where(labels > 0, 100, -80).astype(np.int16)
    case = make_case("a__0", annotated=("liver", "spleen"), labels=labels, image=image)
    index = SliceIndex.of([case], reach=recipe.network.slices // 2, window=(32, 32))
    torch.manual_seed(0)
    network = UNet(recipe.network, classes=len(recipe.space.classes))
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.training.learning_rate)
    weights = class_weights(recipe.loss.class_weights, [100] * len(recipe.space.classes))
    numbers = epoch_order(index, recipe.sampling, visits=2, generator=step_generator(0))
    losses = []
    for _ in range(3):
        generator = step_generator(1)
        changes = draw_changes(recipe.augmentation, 2, generator)
        batch = read_batch(
            index,
            numbers,
            space=recipe.space,
            distance=recipe.loss.distance,
            places=draw_places(2, generator),
        )
        batch = change_batch(scaled(batch, recipe), changes)
        loss = loss_of(recipe.loss, network(batch.image), batch, class_weights=weights)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


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
