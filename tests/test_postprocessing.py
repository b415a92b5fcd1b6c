"""Components against scipy."""

import numpy as np
from scipy import ndimage

from viscera.postprocessing import keep_largest_components


def test_largest_components_are_scipys():
    generator = np.random.default_rng(0)
    coarse = ndimage.gaussian_filter(generator.random((20, 60, 60)), 1.5)
    labels = (np.digitize(coarse, np.quantile(coarse, [0.7, 0.85]))).astype(np.uint8)
    kept = keep_largest_components(labels, {1: 1, 2: 2})
    for label, count in ((1, 1), (2, 2)):
        parts, _ = ndimage.label(labels == label, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        assert len(np.unique(sizes[sizes > 0])) > 2  # the choice is not by chance
        largest = np.argsort(-sizes)[:count]
        assert np.array_equal(kept == label, np.isin(parts, largest))


def test_labels_not_named_and_the_input_stay():
    labels = np.zeros((1, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[0, 3, 3] = 7
    before = labels.copy()
    assert np.array_equal(keep_largest_components(labels, {1: 1}), before)
    assert keep_largest_components(labels, {7: 1}).sum() == 7
    assert np.array_equal(labels, before)


def test_touching_labels_are_apart_and_fewer_components_than_asked_all_stay():
    labels = np.array([[[1, 1, 2, 2, 2]]], np.uint8)
    assert np.array_equal(keep_largest_components(labels, {1: 3, 2: 1}), labels)


def test_an_empty_map_stays_empty():
    assert not keep_largest_components(np.zeros((2, 3, 4), np.uint8), {1: 1}).any()
