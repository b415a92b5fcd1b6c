"""How sure a network is at the organs' edges: against softmax and entropy by torch, pixel by pixel."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from makers import LIVER, Painted
from makers import painted_model as model
from makers import painted_scan as scan
from viscera.config import UNetShape, WindowInference
from viscera.inference.certainty import Certainty, certainty_of, edges
from viscera.inference.segment import prepare_scan, segment_prepared
from viscera.inference.slices import as_slice


def by_hand(logits: torch.Tensor, label: int) -> tuple[int, float, float]:
    """Return pixels, probability and entropy of one class's edge, one pixel after the other."""
    shares, largest = logits.double().softmax(1), logits.argmax(1)
    found = []
    for number, plane in enumerate(largest):
        rows, columns = plane.shape
        for y, x in np.argwhere(plane.numpy() == label).tolist():
            beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            if any(0 <= r < rows and 0 <= c < columns and plane[r, c] != label for r, c in beside):
                one = shares[number, :, y, x]
                found.append((float(one.max()), float(-(one * one.log2()).sum())))
    probability, entropy = np.mean(found, axis=0).tolist()
    return len(found), probability, entropy


def add(certainty: Certainty, logits: torch.Tensor) -> None:
    for one in logits:
        certainty.add(as_slice(one))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
def test_sums_are_those_of_softmax_and_entropy_pixel_by_pixel(kind, last):
    logits = 3 * torch.randn(3, 4, 9, 7, generator=torch.Generator().manual_seed(0))
    logits = logits.to(kind).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    certainty = Certainty(4)
    add(certainty, logits)
    for label in (1, 2, 3):
        edge = certainty.edge(label)
        expected = by_hand(logits.float(), label)
        assert (edge.pixels, edge.probability, edge.entropy_bits) == pytest.approx(expected, rel=1e-4)


def test_two_equal_classes_are_one_bit_and_a_certain_one_none():
    even = torch.full((1, 3, 1, 4), -1e4)
    even[0, :2, 0, :2] = 0.0  # background and class 1 equal: the first of equals, background, is taken
    even[0, 1:, 0, 2] = 0.0  # classes 1 and 2 equal: class 1, beside background and class 2
    even[0, 2, 0, 3] = 0.0
    certainty = Certainty(3)
    add(certainty, even)
    one, two = certainty.edge(1), certainty.edge(2)
    assert (one.pixels, one.probability, one.entropy_bits) == pytest.approx((1, 0.5, 1.0))
    assert (two.pixels, two.probability, two.entropy_bits) == pytest.approx((1, 1.0, 0.0))


def test_an_edge_is_where_another_label_is_near_but_not_the_border_of_the_slice():
    labels = np.zeros((5, 5), np.uint8)
    labels[0:3, 0:3] = 1
    expected = np.zeros((5, 5), bool)
    expected[2, 0:3] = expected[0:3, 2] = True
    assert np.array_equal(edges(labels), expected)
    assert not edges(np.ones((4, 4), np.uint8)).any()


def test_a_class_that_is_nowhere_has_no_certainty():
    certainty = Certainty(3)
    add(certainty, torch.zeros(2, 3, 4, 4))
    assert certainty.edge(1).probability is None
    assert certainty.edge(200).pixels == 0


def test_chunks_from_several_threads_add_up():
    chunks = [torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number)) for number in range(40)]
    together, alone = Certainty(3), Certainty(3)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda chunk: add(together, chunk), chunks))
    add(alone, torch.cat(chunks))
    for label in (1, 2):
        assert together.edge(label).pixels == alone.edge(label).pixels
        assert together.edge(label).probability == pytest.approx(alone.edge(label).probability)


def test_what_was_dropped_is_a_share_of_what_was_found():
    found, kept = np.zeros((2, 2, 5, 4), np.uint8)
    found[0, 0], kept[0, 0, :3] = 1, 1  # the row has four pixels, three are kept
    found[1, 1], kept[1, 1] = 2, 2
    kept[1, 2] = 2  # what is filled in is not dropped
    certainty = Certainty(4)
    certainty.add_tidied(found, kept)
    assert [certainty.edge(label).dropped_fraction for label in (1, 2, 3)] == [0.25, 0.0, 0.0]


def test_looking_at_the_network_changes_no_label():
    ct, one = scan({LIVER: range(10, 20)}), model(Painted(2))
    certainty = certainty_of(one)
    assert certainty is not None
    seen = segment_prepared(prepare_scan(ct, one), one, certainty=certainty).labels.voxels
    assert np.array_equal(seen, segment_prepared(prepare_scan(ct, one), one).labels.voxels)
    # The liver is 5 rows by 3 columns on each of ten slices: all but its inner 3 pixels are its edge.
    assert certainty.edge(LIVER).pixels == 10 * (5 * 3 - 3)


def test_there_is_no_certainty_without_a_softmax_over_slices():
    one = model(Painted())
    sigmoid = replace(one, recipe=replace(one.recipe, network=UNetShape(heads="sigmoid")))
    windows = replace(one, recipe=replace(one.recipe, inference=WindowInference()))
    assert certainty_of(sigmoid) is certainty_of(windows) is None
