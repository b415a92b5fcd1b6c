"""Signs that a result should not be trusted, per organ and per scan, whatever the network.

    measure_organs, measure_scan    label map and scan -> numbers (measuring.py)
    signs                           numbers -> signs in plain words (judging.py, orientation.py; plausible.py has the ranges)
    fitted_limits                   numbers of good results -> limits

How sure the network was comes from inference/certainty.py. A result without a sign may still be wrong.
"""

from viscera.trust.judging import Limits, fitted_limits, signs, trust_to_json
from viscera.trust.measuring import Look, Organ, measure_organs, measure_scan
from viscera.trust.plausible import PLAUSIBLE, Range
from viscera.trust.sign import Sign, Trust

__all__ = [
    "PLAUSIBLE",
    "Limits",
    "Look",
    "Organ",
    "Range",
    "Sign",
    "Trust",
    "fitted_limits",
    "measure_organs",
    "measure_scan",
    "signs",
    "trust_to_json",
]
