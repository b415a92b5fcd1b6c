"""A new version against the one that serves, on corrections that were held back: is it better?"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from viscera.evaluation.metrics import confusion, overlap
from viscera.evaluation.statistics import bootstrap_interval
from viscera.inference.model import Model
from viscera.serving.corrections import Correction, read_correction, segmented
from viscera.serving.versions import Comparison

MOST_LOSS = 0.05
"""The most that the mean Dice of one organ may fall, whatever the others gain."""
LEAST_AGREEMENT = 0.8
"""Dice of new with old of an organ that no correction names: below, the new version has forgotten it."""

Dice = Mapping[str, float]
"""{organ: Dice} of one case; an organ that neither shows has none."""


def judge(correction: Correction, models: Sequence[Model], *, organs: Sequence[str]) -> tuple[tuple[Dice, Dice], Dice]:
    """Return the Dice of the old and of the new model with a correction, and of the two with each other elsewhere.

    Args:
        correction: With its scan.
        models: Old and new, of one label space.
        organs: That the model gives; () for all. Of others no agreement is asked.
    """
    space = models[0].output_space
    hu, truth, unknown = read_correction(correction, space)
    old, new = (np.where(unknown, np.uint8(0), segmented(hu, model)) for model in models)
    classes, named = len(space.organs) + 1, set(correction.values(space).values())
    others = [organ for organ in organs or space.organs if organ not in named]
    with_truth = tuple(
        dice_of(truth, voxels, {organ: space.index(organ) for organ in named}, classes) for voxels in (old, new)
    )
    shown = sorted(with_truth[0].keys() | with_truth[1].keys())  # an organ that is not there, and not found, is right
    before, after = ({organ: one.get(organ, 1.0) for organ in shown} for one in with_truth)
    return (before, after), dice_of(old, new, {organ: space.index(organ) for organ in others}, classes)


def dice_of(
    one: UInt8[np.ndarray, "z y x"], other: UInt8[np.ndarray, "z y x"], organs: Mapping[str, int], classes: int
) -> dict[str, float]:
    """Return {organ: Dice} of two label maps; organs that neither shows are left out."""
    counts = confusion(one, other, classes)
    found = {organ: overlap(counts, index).dice for organ, index in organs.items()}
    return {organ: float(dice) for organ, dice in found.items() if np.isfinite(dice)}


def conclude(cases: Sequence[tuple[Dice, Dice]], agreements: Sequence[Dice], *, old: int) -> Comparison:
    """Return the comparison of two versions, and which is better.

    The new one is better if the mean paired difference is above 0, no organ loses more than MOST_LOSS, and no organ that nobody
    corrected is forgotten.

    Args:
        cases: (old, new) of each.
        agreements: New with old of each, for organs that its correction does not name.
        old: Number of the old version.
    """
    pairs = [(_mean(one), _mean(other)) for one, other in cases if one and other]
    differences = {str(number): [new - before] for number, (before, new) in enumerate(pairs)}
    mean, low, high = bootstrap_interval(differences, np.random.default_rng(0))
    organs = {
        organ: (_mean_of([one for one, _ in cases], organ), _mean_of([other for _, other in cases], organ))
        for organ in sorted({organ for one, _ in cases for organ in one})
    }
    corrected = {organ for one, _ in cases for organ in one}
    forgettable = sorted({organ for one in agreements for organ in one} - corrected)
    agreement = {organ: _mean_of(agreements, organ) for organ in forgettable}
    worse = min(organs, key=lambda organ: organs[organ][1] - organs[organ][0], default="")
    lost = organs[worse][0] - organs[worse][1] if worse else 0.0
    least = min(agreement, key=lambda organ: agreement[organ], default="")
    if not pairs:
        better, why = False, "no organ of the corrections that were held back can be compared"
    elif mean <= 0:
        better, why = False, f"it is not better: mean Dice {mean:+.4f}"
    elif lost > MOST_LOSS:
        better, why = False, f"it is better by {mean:+.4f}, but {worse} loses {lost:.3f}, more than {MOST_LOSS}"
    elif least and agreement[least] < LEAST_AGREEMENT:
        better, why = (
            False,
            f"{least}, which no correction names, is not as it was: Dice {agreement[least]:.3f} with the old",
        )
    else:
        better, why = True, f"it is better: mean Dice {mean:+.4f}"
    return Comparison(
        old=old,
        old_dice=round(_mean([before for before, _ in pairs]), 4),
        new_dice=round(_mean([new for _, new in pairs]), 4),
        difference=round(mean, 4) if pairs else 0.0,
        low=round(low, 4) if np.isfinite(low) else None,
        high=round(high, 4) if np.isfinite(high) else None,
        cases=len(pairs),
        case_dice=tuple(sorted((round(before, 4), round(new, 4)) for before, new in pairs)),
        organs={organ: (round(one, 4), round(other, 4)) for organ, (one, other) in organs.items()},
        agreement={organ: round(dice, 4) for organ, dice in agreement.items()},
        better=better,
        why=why,
    )


def _mean(values: Mapping[str, float] | Sequence[float]) -> float:
    numbers = list(values.values()) if isinstance(values, Mapping) else list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0


def _mean_of(cases: Sequence[Dice], organ: str) -> float:
    return _mean([one[organ] for one in cases if organ in one])
