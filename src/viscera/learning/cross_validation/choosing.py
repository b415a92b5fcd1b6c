"""What of several cross-validated runs is worth taking: decided by the scores of cases that no network learnt from.

Three questions, in this order: which run is best; whether all of them together are better than that by more than noise; and which
post-processing makes which organ better by more than noise. Nothing here reads a file or runs a network (trying.py does).

More than noise: the 95 % interval of the paired difference over patients lies above 0 (bootstrap), and Wilcoxon's signed-rank
test gives less than 0.05, which takes at least six patients in whom anything changes. What costs more, or does more, has to be
better; where it is not, what is simpler stays.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from viscera.config.inference import Postprocessing
from viscera.errors import SettingError
from viscera.evaluation.comparing import Comparison, compare
from viscera.evaluation.scores import ANNOTATED, MEAN, OrganScore
from viscera.labels import SIDES, LabelSpace

SIGNIFICANT = 0.05
WORDS = {
    "opening_mm": "opening",
    "closing_mm": "closing",
    "fill_holes": "holes filled",
    "smallest_ml": "small pieces dropped",
    "largest_components": "largest piece kept",
    "edge_by_hu_mm": "edges moved by HU",
}
"""{setting of the post-processing: what it does}, in the order in which it is done and tried."""


@dataclass(frozen=True)
class Candidate:
    """Something that could be taken.

    Attributes:
        name: For people.
        scores: Of cases that its networks did not learn from.
        networks: How many answer together where it is used.
    """

    name: str
    scores: Sequence[OrganScore]
    networks: int


@dataclass(frozen=True)
class Finding:
    """What a comparison says.

    Attributes:
        what: What is compared: "B minus A", or a step of the post-processing.
        organ: Or "mean".
        difference: In Dice, mean over patients; NaN without a pair.
        low: Lower end of its 95 % interval over patients; NaN with fewer than two.
        high: Upper end.
        p_value: Of Wilcoxon's signed-rank test.
        patients: How many.
        better: Whether the difference is above 0 by more than noise.
    """

    what: str
    organ: str
    difference: float
    low: float
    high: float
    p_value: float
    patients: int
    better: bool

    @staticmethod
    def of(what: str, row: Comparison) -> "Finding":
        """Judge a comparison."""
        better = row.low > 0 and row.p_value < SIGNIFICANT
        return Finding(what, row.organ, row.difference, row.low, row.high, row.p_value, row.patients, better)

    def __str__(self) -> str:
        """Return it for people.

        Example:
            >>> print(Finding("B minus A", "liver", 0.0123, 0.004, 0.02, 0.01, 12, better=True))
            B minus A, liver: +0.0123 [+0.0040, +0.0200], p 0.01, 12 patients
        """
        interval = f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"
        return f"{self.what}, {self.organ}: {interval}, p {self.p_value:.2g}, {self.patients} patients"


@dataclass(frozen=True)
class Decision:
    """Which candidate is taken, and why.

    Attributes:
        chosen: The candidate.
        why: In sentences.
        findings: All comparisons, per organ.
        dice: {candidate: mean over organs of their Dice on the shared cases}.
    """

    chosen: Candidate
    why: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    dice: Mapping[str, float] = field(default_factory=dict)


def choose_candidate(runs: Sequence[Candidate], ensemble: Candidate | None = None) -> Decision:
    """Choose a run, or all of them together.

    Args:
        runs: At least one.
        ensemble: All of them (or some) together; None where they cannot answer together.

    Raises:
        SettingError: They share no scored case.
    """
    every = (*runs, *(() if ensemble is None else (ensemble,)))
    shared = set.intersection(*({(score.case, score.organ) for score in one.scores} for one in every))
    if not shared:
        raise SettingError("the runs have scored no organ of a case in common", "Give runs of one store.")
    every = tuple(
        replace(one, scores=[score for score in one.scores if (score.case, score.organ) in shared]) for one in every
    )
    dice = {one.name: mean_dice(one.scores) for one in every}
    alone = every[: len(runs)]
    best = max(alone, key=lambda one: -math.inf if math.isnan(dice[one.name]) else dice[one.name])
    findings = [finding for other in alone if other is not best for finding in findings_of(other, best)]
    why = [_why_best(best, alone, findings, dice)]
    chosen = best
    if ensemble is not None:
        found = findings_of(best, every[-1])
        findings += found
        mean = next(one for one in found if one.organ == MEAN)
        cost = f"{ensemble.networks} networks instead of {best.networks}"
        if mean.better:
            chosen = every[-1]
            why.append(f"{ensemble.name} is taken, at the cost of {cost}: better by more than noise ({mean})")
        else:
            why.append(f"{ensemble.name} is not taken ({cost}): not better by more than noise ({mean})")
    return Decision(
        next(one for one in (*runs, ensemble) if one and one.name == chosen.name), tuple(why), tuple(findings), dice
    )


def findings_of(first: Candidate, second: Candidate) -> list[Finding]:
    """Compare two candidates, per organ and over organs: second minus first."""
    rows = compare(first.scores, second.scores, np.random.default_rng(0), group=ANNOTATED)
    return [Finding.of(f"{second.name} minus {first.name}", row) for row in rows]


def _why_best(
    best: Candidate, runs: Sequence[Candidate], findings: Sequence[Finding], dice: Mapping[str, float]
) -> str:
    """Say why a run is the best of all."""
    if len(runs) == 1:
        return f"{best.name} is the only run: mean Dice {dice[best.name]:.4f}"
    others = ", ".join(f"{one.name} {dice[one.name]:.4f}" for one in runs if one is not best)
    means = [one for one in findings if one.organ == MEAN]
    sure = "" if all(one.better for one in means) else "; to one of them by no more than noise"
    return f"{best.name} has the highest mean Dice, {dice[best.name]:.4f} against {others}{sure}"


def mean_dice(scores: Sequence[OrganScore]) -> float:
    """Return the mean of the organs' mean Dice; NaN without any."""
    by_organ: dict[str, list[float]] = {}
    for score in scores:
        value = score.values.get("dice", math.nan)
        if score.group == ANNOTATED and math.isfinite(value):
            by_organ.setdefault(score.organ, []).append(value)
    return float(np.mean([np.mean(values) for values in by_organ.values()])) if by_organ else math.nan


def steps_of(own: Postprocessing, space: LabelSpace) -> list[tuple[str, dict[str, float]]]:
    """Return what post-processing is tried, in order: {organ: value} per setting.

    Filling holes and keeping the largest piece (two of an organ with two sides in one label) are tried for every organ; all else
    where the recipe has it, with its values.
    """
    pieces = {organ: 2.0 if organ in SIDES else 1.0 for organ in space.organs}
    tried: dict[str, Mapping[str, float]] = {
        "opening_mm": own.opening_mm,
        "closing_mm": own.closing_mm,
        "fill_holes": dict.fromkeys(space.organs, 1.0),
        "smallest_ml": own.smallest_ml,
        "largest_components": pieces | {space.labels[space.index(one)]: n for one, n in own.largest_components.items()},
        "edge_by_hu_mm": own.edge_by_hu_mm,
    }
    named = [
        (setting, {space.labels[space.index(one)]: float(n) for one, n in tried[setting].items()}) for setting in WORDS
    ]
    return [(setting, organs) for setting, organs in named if organs]


def choose_tidying(
    steps: Sequence[tuple[str, Mapping[str, float]]], score: Callable[[Postprocessing], Sequence[OrganScore]]
) -> tuple[Postprocessing, tuple[Finding, ...]]:
    """Choose post-processing organ by organ: a step is taken where it makes the organ better by more than noise.

    Each step is tried on top of those that were taken before it. What is done to one organ changes it and background only, so all
    organs are tried at once.

    Args:
        steps: From ``steps_of``.
        score: Returns the scores of all cases, tidied so.

    Returns:
        What was taken, and the comparison of each step and organ; last those of all that was taken with nothing.
    """
    taken = Postprocessing()
    bare = before = Candidate("as it was", score(taken), 1)
    findings: list[Finding] = []
    for setting, organs in steps:
        after = Candidate(WORDS[setting], score(_with(taken, setting, organs)), 1)
        rows = compare(before.scores, after.scores, np.random.default_rng(0), group=ANNOTATED)
        found = [Finding.of(WORDS[setting], row) for row in rows if row.organ in organs]
        findings += found
        better = {one.organ: organs[one.organ] for one in found if one.better}
        if better:
            taken = _with(taken, setting, better)
            before = Candidate("tidied", score(taken), 1)
    if before is not bare:
        rows = compare(bare.scores, before.scores, np.random.default_rng(0), group=ANNOTATED)
        findings += [Finding.of("all that was taken", row) for row in rows]
    return taken, tuple(findings)


def _with(taken: Postprocessing, setting: str, organs: Mapping[str, float]) -> Postprocessing:
    """Return post-processing with a step for some organs more."""
    if setting == "fill_holes":
        return replace(taken, fill_holes=(*taken.fill_holes, *organs))
    more = {organ: int(n) if setting == "largest_components" else n for organ, n in organs.items()}
    return replace(taken, **{setting: getattr(taken, setting) | more})  # type: ignore[arg-type]


def words_of(taken: Postprocessing) -> str:
    """Return post-processing for people.

    Example:
        >>> words_of(Postprocessing(fill_holes=("liver",), largest_components={"liver": 1, "spleen": 1}))
        'holes filled (liver), largest piece kept (liver, spleen)'
    """
    settings = asdict(taken)
    parts = [f"{word} ({', '.join(settings[setting])})" for setting, word in WORDS.items() if settings[setting]]
    return ", ".join(parts) or "none"
