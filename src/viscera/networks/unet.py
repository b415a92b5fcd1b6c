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
        shape: Widths of the levels, slices seen at once (the channels), heads, and whether to recompute levels in the
            backward pass.
        classes: Classes of the output, background included.
    """

    dimensions = 2

    def __init__(self, shape: UNetShape, *, classes: int) -> None:
        super().__init__()
        widths, in_channels = shape.widths, shape.slices
        self.heads = shape.heads
        self.checkpointing = shape.checkpointing
        self.down = nn.ModuleList(Block(a, b) for a, b in zip((in_channels, *widths[:-2]), widths[:-1], strict=True))
        self.bottom = Block(widths[-2], widths[-1])
        self.raise_ = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.up = nn.ModuleList(Block(2 * a, a) for a in widths[-2::-1])
        self.head = nn.Conv2d(widths[0], classes - (shape.heads == "sigmoid"), 1)

    @property
    def stride(self) -> int:
        """Rows and columns must be multiples of this."""
        return 2 ** len(self.down)

    def forward(self, image: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch class y x"]:
        """Return the logits.

        Raises:
            SettingError: The image cannot be halved often enough.
        """
        check_sides(sides_of(image), stride=self.stride, setting="preparation.size")
        skips = []
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
