"""Networks: one architecture per file, each with its source; `build_network` makes the one that a recipe describes."""

from viscera.config.networks import AttentionUNetShape, NetworkShape, PlainUNetShape, Softmax, UNetShape, UpvShape
from viscera.errors import SettingError
from viscera.networks.attention_unet import AttentionUNet
from viscera.networks.plain_unet import PlainUNet
from viscera.networks.regularised_softmax import Regularised
from viscera.networks.unet import UNet
from viscera.networks.upv import UpvUNet

Network = UNet | PlainUNet | AttentionUNet | UpvUNet | Regularised


def build_network(shape: NetworkShape, *, classes: int, softmax: Softmax = Softmax()) -> Network:
    """Build a network with fresh weights, and the regularised softmax behind it where it has iterations.

    Every network has `stride`, what the sides of its input must be multiples of, and `dimensions`, 2 or 3.

    Args:
        shape: The architecture and its widths.
        classes: Classes of the output, background included.
        softmax: The last layer.

    Raises:
        SettingError: The regularised softmax is wanted behind sigmoid heads.
    """
    match shape:
        case UNetShape():
            if shape.heads == "sigmoid" and softmax.iterations:
                raise SettingError(
                    "network.heads 'sigmoid' gives no distribution over the classes that a regularised softmax could smooth "
                    f"(softmax.iterations is {softmax.iterations})",
                    "Set network.heads to 'softmax', or softmax.iterations to 0.",
                )
            network = UNet(shape, classes=classes)
        case PlainUNetShape():
            network = PlainUNet(shape, classes=classes)
        case AttentionUNetShape():
            network = AttentionUNet(shape, classes=classes)
        case UpvShape():
            network = UpvUNet(shape, classes=classes)
    return Regularised(network, softmax) if softmax.iterations else network
