"""A trained network rewritten: batch normalisation folded into the convolutions, or the whole as an ONNX file.

runners.py runs what is made here, deployment/export.py writes it for other programs.
"""

import copy
import io
import warnings
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from viscera.networks.runners import CannotRunError, one_line

OPSET = 17
"""Of ONNX: old enough for every ONNX Runtime since 1.12."""


def folded(network: nn.Module) -> nn.Module:
    """Return a copy for evaluation whose batch normalisations are part of the convolutions before them.

    Only neighbours within an ``nn.Sequential`` are joined, whose order is that of computing.
    """
    whole = copy.deepcopy(network).eval()
    for chain in [module for module in whole.modules() if isinstance(module, nn.Sequential)]:
        for (before, convolution), (behind, norm) in pairwise(list(chain.named_children())):
            if isinstance(convolution, nn.Conv2d | nn.Conv3d) and isinstance(norm, _BatchNorm):
                setattr(chain, before, fuse_conv_bn_eval(convolution, norm))
                setattr(chain, behind, nn.Identity())
    return whole


def to_onnx(network: nn.Module, *, channels: int, labels: bool) -> bytes:
    """Return a network as an ONNX file: "image" in, "logits" and perhaps "labels" (uint8) out; batch and sides are free.

    Args:
        network: Trained, on any device; it stays as it is.
        channels: Of its input.
        labels: Whether the class of the largest logit is an output too.

    Raises:
        CannotRunError: The package onnx is missing, or the network computes what the exporter does not know.
    """
    stride, dimensions = shape_of(network)
    graph = _Labelled(copy.deepcopy(network).cpu().eval(), labels=labels)
    sides = dict(enumerate(("z", "y", "x")[-dimensions:], start=2))
    axes = {"image": {0: "batch"} | sides, "logits": {0: "batch"} | sides}
    axes["labels"] = {0: "batch"} | {axis - 1: side for axis, side in sides.items()}
    outputs = ["logits", "labels"][: 1 + labels]
    written = io.BytesIO()
    example = torch.zeros(1, channels, 2 * stride, *[stride] * (dimensions - 1))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # That TorchScript is deprecated: its successor takes 6 s instead of 0.2 (width 16), and cannot follow the networks'
            # checks of sizes. The tracer's warnings are about these: they hold for the example.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                (example,),
                written,  # pyright: ignore[reportArgumentType]
                dynamo=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=outputs,
                dynamic_axes={name: axes[name] for name in ("image", *outputs)},
            )
    except (RuntimeError, ModuleNotFoundError) as error:
        raise CannotRunError(f"the network cannot be written as ONNX: {one_line(error)}") from error
    return written.getvalue()


def shape_of(network: nn.Module) -> tuple[int, int]:
    """Return a network's stride, what its input's sides must be multiples of, and its dimensions, 2 or 3."""
    return int(network.stride), int(network.dimensions)  # type: ignore[arg-type]


class _Labelled(nn.Module):
    """A network whose output is the logits, and perhaps their labels."""

    def __init__(self, network: nn.Module, *, labels: bool) -> None:
        super().__init__()
        self.network, self.labels = network, labels

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits, and perhaps their labels."""
        logits = self.network(image)
        return (logits, logits.argmax(1).to(torch.uint8)) if self.labels else logits
