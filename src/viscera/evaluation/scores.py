"""Scores of many cases, as JSON and CSV.

Where they come from is in metrics.py and evaluate.py, their means in statistics.py, the comparison of two evaluations in
comparing.py. Scores stand in two groups: of organs that the case's own data set annotates, and of organs that it does not,
where the truth knows more (source_annotations.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from viscera.datasets.sources import Problem
from viscera.errors import SettingError, did_you_mean
from viscera.evaluation.confusion import Confusion
from viscera.io.csv_text import to_csv
from viscera.io.json_codec import Before, Score, from_json, renamed, to_json
from viscera.quality.efficiency import CaseEfficiency
from viscera.quality.flags import CaseTrust

MEAN = "mean"
"""Stands for the organ in rows about all organs."""
HD95 = "hd95_mm"
ALL, ANNOTATED, UNANNOTATED = "all", "annotated", "unannotated"
GROUPS = (ANNOTATED, UNANNOTATED)
"""Whether the case's own data set annotates the organ."""


@dataclass(frozen=True)
class OrganScore:
    """The scores of one organ in one case.

    Attributes:
        case: Name of the case.
        patient: Whose scan it is.
        organ: An organ that the case annotates, perhaps absent.
        values: {metric: value}; NaN is not a score, an infinite distance an organ that was missed or made up.
        group: "annotated", or "unannotated" where only the truth annotates the organ, not the case's own data set.
    """

    case: str
    patient: str
    organ: str
    values: Mapping[str, Score]
    group: str = ANNOTATED


@dataclass(frozen=True)
class Summary:
    """The mean of a metric with its interval.

    Attributes:
        organ: Or "mean": the mean of the organs' means, so that each organ counts the same.
        metric: As in OrganScore.values.
        mean: Over cases with a finite score (HD95 leaves out missed organs, see ``left_out``; Dice and NSD count them as 0).
        low: Lower end of the 95 % interval, NaN with fewer than two patients.
        high: Upper end.
        cases: How many cases have a finite score.
        group: Of which scores: "all", "annotated" or "unannotated".
        left_out: Scores that are in no mean because they are infinite: HD95 of organs that were missed, or found where none
            is. A mean of all left out is NaN.
    """

    organ: str
    metric: str
    mean: Score
    low: Score
    high: Score
    cases: int
    group: str = ALL
    left_out: int = 0


def _flat(score: OrganScore) -> dict[str, object]:
    return {"case": score.case, "patient": score.patient, "organ": score.organ, "group": score.group, **score.values}


def _nested(row: object) -> object:
    """Undo ``_flat``; files of others may lack the patient, who is then the case, and older files the group."""
    if not isinstance(row, dict):
        return row
    values = dict(row)
    names = {name: str(values.pop(name)) for name in ("case", "patient", "organ", "group") if name in values}
    if names.setdefault("group", ANNOTATED) not in GROUPS:
        raise ValueError(f"there is no group '{names['group']}'")
    return {"patient": names.get("case"), **names, "values": values}


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        mode: "volume", "slices" or "flare".
        scores: One per case and annotated organ.
        summary: Means with intervals.
        problems: Cases that could not be scored.
        notes: What else the reader should know.
        confusion: What is mistaken for what, over all cases; None in mode "slices".
        efficiency: What the predictions cost, of those whose NAME.json says so.
        trust: What speaks against the predictions, of those whose NAME.json has statistics.

    Example:
        >>> import viscera
        >>> cases = viscera.synthesize("patients", cases=1, shape=(16, 32, 32), annotate=["liver"])
        >>> found = viscera.evaluate(cases, "patients/labelsTr")  # the truth against itself
        >>> [(row.organ, row.mean, row.cases) for row in found.summary if row.metric == "dice"]
        [('liver', 1.0, 1), ('mean', 1.0, 1)]
    """

    __pydantic_config__ = renamed(scores="cases")

    mode: str
    scores: tuple[Annotated[OrganScore, Before(_nested)], ...]
    summary: tuple[Summary, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    confusion: Confusion | None = None
    efficiency: tuple[CaseEfficiency, ...] = ()
    trust: tuple[CaseTrust, ...] = ()

    def of_group(self, group: str) -> tuple[Summary, ...]:
        """Return the means of "all", "annotated" or "unannotated" scores; the latter two stand apart only if both exist."""
        return tuple(row for row in self.summary if row.group == group)

    def to_json(self) -> str:
        """Return everything as indented JSON; NaN and infinity become null."""
        value = {
            "mode": self.mode,
            "cases": [_flat(score) for score in self.scores],
            "summary": self.summary,
            "problems": self.problems,
            "notes": self.notes,
        }
        others = {"confusion": self.confusion, "efficiency": self.efficiency, "trust": self.trust}
        return to_json(value | {name: found for name, found in others.items() if found})

    def to_csv(self) -> str:
        """Return the scores as CSV, one row per case and organ, with predicted Dice if any; NaN and infinity become empty cells."""
        told = {trust.case: trust.predicted_dice for trust in self.trust}
        rows = [_flat(score) for score in self.scores]
        if any(told.values()):
            rows = [
                row | {"predicted_dice": told.get(score.case, {}).get(score.organ)}
                for row, score in zip(rows, self.scores, strict=True)
            ]
        if all(score.group == ANNOTATED for score in self.scores):  # then the group says nothing
            rows = [{name: value for name, value in row.items() if name != "group"} for row in rows]
        return to_csv(rows, columns=("case", "patient", "organ"))


def evaluation_from_json(text: str, *, where: str) -> Evaluation:
    """Read what ``Evaluation.to_json`` wrote; null becomes NaN.

    Args:
        text: The JSON.
        where: The file, for the message.

    Raises:
        FileError: It is not an evaluation.
    """
    found = from_json(
        Evaluation, text, what=f"{where} is not an evaluation", remedy="Write it with viscera evaluate --json."
    )
    if '"left_out":' in text:
        return found
    return replace(found, summary=tuple(replace(row, left_out=_left_out(row, found.scores)) for row in found.summary))


def is_left_out(score: OrganScore, metric: str) -> bool:
    """Tell an infinite distance, which JSON keeps as null, from none: with none there is no Dice either."""
    value = score.values.get(metric, math.nan)
    none = metric not in score.values or math.isnan(score.values.get("dice", math.nan))
    return math.isinf(value) or (metric == HD95 and math.isnan(value) and not none)


def _left_out(row: Summary, scores: Sequence[OrganScore]) -> int:
    """Count what older files, which do not say it, left out of a mean."""
    meant = [score for score in of_group(scores, row.group) if row.organ in (MEAN, score.organ)]
    return sum(is_left_out(score, row.metric) for score in meant)


def of_group(scores: Sequence[OrganScore], group: str) -> list[OrganScore]:
    """Keep the scores of a group.

    Raises:
        SettingError: There is no such group.
    """
    if group not in (ALL, *GROUPS):
        groups = (ALL, *GROUPS)
        raise SettingError(
            f"there is no group '{group}'", f"{did_you_mean(group, groups)} Choose one of {', '.join(groups)}."
        )
    return [score for score in scores if group in (ALL, score.group)]
