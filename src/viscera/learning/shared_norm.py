"""Batch normalisation over a batch that several devices share: mean and variance are of all its items, as on one device.

On a GPU torch's own SyncBatchNorm does it; torch has none for CPUs, so that theirs is here. Instance normalisation needs none: it
looks at each item alone. Names of parameters and buffers stay, so that weights and states are those of any run.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm


def share_batch_norm(network: nn.Module, device: str) -> nn.Module:
    """Return the network with batch normalisation over all devices in place of each device's own.

    Args:
        network: Changed in place; its parameters and buffers stay the same objects.
        device: "cpu" or "cuda".
    """
    if device != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm):
            setattr(network, name, SharedBatchNorm.of(child))
        else:
            share_batch_norm(child, device)
    return network


def has_batch_norm(network: nn.Module) -> bool:
    """Tell whether the items of a batch look at each other."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation whose statistics are of the items of all processes; one may have none."""

    @staticmethod
    def of(norm: _BatchNorm) -> "SharedBatchNorm":
        """Return it with another's settings, parameters and buffers."""
        shared = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        shared.weight, shared.bias = norm.weight, norm.bias
        shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
        shared.num_batches_tracked = norm.num_batches_tracked
        return shared.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        """Take slices and volumes."""

    def forward(self, input: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Return the normalised images."""
        if not self.training:
            return super().forward(input)
        mean, variance, count = pooled_statistics(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if self.running_mean is not None and self.running_var is not None and self.momentum is not None:
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return _Normalised.apply(input, self.weight, self.bias, mean, variance, count, self.eps)


@torch.no_grad()
def pooled_statistics(
    images: Float[Tensor, "batch channel *space"],
) -> tuple[Float64[Tensor, " channel"], Float64[Tensor, " channel"], Float64[Tensor, ""]]:
    """Return mean, variance (divided by n) and n of each channel, over the items of all processes.

    Source: Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample variances": the sum of squares about
        the common mean is that about each own mean, plus n times the square of the distance between the two.
    """
    channels = images.shape[1]
    own = torch.zeros(2 * channels + 1, dtype=torch.float64)
    if images.numel():
        variance, mean = torch.var_mean(images.float(), _axes(images), correction=0)
        own = torch.cat([mean.double(), variance.double(), own.new_full((1,), images.numel() // channels)])
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    means, variances, counts = torch.stack(every).split((channels, channels, 1), dim=1)
    count = counts.sum()
    mean = (means * counts).sum(0) / count
    return mean, ((variances + (means - mean) ** 2) * counts).sum(0) / count, count


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance depend on the items of all processes."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: FunctionCtx,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        """Return the normalised images, in their own type of number."""
        ctx.save_for_backward(images, weight, mean, (variance + eps).rsqrt(), count)
        mean, variance = mean.to(weight.dtype), variance.to(weight.dtype)
        return nn.functional.batch_norm(images, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients; those of weight and bias are of this process's items alone, for whoever adds them up.

        Source: Ioffe & Szegedy 2015, arXiv:1502.03167, the derivatives of section 3, with sums over all processes.
        """
        images, weight, mean, scale, count = ctx.saved_tensors  # type: ignore[attr-defined]
        shape = (1, -1, *[1] * (images.ndim - 2))
        upward = gradient.float()
        normal = (images.float() - mean.float().view(shape)) * scale.float().view(shape)
        sums = torch.stack([upward.sum(_axes(images)), (upward * normal).sum(_axes(images))])
        whole = sums.double()
        dist.all_reduce(whole)
        first, second = ((part / count).float().view(shape) for part in whole)
        downward = (upward - first - normal * second) * (weight * scale.float()).view(shape)
        return downward.to(images.dtype), sums[1].to(weight.dtype), sums[0].to(weight.dtype), None, None, None, None


def _axes(images: Tensor) -> list[int]:
    """Return all axes but the channels'."""
    return [0, *range(2, images.ndim)]
