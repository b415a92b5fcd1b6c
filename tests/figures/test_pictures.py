"""Pictures are tested by their pixels. Charts are in test_figures_charts.py."""

import itertools

import numpy as np
import pytest
from PIL import Image

from viscera.colours import COLOURS, SLICER_COLOURS, colour
from viscera.errors import GeometryError, LabelError, SettingError
from viscera.figures.montage import Look, choose_slices, montage, stills
from viscera.figures.pictures import (
    AGREE,
    AGREEMENT_COLOURS,
    FALSE,
    MISSED,
    OTHER,
    UNJUDGED,
    agreement,
    grey,
    outlines,
    overlay,
    resize_labels,
)
from viscera.figures.sheet import bar_length_mm
from viscera.volume import Turn, Volume, turn_volume

LIVER, SPLEEN, KIDNEY = 1, 2, 3
NAMES = {LIVER: "liver", SPLEEN: "spleen", KIDNEY: "kidney"}
YELLOW, GREEN, RED = (255, 214, 10), (48, 209, 88), (255, 59, 48)


def ball(shape, centre, radii):
    grid = np.indices(shape)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


def patient():
    """A body in axial order (feet to head, front to back, right to left): liver on the right, spleen on the left,
    spine at the back; spacing 4 x 2 x 2 mm."""
    shape = (30, 60, 80)
    ct = np.full(shape, -1000, np.int16)
    ct[ball(shape, (15, 30, 40), (1000, 24, 34))] = 0
    labels = np.zeros(shape, np.uint8)
    labels[ball(shape, (20, 28, 20), (6, 10, 10))] = LIVER
    labels[ball(shape, (20, 34, 62), (5, 6, 6))] = SPLEEN
    labels[ball(shape, (8, 38, 28), (4, 5, 5))] = KIDNEY
    ct[labels > 0] = 120
    ct[ball(shape, (15, 48, 40), (1000, 4, 4))] = 700
    affine = np.array([[0, 0, -2, 79.0], [0, -2, 0, 60.0], [4, 0, 0, -100.0], [0, 0, 0, 1]])
    return Volume(ct, affine), Volume(labels, affine)


def test_grey_maps_the_window_to_black_and_white():
    assert grey(np.array([[-160.0, 40, 240, 5000, -3000, np.nan]]), (-160.0, 240.0)).tolist() == [
        [0, 128, 255, 255, 0, 0]
    ]


def test_overlay_paints_filling_outline_and_leaves_the_rest():
    ct = np.full((7, 7), 40.0)  # middle of the window: grey 128
    labels = np.zeros((7, 7), np.uint8)
    labels[1:6, 1:6] = LIVER
    picture = overlay(ct, labels, colours={LIVER: (200, 0, 100)}, opacity=0.5)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [128, 128, 128]
    assert picture[1, 1].tolist() == [200, 0, 100]  # outline
    assert picture[3, 3].tolist() == [164, 64, 114]  # mean of grey and colour


def test_overlay_leaves_labels_without_a_colour_and_its_arguments_alone():
    ct, labels = np.zeros((4, 4)), np.full((4, 4), 9, np.uint8)
    picture = overlay(ct, labels, colours={0: (1, 2, 3), LIVER: (9, 9, 9)})
    assert len(np.unique(picture)) == 1
    assert (ct == 0).all()
    assert (labels == 9).all()


def test_outlines_are_inside_the_label_and_not_at_the_picture_s_border():
    labels = np.zeros((5, 5), np.uint8)
    labels[:, :3] = 1
    expected = np.zeros((5, 5), bool)
    expected[:, 2] = True
    assert (outlines(labels) == expected).all()


def test_agreement_tells_right_false_missed_and_another_organ():
    truth = np.array([[0, 1, 1, 0, 1]])
    prediction = np.array([[0, 1, 0, 2, 2]])
    assert agreement(truth, prediction).tolist() == [[0, AGREE, MISSED, FALSE, OTHER]]


def test_a_predicted_organ_that_is_not_annotated_is_not_false():
    truth = np.array([[0, 0, 1, 1]])
    prediction = np.array([[2, 1, 2, 1]])
    assert agreement(truth, prediction, annotated=[1]).tolist() == [[UNJUDGED, FALSE, OTHER, AGREE]]


def test_agreement_is_yellow_false_green_and_missed_red():
    assert (AGREEMENT_COLOURS[AGREE], AGREEMENT_COLOURS[FALSE], AGREEMENT_COLOURS[MISSED]) == (YELLOW, GREEN, RED)


def test_enlarged_labels_repeat_voxels():
    labels = np.array([[1, 2], [3, 4]], np.uint8)
    assert (resize_labels(labels, (6, 4)) == np.repeat(np.repeat(labels, 3, 0), 2, 1)).all()
    assert (resize_labels(labels, (2, 2)) == labels).all()


def test_slices_show_the_liver_on_the_left_of_the_picture_and_the_spine_at_the_bottom():
    ct, labels = patient()
    row = stills(ct, labels, truth=None, names=NAMES, look=Look(axial=1, coronal=0, panel_pixels=160)).rows[0]
    plain, painted = row.pictures
    rows, columns = plain.shape[:2]
    liver = np.argwhere((painted == colour("liver")).all(axis=2))
    spleen = np.argwhere((painted == colour("spleen")).all(axis=2))
    spine = np.argwhere((plain == 255).all(axis=2))
    assert liver[:, 1].max() < columns / 2 < spleen[:, 1].min()
    assert spine[:, 0].min() > rows / 2


def test_coronal_slices_have_the_head_on_top_and_sagittal_ones_the_front_on_the_left():
    ct, labels = patient()
    look = Look(axial=0, coronal=1, sagittal=2, panel_pixels=160)
    coronal, *sagittal = stills(ct, labels, truth=None, names=NAMES, look=look).rows
    liver = np.argwhere((coronal.pictures[1] == colour("liver")).all(axis=2))
    kidney = np.argwhere((coronal.pictures[1] == colour("kidney")).all(axis=2))
    assert liver[:, 0].mean() < kidney[:, 0].mean()
    assert liver[:, 1].mean() < coronal.pictures[0].shape[1] / 2
    liver, kidney = (
        np.concatenate([np.argwhere((row.pictures[1] == colour(organ)).all(axis=2)) for row in sagittal])
        for organ in ("liver", "kidney")
    )
    assert liver[:, 1].mean() < kidney[:, 1].mean()  # the kidney lies behind the liver


def test_pictures_have_true_proportions():
    ct, labels = patient()
    pictures = stills(ct, labels, truth=None, names=NAMES, look=Look(axial=1, coronal=1, panel_pixels=200))
    axial, coronal = (row.pictures[0].shape[:2] for row in pictures.rows)
    assert axial[1] == coronal[1] == 200
    # The organs lie on slices 4 to 26 of 4 mm, shown with 3 slices (12 mm) above and below.
    assert coronal[0] == round(29 * 4 / pictures.pixel_mm)
    # The body is at least 2 % of the columns 7 to 73 of 2 mm, shown with 6 columns (12 mm) on both sides.
    assert pictures.pixel_mm * 200 == pytest.approx(79 * 2)


def small_patient():
    """The patient with three organs on 8 x 12 x 14 voxels, no two axes alike in length, spacing or content."""
    z, y, x = np.indices((8, 12, 14))
    ct = np.where(((y - 6) / 5) ** 2 + ((x - 7) / 6) ** 2 < 1, 10 * z + 5 * y + x, -1000).astype(np.int16)
    labels = np.zeros(ct.shape, np.uint8)
    labels[3:7, 3:7, 2:6], labels[4:6, 6:9, 9:12], labels[1:3, 7:9, 4:6] = LIVER, SPLEEN, KIDNEY
    affine = np.array([[0, 0, -2, 20.0], [0, -3, 0, 30.0], [5, 0, 0, -40.0], [0, 0, 0, 1]])
    return Volume(ct, affine), Volume(labels, affine)


def rotated(affine, degrees):
    """Turn the world about the patient's long axis, then about the left-right one: an oblique scan."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_z = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    about_x = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    return about_x @ about_z @ affine


def same_pictures(got, expected):
    assert [row.plane for row in got.rows] == [row.plane for row in expected.rows]
    for a, b in zip(got.rows, expected.rows, strict=True):
        assert all((x == y).all() for x, y in zip(a.pictures, b.pictures, strict=True))
    assert got.pixel_mm == pytest.approx(expected.pixel_mm)
    assert got.legend == expected.legend


TURNS = [
    Turn(axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
"""All 48 orders and directions in which a file can hold its axes."""


@pytest.mark.parametrize("oblique", [0, 10])
def test_all_48_orientations_of_a_straight_or_oblique_scan_give_the_same_pictures(oblique):
    ct, labels = small_patient()
    affine = rotated(ct.affine, oblique)
    volumes = [Volume(voxels, affine) for voxels in (ct.voxels, np.roll(labels.voxels, 1, axis=2), labels.voxels)]
    look = Look(axial=2, coronal=1, sagittal=1, panel_pixels=40)
    straight = stills(ct, Volume(volumes[1].voxels, ct.affine), truth=labels, names=NAMES, look=look)
    expected = stills(volumes[0], volumes[1], truth=volumes[2], names=NAMES, look=look)
    same_pictures(expected, straight)  # an oblique scan is shown along its own axes
    for turn in TURNS:
        turned = [turn_volume(volume, turn) for volume in volumes]
        got = stills(turned[0], turned[1], truth=turned[2], names=NAMES, look=look)
        same_pictures(got, expected)
        assert [row.position_mm for row in got.rows] == pytest.approx([row.position_mm for row in expected.rows])


def test_files_of_other_orientations_give_the_same_png_with_the_same_marks(tmp_path):
    ct, labels = small_patient()
    look = Look(axial=1, coronal=1, panel_pixels=60)
    sheets = set()
    for turn in TURNS[::5]:  # of every order of the axes
        a, b = turn_volume(ct, turn), turn_volume(labels, turn)
        sheets.add(montage(a, b, truth=b, names=NAMES, out=tmp_path / "a.png", look=look).read_bytes())
    assert len(sheets) == 1


def test_an_oblique_png_differs_at_most_in_the_position_that_is_written(tmp_path):
    ct, labels = small_patient()
    look = Look(axial=1, coronal=0, panel_pixels=120)
    sheets = []
    for degrees in (0, 10):
        a, b = (Volume(volume.voxels, rotated(ct.affine, degrees)) for volume in (ct, labels))
        with Image.open(montage(a, b, truth=b, names=NAMES, out=tmp_path / f"{degrees}.png", look=look)) as image:
            sheets.append(np.asarray(image.convert("RGB")).astype(int))
    rows, columns = np.nonzero(np.abs(sheets[0] - sheets[1]).any(axis=2))
    assert rows.size  # the position in mm is the world's, which is turned
    assert columns.max() < 18 + 120  # it stands in the first column's picture
    assert rows.min() > 18 + 22 + 60  # below its middle, where R and L are


def test_a_mirrored_patient_is_shown_mirrored():
    """The copies above describe one patient; here the voxels are the same, but the affine says the other side."""
    ct, labels = small_patient()
    other = np.diag([-1.0, 1, 1, 1]) @ ct.affine
    look = Look(axial=1, coronal=0, panel_pixels=56)
    plain = stills(ct, labels, truth=None, names=NAMES, look=look).rows[0].pictures[1]
    turned = stills(Volume(ct.voxels, other), Volume(labels.voxels, other), truth=None, names=NAMES, look=look)
    liver, mirrored = (
        np.argwhere((p == colour("liver")).all(axis=2))[:, 1].mean() for p in (plain, turned.rows[0].pictures[1])
    )
    assert liver < plain.shape[1] / 2 < mirrored


def test_organs_can_have_slicer_s_colours():
    ct, labels = small_patient()
    look = Look(axial=1, coronal=0, panel_pixels=60, colours="slicer")
    pictures = stills(ct, labels, truth=None, names=NAMES, look=look)
    assert pictures.legend[0]["liver"] == (221, 130, 101)
    assert (pictures.rows[0].pictures[1] == (221, 130, 101)).all(axis=2).any()


def test_every_organ_has_a_colour_in_both_schemes_and_the_default_is_ours():
    assert set(SLICER_COLOURS) == set(COLOURS)
    assert all(colour(organ) == rgb for organ, rgb in COLOURS.items())
    assert all(colour(organ, "slicer") == rgb for organ, rgb in SLICER_COLOURS.items())
    assert colour("label_7", "slicer") == colour("label_7")


def test_the_agreement_column_shows_all_three_colours_where_they_belong():
    ct, truth = patient()
    prediction = truth.voxels.copy()
    prediction[prediction == SPLEEN] = 0
    prediction[17:24, 40:44, 38:42] = LIVER
    pictures = stills(
        ct, Volume(prediction, truth.affine), truth=truth, names=NAMES, look=Look(axial=2, coronal=0, panel_pixels=160)
    )
    compared = np.stack([row.pictures[3] for row in pictures.rows])
    columns = compared.shape[2]
    where = {
        name: np.argwhere((compared == c).all(axis=3))
        for name, c in (("yes", YELLOW), ("false", GREEN), ("missed", RED))
    }
    assert where["yes"][:, 2].max() < columns / 2  # liver and kidney
    assert where["missed"][:, 2].min() > columns / 2  # spleen
    assert abs(where["false"][:, 2].mean() - columns / 2) < 6
    assert pictures.columns == ("CT", "truth", "prediction", "agreement")
    assert list(pictures.legend[0]) == ["liver", "spleen", "kidney"]


def test_organs_that_the_truth_does_not_annotate_are_grey_not_false():
    ct, prediction = patient()
    truth = np.where(prediction.voxels == LIVER, prediction.voxels, 0)
    pictures = stills(
        ct, prediction, truth=Volume(truth, prediction.affine), names=NAMES, annotated=["liver"], look=Look(coronal=0)
    )
    for row in pictures.rows:
        assert not (row.pictures[3] == GREEN).all(axis=2).any()
    assert "organ not annotated" in pictures.legend[1]
    assert "false (predicted only)" in pictures.legend[1]  # the key of the column stays whole


@pytest.mark.parametrize(("organ", "centre"), [("liver", 20), ("kidney", 8)])
def test_slices_are_chosen_by_the_annotated_organs(organ, centre):
    ct, labels = patient()
    look = Look(axial=1, coronal=0)
    pictures = stills(ct, labels, truth=labels, names=NAMES, annotated=[organ], look=look)
    assert [row.position_mm for row in pictures.rows] == [4 * centre - 100]


def test_chosen_slices_show_every_organ():
    areas = np.zeros((100, 3), int)
    areas[10:14, 0], areas[50:60, 1], areas[80, 2] = 5, 9, 1
    chosen = choose_slices(areas, 3)
    assert chosen == sorted(chosen)
    assert (areas[chosen] > 0).any(axis=0).all()
    assert choose_slices(areas, 3, head_first=True) == chosen[::-1]


def test_slices_with_stray_flecks_only_are_not_shown():
    areas = np.zeros((200, 2), int)
    areas[100:120, 0], areas[110:130, 1] = 500, 400
    areas[3, 0] = areas[190, 1] = 5
    chosen = choose_slices(areas, 3)
    assert len(chosen) == 3
    assert all(100 <= index < 130 for index in chosen)


def test_slices_are_spread_where_nothing_is_left_to_gain():
    areas = np.ones((40, 1), int)
    chosen = choose_slices(areas, 4)
    assert len(set(chosen)) == 4
    assert np.diff(chosen).min() >= 5  # half a regular step of ten


@pytest.mark.parametrize(("slices", "amount", "expected"), [(1, 4, [0]), (3, 5, [0, 1, 2]), (8, 2, [2, 6])])
def test_slices_without_organs_are_spread_over_the_scan(slices, amount, expected):
    assert choose_slices(np.zeros((slices, 2), int), amount) == expected


def test_an_empty_prediction_of_one_slice_can_be_drawn(tmp_path):
    ct = Volume(np.full((1, 8, 8), -1000, np.int16), np.eye(4)[:, [2, 1, 0, 3]])
    empty = Volume(np.zeros((1, 8, 8), np.uint8), ct.affine)
    path = montage(ct, empty, truth=empty, names=NAMES, out=tmp_path / "a.png", look=Look(panel_pixels=120))
    with Image.open(path) as image:
        assert image.width > 4 * 120


def test_montage_is_a_readable_png_with_the_marks_on_the_right_sides(tmp_path):
    ct, labels = patient()
    dark = Volume(np.full_like(ct.voxels, -1000), ct.affine)  # nothing but text on black
    out = tmp_path / "montage.png"
    look = Look(axial=1, coronal=0, panel_pixels=200)
    assert (
        montage(dark, Volume(np.zeros_like(labels.voxels), ct.affine), truth=None, names=NAMES, out=out, look=look)
        == out
    )
    with Image.open(out) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("L"))
    rows = 150  # 60 x 80 voxels of 2 mm in 200 pixels
    top = 18 + 22
    right_mark = pixels[top + rows // 2 - 8 : top + rows // 2 + 8, 18 + 5 : 18 + 19] > 128
    left_mark = pixels[top + rows // 2 - 8 : top + rows // 2 + 8, 18 + 200 - 19 : 18 + 200 - 5] > 128
    # An L has its upright at its left and no ink at the upper right; an R has ink there.
    assert right_mark.any()
    assert left_mark.any()
    assert _upper_right(right_mark).any()
    assert not _upper_right(left_mark).any()
    assert [name for name in tmp_path.iterdir() if name.name.startswith(".")] == []


def _upper_right(mark):
    rows, columns = (np.flatnonzero(mark.any(axis=axis)) for axis in (1, 0))
    letter = mark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return letter[: letter.shape[0] // 2, letter.shape[1] // 2 :]


@pytest.mark.parametrize(("width_mm", "length_mm"), [(400.0, 100), (299.0, 50), (3.0, 1), (0.5, 1), (2000.0, 200)])
def test_scale_bars_have_round_lengths(width_mm, length_mm):
    assert bar_length_mm(width_mm) == length_mm


def test_labels_on_another_grid_are_refused(tmp_path):
    ct, labels = patient()
    moved = Volume(labels.voxels, labels.affine + np.array([[0, 0, 0, 5], *[[0] * 4] * 3]))
    with pytest.raises(GeometryError, match="prediction: labels lie on another grid"):
        montage(ct, moved, truth=None, names=NAMES, out=tmp_path / "a.png")
    with pytest.raises(GeometryError, match="truth: labels lie on another grid"):
        montage(ct, labels, truth=moved, names=NAMES, out=tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_scan_passed_as_labels_is_refused(tmp_path):
    ct, labels = patient()
    with pytest.raises(LabelError, match="prediction holds values from -1000 to 700, which are not labels"):
        montage(ct, ct, truth=None, names=NAMES, out=tmp_path / "a.png")
    with pytest.raises(LabelError, match="holds 0.5, but labels are whole numbers"):
        stills(ct, Volume(labels.voxels + np.float32(0.5), labels.affine), truth=None, names=NAMES)


def test_settings_out_of_range_are_refused():
    with pytest.raises(SettingError, match="at least one slice"):
        Look(axial=0, coronal=0)
    with pytest.raises(SettingError, match=r"window_hu 5\.\.5 HU is empty"):
        grey(np.zeros((1, 1)), (5.0, 5.0))
    with pytest.raises(SettingError, match="opacity 2 is outside"):
        overlay(np.zeros((1, 1)), np.zeros((1, 1), int), colours={}, opacity=2.0)
    with pytest.raises(SettingError, match="cannot be laid over each other"):
        overlay(np.zeros((1, 1)), np.zeros((1, 2), int), colours={})


def test_labels_without_a_name_are_drawn_under_their_number():
    ct, labels = patient()
    assert "label_2" in stills(ct, labels, truth=None, names={LIVER: "liver"}).legend[0]
