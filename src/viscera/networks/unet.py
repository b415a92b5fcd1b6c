"""The 2D U-Net of zhang2d: Ronneberger's shape with padded convolutions and batch normalisation.

Source: Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28, figure 1; Zhang 2025, figure 3b (widths 64 to 1024,
12 classes, input 256x256).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viscera.config import UNetShape
from viscera.networks.levels import check_sides, recomputed, sides_of


class UNet(nn.Module):
    """A 2D U-Net: image (batch, channel, y, x) -> logits (batch, class, y, x) of the same size.

    With sigmoid heads the background's logit is 0 everywhere: an organ is found where its logit is above 0, and the largest
    logit still decides.

    Args:
        shape: Widths of the levels, slices seen at once (the first channels), stem, heads, and whether to recompute levels in
            the backward pass.
        classes: Classes of the output, background included.
        context: Further channels of the input, behind the slices: what another network says lies where.
    """

    dimensions = 2

    def __init__(self, shape: UNetShape, *, classes: int, context: int = 0) -> None:
        super().__init__()
        widths, in_channels = shape.widths, shape.slices + context
        self.heads = shape.heads
        self.stem = None
        if shape.stem > 1:
            self.stem, in_channels = Stem(shape.slices, context, widths[0], step=shape.stem), widths[0]
        self.checkpointing = shape.checkpointing
        self.down = nn.ModuleList(Block(a, b) for a, b in zip((in_channels, *widths[:-2]), widths[:-1], strict=True))
        self.bottom = Block(widths[-2], widths[-1])
        self.raise_ = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.up = nn.ModuleList(Block(2 * a, a) for a in widths[-2::-1])
        logits = classes - (shape.heads == "sigmoid")
        if self.stem is None:
            self.head = nn.Conv2d(widths[0], logits, 1)
        else:  # a 1x1 convolution to so many logits for each pixel of a block, put side by side
            self.head = nn.ConvTranspose2d(widths[0], logits, shape.stem, stride=shape.stem)

    @property
    def stride(self) -> int:
        """Rows and columns must be multiples of this."""
        return 2 ** len(self.down) * (1 if self.stem is None else self.stem.step)

    def forward(self, image: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch class y x"]:
        """Return the logits.

        Raises:
            SettingError: The image cannot be halved often enough.
        """
        check_sides(sides_of(image), stride=self.stride, setting="preparation.size")
        skips = []
        if self.stem is not None:
            image = self._run(self.stem, image)
        for block in self.down:
            image = self._run(block, image)
            skips.append(image)
            image = nn.functional.max_pool2d(image, 2)
        image = self._run(self.bottom, image)
        for raise_, block in zip(self.raise_, self.up, strict=True):
            image = self._run(block, torch.cat([skips.pop(), raise_(image)], dim=1))
        logits = self.head(image)
        return nn.functional.pad(logits, (0, 0, 0, 0, 1, 0)) if self.heads == "sigmoid" else logits

    def _run(self, block: nn.Module, image: Tensor) -> Tensor:
        return recomputed(block, image) if self.checkpointing and self.training else block(image)


class Stem(nn.Module):
    """From slices and their context to the first level's channels at a fraction of the rows and columns.

    The slices' convolution is a 3x3 one of blocks of pixels put behind one another as channels (space to depth: Shi et al. 2016,
    doi:10.1109/CVPR.2016.207, the other way round). The context is coarse, so that its blocks are averaged.
    """

    def __init__(self, slices: int, context: int, width: int, *, step: int) -> None:
        super().__init__()
        self.slices, self.step = slices, step
        self.seen = nn.Conv2d(slices, width, 3 * step, stride=step, padding=step, bias=False)
        self.known = nn.Conv2d(context, width, 3, padding=1, bias=False) if context else None
        self.norm = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True))

    def forward(self, image: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch width _ _"]:
        """Return the features."""
        features = self.seen(image[:, 0 : self.slices])
        if self.known is not None:
            known = image[:, self.slices : self.slices + self.known.in_channels]
            features = features + self.known(nn.functional.avg_pool2d(known, self.step))
        return self.norm(features)


class Block(nn.Sequential):
    """Twice: 3x3 convolution without bias, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


def parameter_count(network: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
