"""What a case shows to those who choose where to look: its labels, and the pseudo-labels where it has no others."""

import numpy as np
from jaxtyping import UInt8

from viscera.preparation.store import UNSURE, Case


def shown_slice(case: Case, z: int) -> UInt8[np.ndarray, "y x"]:
    """Return the organs of a slice by labels and pseudo-labels; 0 where teachers are unsure or anything may be."""
    shown = np.array(case.truth[z])
    if case.pseudo is not None:
        shown = with_pseudo(shown, np.asarray(case.pseudo[z]))
    if case.known is not None:
        shown[~case.known[z]] = 0
    return shown


def with_pseudo(
    labels: UInt8[np.ndarray, "*space"], pseudo: UInt8[np.ndarray, "*space"]
) -> UInt8[np.ndarray, "*space"]:
    """Return labels, or pseudo-labels where teachers gave any and are sure of them."""
    return np.where((pseudo > 0) & (pseudo != UNSURE), pseudo, labels)
