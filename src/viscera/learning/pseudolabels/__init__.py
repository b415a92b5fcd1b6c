"""Teachers fill in the organs that a store's cases do not annotate, where they agree and are confident.

teachers.py: who may teach. consensus.py: what teachers agree on, voxel by voxel. acceptance.py: which organs of which cases
are believed. filling.py: a whole store. The losses learn from the outcome (learning/losses.py).
"""
