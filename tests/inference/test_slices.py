"""Slices in chunks, several at once, and those skipped that lie between slices without organs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from makers import HU_OF, KIDNEY, LIVER, Painted
from makers import painted_model as model
from makers import painted_scan as scan
from viscera.config import SliceInference, WindowInference
from viscera.errors import SettingError
from viscera.inference.on_gpu import plain_labels
from viscera.inference.segment import prepare_scan, segment_prepared
from viscera.inference.slices import as_slice, kept_step, label_slices, looked_at, on_scanner, slice_logits
from viscera.inference.upsampling import Enlargement
from viscera.volume import Volume


def truth(ct: Volume) -> np.ndarray:
    labels = np.zeros(ct.shape, np.uint8)
    for index in (LIVER, KIDNEY):
        labels[ct.voxels == HU_OF[index]] = index
    return labels


def run(
    ct: Volume, network: Painted, organs: tuple[int, ...] = (), look_mm: float = 10.0
) -> tuple[np.ndarray, list[int]]:
    one = model(network, look_mm=look_mm)
    found = segment_prepared(prepare_scan(ct, one), one, organs=organs).labels.voxels
    return found, sorted(number + 399 for number in network.seen)


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_each_slice_is_seen_once_whatever_the_number_of_threads(streams):
    ct = scan({LIVER: range(40)})
    found, seen = run(ct, Painted(streams))
    assert seen == list(range(40))
    assert np.array_equal(found, truth(ct))


def test_slices_between_two_without_organs_are_skipped_and_an_organ_is_whole():
    # 10 mm are three slices of 3 mm: 0, 3, 6 ... 39 are seen first. The organ is in 13 to 25, so of those 15, 18, 21 and 24
    # hold it, and the slices from 13 to 26 are seen.
    ct = scan({LIVER: range(13, 26)})
    found, seen = run(ct, Painted())
    assert seen == sorted({*range(0, 40, 3), *range(12, 28)})
    assert np.array_equal(found, truth(ct))


def test_an_organ_shorter_than_the_step_is_lost_between_empty_slices_only():
    alone, _ = run(scan({KIDNEY: range(13, 15)}), Painted())
    assert not alone.any()
    beside = scan({KIDNEY: range(13, 15), LIVER: range(15, 22)})
    assert np.array_equal(run(beside, Painted())[0], truth(beside))


def test_nothing_is_skipped_with_a_step_of_nothing_or_thick_slices():
    ct = scan({KIDNEY: range(13, 15)})
    found, seen = run(ct, Painted(), look_mm=0)
    assert (seen, found.tolist()) == (list(range(40)), truth(ct).tolist())
    thick = scan({KIDNEY: range(13, 15)}, slice_mm=10.5)
    assert np.array_equal(run(thick, Painted())[0], truth(thick))


def test_slices_without_the_wanted_organs_are_skipped():
    ct = scan({LIVER: range(5, 35), KIDNEY: range(30, 37)})
    found, seen = run(ct, Painted(), organs=(KIDNEY,))
    assert seen == sorted({*range(0, 40, 3), *range(28, 39)})
    assert np.array_equal(found == KIDNEY, truth(ct) == KIDNEY)
    assert not (found == LIVER)[10:11].any()


def test_the_first_and_the_last_slice_are_always_seen():
    ct = scan({LIVER: range(39, 40), KIDNEY: range(1)}, depth=40)
    assert np.array_equal(run(ct, Painted())[0], truth(ct))
    assert run(scan({}, depth=1), Painted())[1] == [0]
    assert run(scan({}, depth=2), Painted())[1] == [0, 1]


def test_skipped_slices_count_as_done():
    told = []
    one = model(Painted(2))
    ct = scan({})
    segment_prepared(prepare_scan(ct, one), one, watch=lambda done, slices: told.append((done, slices)))
    done = [number for number, _ in told]
    assert done == sorted(done)
    assert told[-1] == (40, 40)


def test_chunks_are_no_larger_than_the_batch_and_threads_are_as_before():
    network, threads = Painted(2), torch.get_num_threads()
    run(scan({LIVER: range(40)}), network)
    assert max(network.sizes) <= 3
    assert torch.get_num_threads() == threads


class Broken(Painted):
    def forward(self, image):
        raise RuntimeError("no memory")


def test_what_goes_wrong_in_a_thread_is_raised_and_threads_are_as_before():
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no memory"):
        run(scan({}), Broken(2))
    assert torch.get_num_threads() == threads


def test_chosen_slices_give_the_same_logits_as_neighbouring_ones():
    ct, one = scan({LIVER: range(3, 9)}), model(Painted())
    image, geometry = prepare_scan(ct, one).images[one.recipe.preparation]
    every = slice_logits(image, one, range(40))
    assert np.array_equal(slice_logits(image, one, [31, 4, 5]), every[[31, 4, 5]])
    expected = plain_labels(torch.from_numpy(every), Enlargement((16, 16)))
    assert np.array_equal(np.stack([on_scanner(as_slice(each), geometry) for each in every]), expected)


def test_a_recipe_of_windows_is_refused():
    one = model(Painted())
    windows = replace(one, recipe=replace(one.recipe, inference=WindowInference()))
    ct = scan({}, depth=2)
    image, geometry = prepare_scan(ct, one).images[one.recipe.preparation]
    with pytest.raises(SettingError, match="windows, not slices"):
        label_slices(image, geometry, windows)


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize(("slice_mm", "every"), [(0.7, 4), (1.0, 3), (1.5, 2), (2.0, 1), (3.0, 1), (0.5, 6)])
def test_of_thin_slices_every_kth_is_seen_once_and_the_last(slice_mm, every, streams):
    network = Painted(streams)
    one, ct = model(network, look_mm=10, step_mm=3), scan({LIVER: range(40)}, slice_mm=slice_mm)
    found = segment_prepared(prepare_scan(ct, one), one).labels.voxels
    seen = sorted(number + 399 for number in network.seen)
    assert len(set(seen)) == len(seen)
    assert {*range(0, 40, every)} <= {*seen} | {39}
    assert len(seen) <= 40 / every + 40 * slice_mm / 10 + 1
    assert np.array_equal(found, truth(ct))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6, 7, 29, 40])
def test_each_slice_is_what_linear_interpolation_along_z_gives_of_those_that_were_seen(depth):
    """NumPy's interpolation of all logits, pixel by pixel."""
    ct = scan({LIVER: range(3, 14), KIDNEY: range(9, 33)}, depth=depth, slice_mm=1.0)
    network = Painted(2)
    one = model(network, look_mm=9, step_mm=3)
    image, geometry = prepare_scan(ct, one).images[one.recipe.preparation]
    axial = label_slices(image, geometry, one)
    seen = sorted(number + 399 for number in network.seen)
    logits = slice_logits(image, one, seen)
    every = np.empty((depth, *logits.shape[1:]), np.float32)
    for place in np.ndindex(logits.shape[1:]):
        every[:, *place] = np.interp(np.arange(depth), seen, logits[:, *place])
    expected = plain_labels(torch.from_numpy(every), Enlargement((16, 16)))
    ends = looked_at(depth, slice_mm=1.0, settings=one.recipe.inference)
    sure = np.diff(np.sort(every, axis=1)[:, -2:], axis=1)[:, 0] > 1e-5
    assert np.array_equal(axial[sure], expected[sure])
    assert sure.mean() > 0.9
    assert {0, depth - 1} <= {*ends}


def test_a_step_is_never_longer_than_is_said_and_looks_lie_on_steps():
    settings = SliceInference(look_mm=10, step_mm=3)
    for slice_mm in (0.3, 0.625, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 2.9999, 3.0, 5.0):
        step = kept_step(slice_mm, settings)
        assert step == 1 or step * slice_mm <= 3.003
        looks = looked_at(100, slice_mm=slice_mm, settings=settings)
        assert (looks[0], looks[-1]) == (0, 99)
        assert all(look % step == 0 for look in looks[:-1])
        assert max(np.diff(looks)) * slice_mm <= max(10.01, slice_mm)
    assert kept_step(1.0, SliceInference()) == 1
    assert kept_step(1.5, settings) == 2  # 3 / 1.5 must not become 1 by rounding
    assert kept_step(0.1, replace(settings, step_mm=0.3)) == 3


def test_what_every_slice_shows_is_looked_at_once_by_whoever_asks():
    told = []
    one, ct = model(Painted(2), step_mm=3), scan({LIVER: range(40)}, slice_mm=1.0)
    image, geometry = prepare_scan(ct, one).images[one.recipe.preparation]
    label_slices(image, geometry, one, look=told.append)
    assert len(told) == len(one.network.module.seen)
    assert {each.labels.shape for each in told} == {(16, 16)}
