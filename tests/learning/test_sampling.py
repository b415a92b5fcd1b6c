"""Batches: distances against scipy, order of an epoch, reading ahead."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from viscera.config import SliceSampling
from viscera.labels import LabelSpace
from viscera.learning.sampling.index import read_batch
from viscera.learning.sampling.order import epoch_order
from viscera.learning.sampling.reading import read_ahead, step_generator
from viscera.learning.sampling.slices import NO_ORGAN_DISTANCE_PIXELS, SliceIndex, boundary_distance
from viscera.preparation.store import UNSURE

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


@pytest.fixture
def two_sets(make_case) -> SliceIndex:
    """Data set a: nine cases with a liver; b: one case with a liver and, on one slice of four, a spleen."""
    labels = np.zeros((4, 16, 16), np.uint8)
    labels[:, 2:8] = 1
    rare = labels.copy()
    rare[3, 10:12] = 2
    cases = [make_case(f"a__{n}", annotated=("liver",), labels=labels) for n in range(9)]
    return SliceIndex.of([*cases, make_case("b__0", annotated=("liver", "spleen"), labels=rare)])


def test_an_epoch_visits_every_slice_equally_often_and_another_epoch_in_another_order(two_sets):
    order = epoch_order(two_sets, SliceSampling(), visits=140, generator=step_generator(0, 1))
    counts = np.bincount(order, minlength=40)
    assert len(order) == 140
    assert set(counts.tolist()) == {3, 4}
    assert all(len(set(order[first : first + 40].tolist())) == 40 for first in (0, 40, 80))
    assert not np.array_equal(order, epoch_order(two_sets, SliceSampling(), visits=140, generator=step_generator(0, 2)))
    assert np.array_equal(order, epoch_order(two_sets, SliceSampling(), visits=140, generator=step_generator(0, 1)))


@pytest.mark.parametrize(("power", "share"), [(0.0, 0.1), (0.5, 1 / (1 + 9 * 9**-0.5)), (1.0, 0.5)])
def test_a_case_counts_by_the_size_of_its_data_set_to_the_power(two_sets, power, share):
    order = epoch_order(two_sets, SliceSampling(dataset_power=power), visits=40_000, generator=step_generator(0))
    assert (two_sets.positions[order, 0] == 9).mean() == pytest.approx(share, abs=0.01)


def test_visits_by_organ_see_rare_organs_as_often_as_frequent_ones(two_sets):
    order = epoch_order(two_sets, SliceSampling(organ_fraction=1), visits=20_000, generator=step_generator(0))
    liver_only, with_spleen = 1 / 40, 1 / 40 + 1  # of all 40 slices with a liver; the spleen's only slice is among them
    assert (order == 39).mean() == pytest.approx(with_spleen / 2, abs=0.01)
    assert (order == 0).mean() == pytest.approx(liver_only / 2, abs=0.005)


def test_visits_by_organ_count_pseudo_labels_as_shown_but_not_where_teachers_are_unsure(make_case):
    labels, pseudo = np.zeros((2, 3, 16, 16), np.uint8)
    pseudo[1, 4:8], pseudo[2] = 2, UNSURE
    case = replace(make_case("a__0", annotated=("liver",), labels=labels), pseudo=pseudo, pseudo_annotated=("spleen",))
    order = epoch_order(SliceIndex.of([case]), SliceSampling(organ_fraction=1), visits=50, generator=step_generator(0))
    assert (order == 1).all()


def test_pseudo_labels_travel_with_the_batch_and_bound_organs_for_the_boundary_weight(make_case):
    labels, pseudo = np.zeros((2, 1, 16, 16), np.uint8)
    pseudo[0, 4:8], pseudo[0, 12:] = 2, UNSURE
    case = replace(make_case("a__0", annotated=("liver",), labels=labels), pseudo=pseudo, pseudo_annotated=("spleen",))
    batch = read_batch(SliceIndex.of([case]), np.array([0]), space=SPACE, distance="boundary")
    assert batch.pseudo_annotated.tolist() == [[False, False, True]]
    assert batch.annotated.tolist() == [[True, True, False]]
    assert np.array_equal(batch.pseudo[0], pseudo[0])
    assert batch.distance[0, 3, 0] == 1
    assert batch.distance[0, 11, 0] == 4  # from the spleen, not from where teachers are unsure


def test_visits_by_organ_of_cases_without_organs_stay_as_they_are(make_case):
    index = SliceIndex.of([make_case("a__0", annotated=("liver",), labels=np.zeros((3, 16, 16), np.uint8))])
    order = epoch_order(index, SliceSampling(organ_fraction=0.5), visits=6, generator=step_generator(0))
    assert np.bincount(order).tolist() == [2, 2, 2]


def test_a_window_is_cut_where_the_draw_says_and_filled_with_unknown_air(make_case):
    labels = np.arange(24, dtype=np.uint8).reshape(1, 4, 6) % 3
    case = make_case("a__0", annotated=("liver",), labels=labels)
    first, last = np.array([[0.0, 0.0]]), np.array([[0.999, 0.999]])
    index = SliceIndex.of([case], window=(2, 8))
    for place, rows in ((first, slice(0, 2)), (last, slice(2, 4))):
        batch = read_batch(index, np.array([0]), space=SPACE, distance="boundary", places=place)
        assert np.array_equal(batch.labels[0, :, 1:7], labels[0, rows])
        assert np.array_equal(batch.image[0, 0, :, 1:7], case.image[0, rows])
        assert (batch.image[0, 0, :, [0, 7]] == -1024).all()
        assert batch.known[0].sum() == 12
        assert not batch.known[0, :, [0, 7]].any()


def test_slices_of_unlike_size_are_read_whole_into_the_largest(make_case):
    small = make_case("a__0", annotated=("liver",), labels=np.ones((1, 4, 6), np.uint8))
    large = make_case("a__1", annotated=("liver",), labels=np.ones((1, 8, 4), np.uint8))
    batch = read_batch(SliceIndex.of([small, large]), np.array([0, 1]), space=SPACE, distance="boundary")
    assert batch.labels.shape == (2, 8, 6)
    assert batch.labels.sum((1, 2)).tolist() == [24, 32]
    assert np.array_equal(batch.image[0, 0, 2:6], small.image[0])


def test_neighbouring_slices_are_channels_and_the_scans_ends_repeat(make_case):
    case = make_case("a__0", annotated=("liver",), labels=np.zeros((3, 16, 16), np.uint8))
    index = SliceIndex.of([case], reach=1)
    batch = read_batch(index, np.array([0, 1, 2]), space=SPACE, distance="boundary")
    for slice_, seen in enumerate([(0, 0, 1), (0, 1, 2), (1, 2, 2)]):
        assert np.array_equal(batch.image[slice_], case.image[list(seen)])


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


def test_a_case_without_labels_shows_what_teachers_gave_it_and_annotates_nothing(make_case):
    pseudo = np.zeros((3, 16, 16), np.uint8)
    pseudo[1, 4:8], pseudo[2] = 2, UNSURE
    case = make_case("a__0", annotated=(), labels=np.zeros(pseudo.shape, np.uint8))
    case = replace(case, labels=None, pseudo=pseudo, pseudo_annotated=("spleen",))
    assert case.truth.shape == pseudo.shape
    assert case.truth.strides == (0, 0, 0)
    index = SliceIndex.of([case])
    batch = read_batch(index, np.arange(3), space=SPACE, distance="boundary")
    assert not batch.labels.any()
    assert batch.known.all()
    assert batch.annotated.tolist() == [[True, False, False]] * 3
    assert batch.pseudo_annotated.tolist() == [[False, False, True]] * 3
    assert np.array_equal(batch.pseudo, pseudo)
    order = epoch_order(index, SliceSampling(organ_fraction=1), visits=20, generator=step_generator(0))
    assert (order == 1).all()
