"""The section on signs that a result should not be trusted, and whether organs that raise them score worse here.

The signs come from the evaluation, which found them beside the label maps (quality/flags.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import correlation, fmean

from viscera.evaluation.scores import OrganScore
from viscera.labels import SIDES, organ_name, readable
from viscera.quality.flags import CaseTrust
from viscera.reports.page import Cell, Row, Section, Table, counted, number_cell

MOST_ROWS = 50
"""Of the table. Where there are more, at most half of them are about whole scans, if organs need the others."""

LEAST_PAIRS = 5
"""Organs below which nothing is said of how well their Dice was predicted."""

WHOLES = {side: whole for whole, sides in SIDES.items() for side in sides}
"""{side: whole}: a truth may know the whole only."""

WRITER = "viscera predict --statistics"


@dataclass(frozen=True)
class _Doubt:
    """A row of the table before it is one; ``organ`` is "" for the whole scan, ``score`` NaN where there is none."""

    case: str
    organ: str
    messages: tuple[str, ...]
    score: float
    scored_as: str = ""

    @property
    def place(self) -> tuple[bool, float]:
        """Worst first, then those without a score."""
        return math.isnan(self.score), 0.0 if math.isnan(self.score) else self.score


def trust_section(scores: Sequence[OrganScore], trusts: Sequence[CaseTrust], *, metric: str, name: str) -> Section:
    """Return the table of doubtful scans and organs, the worst first, and how organs with and without a sign score.

    Args:
        scores: Of all cases.
        trusts: Of those that have statistics; cases without any score are left out.
        metric: Which score the signs are held against, in [0, 1].
        name: Its name for people.
    """
    title = "Signs that a result should not be trusted"
    cases = {score.case for score in scores}
    trusts = [trust for trust in trusts if trust.case in cases]
    if not trusts:
        return Section(title, f"No statistics are at hand: {WRITER} writes them beside the label maps, with the signs.")
    values: dict[str, dict[str, float]] = {trust.case: {} for trust in trusts}
    for score in scores:
        value = score.values.get(metric, math.nan)
        if score.case in values and math.isfinite(value):
            values[score.case][score.organ] = value
    doubts, left_out = _chosen([doubt for trust in trusts for doubt in _doubts(trust, values[trust.case])])
    notes = [*_comparison(trusts, values, name), *(_prediction(trusts, values) if metric == "dice" else [])]
    if left_out:
        notes.append(f"Left out: {counted(left_out, 'more row')}, with a better {name} or none.")
    table = Table(("case", "organ", "signs", name), tuple(_row(doubt) for doubt in doubts), words=3) if doubts else None
    return Section(title, _counts(trusts, len(cases)), notes=tuple(notes), table=table)


def _counts(trusts: Sequence[CaseTrust], cases: int) -> str:
    """Say how many cases have statistics, and how many of these have signs."""
    signed, silent = sum(trust.has_signs for trust in trusts), cases - len(trusts)
    text = f"Of {counted(len(trusts), 'case')} with statistics, {signed} {_has(signed)} signs and {len(trusts) - signed} none."
    if silent:
        text += f" {counted(silent, 'case')} {_has(silent)} no statistics: {WRITER} writes them."
    return text + " A sign is a reason to look, not a proof, and a result without one may still be wrong."


def _comparison(trusts: Sequence[CaseTrust], values: Mapping[str, Mapping[str, float]], name: str) -> list[str]:
    """Say whether organs with a sign score worse than those without: all together, organ by organ, and by scan."""
    groups: dict[str, tuple[list[float], list[float]]] = {}
    scans: tuple[list[float], list[float]] = ([], [])
    for trust in trusts:
        scored = values[trust.case]
        doubtful = {_scored_as(organ, scored) for organ in trust.organs}
        for organ, value in scored.items():
            groups.setdefault(organ, ([], []))[organ not in doubtful].append(value)
            scans[not trust.scan].append(value)
    signed, unsigned = ([value for group in groups.values() for value in group[side]] for side in (0, 1))
    if not signed and not unsigned:
        return []
    notes = [f"Mean {name} of organs with a sign: {_mean(signed)}; of organs without: {_mean(unsigned)}."]
    if both := [fmean(without) - fmean(with_sign) for with_sign, without in groups.values() if with_sign and without]:
        lower = fmean(both)
        how = f"{abs(lower):.3f} {'lower' if lower >= 0 else 'higher'}"
        notes.append(
            f"Within the same organ, it is {how} with a sign than without (mean over {counted(len(both), 'organ')} of "
            "which both occur)."
        )
    if all(scans):
        notes.append(
            f"Mean {name} of all organs of scans with a sign of their own: {_mean(scans[0])}; of other scans: "
            f"{_mean(scans[1])}."
        )
    return notes


def _prediction(trusts: Sequence[CaseTrust], values: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say how the Dice that was predicted of organs goes with theirs."""
    pairs = [
        (guess, values[trust.case][organ])
        for trust in trusts
        for organ, guess in trust.predicted_dice.items()
        if organ in values[trust.case]
    ]
    if len(pairs) < LEAST_PAIRS:
        return []
    guesses, true = zip(*pairs, strict=True)
    text = f"Predicted Dice of {len(pairs)} organs: {fmean(abs(one - two) for one, two in pairs):.3f} from theirs on the average"
    constant = len(set(guesses)) == 1 or len(set(true)) == 1
    return [f"{text}." if constant else f"{text}; Pearson correlation {correlation(guesses, true):.2f}."]


def _doubts(trust: CaseTrust, scored: Mapping[str, float]) -> list[_Doubt]:
    """List what is doubtful of a case: the scan, with the mean over its organs, then organs."""
    mean = fmean(scored.values()) if scored else math.nan
    found = [_Doubt(trust.case, "", trust.scan, mean)] if trust.scan else []
    for organ, messages in trust.organs.items():
        scored_as = _scored_as(organ, scored)
        shown = tuple(message.removeprefix(organ).lstrip(": ") for message in messages)
        found.append(_Doubt(trust.case, organ_name(organ), shown, scored.get(scored_as, math.nan), scored_as))
    return found


def _scored_as(organ: str, scored: Mapping[str, float]) -> str:
    """Return the organ under which another is scored: itself, or the whole where only this is scored."""
    name = organ_name(organ)
    return WHOLES[name] if name not in scored and WHOLES.get(name) in scored else name


def _chosen(doubts: Sequence[_Doubt]) -> tuple[list[_Doubt], int]:
    """Return the rows to show, scans first, each part worst first; and how many are left out."""
    ranked = sorted(doubts, key=lambda doubt: doubt.place)
    scans, organs = ([doubt for doubt in ranked if bool(doubt.organ) is whose] for whose in (False, True))
    scans = scans[: max(MOST_ROWS // 2, MOST_ROWS - len(organs))]
    shown = [*scans, *organs[: MOST_ROWS - len(scans)]]
    return shown, len(doubts) - len(shown)


def _row(doubt: _Doubt) -> Row:
    cell = number_cell(doubt.score, bar=True)
    if doubt.organ and doubt.scored_as != doubt.organ:
        cell = Cell(cell.text, cell.number, cell.share, small=f"of the {readable(doubt.scored_as)}")
    elif not doubt.organ and cell.number is not None:
        cell = Cell(cell.text, cell.number, cell.share, small="mean")
    organ = readable(doubt.organ) if doubt.organ else "the scan"
    return Row((Cell(doubt.case), Cell(organ), Cell("; ".join(doubt.messages)), cell))


def _mean(values: Sequence[float]) -> str:
    """Return a mean and of how many."""
    return f"{fmean(values):.3f} ({len(values)})" if values else "none is scored"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"
