"""Fit what Dice an organ probably has (quality/predicted_dice.py) to segmented synthetic patients, and measure it on others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.sparse import csr_array, hstack
from scipy.special import expit

from viscera.quality.predicted_dice import FORMAT, Additive, Calibration, Curve, OrganScore

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.98)
"""Of a doubt, at which its curve bends."""
RIDGE, OWN_RIDGE = 1e-4, 3e-4
"""On the squared drops of the shared curves and of the organs' own, in units of the mean squared error of Dice."""
FEW = 12
"""Finds of an organ below which its Dice is not predicted."""
CAUGHT = 0.95
"""Share of the bad organs that is to be flagged."""
FOLDS = 4
DIGITS = 4
LEAST_DROP = 0.01
"""Of a score; curves that drop less are left out."""


@dataclass(frozen=True)
class Case:
    """An organ in a scan: found, or missed (no doubts).

    Attributes:
        patient: Its number; 0 for real scans.
        scan: Its name.
        way: How the scan was changed.
        organ: Its name.
        dice: True.
        truth_ml: True volume in the scan.
        found_ml: Volume found.
        doubts: From ``doubts_of``; none of an organ that was not found.
        signs: Kinds of sign of the organ, predicted Dice apart.
        signs_before: Those that there were before this study.
        scan_signs: Kinds of sign of the scan.
    """

    patient: int
    scan: str
    way: str
    organ: str
    dice: float
    truth_ml: float
    found_ml: float
    doubts: Mapping[str, float] = field(default_factory=dict)
    signs: tuple[str, ...] = ()
    signs_before: tuple[str, ...] = ()
    scan_signs: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Block:
    """Columns of the design that belong to one curve; ``organ`` is "" for a shared one."""

    organ: str
    doubt: str
    knots: tuple[float, ...]


def fitted(
    cases: Sequence[Case], usual_ml: Mapping[str, float], *, weights_sha256: str, bad_below: float, fitted_on: str
) -> Calibration:
    """Return the calibration of some finds; flagged is what 95 % of the bad ones are below, each predicted by other patients.

    Args:
        cases: Finds of the patients to learn from.
        usual_ml: {organ: usual volume}.
        weights_sha256: Of the network's weights.
        bad_below: The Dice below which an organ is called bad.
        fitted_on: What to say of the patients.
    """
    cases = [case for case in cases if case.doubts and case.organ in usual_ml]
    organs = [organ for organ in usual_ml if sum(case.organ == organ for case in cases) >= FEW]
    cases = [case for case in cases if case.organ in organs]
    goods = [case.dice >= bad_below for case in cases]
    unseen = cross_fitted(cases, goods, organs)
    bad = [value for value, good in zip(unseen, goods, strict=True) if not good]
    return Calibration(
        format=FORMAT,
        weights_sha256=weights_sha256,
        fitted_on=fitted_on,
        bad_below=bad_below,
        flag_below=round(float(np.quantile(bad, CAUGHT)) if bad else 0.5, 3),
        volumes_ml={organ: round(usual_ml[organ], 2) for organ in organs},
        dice=additive(cases, [case.dice for case in cases], organs),
        good=additive(cases, goods, organs),
    )


def cross_fitted(cases: Sequence[Case], values: Sequence[float], organs: Sequence[str]) -> list[float]:
    """Return each find's number as it is predicted by what was fitted to other patients; in the order of the finds."""
    found = [0.0] * len(cases)
    for fold in range(FOLDS):
        rest = [number for number, case in enumerate(cases) if case.patient % FOLDS != fold]
        model = additive([cases[number] for number in rest], [values[number] for number in rest], organs)
        for number, case in enumerate(cases):
            if case.patient % FOLDS == fold:
                found[number] = model(case.organ, case.doubts)
    return found


def predicted(cases: Sequence[Case], calibration: Calibration) -> list[tuple[Case, float]]:
    """Return finds with their predicted Dice; those of which none is predicted are left out."""
    return [
        (case, calibration.dice(case.organ, case.doubts))
        for case in cases
        if case.doubts and case.organ in calibration.volumes_ml
    ]


def additive(cases: Sequence[Case], values: Sequence[float], organs: Sequence[str]) -> Additive:
    """Minimise the mean squared error of some numbers in [0, 1], with a ridge, under drops that are none below 0.

    Args:
        cases: Finds.
        values: Of each, what is to be predicted.
        organs: All that there are.
    """
    wanted = np.array(values, float)
    which = np.array([organs.index(case.organ) for case in cases])
    blocks, columns = _design(cases, organs)
    ridge = np.repeat([OWN_RIDGE if block.organ else RIDGE for block in blocks], [len(b.knots) - 1 for b in blocks])

    def loss(values: Float[np.ndarray, " n"]) -> tuple[float, Float[np.ndarray, " n"]]:
        scores, drops = values[: len(organs)], values[len(organs) :]
        found = expit(scores[which] - columns @ drops)
        error = found - wanted
        slope = 2 * error * found * (1 - found) / len(wanted)
        gradient = np.concatenate((np.bincount(which, slope, len(organs)), -columns.T @ slope + 2 * ridge * drops))
        return float(np.mean(error**2) + (ridge * drops**2).sum()), gradient

    start = np.concatenate((np.full(len(organs), 2.0), np.full(len(ridge), 0.05)))
    bounds = [(-6.0, 8.0)] * len(organs) + [(0.0, None)] * len(ridge)
    best = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 1000})
    solution = np.asarray(best["x"], float)
    curves, at = {}, len(organs)
    for block in blocks:
        drops = solution[at : at + len(block.knots) - 1]
        at += len(drops)
        if drops.max() > LEAST_DROP:
            curves[block.organ, block.doubt] = Curve(block.knots, tuple(round(float(one), DIGITS) for one in drops))
    own = {
        organ: OrganScore(
            round(float(solution[number]), DIGITS),
            {doubt: curve for (of, doubt), curve in curves.items() if of == organ},
        )
        for number, organ in enumerate(organs)
    }
    return Additive(own, {doubt: curve for (of, doubt), curve in curves.items() if not of})


def _design(cases: Sequence[Case], organs: Sequence[str]) -> tuple[list[_Block], csr_array]:
    """Return the curves that there may be, and how far each case lies along every piece of them: (case, drop)."""
    blocks, columns = [], []
    for organ in ("", *organs):
        inside = np.array([not organ or case.organ == organ for case in cases])
        for doubt in cases[0].doubts:
            values = np.array([case.doubts[doubt] for case in cases])
            knots = _knots(values[inside])
            if len(knots) < 2:
                continue
            low, high = np.array(knots[:-1]), np.array(knots[1:])
            blocks.append(_Block(organ, doubt, knots))
            columns.append(csr_array(((values[:, None] - low) / (high - low)).clip(0, 1) * inside[:, None]))
    return blocks, csr_array(hstack(columns))


def _knots(values: Float[np.ndarray, " n"]) -> tuple[float, ...]:
    """Return where a curve bends: at quantiles of its doubt, that of those above nothing where most are 0."""
    spread = values[values > values.min()] if (values == values.min()).mean() > QUANTILES[1] else values
    if not spread.size:
        return ()
    places = (
        [values.min(), *np.quantile(spread, QUANTILES)] if spread.size < values.size else np.quantile(spread, QUANTILES)
    )
    found = sorted({round(float(place), DIGITS) for place in places})
    return tuple(found)
