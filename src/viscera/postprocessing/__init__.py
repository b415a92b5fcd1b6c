"""Label map -> tidier label map. One function per operation, each on all the organs that it is given.

components.py drops connected components, morphology.py opens, closes and fills, tumours.py puts a tumour mask over the
organs and says where it lies, tidying.py does what a recipe's settings ask for. All of them take label maps in memory,
give new ones, and work on the organs' boxes only; inference.py calls them on a scan in axial order.
"""

from viscera.postprocessing.components import drop_small_components, keep_largest_components
from viscera.postprocessing.morphology import close_organs, fill_holes, open_organs
from viscera.postprocessing.tidying import tidy
from viscera.postprocessing.tumours import TumourPart, TumourReport, merge_tumour, tumour_report

__all__ = [
    "TumourPart",
    "TumourReport",
    "close_organs",
    "drop_small_components",
    "fill_holes",
    "keep_largest_components",
    "merge_tumour",
    "open_organs",
    "tidy",
    "tumour_report",
]
