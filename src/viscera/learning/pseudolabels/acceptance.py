"""When teachers are believed: the settings, and the verdict on one organ in one case with its reason.

Only counts are judged here; consensus.py takes them from the teachers' networks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from viscera.errors import SettingError
from viscera.io.json_codec import Score


@dataclass(frozen=True)
class Acceptance:
    """When a voxel, and when an organ of a case, takes the teachers' label.

    Source: the settings are ours, to be strict: what is rejected stays unknown, which costs a training example; what is
    accepted wrongly is learnt.
    """

    confidence: float = 0.9
    """A voxel takes an organ's label if every teacher says so and their mean probability is at least this."""
    doubt: float = 0.1
    """A voxel that takes none is unsure, not free of the organ, if a teacher says it or gives it more than this; an organ
    that gets no more than this anywhere in a case is accepted as absent from it."""
    absent_dice: float = 0.5
    """Only teachers who find an organ where it is annotated, each with at least this Dice, can tell that it is absent."""
    min_dice: float = 0.8
    """An organ is rejected in a case where the mean Dice between each two teachers is lower."""
    min_confident: float = 0.5
    """An organ is rejected in a case where a smaller share of the voxels given by any teacher takes its label."""
    volume_factor: float = 2.0
    """An organ is rejected in a case where its volume is so many times above the 99th percentile of the annotated ones, or
    below the 1st, unless the scan's first or last slice cuts it off."""
    volume_cases: int = 5
    """Volumes are compared where so many training cases annotate the organ and show it."""

    def __post_init__(self) -> None:
        """Refuse what no organ can fulfil."""
        for name in ("confidence", "doubt", "absent_dice", "min_dice", "min_confident"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"{name} must lie between 0 and 1, got {getattr(self, name):g}.")
        if self.doubt >= self.confidence:
            raise SettingError(f"doubt {self.doubt:g} must be below confidence {self.confidence:g}.")
        if not self.volume_factor >= 1 or self.volume_cases < 1:
            raise SettingError(
                f"volume_factor {self.volume_factor:g} and volume_cases {self.volume_cases} must be at least 1."
            )


@dataclass(frozen=True)
class Finding:
    """What teachers say of one organ in one case, over the known voxels.

    Attributes:
        given: Voxels to which each teacher gives the organ.
        shared: For each two teachers, the voxels to which both give it and where truth shows no other organ.
        united: Voxels to which any teacher gives it.
        labelled: Voxels that all teachers give it with confidence, and where truth shows no other organ.
        largest: The largest probability that any teacher gives it anywhere.
        cut_off: Whether it reaches the first or last slice, so that the scan may show a part of it only.
        voxel_ml: Volume of a voxel; not told of a part.
    """

    given: Sequence[int]
    shared: Sequence[int]
    united: int
    labelled: int
    largest: float
    cut_off: bool
    voxel_ml: float = 0.0

    @property
    def agreement(self) -> float:
        """Mean Dice over each two teachers that find it; NaN where none does.

        Voxels where truth shows another organ count as not shared.
        """
        sums = [a + b for number, a in enumerate(self.given) for b in self.given[number + 1 :]]
        dice = [2 * both / total for both, total in zip(self.shared, sums, strict=True) if total]
        return sum(dice) / len(dice) if dice else math.nan

    @property
    def confident_fraction(self) -> float:
        """Share of ``united`` that is labelled; NaN where no teacher finds it."""
        return self.labelled / self.united if self.united else math.nan

    @property
    def volume_ml(self) -> float:
        """Mean over the teachers of the volume that they give it."""
        return sum(self.given) / len(self.given) * self.voxel_ml


def together(parts: Sequence[Finding], *, voxel_ml: float) -> Finding:
    """Return what is said of an organ in a case from what is said of its parts, at least one."""
    return Finding(
        given=[sum(voxels) for voxels in zip(*(part.given for part in parts), strict=True)],
        shared=[sum(voxels) for voxels in zip(*(part.shared for part in parts), strict=True)],
        united=sum(part.united for part in parts),
        labelled=sum(part.labelled for part in parts),
        # NaN, a network gone wrong, is the largest: such an organ must not be taken for absent
        largest=max((part.largest for part in parts), key=lambda chance: (math.isnan(chance), chance)),
        cut_off=any(part.cut_off for part in parts),
        voxel_ml=voxel_ml,
    )


@dataclass(frozen=True)
class Verdict:
    """What became of one organ in one case.

    Attributes:
        organ: Not annotated in the case.
        verdict: accepted: labelled; absent: accepted as not to be seen; rejected: left unknown.
        reason: Why not accepted; what comes before the colon is the same for all cases.
        agreement: As in ``Finding``.
        confident_fraction: As in ``Finding``.
        volume_ml: As in ``Finding``.
        voxels: How many take the organ's label; 0 where it is rejected.
    """

    organ: str
    verdict: Literal["accepted", "absent", "rejected"]
    reason: str = ""
    agreement: Score = math.nan
    confident_fraction: Score = math.nan
    volume_ml: float = 0.0
    voxels: int = 0


COLUMNS = ("case", *(item.name for item in fields(Verdict)))
"""Of pseudolabels.csv."""


def judge(
    organ: str,
    finding: Finding,
    *,
    settings: Acceptance,
    usual_ml: tuple[float, float] | None = None,
    finds: float | None = None,
) -> Verdict:
    """Accept or reject an organ of a case.

    Args:
        organ: Its name.
        finding: What the teachers say of it.
        settings: What is wanted.
        usual_ml: Percentiles 1 and 99 of its annotated volumes, None where they are not known.
        finds: Dice with which the worst teacher finds it where it is annotated, None where that is not known.
    """
    ruled_out = not finding.united and finding.largest <= settings.doubt
    absent = ruled_out and finds is not None and finds >= settings.absent_dice
    reason = (
        f"absent: no teacher gives it more than {finding.largest:.2f} anywhere"
        if absent
        else _doubt_of_absence(finds, settings)
        if ruled_out
        else _objection(finding, settings, usual_ml)
    )
    verdict: Literal["accepted", "absent", "rejected"] = "absent" if absent else "rejected" if reason else "accepted"
    voxels = finding.labelled if verdict == "accepted" else 0
    numbers = (finding.agreement, finding.confident_fraction, finding.volume_ml)
    return Verdict(organ, verdict, reason, *numbers, voxels)


def _doubt_of_absence(finds: float | None, settings: Acceptance) -> str:
    """Say why teachers who see nothing of an organ are not believed."""
    known = "it is not known how well they find it" if finds is None else f"a teacher finds it with Dice {finds:.2f}"
    return f"not found, but teachers may not know it: {known} where it is annotated, wanted {settings.absent_dice:g}"


def _objection(finding: Finding, settings: Acceptance, usual_ml: tuple[float, float] | None) -> str:
    """Say what speaks against an organ of a case, or nothing."""
    if not finding.united:
        return f"neither found nor ruled out: a teacher gives it {finding.largest:.2f} somewhere"
    if finding.agreement < settings.min_dice:
        return f"teachers disagree: Dice {finding.agreement:.2f}, wanted {settings.min_dice:g}"
    if finding.confident_fraction < settings.min_confident or not finding.labelled:
        share = f"{finding.confident_fraction:.2f} of its voxels are certain"
        return f"too little is certain: {share}, wanted {settings.min_confident:g}"
    low, high = usual_ml or (0.0, math.inf)
    usual = f"{finding.volume_ml:.3g} ml, annotated ones have {low:.3g} to {high:.3g} ml"
    if finding.volume_ml > high * settings.volume_factor:
        return f"implausibly large: {usual}"
    if finding.volume_ml < low / settings.volume_factor and not finding.cut_off:
        return f"implausibly small: {usual}"
    return ""
