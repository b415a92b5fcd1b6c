"""The networks of upv1 and upv2: two 2D U-Nets of any depth, without normalisation, with convolutions on the skip connections.

Source: the thesis on AbdomenCT-1K, Polytechnical University of Valencia, chapter 4 ("The General Topology of the U-Net
architecture" to "The Use of Other Variations"; chapter 3 for the sizes of kernels). conv: 3x3 convolution, padded.

    part                 U-Net 1                           U-Net 2
    first level          conv conv ReLU                    conv conv conv, conv conv ReLU
    every further level  2x2 max pooling, conv conv ReLU   the same
    bridge               2x2 max pooling, conv conv ReLU conv conv ReLU
    each way up          2x2 transposed convolution | conv ReLU of the skip connection, then conv conv ReLU
    end                  conv, 1x1 to the classes          conv ReLU conv ReLU, 1x1 to the classes

Stated: the order above; that depth counts the poolings, the ways up and the skip connections alike; 3x3, 2x2, no
normalisation (none is mentioned). Ours, because the text says nothing or more than one thing:

- widths: twice as many at each level, from ``width`` to at most ``most``. Single precision, batches of 30 slices of 512x512
  and 24 GB, all stated, leave room for a ``width`` of 32, not of 64 (see recipes/upv.py).
- the last convolution is 1x1, Ronneberger's; padding is of zeros, so that the output is as large as the input.
- the two convolutions that go before the softmax are not the last level's: every level is said to stand "before the final
  classification". Where a ReLU is not said to follow, none does: a pair without one between is a linear map of 5x5 pixels.
- U-Net 2's ReLU before the first pooling is the one that U-Net 1 has there; a second one would change nothing.
- weights begin with variance 2/n before a ReLU and 1/n elsewhere, n inputs each (He et al. 2015, arXiv:1502.01852), biases with
  0: a level's output is then as strong as its input. Torch's own, a third of 1/n, does not train at depth 8: at 512x512 the
  gradient of the bridge's first convolution has norm 1e-16, less than Adam's epsilon, and U-Net 1's logits a standard deviation
  of 0.002 over the pixels; ours 1e-4 and 0.3. The thesis's TensorFlow begins with about 1/n everywhere.
- where rows and columns are as small as the network allows, the bridge sees one pixel among zeros and learns a ninth of its
  weights only: larger slices are better than more depth.
"""

import itertools
import math
from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viscera.config import Recipe, UpvShape
from viscera.errors import SettingError
from viscera.networks.levels import recomputed, sides_of


class UpvUNet(nn.Module):
    """A U-Net of the thesis: image (batch, 1, y, x) -> logits (batch, class, y, x) of the same size.

    Args:
        shape: Which of the two, its depth and widths, normalisation, and whether to recompute levels in the backward pass.
        classes: Classes of the output, background included.
    """

    dimensions = 2

    def __init__(self, shape: UpvShape, *, classes: int) -> None:
        super().__init__()
        self.shape = shape
        self.checkpointing = shape.checkpointing
        *widths, widest = shape.widths
        width, normalise = widths[0], shape.normalise
        first = (1, *[width] * (2 if shape.variant == 1 else 5))
        self.down = nn.ModuleList([Chain(first, relus={len(first) - 1}, normalise=normalise)])
        for a, b in itertools.pairwise(widths):
            self.down.append(Chain((a, b, b), relus={2}, normalise=normalise))
        self.bridge = Chain((widths[-1], *[widest] * 4), relus={2, 4}, normalise=normalise)
        self.up = nn.ModuleList(
            Rise(b, a, normalise=normalise) for a, b in zip(widths[::-1], (widest, *widths[:0:-1]), strict=True)
        )
        if shape.variant == 1:
            self.tail = Chain((width, width), relus=(), normalise=normalise)
        else:
            self.tail = Chain((width, width, width), relus={1, 2}, normalise=normalise)
        self.head = nn.Conv2d(width, classes, 1)
        _start(self.head, gain=1)

    @property
    def stride(self) -> int:
        """Rows and columns must be multiples of this."""
        return 2**self.shape.depth

    def forward(self, image: Float[Tensor, "batch 1 y x"]) -> Float[Tensor, "batch class y x"]:
        """Return the logits.

        Raises:
            SettingError: The image cannot be halved often enough, or batch normalisation would have a single pixel.
        """
        check_size(sides_of(image), depth=self.shape.depth, setting="preparation.size")
        if self.training and self.shape.normalise and len(image) * image.shape[2:].numel() == self.stride**2:
            raise SettingError(
                f"one slice of {self.stride}x{self.stride} is a single pixel after {self.shape.depth} halvings, where batch "
                "normalisation has nothing to average",
                f"Change preparation.size to {2 * self.stride} along one side, take a "
                "smaller network.depth, or a training.batch_size that leaves no slice alone.",
            )
        skips = []
        for level in self.down:
            image = self._run(level, image)
            skips.append(image)
            image = nn.functional.max_pool2d(image, 2)
        image = self._run(self.bridge, image)
        for rise in self.up:
            image = self._run(rise, image, skips.pop())
        return self.head(self._run(self.tail, image))

    def _run(self, level: nn.Module, *images: Tensor) -> Tensor:
        return recomputed(level, *images) if self.checkpointing and self.training else level(*images)


class Chain(nn.Sequential):
    """3x3 convolutions in a row, and a ReLU behind some of them.

    Args:
        widths: Channels before the first convolution and behind each.
        relus: Behind which of them a ReLU follows, counted from 1.
        normalise: Whether batch normalisation follows each; then it has no bias.
    """

    def __init__(self, widths: Sequence[int], *, relus: Collection[int], normalise: bool) -> None:
        super().__init__()
        for number, (a, b) in enumerate(itertools.pairwise(widths), 1):
            convolution = nn.Conv2d(a, b, 3, padding=1, bias=not normalise)
            _start(convolution, gain=2 if number in relus else 1)
            self.append(convolution)
            if normalise:
                self.append(nn.BatchNorm2d(b))
            if number in relus:
                self.append(nn.ReLU(inplace=True))


class Rise(nn.Module):
    """Enlarge the coarse image, put the convolved skip connection behind it, run a level."""

    def __init__(self, in_channels: int, out_channels: int, *, normalise: bool) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        _start(self.enlarge, gain=1)
        self.skip = Chain((out_channels, out_channels), relus={1}, normalise=normalise)
        self.level = Chain((2 * out_channels, out_channels, out_channels), relus={2}, normalise=normalise)

    def forward(self, coarse: Float[Tensor, "batch wide _ _"], skip: Float[Tensor, "batch narrow y x"]) -> Tensor:
        """Return the features of the finer level."""
        return self.level(torch.cat([self.enlarge(coarse), self.skip(skip)], dim=1))


def check_size(sides: Sequence[int], *, depth: int, setting: str) -> None:
    """Check that rows and columns can be halved as often as a network must.

    Args:
        sides: Rows and columns.
        depth: How often.
        setting: The setting that decides them, for the message.

    Raises:
        SettingError: They cannot; the message names the sizes next to them, and the depth, that would work.

    Example:
        >>> check_size((256, 512), depth=8, setting="preparation.size")
    """
    stride = 2**depth
    if all(side > 0 and side % stride == 0 for side in sides):
        return
    choices = (sorted({max(side // stride, 1) * stride, math.ceil(side / stride) * stride or stride}) for side in sides)
    fitting = " by ".join(" or ".join(map(str, choice)) for choice in choices)
    possible = min((side & -side).bit_length() - 1 for side in sides)
    shallower = f", or network.depth to {possible}" if possible >= 4 else ""
    raise SettingError(
        f"a network of depth {depth} halves rows and columns {depth} times, so both must be multiples of {stride}, got "
        f"{'x'.join(map(str, sides))}",
        f"Change {setting} to {fitting}{shallower}.",
    )


def check_slices(recipe: Recipe) -> None:
    """Check before a training that a recipe's slices can be halved as often as its network must; other networks pass.

    Raises:
        SettingError: They cannot.
    """
    if not isinstance(recipe.network, UpvShape):
        return
    depth, preparation, sampling = recipe.network.depth, recipe.preparation, recipe.sampling
    if preparation.size is not None:
        check_size(preparation.size, depth=depth, setting="preparation.size")
    if preparation.pixel_mm is not None and depth > 4:
        raise SettingError(
            f"a network of depth {depth} needs rows and columns that are multiples of {2**depth}, but preparation "
            f"'{preparation.kind}' gives multiples of 16 (network.depth 4), a different one for each scan",
            "Take preparation 'resized'.",
        )
    if sampling.window is not None:
        check_size(sampling.window, depth=depth, setting="sampling.window")


def _start(convolution: nn.Conv2d | nn.ConvTranspose2d, *, gain: float) -> None:
    """Draw normal weights of variance gain / inputs, and let biases begin at 0."""
    taps = 1 if isinstance(convolution, nn.ConvTranspose2d) else math.prod(convolution.kernel_size)
    nn.init.normal_(convolution.weight, std=math.sqrt(gain / (convolution.in_channels * taps)))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
