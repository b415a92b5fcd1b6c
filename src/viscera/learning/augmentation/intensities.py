"""Gamma, contrast, brightness, blur and noise, each on the slices that were drawn for it.

In this order: the patient (gamma: how far contrast agent sets tissues apart), the scanner's scale (contrast and brightness),
its resolution (blur), its noise. Then clipped to [0, 1], once.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import pad

from viscera.config import RichAugmentation
from viscera.learning.augmentation.white_noise import draw_seeds, white_noise

MID_GREY = 0.5
BLUR_REACH = 4
"""A Gaussian is cut off at so many standard deviations (6e-5 of it is lost)."""


@dataclass(frozen=True)
class IntensityChanges:
    """What is done to the intensities of each slice, [0, 1].

    Attributes:
        gamma: Exponent; 1 leaves the slice as it is.
        contrast: Factor about mid-grey; 1 likewise.
        brightness: Shift; 0 likewise.
        blur_pixels: Standard deviation of a Gaussian; 0 likewise.
        noise: Standard deviation of white noise; 0 likewise.
        seed: Of the noise.
    """

    gamma: Float[Tensor, " batch"]
    contrast: Float[Tensor, " batch"]
    brightness: Float[Tensor, " batch"]
    blur_pixels: Float[Tensor, " batch"]
    noise: Float[Tensor, " batch"]
    seed: Int[Tensor, " batch"]

    def part(self, share: slice) -> "IntensityChanges":
        """Return the changes of one device's share of the batch."""
        return IntensityChanges(**{item.name: getattr(self, item.name)[share] for item in fields(self)})


def draw_intensity_changes(settings: RichAugmentation, count: int, generator: Generator) -> IntensityChanges:
    """Draw the changes of a batch of slices."""
    size = torch.rand((5, count), generator=generator)
    chosen = torch.rand((5, count), generator=generator) < settings.probability
    gamma, contrast, brightness = (2 * size[:3] - 1) * chosen[:3]
    blur, noise = size[3:] * chosen[3:]
    return IntensityChanges(
        gamma=(settings.gamma * gamma).exp(),
        contrast=1 + settings.contrast * contrast,
        brightness=settings.brightness * brightness,
        blur_pixels=settings.blur_pixels * blur,
        noise=settings.noise * noise,
        seed=draw_seeds(count, generator),
    )


def change_intensities(
    image: Float[Tensor, "batch channel y x"], drawn: IntensityChanges
) -> Float[Tensor, "batch channel y x"]:
    """Return the image with its intensities changed, within [0, 1]; channels of a slice alike, but for the noise."""
    device = image.device
    changed = image.clone()
    if len(chosen := (drawn.gamma != 1).nonzero()[:, 0]):
        there = chosen.to(device)
        changed[there] = changed[there] ** _per_slice(drawn.gamma[chosen], device)
    changed *= _per_slice(drawn.contrast, device)
    changed += _per_slice(MID_GREY * (1 - drawn.contrast) + drawn.brightness, device)
    if len(chosen := drawn.blur_pixels.nonzero()[:, 0]):
        there = chosen.to(device)
        changed[there] = blurred(changed[there], drawn.blur_pixels[chosen])
    if len(chosen := drawn.noise.nonzero()[:, 0]):
        there = chosen.to(device)
        noise = white_noise(drawn.seed[chosen].to(device), tuple(image.shape[1:]))
        changed[there] += noise.mul_(_per_slice(drawn.noise[chosen], device))
    return changed.clamp_(0, 1)


def _per_slice(values: Float[Tensor, " batch"], device: torch.device) -> Float[Tensor, "batch 1 1 1"]:
    return values.to(device)[:, None, None, None]


def blurred(
    image: Float[Tensor, "batch channel y x"], deviation: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channel y x"]:
    """Return the image convolved with a Gaussian along y and x; beyond its edge its last pixel repeats.

    A sum of shifted images: on a CPU faster than a convolution of each slice by its own kernel (0.2 against 0.6 ms for two
    slices of 128x128), and the same for a slice whatever else is in the batch.

    Args:
        image: Slices.
        deviation: Of each slice's Gaussian, in pixels, above 0; on the CPU.
    """
    reach = (BLUR_REACH * deviation + 0.5).long()
    most = int(reach.max())
    offset = torch.arange(-most, most + 1)
    kernel = torch.exp(-(offset**2) / (2 * deviation[:, None] ** 2)) * (offset.abs() <= reach[:, None])
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(image.device)[:, :, None, None, None]
    rows, columns = image.shape[2:]
    padded = pad(image, (most, most, most, most), mode="replicate")
    along_y = _sum_shifted([padded[:, :, start : start + rows] for start in range(2 * most + 1)], kernel)
    return _sum_shifted([along_y[..., start : start + columns] for start in range(2 * most + 1)], kernel)


def _sum_shifted(
    views: list[Tensor], kernel: Float[Tensor, "batch offset 1 1 1"]
) -> Float[Tensor, "batch channel y x"]:
    """Return the sum of the views, each times its weight."""
    total = views[0] * kernel[:, 0]
    for number, view in enumerate(views[1:], 1):
        total.addcmul_(view, kernel[:, number])
    return total
