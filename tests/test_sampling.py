"""Batches: distances against scipy, order of an epoch, reading ahead."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from viscera.labels import LabelSpace
from viscera.sampling import (
    NO_ORGAN_DISTANCE_PIXELS,
    SliceIndex,
    boundary_distance,
    epoch_order,
    read_ahead,
    read_batch,
    step_generator,
)

SPACE = LabelSpace("two", ("liver", "spleen"))


def some_slice() -> np.ndarray:
    coarse = ndimage.gaussian_filter(np.random.default_rng(3).random((40, 50)), 3)
    return (coarse > np.quantile(coarse, 0.8)).astype(np.uint8) * 2


def test_boundary_distance_is_inner_plus_outer_euclidean_distance():
    organ = some_slice() > 0
    expected = ndimage.distance_transform_edt(organ) + ndimage.distance_transform_edt(~organ)
    assert np.allclose(boundary_distance(some_slice(), "boundary"), expected, atol=1e-4)


def test_organ_distance_is_zero_inside():
    organ = some_slice() > 0
    assert np.allclose(boundary_distance(some_slice(), "organ"), ndimage.distance_transform_edt(~organ), atol=1e-4)


@pytest.mark.parametrize("distance", ["boundary", "organ"])
def test_a_slice_without_organs_is_far_everywhere_and_one_full_of_an_organ_is_finite(distance):
    assert (boundary_distance(np.zeros((8, 9), np.uint8), distance) == NO_ORGAN_DISTANCE_PIXELS).all()
    assert np.isfinite(boundary_distance(np.ones((8, 9), np.uint8), distance)).all()


def test_an_epoch_visits_every_slice_equally_often_and_another_epoch_in_another_order():
    order = epoch_order(10, visits=35, generator=step_generator(0, 1))
    counts = np.bincount(order, minlength=10)
    assert len(order) == 35
    assert set(counts.tolist()) == {3, 4}
    assert all(len(set(order[first : first + 10].tolist())) == 10 for first in (0, 10, 20))
    assert not np.array_equal(order, epoch_order(10, visits=35, generator=step_generator(0, 2)))
    assert np.array_equal(order, epoch_order(10, visits=35, generator=step_generator(0, 1)))


def test_reading_ahead_keeps_the_order_can_start_late_and_passes_errors_on():
    assert list(read_ahead(lambda n: n * n, 20, first=5, threads=3)) == [n * n for n in range(5, 20)]

    def read(number: int) -> int:
        if number == 3:
            raise ValueError("slice 3 is damaged")
        return number

    with pytest.raises(ValueError, match="slice 3 is damaged"):
        list(read_ahead(read, 10))


def test_a_batch_says_what_its_cases_annotate_and_which_pixels_are_known(make_case):
    known = np.ones((2, 16, 16), bool)
    known[1, 0, 0] = False
    cases = [
        make_case("a", annotated=("liver",), labels=np.ones((3, 16, 16), np.uint8)),
        make_case("b", annotated=("liver", "spleen"), labels=np.full((2, 16, 16), 2, np.uint8), known=known),
    ]
    index = SliceIndex.of(cases)
    batch = read_batch(index, np.array([4, 0]), space=SPACE, distance="boundary")
    assert len(index) == 5
    assert batch.annotated.tolist() == [[True, True, True], [True, True, False]]
    assert batch.labels[:, 5, 5].tolist() == [2, 1]
    assert batch.known[:, 0, 0].tolist() == [False, True]
    assert torch.equal(batch.image[0, 0], torch.from_numpy(np.array(cases[1].image[1])))
