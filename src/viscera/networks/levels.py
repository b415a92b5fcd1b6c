"""What every U-Net here shares: sides that can be halved, and levels that are recomputed in the backward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from viscera.errors import SettingError


def sides_of(image: Tensor) -> tuple[int, ...]:
    """Return the sides of images (batch, channel, *space) as plain numbers, which they are not where a network is traced."""
    return tuple(int(side) for side in image.shape[2:])


def check_sides(sides: Sequence[int], *, stride: int, setting: str) -> None:
    """Check that a network can halve all sides of an image or patch as often as it must.

    Args:
        sides: Voxels along each side.
        stride: What each side must be a multiple of.
        setting: The setting that decides the sides, for the message.

    Raises:
        SettingError: A side is not a multiple; the message names the sizes next to it that are.

    Example:
        >>> check_sides((96, 128, 128), stride=32, setting="sampling.size")
    """
    wrong = [side for side in dict.fromkeys(sides) if side % stride or not side]
    if wrong:
        fitting = ", ".join(f"instead of {side} take {_neighbours(side, stride)}" for side in wrong)
        raise SettingError(
            f"a U-Net with {stride.bit_length()} levels needs sides that are multiples of {stride}, "
            f"got {'x'.join(map(str, sides))}: {fitting}",
            f"Change {setting} or network.widths.",
        )


def check_patch(sides: Sequence[int], *, stride: int, setting: str) -> None:
    """Check that a network can halve a patch, and that more than a single voxel is left of it on the coarsest level.

    Args:
        sides: Voxels along each side.
        stride: What each side must be a multiple of.
        setting: The setting that decides the sides, for the message.

    Raises:
        SettingError: A side is not a multiple, or one voxel is left, in which normalisation finds no variation.
    """
    check_sides(sides, stride=stride, setting=setting)
    if all(side == stride for side in sides):
        raise SettingError(
            f"a patch of {'x'.join(map(str, sides))} voxels is a single voxel on the coarsest level, "
            "where normalisation would leave nothing",
            f"Change {setting} to at least {2 * stride} along one side, or take fewer network.widths.",
        )


def _neighbours(side: int, stride: int) -> str:
    below = side // stride * stride
    return f"{below} or {below + stride}" if below else f"{stride}"


def channels_innermost(patch: Tensor) -> bool:
    """Tell whether the channels of 3D patches (batch, channel, z, y, x) lie side by side in memory, and only they do."""
    return patch.is_contiguous(memory_format=torch.channels_last_3d) and not patch.is_contiguous()


def recomputed(level: nn.Module, *images: Tensor) -> Tensor:
    """Run a level without keeping its activations: the backward pass computes them once more.

    Gradients, random draws and the running statistics of batch normalisation are those of a plain run; mixed precision works.
    """
    return checkpoint(level, *images, use_reentrant=False, context_fn=_contexts(level))  # type: ignore[return-value]


def _contexts(level: nn.Module) -> Callable[[], tuple[AbstractContextManager, AbstractContextManager]]:
    """Return checkpoint's contexts: the second pass must not count the batch into the running statistics once more."""
    return lambda: (nullcontext(), _statistics_kept(level))


@contextmanager
def _statistics_kept(level: nn.Module) -> Iterator[None]:
    norms = [
        (module, module.momentum, module.num_batches_tracked)
        for module in level.modules()
        if isinstance(module, _BatchNorm)
    ]
    for norm, _, tracked in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, tracked.clone()  # type: ignore[union-attr]
    try:
        yield
    finally:
        for norm, momentum, tracked in norms:
            norm.momentum, norm.num_batches_tracked = momentum, tracked
