"""Synthetic abdominal CT: random but anatomically ordered patients with complete labels and known volumes.

No patient data went into it. geometry.py holds grids, noise and shapes; canvas.py how organs claim space; frame.py,
skeleton.py, organs.py and bowel.py the anatomy; appearance.py the HU; tumours.py lesions, where they are asked for; acquisition.py
the scanner; patient.py puts them together. Writing patients as a data set on disk is in datasets/.
"""

from viscera.synthesis.canvas import ORGANS
from viscera.synthesis.patient import Patient, organ_volumes_ml, synthesize

__all__ = ["ORGANS", "Patient", "organ_volumes_ml", "synthesize"]
