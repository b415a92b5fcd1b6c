"""The regularised softmax of runet: logits whose softmax has less total variation, as a layer for any network.

Source: Ding et al. 2021, section 2.1 (FLARE21). The softmax of logits o minimises -<U, o> + <U, log U> over distributions U;
with lambda * TV(U) added, the minimiser is softmax(o - lambda div eta), where eta solves the dual problem. The layer gives
o - lambda div eta, the softmax itself follows in the losses, which take it through log-sum-exp.

The published signs are right for `div` the negative adjoint of `grad`: TV(U) is the maximum of <U, div V> = -<grad U, V> over
fields of length at most 1, so that V climbs along -grad U, and -lambda div V spreads each class like a diffusion. (With the
positive adjoint, which is sometimes called div as well, the layer would sharpen speckle.)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viscera.config import Softmax
from viscera.errors import SettingError
from viscera.networks.attention_unet import AttentionUNet
from viscera.networks.plain_unet import PlainUNet
from viscera.networks.unet import UNet
from viscera.networks.upv import UpvUNet


class RegularisedSoftmax(nn.Module):
    """Map logits o to o - lambda div eta, in 2D and 3D; at lambda = 0 they stay what they are.

    lambda (`weight`) is learnt, one number; tau * lambda (`step`) is fixed, as published. Nothing keeps lambda from becoming
    negative in training, which would sharpen instead; the paper does not restrict it either. It computes in float32 also under
    mixed precision: differences of probabilities in bfloat16 would be mostly rounding.

    The iterations climb for certain where step * lambda < 1/2 in 2D, 1/3 in 3D: softmax has slopes of at most 1/2 and `grad`
    squared at most 4 per axis. Beyond, one step overshoots where the logits are noise: with lambda 1 in 3D, step 1 leaves more
    variation than step 0.5, and the energy rises. The paper gives no number for the step.

    Args:
        settings: The number of iterations (the paper's: 1), lambda to begin with, and tau * lambda.

    Raises:
        SettingError: There are no iterations: that is the plain softmax, which needs no layer.
    """

    def __init__(self, settings: Softmax) -> None:
        super().__init__()
        if settings.iterations < 1:
            raise SettingError(
                "a regularised softmax needs softmax.iterations of 1 or more, got 0",
                "Leave the layer out for the plain softmax.",
            )
        self.iterations = settings.iterations
        self.step = settings.step
        self.weight = nn.Parameter(torch.tensor(float(settings.weight)))

    def forward(self, logits: Float[Tensor, "batch class *space"]) -> Float[Tensor, "batch class *space"]:
        """Return the regularised logits, in float32 (float64 stays)."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        dual: tuple[Tensor, ...] = ()
        regularised = logits
        for _ in range(self.iterations):
            slopes = grad(regularised.softmax(dim=1))
            dual = tuple(
                old - self.step * slope for old, slope in zip(dual or (0.0,) * len(slopes), slopes, strict=True)
            )
            regularised = logits - self.weight * div(_shortened(dual))
        return regularised


class Regularised(nn.Module):
    """A network with the regularised softmax behind it.

    With deep supervision only the finest logits are regularised: those alone are used after training, and lambda, learnt per
    voxel, means another length on coarser grids.
    """

    def __init__(self, network: UNet | PlainUNet | AttentionUNet | UpvUNet, settings: Softmax) -> None:
        super().__init__()
        self.network = network
        self.last = RegularisedSoftmax(settings)

    @property
    def stride(self) -> int:
        """All sides must be multiples of this."""
        return self.network.stride

    @property
    def dimensions(self) -> int:
        """2 for slices, 3 for patches."""
        return self.network.dimensions

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> Tensor | list[Tensor]:
        """Return the regularised logits, or the list of a network with deep supervision, its first one regularised."""
        logits = self.network(image)
        if isinstance(logits, list):
            return [self.last(logits[0]), *logits[1:]]
        return self.last(logits)


def grad(image: Float[Tensor, "batch class *space"]) -> tuple[Float[Tensor, "batch class *space"], ...]:
    """Return the difference to the next voxel along each spatial axis; 0 at the last voxel (Neumann's boundary).

    Example:
        >>> grad(torch.tensor([[[0.0, 1.0, 4.0]]]))
        (tensor([[[1., 3., 0.]]]),)
    """
    return tuple(_padded(_differences(image, axis), axis, before=0) for axis in range(2, image.ndim))


def div(field: Sequence[Float[Tensor, "batch class *space"]]) -> Float[Tensor, "batch class *space"]:
    """Return the divergence, the negative adjoint of `grad`: <grad u, v> = -<u, div v> for all u and v.

    Args:
        field: One component for each spatial axis, in order.

    Example:
        >>> div([torch.tensor([[[1.0, 3.0, 5.0]]])])  # the last difference does not exist, its 5 does not count
        tensor([[[ 1.,  2., -3.]]])
    """
    parts = [
        _differences(_padded(part.narrow(axis, 0, part.shape[axis] - 1), axis, before=1), axis)
        for axis, part in enumerate(field, start=2)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _differences(image: Tensor, axis: int) -> Tensor:
    """Return each voxel's difference to the one before; ``Tensor.diff`` cannot be written as ONNX."""
    count = image.shape[axis] - 1
    return image.narrow(axis, 1, count) - image.narrow(axis, 0, count)


def _padded(image: Tensor, axis: int, *, before: int) -> Tensor:
    """Add a plane of zeros behind, and as many as wanted before."""
    return nn.functional.pad(image, (0, 0) * (image.ndim - 1 - axis) + (before, 1))


def _shortened(field: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Shorten the vectors that are longer than 1 to 1, per voxel and class.

    1 / max(1, |v|) is taken as rsqrt(max(1, |v|^2)), whose gradient exists at 0 too.
    """
    squares = field[0].square()
    for part in field[1:]:
        squares = squares + part.square()
    factor = squares.clamp(min=1).rsqrt()
    return tuple(part * factor for part in field)
