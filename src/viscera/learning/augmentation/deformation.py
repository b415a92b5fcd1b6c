"""Rotation, scale, stretch, shift, elastic displacement and loss of field of view, by one sampling grid per slice.

The grid says for each pixel of the deformed slice where it comes from. All of a slice's arrays are looked up by it once.
Geometry is in pixels, from the slice's centre, so slices need not be square. Nothing is ever mirrored: left stays left.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import grid_sample

from viscera.config import RichAugmentation
from viscera.learning.augmentation.white_noise import draw_seeds, white_noise
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.slices import NO_ORGAN_DISTANCE_PIXELS


@dataclass(frozen=True)
class Deformation:
    """What is done to the geometry of each slice: scaled, turned, shifted; displaced; cut.

    Attributes:
        angle: Of the turn, in radians, counter-clockwise as seen with the rows downwards.
        scale: Factors of the size along rows' and along columns' numbering (y, x).
        shift: Towards higher y and x, as fractions of rows and columns.
        cut: Fractions of the field of view that are lost at its first rows, last rows, first columns, last columns.
        seed: Of the elastic displacement, which is made on the device, as only there the slices' size is known.
        elastic_pixels: Standard deviation of that displacement, of all slices.
        elastic_cell_pixels: Distance of the points between which it is interpolated.
    """

    angle: Float[Tensor, " batch"]
    scale: Float[Tensor, "batch 2"]
    shift: Float[Tensor, "batch 2"]
    cut: Float[Tensor, "batch 4"]
    seed: Int[Tensor, " batch"]
    elastic_pixels: float
    elastic_cell_pixels: float

    def part(self, share: slice) -> "Deformation":
        """Return the deformations of one device's share of the batch."""
        names = ("angle", "scale", "shift", "cut", "seed")
        return replace(self, **{name: getattr(self, name)[share] for name in names})


def draw_deformation(settings: RichAugmentation, count: int, generator: Generator) -> Deformation:
    """Draw the deformations of a batch of slices."""
    angle, scale, stretch, *shift = 2 * torch.rand((5, count), generator=generator) - 1
    chance, share, side = torch.rand((3, count), generator=generator)
    lost = settings.crop * share * (chance < settings.probability)
    scale, stretch = settings.scale * scale, settings.stretch * stretch
    return Deformation(
        angle=math.radians(settings.rotation_degrees) * angle,
        scale=torch.stack([scale + stretch, scale - stretch], 1).exp(),
        shift=settings.shift * torch.stack(shift, 1),
        cut=lost[:, None] * ((4 * side).long()[:, None] == torch.arange(4)),
        seed=draw_seeds(count, generator),
        elastic_pixels=float(settings.elastic_pixels),
        elastic_cell_pixels=float(settings.elastic_cell_pixels),
    )


def deform(batch: Batch, drawn: Deformation) -> Batch:
    """Return the batch with its slices deformed.

    The image is interpolated, labels and what is known come from the nearest pixel. What comes from outside of the slice
    or is cut off is air (0), label 0 and unknown: the slice may have been cut from the body. Distances are interpolated
    and grow with the organs, by the geometric mean of both factors, so they stay pixels (exact up to displacement and
    stretch); they are at their largest outside.
    """
    _, rows, columns = batch.labels.shape
    grid = sampling_grid(drawn, (rows, columns), device=batch.image.device)
    labels, pseudo, known, seen = _look_up_nearest(batch, grid)
    image = grid_sample(batch.image.float(), grid, padding_mode="border", align_corners=False) * seen[:, None]
    distance = grid_sample(batch.distance[:, None].float(), grid, padding_mode="border", align_corners=False)[:, 0]
    # A slice without organs holds the largest distance everywhere, whatever its scale.
    far = distance > NO_ORGAN_DISTANCE_PIXELS - 0.5
    growth = drawn.scale.prod(1).sqrt().to(distance.device)[:, None, None]
    distance = (distance * growth).masked_fill_(far | ~seen, NO_ORGAN_DISTANCE_PIXELS)
    distance.clamp_(max=NO_ORGAN_DISTANCE_PIXELS)
    return replace(batch, image=image, labels=labels, pseudo=pseudo, known=known, distance=distance)


def _look_up_nearest(batch: Batch, grid: Float[Tensor, "batch y x 2"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return labels, pseudo-labels, what is known, and where the slice was seen at all.

    All are packed into one number of 18 bits, which float32 holds exactly, and looked up at once; outside it is 0.
    """
    packed = batch.labels.int() | (batch.pseudo.int() << 8) | (batch.known.int() << 16) | (1 << 17)
    found = grid_sample(packed.float()[:, None], grid, mode="nearest", padding_mode="zeros", align_corners=False)
    found = found[:, 0].int()
    labels, pseudo = (found & 255).to(torch.uint8), ((found >> 8) & 255).to(torch.uint8)
    return labels, pseudo, (found >> 16) & 1 == 1, found > 0


def sampling_grid(drawn: Deformation, size: tuple[int, int], *, device: torch.device) -> Float[Tensor, "batch y x 2"]:
    """Return where each pixel comes from, as ``grid_sample`` wants it: (x, y), the slice's outer edges at -1 and 1.

    Args:
        drawn: The deformations.
        size: Rows and columns.
        device: Where to make it.
    """
    pixels = torch.tensor(size)
    cos, sin = drawn.angle.cos(), drawn.angle.sin()
    # Back from the turned and scaled slice: for each axis of the original (y, x), a row of factors of (y, x).
    back = torch.stack([cos, sin, -sin, cos], 1).view(-1, 2, 2) / drawn.scale[:, :, None]
    back = back / (pixels[:, None] / 2)
    parts = []
    for axis, count in enumerate(size):
        place = torch.arange(count) - (count - 1) / 2 - drawn.shift[:, axis, None] * count
        part = back[:, :, axis, None] * place[:, None]
        number = torch.arange(count) + 0.5
        first, last = (drawn.cut[:, 2 * axis + end, None] * count for end in (0, 1))
        lost = (number < first) | (number > count - last)
        parts.append(part.masked_fill(lost[:, None], math.inf).flip(1).to(device))
    grid = parts[0][..., :, None] + parts[1][..., None, :]
    if drawn.elastic_pixels:
        grid += _displacement(drawn, size, device=device) * (2 / pixels.flip(0)).to(device)[:, None, None]
    return grid.permute(0, 2, 3, 1)


def _displacement(drawn: Deformation, size: tuple[int, int], *, device: torch.device) -> Float[Tensor, "batch 2 y x"]:
    """Return smooth random displacements along x and y, in pixels, their standard deviation the same everywhere."""
    rows, columns = (_spline_weights(count, drawn.elastic_cell_pixels).to(device) for count in size)
    control = white_noise(drawn.seed.to(device), (2, rows.shape[1], columns.shape[1])) * drawn.elastic_pixels
    return rows @ control @ columns.T


def _spline_weights(count: int, cell_pixels: float) -> Float[Tensor, "pixels points"]:
    """Return the weights of control points, ``cell_pixels`` apart, for each of ``count`` pixels in a row.

    Cubic B-splines: two continuous derivatives. Scaled so that points of variance 1 give variance 1 at every pixel.
    """
    place = torch.arange(count) / cell_pixels
    points = torch.arange(-1, int(place[-1]) + 3)
    distance = (place[:, None] - points).abs()
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = (2 - distance).clamp(min=0) ** 3 / 6
    weights = torch.where(distance < 1, inner, outer)
    return weights / weights.norm(dim=1, keepdim=True)
