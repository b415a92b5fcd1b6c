"""Organs of one data set pasted into another's scans: what is put where, what is known of it, and that draws are reproducible."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from viscera.config import Context, PartialLoss, SliceSampling
from viscera.errors import SettingError
from viscera.labels import LabelSpace
from viscera.learning.losses import partial_loss
from viscera.learning.sampling.index import read_batch
from viscera.learning.sampling.order import organ_slices
from viscera.learning.sampling.pasting import Pasting, draw_pasting, paste
from viscera.learning.sampling.reading import step_generator
from viscera.learning.sampling.slices import SliceIndex, boundary_distance
from viscera.learning.setup import check_fit
from viscera.recipes.starter import STARTER

SPACE = LabelSpace("two", ("liver", "spleen"))


@pytest.fixture
def index(make_case) -> SliceIndex:
    """Return four slices of a set with livers on the left, four of one with spleens on the right, of other HU."""
    liver, spleen = np.zeros((2, 4, 16, 16), np.uint8)
    liver[:, 4:10, 2:7], spleen[1:3, 6:12, 9:14] = 1, 2
    return SliceIndex.of(
        [
            make_case("a__0", annotated=("liver",), labels=liver),
            make_case("b__0", annotated=("spleen",), labels=spleen),
        ]
    )


def test_an_organ_is_drawn_first_then_a_slice_that_shows_it(index):
    shown = organ_slices(index, 0.5)
    assert [*shown] == [1, 2]
    drawn = draw_pasting(shown, 0.25, 4000, step_generator(0))
    assert np.mean(drawn.into) == pytest.approx(0.25, abs=0.03)
    assert np.mean(drawn.organs == 2) == pytest.approx(0.5, abs=0.03)
    assert index.shown[drawn.donors, drawn.organs].all()
    assert set(drawn.donors[drawn.organs == 2]) == {5, 6}
    again = draw_pasting(shown, 0.25, 4000, step_generator(0))
    assert np.array_equal(again.donors, drawn.donors)


def test_image_label_and_boundary_of_the_organ_are_the_donors_and_all_else_stays(index):
    batch = read_batch(index, np.array([0, 1]), space=SPACE, distance="boundary")
    donors = read_batch(index, np.array([5]), space=SPACE, distance=None)
    mixed = paste(batch, donors, Pasting(np.array([False, True]), np.array([0, 5]), np.array([1, 2])), "boundary")
    here = torch.zeros(16, 16, dtype=torch.bool)
    here[6:12, 9:14] = True
    assert torch.equal(mixed.labels[1], torch.where(here, 2, batch.labels[1]))
    assert torch.equal(mixed.image[1, 0], torch.where(here, donors.image[0, 0], batch.image[1, 0]))
    assert np.array_equal(mixed.distance[1].numpy(), boundary_distance(mixed.labels[1].numpy(), "boundary"))
    for name in ("image", "labels", "known", "distance"):
        assert torch.equal(getattr(mixed, name)[0], getattr(batch, name)[0])
    assert torch.equal(mixed.annotated, batch.annotated)  # the slice's own data set looked for no spleen


def test_a_pasted_organ_is_learnt_where_its_new_slice_annotates_it_not(index):
    batch = read_batch(index, np.array([1]), space=SPACE, distance=None)
    donors = read_batch(index, np.array([5]), space=SPACE, distance=None)
    mixed = paste(batch, donors, Pasting(np.array([True]), np.array([5]), np.array([2])), None)
    logits = torch.zeros(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    loss = PartialLoss(alpha=0.0, dice=0.0, exclusion=1.0)
    partial_loss(loss, logits, mixed, class_weights=torch.ones(3, dtype=torch.float64)).backward()
    assert logits.grad is not None
    pulled = -logits.grad[0, :, 8, 11]
    assert pulled[2] > 0 > max(pulled[0], pulled[1])
    outside = -logits.grad[0, :, 0, 0]
    assert math.isclose(outside[0], outside[2])  # may be background or a spleen that nobody looked for
    assert outside[1] < 0


def test_context_knows_nothing_of_what_is_pasted_so_both_together_are_refused():
    assert isinstance(STARTER.context, Context)
    check_fit(replace(STARTER, context=None, sampling=SliceSampling(paste=0.3)))
    with pytest.raises(SettingError, match=r"sampling.paste is 0.3.*Set it to 0"):
        check_fit(replace(STARTER, sampling=SliceSampling(paste=0.3)))
