"""What is not drawn, and what is cut."""

import numpy as np
import pytest

from makers import SMALL_AFFINE
from viscera.errors import LabelError
from viscera.figures.canvas import LONGEST_TEXT, inline_svg, new_figure
from viscera.figures.montage import MOST_ORGANS, stills
from viscera.volume import Volume


def test_a_scan_in_the_place_of_a_label_map_is_not_drawn():
    ct = Volume(np.arange(8 * 20 * 20, dtype=np.int16).reshape(8, 20, 20), SMALL_AFFINE)
    many = Volume((ct.voxels % (MOST_ORGANS + 5)).astype(np.int16), SMALL_AFFINE)
    with pytest.raises(LabelError, match="labels are too many for organs. Pass the label map, not the scan"):
        stills(ct, many, truth=None, names={1: "liver"})


def test_a_text_longer_than_a_page_is_cut_in_a_picture():
    figure = new_figure(3, 2)
    figure.text(0.1, 0.5, "$" + "w" * (LONGEST_TEXT + 50))
    drawn = inline_svg(figure, "long")
    assert "<svg" in drawn
    [text] = [text.get_text() for text in figure.texts]
    assert len(text) == LONGEST_TEXT
    assert text.endswith("…")
