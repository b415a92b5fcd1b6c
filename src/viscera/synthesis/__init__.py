"""Synthetic abdominal CT: random but anatomically ordered patients with complete labels and known volumes.

No patient data goes into procedural patients. geometry.py holds grids, noise and shapes; canvas.py how organs claim space. Anatomy:
frame.py, skeleton.py, organs.py, kidneys.py and bowel.py, an average abdomen; habitus.py and plans.py, how a patient departs from
it; chest.py, what lies above; metal.py. Appearance: appearance.py and enhancement.py, HU; lesions.py; tumours.py, where they are
asked for. Acquisition: acquisition.py, the usual scanner; view.py, protocol.py and scanning.py, varied ones. variety.py switches
ingredients; patient.py puts all together. From label maps that a user has: label_maps.py and template.py, what they say;
surroundings.py, thorax.py and filling.py, what they lack; reshaping.py, another patient of it; recasting.py puts it together.
Writing patients as a data set on disk is in cohort.py and datasets/.
"""

from viscera.synthesis.canvas import ORGANS
from viscera.synthesis.patient import Patient, organ_volumes_ml, synthesize
from viscera.synthesis.recasting import synthesize_from
from viscera.synthesis.template import Reshaping, Template, read_template
from viscera.synthesis.variety import PLAIN, RICH, Variety

__all__ = [
    "ORGANS",
    "PLAIN",
    "RICH",
    "Patient",
    "Reshaping",
    "Template",
    "Variety",
    "organ_volumes_ml",
    "read_template",
    "synthesize",
    "synthesize_from",
]
