"""Lesions below the smallest volume: given to what surrounds them, against scipy's pieces and dilation."""

import numpy as np
from scipy import ndimage

from viscera.config.inference import Postprocessing
from viscera.inference.postprocessing.tidying import tidy
from viscera.labels import LabelSpace

SPACE = LabelSpace("organs and tumours", ("liver", "spleen", "tumour", "kidney_tumour"))
LIVER, SPLEEN, TUMOUR, KIDNEY_TUMOUR = range(1, 5)
EVERY = np.ones((3, 3, 3))


def tidied(labels, **smallest_ml):
    """Tidy a map of voxels of 0.001 ml."""
    return tidy(labels, (1.0, 1.0, 1.0), settings=Postprocessing(smallest_ml=smallest_ml), space=SPACE)


def test_a_small_lesion_becomes_what_most_of_its_neighbours_are():
    labels = np.zeros((12, 12, 24), np.uint8)
    labels[2:10, 2:10, 2:10] = LIVER
    labels[2:10, 2:10, 14:22] = SPLEEN
    expected = labels.copy()
    for x in (5, 17):  # in the midst of liver and spleen
        labels[5:7, 5:7, x : x + 2] = TUMOUR
    labels[5, 5, 12] = TUMOUR  # in fat
    labels[0, 0, 0] = TUMOUR  # in the scan's corner
    labels[5, 5, 9] = TUMOUR  # at the liver's edge, more of it in liver than in fat
    assert np.array_equal(tidied(labels, tumour=0.009), expected)
    assert (tidied(labels, tumour=0.008) == TUMOUR).sum() == 16  # the two of eight voxels stay


def test_each_tumour_has_its_own_limit_and_others_are_left_alone():
    labels = np.full((8, 8, 8), LIVER, np.uint8)
    labels[1, 1, 1] = TUMOUR
    labels[5, 5, 5:7] = KIDNEY_TUMOUR
    kept = tidied(labels, tumour=0.002)
    assert (kept == TUMOUR).sum() == 0
    assert (kept == KIDNEY_TUMOUR).sum() == 2
    kept = tidied(labels, kidney_tumour=0.003)
    assert ((kept == TUMOUR).sum(), (kept == KIDNEY_TUMOUR).sum()) == (1, 0)
    assert set(np.unique(tidied(labels, tumour=1, kidney_tumour=1))) == {LIVER}


def test_pieces_and_neighbours_are_scipys():
    generator = np.random.default_rng(3)
    field = ndimage.gaussian_filter(generator.standard_normal((20, 30, 30)), 1.2)
    labels = np.digitize(field, np.quantile(field, (0.3, 0.6))).astype(np.uint8)  # 0, liver, spleen
    labels[ndimage.gaussian_filter(generator.standard_normal(labels.shape), 0.8) > 0.45] = TUMOUR
    pieces, count = ndimage.label(labels == TUMOUR, EVERY)
    expected = labels.copy()
    for number in range(1, count + 1):
        piece = pieces == number
        if piece.sum() < 12:
            around = ndimage.binary_dilation(piece, EVERY) & ~piece
            expected[piece] = np.bincount(labels[around]).argmax()
    found = tidied(labels, tumour=0.012)
    assert 0 < (found == TUMOUR).sum() < (labels == TUMOUR).sum()
    assert np.array_equal(found, expected)


def test_no_hole_is_left_in_an_organ_that_is_one_piece():
    labels = np.full((6, 6, 6), LIVER, np.uint8)
    labels[2, 2, 2] = TUMOUR
    settings = Postprocessing(smallest_ml={"tumour": 1.0}, largest_components={"liver": 1})
    assert (tidy(labels, (1.0, 1.0, 1.0), settings=settings, space=SPACE) == LIVER).all()
