"""Synthetic abdominal CT: random but anatomically ordered patients with complete labels and known volumes.

No patient data goes into procedural patients. shapes.py holds grids, noise and shapes; canvas.py how organs claim space.
anatomy/ is an average abdomen and how a patient departs from it, appearance/ HU, lesions and tumours, scanner/ the usual
scanner and varied ones. variety.py switches ingredients; patient.py puts all together. template/ makes patients from label
maps that a user has. Writing patients as a data set on disk is in datasets/synthetic.py.
"""
