"""Tidying by slabs on several cores against scipy on the whole map."""

import tracemalloc
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from viscera.boxes import boxes_of
from viscera.config.inference import Postprocessing
from viscera.inference.certainty import Certainty
from viscera.inference.postprocessing.components import select_components
from viscera.inference.postprocessing.morphology import fill_holes
from viscera.inference.postprocessing.slabs import PLANES
from viscera.inference.postprocessing.tidying import tidy
from viscera.inference.postprocessing.tumours import tumour_report
from viscera.labels import ABDOMENCT1K

ORGANS = ABDOMENCT1K.organs
LABELS = tuple(ABDOMENCT1K.index(organ) for organ in ORGANS)


@pytest.fixture(autouse=True)
def _cores() -> Iterator[None]:
    """Give back the cores that a test takes."""
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


def _filled(labels, wanted):
    """Background that each organ encloses; a hole of two goes to the first."""
    result = labels.copy()
    for label in wanted:
        result[ndimage.binary_fill_holes(labels == label) & (result == 0)] = label
    return result


def _selected(labels, *, keep, smallest):
    """Components by scipy, numbered as they begin in the array."""
    result = labels.copy()
    for label in {*keep, *smallest}:
        parts, count = ndimage.label(labels == label, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        large = [part for part in range(1, count + 1) if sizes[part] >= smallest.get(label, 0)]
        stays = sorted(large, key=lambda part: (-sizes[part], part))[: keep.get(label, count)]
        result[(labels == label) & ~np.isin(parts, stays)] = 0
    return result


def _maps(seed, *, depth, smooth):
    """Organs within organs, cut by the scan's faces; from noise to lumps that are longer than slabs."""
    generator = np.random.default_rng(seed)
    field = generator.standard_normal((depth, int(generator.integers(1, 24)), int(generator.integers(1, 24))))
    field = ndimage.gaussian_filter(field, smooth) if smooth else field
    cuts = np.sort(generator.random(len(LABELS)))
    return generator.permutation(len(LABELS) + 1).astype(np.uint8)[np.digitize(field, np.quantile(field, cuts))]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3 * PLANES + 2),
    st.sampled_from([0, 0.6, (3, 0.8, 0.8), 1.5]),
    st.permutations(LABELS),
    st.sampled_from([1, 4]),
)
def test_organs_are_filled_and_selected_as_scipy_does_on_the_whole_map(seed, depth, smooth, order, cores):
    cv2.setNumThreads(cores)
    labels = _maps(seed, depth=depth, smooth=smooth)
    before = labels.copy()
    filled = _filled(labels, order)
    assert np.array_equal(fill_holes(labels, order), filled)
    keep, smallest = {order[0]: 1, order[1]: 2}, {order[1]: 3.0, order[2]: 5.0}
    selected = _selected(labels, keep=keep, smallest=smallest)
    assert np.array_equal(select_components(labels, keep=keep, smallest_voxels=smallest), selected)
    chosen = Postprocessing(
        fill_holes=tuple(ABDOMENCT1K.labels[label] for label in order),
        largest_components={ABDOMENCT1K.labels[label]: 1 for label in order},
    )
    expected = _selected(filled, keep=dict.fromkeys(order, 1), smallest={})
    assert np.array_equal(tidy(labels, (1.0, 1.0, 1.0), settings=chosen, space=ABDOMENCT1K), expected)
    assert np.array_equal(labels, before)


def test_single_voxels_all_over_a_thin_scan_are_told_apart():
    dots = np.zeros((1, 9, 9), np.uint8)
    dots[:, ::2, ::2] = 1
    for labels in (dots, dots[:, :1], dots.transpose(1, 0, 2), dots.transpose(2, 1, 0)):
        kept = select_components(labels, keep={1: 2}, smallest_voxels={})
        assert np.flatnonzero(kept).tolist() == np.flatnonzero(labels)[:2].tolist()
        report = tumour_report(np.zeros_like(labels), labels > 0, space=ABDOMENCT1K, voxel_ml=1.0)
        assert report.components == np.count_nonzero(labels)


def test_of_pieces_of_one_size_in_several_slabs_the_first_stays():
    labels = np.zeros((3 * PLANES, 6, 6), np.uint8)
    for first in (2, PLANES - 1, 2 * PLANES + 3):  # the second one lies in two slabs
        labels[first : first + 2, 1:3, 4] = 1
    kept = select_components(labels, keep={1: 1}, smallest_voxels={})
    assert np.flatnonzero(kept.any(axis=(1, 2))).tolist() == [2, 3]
    two = select_components(labels, keep={1: 2}, smallest_voxels={})
    assert np.flatnonzero(two.any(axis=(1, 2))).tolist() == [2, 3, PLANES - 1, PLANES]


def test_pieces_that_only_meet_slabs_away_are_one():
    labels = np.zeros((3 * PLANES, 3, 9), np.uint8)
    labels[:, 1, 1] = labels[:, 1, 5] = 1  # two legs ...
    labels[-1, 1, 1:6] = 1  # ... that join in the last plane
    labels[: 2 * PLANES, 1, 8] = 1  # larger than a leg without the other
    expected = labels.copy()
    expected[:, :, 8] = 0
    assert np.array_equal(select_components(labels, keep={1: 1}, smallest_voxels={}), expected)


@pytest.mark.parametrize("depth", [3, PLANES, PLANES + 1, 2 * PLANES, 2 * PLANES + 1])
def test_a_channel_through_slabs_is_filled_unless_one_end_is_open(depth):
    labels = np.full((depth, 5, 6), 3, np.uint8)
    labels[1:-1, 2, 3] = 0
    assert (fill_holes(labels, (3,)) == 3).all()
    for end in (0, -1):
        opened = labels.copy()
        opened[end, 2, 3] = 0
        assert np.array_equal(fill_holes(opened, (3,)), opened)


def test_boxes_are_scipys_however_many_labels_and_in_the_order_asked_for():
    generator = np.random.default_rng(0)
    for shape in [(5, 9, 11), (1, 1, 40), (1, 40, 1), (30, 1, 1)]:
        labels = generator.choice(256, shape, p=np.r_[0.7, np.full(255, 0.3 / 255)]).astype(np.uint8)
        found = boxes_of(labels, range(255, 0, -1))
        boxes = ndimage.find_objects(labels, max_label=255)
        expected = {label: boxes[label - 1] for label in range(255, 0, -1) if boxes[label - 1] is not None}
        assert found == expected
        assert list(found) == list(expected)
        turned = labels.transpose(2, 0, 1)[:, ::-1]
        assert boxes_of(turned, (7, 9)) == {
            label: box for label, box in enumerate(ndimage.find_objects(turned), start=1) if box and label in (7, 9)
        }


def test_tidying_takes_little_beside_the_map_and_its_result():
    labels = np.zeros((12 * PLANES, 96, 96), np.uint8)
    labels[1:-1, 1:-1, 1:-1] = 1
    labels[::7, 40, 40] = labels[:, 3, 3] = 0
    cv2.setNumThreads(1)
    wanted = Postprocessing(fill_holes=("liver",), largest_components={"liver": 1})
    tracemalloc.start()
    tidy(labels, (1.0, 1.0, 1.0), settings=wanted, space=ABDOMENCT1K)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels.size < taken < 2.2 * labels.size  # the result and a slab; 6 when pieces were of the whole map


def test_what_was_dropped_is_counted_where_it_lies():
    generator = np.random.default_rng(3)
    found = generator.integers(0, 4, (6, 20, 30), np.uint8)
    found[2] = 0
    kept = np.where(generator.random(found.shape) < 0.2, np.uint8(0), found)
    kept[2, 4:8] = 1  # filled, where nothing was
    sums = Certainty(4)
    sums.add_tidied(found[:, :, 5:25], kept[:, :, 5:25])
    for label in range(1, 4):
        mine = found[:, :, 5:25] == label
        assert sums.edge(label).dropped_fraction == (mine & (kept[:, :, 5:25] != label)).sum() / mine.sum()
