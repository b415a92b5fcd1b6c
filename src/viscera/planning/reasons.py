"""Reason: what was chosen, why, and whether that was measured or is a rule."""

from dataclasses import dataclass
from typing import Literal

Basis = Literal["measured", "data", "nnU-Net's rule", "rule of thumb", "asked for"]
"""measured: by training steps on this machine. data: by the data sets. nnU-Net's rule: Isensee et al. 2021,
doi:10.1038/s41592-020-01008-z. rule of thumb: ours, which no study here supports."""


@dataclass(frozen=True)
class Reason:
    """Why a setting is as it is.

    Attributes:
        setting: Its name in the recipe, or what else was decided.
        value: What was chosen, for people.
        why: A sentence.
        basis: What the sentence rests on.
    """

    setting: str
    value: str
    why: str
    basis: Basis


def numbers(values: tuple[float, ...], by: str = " x ") -> str:
    """Return numbers for people.

    Example:
        >>> numbers((2.5, 0.8))
        '2.5 x 0.8'
    """
    return by.join(f"{value:g}" for value in values)
