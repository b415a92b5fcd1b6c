"""Error grids are tested by the pixels of their panels; what is drawn around them, by what text it holds."""

import numpy as np
import pytest
from PIL import Image

from viscera.colours import colour
from viscera.errors import FileError, SettingError
from viscera.figures.error_grid import GridLook, JudgedSlice, error_grid, error_panels, picture_size
from viscera.figures.pictures import AGREE, AGREEMENT_COLOURS, FALSE, MISSED, UNJUDGED

YELLOW, GREEN, RED, GREY = (AGREEMENT_COLOURS[code] for code in (AGREE, FALSE, MISSED, UNJUDGED))
ORGANS = {1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas"}
FULL = GridLook(panel_pixels=40, opacity=1.0)


def judged(**changes):
    """40 x 40 pixels of 40 HU: the liver's truth in columns 0 to 19, its prediction in columns 10 to 29 of rows 0 to 9."""
    truth, prediction = np.zeros((2, 40, 40), np.uint8)
    truth[:10, :20] = 1
    prediction[:10, 10:30] = 1
    prediction[20:30, :10] = 2
    values = {
        "input_hu": np.full((40, 40), 40, np.int16),
        "truth": truth,
        "prediction": prediction,
        "spacing_mm": (2.0, 2.0),
        "organs": ORGANS,
    }
    return JudgedSlice(**values | changes)


def where(picture, rgb):
    return (picture == rgb).all(axis=2)


def test_four_organs_give_the_slice_the_prediction_and_a_panel_each():
    panels = error_panels(judged(), FULL)
    assert [panel.title for panel in panels] == ["network's input", "prediction", *ORGANS.values()]
    assert (panels[0].picture == 128).all()  # the middle of the window
    assert (where(panels[1].picture, colour("liver")) == (judged().prediction == 1)).all()
    assert (where(panels[1].picture, colour("kidney")) == (judged().prediction == 2)).all()


def test_agreement_is_yellow_false_positives_green_and_what_is_missed_red():
    liver = error_panels(judged(), FULL)[2]
    expected = np.zeros((3, 40, 40), bool)
    expected[0, :10, 10:20] = expected[1, :10, 20:30] = expected[2, :10, :10] = True
    for mask, rgb in zip(expected, (YELLOW, GREEN, RED), strict=True):
        assert (where(liver.picture, rgb) == mask).all()
    assert (liver.picture[~expected.any(axis=0)] == 128).all()  # the kidney is not in the liver's panel
    assert liver.note == "slice IoU 0.33"  # 100 of 300 pixels


def test_another_organ_s_prediction_is_missed_here_and_false_there():
    wrong = judged(prediction=np.where(judged().truth == 1, 3, 0).astype(np.uint8))
    panels = {panel.title: panel for panel in error_panels(wrong, FULL)}
    assert where(panels["liver"].picture, RED).sum() == 200
    assert where(panels["spleen"].picture, GREEN).sum() == 200
    assert panels["spleen"].note == "slice IoU 0.00"
    assert panels["pancreas"].note == "not on this slice"


def test_an_organ_that_is_not_annotated_is_said_so_and_not_drawn_as_false():
    kidney = error_panels(judged(annotated=("liver",)), FULL)[3]
    assert kidney.note == "not annotated in this case"
    assert not where(kidney.picture, GREEN).any()
    assert (where(kidney.picture, GREY) == (judged().prediction == 2)).all()


def test_where_the_truth_is_unknown_nothing_is_judged():
    known = np.ones((40, 40), bool)
    known[:, 20:] = False  # all false positives
    liver = error_panels(judged(known=known), FULL)[2]
    assert not where(liver.picture, GREEN).any()
    assert liver.note == "slice IoU 0.50"


def test_panels_have_the_proportions_of_the_pixel_spacing():
    tall = error_panels(judged(spacing_mm=(3.0, 1.5)), FULL)
    assert {panel.picture.shape for panel in tall} == {(80, 40, 3)}
    assert picture_size((10, 1000), (0.1, 1.0), 40) == (1, 40)


@pytest.mark.parametrize(
    ("organs", "columns", "grid"), [(4, 0, (2, 3)), (4, 2, (3, 2)), (4, 99, (1, 6)), (13, 0, (3, 5)), (1, 0, (2, 2))]
)
def test_panels_are_laid_out_in_rows_and_columns(tmp_path, organs, columns, grid):
    names = {index: f"organ_{index}" for index in range(1, organs + 1)}
    look = GridLook(panel_pixels=90, columns=columns)
    out = error_grid(judged(organs=names), tmp_path / "grid.png", look)
    with Image.open(out) as image:
        rows, wide = grid
        assert image.width == 2 * 18 + wide * 90 + (wide - 1) * 18
        assert image.height > rows * (90 + 22)
        pixels = np.asarray(image.convert("RGB"))
    # The slice is drawn as it is: its grey stands at the first panel's corner.
    assert pixels[18 + 22 + 1, 18 + 1].tolist() == [128, 128, 128]


def test_a_slice_of_nothing_is_drawn(tmp_path):
    empty = np.zeros((5, 3), np.uint8)
    nothing = JudgedSlice(np.full((5, 3), -1024, np.int16), empty, empty, (1.0, 1.0), ORGANS)
    notes = [panel.note for panel in error_panels(nothing)]
    assert notes == ["", "nothing on this slice", *["not on this slice"] * 4]
    look = GridLook(title="case $1_a$ of <b>")
    assert error_grid(nothing, tmp_path / "grid.png", look).stat().st_size > 1000


def test_slicer_s_colours_can_be_had():
    panels = error_panels(judged(), GridLook(panel_pixels=40, opacity=1.0, colours="slicer"))
    assert where(panels[1].picture, (221, 130, 101)).sum() == 200


def test_slices_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(SettingError, match=r"differ in size: \[\(2, 2\), \(40, 40\)\]"):
        judged(truth=np.zeros((2, 2), np.uint8))
    with pytest.raises(SettingError, match=r"spacing_mm \(0.0, 1.0\) of an error grid must be above 0"):
        judged(spacing_mm=(0.0, 1.0))
    with pytest.raises(SettingError, match="-1 columns of 300 pixels"):
        GridLook(columns=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        error_grid(judged(), tmp_path / "file" / "grid.png")
