"""Pictures are tested by their pixels; charts by what they draw."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from viscera.errors import FileError, GeometryError, LabelError, SettingError
from viscera.figures import (
    AGREEMENT_COLOURS,
    Epoch,
    Look,
    Mean,
    ScanHu,
    agreement,
    best_epoch,
    curves_figure,
    dice_bars,
    dice_boxes,
    hu_distribution,
    inline_svg,
    label_frequencies,
    montage,
    overlay,
    read_log,
    save,
    stills,
    training_curves,
)
from viscera.figures.canvas import INK, line_colour
from viscera.figures.montage import choose_slices
from viscera.figures.pictures import AGREE, FALSE, MISSED, OTHER, UNJUDGED, grey, outlines, resize_labels
from viscera.figures.sheet import bar_length_mm
from viscera.labels import COLOURS, colour
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


@pytest.mark.parametrize(
    "turn",
    [
        Turn((0, 1, 2), (True, False, True)),
        Turn((0, 1, 2), (False, True, False)),
        Turn((2, 1, 0), (False, False, False)),
        Turn((1, 2, 0), (True, True, False)),
    ],
)
def test_flipped_and_transposed_copies_give_the_same_pictures(turn):
    ct, labels = patient()
    prediction = Volume(np.roll(labels.voxels, 2, axis=2), labels.affine)
    look = Look(axial=3, coronal=1, sagittal=1, panel_pixels=150)
    expected = stills(ct, prediction, truth=labels, names=NAMES, look=look)
    turned = [turn_volume(volume, turn) for volume in (ct, prediction, labels)]
    got = stills(turned[0], turned[1], truth=turned[2], names=NAMES, look=look)
    assert [row.plane for row in got.rows] == [row.plane for row in expected.rows]
    assert [row.position_mm for row in got.rows] == pytest.approx([row.position_mm for row in expected.rows])
    for a, b in zip(got.rows, expected.rows, strict=True):
        assert all((x == y).all() for x, y in zip(a.pictures, b.pictures, strict=True))


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


def test_chosen_slices_show_every_organ():
    areas = np.zeros((100, 3), int)
    areas[10:14, 0], areas[50:60, 1], areas[80, 2] = 5, 9, 1
    chosen = choose_slices(areas, 3)
    assert chosen == sorted(chosen)
    assert (areas[chosen] > 0).any(axis=0).all()
    assert choose_slices(areas, 3, head_first=True) == chosen[::-1]


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
    with pytest.raises(LabelError, match="prediction: holds values -1000 to 700, so it is no label map"):
        montage(ct, ct, truth=None, names=NAMES, out=tmp_path / "a.png")
    with pytest.raises(LabelError, match="whole numbers, got float32"):
        stills(ct, Volume(labels.voxels.astype(np.float32), labels.affine), truth=None, names=NAMES)


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


def log_line(epoch, **values):
    return (
        json.dumps({"epoch": epoch, "step": epoch, "learning_rate": 1e-3, "train_loss": 1.0 / epoch, **values}) + "\n"
    )


def test_a_log_is_read_with_nulls_and_without_what_a_kill_left(tmp_path):
    path = tmp_path / "log.jsonl"
    first = log_line(1, val_loss=None, val_dice={"liver": 0.5, "colon": None})
    path.write_text(first + log_line(2, val_loss=2.0) + log_line(2, val_loss=0.25) + '{"epoch": 3, "tra')
    epochs = read_log(path)
    assert [(entry.epoch, entry.val_loss) for entry in epochs] == [(1, None), (2, 0.25)]
    assert epochs[0].val_dice == {"liver": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no finished epoch"),
        ("nonsense\n" + log_line(1), "line 1: is no epoch"),
        ('{"epoch": "one"}\n', "epoch must be a whole number, got 'one'"),
        ('{"epoch": 1, "val_loss": "low"}\n', "expected a number or null, got 'low'"),
        ('{"epoch": 1, "val_dice": 3}\n', "expected scores per organ, got 3"),
        ("[1]\n", "line 1: is no epoch"),
    ],
)
def test_logs_that_are_none_are_refused(tmp_path, text, message):
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(FileError, match=message):
        read_log(tmp_path / "log.jsonl")


def test_a_missing_log_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"log\.jsonl cannot be read"):
        training_curves(tmp_path / "log.jsonl", tmp_path / "a.png")


def test_the_best_epoch_has_the_lowest_validation_loss_or_else_the_highest_dice():
    losses = [
        Epoch(1, val_loss=0.5),
        Epoch(2, val_loss=0.2, val_dice={"liver": 0.1}),
        Epoch(3, val_dice={"liver": 0.9}),
    ]
    assert best_epoch(losses) == losses[1]
    assert best_epoch([Epoch(1, val_dice={"liver": 0.9}), Epoch(2, val_dice={"liver": 0.3})]) == Epoch(
        1, val_dice={"liver": 0.9}
    )
    assert best_epoch([Epoch(1, train_loss=1.0)]) is None


@pytest.mark.parametrize("count", [1, 2, 7, 200])
def test_curves_of_any_length_can_be_drawn(tmp_path, count):
    epochs = [
        Epoch(i + 1, 1e-3, 1 / (i + 1), None, {"liver": 0.5}, {"spleen": 0.1} if i % 2 else {}) for i in range(count)
    ]
    path = training_curves(epochs, tmp_path / "curves.png")
    with Image.open(path) as image:
        assert image.format == "PNG"


def test_curves_draw_each_value_of_the_log():
    epochs = [Epoch(1, 0.1, 2.0, 3.0), Epoch(2, 0.1, 1.0, 1.5), Epoch(3, 0.01, 0.5, 1.75)]
    axes = {a.get_title(loc="left"): a for a in curves_figure(epochs).axes}
    lines = {line.get_label(): line for line in axes["Loss"].get_lines()}
    assert list(lines["training"].get_ydata()) == [2.0, 1.0, 0.5]
    assert list(lines["validation"].get_ydata()) == [3.0, 1.5, 1.75]
    assert [text.get_text() for text in axes["Loss"].texts] == ["best: 2"]
    assert [text.get_text() for text in axes["Validation Dice"].texts] == ["not measured"]


def test_curves_need_an_epoch():
    with pytest.raises(FileError, match="no epoch to draw"):
        curves_figure([])


def test_boxes_show_a_point_for_every_case():
    axes = dice_boxes({"liver": [0.9, 0.95, 0.5], "colon": [0.7], "spleen": []}).axes[0]
    points = [collection.get_offsets() for collection in axes.collections]
    assert [sorted(np.round(p[:, 0].astype(float), 3).tolist()) for p in points] == [[0.5, 0.9, 0.95], [0.7], []]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["liver (3)", "colon (1)", "spleen (0)"]


def test_bars_show_mean_and_interval():
    axes = dice_bars([Mean("liver", 0.9, 0.8, 0.95, 7), Mean("mean", 0.85, None, None, 7)]).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.9, 0.85]
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[0.8, 0.95]]
    assert [text.get_text() for text in axes.texts] == ["0.900", "0.850"]


def test_hu_distribution_has_a_panel_per_data_set_with_range_percentiles_and_mean():
    scan = ScanHu(-1024.0, -900.0, -300.0, 100.0, 2000.0)
    axes = hu_distribution({"a": [scan, scan], "b": [scan]}).axes
    assert [a.get_title(loc="left") for a in axes] == ["a  (2 scans)", "b  (1 scans)"]
    reach, middle, mean = axes[0].collections
    assert [path.vertices[:, 1].tolist() for path in reach.get_paths()] == [[-1024, 2000]] * 2
    assert [path.vertices[:, 1].tolist() for path in middle.get_paths()] == [[-900, 100]] * 2
    assert np.asarray(mean.get_offsets()).tolist() == [[1, -300], [2, -300]]


def test_four_data_sets_or_none_can_be_drawn(tmp_path):
    scan = ScanHu(-1024.0, -900.0, -300.0, 100.0, 2000.0)
    save(hu_distribution({name: [scan] for name in "abcd"}), tmp_path / "a.png")
    save(hu_distribution({}), tmp_path / "b.png")
    save(label_frequencies({}), tmp_path / "c.png")
    save(dice_boxes({}), tmp_path / "d.png")
    save(dice_bars([]), tmp_path / "e.png")


def test_organs_that_are_not_annotated_are_hatched_not_zero():
    axes = label_frequencies({"a": {"liver": 1000, "colon": None}, "b": {"liver": 0}}).axes[0]
    hatched = [bar for bar in axes.patches if bar.get_hatch()]
    plain = [bar for bar in axes.patches if not bar.get_hatch()]
    assert [bar.get_x() + bar.get_width() for bar in plain] == [1000]
    assert len(hatched) == 2  # colon in a (None) and in b (not listed)
    assert [text.get_text() for text in axes.texts] == ["0 (annotated, absent)"]


def test_inline_svg_needs_no_address_and_takes_the_page_s_colour():
    text = inline_svg(dice_bars([Mean("liver", 0.9, 0.8, 0.95, 7)]), 'a "quoted" <name>')
    assert text.startswith('<svg role="img" aria-label="a  quoted   name "')
    assert "http" not in text
    assert INK not in text
    assert "currentColor" in text
    assert "0.900" in text
    named = re.findall(r' id="([^"]+)"', text)
    assert len(named) == len(set(named))


def test_two_svgs_share_no_id():
    first, second = (inline_svg(dice_bars([Mean("liver", 0.9, 0.8, 0.95, 7)]), name) for name in ("one", "two"))
    assert not set(re.findall(r' id="([^"]+)"', first)) & set(re.findall(r' id="([^"]+)"', second))


@pytest.mark.parametrize("organ", sorted(COLOURS))
def test_lines_are_visible_on_white_and_on_black(organ):
    luminance = float(np.dot(line_colour(organ), (0.2126, 0.7152, 0.0722)))
    assert 0.29 <= luminance <= 0.63


def test_a_figure_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        save(dice_bars([]), tmp_path / "file" / "a.png")
