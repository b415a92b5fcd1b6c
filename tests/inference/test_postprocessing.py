"""Components, morphology and tumours against scipy, SimpleITK and what can be counted by hand."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from viscera.config.inference import Postprocessing
from viscera.errors import GeometryError, LabelError, SettingError
from viscera.inference.postprocessing.components import select_components
from viscera.inference.postprocessing.morphology import close_organs, fill_holes, open_organs
from viscera.inference.postprocessing.tidying import tidy
from viscera.inference.postprocessing.tumours import merge_tumour, tumour_report
from viscera.labels import ABDOMENCT1K, TUMOUR, LabelSpace

SPACING_MM = (2.5, 0.8, 0.7)
RADII_MM = {1: 1.9, 2: 3.1, 3: 0.75}
LIVER, KIDNEY, SPLEEN, PANCREAS = (ABDOMENCT1K.index(organ) for organ in ("liver", "kidney", "spleen", "pancreas"))


def _blobs(seed, *, shape=(14, 40, 44), smooth=(0.8, 1.6, 1.6)):
    """Three labels in ragged pieces that touch each other, hold holes and reach the edge of the scan."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), smooth)
    return np.digitize(field, np.quantile(field, [0.45, 0.6, 0.8])).astype(np.uint8)


def _ball(radius_mm, spacing_mm):
    """The voxels whose centres lie within a ball."""
    half = [int(radius_mm // step) for step in spacing_mm]
    axes = [np.arange(-count, count + 1) * step for count, step in zip(half, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= radius_mm**2


def _parts(mask):
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return parts, np.bincount(parts.ravel(), minlength=count + 1)


def test_largest_components_are_scipys():
    generator = np.random.default_rng(0)
    coarse = ndimage.gaussian_filter(generator.random((20, 60, 60)), 1.5)
    labels = (np.digitize(coarse, np.quantile(coarse, [0.7, 0.85]))).astype(np.uint8)
    kept = select_components(labels, keep={1: 1, 2: 2}, smallest_voxels={})
    for label, count in ((1, 1), (2, 2)):
        parts, sizes = _parts(labels == label)
        sizes[0] = 0
        assert len(np.unique(sizes[sizes > 0])) > 2  # the choice is not by chance
        largest = np.argsort(-sizes)[:count]
        assert np.array_equal(kept == label, np.isin(parts, largest))


def test_labels_not_named_and_the_input_stay():
    labels = np.zeros((1, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[0, 3, 3] = 7
    before = labels.copy()
    assert np.array_equal(select_components(labels, keep={1: 1}, smallest_voxels={}), before)
    assert select_components(labels, keep={7: 1}, smallest_voxels={}).sum() == 7
    assert np.array_equal(labels, before)


def test_touching_labels_are_apart_and_fewer_components_than_asked_all_stay():
    labels = np.array([[[1, 1, 2, 2, 2]]], np.uint8)
    assert np.array_equal(select_components(labels, keep={1: 3, 2: 1}, smallest_voxels={}), labels)


def test_small_components_go_as_in_simpleitk():
    labels = _blobs(1, smooth=(0.7, 1.0, 1.0))
    dropped = select_components(labels, keep={}, smallest_voxels={1: 0.02 / 0.001, 3: 0.05 / 0.001})
    assert np.array_equal(dropped == 2, labels == 2)
    for label, voxels in ((1, 20), (3, 50)):
        image = sitk.GetImageFromArray((labels == label).astype(np.uint8))
        parts = sitk.RelabelComponent(sitk.ConnectedComponent(image, True), minimumObjectSize=voxels)
        expected = sitk.GetArrayFromImage(parts) > 0
        assert 0 < expected.sum() < (labels == label).sum()
        assert np.array_equal(dropped == label, expected)


def test_a_component_of_just_the_smallest_volume_stays():
    labels = np.zeros((1, 1, 9), np.uint8)
    labels[0, 0, :3] = labels[0, 0, 5:7] = 1
    for voxel_ml in (0.1, 0.7, 1e-3):  # 3 * 0.1 > 0.3 in binary fractions, 3 * 0.7 < 2.1
        kept = select_components(labels, keep={}, smallest_voxels={1: 3 * voxel_ml / voxel_ml})
        assert kept[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_an_organ_without_any_large_component_is_gone():
    labels = np.ones((2, 2, 2), np.uint8)
    assert not select_components(labels, keep={}, smallest_voxels={1: 8.1}).any()


@pytest.mark.parametrize("spacing_mm", [SPACING_MM, (1.0, 1.0, 1.0), (0.6, 3.2, 1.1)])
def test_opening_is_scipys_with_the_same_ball_and_the_edge_takes_nothing(spacing_mm):
    labels = _blobs(2)
    opened = open_organs(labels, RADII_MM, spacing_mm=spacing_mm)
    for label, radius in RADII_MM.items():
        ball = _ball(radius, spacing_mm)
        core = ndimage.binary_erosion(labels == label, ball, border_value=1)
        assert np.array_equal(opened == label, ndimage.binary_dilation(core, ball))
    assert (opened != labels).any()


@pytest.mark.parametrize("spacing_mm", [SPACING_MM, (1.0, 1.0, 1.0), (0.6, 3.2, 1.1)])
def test_closing_is_scipys_with_the_same_ball_where_there_is_background(spacing_mm):
    labels = _blobs(3)
    for label, radius in RADII_MM.items():
        ball = _ball(radius, spacing_mm)
        closed = ndimage.binary_closing(np.pad(labels == label, 9), ball)[9:-9, 9:-9, 9:-9]
        expected = np.where(closed & (labels == 0), label, labels)
        assert np.array_equal(close_organs(labels, {label: radius}, spacing_mm=spacing_mm), expected)
        assert (expected != labels).any() or ball.size <= 3


def test_an_organ_that_the_edge_cuts_is_not_rounded_there():
    labels = np.zeros((6, 20, 20), np.uint8)
    labels[:, :, 3:17] = 1  # cut on four sides
    labels[3, 10, 17:] = 1  # a thread from it to the fifth
    opened = open_organs(labels, {1: 3.2}, spacing_mm=(1.0, 1.0, 1.0))
    expected = labels.copy()
    expected[3, 10, 17:] = 0
    assert np.array_equal(opened, expected)
    assert np.array_equal(close_organs(opened, {1: 3.2}, spacing_mm=(1.0, 1.0, 1.0)), opened)


def test_an_organ_that_fills_the_scan_stays():
    labels = np.ones((3, 4, 5), np.uint8)
    assert np.array_equal(open_organs(labels, {1: 50.0}, spacing_mm=SPACING_MM), labels)
    assert np.array_equal(close_organs(labels, {1: 50.0}, spacing_mm=SPACING_MM), labels)
    assert np.array_equal(fill_holes(labels, (1,)), labels)


def test_organs_longer_than_a_slab_are_opened_and_closed_as_a_whole():
    labels = _blobs(7, shape=(200, 12, 14), smooth=(2, 1, 1))
    ball = _ball(3.1, (0.9, 1.0, 1.0))
    core = ndimage.binary_erosion(labels == 1, ball, border_value=1)
    opened = open_organs(labels, {1: 3.1}, spacing_mm=(0.9, 1.0, 1.0))
    assert np.array_equal(opened == 1, ndimage.binary_dilation(core, ball))
    closed = ndimage.binary_closing(np.pad(labels == 3, 9), ball)[9:-9, 9:-9, 9:-9]
    expected = np.where(closed & (labels == 0), 3, labels)
    assert np.array_equal(close_organs(labels, {3: 3.1}, spacing_mm=(0.9, 1.0, 1.0)), expected)


def test_a_voxel_at_just_the_radius_belongs_to_the_ball():
    labels = np.zeros((1, 1, 40), np.uint8)
    labels[0, 0, 3:10] = labels[0, 0, 20:26] = 1  # seven and six voxels; a ball of three steps is seven long
    opened = open_organs(labels, {1: 3 * 0.7}, spacing_mm=(0.7, 0.7, 0.7))
    assert np.flatnonzero(opened).tolist() == [3, 4, 5, 6, 7, 8, 9]


def test_closing_claims_neither_other_organs_nor_the_gap_of_the_organ_named_first():
    plates = np.array([1, 3, 0, 1, 2, 0, 1, 2], np.uint8)
    labels = np.tile(plates, (21, 21, 1))
    closed = {
        names: close_organs(labels, dict.fromkeys(names, 4.0), spacing_mm=(1.0, 1.0, 1.0)) for names in ((1, 2), (2, 1))
    }
    assert closed[1, 2][10, 10].tolist() == [1, 3, 1, 1, 2, 1, 1, 2]
    assert closed[2, 1][10, 10].tolist() == [1, 3, 1, 1, 2, 2, 1, 2]
    assert closed[1, 2][0, 0].tolist() == plates.tolist()  # beyond the scan there may be a way into the gap


def test_holes_are_scipys_and_simpleitks():
    labels = _blobs(4, smooth=(0.6, 0.8, 0.8))
    for label in (1, 2, 3):
        mask = labels == label
        enclosed = ndimage.binary_fill_holes(mask)
        itk = sitk.BinaryFillhole(sitk.GetImageFromArray(mask.astype(np.uint8)), False, 1)
        assert np.array_equal(sitk.GetArrayFromImage(itk) > 0, enclosed)
        expected = np.where(enclosed & (labels == 0), label, labels)
        assert np.array_equal(fill_holes(labels, (label,)), expected)


def test_an_organ_within_an_organ_stays_and_the_background_around_it_is_filled():
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[1:6, 1:6, 1:6] = 1
    labels[2:5, 2:5, 2:5] = 0
    labels[3, 3, 3] = 2
    filled = fill_holes(labels, (1, 2))
    assert (filled == 1).sum() == 5**3 - 1
    assert (filled == 2).sum() == 1


def test_a_hole_that_reaches_the_edge_is_open():
    labels = np.ones((3, 5, 5), np.uint8)
    labels[:2, 2, 2] = 0
    assert np.array_equal(fill_holes(labels, (1,)), labels)
    labels[0, 2, 2] = 1
    assert fill_holes(labels, (1,)).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 4.0))
def test_doing_it_again_changes_nothing(seed, radius_mm):
    labels = _blobs(seed, shape=(8, 18, 20))
    radii = {1: radius_mm, 3: radius_mm / 2}
    operations = (
        lambda image: open_organs(image, radii, spacing_mm=SPACING_MM),
        lambda image: close_organs(image, radii, spacing_mm=SPACING_MM),
        lambda image: fill_holes(image, (1, 2, 3)),
        lambda image: select_components(image, keep={}, smallest_voxels={1: 20, 2: 10}),
        lambda image: select_components(image, keep={1: 1, 3: 2}, smallest_voxels={}),
    )
    for operation in operations:
        once = operation(labels)
        assert np.array_equal(operation(once), once)


EVERYTHING = Postprocessing(
    opening_mm={"liver": 1.9, "spleen": 0.75},
    closing_mm={"kidneys": 3.1},
    fill_holes=("liver", "spleen"),
    smallest_ml={"liver": 0.02, "kidney": 0.03},
    largest_components={"liver": 3, "spleen": 1},
)


def test_tidy_is_the_single_functions_in_the_order_of_the_settings():
    labels = _blobs(5)
    voxel_ml = 2.5 * 0.8 * 0.7 / 1000
    expected = open_organs(labels, {LIVER: 1.9, SPLEEN: 0.75}, spacing_mm=SPACING_MM)
    expected = close_organs(expected, {KIDNEY: 3.1}, spacing_mm=SPACING_MM)
    expected = fill_holes(expected, (LIVER, SPLEEN))
    expected = select_components(expected, keep={}, smallest_voxels={LIVER: 0.02 / voxel_ml, KIDNEY: 0.03 / voxel_ml})
    expected = select_components(expected, keep={LIVER: 3, SPLEEN: 1}, smallest_voxels={})
    tidied = tidy(labels, SPACING_MM, settings=EVERYTHING, space=ABDOMENCT1K)
    assert np.array_equal(tidied, expected)
    assert (tidied != labels).any()


def test_tidy_does_nothing_by_default_and_leaves_its_input():
    labels = _blobs(6)
    before = labels.copy()
    assert np.array_equal(tidy(labels, SPACING_MM, settings=Postprocessing(), space=ABDOMENCT1K), before)
    tidy(labels, SPACING_MM, settings=EVERYTHING, space=ABDOMENCT1K)
    assert np.array_equal(labels, before)


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 1, 1), (1, 8, 8), (0, 4, 4)])
def test_an_empty_map_stays_empty(shape):
    labels = np.zeros(shape, np.uint8)
    assert not tidy(labels, SPACING_MM, settings=EVERYTHING, space=ABDOMENCT1K).any()
    assert not select_components(labels, keep={1: 1}, smallest_voxels={}).any()


def test_one_voxel_stays_unless_it_is_opened_or_small():
    labels = np.zeros((3, 5, 5), np.uint8)
    labels[1, 2, 2] = SPLEEN
    settings_of = {
        "stays": Postprocessing(closing_mm={"spleen": 9.0}, fill_holes=("spleen",), largest_components={"spleen": 1}),
        "opened": Postprocessing(opening_mm={"spleen": 0.8}),
        "small": Postprocessing(smallest_ml={"spleen": 0.01}),
    }
    left = {
        name: int((tidy(labels, SPACING_MM, settings=chosen, space=ABDOMENCT1K) > 0).sum())
        for name, chosen in settings_of.items()
    }
    assert left == {"stays": 1, "opened": 0, "small": 0}


@pytest.mark.parametrize(
    "setting",
    [
        {"opening_mm": {"livr": 1.0}},
        {"closing_mm": {"livr": 1.0}},
        {"fill_holes": ("livr",)},
        {"smallest_ml": {"livr": 1.0}},
        {"largest_components": {"livr": 1}},
    ],
)
def test_an_organ_that_the_space_lacks_is_named_with_its_setting(setting):
    with pytest.raises(LabelError, match=rf"post-processing, {next(iter(setting))}: .*no 'livr'.*mean 'liver'"):
        tidy(np.zeros((2, 2, 2), np.uint8), SPACING_MM, settings=Postprocessing(**setting), space=ABDOMENCT1K)


def test_an_organ_named_twice_and_an_impossible_spacing_are_refused():
    labels = np.zeros((2, 2, 2), np.uint8)
    twice = Postprocessing(largest_components={"kidney": 1, "kidneys": 2})
    with pytest.raises(SettingError, match="largest_components: 'kidney' is named twice"):
        tidy(labels, SPACING_MM, settings=twice, space=ABDOMENCT1K)
    for step in (0.0, -1.0, float("nan")):
        with pytest.raises(GeometryError, match="three positive values"):
            tidy(labels, (step, 1.0, 1.0), settings=EVERYTHING, space=ABDOMENCT1K)


def test_tumour_overrides_organ():
    organs = np.array([[[0, 1, 1, 2]]], np.uint8)
    tumour = np.array([[[True, False, True, True]]])
    assert merge_tumour(organs, tumour, index=14)[0, 0].tolist() == [14, 1, 14, 14]
    assert organs[0, 0].tolist() == [0, 1, 1, 2]
    assert np.array_equal(merge_tumour(organs, np.zeros_like(tumour), index=14), organs)
    with pytest.raises(LabelError, match="from 1 to 255, got 256"):
        merge_tumour(organs, tumour, index=256)
    with pytest.raises(GeometryError, match="1x1x4 against 1x1x3"):
        merge_tumour.__wrapped__(organs, tumour[..., :3], index=14)


def _scene():
    """A liver with a lesion that bulges, a lesion beside a kidney, and one in the middle of nowhere."""
    organs = np.zeros((5, 10, 30), np.uint8)
    organs[:, :, :8] = LIVER
    organs[:, 4:6, 8:10] = SPLEEN
    organs[:, :, 15:18] = KIDNEY
    tumour = np.zeros(organs.shape, bool)
    tumour[2, 3:7, 5:10] = True  # 20 voxels: 12 in the liver, 4 in the spleen, 4 in the background
    tumour[1, 2, 18:20] = True  # 2 voxels that touch the kidney
    tumour[4, 9, 29] = True  # a corner of the scan
    return organs, tumour


def test_a_report_says_how_large_the_parts_are_and_inside_which_organ():
    organs, tumour = _scene()
    report = tumour_report(organs, tumour, space=ABDOMENCT1K, voxel_ml=0.5)
    assert json.loads(json.dumps(asdict(report))) == {
        "volume_ml": 11.5,
        "components": 3,
        "largest": [
            {"volume_ml": 10.0, "organ": "liver"},
            {"volume_ml": 1.0, "organ": "kidney"},
            {"volume_ml": 0.5, "organ": "none"},
        ],
        "overlap_ml": {"liver": 6.0, "spleen": 2.0},
    }


def test_a_tumour_label_among_the_organs_is_no_organ():
    space = LabelSpace("with_tumour", (*ABDOMENCT1K.organs, TUMOUR))
    organs, tumour = _scene()
    merged = merge_tumour(organs, tumour, index=space.index(TUMOUR))
    report = tumour_report(merged, tumour, space=space, voxel_ml=0.5)
    assert [part.organ for part in report.largest] == ["liver", "kidney", "none"]  # what each touches most
    assert report.overlap_ml == {}


def test_only_the_twenty_largest_parts_are_described_but_all_are_counted():
    tumour = np.zeros((1, 3, 100), bool)
    tumour[0, 0, ::2] = True
    tumour[0, :, 80] = True
    report = tumour_report(np.zeros(tumour.shape, np.uint8), tumour, space=ABDOMENCT1K, voxel_ml=1.0)
    assert report.components == 50
    assert report.volume_ml == 52
    assert [part.volume_ml for part in report.largest] == [3.0, *[1.0] * 19]


def test_no_tumour_is_an_empty_report():
    report = tumour_report(*[np.zeros((2, 3, 4), kind) for kind in (np.uint8, bool)], space=ABDOMENCT1K, voxel_ml=1.0)
    assert asdict(report) == {"volume_ml": 0.0, "components": 0, "largest": (), "overlap_ml": {}}


def test_settings_of_another_label_space_leave_out_what_this_one_has_not_but_no_misspelt_name():
    settings = Postprocessing(
        fill_holes=("Liver", "bladder", "lver"),
        largest_components={"kidney": 2, "stomach": 1},
        opening_mm={"colon": 1.0},
    )
    found = settings.fitted(ABDOMENCT1K)
    assert found == Postprocessing(fill_holes=("Liver", "lver"), largest_components={"kidney": 2})
    with pytest.raises(LabelError, match="lver"):
        tidy(np.zeros((2, 2, 2), np.uint8), (1.0, 1.0, 1.0), settings=found, space=ABDOMENCT1K)
