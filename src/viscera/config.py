"""Every setting of a recipe: its type, unit, meaning and range.

A recipe is a value. A variant is another value (``dataclasses.replace``), not a subclass; alternatives are dataclasses in
a union, told apart by one ``match`` where they are used. The recipes themselves, with the source of each number, are in
recipes/. Ranges are checked when a recipe is read from JSON or the command line (recipe_json.py).
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt, MultipleOf

from viscera.errors import SettingError
from viscera.labels import SPACES, LabelSpace

Fraction = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(1)]
Accelerator = Literal["auto", "cpu", "cuda"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
STRICT = {"extra": "forbid"}


@dataclass(frozen=True)
class Window:
    """Clip to a HU window and scale it to [0, 1]."""

    __pydantic_config__ = STRICT

    low_hu: float = -400.0
    """Becomes 0."""
    high_hu: float = 400.0
    """Becomes 1."""

    def __post_init__(self) -> None:
        """Refuse empty windows."""
        if not self.low_hu < self.high_hu:
            raise SettingError(f"window: low_hu {self.low_hu:g} must be below high_hu {self.high_hu:g}.")


@dataclass(frozen=True)
class ResizedSlices:
    """zhang2d's preparation: every axial slice is resized to the same size, whatever its field of view."""

    __pydantic_config__ = STRICT

    kind: Literal["resized"] = "resized"
    size: tuple[Annotated[int, Ge(16), MultipleOf(16)], Annotated[int, Ge(16), MultipleOf(16)]] = (256, 256)
    """Rows and columns of a resized axial slice, in pixels; multiples of 16 (four halvings)."""


@dataclass(frozen=True)
class SpacedSlices:
    """Axial slices are resampled to one pixel spacing and cut to the body, so that a pixel is as large in every patient."""

    __pydantic_config__ = STRICT

    kind: Literal["spaced"] = "spaced"
    spacing_mm: Annotated[float, Ge(0.3), Le(20)] = 2.5
    """Between the centres of neighbouring pixels, along rows and columns."""
    margin_mm: Annotated[float, Ge(0)] = 10.0
    """Kept around the body's box; rows and columns are then widened to multiples of 16 (four halvings)."""


Preparation = Annotated[ResizedSlices | SpacedSlices, "told apart by kind"]
"""What is done once to every scan, before training and before prediction."""


@dataclass(frozen=True)
class UNetShape:
    """A 2D U-Net: two 3x3 convolutions, batch normalisation and ReLU per level."""

    __pydantic_config__ = STRICT

    widths: Annotated[tuple[Count, ...], Len(2, 8)] = (64, 128, 256, 512, 1024)
    """Channels of each level, the bottleneck last."""
    checkpointing: bool = False
    """Recompute each level in the backward pass: less memory, about a third more time; works with mixed precision."""
    slices: Literal[1, 3, 5, 7] = 1
    """Neighbouring slices seen at once, as channels; the middle one is segmented. Beyond the scan its last slice repeats."""
    heads: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: one probability distribution over all classes. sigmoid: one for each organ, for the sigmoid loss."""


ClassWeights = Literal["uniform", "inverse_frequency"] | tuple[Annotated[float, Ge(0)], ...]
Distance = Literal["boundary", "organ"]


@dataclass(frozen=True)
class AddedBoundaryLoss:
    """zhang2d's code: CE(w0) + alpha * mean(w0 * exp(-d^2 / 2 sigma^2) * CE)."""

    __pydantic_config__ = STRICT

    kind: Literal["added"] = "added"
    alpha: Annotated[float, Ge(0)] = 10.0
    """Weight of the boundary term."""
    sigma_pixels: Positive = 3.0
    """Reach of the boundary, in pixels of the resized slice."""
    class_weights: ClassWeights = "uniform"
    """w0 per class, background first."""
    distance: Distance = "boundary"
    """d: to the nearest organ boundary (the code), or to the nearest organ, 0 inside (the paper)."""


@dataclass(frozen=True)
class SummedBoundaryLoss:
    """zhang2d's paper, equations 1 and 2: mean of (w0 + amplitude * exp(-d^2 / 2 sigma^2)) * CE."""

    __pydantic_config__ = STRICT

    kind: Literal["summed"] = "summed"
    amplitude: Annotated[float, Ge(0)] = 6.0
    """A of equation 2."""
    sigma_pixels: Positive = 4.0
    """Reach of the boundary, in pixels of the resized slice."""
    class_weights: ClassWeights = "uniform"
    """w0 per class, background first."""
    distance: Distance = "organ"
    """d: to the nearest organ boundary (the code), or to the nearest organ, 0 inside (the paper)."""


@dataclass(frozen=True)
class PartialLoss:
    """Boundary-weighted cross-entropy + Dice + exclusion, in which an unannotated organ is unknown, not background."""

    __pydantic_config__ = STRICT

    kind: Literal["partial"] = "partial"
    unannotated: Literal["marginal", "background"] = "marginal"
    """What a voxel without a label is: background or any unannotated organ (marginal), or background, to compare with."""
    exclusion: Annotated[float, Ge(0)] = 1.0
    """Weight of the exclusion term: an annotated organ's voxel is no unannotated organ."""
    dice: Annotated[float, Ge(0)] = 1.0
    """Weight of the Dice term, each organ over the slices whose case annotates it."""
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


@dataclass(frozen=True)
class SigmoidLoss:
    """Each organ by itself: boundary-weighted binary cross-entropy + Dice over the slices whose case annotates it."""

    __pydantic_config__ = STRICT

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


Loss = Annotated[AddedBoundaryLoss | SummedBoundaryLoss | PartialLoss | SigmoidLoss, "told apart by kind"]


@dataclass(frozen=True)
class SliceAugmentation:
    """zhang2d's sixteen copies of a slice, drawn on the fly on the batch."""

    __pydantic_config__ = STRICT

    kind: Literal["slice"] = "slice"
    quarter_turns: bool = True
    """Turn each slice by 0, 90, 180 or 270 degrees."""
    contrast: Annotated[float, Ge(0), Lt(1)] = 0.04
    """Half-width c of the factor U(1 - c, 1 + c) on the scaled image."""
    brightness: Annotated[float, Ge(0), Lt(1)] = 0.03
    """Half-width b of the shift U(-b, b) that follows; the image is then clipped to [0, 1]."""


@dataclass(frozen=True)
class RichAugmentation:
    """Random deformations and changes of intensity, drawn on the fly on the batch; 0 switches each of them off.

    The geometric ones are drawn for every slice; those of the intensity for each slice with ``probability``, one by one.
    Intensities are those of the scaled image, [0, 1]: with a window of 800 HU, 0.03 is 24 HU.
    """

    __pydantic_config__ = STRICT

    kind: Literal["rich"] = "rich"
    rotation_degrees: Annotated[float, Ge(0), Le(180)] = 12.0
    """Half-width of the angle's uniform distribution."""
    scale: Annotated[float, Ge(0), Lt(1)] = 0.15
    """Size times exp(U(-s, s)), rows and columns alike."""
    stretch: Annotated[float, Ge(0), Lt(1)] = 0.05
    """Rows times exp(U(-s, s)), columns divided by it."""
    shift: Fraction = 0.05
    """Half-width of the shift along rows and along columns, as a fraction of them."""
    elastic_pixels: Annotated[float, Ge(0)] = 2.0
    """Standard deviation of a smooth random displacement."""
    elastic_cell_pixels: Positive = 24.0
    """Distance of the points between which that displacement is interpolated."""
    crop: Fraction = 0.15
    """The largest share of rows or columns that one side of the field of view loses: air there, its labels unknown."""
    gamma: Annotated[float, Ge(0), Lt(2)] = 0.2
    """Image to the power exp(U(-g, g))."""
    contrast: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Half-width c of the factor U(1 - c, 1 + c) about mid-grey."""
    brightness: Annotated[float, Ge(0), Lt(1)] = 0.03
    """Half-width of the shift: of all HU."""
    noise: Annotated[float, Ge(0)] = 0.04
    """Largest standard deviation of white noise."""
    blur_pixels: Annotated[float, Ge(0), Le(5)] = 1.0
    """Largest standard deviation of a Gaussian blur."""
    probability: Fraction = 0.3
    """Of crop, gamma, contrast, brightness, noise, blur: of each for itself."""


Augmentation = Annotated[SliceAugmentation | RichAugmentation, "told apart by kind"]


@dataclass(frozen=True)
class Sampling:
    """Which slices an epoch visits, and how much of each."""

    __pydantic_config__ = STRICT

    dataset_power: Fraction = 0.0
    """A case of a data set with n cases counts n^-power times: 0, every slice alike; 0.5 lifts small data sets (MultiTalent);
    1, every data set alike."""
    organ_fraction: Fraction = 0.0
    """Share of the visits that go to slices showing an organ, drawn first among all annotated organs: rare ones are seen."""
    fold: tuple[Count, Count] | None = None
    """(k, n): leave out the k-th of n parts of the training patients, k from 1; None trains on all."""
    window: tuple[Annotated[int, Ge(16), MultipleOf(16)], Annotated[int, Ge(16), MultipleOf(16)]] | None = None
    """Rows and columns that are cut from each slice at a random place; None: those of the largest slice, so that none is
    cut. Smaller slices are filled up with air."""


@dataclass(frozen=True)
class Training:
    """How the network is trained."""

    __pydantic_config__ = STRICT

    epochs: Count = 6
    """Passes over the training set."""
    visits_per_slice: Positive = 16
    """How often an epoch draws each slice (the original wrote 16 augmented copies to disk)."""
    batch_size: Count = 64
    """Slices per forward pass, over all devices."""
    accumulate: Count = 1
    """Forward passes per optimizer step."""
    learning_rate: Positive = 6e-4
    """AdamW's."""
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    """AdamW's."""
    schedule: Literal["step", "cosine"] = "step"
    """step: multiplied by step_gamma after every step_epochs. cosine: from the first step to 0 at the last."""
    warm_up: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of all steps over which the learning rate rises linearly to its value."""
    average_decay: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Keep a moving average of the weights, old * decay + new * (1 - decay) at each step, and use that; 0: no average."""
    step_epochs: Count = 2
    """StepLR: multiply the learning rate by step_gamma after every so many epochs."""
    step_gamma: Annotated[float, Gt(0), Le(1)] = 0.2
    """StepLR's factor."""
    patience_epochs: Annotated[int, Ge(0)] = 0
    """Stop after so many epochs without a lower validation loss; 0 never stops early."""
    precision: Literal["auto"] | Precision = "auto"
    """auto: fp16 mixed on a GPU, bf16 mixed on a CPU that computes it natively, otherwise fp32."""
    seed: Annotated[int, Ge(0)] = 0
    """Of initial weights, order of slices and augmentation."""
    deterministic: bool = False
    """Use deterministic algorithms only (slower on a GPU)."""


@dataclass(frozen=True)
class Inference:
    """How a scan is segmented."""

    __pydantic_config__ = STRICT

    batch_size: Count = 4
    """Slices per forward pass."""
    largest_components: dict[str, Count] = field(default_factory=dict)
    """{organ: how many of its largest connected components to keep}; organs not named are left as they are."""


@dataclass(frozen=True)
class Recipe:
    """Every setting of one system."""

    __pydantic_config__ = STRICT

    name: str = "zhang2d"
    """The recipe's name, for tables and files."""
    about: str = ""
    """What it is, in a line."""
    label_space: str = "zhang12"
    """The organs to tell apart: see `viscera info organs`."""
    preparation: Preparation = ResizedSlices()
    """What is done once to every scan."""
    intensity: Window = Window()
    """HU to network input."""
    network: UNetShape = UNetShape()
    """The architecture."""
    loss: Loss = AddedBoundaryLoss()
    """What is minimised."""
    sampling: Sampling = Sampling()
    """Which slices are visited."""
    augmentation: Augmentation = SliceAugmentation()
    """Random changes of each training slice."""
    training: Training = Training()
    """Optimizer, schedule and length."""
    inference: Inference = Inference()
    """From network output to label map."""

    @property
    def space(self) -> LabelSpace:
        """The label space by its name.

        Raises:
            SettingError: No such space.
        """
        if self.label_space not in SPACES:
            raise SettingError(f"no label space '{self.label_space}'. Choose one of {', '.join(SPACES)}.")
        return SPACES[self.label_space]


@dataclass(frozen=True)
class Machine:
    """Where to train. Nothing here changes what is learnt, but for rounding."""

    accelerator: Accelerator = "auto"
    """Where the network runs; auto takes a GPU where there is one."""
    devices: int = 1
    """How many GPUs (or processes on the CPU) share each batch."""
    threads: int = 2
    """Threads that read slices ahead."""
    save_every_s: float = 60.0
    """Seconds between saved states: the most that a kill can lose."""
    logs: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Further logs, beside log.jsonl and log.csv."""
