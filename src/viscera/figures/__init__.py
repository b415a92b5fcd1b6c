"""Pictures: overlays and montages of slices, training curves, scores per organ, mix-ups, statistics of a data set.

Functions that return a matplotlib figure draw only; ``save`` writes it as PNG, ``inline_svg`` puts it into a page.
"""

from viscera.figures.canvas import inline_svg, save
from viscera.figures.cohort import ScanHu, hu_distribution, label_frequencies
from viscera.figures.confusion import confusion_figure
from viscera.figures.curves import Epoch, best_epoch, curves_figure, read_log, training_curves
from viscera.figures.montage import Look, montage, stills
from viscera.figures.pictures import AGREEMENT_COLOURS, SOFT_TISSUE_HU, agreement, overlay
from viscera.figures.scores import dice_bars, dice_boxes

__all__ = [
    "AGREEMENT_COLOURS",
    "SOFT_TISSUE_HU",
    "Epoch",
    "Look",
    "ScanHu",
    "agreement",
    "best_epoch",
    "confusion_figure",
    "curves_figure",
    "dice_bars",
    "dice_boxes",
    "hu_distribution",
    "inline_svg",
    "label_frequencies",
    "montage",
    "overlay",
    "read_log",
    "save",
    "stills",
    "training_curves",
]
