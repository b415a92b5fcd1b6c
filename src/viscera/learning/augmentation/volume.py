"""gao2step's changes of 3D patches, in the paper's order: flips, smoothing, noise, gamma, shift.

A patch is changed by itself: batches of patches are small, most changes befall few of them, and its change then cannot
depend on the others. All is float32 arithmetic without convolution kernels, which on a GPU may round to 10 bits (TF32).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Generator, Tensor

from viscera.config import VolumeAugmentation
from viscera.errors import SettingError
from viscera.learning.augmentation.intensities import BLUR_REACH
from viscera.learning.augmentation.white_noise import draw_seeds, white_noise
from viscera.learning.sampling.batch import Batch


@dataclass(frozen=True)
class VolumeChanges:
    """What is done to each patch of a batch.

    Attributes:
        flip: Whether rows, columns are mirrored (y, x).
        smooth_voxels: Standard deviation of a Gaussian blur along z, y, x; 0 leaves the patch as it is.
        noise_mean: Mean of white noise; 0 likewise if ``noise_sd`` is.
        noise_sd: Its standard deviation.
        seed: Of the noise.
        gamma: Exponent; 1 likewise.
        shift: Added to the image; 0 likewise.
        length: Share of the slices that is left, the same for the whole batch; 1 likewise.
        place: Where these lie, from 0 (the first slices) to 1, the same for the whole batch.
    """

    flip: Bool[Tensor, "batch 2"]
    smooth_voxels: Float[Tensor, "batch 3"]
    noise_mean: Float[Tensor, " batch"]
    noise_sd: Float[Tensor, " batch"]
    seed: Int[Tensor, " batch"]
    gamma: Float[Tensor, " batch"]
    shift: Float[Tensor, " batch"]
    length: Float[Tensor, " batch"]
    place: Float[Tensor, " batch"]

    def part(self, share: slice) -> "VolumeChanges":
        """Return the changes of one device's share of the batch."""
        return VolumeChanges(**{item.name: getattr(self, item.name)[share] for item in fields(self)})

    def __iter__(self) -> "Iterator[VolumeChanges]":
        """Return the changes of one patch after the other."""
        return (self.part(slice(patch, patch + 1)) for patch in range(len(self.seed)))


def draw_volume_changes(settings: VolumeAugmentation, count: int, generator: Generator) -> VolumeChanges:
    """Draw the changes of a batch of patches.

    Source: Gao et al. 2023 (FLARE23), section "Data augmentation".
    """
    probability = (settings.flip_y, settings.flip_x, settings.smooth, settings.noise, settings.gamma, settings.shift)
    chosen = torch.rand((6, count), generator=generator) < torch.tensor(probability)[:, None]
    size = torch.rand((7, count), generator=generator)
    smooth = _between(settings.smooth_voxels, size[:3]) * chosen[2]
    seed = draw_seeds(count, generator)
    short, length, place = torch.rand(3, generator=generator)
    length = _between(settings.shorten_to, length) if short < settings.shorten else torch.ones(())
    return VolumeChanges(
        flip=chosen[:2].T,
        smooth_voxels=smooth.T,
        noise_mean=_between(settings.noise_mean, size[3]) * chosen[3],
        noise_sd=_between(settings.noise_sd, size[4]) * chosen[3],
        seed=seed,
        gamma=torch.where(chosen[4], _between(settings.gamma_power, size[5]), 1.0),
        shift=_between(settings.shift_by, size[6]) * chosen[5],
        length=length.expand(count),
        place=place.expand(count),
    )


def _between(ends: tuple[float, float], share: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return ends[0] + (ends[1] - ends[0]) * share


@torch.no_grad()
def change_volumes(batch: Batch, changes: VolumeChanges, *, stride: int) -> Batch:
    """Return the batch with its patches changed: all arrays flipped, perhaps shortened, the image's intensities changed.

    Arrays to which nothing is done are given as they are, not copied.

    Args:
        batch: Its image already scaled.
        changes: From ``draw_volume_changes``.
        stride: What the network needs the number of slices to be a multiple of.

    Raises:
        SettingError: The batch holds slices.
    """
    if batch.image.ndim != 5:
        raise SettingError(
            f"augmentation.kind 'volume' changes 3D patches, got slices of {tuple(batch.image.shape[2:])}",
            "Choose 'slice' or 'rich', or sampling.kind 'patches'.",
        )
    moved = {
        name: _flipped(getattr(batch, name), changes.flip)
        for name in ("image", "labels", "known", "distance", "pseudo")
    }
    moved = _shortened(moved, changes, stride)
    with torch.autocast(batch.image.device.type, enabled=False):
        moved["image"] = change_volume_intensities(moved["image"].float(), changes)
    return replace(batch, **moved)


def _shortened(arrays: dict[str, Tensor], changes: VolumeChanges, stride: int) -> dict[str, Tensor]:
    """Cut all patches of a batch to the same slices, so that they stay one batch."""
    depth, *plane = arrays["labels"].shape[1:]
    # the coarsest level needs more than one voxel (networks/levels.py)
    fewest = stride if max(plane) > stride else 2 * stride
    length = min(depth, max(fewest, math.ceil(float(changes.length[0]) * depth / stride) * stride))
    if length == depth:
        return arrays
    first = round(float(changes.place[0]) * (depth - length))
    # The image has channels before its slices; distances may be a single number for each patch.
    return {name: array if array.shape[-3] == 1 else array.narrow(-3, first, length) for name, array in arrays.items()}


def _flipped(arrays: Shaped[Tensor, "batch *rest"], flip: Bool[Tensor, "batch 2"]) -> Shaped[Tensor, "batch *rest"]:
    """Mirror each patch in its own last two dimensions; one that is broadcast along them has nothing to mirror."""
    if not flip.any() or arrays.shape[-2:] == (1, 1):
        return arrays
    axes = [[axis for axis, mirrored in zip((-2, -1), both, strict=True) if mirrored] for both in flip.tolist()]
    return torch.stack([patch.flip(mirrored) for patch, mirrored in zip(arrays, axes, strict=True)])


def change_volume_intensities(
    image: Float[Tensor, "batch channel z y x"], drawn: VolumeChanges
) -> Float[Tensor, "batch channel z y x"]:
    """Return the image with its intensities changed; the same tensor where nothing was drawn."""
    patches = list(image)
    changed = [_changed(patch, one) for patch, one in zip(patches, drawn, strict=True)]
    touched = any(new is not old for new, old in zip(changed, patches, strict=True))
    return torch.stack(changed) if touched else image


def _changed(patch: Float[Tensor, "channel z y x"], drawn: VolumeChanges) -> Float[Tensor, "channel z y x"]:
    """Return one patch with its intensities changed; the same tensor where nothing was drawn."""
    if drawn.smooth_voxels.any():
        patch = smoothed(patch, drawn.smooth_voxels[0].tolist())
    if drawn.noise_mean.any() or drawn.noise_sd.any():
        noise = white_noise(drawn.seed.to(patch.device), tuple(patch.shape))[0]
        patch = patch + noise.mul_(drawn.noise_sd.item()).add_(drawn.noise_mean.item())
    if drawn.gamma != 1:
        patch = with_gamma(patch, drawn.gamma.item())
    if drawn.shift.any():
        patch = patch + drawn.shift.item()
    return patch


def smoothed(patch: Float[Tensor, "channel z y x"], deviation_voxels: list[float]) -> Float[Tensor, "channel z y x"]:
    """Return the patch convolved with a Gaussian; beyond its edge its last voxel repeats.

    Args:
        patch: On any device.
        deviation_voxels: Along z, y, x; 0 leaves that axis as it is. Cut off at BLUR_REACH times it (6e-5 is lost).
    """
    for axis, deviation in enumerate(deviation_voxels, 1):
        reach, length = int(BLUR_REACH * deviation + 0.5), patch.shape[axis]
        if reach == 0:
            continue
        weights = torch.exp(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2 / (-2 * deviation**2))
        weights = (weights / weights.sum()).tolist()
        repeated = torch.arange(-reach, length + reach, device=patch.device).clamp_(0, length - 1)
        padded = patch.index_select(axis, repeated)
        patch = padded.narrow(axis, 0, length) * weights[0]
        for first, weight in enumerate(weights[1:], 1):
            patch.add_(padded.narrow(axis, first, length), alpha=weight)
    return patch


def with_gamma(patch: Float[Tensor, "channel z y x"], power: float) -> Float[Tensor, "channel z y x"]:
    """Scale the patch to [0, 1] by its own least and largest value, raise it to the power, and scale it back."""
    low, high = patch.aminmax()
    span = (high - low).clamp(min=torch.finfo(patch.dtype).tiny)  # a patch all alike stays as it is
    return (patch - low).div_(span).pow_(power).mul_(span).add_(low)
