"""Labels of enlarged slices against the argmax of all interpolated logits."""

import platform
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from viscera.inference.on_gpu import SliceLogitsOnGpu, plain_labels
from viscera.inference.slices import as_slice, decide, on_scanner
from viscera.inference.upsampling import LOGITS_AT_ONCE, Enlargement, SliceLogits, mixed_logits, side_of
from viscera.preparation.geometry import Geometry
from viscera.volume import Turn

SIZES = [
    ((64, 64), (128, 128)),
    ((32, 36), (150, 141)),
    ((31, 17), (100, 93)),
    ((100, 90), (75, 61)),
    ((128, 100), (101, 300)),
    ((70, 71), (70, 71)),
    ((70, 71), (70, 142)),
    ((1, 1), (90, 80)),
    ((1, 40), (80, 77)),
    ((33, 1), (99, 64)),
    ((2, 3), (200, 211)),
    ((9, 7), (20, 15)),
    ((7, 9), (1, 1)),
]


def rough(shape: tuple[int, int], *, classes: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, classes, *shape, generator=torch.Generator().manual_seed(seed)) * 3


def smooth(shape: tuple[int, int], *, classes: int = 5, seed: int = 0) -> torch.Tensor:
    knots = tuple(-(-side // 8) for side in shape)
    return interpolate(rough(knots, classes=classes, seed=seed), shape, mode="bicubic", align_corners=False)


SMALL = 128
"""Rows and columns together up to which torch mixes all four logits in one go, and so rounds otherwise."""


def argmax(logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    return interpolate(logits.float(), size, mode="bilinear", align_corners=False).argmax(1).numpy()


@pytest.mark.parametrize("make", [rough, smooth])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_labels_are_those_of_the_argmax_of_interpolated_logits(make, dtype, layout, old, new):
    logits = make(old).to(dtype).contiguous(memory_format=layout)
    labels = decide(logits, new)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, argmax(logits.contiguous(), new))


def test_every_factor_from_a_third_to_five_gives_the_argmax():
    for new in range(13, 200, 7):
        logits = smooth((40, 41), seed=new)
        assert np.array_equal(decide(logits, (new, 250 - new)), argmax(logits, (new, 250 - new)))


def geometry(whole: tuple[int, int], size: tuple[int, int], start: tuple[int, int], step: Fraction) -> Geometry:
    return Geometry((1, *whole), np.eye(4), Turn((0, 1, 2), (False,) * 3), size, start, (step, step))


@pytest.mark.parametrize("start", [(0, 0), (-3, 7), (11, -20), (-9, -8)])
@pytest.mark.parametrize(
    "step", [Fraction(3641, 1024), Fraction(2), Fraction(1), Fraction(1025, 1024), Fraction(700, 1024)]
)
def test_slices_with_a_step_are_enlarged_by_it_and_lie_where_they_were_cut_out(start, step):
    size = (48, 64)
    logits = smooth(size)
    where = geometry((150, 160), size, start, step)
    large = interpolate(logits, scale_factor=(float(step),) * 2, mode="bilinear", align_corners=False).argmax(1)
    expected = np.zeros((2, 150, 160), np.uint8)
    for y, x in np.ndindex(150, 160):
        row, column = y - start[0], x - start[1]
        if 0 <= row < large.shape[1] and 0 <= column < large.shape[2]:
            expected[:, y, x] = large[:, row, column]
    assert np.array_equal(np.stack([on_scanner(as_slice(one), where) for one in logits]), expected)


def test_a_class_that_is_nowhere_the_largest_may_win_between_two_that_are():
    row = torch.tensor([[10.0, 0.0], [0.0, 10.0], [8.0, 8.0]])  # class, column
    logits = row[None, :, None, :].expand(1, 3, 2, 2)
    labels = decide(logits, (100, 100))
    assert labels[0, :, 0].tolist() == [0] * 100
    assert labels[0, :, 50].tolist() == [2] * 100
    assert labels[0, :, 99].tolist() == [1] * 100


def test_of_equal_logits_the_first_class_is_taken_where_pixels_agree_and_where_they_do_not():
    level = torch.tensor([[0.0, 4.0], [1.0, 1.0], [1.0, 1.0], [4.0, 0.0]])
    logits = level[None, :, None, :].expand(1, 4, 40, 2).repeat_interleave(30, dim=3)
    logits = torch.cat([logits, torch.full((1, 4, 40, 20), 2.5)], 3)
    labels = decide(logits, (120, 240))
    assert np.array_equal(labels, argmax(logits, (120, 240)))
    assert not (labels == 2).any()
    assert not labels[:, :, -50:].any()


def test_whole_numbers_as_logits_with_ties_all_over_give_the_argmax():
    logits = torch.randint(0, 3, (3, 4, 50, 60), generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    assert np.array_equal(decide(logits, (100, 120)), argmax(logits, (100, 120)))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="compilers of other machines may round in another order")
@pytest.mark.parametrize(("old", "new"), [sizes for sizes in SIZES if sum(sizes[1]) > SMALL and sizes[0] != (1, 1)])
def test_logits_are_mixed_bit_by_bit_as_torch_does(old, new):
    logits = rough(old, classes=4, seed=3)[:1]
    every = np.indices(new).reshape(2, -1)
    rows, columns = (side_of(old[axis], new[axis]).at(every[axis]) for axis in (0, 1))
    mixed = mixed_logits(logits.reshape(4, -1).numpy(), rows, columns, width=old[1]).reshape(1, 4, *new)
    assert np.array_equal(mixed, interpolate(logits, new, mode="bilinear", align_corners=False).numpy())


def test_three_rows_of_four_times_as_many_are_mixed_in_eighths():
    side = side_of(3, 12)
    assert side.low.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert side.high.tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert (side.high_weight * 8).tolist() == [0, 0, 1, 3, 5, 7, 1, 3, 5, 7, 1, 3]
    assert (side.low_weight + side.high_weight).tolist() == [1.0] * 12


def test_more_classes_than_a_label_can_name_beside_open_ones_are_decided_the_plain_way():
    logits = rough((20, 20), classes=256)
    assert np.array_equal(decide(logits, (70, 80)), argmax(logits, (70, 80)))


def test_the_logits_given_stay_as_they_are():
    for logits in (smooth((40, 40)), smooth((40, 40)).contiguous(memory_format=torch.channels_last)):
        before = logits.clone()
        decide(logits, (100, 110))
        assert torch.equal(logits, before)


def test_the_plain_way_gives_the_same_labels_and_many_open_pixels_are_decided_in_parts():
    logits, enlargement = rough((90, 80), classes=12), Enlargement((200, 210), (2.5, 2.75), (3, 7))
    assert 2 * LOGITS_AT_ONCE < 12 * 200 * 210
    labels = [SliceLogits.of(one).on_slice(enlargement) for one in logits.numpy()]
    assert np.array_equal(labels, plain_labels(logits, enlargement))


@pytest.mark.parametrize("share", [0.25, 0.5, 2 / 3])
def test_a_slice_between_two_is_the_argmax_of_mixed_logits_everywhere(share):
    one, other = smooth((70, 60), classes=7, seed=1)
    between = SliceLogits.of(one.numpy()).between(SliceLogits.of(other.numpy()), share)
    mixed = torch.lerp(one, other, share)
    torch.testing.assert_close(torch.from_numpy(between.planes), mixed)
    assert np.array_equal(between.labels, mixed.argmax(0))
    assert np.array_equal(between.on_slice(Enlargement((160, 150))), argmax(mixed[None], (160, 150))[0])
    assert 0 < np.count_nonzero(SliceLogits.of(one.numpy()).labels != SliceLogits.of(other.numpy()).labels) < 70 * 60


def test_slices_that_are_mixed_stay_as_they_are():
    one, other = (SliceLogits.of(planes.numpy()) for planes in smooth((40, 40)))
    before = [one.planes.copy(), one.labels.copy(), other.planes.copy(), other.labels.copy()]
    one.between(other, 0.5)
    for array, was in zip([one.planes, one.labels, other.planes, other.labels], before, strict=True):
        assert np.array_equal(array, was)


def test_what_a_gpu_does_gives_the_labels_of_the_cpu():
    one, other = smooth((40, 48), classes=6, seed=2)
    here, there = SliceLogits.of(one.numpy()), SliceLogitsOnGpu(one)
    assert np.array_equal(here.labels, there.labels)
    assert np.array_equal(here.planes, there.planes)
    enlargement = Enlargement((120, 130), (3.1, 2.9), (2, 1))
    assert np.array_equal(here.on_slice(enlargement), there.on_slice(enlargement))
    mixed = here.between(SliceLogits.of(other.numpy()), 1 / 3), there.between(SliceLogitsOnGpu(other), 1 / 3)
    assert np.array_equal(mixed[0].on_slice(enlargement), mixed[1].on_slice(enlargement))


def test_logits_that_carry_gradients_are_decided_too():
    logits = smooth((40, 40)).requires_grad_()
    assert np.array_equal(decide(logits, (100, 110)), argmax(logits.detach(), (100, 110)))
