"""Edges moved by HU: on balls of known HU, in front of known surroundings."""

from fractions import Fraction

import numpy as np
import pytest

from viscera.config.inference import Postprocessing
from viscera.errors import LabelError, SettingError
from viscera.inference.postprocessing.edges_by_hu import Seen, looks_of, move_edges_
from viscera.inference.postprocessing.tidying import tidy
from viscera.labels import ABDOMENCT1K
from viscera.preparation.geometry import Geometry
from viscera.preparation.resampling import SliceGrid
from viscera.volume import Turn

LIVER, KIDNEY, SPLEEN = (ABDOMENCT1K.index(organ) for organ in ("liver", "kidney", "spleen"))
SHAPE, SPACING_MM = (40, 72, 72), (2.0, 1.25, 1.25)
MIDDLE = (20, 36, 36)
FAT, MUSCLE, PORTAL, UNENHANCED = -100, 55, 110, 52
REACH_MM = 4.0


def away_mm(middle=MIDDLE):
    """Distance of each voxel from a place."""
    axes = [(np.arange(n) - m) * step for n, m, step in zip(SHAPE, middle, SPACING_MM, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.sqrt(z**2 + y**2 + x**2)


def seen_of(hu, *, step=2, noise=0.0):
    """The scan as a network sees it: means of step x step pixels, on the scanner's slices."""
    hu = hu + np.random.default_rng(0).normal(0, noise, hu.shape) if noise else hu
    z, y, x = hu.shape
    image = hu.reshape(z, y // step, step, x // step, step).mean(axis=(2, 4)).round().astype(np.int16)
    affine = np.array([[0, 0, -1.25, 0], [0, -1.25, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    turn = Turn((0, 1, 2), (False, False, False))
    fraction = Fraction(step)
    return Seen(image, Geometry(hu.shape, affine, turn, image.shape[1:], (0, 0), (fraction, fraction)))


def moved(labels, seen, organs=(LIVER,)):
    result = labels.copy()
    move_edges_(result, dict.fromkeys(organs, REACH_MM), spacing_mm=SPACING_MM, seen=seen)
    return result


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def rim(organ_hu, rim_hu=MUSCLE, *, outside=FAT):
    """A ball of 28 mm in a rim of 4 mm; the labels take in 2 mm of it, a fifth of the organ."""
    mm = away_mm()
    hu = np.where(mm <= 28, organ_hu, np.where(mm <= 32, rim_hu, outside)).astype(float)
    return hu, mm <= 28, np.where(mm <= 30, LIVER, 0).astype(np.uint8)


def test_a_rim_of_muscle_around_an_organ_is_taken_away():
    hu, truth, labels = rim(PORTAL, outside=MUSCLE)
    found = moved(labels, seen_of(hu))
    assert dice(labels == LIVER, truth) < 0.91
    assert dice(found == LIVER, truth) > 0.96


@pytest.mark.parametrize("noise", [5.0, 15.0])
def test_so_it_is_in_noise(noise):
    hu, truth, labels = rim(PORTAL, outside=MUSCLE)
    assert dice(moved(labels, seen_of(hu, noise=noise)) == LIVER, truth) > 0.94


def test_an_edge_that_lies_too_far_in_moves_out_as_far_as_it_may():
    mm = away_mm()
    hu = np.where(mm <= 22, PORTAL, FAT).astype(float)
    labels = np.where(mm <= 20.5, LIVER, 0).astype(np.uint8)
    found = moved(labels, seen_of(hu))
    assert dice(labels == LIVER, mm <= 22) < 0.91
    assert dice(found == LIVER, mm <= 22) > 0.96
    assert not (found == LIVER)[mm > 20.5 + REACH_MM / 2 + 3].any()  # 3 mm: the diagonal of a voxel


@pytest.mark.parametrize(("organ", "surroundings"), [(UNENHANCED, FAT), (30, 62), (62, 30)])
def test_it_works_without_contrast_and_where_the_organ_is_the_darker_one(organ, surroundings):
    mm = away_mm()
    hu = np.where(mm <= 28, organ, surroundings).astype(float)
    labels = np.where(mm <= 30, LIVER, 0).astype(np.uint8)
    found = moved(labels, seen_of(hu, noise=3.0))
    assert dice(found == LIVER, mm <= 28) > dice(labels == LIVER, mm <= 28) + 0.05


def test_an_edge_stays_where_the_organ_looks_like_what_is_around_it():
    hu, _, labels = rim(UNENHANCED, MUSCLE, outside=MUSCLE)
    assert np.array_equal(moved(labels, seen_of(hu, noise=10.0)), labels)


def test_a_right_edge_stays_but_for_single_voxels_of_noise():
    mm = away_mm()
    hu = np.where(mm <= 22, PORTAL, FAT).astype(float)
    labels = np.where(mm <= 22, LIVER, 0).astype(np.uint8)
    assert dice(moved(labels, seen_of(hu, noise=20.0)) == LIVER, mm <= 22) > 0.97


def test_a_vessel_within_an_organ_stays():
    mm = away_mm()
    hu = np.where(mm <= 22, PORTAL, FAT).astype(float)
    hu[:, 34:38, 34:38] = 180
    labels = np.where(mm <= 22, LIVER, 0).astype(np.uint8)
    found = moved(labels, seen_of(hu))
    deep = mm <= 22 - REACH_MM - 2.5  # the cylinder's corner
    assert (found[deep] == LIVER).all()


def test_an_organ_without_a_core_stays():
    mm = away_mm()
    hu = np.where(mm <= 8, PORTAL, FAT).astype(float)
    labels = np.where(mm <= 11, LIVER, 0).astype(np.uint8)
    seen = seen_of(hu)
    assert looks_of(seen.image, np.zeros(seen.image.shape, np.uint8), spacing_mm=(2.0, 2.5, 2.5)) is None
    assert np.array_equal(moved(labels, seen), labels)


def test_labels_that_are_not_there_or_not_named_stay():
    hu, _, labels = rim(PORTAL)
    assert np.array_equal(moved(labels, seen_of(hu), organs=(SPLEEN,)), labels)
    empty = np.zeros(SHAPE, np.uint8)
    assert not moved(empty, seen_of(hu)).any()


def test_an_organ_never_grows_into_another_label():
    mm = away_mm()
    hu = np.where(mm <= 24, PORTAL, FAT).astype(float)
    labels = np.where(mm <= 22, LIVER, 0).astype(np.uint8)
    labels[(mm > 22) & (mm <= 23.5) & (np.arange(SHAPE[2]) > 36)] = KIDNEY
    found = moved(labels, seen_of(hu))
    assert ((found == KIDNEY) == (labels == KIDNEY)).all()
    assert np.count_nonzero((found == LIVER) & (labels == 0)) > 100


def test_twice_the_same_is_the_same_and_slabs_cannot_be_seen(monkeypatch):
    hu, _, labels = rim(PORTAL, outside=MUSCLE)
    seen = seen_of(hu, noise=10.0)
    once = moved(labels, seen)
    assert np.array_equal(moved(labels, seen), once)
    monkeypatch.setattr("viscera.inference.postprocessing.edges_by_hu.SLAB_MM", 10.0)
    assert np.array_equal(moved(labels, seen), once)


def test_at_the_edge_of_the_scan_there_is_no_edge_of_the_organ():
    mm = away_mm((0, 36, 36))
    hu = np.where(mm <= 22, PORTAL, FAT).astype(float)
    labels = np.where(mm <= 22, LIVER, 0).astype(np.uint8)
    found = moved(labels, seen_of(hu))
    assert dice(found[0] == LIVER, labels[0] == LIVER) > 0.98


def test_an_image_with_other_slices_tells_the_same():
    hu, truth, labels = rim(PORTAL, outside=MUSCLE)
    seen = seen_of(hu)
    every_other = seen.image.reshape(20, 2, *seen.image.shape[1:]).mean(axis=1).round().astype(np.int16)
    old = seen.geometry
    grid = SliceGrid(20, Fraction(0), Fraction(2))
    thick = Seen(every_other, Geometry(old.shape, old.affine, old.turn, old.size, old.start, old.step, grid))
    assert thick.places(0, np.array([0, 1, 39])).tolist() == [-0.25, 0.25, 19.25]
    assert thick.nearest(0, np.array([0, 19])).tolist() in ([0, 38], [1, 39], [0, 39], [1, 38])
    assert dice(moved(labels, thick) == LIVER, truth) > 0.95


def test_a_recipe_moves_edges_and_then_keeps_one_piece():
    hu, truth, labels = rim(PORTAL, outside=MUSCLE)
    labels[2:4, 2:4, 2:4] = LIVER
    settings = Postprocessing(edge_by_hu_mm={"liver": REACH_MM}, fill_holes=("liver",), largest_components={"liver": 1})
    found = tidy(labels, SPACING_MM, settings=settings, space=ABDOMENCT1K, seen=seen_of(hu))
    assert not found[2:4, 2:4, 2:4].any()
    assert dice(found == LIVER, truth) > 0.96


def test_labels_alone_or_an_unknown_organ_are_refused():
    labels = np.zeros(SHAPE, np.uint8)
    settings = Postprocessing(edge_by_hu_mm={"liver": REACH_MM})
    with pytest.raises(SettingError, match="edge_by_hu_mm needs the scan"):
        tidy(labels, SPACING_MM, settings=settings, space=ABDOMENCT1K)
    with pytest.raises(LabelError, match="edge_by_hu_mm: .*'livr'.*liver"):
        tidy(labels, SPACING_MM, settings=Postprocessing(edge_by_hu_mm={"livr": 4.0}), space=ABDOMENCT1K)


def test_another_label_space_leaves_out_what_it_lacks():
    both = Postprocessing(edge_by_hu_mm={"stomach": 4.0, "liver": 3.0})
    assert both.fitted(ABDOMENCT1K).edge_by_hu_mm == {"liver": 3.0}


def test_an_organ_whose_rind_is_unlike_its_core_stays_as_it_is(monkeypatch):
    mm = away_mm()
    hu = np.where(mm <= 18, 90, np.where(mm <= 22, 180, 200)).astype(
        float
    )  # medulla, cortex, bowel with contrast all around
    labels = np.where(mm <= 22, KIDNEY, 0).astype(np.uint8)
    seen = seen_of(hu)
    assert np.array_equal(moved(labels, seen, organs=(KIDNEY,)), labels)
    monkeypatch.setattr("viscera.inference.postprocessing.edges_by_hu.MOST_GONE", 1.0)
    left = np.count_nonzero(moved(labels, seen, organs=(KIDNEY,))) / np.count_nonzero(labels)
    assert left == pytest.approx((18 / 22) ** 3, abs=0.06)  # only the medulla
