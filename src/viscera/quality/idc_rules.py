"""The four rules by which the Imaging Data Commons sorts out segments, under their names; facts, and no signs by themselves.

Source:
    Krishnaswamy, Thiriveedhi, Ciausu, Clunie, Pieper, Kikinis, Fedorov 2024, "Rule-based outlier detection of AI-generated anatomy
    segmentations", arXiv:2406.14486, applied to about 9.5 million segments of the National Lung Screening Trial;
    github.com/ImagingDataCommons/CloudSegmentatorResults, README: segmentation completeness (an empty slice above and below),
    connected component (one), laterality (by the centre of mass), minimum volume from voxel summation (5 ml, that of an adrenal
    gland). Departs: a side that was found without the other is judged by the body's middle.
"""

from collections.abc import Mapping

from viscera.labels import SIDES
from viscera.quality.measuring import Look, Organ
from viscera.quality.orientation import side_signs

LEAST_ML = 5.0
RULES: dict[str, str] = {
    "complete_in_z": "Segmentation completeness: an empty slice above and below",
    "single_component": "Connected component: one",
    "right_side": "Laterality: a left organ on the left, a right one on the right; null for organs without a side",
    "volume_over_5_ml": "Minimum volume from voxel summation: more than 5 ml",
}
"""{name: what the Imaging Data Commons calls it}."""


def idc_rules(organs: Mapping[str, Organ], look: Look) -> dict[str, dict[str, bool | None]]:
    """Return {organ: {rule: whether it is kept}} of the organs that were found.

    Args:
        organs: From ``measure_organs``.
        look: From ``measure_scan``.
    """
    sides, wrong = {side for pair in SIDES.values() for side in pair}, side_signs(organs, look)
    return {
        organ: {
            "complete_in_z": not facts.cut_in_z,
            "single_component": facts.pieces == 1,
            "right_side": organ not in wrong if organ in sides else None,
            "volume_over_5_ml": facts.volume_ml > LEAST_ML,
        }
        for organ, facts in organs.items()
        if facts.volume_ml
    }
