"""nnU-Net's plain 3D U-Net, the network of gao2step: instance normalisation, leaky ReLU, strided convolutions.

Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z; PlainConvUNet of
https://github.com/MIC-DKFZ/dynamic-network-architectures, version 0.4.4, whose weights `from_plain_conv_unet` renames.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viscera.config import PlainUNetShape
from viscera.errors import WeightsError
from viscera.networks.levels import channels_innermost, check_patch, recomputed, sides_of

SLOPE = 0.01  # of the leaky ReLU below 0; Gao et al., section 2.2


class PlainUNet(nn.Module):
    """A 3D U-Net: patch (batch, channel, z, y, x) -> logits (batch, class, z, y, x) of the same size.

    With the widths 32, 64, 128, 256, 320, 320 and 14 classes it has 31,205,254 parameters, with 2 classes 31,195,594. Gao et
    al. state 31.42 M for both: 0.7 % more, and from where is unknown; one level fewer or more, or convolutions without biases,
    are further away.

    Args:
        shape: Widths of the levels, whether coarser levels give logits in training, and whether to recompute levels in the
            backward pass. The heads of the coarser levels exist in either case, so that weights fit both.
        classes: Classes of the output, background included.
    """

    dimensions = 3

    def __init__(self, shape: PlainUNetShape, *, classes: int) -> None:
        super().__init__()
        widths = shape.widths
        self.deep_supervision = shape.deep_supervision
        self.checkpointing = shape.checkpointing
        pairs = list(itertools.pairwise(widths))
        norm = shape.norm
        self.down = nn.ModuleList(
            [Level(1, widths[0], norm=norm), *(Level(a, b, stride=2, norm=norm) for a, b in pairs)]
        )
        self.up = nn.ModuleList(Up(b, a, norm=norm) for a, b in reversed(pairs))
        self.heads = nn.ModuleList(nn.Conv3d(a, classes, 1) for a, _ in reversed(pairs))
        self.apply(_start)

    @property
    def stride(self) -> int:
        """All three sides must be multiples of this."""
        return 2 ** len(self.up)

    def forward(
        self, patch: Float[Tensor, "batch 1 z y x"]
    ) -> Float[Tensor, "batch class z y x"] | list[Float[Tensor, "batch class _ _ _"]]:
        """Return the logits; in training with deep supervision those of all levels, the finest first.

        Raises:
            SettingError: The patch cannot be halved often enough, or halves down to a single voxel.
        """
        check_patch(sides_of(patch), stride=self.stride, setting="sampling.size")
        skips = []
        for level in self.down:
            patch = self._run(level, patch)
            skips.append(patch)
        skips.pop()
        every_level = self.deep_supervision and self.training
        logits: list[Tensor] = []
        for up, head in zip(self.up, self.heads, strict=True):
            patch = self._run(up, patch, skips.pop())
            if every_level or not skips:
                logits.insert(0, self._logits(head, patch))  # type: ignore[arg-type]
        return logits if every_level else logits[0]

    def _run(self, level: nn.Module, *images: Tensor) -> Tensor:
        return recomputed(level, *images) if self.checkpointing and self.training else level(*images)

    def _logits(self, head: nn.Conv3d, patch: Tensor) -> Tensor:
        """Run a head; as a matrix product where that is several times as fast (14 channels are no multiple of a vector's 8)."""
        if not channels_innermost(patch):
            return head(patch)
        logits = nn.functional.linear(patch.movedim(1, -1), head.weight.flatten(1), head.bias)
        return logits.movedim(-1, 1).contiguous()


class ItemNorm(nn.InstanceNorm3d):
    """Instance normalisation; with the channels innermost by batch normalisation of each item alone.

    That is the same sum, but keeps the channels innermost, where torch's instance normalisation copies there and back.
    """

    def forward(self, input: Float[Tensor, "batch channel z y x"]) -> Float[Tensor, "batch channel z y x"]:
        """Return the normalised images."""
        if not channels_innermost(input):
            return super().forward(input)
        items = (
            nn.functional.batch_norm(item, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for item in input.split(1)
        )
        return torch.cat(list(items))


class Level(nn.Sequential):
    """Twice: 3x3x3 convolution, normalisation, (leaky) ReLU; the first convolution may have a stride."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, norm: Literal["instance", "batch"] = "instance"
    ) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1),
            *_normalised(out_channels, norm),
            nn.Conv3d(out_channels, out_channels, 3, padding=1),
            *_normalised(out_channels, norm),
        )


def _normalised(channels: int, norm: Literal["instance", "batch"]) -> tuple[nn.Module, nn.Module]:
    """Return normalisation and activation."""
    if norm == "batch":
        return nn.BatchNorm3d(channels), nn.ReLU(inplace=True)
    return ItemNorm(channels, eps=1e-5, affine=True), nn.LeakyReLU(SLOPE, inplace=True)


class Up(nn.Module):
    """Double the sides by a transposed convolution, put the skip connection behind, run a level.

    One module, so that recomputing keeps the coarse image and the skip, not their concatenation.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: Literal["instance", "batch"] = "instance") -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2)
        self.level = Level(2 * out_channels, out_channels, norm=norm)

    def forward(self, coarse: Float[Tensor, "batch wide _ _ _"], skip: Float[Tensor, "batch narrow z y x"]) -> Tensor:
        """Return the features of the finer level."""
        return self.level(torch.cat([self.enlarge(coarse), skip], dim=1))


def _start(module: nn.Module) -> None:
    """Draw He-normal weights, as Gao et al. state and nnU-Net does; biases start at 0."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_CONVOLUTION = re.compile(r"(encoder|decoder)\.stages\.(\d+)\.(?:0\.)?convs\.([01])\.(conv|norm)\.(weight|bias)")
_SINGLE = re.compile(r"decoder\.(transpconvs|seg_layers)\.(\d+)\.(weight|bias)")


def from_plain_conv_unet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of nnU-Net's PlainConvUNet to those of a `PlainUNet` with the same widths and classes.

    Args:
        tensors: The network's state dict, in nnU-Net's checkpoint_final.pth under "network_weights". It holds its encoder
            and each of its convolutions more than once; the copies are left out.

    Returns:
        A state dict for `PlainUNet.load_state_dict`, of the same tensors.

    Raises:
        WeightsError: A tensor has no place in a PlainConvUNet with two convolutions per level.
    """
    originals = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith("decoder.encoder.") and ".all_modules." not in name
    }
    return {_our_name(name): tensor for name, tensor in originals.items()}


def _our_name(theirs: str) -> str:
    if found := _CONVOLUTION.fullmatch(theirs):
        side, level, convolution, layer, kind = found.groups()
        place = f"down.{level}" if side == "encoder" else f"up.{level}.level"
        return f"{place}.{3 * int(convolution) + (layer == 'norm')}.{kind}"
    if found := _SINGLE.fullmatch(theirs):
        layer, level, kind = found.groups()
        return f"up.{level}.enlarge.{kind}" if layer == "transpconvs" else f"heads.{level}.{kind}"
    raise WeightsError(
        f"tensor {theirs!r} has no place in nnU-Net's PlainConvUNet with two convolutions per level, the only one of its "
        "networks that can be taken over",
        "Train with the plans of 'nnUNetPlans' (not 'nnUNetResEncUNet...Plans').",
    )
