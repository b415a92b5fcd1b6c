"""Charts are tested by what they draw."""

import json
import math
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from viscera.colours import COLOURS
from viscera.errors import FileError
from viscera.evaluation.confusion import Confusion
from viscera.evaluation.scores import Summary
from viscera.figures.canvas import INK, inline_svg, line_colour, save
from viscera.figures.confusion import confusion_figure
from viscera.figures.curves import Epoch, best_epoch, curves_figure, read_log, training_curves
from viscera.figures.data_set import ScanHu, hu_distribution, label_frequencies
from viscera.figures.scores import dice_bars, dice_boxes

LIVER = Summary("liver", "dice", 0.9, 0.8, 0.95, 7)


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
        ("nonsense\n" + log_line(1), "line 1: is not an epoch"),
        ('{"epoch": "one"}\n', r"line 1: is not an epoch \(epoch: should be a valid integer, got 'one'"),
        ('{"epoch": 1, "val_loss": "low"}\n', r"\(val_loss: should be a valid number, got 'low'"),
        ('{"epoch": 1, "val_dice": 3}\n', r"\(val_dice: should be an object, got 3"),
        ("[1]\n", "line 1: is not an epoch"),
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


def test_curves_take_a_run_s_folder(tmp_path):
    (tmp_path / "log.jsonl").write_text(log_line(1))
    assert read_log(tmp_path) == read_log(tmp_path / "log.jsonl")
    assert training_curves(tmp_path, tmp_path / "curves.png").is_file()


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
    axes = dice_bars([LIVER, Summary("mean", "dice", 0.85, math.nan, math.nan, 7)]).axes[0]
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
    text = inline_svg(dice_bars([LIVER]), 'a "quoted" <name>')
    assert text.startswith('<svg role="img" aria-label="a  quoted   name "')
    assert "http" not in text
    assert INK not in text
    assert "currentColor" in text
    assert "0.900" in text
    named = re.findall(r' id="([^"]+)"', text)
    assert len(named) == len(set(named))


def test_two_svgs_share_no_id():
    first, second = (inline_svg(dice_bars([LIVER]), name) for name in ("one", "two"))
    assert not set(re.findall(r' id="([^"]+)"', first)) & set(re.findall(r' id="([^"]+)"', second))


@pytest.mark.parametrize("organ", sorted(COLOURS))
def test_lines_are_visible_on_white_and_on_black(organ):
    luminance = float(np.dot(line_colour(organ), (0.2126, 0.7152, 0.0722)))
    assert 0.29 <= luminance <= 0.63


def test_a_figure_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        save(dice_bars([]), tmp_path / "file" / "a.png")


def matrix_axes():
    ml = ((990.0, 10.0, 0.0, 0.0), (20.0, 70.0, 9.5, 0.5), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 5.0))
    return confusion_figure(Confusion(("background", "liver", "inferior_vena_cava", "colon"), ml))


def test_a_confusion_matrix_shows_per_cent_of_each_true_class_from_one_on(tmp_path):
    figure = matrix_axes()
    axes = figure.axes[0]
    shown = {text.get_position()[::-1]: text.get_text() for text in axes.texts}  # (row, column)
    assert shown == {(0, 0): "99", (0, 1): "1", (1, 0): "20", (1, 1): "70", (1, 2): "10", (3, 3): "100"}  # fmt: skip
    names = ["background", "liver", "inferior vena cava", "colon"]
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row is the upper one
    with Image.open(save(figure, tmp_path / "confusion.png")) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300


def test_true_classes_that_no_truth_shows_are_hatched_and_not_zero():
    cells = matrix_axes().axes[0].patches
    assert [(cell.get_x(), cell.get_y()) for cell in cells if cell.get_hatch()] == [(n - 0.5, 1.5) for n in range(4)]


def test_right_and_wrong_differ_for_every_kind_of_colour_vision_and_numbers_can_be_read():
    def luminance(colour):
        return float(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)))

    axes = matrix_axes().axes[0]
    colours = {(round(c.get_y() + 0.5), round(c.get_x() + 0.5)): c.get_facecolor() for c in axes.patches}
    for text in axes.texts:
        column, row = text.get_position()
        assert abs(luminance(text.get_color()) - luminance(colours[row, column])) > 0.4
    red, _, blue = colours[1, 1][:3]  # right: blue
    assert blue > red
    red, _, blue = colours[1, 0][:3]  # mistaken: orange, which no kind of colour vision takes for blue
    assert red > blue


def test_a_matrix_becomes_an_svg_with_its_names_and_without_pictures():
    text = inline_svg(matrix_axes(), "confusion")
    assert "inferior vena cava" in text
    assert "<image" not in text
    assert inline_svg(confusion_figure(Confusion(("background",), ((0.0,),))), "empty").startswith("<svg")
