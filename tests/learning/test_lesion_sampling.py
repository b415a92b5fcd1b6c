"""Patches about lesions, and slices of them: sizes alike, lesions of a size alike, their voxels alike; against scipy."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, stats

from viscera.config import PatchSampling, SliceSampling
from viscera.errors import SettingError
from viscera.labels import LabelSpace
from viscera.learning.sampling.lesions import KEPT, lesion_voxel, lesions_by_size
from viscera.learning.sampling.order import epoch_order
from viscera.learning.sampling.patches import PatchIndex, draw_patch_places, patch_start
from viscera.learning.sampling.reading import step_generator
from viscera.learning.sampling.slices import SliceIndex
from viscera.learning.setup import check_fit
from viscera.recipes.catalogue import RECIPES

SPACE = LabelSpace("organ and tumour", ("liver", "tumour"))
POINT = PatchSampling(size=(1, 1, 1), foreground_fraction=1.0, lesion_fraction=1.0)
CUBES = ((2, 2), (2, 12), (12, 2), (12, 12), (22, 2))
"""Where small lesions of 2 voxels' edge begin, along z and rows."""


def _labels():
    """A liver with five lesions of 8 voxels, and one of 13 x 13 x 13."""
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[1:39, 1:39, 1:39] = 1
    for z, y in CUBES:
        labels[z : z + 2, y : y + 2, 2:4] = 2
    labels[20:33, 20:33, 20:33] = 2
    return labels


def _starts(case, settings, count=4000, space=SPACE):
    index = PatchIndex.of([case], settings, space=space)
    return np.array([patch_start(index, 0, place) for place in draw_patch_places(count, step_generator(0))])


def test_lesions_are_scipys_connected_components_by_size():
    generator = np.random.default_rng(5)
    labels = 2 * (ndimage.gaussian_filter(generator.random((30, 31, 32)), 1.5) > 0.53).astype(np.uint8)
    pieces, count = ndimage.label(labels == 2, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(np.ones_like(pieces), pieces, range(1, count + 1))
    # 7.0686 ml is a ball of 30 mm, half of a ball of 15 mm an eighth of it.
    limits = (15**3 * np.pi / 6000, 30**3 * np.pi / 6000)
    found = lesions_by_size(labels, (2,), voxel_ml=0.05)
    expected = [np.sum(np.searchsorted(limits, 0.05 * sizes, side="right") == group) for group in range(3)]
    assert sum(number > 0 for number in expected) > 1  # sizes differ, or this says nothing
    assert [len(lesions) for lesions in found] == expected
    for lesion in (lesion for lesions in found for lesion in lesions):
        (piece,) = set(pieces.ravel()[lesion])
        assert piece > 0
        assert len(lesion) == min(sizes[piece - 1], KEPT) or KEPT / 2 <= len(lesion) <= KEPT


def test_of_a_large_lesion_evenly_spaced_voxels_are_kept():
    labels = np.ones((20, 30, 40), np.uint8)
    small, middling, (lesion,) = lesions_by_size(labels, (1,), voxel_ml=0.001)
    assert (small, middling) == ([], [])
    assert lesion.tolist() == list(range(0, 24_000, 24))


def test_small_lesions_are_drawn_as_often_as_large_ones_and_each_of_a_size_alike(make_case):
    case = make_case("a__0", annotated=("liver", "tumour"), labels=_labels())
    # The large one is of 30 mm or more, the others below 15 mm.
    assert 13 * min(case.geometry.spacing_mm) > 25
    starts = _starts(case, POINT)
    z, y, x = starts.T
    assert (_labels()[z, y, x] == 2).all()
    small = x < 10
    assert small.sum() == pytest.approx(2000, abs=4 * np.sqrt(1000))
    which = [np.count_nonzero(small & (z // 2 == top // 2) & (y // 2 == row // 2)) for top, row in CUBES]
    assert sum(which) == small.sum()
    assert stats.chisquare(which).pvalue > 1e-4


def test_the_share_of_patches_about_lesions_is_the_stated_one(make_case):
    case = make_case("a__0", annotated=("liver", "tumour"), labels=_labels())
    settings = replace(POINT, foreground_fraction=0.8, lesion_fraction=0.25)
    z, y, x = _starts(case, settings).T
    small = np.count_nonzero((_labels()[z, y, x] == 2) & (x < 10))
    # A tenth of 4000 about small lesions; by voxels alone they are 40 of 54,872.
    assert small == pytest.approx(400, abs=4 * np.sqrt(400))


@pytest.mark.parametrize("shows", [{1}, set()])
def test_a_case_without_lesions_has_the_patches_that_it_would_have_anyway(make_case, shows):
    labels = np.zeros((12, 12, 12), np.uint8)
    if shows:
        labels[4:6, 4:6, 4:6] = 1
    case = make_case("a__0", annotated=("liver", "tumour"), labels=labels)
    settings = replace(POINT, foreground_fraction=0.5)
    usual = _starts(case, replace(settings, lesion_fraction=0.0), 300)
    assert np.array_equal(_starts(case, settings, 300), usual)


def test_lesions_of_unknown_voxels_are_not_drawn(make_case):
    labels = _labels()
    known = np.ones(labels.shape, bool)
    known[20:33, 20:33, 20:33] = False
    case = make_case("a__0", annotated=("liver", "tumour"), labels=labels, known=known)
    assert (_starts(case, POINT, 500)[:, 2] < 10).all()


def test_the_last_draws_stay_within_the_lesions():
    sizes = [[np.array([3, 4])], [np.array([7]), np.array([8, 9])]]
    almost = np.nextafter(1.0, 0)
    assert lesion_voxel(sizes, 0.0, 0.0) == 3
    assert lesion_voxel(sizes, almost, almost) == 9


def _slices(make_case, count=20_000, **settings):
    """Return which slices of two patients an epoch visits: of five small lesions and a large one, and of one small lesion."""
    second = np.zeros((4, 40, 40), np.uint8)
    second[3, :2, :2] = 2
    cases = [
        make_case("a__0", annotated=SPACE.organs, labels=_labels()),
        make_case("b__0", annotated=SPACE.organs, labels=second),
    ]
    index = SliceIndex.of(cases, space=SPACE)
    return epoch_order(index, SliceSampling(**settings), visits=count, generator=step_generator(0))


def test_slices_of_lesions_are_drawn_by_size_then_lesion_then_voxel(make_case):
    counts = np.bincount(_slices(make_case, organ_fraction=1.0, lesion_fraction=1.0), minlength=44)
    large = np.zeros(44)
    large[20:33] = 1 / 13
    small = np.zeros(44)
    for z in (2, 2, 12, 12, 22):
        small[z : z + 2] += 1 / 12
    small[43] = 1 / 6  # the second patient's
    expected = 20_000 * (large + small) / 2
    shown = expected > 0
    assert not counts[~shown].any()
    assert stats.chisquare(counts[shown], expected[shown]).pvalue > 0.001


def test_lesions_take_their_share_of_the_visits_to_slices_with_organs(make_case):
    visits = np.bincount(_slices(make_case, organ_fraction=0.5, lesion_fraction=0.5), minlength=44)
    # Slice 43, which shows no liver, is one of 44 slices, one of 18 with tumour, and that of one of six small lesions.
    expected = 20_000 * (0.5 / 44 + 0.25 * 0.5 / 18 + 0.25 * 0.5 / 6)
    assert visits[43] == pytest.approx(expected, abs=5 * np.sqrt(expected))


def test_no_lesion_is_drawn_where_no_case_shows_one(make_case):
    case = make_case("a__0", annotated=SPACE.organs, labels=np.ones((3, 16, 16), np.uint8))
    settings = SliceSampling(organ_fraction=1.0, lesion_fraction=1.0)
    order = epoch_order(SliceIndex.of([case], space=SPACE), settings, visits=30, generator=step_generator(0))
    assert set(order.tolist()) == {0, 1, 2}


def test_a_share_of_nothing_is_refused():
    recipe = replace(RECIPES["viscera2d-16"], label_space="flare14")
    for share, told in ((0.0, "organ_fraction, which is 0"), (0.3, None)):
        wanted = replace(recipe, sampling=replace(recipe.sampling, organ_fraction=share, lesion_fraction=0.5))
        with pytest.raises(SettingError, match=told) if told else nullcontext():
            check_fit(wanted)
    small = replace(RECIPES["gao2step-small"], label_space="flare14")
    with pytest.raises(SettingError, match="foreground_fraction, which is 0"):
        check_fit(replace(small, sampling=replace(small.sampling, foreground_fraction=0.0, lesion_fraction=0.5)))


def test_patches_about_lesions_are_refused_where_there_can_be_none():
    recipe = RECIPES["gao2step-small"]
    check_fit(recipe)
    wrong = replace(recipe, sampling=replace(recipe.sampling, lesion_fraction=0.5))
    with pytest.raises(SettingError, match="flare13.*no tumour"):
        check_fit(wrong)
    check_fit(replace(wrong, label_space="flare14"))
