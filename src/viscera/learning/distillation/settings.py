"""How much a student learns from its teacher."""

import math
from dataclasses import dataclass
from pathlib import Path

from viscera.errors import SettingError


@dataclass(frozen=True)
class Distillation:
    """Trained networks whose probabilities another one learns.

    Attributes:
        teacher: A cross-validated run, of which all folds teach; what `viscera choose` wrote; a run, or a weights file.
        temperature: By which both logits are divided before their softmax: above 1 the teacher's small probabilities count more.
            Hinton et al. 2015 found 2.5 to 4 best for the smallest student; Liu et al. 2019 segment with 1; 2 is between, untuned.
        weight: Of the teacher's part; the labels' is 1 less it. 0.5: as much as the labels; not tuned.
    """

    teacher: Path
    temperature: float = 2.0
    weight: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not (math.isfinite(self.temperature) and self.temperature > 0 and 0 < self.weight <= 1):
            raise SettingError(
                f"distillation: temperature {self.temperature:g}, weight {self.weight:g}",
                "Give a temperature above 0, and a weight above 0 and at most 1.",
            )
