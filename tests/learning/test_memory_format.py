"""How a network's weights lie in memory while it learns."""

import pytest
import torch

from viscera.config import Precision
from viscera.learning.setup import memory_format
from viscera.recipes.catalogue import find_recipe


@pytest.mark.parametrize(
    ("recipe", "device", "precision", "expected"),
    [
        ("viscera2d-16", "cpu", "32-true", torch.channels_last),
        ("viscera2d-16", "cuda", "16-mixed", torch.channels_last),
        ("gao2step-small", "cpu", "32-true", torch.channels_last_3d),
        ("gao2step-small", "cpu", "bf16-mixed", torch.contiguous_format),
        ("gao2step-small", "cuda", "32-true", torch.contiguous_format),
        ("runet-small", "cpu", "32-true", torch.contiguous_format),
    ],
)
def test_channels_are_innermost_where_that_was_measured_to_be_faster(
    recipe: str, device: str, precision: Precision, expected: torch.memory_format
):
    assert memory_format(find_recipe(recipe), device, precision) == expected
