"""The losses and their constants."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from viscera.config.ranges import STRICT, Fraction, Positive

ClassWeights = Literal["uniform", "inverse_frequency"] | tuple[Annotated[float, Ge(0)], ...]
Distance = Literal["boundary", "organ"]


@dataclass(frozen=True)
class AddedBoundaryLoss:
    """zhang2d's code: CE(w0) + alpha * mean(w0 * exp(-d^2 / 2 sigma^2) * CE)."""

    __pydantic_config__ = STRICT

    uses_pseudo_labels: ClassVar[bool] = False
    unannotated: ClassVar[Literal["background"]] = "background"
    kind: Literal["added"] = "added"
    alpha: Annotated[float, Ge(0)] = 10.0
    """Weight of the boundary term."""
    sigma_pixels: Positive = 3.0
    """Reach of the boundary, in pixels of the resized slice."""
    class_weights: ClassWeights = "uniform"
    """w0 per class, background first."""
    distance: Distance = "boundary"
    """d: to the nearest organ boundary (the code), or to the nearest organ, 0 inside (the paper)."""

    @property
    def needed_distance(self) -> Distance | None:
        """Which distance this loss looks at; None where its weight is 0."""
        return self.distance if self.alpha > 0 else None


@dataclass(frozen=True)
class SummedBoundaryLoss:
    """zhang2d's paper, equations 1 and 2: mean of (w0 + amplitude * exp(-d^2 / 2 sigma^2)) * CE."""

    __pydantic_config__ = STRICT

    uses_pseudo_labels: ClassVar[bool] = False
    unannotated: ClassVar[Literal["background"]] = "background"
    kind: Literal["summed"] = "summed"
    amplitude: Annotated[float, Ge(0)] = 6.0
    """A of equation 2."""
    sigma_pixels: Positive = 4.0
    """Reach of the boundary, in pixels of the resized slice."""
    class_weights: ClassWeights = "uniform"
    """w0 per class, background first."""
    distance: Distance = "organ"
    """d: to the nearest organ boundary (the code), or to the nearest organ, 0 inside (the paper)."""

    @property
    def needed_distance(self) -> Distance | None:
        """Which distance this loss looks at; None where its weight is 0."""
        return self.distance if self.amplitude > 0 else None


@dataclass(frozen=True)
class PartialLoss:
    """Boundary-weighted cross-entropy + Dice + exclusion, in which an unannotated organ is unknown, not background."""

    __pydantic_config__ = STRICT

    kind: Literal["partial"] = "partial"
    unannotated: Literal["marginal", "background"] = "marginal"
    """What a voxel without a label is: background or any unannotated organ (marginal), or background, to compare with."""
    exclusion: Annotated[float, Ge(0)] = 1.0
    """Weight of the exclusion term: an annotated organ's voxel is not an unannotated organ."""
    dice: Annotated[float, Ge(0)] = 1.0
    """Weight of the Dice term, each organ over the slices whose case annotates it."""
    dice_form: Literal["log", "linear"] = "log"
    """log: -log Dice over the organs that the batch shows. linear: 1 - Dice over all that it annotates (nnU-Net)."""
    alpha: Annotated[float, Ge(0)] = 10.0
    """A pixel counts 1 + alpha * exp(-d^2 / 2 sigma^2) times in the cross-entropy."""
    sigma_pixels: Positive = 3.0
    """Reach of the boundary, in pixels of the prepared slice."""
    class_weights: ClassWeights = "uniform"
    """w0 per class, background first."""
    distance: Distance = "boundary"
    """d: to the nearest organ boundary, or to the nearest organ, 0 inside."""
    pseudo: Fraction = 1.0
    """How much pseudo-labels count beside truth: 0 trains as if there were none, 1 as if they were annotated."""

    @property
    def needed_distance(self) -> Distance | None:
        """Which distance this loss looks at; None where its weight is 0."""
        return self.distance if self.alpha > 0 else None

    @property
    def uses_pseudo_labels(self) -> bool:
        """Whether it learns from pseudo-labels; to a loss that does not, an unlabelled case is all background."""
        return self.pseudo > 0


@dataclass(frozen=True)
class SigmoidLoss:
    """Each organ by itself: boundary-weighted binary cross-entropy + Dice over the slices whose case annotates it."""

    __pydantic_config__ = STRICT

    unannotated: ClassVar[Literal["marginal"]] = "marginal"
    kind: Literal["sigmoid"] = "sigmoid"
    dice: Annotated[float, Ge(0)] = 1.0
    """Weight of the Dice term."""
    alpha: Annotated[float, Ge(0)] = 10.0
    """A pixel counts 1 + alpha * exp(-d^2 / 2 sigma^2) times in the cross-entropy."""
    sigma_pixels: Positive = 3.0
    """Reach of the boundary, in pixels of the prepared slice."""
    class_weights: ClassWeights = "uniform"
    """w0 of a pixel by its class, background first."""
    distance: Distance = "boundary"
    """d: to the nearest organ boundary, or to the nearest organ, 0 inside."""
    pseudo: Fraction = 1.0
    """How much pseudo-labels count beside truth: 0 trains as if there were none, 1 as if they were annotated."""

    @property
    def needed_distance(self) -> Distance | None:
        """Which distance this loss looks at; None where its weight is 0."""
        return self.distance if self.alpha > 0 else None

    @property
    def uses_pseudo_labels(self) -> bool:
        """Whether it learns from pseudo-labels; to a loss that does not, an unlabelled case is all background."""
        return self.pseudo > 0


Loss = Annotated[AddedBoundaryLoss | SummedBoundaryLoss | PartialLoss | SigmoidLoss, "told apart by kind"]
