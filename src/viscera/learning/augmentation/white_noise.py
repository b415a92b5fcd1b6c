"""White noise of which every number follows from a seed and its place: the same on every device, for any share of a batch.

torch's generators give other numbers on a GPU than on a CPU, and a slice's numbers would depend on those before it.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

LOW_32_BITS = 0xFFFFFFFF


def draw_seeds(count: int, generator: Generator) -> Int[Tensor, " batch"]:
    """Draw a seed for each slice."""
    return torch.randint(0, LOW_32_BITS + 1, (count,), generator=generator)


def white_noise(seeds: Int[Tensor, " batch"], shape: tuple[int, ...]) -> Float[Tensor, "batch ..."]:
    """Return independent standard normal numbers, ``shape`` for each seed, on the seeds' device.

    Source: pairs by Box and Muller 1958, from the two halves of a hash of seed and place: the mixing function
    "lowbias32" of C. Wellons (nullprogram.com/blog/2018/07/31). 16 bits each: no number beyond 4.9.
    """
    count = math.prod(shape)
    pair = torch.arange((count + 1) // 2, device=seeds.device)
    bits = (seeds[:, None] + pair * 0x9E3779B1) & LOW_32_BITS
    bits = ((bits >> 16) ^ bits) * 0x7FEB352D & LOW_32_BITS
    bits = ((bits >> 15) ^ bits) * 0x846CA68B & LOW_32_BITS
    bits = (bits >> 16) ^ bits
    radius = ((bits >> 16) + 0.5).mul_(2.0**-16).log_().mul_(-2).sqrt_()
    angle = (bits & 0xFFFF) * (math.tau / 2**16)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count].reshape(len(seeds), *shape)
