"""Every setting of a recipe: its type, unit, meaning and range; recipe <-> JSON.

A recipe is a value. A variant is another value (``dataclasses.replace``), not a subclass; alternatives are dataclasses in
a union, told apart by one ``match`` where they are used. The recipes themselves, with the source of each number, are in
recipes/. Ranges are checked when a recipe is read from JSON or the command line.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt, MultipleOf

from viscera.errors import SettingError, did_you_mean
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
class Preparation:
    """What is done once to every scan, before training and before prediction."""

    __pydantic_config__ = STRICT

    size: tuple[Annotated[int, Ge(16), MultipleOf(16)], Annotated[int, Ge(16), MultipleOf(16)]] = (256, 256)
    """Rows and columns of a resized axial slice, in pixels; multiples of 16 (four halvings)."""


@dataclass(frozen=True)
class UNetShape:
    """A 2D U-Net: two 3x3 convolutions, batch normalisation and ReLU per level."""

    __pydantic_config__ = STRICT

    widths: Annotated[tuple[Count, ...], Len(2, 8)] = (64, 128, 256, 512, 1024)
    """Channels of each level, the bottleneck last."""
    checkpointing: bool = False
    """Recompute each level in the backward pass: less memory, about a third more time; works with mixed precision."""


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


BoundaryLoss = Annotated[AddedBoundaryLoss | SummedBoundaryLoss, "told apart by kind"]


@dataclass(frozen=True)
class SliceAugmentation:
    """zhang2d's sixteen copies of a slice, drawn on the fly on the batch."""

    __pydantic_config__ = STRICT

    quarter_turns: bool = True
    """Turn each slice by 0, 90, 180 or 270 degrees."""
    contrast: Annotated[float, Ge(0), Lt(1)] = 0.04
    """Half-width c of the factor U(1 - c, 1 + c) on the scaled image."""
    brightness: Annotated[float, Ge(0), Lt(1)] = 0.03
    """Half-width b of the shift U(-b, b) that follows; the image is then clipped to [0, 1]."""


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
    preparation: Preparation = Preparation()
    """What is done once to every scan."""
    intensity: Window = Window()
    """HU to network input."""
    network: UNetShape = UNetShape()
    """The architecture."""
    loss: BoundaryLoss = AddedBoundaryLoss()
    """What is minimised."""
    augmentation: SliceAugmentation = SliceAugmentation()
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


def recipe_to_json(recipe: Recipe) -> str:
    """Give a recipe as indented JSON, every setting written out."""
    return json.dumps(asdict(recipe), indent=2)


def recipe_from_json(text: str, *, where: str) -> Recipe:
    """Read a recipe, checking names, types and ranges.

    Args:
        text: What ``recipe_to_json`` wrote, perhaps edited.
        where: The file, for messages.

    Raises:
        SettingError: The text is no JSON, or a setting is unknown, of another type or out of range.
    """
    import pydantic  # here, because `viscera --help` needs none of it

    try:
        return pydantic.TypeAdapter(Recipe).validate_json(text)
    except pydantic.ValidationError as error:
        found = [(one["loc"], one["msg"], one["input"]) for one in error.errors()]
        raise SettingError(f"{where}: {_complaint(found)}") from error


def _complaint(found: list[tuple[tuple[int | str, ...], str, object]]) -> str:
    """Say what is wrong with the first bad setting, from pydantic's (place, message, value) of each.

    Of a union pydantic complains for every alternative. Those of another ``kind`` than the value's do not count, and the
    others are joined; their names in the place ("AddedBoundaryLoss", "literal['auto']") are no settings.
    """
    others = {place[:-1] for place, _, _ in found if place and place[-1] == "kind"}
    found = [one for one in found if one[0][:2] not in others] or found
    place, _, value = found[0]
    setting = _setting(place)
    same = dict.fromkeys(message for other, message, _ in found if _setting(other) == setting)
    text = " or ".join(
        message if not number else message.removeprefix("Input should be ") for number, message in enumerate(same)
    )
    if text.startswith("Unexpected"):
        return f"there is no setting '{setting}'.{did_you_mean(setting, _settings())} See viscera info zhang2d for all."
    if not setting:
        return f"no recipe: {text}. Begin with what viscera info zhang2d prints."
    return f"{setting}: {text} (got {value!r})."


def _setting(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place if isinstance(part, int) or (part.isidentifier() and part.islower()))


def _settings() -> list[str]:
    """List every setting of recipes as section.setting, and the sections."""
    recipes = [asdict(Recipe(loss=loss)) for loss in (AddedBoundaryLoss(), SummedBoundaryLoss())]
    inner = [
        f"{section}.{name}"
        for recipe in recipes
        for section, part in recipe.items()
        if isinstance(part, dict)
        for name in part
    ]
    return [*recipes[0], *dict.fromkeys(inner)]


def check_recipe(recipe: Recipe) -> Recipe:
    """Give the recipe back if every setting is within its range (values from the command line are not yet checked)."""
    return recipe_from_json(recipe_to_json(recipe), where=f"recipe '{recipe.name}'")
