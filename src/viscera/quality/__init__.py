"""Signs that a result should not be trusted, per organ and per scan, whatever the network.

    measure_organs, measure_scan    label map and scan -> numbers (measuring.py)
    signs                           numbers -> signs in plain words (judging.py, orientation.py; plausible.py has the ranges)
    fitted_limits                   numbers of good results -> limits

How sure the network was comes from inference/certainty.py. A result without a sign may still be wrong.
"""
