"""Signs that a result should not be trusted, per organ and per scan, whatever the network.

    measure_organs, measure_scan    label map and scan -> numbers (measuring.py)
    measure_contacts                label map and scan -> where organs end at tissue of like HU (contacts.py)
    signs                           numbers -> signs in plain words (judging.py, scan_signs.py, orientation.py, neighbours.py;
                                    plausible.py and limits.py have the ranges), and predicted Dice (predicted_dice.py)
    idc_rules                       numbers -> the four rules of the Imaging Data Commons (idc_rules.py)
    fitted_limits                   numbers of good results -> limits (limits.py)

How sure the network was comes from inference/certainty.py. A result without a sign may still be wrong.
"""
