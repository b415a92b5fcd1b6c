"""The shapes of networks; what a shape cannot choose is a constant of its class, so that none need be asked what it is."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le, Len

from viscera.config.ranges import STRICT, Count, Positive


@dataclass(frozen=True)
class UNetShape:
    """A 2D U-Net: two 3x3 convolutions, batch normalisation and ReLU per level."""

    __pydantic_config__ = STRICT

    dimensions: ClassVar[Literal[2]] = 2
    deep_supervision: ClassVar[bool] = False
    kind: Literal["unet"] = "unet"
    widths: Annotated[tuple[Count, ...], Len(2, 8)] = (64, 128, 256, 512, 1024)
    """Channels of each level, the bottleneck last."""
    checkpointing: bool = False
    """Recompute each level in the backward pass: less memory, about a third more time; works with mixed precision."""
    slices: Literal[1, 3, 5, 7] = 1
    """Neighbouring slices seen at once, as channels; the middle one is segmented. Beyond the scan its last slice repeats."""
    stem: Literal[1, 2] = 1
    """2: the first level has half the rows and columns already, the logits all of them: about half the work."""
    heads: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: one probability distribution over all classes. sigmoid: one for each organ, for the sigmoid loss."""


@dataclass(frozen=True)
class PlainUNetShape:
    """nnU-Net's plain 3D U-Net: instance normalisation, leaky ReLU, strided convolutions, deep supervision."""

    __pydantic_config__ = STRICT

    dimensions: ClassVar[Literal[3]] = 3
    slices: ClassVar[Literal[1]] = 1
    stem: ClassVar[Literal[1]] = 1
    heads: ClassVar[Literal["softmax"]] = "softmax"
    kind: Literal["plain3d"] = "plain3d"
    widths: Annotated[tuple[Count, ...], Len(2, 8)] = (32, 64, 128, 256, 320, 320)
    """Channels of each level, the bottleneck last; every level but the first halves all three sides."""
    deep_supervision: bool = True
    """In training, the coarser levels give logits too, which enter the loss with half the weight of the next finer one."""
    norm: Literal["instance", "batch"] = "instance"
    """instance: instance normalisation and leaky ReLU, as nnU-Net. batch: batch normalisation and ReLU, whose statistics do not
    depend on how much of the patient a scan shows, and which cost nothing once the network is trained."""
    checkpointing: bool = False
    """Recompute each level in the backward pass: less memory, about a third more time."""


@dataclass(frozen=True)
class AttentionUNetShape:
    """Oktay's 3D attention U-Net: gates on the skip connections choose what passes."""

    __pydantic_config__ = STRICT

    dimensions: ClassVar[Literal[3]] = 3
    slices: ClassVar[Literal[1]] = 1
    stem: ClassVar[Literal[1]] = 1
    heads: ClassVar[Literal["softmax"]] = "softmax"
    deep_supervision: ClassVar[bool] = False
    kind: Literal["attention3d"] = "attention3d"
    widths: Annotated[tuple[Count, ...], Len(2, 8)] = (40, 72, 136, 320)
    """Channels of each level, the bottleneck last."""
    checkpointing: bool = False
    """Recompute each level in the backward pass: less memory, about a third more time."""


@dataclass(frozen=True)
class UpvShape:
    """The thesis's two 2D U-Nets of any depth: no normalisation, convolutions on the skip connections, a doubled bridge."""

    __pydantic_config__ = STRICT

    dimensions: ClassVar[Literal[2]] = 2
    slices: ClassVar[Literal[1]] = 1
    stem: ClassVar[Literal[1]] = 1
    heads: ClassVar[Literal["softmax"]] = "softmax"
    deep_supervision: ClassVar[bool] = False
    kind: Literal["upv"] = "upv"
    variant: Literal[1, 2] = 1
    """1: U-Net 1. 2: U-Net 2, with more convolutions before the first level and after the last."""
    depth: Annotated[int, Ge(4), Le(8)] = 5
    """Times that rows and columns are halved."""
    width: Count = 64
    """Channels of the first level; each level has twice those of the one before."""
    most: Count = 1024
    """But never more channels than this."""
    normalise: bool = False
    """Batch normalisation behind each convolution, which the published networks do not have."""
    checkpointing: bool = False
    """Recompute each level in the backward pass: less memory, about a third more time."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the bridge last: one more than ``depth``."""
        return tuple(min(self.width * 2**level, self.most) for level in range(self.depth + 1))


NetworkShape = Annotated[UNetShape | PlainUNetShape | AttentionUNetShape | UpvShape, "told apart by kind"]


@dataclass(frozen=True)
class Softmax:
    """The last layer: the softmax, or one that is regularised by total variation (Ding et al. 2021, runet)."""

    __pydantic_config__ = STRICT

    iterations: Annotated[int, Ge(0)] = 0
    """0: the plain softmax. Else so many steps towards the minimiser of -<U, o> + <U, log U> + weight * TV(U); runet: 1."""
    weight: Annotated[float, Ge(0)] = 1.0
    """lambda to begin with; it is learnt."""
    step: Positive = 0.3
    """tau * lambda, the step of the dual variable; fixed. With lambda = 1 steps up to 1/2 in 2D and 1/3 in 3D are stable."""
