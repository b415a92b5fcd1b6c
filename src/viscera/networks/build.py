"""Networks: one architecture per file, each with its source; `build_network` makes the one that a recipe describes."""

from viscera.config import Recipe
from viscera.config.networks import AttentionUNetShape, NetworkShape, PlainUNetShape, Softmax, UNetShape, UpvShape
from viscera.errors import SettingError
from viscera.networks.attention_unet import AttentionUNet
from viscera.networks.plain_unet import PlainUNet
from viscera.networks.regularised_softmax import Regularised
from viscera.networks.unet import UNet
from viscera.networks.upv import UpvUNet

Network = UNet | PlainUNet | AttentionUNet | UpvUNet | Regularised


def build_network(shape: NetworkShape, *, classes: int, softmax: Softmax = Softmax(), context: int = 0) -> Network:
    """Build a network with fresh weights, and the regularised softmax behind it where it has iterations.

    Every network has `stride`, what the sides of its input must be multiples of, and `dimensions`, 2 or 3.

    Args:
        shape: The architecture and its widths.
        classes: Classes of the output, background included.
        softmax: The last layer.
        context: Channels of the input beside the slices, of a 2D U-Net.

    Raises:
        SettingError: Another network is to take context; the regularised softmax is wanted behind sigmoid heads.
    """
    if context and not isinstance(shape, UNetShape):
        raise SettingError(
            f"network {shape.kind} takes no context", "Take network kind 'unet', or set the recipe's context to null."
        )
    match shape:
        case UNetShape():
            if shape.heads == "sigmoid" and softmax.iterations:
                raise SettingError(
                    "network.heads 'sigmoid' gives no distribution over the classes that a regularised softmax could smooth "
                    f"(softmax.iterations is {softmax.iterations})",
                    "Set network.heads to 'softmax', or softmax.iterations to 0.",
                )
            network = UNet(shape, classes=classes, context=context)
        case PlainUNetShape():
            network = PlainUNet(shape, classes=classes)
        case AttentionUNetShape():
            network = AttentionUNet(shape, classes=classes)
        case UpvShape():
            network = UpvUNet(shape, classes=classes)
    return Regularised(network, softmax) if softmax.iterations else network


def network_of(recipe: Recipe, *, classes: int | None = None) -> Network:
    """Build the network of a recipe, with fresh weights.

    Args:
        recipe: Every setting.
        classes: Of the output; None: those of its label space.
    """
    context = recipe.channels - recipe.network.slices
    classes = len(recipe.space.classes) if classes is None else classes
    return build_network(recipe.network, classes=classes, softmax=recipe.softmax, context=context)


def context_network(recipe: Recipe) -> PlainUNet:
    """Build the 3D network that a recipe's network of slices gets its context from, with fresh weights.

    Raises:
        SettingError: The recipe has no context.
    """
    return PlainUNet(recipe.required_context.network, classes=len(recipe.space.classes))
