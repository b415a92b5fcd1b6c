"""Whether a network is surer of a scan than of its mirror image: against sums by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from makers import painted_model as model
from viscera.config import UNetShape, WindowInference
from viscera.inference.certainty import LEAST_PIXELS, handedness_of
from viscera.quality.certainty import Handedness
from viscera.quality.judging import Limits, signs, trust_to_json
from viscera.quality.measuring import measure_scan
from viscera.volume import Volume


class Sided(nn.Module):
    """Calls bright pixels liver: with a logit of 3 in the left half of a slice (the patient's right), 1 in the other."""

    stride, dimensions = 1, 2

    def forward(self, image):
        bright = image[:, 0] > 0.5
        sure = torch.where(torch.arange(image.shape[-1]) < image.shape[-1] // 2, 3.0, 1.0)
        logits = torch.zeros(len(image), 5, *image.shape[-2:])
        logits[:, 1] = torch.where(bright, sure, -5.0)
        return logits


def share(logit: float) -> float:
    return float(np.exp(logit) / (np.exp(logit) + 4))


def image(columns: slice, depth: int = 30) -> np.ndarray:
    hu = np.full((depth, 16, 16), -400, np.int16)
    hu[:, :, columns] = 300
    return hu


def test_a_liver_on_the_right_is_surer_as_it_is_and_on_the_left_mirrored():
    sided = model(Sided())
    on_the_right, on_the_left = (handedness_of(image(place), sided) for place in (slice(0, 8), slice(8, 16)))
    assert (on_the_right.as_is, on_the_right.mirrored) == pytest.approx((share(3), share(1)))
    assert (on_the_left.as_is, on_the_left.mirrored) == pytest.approx((share(1), share(3)))


def test_nothing_is_said_of_few_pixels_few_slices_or_another_kind_of_network():
    sided = model(Sided())
    assert handedness_of(image(slice(0, 1)), sided) is None  # 16 slices of 16 pixels
    assert LEAST_PIXELS < 16 * 16 * 8  # all slices that are looked at, half of each
    assert handedness_of(image(slice(0, 8), depth=1), sided) is None
    for changed in (
        replace(sided.recipe, inference=WindowInference()),
        replace(sided.recipe, network=UNetShape(heads="sigmoid")),
    ):
        assert handedness_of(image(slice(0, 8)), replace(sided, recipe=changed)) is None


@pytest.mark.parametrize(("mirrored", "expected"), [(0.80, []), (0.809, []), (0.83, ["mirrored"])])
def test_the_sign_is_raised_where_the_mirror_image_is_clearly_surer(mirrored, expected):
    assert Limits().mirror_gain == 0.01
    look = measure_scan(Volume(np.full((4, 8, 8), -1000, np.int16), np.eye(4)))
    found = signs({}, look, handedness=Handedness(0.8, mirrored))
    assert [sign.kind for sign in found.scan if sign.kind == "mirrored"] == expected
    written = trust_to_json(found, {}, look, edges={}, handedness=Handedness(0.8, mirrored))
    assert json.loads(json.dumps(written))["measured"]["scan"]["handedness"] == {"as_is": 0.8, "mirrored": mirrored}
