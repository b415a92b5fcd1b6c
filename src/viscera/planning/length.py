"""How long to train: epochs and visits that fit the hours, by the measured seconds of a step."""

from dataclasses import dataclass, replace

from viscera.config import Recipe
from viscera.learning.sampling.index import VALIDATION_PATCHES
from viscera.planning.fingerprint import Fingerprint
from viscera.planning.measurement import Measured

USED = 0.9
"""Of the hours: other programs, saving, and what a short trial cannot see."""
VALIDATION = 0.15
"""Of the time, at most: more epochs would validate more often. A rule of thumb."""
CONTEXT = 0.25
"""Of the time that a context network is trained for. A rule of thumb."""
EPOCH_STEPS = 250
"""Of an epoch: nnU-Net's."""
FEW_EPOCHS, MOST_EPOCHS = 10, 1000
"""Of short trainings, so that the best of several epochs can be kept; nnU-Net's 1000 at most."""
MOST_VISITS = 300
"""Of a slice or case (ten times viscera2d's 30): more teaches little. A rule of thumb."""
PATCH_VISITS = 3000
"""Of a case by patches."""


@dataclass(frozen=True)
class Length:
    """Epochs of a training.

    Attributes:
        epochs: Passes.
        passes: Forward and backward passes of an epoch.
        visits: Of each slice, or patches of each case, in an epoch.
        seconds: That all of it takes, by what was measured.
        capped: Whether MOST_VISITS ended it, not the time.
    """

    epochs: int
    passes: int
    visits: float
    seconds: float
    capped: bool = False

    @property
    def total(self) -> int:
        """Passes of all epochs."""
        return self.epochs * self.passes


@dataclass(frozen=True)
class Work:
    """What training goes over.

    Attributes:
        items: Slices, or cases of which patches are taken.
        validated: Slices or patches that are validated after each epoch.
        batch: Of them in a pass.
        most: Visits of an item, over all epochs.
    """

    items: int
    validated: int
    batch: int
    most: int


def work_of(recipe: Recipe, fingerprint: Fingerprint) -> Work:
    """Return what a recipe's training goes over."""
    batch = recipe.training.batch_size
    if recipe.dimensions == 2:
        return Work(fingerprint.training_slices, fingerprint.validation_slices, batch, MOST_VISITS)
    return Work(fingerprint.training_cases, VALIDATION_PATCHES * fingerprint.validation_cases, batch, PATCH_VISITS)


def length_of(work: Work, seconds: float, *, step_s: float, validated_s: float) -> Length | None:
    """Return the longest training that fits; None where not one pass does.

    Args:
        work: What it goes over.
        seconds: That there are.
        step_s: Of a pass.
        validated_s: Of validating one item.
    """
    judged = work.validated * validated_s
    all_visits = max(1, work.most * work.items // work.batch)
    steps = min(int(seconds / step_s), all_visits)
    epochs = steps // EPOCH_STEPS if steps >= FEW_EPOCHS * EPOCH_STEPS else min(FEW_EPOCHS, steps // 25)
    if judged > 0:
        epochs = min(epochs, int(VALIDATION * seconds / judged))
    epochs = max(1, min(MOST_EPOCHS, epochs))
    passes = int((seconds / epochs - judged) / step_s)
    most = max(1, all_visits // epochs)
    capped = passes > most
    passes = min(passes, most)
    if passes < 1:
        return None
    visits = float(f"{passes * work.batch / work.items:.6g}")
    return Length(epochs, passes, visits, epochs * (passes * step_s + judged), capped)


def lengths(
    recipe: Recipe, fingerprint: Fingerprint, measured: Measured, hours: float
) -> tuple[Length | None, Length | None]:
    """Return the length of a recipe's training, and of its context network's; None where there is none, or no time."""
    seconds = hours * 3600 * USED
    if recipe.context is None:
        fitted = length_of(
            work_of(recipe, fingerprint), seconds, step_s=measured.step_s, validated_s=measured.validated_s
        )
        return fitted, None
    coarse = Work(
        fingerprint.training_cases,
        VALIDATION_PATCHES * fingerprint.validation_cases,
        recipe.context.training.batch_size,
        MOST_VISITS,
    )
    # a step looks at a patch of batch_size, and learning from it takes some three times as long as looking
    judged = measured.context_step_s / recipe.context.training.batch_size / 3
    first = length_of(coarse, CONTEXT * seconds, step_s=measured.context_step_s, validated_s=judged)
    seen = measured.seen_s * (fingerprint.training_cases + fingerprint.validation_cases)
    left = seconds - seen - (0.0 if first is None else first.seconds)
    if first is None or left <= 0:
        return None, None
    work = work_of(recipe, fingerprint)
    return length_of(work, left, step_s=measured.step_s, validated_s=measured.validated_s), first


def with_lengths(recipe: Recipe, length: Length, first: Length | None) -> Recipe:
    """Return the recipe with a training of that length, and of its context network."""
    plan = replace(recipe.training, epochs=length.epochs, visits_per_slice=length.visits)
    if recipe.context is None or first is None:
        return replace(recipe, training=plan)
    coarse = replace(recipe.context.training, epochs=first.epochs, visits_per_slice=first.visits)
    return replace(recipe, training=plan, context=replace(recipe.context, training=coarse))
