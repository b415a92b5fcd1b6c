"""What windows need of arrays of both kinds: NumPy's on the CPU, torch's on a GPU. Torch is imported only where there is one.

All else that is done with logits (+, *, /, slices, clip) is written the same for both.
"""

import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

Array = Any
"""A NumPy array, or a torch tensor on a GPU."""

SURE_BACKGROUND = 20.0
"""Logit of background where no network looked; all others are 0."""


def zeros(shape: Sequence[int], dtype: Literal["float16", "float32"], *, device: Literal["cpu", "cuda"]) -> Array:
    """Return zeros where they are to be."""
    if device == "cpu":
        return np.zeros(shape, dtype)
    import torch

    return torch.zeros(tuple(shape), dtype=getattr(torch, dtype), device=device)


def moved(array: Float32[np.ndarray, "..."], *, device: Literal["cpu", "cuda"]) -> Array:
    """Return an array of the CPU where it is to be; on a GPU in half precision."""
    if device == "cpu":
        return array
    import torch

    return torch.from_numpy(array).to(device).half()


def in_full(array: Array) -> Array:
    """Return an array in float32."""
    return array.astype(np.float32) if isinstance(array, np.ndarray) else array.float()


def zeros_beside(array: Array, shape: Sequence[int]) -> Array:
    """Return zeros of another shape, where an array is and of its type."""
    return np.zeros(shape, array.dtype) if isinstance(array, np.ndarray) else array.new_zeros(tuple(shape))


def flipped(array: Array, axes: Sequence[int]) -> Array:
    """Return an array whose axes run the other way."""
    return np.flip(array, tuple(axes)) if isinstance(array, np.ndarray) else array.flip(tuple(axes))


def stacked(arrays: Sequence[Array]) -> Array:
    """Return arrays one after the other along a new first axis."""
    if isinstance(arrays[0], np.ndarray):
        return np.stack(arrays)
    import torch

    return torch.stack(tuple(arrays))


def gpu_out_of_memory() -> tuple[type[Exception], ...]:
    """Return what is raised where a GPU's memory does not suffice; nothing where torch is not even loaded."""
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.OutOfMemoryError,)
