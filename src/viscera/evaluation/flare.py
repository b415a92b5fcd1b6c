"""The scores of the FLARE challenges, with what is odd in their official code: to be compared with published tables.

Metrics without the oddities are in metrics.py; which organs of which case are scored is decided in evaluate.py.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from viscera.evaluation.metrics import Spacing, surface_scores

CUT_TO_TRUTH = ("aorta", "inferior_vena_cava", "esophagus")
"""Tubes that go on beyond what is annotated: scored only on the slices on which the truth shows them, less the last."""

LEAST_DICE = 0.2
"""Below it, the NSD is 0. In the FLARE23 code of commit 082b340 it was 0.1; FLARE22's code has no such rule."""

DECIMALS = 4
"""To which each score is rounded."""


@dataclass(frozen=True)
class FlareScores:
    """An organ's scores by FLARE's code.

    Attributes:
        dice: DSC in [0, 1]; 1 if the organ is absent from truth and prediction, 0 if from one of them; NaN for one of
            CUT_TO_TRUTH that both have, but the truth on a single slice.
        nsd: Likewise; 0 where the DSC is below LEAST_DICE.
    """

    dice: float
    nsd: float


def flare_scores(
    truth: Bool[np.ndarray, "z y x"],
    prediction: Bool[np.ndarray, "_ _ _"],
    spacing_mm: Spacing,
    *,
    organ: str,
    tolerance_mm: float,
    nsd: float,
) -> FlareScores:
    """Score an organ as the official code of FLARE23 does; a tumour is an organ like any other.

    CUT_TO_TRUTH are cut along the file's third axis, whichever way it points, from the truth's first slice up to, and
    without, its last. The cut faces count as surface. If the truth shows only one slice, nothing is left: the official
    code divides 0 by 0 and stops with an error in the surface distances of an empty array. Here both scores are NaN.

    Args:
        truth: Mask in the order of the file: z is the NIfTI file's third axis.
        prediction: Mask on the same grid. Both may be cut to a box that holds both.
        spacing_mm: Along (z, y, x).
        organ: Whether it is one of CUT_TO_TRUTH is all that matters.
        tolerance_mm: Of the NSD.
        nsd: The NSD of the whole masks, as ``surface_scores`` gives it; taken over where nothing is cut.

    Source:
        github.com/JunMa11/FLARE, FLARE23/FLARE23_DSC_NSD_Eval.py at commit aad2cc2 (FLARE24's for organs is the same).
        FLARE22/Evaluation/FLARE22_DSC_NSD_Eval.py differs in LEAST_DICE only; FLARE21's Evaluation/DSC_NSD_eval.py has
        neither cut nor LEAST_DICE nor rounding, and 1 mm for all organs.

    Example:
        >>> mask = np.ones((3, 2, 2), bool)
        >>> flare_scores(mask, mask & False, (5.0, 1.0, 1.0), organ="liver", tolerance_mm=5, nsd=0.0)
        FlareScores(dice=0.0, nsd=0.0)
    """
    shown = np.flatnonzero(truth.any(axis=(1, 2)))
    found = bool(prediction.any())
    if not shown.size or not found:
        score = float(not shown.size and not found)
        return FlareScores(score, score)
    cut = organ in CUT_TO_TRUTH
    if cut:
        truth, prediction = (mask[shown[0] : shown[-1]] for mask in (truth, prediction))
    voxels = np.count_nonzero(truth) + np.count_nonzero(prediction)
    if voxels == 0:
        return FlareScores(np.nan, np.nan)
    dice = 2 * np.count_nonzero(truth & prediction) / voxels
    if dice < LEAST_DICE:
        nsd = 0.0
    elif cut:
        nsd = surface_scores(truth, prediction, spacing_mm, tolerance_mm=tolerance_mm).nsd
    # NumPy rounds 0.00125 to 0.0012, Python to 0.0013; the official code rounds NumPy's numbers.
    return FlareScores(float(np.round(dice, DECIMALS)), float(np.round(nsd, DECIMALS)))
