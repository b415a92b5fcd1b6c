"""Optimizer, schedule and length; where to train."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from viscera.config.ranges import STRICT, Accelerator, Count, Positive, Precision


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
    schedule: Literal["step", "cosine", "poly"] = "step"
    """step: multiplied by step_gamma after every step_epochs. cosine: from the first step to 0 at the last. poly: times
    (1 - epoch / poly_epochs)^0.9."""
    poly_epochs: Annotated[int, Ge(0)] = 0
    """poly's epochs; later ones keep the last rate that is not 0. 0: all epochs."""
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
class Machine:
    """Where to train. Nothing here changes what is learnt, but for rounding."""

    accelerator: Accelerator = "auto"
    """Where the network runs; auto takes a GPU where there is one."""
    devices: int = 1
    """How many GPUs (or processes on the CPU) share each batch; torchrun and srun say it themselves, on any number of machines."""
    threads: int = 2
    """Threads that read slices ahead."""
    save_every_s: float = 60.0
    """Seconds between saved states: the most that a kill can lose."""
    logs: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Further logs, beside log.jsonl and log.csv."""
