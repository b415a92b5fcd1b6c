"""Abdominal organ segmentation in CT, from data sets that annotate different organs."""
