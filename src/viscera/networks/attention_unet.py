"""Oktay's 3D attention U-Net, the network of runet: gates on the skip connections choose what passes.

Source: Oktay et al. 2018, arXiv:1804.03999, section 3; unet_CT_single_att_dsv_3D of
https://github.com/ozan-oktay/Attention-Gated-Networks/tree/21e79c4e2968e74bbc29dabe1a235509af8c7241.
"""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from viscera.config import AttentionUNetShape
from viscera.errors import SettingError
from viscera.networks.levels import check_sides, recomputed, sides_of


class AttentionUNet(nn.Module):
    """A 3D attention U-Net: patch (batch, channel, z, y, x) -> logits (batch, class, z, y, x) of the same size.

    All skip connections but the finest are gated. Every decoder level votes for the classes; the logits are a learnt sum of
    the votes, brought to full size.

    Ding et al. state 8,271,238 parameters and 750,361,509,889 operations for a 128^3 patch, and no widths. Neither Oktay's
    networks (one gate or two, with and without votes), MONAI's AttentionUnet nor LeeJunHyun's AttU_Net in 3D have that count with
    3 to 6 levels whose widths double. This network has 6,214,432 parameters with 5 classes and takes 146 G multiply-adds at
    Oktay's own widths 16, 32, 64, 128, 256; with four levels it meets both numbers within 1 %: widths 40, 72, 136, 320 give
    8,249,297 parameters (0.3 % fewer) and 757 G multiply-adds (0.8 % more).

    Args:
        shape: Widths of the levels, and whether to recompute levels in the backward pass.
        classes: Classes of the output, background included.
    """

    dimensions = 3

    def __init__(self, shape: AttentionUNetShape, *, classes: int) -> None:
        super().__init__()
        widths = shape.widths
        self.checkpointing = shape.checkpointing
        self.down = nn.ModuleList(Level(a, b) for a, b in zip((1, *widths[:-1]), widths, strict=True))
        self.signal = _pointwise(widths[-1], widths[-1])
        pairs = list(itertools.pairwise(widths))
        self.gates = nn.ModuleList(Gate(a, b) for a, b in reversed(pairs[1:]))
        self.up = nn.ModuleList(Up(b, a) for a, b in reversed(pairs))
        self.votes = nn.ModuleList(nn.Conv3d(a, classes, 1) for a, _ in reversed(pairs))
        self.sum = nn.Conv3d(classes * len(pairs), classes, 1)
        self.apply(_start)

    @property
    def stride(self) -> int:
        """All three sides must be multiples of this."""
        return 2 ** len(self.up)

    def forward(self, patch: Float[Tensor, "batch 1 z y x"]) -> Float[Tensor, "batch class z y x"]:
        """Return the logits.

        Raises:
            SettingError: The patch cannot be halved often enough, or a single patch halves down to a single voxel.
        """
        self._check(patch)
        size = patch.shape[2:]
        skips = []
        for level in self.down[:-1]:
            patch = self._run(level, patch)
            skips.append(patch)
            patch = functional.max_pool3d(patch, 2)
        patch = self._run(self.down[-1], patch)
        signal = self.signal(patch)
        features = []
        for number, up in enumerate(self.up):
            skip = skips.pop()
            if skips:
                skip = self._run(self.gates[number], skip, signal)
            signal = patch = self._run(up, patch, skip)
            features.append(patch)
        return self._summed(features, size)

    def _summed(self, features: list[Tensor], size: torch.Size) -> Tensor:
        """Sum the votes of all levels: 1x1x1 convolutions go before the enlargement, where they cost next to nothing."""
        shares = self.sum.weight.split(self.sum.out_channels, dim=1)
        logits = self.sum.bias.view(-1, 1, 1, 1)  # type: ignore[union-attr]
        for image, vote, share in zip(features, self.votes, shares, strict=True):
            coarse = functional.conv3d(vote(image), share)
            logits = logits + _enlarged(coarse, size)
        return logits

    def _check(self, patch: Tensor) -> None:
        check_sides(sides_of(patch), stride=self.stride, setting="sampling.size")
        if self.training and len(patch) * patch.shape[2:].numel() == self.stride**3:
            raise SettingError(
                f"one patch of {'x'.join(map(str, patch.shape[2:]))} voxels is a single voxel on the coarsest level, where "
                "batch normalisation has nothing to average",
                f"Change sampling.size to at least {2 * self.stride} along "
                "one side, raise training.batch_size, or take fewer network.widths.",
            )

    def _run(self, level: nn.Module, *images: Tensor) -> Tensor:
        return recomputed(level, *images) if self.checkpointing and self.training else level(*images)


class Level(nn.Sequential):
    """Twice: 3x3x3 convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )


class Up(nn.Module):
    """Enlarge the coarse image, put it behind the skip connection, run a level."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.level = Level(in_channels + out_channels, out_channels)

    def forward(self, coarse: Float[Tensor, "batch wide _ _ _"], skip: Float[Tensor, "batch narrow z y x"]) -> Tensor:
        """Return the features of the finer level."""
        return self.level(torch.cat([skip, _enlarged(coarse, skip.shape[2:])], dim=1))


class Gate(nn.Module):
    """Let of a skip connection pass what the coarser level asks for: additive attention, one coefficient per 2x2x2 voxels.

    Source: Oktay et al. 2018, equations 1 and 2.

    Args:
        channels: Channels of the skip connection.
        signal_channels: Channels of the coarser level's features, whose sides are half as long.
    """

    def __init__(self, channels: int, signal_channels: int) -> None:
        super().__init__()
        self.of_skip = nn.Conv3d(channels, channels, 2, stride=2, bias=False)
        self.of_signal = nn.Conv3d(signal_channels, channels, 1)
        self.coefficient = nn.Conv3d(channels, 1, 1)
        self.out = nn.Sequential(
            nn.Conv3d(channels, channels, 1), nn.BatchNorm3d(channels), *_pointwise(channels, channels)
        )

    def forward(self, skip: Float[Tensor, "batch narrow z y x"], signal: Float[Tensor, "batch wide _ _ _"]) -> Tensor:
        """Return the gated skip connection."""
        asked = functional.relu(self.of_skip(skip) + self.of_signal(signal), inplace=True)
        coefficients = torch.sigmoid(self.coefficient(asked))
        return self.out(_enlarged(coefficients, skip.shape[2:]) * skip)


def _pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(in_channels, out_channels, 1), nn.BatchNorm3d(out_channels), nn.ReLU(inplace=True))


def _enlarged(image: Tensor, size: torch.Size) -> Tensor:
    """Interpolate to a size; the type stays also where autocast would have interpolation in float32 (on the CPU)."""
    if image.shape[2:] == size:
        return image
    return functional.interpolate(image, size=size, mode="trilinear").to(image.dtype)


def _start(module: nn.Module) -> None:
    """Draw He-normal weights, as Oktay's code does; biases and batch normalisation start as torch has them."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight)
