"""What each setting of a study changes: means over the other settings, and differences on the same patients.

Two cells are a pair when they differ in one setting only. A difference is a patient's mean over all pairs, so that
patients are what the interval and the test are about. Every network is trained once: what another start of training would
have changed is not known, but if it mattered, the pairs would disagree, which is why they are counted.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from viscera.evaluation.comparing import Comparison, compare
from viscera.evaluation.scores import MEAN, OrganScore
from viscera.learning.study.grid import short_names, text_of
from viscera.learning.study.results import CellResult, Study

LEVEL = 0.05
"""A corrected p-value below is called beyond chance, if the 95 % interval leaves out 0 too."""

BACKGROUND = "background"


@dataclass(frozen=True)
class Effect:
    """One value of a setting against the first one.

    Attributes:
        setting: Its short name.
        value: As text.
        reference: The value that it is compared with; "" for that value itself.
        cells: With a score.
        mean: Of their mean IoUs; NaN without a cell.
        pairs: Of cells that differ in this setting only.
        higher: How many of them have a higher mean IoU than the reference.
        differences: {organ or "mean": IoU minus the reference's}; p-values as tested.
        p_value: Of the mean, by Holm's correction for all comparisons of the study; NaN without one.
    """

    setting: str
    value: str
    reference: str
    cells: int
    mean: float
    pairs: int = 0
    higher: int = 0
    differences: Mapping[str, Comparison] | None = None
    p_value: float = math.nan

    @property
    def shown(self) -> bool:
        """Whether the mean differs beyond the chance of which patients were scored."""
        mean = (self.differences or {}).get(MEAN)
        return mean is not None and self.p_value < LEVEL and (mean.low > 0 or mean.high < 0)


def varied(cells: Sequence[CellResult]) -> dict[str, tuple[str, ...]]:
    """Return {dotted setting: its values as text} of the settings that have more than one."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        for setting, value in cell.settings.items():
            found.setdefault(setting, {})[text_of(value)] = None
    return {setting: tuple(values) for setting, values in found.items() if len(values) > 1}


def effects(study: Study, generator: np.random.Generator) -> tuple[Effect, ...]:
    """Compare the values of each setting with its first.

    Args:
        study: Its finished cells count; where one failed, its pairs are missing.
        generator: Draws the bootstrap's patients.

    Returns:
        One per setting and value, in the grid's order.

    Source:
        Holm 1979, Scand J Statist 6:65-70 (correction for several tests). Intervals and tests are those of comparing.compare.
    """
    scored = [cell for cell in study.results if cell.classes]
    settings = varied(study.results)
    short = short_names(list(settings))
    rows = []
    for setting, values in settings.items():
        for value in values:
            means = [_mean(cell) for cell in scored if text_of(cell.settings.get(setting)) == value]
            means = [mean for mean in means if math.isfinite(mean)]
            average = float(np.mean(means)) if means else math.nan
            effect = Effect(short[setting], value, "", len(means), average)
            if value != values[0]:
                effect = _compared(effect, _pairs(scored, setting, (values[0], value)), values[0], generator)
            rows.append(effect)
    return _holm(rows)


def findings(study: Study, rows: Sequence[Effect]) -> tuple[str, ...]:
    """Say in sentences what differs beyond chance, what does not, and what cannot be told."""
    tested = [row for row in rows if math.isfinite(row.p_value)]
    if not tested:
        return ("No two scored cells differ in one setting only, so there is nothing to compare.",)
    sentences = []
    patients = max(_difference(row).patients for row in tested)
    shown = [row for row in tested if row.shown]
    rest = [row for row in tested if not row.shown]
    if shown:
        sentences.append(f"Beyond the chance of which patients are scored: {'; '.join(map(_sentence, shown))}.")
    if rest:
        sentences.append(
            f"No difference shown: {'; '.join(map(_briefly, rest))}. That does not show that there is none."
        )
    if not shown and 2.0 ** (1 - patients) * len(tested) >= LEVEL:
        sentences.append(
            f"With {patients} patient{'s' * (patients != 1)} and {len(tested)} comparison{'s' * (len(tested) != 1)} the test "
            f"cannot fall below {LEVEL:g} whatever the networks do: score more patients before drawing conclusions."
        )
    sentences.append(
        "Differences are of the mean IoU over organs, on the same patients, averaged over cells that differ in nothing else, "
        f"with 95 % intervals over {study.split} patients; p-values (Wilcoxon) are corrected for {len(tested)} comparisons "
        "(Holm). Each network was trained once: what another random start would change is not in them; where pairs of cells "
        "disagree on the sign, it may be as large as the difference."
    )
    return tuple(sentences)


def _briefly(row: Effect) -> str:
    return f"{row.setting} {row.value} against {row.reference} ({_difference(row).difference:+.3f})"


def _sentence(row: Effect) -> str:
    mean = _difference(row)
    interval = f" [{mean.low:+.3f}, {mean.high:+.3f}]" if math.isfinite(mean.low) else ""
    return (
        f"{row.setting} {row.value} against {row.reference} {mean.difference:+.3f}{interval}, p = {row.p_value:.2g}, "
        f"higher in {row.higher} of {row.pairs} pair{'s' * (row.pairs != 1)}"
    )


def _difference(row: Effect) -> Comparison:
    """Return the comparison of the means of an effect that was tested."""
    return (row.differences or {})[MEAN]


def _mean(cell: CellResult) -> float:
    score = cell.of(MEAN)
    return math.nan if score is None else score.mean


def _pairs(cells: Sequence[CellResult], setting: str, values: tuple[str, str]) -> list[tuple[CellResult, CellResult]]:
    """Return the cells with the first and the second value that are alike in all else."""

    def others(cell: CellResult) -> str:
        return json.dumps(
            {name: text_of(one) for name, one in cell.settings.items() if name != setting}, sort_keys=True
        )

    first, second = (
        {others(cell): cell for cell in cells if text_of(cell.settings.get(setting)) == value} for value in values
    )
    return [(cell, second[key]) for key, cell in first.items() if key in second]


def _compared(
    effect: Effect, pairs: Sequence[tuple[CellResult, CellResult]], reference: str, generator: np.random.Generator
) -> Effect:
    """Add what the pairs tell. A case counts once per pair; compare() averages what belongs to one patient."""
    first, second = (
        [
            OrganScore(f"{number}/{case.case}", case.patient, organ, {"iou": value})
            for number, pair in enumerate(pairs)
            for case in pair[side].cases
            for organ, value in case.iou.items()
            if organ != BACKGROUND
        ]
        for side in (0, 1)
    )
    found = {row.organ: row for row in compare(first, second, generator, metric="iou")}
    higher = sum(_mean(b) > _mean(a) for a, b in pairs)
    p_value = found[MEAN].p_value if MEAN in found else math.nan
    return replace(effect, reference=reference, pairs=len(pairs), higher=higher, differences=found, p_value=p_value)


def _holm(rows: Sequence[Effect]) -> tuple[Effect, ...]:
    """Correct the p-values for their number."""
    order = sorted((row.p_value, number) for number, row in enumerate(rows) if math.isfinite(row.p_value))
    corrected, least = {}, 0.0
    for place, (p_value, number) in enumerate(order):
        least = max(least, min(1.0, p_value * (len(order) - place)))
        corrected[number] = least
    return tuple(replace(row, p_value=corrected.get(number, math.nan)) for number, row in enumerate(rows))
