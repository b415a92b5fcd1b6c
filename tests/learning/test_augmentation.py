"""Both kinds of augmentation: distribution of the draw, and the effect on each slice."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from viscera.config import RichAugmentation, SliceAugmentation
from viscera.errors import SettingError
from viscera.learning.augmentation.changes import change_batch, draw_changes
from viscera.learning.augmentation.deformation import sampling_grid
from viscera.learning.augmentation.rich import RichChanges
from viscera.learning.augmentation.turned import SliceChanges
from viscera.learning.augmentation.white_noise import draw_seeds, white_noise
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.reading import step_generator
from viscera.learning.sampling.slices import NO_ORGAN_DISTANCE_PIXELS, boundary_distance

FIELDS = [item for item in fields(Batch) if item.name != "context"]

NOTHING = RichAugmentation(
    rotation_degrees=0,
    scale=0,
    stretch=0,
    shift=0,
    elastic_pixels=0,
    crop=0,
    gamma=0,
    contrast=0,
    brightness=0,
    noise=0,
    blur_pixels=0,
)
CPU = torch.device("cpu")


def some_batch(rows: int = 8, columns: int = 8, *, count: int = 4, channels: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(0)
    size = (count, rows, columns)
    return Batch(
        image=torch.rand((count, channels, rows, columns), generator=generator),
        labels=torch.randint(0, 3, size, generator=generator).to(torch.uint8),
        known=torch.rand(size, generator=generator) > 0.1,
        distance=100 * torch.rand(size, generator=generator),
        annotated=torch.ones((count, 3), dtype=torch.bool),
        pseudo=torch.tensor([0, 4, 255], dtype=torch.uint8)[torch.randint(0, 3, size, generator=generator)],
        pseudo_annotated=torch.zeros((count, 3), dtype=torch.bool),
    )


def batch_of(image: np.ndarray, labels: np.ndarray, *, count: int = 1) -> Batch:
    """Return a batch of equal slices, all known."""
    seen = torch.from_numpy(labels.astype(np.uint8)).repeat(count, 1, 1)
    return Batch(
        image=torch.from_numpy(image.astype(np.float32)).repeat(count, 1, 1, 1),
        labels=seen,
        known=torch.ones_like(seen, dtype=torch.bool),
        distance=torch.from_numpy(boundary_distance(labels.astype(np.uint8), "boundary")).repeat(count, 1, 1),
        annotated=torch.ones((count, 3), dtype=torch.bool),
        pseudo=torch.zeros_like(seen),
        pseudo_annotated=torch.zeros((count, 3), dtype=torch.bool),
    )


def changes_of(count: int = 1, *, degrees=0.0, scale=(1.0, 1.0), shift=(0.0, 0.0), cut=(0.0,) * 4, **intensities):
    """Return the same stated changes for each slice, and no others."""
    nothing = draw_changes(NOTHING, count, step_generator(0))
    deformation = replace(
        nothing.deformation,
        angle=torch.full((count,), math.radians(degrees)),
        scale=torch.tensor(scale).repeat(count, 1),
        shift=torch.tensor(shift).repeat(count, 1),
        cut=torch.tensor(cut).repeat(count, 1),
    )
    values = {name: torch.full((count,), value) for name, value in intensities.items()}
    return RichChanges(deformation, replace(nothing.intensities, **values))


def tensors_of(changes: RichChanges | Batch) -> dict[str, torch.Tensor]:
    parts = (changes.deformation, changes.intensities) if isinstance(changes, RichChanges) else (changes,)
    found = {(type(part).__name__, item.name): getattr(part, item.name) for part in parts for item in fields(part)}
    return {" ".join(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}


def smooth_image(rows: int, columns: int) -> np.ndarray:
    noise = np.random.default_rng(0).random((rows, columns))
    smooth = ndimage.gaussian_filter(noise, 2)
    return (smooth - smooth.min()) / np.ptp(smooth)


# The sixteen copies


def test_the_draw_has_the_stated_distribution():
    changes = draw_changes(SliceAugmentation(), 20_000, step_generator(0))
    assert np.allclose(np.bincount(changes.turns.numpy()) / 20_000, 0.25, atol=0.02)
    for values, low, high in ((changes.contrast, 0.96, 1.04), (changes.brightness, -0.03, 0.03)):
        assert low <= values.min() < low + 0.001
        assert high - 0.001 < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.001)


def test_all_arrays_of_a_slice_turn_together_and_only_the_image_changes_its_values():
    batch = some_batch()
    turns = torch.tensor([0, 1, 2, 3])
    changed = change_batch(batch, SliceChanges(turns, torch.full((4,), 1.04), torch.full((4,), 0.03)))
    for n, turn in enumerate(turns.tolist()):
        for name in ("labels", "known", "distance", "pseudo"):
            assert np.array_equal(getattr(changed, name)[n], np.rot90(getattr(batch, name)[n], turn)), name
        expected = np.clip(np.rot90(batch.image[n, 0].numpy(), turn) * np.float32(1.04) + np.float32(0.03), 0, 1)
        assert np.allclose(changed.image[n, 0], expected, atol=1e-6)


def test_slices_that_are_not_square_cannot_be_turned_but_can_be_left():
    changes = SliceChanges(torch.tensor([0, 1, 0, 0]), torch.ones(4), torch.zeros(4))
    with pytest.raises(SettingError, match="needs square slices, got 8x6"):
        change_batch(some_batch(8, 6), changes)
    still = SliceChanges(torch.zeros(4, dtype=torch.int64), torch.ones(4), torch.zeros(4))
    assert torch.equal(change_batch(some_batch(8, 6), still).labels, some_batch(8, 6).labels)


# Both kinds


@pytest.mark.parametrize("settings", [SliceAugmentation(), RichAugmentation(probability=1)])
def test_the_given_batch_stays_as_it_is(settings):
    batch, same = some_batch(), some_batch()
    change_batch(batch, draw_changes(settings, 4, step_generator(1)))
    for name, value in tensors_of(batch).items():
        assert torch.equal(value, tensors_of(same)[name]), name


@pytest.mark.parametrize("settings", [SliceAugmentation(), RichAugmentation(probability=0.5)])
@pytest.mark.parametrize("share", [slice(0, None, 2), slice(1, None, 2), slice(2, None, 5)])
def test_a_share_of_the_batch_changes_as_that_part_of_the_whole(settings, share):
    batch, changes = some_batch(32, 32, count=6, channels=3), draw_changes(settings, 6, step_generator(2))
    part = Batch(**{item.name: getattr(batch, item.name)[share] for item in FIELDS})
    whole, changed = change_batch(batch, changes), change_batch(part, changes.part(share))
    for item in FIELDS:
        assert torch.equal(getattr(changed, item.name), getattr(whole, item.name)[share]), item.name


# What is drawn


def test_the_rich_draw_has_the_stated_distributions():
    settings = RichAugmentation()
    drawn = draw_changes(settings, 40_000, step_generator(0))
    geometry = drawn.deformation
    logarithms = geometry.scale.log()
    limit = math.radians(settings.rotation_degrees)
    uniform = {
        "angle": (geometry.angle, limit),
        "scale": (logarithms.mean(1), settings.scale),
        "stretch": ((logarithms[:, 0] - logarithms[:, 1]) / 2, settings.stretch),
        "shift of rows": (geometry.shift[:, 0], settings.shift),
        "shift of columns": (geometry.shift[:, 1], settings.shift),
    }
    for name, (values, half_width) in uniform.items():
        assert stats.kstest(values.numpy(), stats.uniform(-half_width, 2 * half_width).cdf).pvalue > 1e-3, name
    intensities = drawn.intensities
    lost = geometry.cut.sum(1)
    rarely = {
        "cut": (lost, 0, settings.crop),
        "gamma": (intensities.gamma.log(), -settings.gamma, settings.gamma),
        "contrast": (intensities.contrast - 1, -settings.contrast, settings.contrast),
        "brightness": (intensities.brightness, -settings.brightness, settings.brightness),
        "noise": (intensities.noise, 0, settings.noise),
        "blur": (intensities.blur_pixels, 0, settings.blur_pixels),
    }
    for name, (values, low, high) in rarely.items():
        chosen = values[values != 0]
        assert len(chosen) / len(values) == pytest.approx(settings.probability, abs=0.01), name
        assert stats.kstest(chosen.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3, name
    sides = (geometry.cut > 0).sum(0) / (lost > 0).sum()
    assert (geometry.cut > 0).sum(1).max() == 1
    assert np.allclose(sides, 0.25, atol=0.02)
    chosen = torch.stack([values != 0 for values, _, _ in rarely.values()]).float()
    assert np.allclose(np.corrcoef(chosen.numpy()), np.eye(6), atol=0.03), "chosen independently of each other"


def test_switching_one_change_off_leaves_the_draw_of_all_others():
    everything = tensors_of(draw_changes(RichAugmentation(probability=1), 8, step_generator(3)))
    without = tensors_of(draw_changes(RichAugmentation(probability=1, noise=0, scale=0, crop=0), 8, step_generator(3)))
    differing = {name for name, value in everything.items() if not torch.equal(value, without[name])}
    assert differing == {"Deformation scale", "Deformation cut", "IntensityChanges noise"}


# Geometry


@pytest.mark.parametrize(("rows", "columns", "channels"), [(8, 8, 1), (48, 80, 5), (1, 1, 1), (33, 16, 3)])
def test_nothing_changes_when_everything_is_off(rows, columns, channels):
    batch = some_batch(rows, columns, channels=channels)
    changed = change_batch(batch, draw_changes(NOTHING, 4, step_generator(0)))
    for name in ("labels", "known", "pseudo", "annotated", "pseudo_annotated"):
        assert torch.equal(getattr(changed, name), getattr(batch, name)), name
        assert getattr(changed, name).dtype == getattr(batch, name).dtype, name
    assert torch.allclose(changed.image, batch.image, atol=1e-5)
    assert torch.allclose(changed.distance, batch.distance, atol=1e-3)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_rotation_by_quarter_turns_is_that_of_numpy(turn):
    batch = some_batch(16, 16)
    changed = change_batch(batch, changes_of(4, degrees=90.0 * turn))
    for n in range(4):
        for name in ("labels", "known", "pseudo"):
            assert np.array_equal(getattr(changed, name)[n], np.rot90(getattr(batch, name)[n], turn)), name
        assert np.allclose(changed.image[n, 0], np.rot90(batch.image[n, 0], turn), atol=1e-4)


@pytest.mark.parametrize("place", [(-0.2, -0.1), (0.15, 0.1), (0.0, 0.0)])
@pytest.mark.parametrize(("rows", "columns"), [(48, 80), (80, 80), (81, 48)])
@pytest.mark.parametrize(
    "change",
    [
        {"degrees": 30.0},
        {"degrees": -17.0, "scale": (1.2, 0.8), "shift": (0.05, -0.1)},
        {"scale": (0.7, 0.7)},
        {"shift": (0.125, 0.25)},
    ],
)
def test_a_spot_goes_where_scale_then_rotation_then_shift_take_it(place, rows, columns, change):
    from_centre = place[0] * rows, place[1] * columns
    y, x = np.mgrid[:rows, :columns] - np.array([(rows - 1) / 2, (columns - 1) / 2])[:, None, None]
    spot = np.exp(-((y - from_centre[0]) ** 2 + (x - from_centre[1]) ** 2) / (2 * 2**2))
    changed = change_batch(batch_of(spot, np.zeros_like(spot)), changes_of(**change)).image[0, 0].numpy()

    angle, scale = math.radians(change.get("degrees", 0)), change.get("scale", (1, 1))
    shift = change.get("shift", (0, 0))
    sized = scale[0] * from_centre[0], scale[1] * from_centre[1]
    # Counter-clockwise with rows downwards: what lies on the right (x > 0) goes up (y < 0).
    turned = (
        math.cos(angle) * sized[0] - math.sin(angle) * sized[1],
        math.sin(angle) * sized[0] + math.cos(angle) * sized[1],
    )
    expected = turned[0] + (rows - 1) / 2 + shift[0] * rows, turned[1] + (columns - 1) / 2 + shift[1] * columns
    assert ndimage.center_of_mass(changed) == pytest.approx(expected, abs=0.05)


def test_an_affine_change_is_that_of_scipy():
    image, (rows, columns) = smooth_image(40, 64), (40, 64)
    degrees, scale, shift = 25.0, (1.3, 0.9), (0.1, -0.05)
    changed = change_batch(batch_of(image, image > 0.5), changes_of(degrees=degrees, scale=scale, shift=shift))
    angle = math.radians(degrees)
    forth = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) @ np.diag(scale)
    back, centre = np.linalg.inv(forth), (np.array([rows, columns]) - 1) / 2
    offset = centre - back @ (centre + np.array(shift) * (rows, columns))
    expected = ndimage.affine_transform(image, back, offset, order=1)
    inside = ndimage.affine_transform(np.ones_like(image), back, offset, order=1) == 1
    assert inside.mean() > 0.5
    assert np.allclose(changed.image[0, 0][inside], expected[inside], atol=1e-4)
    assert changed.known[0][inside].all()
    nearest = ndimage.affine_transform((image > 0.5).astype(np.uint8), back, offset, order=0)
    assert (changed.labels[0].numpy() != nearest)[inside].mean() < 0.001, "only ties may differ"


def test_what_comes_from_outside_is_air_without_label_unknown_and_far_from_organs():
    batch = some_batch(16, 32)
    changed = change_batch(batch, changes_of(4, shift=(0.25, -0.125)))
    assert torch.equal(changed.labels[:, 4:, :-4], batch.labels[:, :-4, 4:])
    assert torch.equal(changed.known[:, 4:, :-4], batch.known[:, :-4, 4:])
    assert torch.allclose(changed.image[..., 4:, :-4], batch.image[..., :-4, 4:], atol=1e-4)
    outside = torch.ones((16, 32), dtype=torch.bool)
    outside[4:, :-4] = False
    assert not changed.image[:, 0, outside].any()
    for array in (changed.labels, changed.pseudo, changed.known):
        assert not array[:, outside].any()
    assert (changed.distance[:, outside] == NO_ORGAN_DISTANCE_PIXELS).all()


@pytest.mark.parametrize(
    ("cut", "lost"),
    [
        ((0.25, 0.0, 0.0, 0.0), np.s_[:4]),
        ((0.0, 0.25, 0.0, 0.0), np.s_[12:]),
        ((0.0, 0.0, 0.25, 0.0), np.s_[:, :8]),
        ((0.0, 0.0, 0.0, 0.25), np.s_[:, 24:]),
        ((1.0, 0.0, 0.0, 0.0), np.s_[:]),
    ],
)
def test_a_cut_field_of_view_is_air_and_unknown_and_leaves_the_rest(cut, lost):
    batch = some_batch(16, 32, channels=3)
    changed = change_batch(batch, changes_of(4, cut=cut))
    outside = torch.zeros((16, 32), dtype=torch.bool)
    outside[lost] = True
    assert not changed.image[..., outside].any()
    assert not changed.known[:, outside].any()
    assert not changed.labels[:, outside].any()
    assert (changed.distance[:, outside] == NO_ORGAN_DISTANCE_PIXELS).all()
    for name in ("labels", "known", "pseudo"):
        assert torch.equal(getattr(changed, name)[:, ~outside], getattr(batch, name)[:, ~outside]), name
    assert torch.allclose(changed.image[..., ~outside], batch.image[..., ~outside], atol=1e-5)


def test_the_elastic_displacement_has_its_standard_deviation_at_every_pixel_and_is_smooth():
    rows, columns, deviation, cell = 48, 80, 2.0, 12.0
    settings = replace(NOTHING, elastic_pixels=deviation, elastic_cell_pixels=cell)
    drawn = draw_changes(settings, 3000, step_generator(4))
    still = sampling_grid(draw_changes(NOTHING, 1, step_generator(4)).deformation, (rows, columns), device=CPU)
    moved = sampling_grid(drawn.deformation, (rows, columns), device=CPU)
    displacement = (moved - still).numpy() * (columns / 2, rows / 2)
    assert np.allclose(displacement.std(0), deviation, rtol=0.08)
    assert np.allclose(displacement.mean(0), 0, atol=5 * deviation / math.sqrt(3000))
    across = np.corrcoef(displacement[:, 24, 40, 0], displacement[:, 24, 40, 1])[0, 1]
    far = np.corrcoef(displacement[:, 4, 40, 0], displacement[:, 44, 40, 0])[0, 1]
    near = np.corrcoef(displacement[:, 24, 40, 0], displacement[:, 24, 41, 0])[0, 1]
    assert abs(across) < 0.08
    assert abs(far) < 0.08
    assert near > 0.98


def test_no_part_of_a_slice_is_mirrored_or_folded_by_the_default():
    drawn = draw_changes(RichAugmentation(crop=0), 64, step_generator(5)).deformation
    grid = sampling_grid(drawn, (96, 128), device=CPU).numpy() * (64, 48)
    along_y, along_x = np.diff(grid, axis=1)[:, :, :-1], np.diff(grid, axis=2)[:, :-1]
    area = along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]
    assert area.min() > 0.1


def test_labels_and_image_move_together():
    rows, columns = 64, 96
    blob = ndimage.gaussian_filter(smooth_image(rows, columns), 4) > 0.5  # no tip thinner than a pixel
    assert 0.2 < blob.mean() < 0.8
    settings = replace(RichAugmentation(), gamma=0, contrast=0, brightness=0, noise=0, blur_pixels=0)
    batch = batch_of(blob, blob, count=16)
    changed = change_batch(batch, draw_changes(settings, 16, step_generator(6)))
    for image, labels in zip(changed.image[:, 0].numpy() > 0.5, changed.labels.numpy() == 1, strict=True):
        assert not (image & ~ndimage.binary_dilation(labels, np.ones((3, 3)))).any()
        assert not (labels & ~ndimage.binary_dilation(image, np.ones((3, 3)))).any()


def test_label_values_are_never_mixed():
    batch = some_batch(64, 64)
    batch = replace(batch, labels=batch.labels * 100, pseudo=batch.pseudo)
    changed = change_batch(batch, draw_changes(RichAugmentation(), 4, step_generator(7)))
    assert set(changed.labels.unique().tolist()) == {0, 100, 200}
    assert set(changed.pseudo.unique().tolist()) == {0, 4, 255}


def test_what_is_seen_of_one_value_keeps_it_in_every_array():
    batch = some_batch(64, 64)
    batch = replace(batch, known=batch.labels == 1, pseudo=torch.where(batch.labels == 2, 255, 7).to(torch.uint8))
    changed = change_batch(batch, draw_changes(RichAugmentation(), 4, step_generator(8)))
    assert torch.equal(changed.known, changed.labels == 1)
    assert torch.equal(changed.pseudo == 255, changed.labels == 2)


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.5])
def test_distances_stay_pixels_when_organs_grow(scale):
    y, x = np.mgrid[:96, :96] - 47.5
    ball = np.hypot(y, x) < 20
    changed = change_batch(batch_of(ball, ball), changes_of(scale=(scale, scale), degrees=20.0))
    expected = boundary_distance(changed.labels[0].numpy(), "boundary")
    known = changed.known[0].numpy()
    assert np.abs(changed.distance[0].numpy() - expected)[known].max() < 1.5
    assert np.abs(changed.distance[0].numpy() - expected)[known].mean() < 0.6


def test_a_slice_without_organs_keeps_the_largest_distance():
    empty = np.zeros((32, 32))
    changed = change_batch(batch_of(empty, empty), changes_of(scale=(0.8, 0.8), degrees=10.0))
    assert (changed.distance == NO_ORGAN_DISTANCE_PIXELS).all()
    grown = replace(batch_of(empty, empty), distance=torch.full((1, 32, 32), 200.0))
    assert (change_batch(grown, changes_of(scale=(1.4, 1.4))).distance == NO_ORGAN_DISTANCE_PIXELS).all()


def test_neighbouring_slices_deform_alike():
    batch = some_batch(48, 64, channels=5)
    batch = replace(batch, image=batch.image[:, :1].repeat(1, 5, 1, 1))
    changed = change_batch(batch, draw_changes(RichAugmentation(noise=0, probability=1), 4, step_generator(9)))
    assert torch.equal(changed.image, changed.image[:, :1].repeat(1, 5, 1, 1))
    assert not torch.allclose(changed.image, batch.image, atol=0.1)


# Intensities


def test_gamma_contrast_and_brightness_follow_their_formulas_and_are_clipped_once():
    batch = some_batch(16, 16, channels=3)
    image = batch.image.numpy()
    cases = [
        ({"gamma": 0.8}, image**0.8),
        ({"contrast": 1.3}, (image - 0.5) * 1.3 + 0.5),
        ({"brightness": -0.2}, image - 0.2),
        ({"gamma": 1.2, "contrast": 1.5, "brightness": 0.3}, (image**1.2 - 0.5) * 1.5 + 0.5 + 0.3),
    ]
    for change, expected in cases:
        changed = change_batch(batch, changes_of(4, **change)).image
        assert np.allclose(changed, expected.clip(0, 1), atol=1e-4), change


@pytest.mark.parametrize("deviation", [0.2, 0.7, 1.0, 4.9])
def test_blur_is_that_of_scipy(deviation):
    batch = some_batch(40, 24, channels=3)
    changed = change_batch(batch, changes_of(4, blur_pixels=deviation)).image
    expected = ndimage.gaussian_filter(batch.image.numpy(), (0, 0, deviation, deviation), mode="nearest", truncate=4.0)
    assert np.allclose(changed, expected, atol=1e-4)


def test_each_slice_has_its_own_changes_and_those_not_drawn_stay():
    batch = some_batch(16, 16)
    nothing = changes_of(4)
    values = {"gamma": torch.tensor([1.0, 1.5, 1, 1]), "blur_pixels": torch.tensor([0.0, 0, 1, 0.5])}
    changed = change_batch(batch, RichChanges(nothing.deformation, replace(nothing.intensities, **values))).image
    image = batch.image.numpy()
    assert np.allclose(changed[0], image[0], atol=1e-5)
    assert np.allclose(changed[1], image[1] ** 1.5, atol=1e-4)
    for n, deviation in ((2, 1.0), (3, 0.5)):
        assert np.allclose(changed[n, 0], ndimage.gaussian_filter(image[n, 0], deviation, mode="nearest"), atol=1e-4)


def test_noise_has_its_standard_deviation_and_differs_between_slices_and_channels():
    batch = some_batch(64, 64, channels=3)
    batch = replace(batch, image=torch.full_like(batch.image, 0.5))
    settings = replace(NOTHING, noise=0.1, probability=1)
    drawn = draw_changes(settings, 4, step_generator(10))
    noise = change_batch(batch, drawn).image - 0.5
    assert torch.allclose(noise.std((1, 2, 3)), drawn.intensities.noise, rtol=0.03)
    assert np.allclose(np.corrcoef(noise.reshape(12, -1).numpy()), np.eye(12), atol=0.08)


def test_white_noise_is_normal_white_and_depends_on_the_seed_only():
    seeds = draw_seeds(40, step_generator(11))
    noise = white_noise(seeds, (3, 64, 63))
    assert noise.shape == (40, 3, 64, 63)
    assert noise.dtype == torch.float32
    assert stats.kstest(noise.flatten()[::7].numpy(), "norm").pvalue > 1e-3
    moments = stats.describe(noise.flatten().double().numpy())
    assert moments.mean == pytest.approx(0, abs=0.005)
    assert moments.variance == pytest.approx(1, abs=0.005)
    assert moments.skewness == pytest.approx(0, abs=0.01)
    assert moments.kurtosis == pytest.approx(0, abs=0.02)
    spectrum = (torch.fft.rfft2(noise).abs() ** 2).mean((0, 1))
    assert spectrum[1:, 1:-1].std() / spectrum.mean() == pytest.approx(1 / math.sqrt(120), rel=0.1), "flat"
    assert torch.equal(white_noise(seeds[7:8], (3, 64, 63))[0], noise[7])
    assert white_noise(seeds, (5,)).shape == (40, 5)
    assert white_noise(seeds[:0], (3, 2)).shape == (0, 3, 2)


# At the edge


def test_the_strongest_settings_give_finite_images_and_labels():
    settings = RichAugmentation(
        rotation_degrees=180,
        scale=0.99,
        stretch=0.99,
        shift=1,
        elastic_pixels=20,
        elastic_cell_pixels=0.5,
        crop=1,
        gamma=1.99,
        contrast=0.99,
        brightness=0.99,
        noise=1,
        blur_pixels=5,
        probability=1,
    )
    batch = some_batch(16, 48, count=32, channels=3)
    changed = change_batch(batch, draw_changes(settings, 32, step_generator(12)))
    for array in (changed.image, changed.distance):
        assert array.isfinite().all()
    assert changed.image.min() >= 0
    assert changed.image.max() <= 1
    assert not (changed.labels.bool() & (changed.distance == NO_ORGAN_DISTANCE_PIXELS) & changed.known).any()


def test_it_computes_in_float32_under_autocast():
    batch, changes = some_batch(32, 32), draw_changes(RichAugmentation(probability=1), 4, step_generator(13))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = change_batch(batch, changes)
    assert mixed.image.dtype == torch.float32
    assert torch.equal(mixed.image, change_batch(batch, changes).image)


@pytest.mark.cuda
def test_a_gpu_makes_the_same_changes():
    batch = some_batch(96, 64, channels=3)
    changes = draw_changes(RichAugmentation(probability=1), 4, step_generator(14))
    here, there = change_batch(batch, changes), change_batch(batch.to(torch.device("cuda")), changes).to(CPU)
    assert torch.allclose(here.image, there.image, atol=1e-3)
    assert (here.labels != there.labels).float().mean() < 0.001
    assert (here.known != there.known).float().mean() < 0.001


# Context: channels that another network gave


def test_context_moves_with_its_slice_and_keeps_its_values():
    shown = torch.zeros(1, 1, 16, 16)
    shown[:, :, 5:9, 6:12] = 1
    image = torch.cat([0.2 + 0.5 * shown, shown], 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    batch = replace(
        batch_of(np.zeros((1, 32, 32)), np.zeros((32, 32))),
        image=image,
        context=(255 * shown).to(torch.uint8),
    )
    moved_only = replace(NOTHING, shift=0.3, probability=1.0)
    changed = change_batch(batch, draw_changes(moved_only, 1, step_generator(3)))
    assert not torch.equal(changed.image, image)
    assert torch.allclose(
        changed.image[:, 0].sub(0.2).div(0.5)[changed.known], changed.image[:, 1][changed.known], atol=1e-5
    )
    grey_only = replace(NOTHING, gamma=0.3, contrast=0.3, brightness=0.2, noise=0.1, blur_pixels=1.0, probability=1.0)
    changed = change_batch(batch, draw_changes(grey_only, 1, step_generator(3)))
    assert torch.allclose(changed.image[:, 1], image[:, 1], atol=1e-6)
    assert not torch.allclose(changed.image[:, 0], image[:, 0], atol=0.02)
