"""Counts and measures of the study of trust: how often signs are raised, how well Dice is predicted, risk against coverage."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.studies.trust_fit import Case
from viscera.quality.predicted_dice import UNSURE, Calibration

COVERAGES = (0.5, 0.7, 0.8, 0.9, 1.0)
SCAN_FLAGS = ("mirrored", "upside_down", "back_to_front", "nothing", "few_organs", "doubtful", "intensities", "chest")
"""Signs of a scan by which all its organs count as flagged."""
VERY_GOOD = 0.85
"""Dice."""
LEAST = 5
"""Organs, below which there is no correlation."""

Pairs = Sequence[tuple[Case, float]]


def measures(pairs: Pairs) -> dict[str, object]:
    """Return how predicted and true Dice go together: {"organs", "pearson", "mean_error", "bias", "aurc", "risk"}.

    aurc is the area under the curve of risk (mean 1 - Dice of the organs that are kept) over coverage (the share that is kept,
    those of the highest predicted Dice); beside it that of a random order, and of the best.
    """
    if len(pairs) < LEAST:
        return {"organs": len(pairs)}
    true, guess = np.array([case.dice for case, _ in pairs]), np.array([dice for _, dice in pairs])
    order, best = np.argsort(-guess, kind="stable"), np.argsort(-true, kind="stable")
    kept = np.arange(1, len(true) + 1)
    risk, least = (np.cumsum(1 - true[places]) / kept for places in (order, best))
    spread = true.std() > 0 and guess.std() > 0
    return {
        "organs": len(true),
        "pearson": round(float(np.corrcoef(true, guess)[0, 1]), 3) if spread else None,
        "mean_error": round(float(np.abs(true - guess).mean()), 3),
        "bias": round(float((guess - true).mean()), 3),
        "aurc": {
            "predicted": _rounded(risk.mean()),
            "random": _rounded(1 - true.mean()),
            "best": _rounded(least.mean()),
        },
        "risk": {str(share): _rounded(risk[round(share * len(true)) - 1]) for share in COVERAGES},
    }


def low(case: Case, calibration: Calibration) -> bool:
    """Tell whether an organ is flagged by its predicted Dice."""
    return bool(case.doubts) and case.organ in calibration.volumes_ml and calibration.flags(case.organ, case.doubts)


def kinds_after(case: Case, calibration: Calibration) -> set[str]:
    """Return an organ's signs with those of the calibration, and without those that it overrules; the border is left out."""
    kinds = set(case.signs) - {"border"}
    if low(case, calibration):
        return kinds | {"predicted_dice"}
    return kinds - set(UNSURE) if case.doubts and case.organ in calibration.volumes_ml else kinds


def flagged_rates(cases: Sequence[Case], calibration: Calibration) -> dict[str, dict[str, list[int]]]:
    """Return {what flags: {"bad", "missed", "good", "very good": [flagged, organs]}}.

    before: signs of the organ as they were; signs: as they are without a calibration; predicted: by predicted Dice alone;
    organ: all signs of the organ; organ or scan: or the scan has a sign of SCAN_FLAGS. missed: organs in the scan of which
    nothing was found, which have no prediction; very good: those of the good ones with a Dice of VERY_GOOD.
    """
    found, bad = [case for case in cases if case.found_ml], calibration.bad_below
    groups = {
        "bad": [case for case in found if case.dice < bad],
        "missed": [case for case in cases if not case.found_ml],
        "good": [case for case in found if case.dice >= bad],
        "very good": [case for case in found if case.dice >= VERY_GOOD],
    }
    ways: dict[str, Callable[[Case], bool]] = {
        "before": lambda case: bool(set(case.signs_before) - {"border"}),
        "signs": lambda case: bool(set(case.signs) - {"border"}),
        "predicted": lambda case: low(case, calibration),
        "organ": lambda case: bool(kinds_after(case, calibration)),
        "organ or scan": lambda case: bool(kinds_after(case, calibration) or set(case.scan_signs) & set(SCAN_FLAGS)),
    }
    return {
        name: {group: [sum(map(flags, some)), len(some)] for group, some in groups.items()}
        for name, flags in ways.items()
    }


def good_flagged(cases: Sequence[Case], calibration: Calibration) -> dict[str, float]:
    """Return {share of the bad organs that a limit would flag: share of the good ones that it would flag, too}, of finds."""
    known = [case for case in cases if case.doubts and case.organ in calibration.volumes_ml]
    good = np.array([calibration.good(case.organ, case.doubts) for case in known])
    bad = np.array([case.dice < calibration.bad_below for case in known])
    return {str(share): _rounded(np.mean(good[~bad] < np.quantile(good[bad], share))) for share in (0.9, 0.95, 0.98)}


def counted(cases: Sequence[Case], calibration: Calibration) -> dict[str, dict[str, list[int]]]:
    """Return {sign: {"good", "bad": [times raised, organs]}}; the bad ones include those that were missed."""
    groups = {
        "good": [case for case in cases if case.found_ml and case.dice >= calibration.bad_below],
        "bad": [case for case in cases if case.dice < calibration.bad_below],
    }
    raised = {
        group: [kinds_after(case, calibration) | (set(case.signs) & {"border"}) for case in some]
        for group, some in groups.items()
    }
    known = sorted({kind for some in raised.values() for kinds in some for kind in kinds})
    return {
        kind: {group: [sum(kind in kinds for kinds in some), len(some)] for group, some in raised.items()}
        for kind in known
    }


def counted_scans(scans: Sequence[tuple[str, Sequence[str]]]) -> dict[str, dict[str, list[int]]]:
    """Return {way: {sign of the scan: [times raised, scans]}}."""
    ways: dict[str, list[Sequence[str]]] = defaultdict(list)
    for way, kinds in scans:
        ways[way].append(kinds)
    return {
        way: {
            kind: [sum(kind in kinds for kinds in some), len(some)]
            for kind in sorted({k for kinds in some for k in kinds})
        }
        for way, some in ways.items()
    }


def _rounded(value: float) -> float:
    return round(float(value), 4)
