"""Changes of 3D patches: distribution of the draw, blur against scipy, each change derived in numpy."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from viscera.config import RichAugmentation, SliceAugmentation, VolumeAugmentation
from viscera.errors import SettingError
from viscera.learning.augmentation.changes import change_batch, draw_changes
from viscera.learning.augmentation.rich import RichChanges
from viscera.learning.augmentation.turned import SliceChanges
from viscera.learning.augmentation.volume import VolumeChanges, smoothed, with_gamma
from viscera.learning.augmentation.white_noise import white_noise
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.reading import step_generator
from viscera.learning.sampling.slices import NO_ORGAN_DISTANCE_PIXELS
from viscera.networks.levels import check_patch

FIELDS = [item for item in fields(Batch) if item.name != "context"]

ALWAYS = VolumeAugmentation(flip_x=1, flip_y=1, smooth=1, noise=1, gamma=1, shift=1)
NEVER = VolumeAugmentation(flip_x=0, flip_y=0, smooth=0, noise=0, gamma=0, shift=0)
ARRAYS = ("image", "labels", "known", "distance", "pseudo")


def some_batch(count: int = 4, *, size: tuple[int, ...] = (5, 6, 7), channels: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (count, *size)
    return Batch(
        image=torch.randn((count, channels, *size), generator=generator),
        labels=torch.randint(0, 3, shape, generator=generator).to(torch.uint8),
        known=torch.rand(shape, generator=generator) > 0.1,
        distance=100 * torch.rand(shape, generator=generator),
        annotated=torch.ones((count, 3), dtype=torch.bool),
        pseudo=torch.tensor([0, 4, 255], dtype=torch.uint8)[torch.randint(0, 3, shape, generator=generator)],
        pseudo_annotated=torch.zeros((count, 3), dtype=torch.bool),
    )


def changes_of(count: int = 1, **values) -> VolumeChanges:
    """Return the same stated changes for each patch, and no others."""
    nothing = draw_changes(NEVER, count, step_generator(0))
    return replace(
        nothing, **{name: torch.tensor(value).expand(count, *np.shape(value)) for name, value in values.items()}
    )


# What is drawn


def test_each_change_is_drawn_as_often_as_stated_and_apart_from_the_others():
    settings = VolumeAugmentation(flip_x=0.2, flip_y=0.3, smooth=0.1, noise=0.25, gamma=0.15, shift=0.4)
    count = 20_000
    drawn = draw_changes(settings, count, step_generator(0))
    happened = {
        "flip_y": drawn.flip[:, 0],
        "flip_x": drawn.flip[:, 1],
        "smooth": drawn.smooth_voxels.all(1),
        "noise": drawn.noise_sd > 0,
        "gamma": drawn.gamma != 1,
        "shift": drawn.shift > 0,
    }
    for name, values in happened.items():
        probability = getattr(settings, name)
        deviation = (probability * (1 - probability) / count) ** 0.5
        assert abs(values.float().mean() - probability) < 4 * deviation, name
    assert np.allclose(np.corrcoef(torch.stack(list(happened.values())).numpy()), np.eye(6), atol=4 / count**0.5)


def test_sizes_are_uniform_within_their_ranges():
    drawn = draw_changes(ALWAYS, 20_000, step_generator(1))
    ranges = {
        "z": (drawn.smooth_voxels[:, 0], (0.5, 1.15)),
        "y": (drawn.smooth_voxels[:, 1], (0.5, 1.15)),
        "x": (drawn.smooth_voxels[:, 2], (0.5, 1.15)),
        "mean": (drawn.noise_mean, (0, 0.5)),
        "sd": (drawn.noise_sd, (0, 1)),
        "gamma": (drawn.gamma, (0.5, 2.5)),
        "shift": (drawn.shift, (0, 0.3)),
    }
    for name, (values, (low, high)) in ranges.items():
        assert stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue > 1e-3, name
    correlations = np.corrcoef(torch.stack([values for values, _ in ranges.values()]).numpy())
    assert np.allclose(correlations, np.eye(7), atol=0.03)


@pytest.mark.parametrize("off", ["flip_x", "flip_y", "smooth", "noise", "gamma", "shift"])
def test_what_is_switched_off_leaves_all_else_as_drawn(off):
    full, without = (
        draw_changes(settings, 50, step_generator(2)) for settings in (ALWAYS, replace(ALWAYS, **{off: 0}))
    )
    names = {"smooth": {"smooth_voxels"}, "noise": {"noise_mean", "noise_sd"}}.get(off, {off})
    for item in fields(VolumeChanges):
        same = torch.equal(getattr(full, item.name), getattr(without, item.name))
        if not off.startswith("flip"):
            assert same == (item.name not in names), item.name
        elif item.name == "flip":
            assert without.flip.tolist() == [[off == "flip_x", off == "flip_y"]] * 50
        else:
            assert same, item.name


def test_drawing_takes_as_many_numbers_whatever_is_switched_off():
    after = []
    for settings in (ALWAYS, NEVER):
        generator = step_generator(3)
        draw_changes(settings, 5, generator)
        after.append(torch.rand(1, generator=generator))
    assert after[0] == after[1]


# What is done


def test_switched_off_every_array_is_the_very_same():
    batch = some_batch()
    changed = change_batch(batch, draw_changes(NEVER, 4, step_generator(0)))
    for item in FIELDS:
        assert getattr(changed, item.name) is getattr(batch, item.name), item.name


@pytest.mark.parametrize("settings", [ALWAYS, VolumeAugmentation(smooth=0.5, noise=0.5, gamma=0.5, shift=0.5)])
def test_the_given_batch_stays_as_it_is(settings):
    batch, same = some_batch(), some_batch()
    change_batch(batch, draw_changes(settings, 4, step_generator(1)))
    for item in FIELDS:
        assert torch.equal(getattr(batch, item.name), getattr(same, item.name)), item.name


def test_all_arrays_of_a_patch_are_flipped_together_rows_and_columns_only():
    batch = some_batch(channels=2)
    flips = [[False, False], [True, False], [False, True], [True, True]]
    changed = change_batch(batch, replace(changes_of(4), flip=torch.tensor(flips)))
    for patch, (rows, columns) in enumerate(flips):
        for name in ARRAYS:
            expected = getattr(batch, name)[patch].numpy()
            expected = expected[..., ::-1, :] if rows else expected
            expected = expected[..., ::-1] if columns else expected
            assert np.array_equal(getattr(changed, name)[patch], expected), (name, patch)


def test_a_distance_for_all_voxels_alike_is_left_by_flips():
    batch = replace(some_batch(), distance=torch.full((4, 1, 1, 1), NO_ORGAN_DISTANCE_PIXELS))
    changed = change_batch(batch, draw_changes(ALWAYS, 4, step_generator(0)))
    assert changed.distance is batch.distance


def test_intensities_change_in_the_image_only():
    batch = some_batch()
    changed = change_batch(batch, draw_changes(replace(ALWAYS, flip_x=0, flip_y=0), 4, step_generator(0)))
    assert not torch.isclose(changed.image, batch.image).flatten(1).all(1).any()
    for item in FIELDS:
        assert item.name == "image" or getattr(changed, item.name) is getattr(batch, item.name), item.name


@pytest.mark.parametrize("deviation", [(0.5, 0.8, 1.15), (1.15, 0.5, 0.6), (0.0, 2.0, 0.0), (0.1, 0.1, 1.0)])
@pytest.mark.parametrize("size", [(9, 12, 15), (1, 2, 30)])
def test_blur_is_scipys_gaussian_filter_cut_off_at_4_deviations(deviation, size):
    patch = some_batch(1, size=size, channels=2).image[0]
    expected = [ndimage.gaussian_filter(c.double().numpy(), deviation, mode="nearest", truncate=4) for c in patch]
    assert np.allclose(smoothed(patch, list(deviation)), expected, atol=2e-6)
    # Cut off at 12 deviations nothing is lost: 4 deviations lose 6e-5 of the Gaussian, of an image up to 4 here.
    whole = [ndimage.gaussian_filter(c.double().numpy(), deviation, mode="nearest", truncate=12) for c in patch]
    assert min(deviation) < 0.5 or np.allclose(expected, whole, atol=3 * 6e-5 * 2 * 4)


def test_only_the_chosen_patches_are_smoothed():
    batch = some_batch(3)
    deviation = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.7, 0.5], [0.0, 0.0, 0.0]])
    changed = change_batch(batch, replace(changes_of(3), smooth_voxels=deviation)).image
    assert torch.equal(changed[[0, 2]], batch.image[[0, 2]])
    assert torch.equal(changed[1], smoothed(batch.image[1], deviation[1].tolist()))


def test_noise_has_the_stated_mean_and_deviation_and_differs_by_voxel_and_patch():
    batch = replace(some_batch(2, size=(30, 30, 30)), image=torch.zeros(2, 1, 30, 30, 30))
    changes = replace(changes_of(2, noise_mean=0.4, noise_sd=0.7), seed=torch.tensor([5, 6]))
    noise = change_batch(batch, changes).image.flatten(1).numpy()
    assert np.allclose(noise.mean(1), 0.4, atol=4 * 0.7 / 27_000**0.5)
    assert np.allclose(noise.std(1), 0.7, atol=4 * 0.7 / (2 * 27_000) ** 0.5)
    assert abs(np.corrcoef(noise)[0, 1]) < 4 / 27_000**0.5
    assert stats.kstest((noise[0, ::10] - 0.4) / 0.7, "norm").pvalue > 1e-3


def test_gamma_is_the_power_of_the_patch_scaled_by_its_own_ends():
    image = some_batch().image[0]
    low, high = image.min().item(), image.max().item()
    expected = ((image.double().numpy() - low) / (high - low)) ** 1.7 * (high - low) + low
    changed = with_gamma(image, 1.7)
    assert np.allclose(changed, expected, atol=1e-5)
    assert changed.min().item() == pytest.approx(low, abs=1e-6)
    assert changed.max().item() == pytest.approx(high, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, -3.25, 1e4])
def test_a_patch_all_alike_is_left_by_gamma_and_blur(value):
    patch = torch.full((1, 4, 5, 6), value)
    assert torch.equal(with_gamma(patch, 0.5), patch)
    assert torch.allclose(smoothed(patch, [0.6, 0.8, 1.1]), patch, rtol=1e-6)


def test_changes_follow_the_papers_order():
    batch, drawn = some_batch(1), draw_changes(ALWAYS, 1, step_generator(4))
    expected = smoothed(batch.image[0].flip((-1, -2)), drawn.smooth_voxels[0].tolist())
    expected = expected + drawn.noise_sd * white_noise(drawn.seed, (1, 5, 6, 7))[0] + drawn.noise_mean
    expected = with_gamma(expected, drawn.gamma.item()) + drawn.shift
    assert torch.allclose(change_batch(batch, drawn).image[0], expected, atol=1e-5)


@pytest.mark.parametrize("share", [slice(0, None, 2), slice(1, None, 2), slice(2, None, 5)])
def test_a_share_of_the_batch_changes_as_that_part_of_the_whole(share):
    settings = VolumeAugmentation(flip_x=0.5, flip_y=0.5, smooth=0.5, noise=0.5, gamma=0.5, shift=0.5)
    batch, changes = some_batch(6, channels=2), draw_changes(settings, 6, step_generator(2))
    part = Batch(**{item.name: getattr(batch, item.name)[share] for item in FIELDS})
    whole, changed = change_batch(batch, changes), change_batch(part, changes.part(share))
    for item in FIELDS:
        assert torch.equal(getattr(changed, item.name), getattr(whole, item.name)[share]), item.name


def test_autocast_changes_nothing_and_half_precision_is_changed_in_float32():
    batch, changes = some_batch(), draw_changes(ALWAYS, 4, step_generator(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        changed = change_batch(batch, changes).image
    assert torch.equal(changed, change_batch(batch, changes).image)
    half = replace(batch, image=batch.image.to(torch.bfloat16))
    assert change_batch(half, changes).image.dtype == torch.float32


def test_changes_carry_no_gradient_and_one_voxel_can_be_changed():
    batch = some_batch(2, size=(1, 1, 1))
    batch = replace(batch, image=batch.image.requires_grad_())
    changed = change_batch(batch, draw_changes(ALWAYS, 2, step_generator(6))).image
    assert torch.isfinite(changed).all()
    assert not changed.requires_grad


def test_slices_are_refused_by_name():
    batch = some_batch()
    slices = replace(batch, **{name: getattr(batch, name)[..., 0, :, :] for name in ARRAYS})
    with pytest.raises(SettingError, match=r"'volume' changes 3D patches, got slices of \(6, 7\)"):
        change_batch(slices, draw_changes(VolumeAugmentation(), 4, step_generator(0)))


def test_each_kind_of_settings_draws_its_own_changes():
    kinds = {SliceAugmentation: SliceChanges, RichAugmentation: RichChanges, VolumeAugmentation: VolumeChanges}
    for settings, changes in kinds.items():
        assert isinstance(draw_changes(settings(), 2, step_generator(0)), changes)


# Short scans


def test_a_batch_is_cut_to_the_same_slices_in_every_array():
    batch = some_batch(2, size=(32, 6, 7))
    cut = change_batch(batch, changes_of(2, length=0.4, place=1.0), stride=8)
    assert cut.image.shape == (2, 1, 16, 6, 7)  # 12.8 slices, up to a multiple of eight
    for name in ARRAYS:
        whole, part = getattr(batch, name), getattr(cut, name)
        assert torch.equal(part, whole[..., 16:, :, :])
    assert torch.equal(change_batch(batch, changes_of(2, length=0.4, place=0.0), stride=8).labels, batch.labels[:, :16])
    single = replace(batch, distance=torch.full((2, 1, 1, 1), 5.0))
    assert torch.equal(change_batch(single, changes_of(2, length=0.25, place=0.5)).distance, single.distance)


@pytest.mark.parametrize("levels", [2, 4, 5, 6])
@pytest.mark.parametrize("length", [0.01, 0.3, 0.6, 0.99])
def test_a_shortened_batch_still_suits_the_network(levels, length):
    stride = 2 ** (levels - 1)
    for plane in (stride, 2 * stride):
        batch = some_batch(1, size=(4 * stride, plane, plane))
        cut = change_batch(batch, changes_of(1, length=length), stride=stride)
        check_patch(cut.labels.shape[1:], stride=stride, setting="sampling.size")


def test_batches_are_shortened_as_often_and_as_far_as_stated():
    settings = replace(NEVER, shorten=0.3, shorten_to=(0.25, 0.5))
    drawn = [draw_changes(settings, 3, step_generator(0, number)) for number in range(2000)]
    lengths = np.array([changes.length.unique().item() for changes in drawn])
    assert abs((lengths < 1).mean() - 0.3) < 0.04
    assert stats.kstest(lengths[lengths < 1], stats.uniform(0.25, 0.25).cdf).pvalue > 1e-3
    assert all(changes.part(slice(1, 2)).length.item() == changes.length[0].item() for changes in drawn[:20])


def test_by_default_no_batch_is_shortened():
    batch = some_batch(2, size=(16, 6, 7))
    for number in range(30):
        assert change_batch(batch, draw_changes(VolumeAugmentation(), 2, step_generator(number))).labels.shape[1] == 16
