"""The sixteen-fold augmentation: distribution of the draw, and its effect on each slice."""

import numpy as np
import pytest
import torch

from viscera.augmentation import SliceChanges, change_batch, draw_changes
from viscera.config import SliceAugmentation
from viscera.errors import SettingError
from viscera.sampling import Batch, step_generator


def some_batch(rows: int = 8, columns: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        image=torch.rand((4, 1, rows, columns), generator=generator),
        labels=torch.randint(0, 3, (4, rows, columns), generator=generator).to(torch.uint8),
        known=torch.rand((4, rows, columns), generator=generator) > 0.1,
        distance=torch.rand((4, rows, columns), generator=generator),
        annotated=torch.ones((4, 3), dtype=torch.bool),
    )


def test_the_draw_has_the_stated_distribution():
    changes = draw_changes(SliceAugmentation(), 20_000, step_generator(0))
    assert np.allclose(np.bincount(changes.turns.numpy()) / 20_000, 0.25, atol=0.02)
    for values, low, high in ((changes.contrast, 0.96, 1.04), (changes.brightness, -0.03, 0.03)):
        assert low <= values.min() < low + 0.001
        assert high - 0.001 < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.001)


def test_image_labels_known_and_distance_turn_together_and_only_the_image_changes_its_values():
    batch = some_batch()
    turns = torch.tensor([0, 1, 2, 3])
    changed = change_batch(batch, SliceChanges(turns, torch.full((4,), 1.04), torch.full((4,), 0.03)))
    for n, turn in enumerate(turns.tolist()):
        assert np.array_equal(changed.labels[n], np.rot90(batch.labels[n], turn))
        assert np.array_equal(changed.known[n], np.rot90(batch.known[n], turn))
        assert np.array_equal(changed.distance[n], np.rot90(batch.distance[n], turn))
        expected = np.clip(np.rot90(batch.image[n, 0].numpy(), turn) * np.float32(1.04) + np.float32(0.03), 0, 1)
        assert np.allclose(changed.image[n, 0], expected, atol=1e-6)


def test_the_given_batch_stays_as_it_is():
    batch, same = some_batch(), some_batch()
    change_batch(batch, draw_changes(SliceAugmentation(), 4, step_generator(1)))
    assert torch.equal(batch.image, same.image)
    assert torch.equal(batch.labels, same.labels)


def test_slices_that_are_not_square_cannot_be_turned_but_can_be_left():
    changes = SliceChanges(torch.tensor([0, 1, 0, 0]), torch.ones(4), torch.zeros(4))
    with pytest.raises(SettingError, match="needs square slices, got 8x6"):
        change_batch(some_batch(8, 6), changes)
    still = SliceChanges(torch.zeros(4, dtype=torch.int64), torch.ones(4), torch.zeros(4))
    assert torch.equal(change_batch(some_batch(8, 6), still).labels, some_batch(8, 6).labels)


def test_a_devices_share_is_cut_from_the_whole_draw():
    changes = draw_changes(SliceAugmentation(), 6, step_generator(2))
    shares = [changes.part(slice(rank, None, 2)) for rank in (0, 1)]
    assert torch.equal(torch.stack([s.contrast for s in shares], 1).flatten(), changes.contrast)
