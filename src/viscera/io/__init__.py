"""Files: NIfTI read and written, replaced in one instant, and what the values of a label file mean."""
