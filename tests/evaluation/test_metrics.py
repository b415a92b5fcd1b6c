"""Overlap against MONAI, SimpleITK and counting; surfaces against DeepMind's surface-distance and sums by hand."""

import math
import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import surface_distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_iou
from scipy.ndimage import gaussian_filter
from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

from viscera.errors import GeometryError, LabelError, SettingError
from viscera.evaluation import metrics
from viscera.evaluation.metrics import (
    SurfaceScores,
    bounding_box,
    confusion,
    element_areas_mm2,
    organ_boxes,
    overlap,
    surface_scores,
)

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (2.5, 0.6, 0.9), (0.5, 3.0, 1.5)]


@pytest.fixture
def deepmind(monkeypatch):
    """Return (NSD, HD95) by surface-distance 0.1, which still uses names that NumPy 2 dropped."""
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)

    def scores(truth, prediction, spacing_mm, tolerance_mm):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = surface_distance.compute_surface_distances(truth, prediction, spacing_mm)
            nsd = surface_distance.compute_surface_dice_at_tolerance(found, tolerance_mm)
            return float(nsd), float(surface_distance.compute_robust_hausdorff(found, 95))

    return scores


def blobs(seed, shape, classes=2):
    """Two label maps of smooth blobs, alike but not equal."""
    random = np.random.default_rng(seed)
    field = gaussian_filter(random.normal(size=shape), 2)
    other = field + 0.4 * gaussian_filter(random.normal(size=shape), 1.5)
    edges = np.quantile(field, np.linspace(0.5, 1, classes)[:-1])
    return [np.digitize(values, edges).astype(np.uint8) for values in (field, other)]


def check(ours, theirs):
    assert ours.nsd == pytest.approx(theirs[0], abs=1e-6, nan_ok=True)
    assert ours.hd95_mm == pytest.approx(theirs[1], abs=1e-6)


# Overlap


@pytest.mark.parametrize("classes", [2, 12, 16, 17, 60, 256])
def test_confusion_counts_every_pair_of_classes(classes):
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, classes, (2, 3, 71, 53), dtype=np.uint8)
    expected = np.zeros((classes, classes), int)
    np.add.at(expected, (truth, prediction), 1)
    assert np.array_equal(confusion(truth, prediction, classes), expected)


def test_confusion_is_exact_over_several_chunks_of_mostly_background():
    truth = np.zeros((3, 1024, 1024), np.uint8)
    truth[0, :500, 3:400] = 5
    prediction = np.roll(truth, 7, axis=2)
    prediction[2, 1000:, :] = 11
    codes = truth.astype(int) * 12 + prediction
    assert np.array_equal(confusion(truth, prediction, 12).reshape(-1), np.bincount(codes.reshape(-1), minlength=144))


@pytest.mark.parametrize("classes", [2, 12, 16, 17])
def test_confusion_counts_a_single_voxel_among_a_million_wherever_it_is(classes):
    # Eight voxels of background are counted at once, as one number.
    nothing = np.zeros(metrics.CHUNK_VOXELS, np.uint8)
    for place in (0, 1, 7, 8, nothing.size - 1):
        for pair in {(0, 1), (1, 0), (classes - 1, 0), (min(8, classes - 1), 0), (classes - 2, 8 % classes)} - {(0, 0)}:
            maps = nothing.copy(), nothing.copy()
            for labels, value in zip(maps, pair, strict=True):
                labels[place] = value
            expected = np.zeros((classes, classes), int)
            expected[0, 0], expected[pair] = nothing.size - 1, 1
            assert np.array_equal(confusion(*maps, classes), expected), (place, pair)


def test_confusion_of_one_voxel():
    one = np.ones((1, 1, 1), np.uint8)
    assert confusion(one, one, 3).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_confusion_of_views_and_of_nothing():
    truth, prediction = blobs(1, (9, 20, 30), 4)
    flipped = confusion(truth[::-1, :, ::-1], prediction[::-1, :, ::-1], 4)
    assert np.array_equal(flipped, confusion(truth, prediction, 4))
    assert not confusion(truth[:0], prediction[:0], 4).any()


def test_overlap_equals_monai_and_simpleitk():
    truth, prediction = blobs(2, (20, 40, 30), 5)
    counts = confusion(truth, prediction, 5)
    maps = [torch.from_numpy(labels).long() for labels in (truth, prediction)]
    one_hot = [torch.nn.functional.one_hot(labels, 5).movedim(-1, 0)[None] for labels in maps]
    dice = compute_dice(one_hot[1], one_hot[0], include_background=True)[0]
    iou = compute_iou(one_hot[1], one_hot[0], include_background=True)[0]
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(sitk.GetImageFromArray(truth), sitk.GetImageFromArray(prediction))
    for index in range(1, 5):
        score = overlap(counts, index)
        assert score.dice == pytest.approx(float(dice[index]), abs=1e-6)
        assert score.iou == pytest.approx(float(iou[index]), abs=1e-6)
        assert score.dice == pytest.approx(measures.GetDiceCoefficient(index), abs=1e-6)
        assert score.iou == pytest.approx(measures.GetJaccardCoefficient(index), abs=1e-6)
        assert score.truth_voxels == (truth == index).sum()
        assert score.prediction_voxels == (prediction == index).sum()


def test_overlap_of_two_empty_masks_is_no_score_as_in_monai_and_of_one_empty_is_zero():
    counts = np.array([[5, 0, 3], [4, 0, 0], [0, 0, 0]])
    assert overlap(counts, 1) == metrics.Overlap(0.0, 0.0, 4, 0)
    assert overlap(counts, 2) == metrics.Overlap(0.0, 0.0, 0, 3)
    both = overlap(np.array([[5, 0], [0, 0]]), 1)
    empty = torch.zeros(1, 1, 4, 4, 4)
    assert math.isnan(both.dice)
    assert math.isnan(both.iou)
    assert (both.truth_voxels, both.prediction_voxels) == (0, 0)
    # As many voxels in truth as in the prediction: all, half and none of them the same.
    for same in (4, 2, 0):
        score = overlap(np.array([[9, 4 - same], [4 - same, same]]), 1)
        assert score == metrics.Overlap(same / 4, same / (8 - same), 4, 4)
    assert math.isnan(float(compute_dice(empty, empty)))


def test_labels_outside_the_classes_and_other_shapes_are_refused():
    labels = np.full((2, 3, 4), 12, np.uint8)
    with pytest.raises(LabelError, match="holds label 12, but there are 12 classes"):
        confusion(np.zeros_like(labels), labels, 12)
    with pytest.raises(
        GeometryError, match=r"^truth has \(\d, 3, \d\) voxels \(z, y, x\), the prediction \(.*Resample one"
    ):
        confusion(labels, labels[:1], 13)


# Surfaces


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_areas_of_all_patterns_equal_deepminds_table(spacing_mm):
    expected = create_table_neighbour_code_to_surface_area(spacing_mm)
    # Bits are numbered alike: their kernel gives the last corner (1, 1, 1) bit 0, and areas do not change by mirroring.
    np.testing.assert_allclose(element_areas_mm2(spacing_mm), expected, atol=1e-12)


def test_area_of_a_cube_is_its_faces_edges_and_corners():
    # A cube of n voxels: 6 faces of (n - 1)^2, 12 bevelled edges of (n - 1) sqrt(1/2), 8 corners of sqrt(3)/8.
    n = 7
    padded = np.pad(np.ones((n, n, n), np.uint8), 1)
    codes = sum(
        padded[z : n + 1 + z, y : n + 1 + y, x : n + 1 + x] << (4 * z + 2 * y + x)
        for z in (0, 1)
        for y in (0, 1)
        for x in (0, 1)
    )
    expected = 6 * (n - 1) ** 2 + 12 * (n - 1) * math.sqrt(0.5) + 8 * math.sqrt(3) / 8
    assert element_areas_mm2((1.0, 1.0, 1.0))[codes].sum() == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(code=st.integers(0, 255), axes=st.permutations(range(3)), flips=st.tuples(*[st.booleans()] * 3))
def test_areas_do_not_depend_on_the_orientation_or_on_which_side_is_inside(code, axes, flips):
    spacing_mm = (2.5, 0.6, 0.9)
    bits = np.array([code >> bit & 1 for bit in range(8)]).reshape(2, 2, 2)
    turned = np.flip(bits, [axis for axis in range(3) if flips[axis]]).transpose(axes)
    turned_code = int((turned.reshape(-1) << np.arange(8)).sum())
    turned_spacing = tuple(spacing_mm[axis] for axis in axes)
    area = element_areas_mm2(spacing_mm)[code]
    assert element_areas_mm2(turned_spacing)[turned_code] == pytest.approx(area)
    assert element_areas_mm2(spacing_mm)[255 - code] == pytest.approx(area)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("seed", range(6))
def test_surfaces_of_blobs_equal_deepminds(deepmind, seed, spacing_mm):
    shape = [(13, 31, 27), (6, 40, 40), (25, 18, 9)][seed % 3]
    truth, prediction = (labels > 0 for labels in blobs(seed, shape))
    for tolerance_mm in (0.0, 1.0, 2.5, 5.0):
        ours = surface_scores(truth, prediction, spacing_mm, tolerance_mm=tolerance_mm)
        check(ours, deepmind(truth, prediction, spacing_mm, tolerance_mm))


def case(name):
    """Return two masks that are easy to get wrong."""
    truth, prediction = np.zeros((2, 9, 14, 12), bool)
    match name:
        case "one voxel each":
            truth[4, 5, 6] = prediction[4, 8, 2] = True
        case "one voxel, the same":
            truth[4, 5, 6] = prediction[4, 5, 6] = True
        case "one slice each":
            truth[4, 3:9, 2:9] = prediction[6, 4:9, 2:7] = True
        case "one row":
            truth[4, 5, :] = prediction[3, :, 6] = True
        case "whole volume":
            truth[:] = prediction[2:, 3:, :] = True
        case "opposite corners":
            truth[0, 0, 0] = prediction[-1, -1, -1] = True
        case "at the border":
            truth[:3, :, 6:] = prediction[:, :4, 7:] = True
        case "one within the other":
            truth[1:8, 1:13, 1:11] = prediction[4, 6:8, 5] = True
        case "chessboard":
            truth[:] = np.indices(truth.shape).sum(axis=0) % 2 == 0
            prediction[:] = ~truth
    return truth, prediction


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize(
    "name",
    [
        "one voxel each",
        "one voxel, the same",
        "one slice each",
        "one row",
        "whole volume",
        "opposite corners",
        "at the border",
        "one within the other",
        "chessboard",
    ],
)
def test_surfaces_of_odd_masks_equal_deepminds(deepmind, name, spacing_mm):
    truth, prediction = case(name)
    for tolerance_mm in (0.0, 2.0, 3.0):
        ours = surface_scores(truth, prediction, spacing_mm, tolerance_mm=tolerance_mm)
        check(ours, deepmind(truth, prediction, spacing_mm, tolerance_mm))


def test_volumes_of_one_slice_equal_deepminds(deepmind):
    truth, prediction = (labels > 0 for labels in blobs(3, (1, 40, 50)))
    ours = surface_scores(truth, prediction, (5.0, 0.7, 0.7), tolerance_mm=2)
    check(ours, deepmind(truth, prediction, (5.0, 0.7, 0.7), 2))


def test_parts_that_lie_far_apart_along_z_all_count(deepmind):
    truth, prediction = np.zeros((2, 90, 8, 9), bool)
    truth[1:4, 2:6, 2:6] = truth[50:53, 2:6, 2:6] = truth[88:, 2:6, 2:6] = True
    prediction[2:5, 2:6, 2:6] = prediction[50:53, 3:7, 2:6] = prediction[70:73, 2:6, 2:6] = True
    for tolerance_mm in (0.0, 1.5, 20.0):
        ours = surface_scores(truth, prediction, (2.5, 0.8, 0.8), tolerance_mm=tolerance_mm)
        check(ours, deepmind(truth, prediction, (2.5, 0.8, 0.8), tolerance_mm))


def test_empty_masks_give_no_score_or_zero_as_deepmind(deepmind):
    empty, full = np.zeros((2, 5, 6, 7), bool)
    full[2:4, 2:4, 2:4] = True
    for truth, prediction, expected in ((empty, empty, math.nan), (full, empty, 0), (empty, full, 0)):
        ours = surface_scores(truth, prediction, (1.0, 1.0, 1.0), tolerance_mm=3)
        check(ours, (expected, math.inf))
        check(ours, deepmind(truth, prediction, (1.0, 1.0, 1.0), 3))


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_far_surfaces_equal_deepminds_by_distance_map_and_by_tree(deepmind, monkeypatch, spacing_mm, share):
    # 0: always the distance map, 1: always the k-d tree.
    monkeypatch.setattr(metrics, "KD_POINTS_PER_VOXEL", share)
    truth, prediction = np.zeros((2, 24, 60, 64), bool)
    truth[2:6, 3:20, 2:30] = True
    prediction[15:22, 30:58, 20:60] = True
    prediction[4, 5, 6] = True
    for tolerance_mm in (2.0, 20.0, 30.0):
        ours = surface_scores(truth, prediction, spacing_mm, tolerance_mm=tolerance_mm)
        check(ours, deepmind(truth, prediction, spacing_mm, tolerance_mm))


@pytest.mark.parametrize("spacing_mm", [(2.5, 0.7, 0.7), (1.0, 1.0, 0.3), (3.0, 0.9, 1.1)])
def test_far_distances_that_equal_the_tolerance_are_within_it_whatever_float32_makes_of_them(
    deepmind, monkeypatch, spacing_mm
):
    monkeypatch.setattr(metrics, "KD_POINTS_PER_VOXEL", 0.0)  # the distance map, of float32
    for steps in range(9, 24):
        truth, prediction = np.zeros((2, 8, 40, 60), bool)
        truth[:, :, 3:5] = True
        # Half at the tolerance; the other half, which holds the quantile, twice as far.
        prediction[:, :20, 3 + steps : 5 + steps] = prediction[:, 20:, 3 + 2 * steps : 5 + 2 * steps] = True
        tolerance_mm = steps * spacing_mm[2]
        ours = surface_scores(truth, prediction, spacing_mm, tolerance_mm=tolerance_mm)
        check(ours, deepmind(truth, prediction, spacing_mm, tolerance_mm))


def test_far_flecks_equal_deepminds(deepmind):
    random = np.random.default_rng(4)
    truth, prediction = np.zeros((2, 40, 90, 90), bool)
    truth[10:30, 20:60, 25:55] = True
    prediction[11:30, 21:62, 25:54] = True
    prediction |= random.random(truth.shape) < 3e-4
    ours = surface_scores(truth, prediction, (2.5, 0.8, 0.8), tolerance_mm=5)
    check(ours, deepmind(truth, prediction, (2.5, 0.8, 0.8), 5))


def test_a_shift_within_the_tolerance_is_full_agreement_and_beyond_it_is_the_distance():
    truth = np.zeros((30, 30, 30), bool)
    truth[8:20, 8:20, 8:20] = True
    for steps in (1, 2, 3, 5):
        shifted = np.roll(truth, steps, axis=0)
        near = surface_scores(truth, shifted, (0.6, 1.0, 1.0), tolerance_mm=steps * 0.6)
        assert near.nsd == 1
        assert near.hd95_mm == pytest.approx(steps * 0.6)


def test_scores_do_not_depend_on_order_axes_or_the_room_around():
    truth, prediction = (labels > 0 for labels in blobs(8, (12, 22, 17)))
    expected = surface_scores(truth, prediction, (2.0, 0.7, 0.9), tolerance_mm=1.5)
    others = [
        surface_scores(prediction, truth, (2.0, 0.7, 0.9), tolerance_mm=1.5),
        surface_scores(truth.T, prediction.T, (0.9, 0.7, 2.0), tolerance_mm=1.5),
        surface_scores(np.pad(truth, 9), np.pad(prediction, 9), (2.0, 0.7, 0.9), tolerance_mm=1.5),
        surface_scores(truth[::-1], prediction[::-1], (2.0, 0.7, 0.9), tolerance_mm=1.5),
    ]
    for other in others:
        check(other, (expected.nsd, expected.hd95_mm))


def test_masks_are_not_changed():
    truth, prediction = (labels > 0 for labels in blobs(9, (8, 12, 13)))
    before = truth.copy(), prediction.copy()
    surface_scores(truth, prediction, (1.0, 1.0, 1.0), tolerance_mm=1)
    assert np.array_equal(truth, before[0])
    assert np.array_equal(prediction, before[1])


def test_the_box_holds_all_and_nothing_more():
    mask = np.zeros((6, 7, 8), bool)
    assert bounding_box(mask) is None
    mask[2, 3, 5] = mask[4, 1, 6] = True
    assert bounding_box(mask) == (slice(2, 5), slice(1, 4), slice(5, 7))


def test_boxes_of_organs_are_those_of_their_masks():
    labels = np.pad(blobs(6, (9, 20, 15), 4)[0], ((2, 1), (0, 5), (3, 0)))
    expected = [bounding_box(labels == index) for index in range(1, 6)]
    assert expected[3] is expected[4] is None
    assert organ_boxes(labels, 5) == expected
    assert organ_boxes(labels * 0, 2) == organ_boxes(labels[:0], 2) == organ_boxes(labels[:, :0], 2) == [None, None]
    single = np.zeros((3, 4, 9), np.uint8)
    single[1, :2, 7:] = 2
    assert organ_boxes(single, 2) == [None, (slice(1, 2), slice(0, 2), slice(7, 9))]


def test_bad_arguments_are_refused():
    mask = np.ones((3, 3, 3), bool)
    with pytest.raises(
        GeometryError, match=r"^truth has \(\d, 3, \d\) voxels \(z, y, x\), the prediction \(.*Resample one"
    ):
        surface_scores(mask, mask[1:], (1.0, 1.0, 1.0), tolerance_mm=1)
    for spacing_mm, tolerance_mm in (((1.0, 0.0, 1.0), 1.0), ((1.0, 1.0, 1.0), -1.0), ((1.0, 1.0, 1.0), math.nan)):
        with pytest.raises(SettingError, match="tolerance"):
            surface_scores(mask, mask, spacing_mm, tolerance_mm=tolerance_mm)


def test_equal_masks_agree_wholly():
    mask = blobs(5, (9, 10, 11))[0] > 0
    assert surface_scores(mask, mask, (3.0, 1.0, 1.0), tolerance_mm=0) == SurfaceScores(1.0, 0.0)
