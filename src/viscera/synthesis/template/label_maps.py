"""Label maps as templates need them: names become organs and tissues, sides and parts are told apart.

Next comes template.py, which completes them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import edt
import numpy as np
from jaxtyping import UInt8

from viscera.errors import LabelError, did_you_mean
from viscera.labels import PART_OF, SIDES, TUMOUR, organ_name
from viscera.synthesis.canvas import ORGANS, VALUE, Tissue
from viscera.volume import Volume, to_axial

ORGAN_TISSUE: dict[str, Tissue] = {
    "urinary_bladder": Tissue.URINE,
    "colon": Tissue.COLON_WALL,
    "femoral_head_left": Tissue.MARROW,
    "femoral_head_right": Tissue.MARROW,
    "kidney_left": Tissue.KIDNEY_CORTEX,
    "kidney_right": Tissue.KIDNEY_CORTEX,
    "liver": Tissue.LIVER,
    "rectum": Tissue.COLON_WALL,
    "small_bowel": Tissue.BOWEL_WALL,
    "spinal_cord": Tissue.CORD,
    "stomach": Tissue.STOMACH_WALL,
    "spleen": Tissue.SPLEEN,
    "pancreas": Tissue.PANCREAS,
    "gallbladder": Tissue.BILE,
    "duodenum": Tissue.BOWEL_WALL,
    "adrenal_gland_left": Tissue.ADRENAL,
    "adrenal_gland_right": Tissue.ADRENAL,
    "aorta": Tissue.ARTERY,
    "inferior_vena_cava": Tissue.VEIN,
    "portal_vein_and_splenic_vein": Tissue.PORTAL_VEIN,
    "esophagus": Tissue.ESOPHAGUS,
    "prostate": Tissue.GENITAL,
    "uterus": Tissue.GENITAL,
    "iliac_artery": Tissue.ARTERY,
    "iliac_vena": Tissue.VEIN,
    "vertebrae": Tissue.MARROW,
    "ribs": Tissue.MARROW,
    "pelvis": Tissue.MARROW,
    "femur": Tissue.MARROW,
    "lung": Tissue.LUNG,
    "heart": Tissue.HEART,
    "muscle": Tissue.MUSCLE,
    "fat": Tissue.FREE,
    "skin": Tissue.SKIN,
}
"""What each of canvas.ORGANS is made of, where nothing is painted into it."""

FAMILIES: dict[str, tuple[str | None, Tissue]] = {
    "vertebra": ("vertebrae", Tissue.MARROW),
    "vertebrae": ("vertebrae", Tissue.MARROW),
    "rib": ("ribs", Tissue.MARROW),
    "costal_cartilages": ("ribs", Tissue.CARTILAGE),
    "hip": ("pelvis", Tissue.MARROW),
    "sacrum": ("pelvis", Tissue.MARROW),
    "femur": ("femur", Tissue.MARROW),
    "lung": ("lung", Tissue.LUNG),
    "heart": ("heart", Tissue.HEART),
    "atrial_appendage": ("heart", Tissue.HEART),
    "gluteus": ("muscle", Tissue.MUSCLE),
    "autochthon": ("muscle", Tissue.MUSCLE),
    "iliopsoas": ("muscle", Tissue.MUSCLE),
    "iliac_artery": ("iliac_artery", Tissue.ARTERY),
    "iliac_vena": ("iliac_vena", Tissue.VEIN),
    "kidney_cyst_left": ("kidney_left", Tissue.KIDNEY_CORTEX),
    "kidney_cyst_right": ("kidney_right", Tissue.KIDNEY_CORTEX),
    "sternum": (None, Tissue.MARROW),
    "clavicula": (None, Tissue.MARROW),
    "scapula": (None, Tissue.MARROW),
    "humerus": (None, Tissue.MARROW),
    "trachea": (None, Tissue.GAS),
    "superior_vena_cava": (None, Tissue.VEIN),
    "brachiocephalic_vein": (None, Tissue.VEIN),
    "pulmonary_vein": (None, Tissue.VEIN),
    "pulmonary_artery": (None, Tissue.VEIN),
    "brachiocephalic_trunk": (None, Tissue.ARTERY),
    "subclavian_artery": (None, Tissue.ARTERY),
    "common_carotid_artery": (None, Tissue.ARTERY),
    "thyroid_gland": (None, Tissue.GENITAL),
}
"""{how a name begins: (organ of a patient or None, tissue)}: TotalSegmentator's finer names."""

Meaning = tuple[str | None, Tissue]


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A label map in axial order.

    Attributes:
        label: Values of canvas.VALUE; 0 for what has no name there.
        tissue: Values of canvas.Tissue; 0 for what is not labelled.
        spacing_mm: Along z, y, x.
        annotated: Organs whose labels are the truth, absent ones included.
        notes: What was told apart, for the user.
    """

    label: UInt8[np.ndarray, "z y x"]
    tissue: UInt8[np.ndarray, "z y x"]
    spacing_mm: tuple[float, float, float]
    annotated: tuple[str, ...]
    notes: tuple[str, ...]


def read_label_map(
    labels: Volume, names: Mapping[int, str], *, ignore: Collection[str] = (), where: str = "template"
) -> LabelMap:
    """Find out what a label map holds.

    Args:
        labels: The label map, in any orientation; 0 is what is not labelled.
        names: {value: name}, of TotalSegmentator's names or viscera's.
        ignore: Names to be taken as not labelled.
        where: The file, for messages.

    Raises:
        LabelError: A value without a name, a name that means nothing here, or no label at all.
    """
    axial, _ = to_axial(labels)
    present = {int(value) for value in np.unique(axial.voxels)} - {0}
    meanings = _meanings(names, present, ignore=ignore, where=where)
    kinds = sorted({meaning for meaning in meanings.values() if meaning is not None}, key=str)
    table = np.zeros(max([255, *present]) + 1, np.uint8)
    for value in present:
        meaning = meanings[value]
        table[value] = 0 if meaning is None else kinds.index(meaning) + 1
    if not table.any():
        raise LabelError(f"{where}: no voxel is labelled with anything but what is to be ignored", "Give another file.")
    codes = table[axial.voxels.astype(np.int64)]
    label = np.array([0, *(VALUE.get(organ or "", 0) for organ, _ in kinds)], np.uint8)[codes]
    tissue = np.array([0, *(kind for _, kind in kinds)], np.uint8)[codes]
    annotated = {organ for name in names.values() if (organ := _annotated_as(name, ignore)) is not None}
    notes = _tell_apart_(label, tissue, axial.spacing_mm, kinds=[organ for organ, _ in kinds], annotated=annotated)
    return LabelMap(label, tissue, axial.spacing_mm, tuple(sorted(annotated)), tuple(notes))


def meaning(name: str) -> Meaning | None:
    """Return the organ (or the whole of both sides, or a tumour) and the tissue that a label's name stands for.

    Example:
        >>> meaning("rib_left_7"), meaning("bladder"), meaning("hat")
        (('ribs', <Tissue.MARROW: 7>), ('urinary_bladder', <Tissue.URINE: 21>), None)
    """
    organ = organ_name(name)
    if organ == TUMOUR:
        return TUMOUR, Tissue.FREE
    while organ not in ORGAN_TISSUE and organ not in SIDES and organ in PART_OF:
        organ = PART_OF[organ]
    if organ in SIDES:
        return organ, ORGAN_TISSUE[SIDES[organ][0]]
    if organ in ORGAN_TISSUE:
        return organ, ORGAN_TISSUE[organ]
    begins = [family for family in FAMILIES if organ == family or organ.startswith(f"{family}_")]
    return FAMILIES[max(begins, key=len)] if begins else None


def _meanings(
    names: Mapping[int, str], present: set[int], *, ignore: Collection[str], where: str
) -> dict[int, Meaning | None]:
    """Return what each value that occurs stands for; None for what is to be ignored."""
    skipped = {organ_name(name) for name in ignore}
    unnamed = sorted(present - names.keys())
    if unnamed:
        raise LabelError(
            f"{where} holds label{'s' * (len(unnamed) > 1)} {', '.join(map(str, unnamed))}, but nothing names "
            f"{'them' if len(unnamed) > 1 else 'it'} (named are {', '.join(map(str, sorted(names)))})",
            "Name them, or set them to 0.",
        )
    for name in sorted(skipped - {organ_name(name) for name in names.values()}):
        hint = did_you_mean(name, [organ_name(other) for other in names.values()])
        raise LabelError(f"{where} has no label '{name}' that could be ignored", f"{hint} Leave it out of the list.")
    meanings = {
        value: None if organ_name(names[value]) in skipped else meaning(names[value]) for value in sorted(present)
    }
    strange = [names[value] for value in sorted(present) if meanings[value] is None]
    strange = [name for name in strange if organ_name(name) not in skipped]
    if strange:
        known = [*ORGANS, *FAMILIES]
        hint = did_you_mean(organ_name(strange[0]), known) if len(strange) == 1 else ""
        raise LabelError(
            f"{where}: viscera does not know what {', '.join(map(repr, strange))} look{'s' * (len(strange) == 1)} "
            f"like.{hint} Leave such labels out (--ignore-labels {' '.join(strange)}), or give them the name of a part "
            f"of the body that is alike: {', '.join(ORGANS)}."
        )
    return meanings


def _annotated_as(name: str, ignore: Collection[str]) -> str | None:
    known = None if organ_name(name) in {organ_name(other) for other in ignore} else meaning(name)
    return None if known is None else known[0]


def _tell_apart_(
    label: UInt8[np.ndarray, "z y x"],
    tissue: UInt8[np.ndarray, "z y x"],
    spacing_mm: tuple[float, float, float],
    *,
    kinds: list[str | None],
    annotated: set[str],
) -> list[str]:
    """Tell left from right, rectum from colon, femoral heads from femora, and give tumours to their organs."""
    from scipy import ndimage  # of the extra train

    notes = []
    if TUMOUR in annotated:
        # A tumour has no label of its own here: the nearest organ goes on through it.
        hole = (tissue == Tissue.FREE) & (label == 0)
        if hole.any() and label.any():
            nearest = ndimage.distance_transform_edt(
                label == 0, sampling=spacing_mm, return_distances=False, return_indices=True
            )
            place = tuple(axis[hole] for axis in np.asarray(nearest))
            label[hole], tissue[hole] = label[place], tissue[place]
        annotated.discard(TUMOUR)
        notes.append("tumours became part of the nearest organ")
    middle = middle_column(label, tissue)
    for whole, (left, right) in SIDES.items():
        if whole not in annotated:
            continue
        own = (label == 0) & (tissue == ORGAN_TISSUE[left])
        if whole in kinds and own.any():
            columns = np.arange(label.shape[2])[None, None, :]
            label[own & (columns > middle)] = VALUE[left]
            label[own & (columns <= middle)] = VALUE[right]
        annotated.discard(whole)
        annotated.update((left, right))
        notes.append(f"{whole}: told apart into left and right")
    if "colon" in annotated and "rectum" not in annotated and _split_rectum_(label, spacing_mm):
        annotated.add("rectum")
        notes.append("rectum: the colon below the middle of the pelvis' bones and behind the promontory")
    heads = {"femoral_head_left", "femoral_head_right"}
    if "femur" in annotated and not heads & annotated and _split_heads_(label, spacing_mm, middle):
        annotated.update(heads)
        notes.append("femoral heads: the largest ball within each femur")
    return notes


def middle_column(label: UInt8[np.ndarray, "z y x"], tissue: UInt8[np.ndarray, "z y x"]) -> float:
    """Return the column of the body's middle: that of the spine, else of all that is labelled."""
    spine = np.isin(label, (VALUE["vertebrae"], VALUE["spinal_cord"]))
    columns = (spine if spine.any() else tissue > 0).any(axis=(0, 1))
    places = np.flatnonzero(columns)
    return float(places[0] + places[-1]) / 2


def _split_rectum_(label: UInt8[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float]) -> bool:
    """Tell the rectum from the colon by the bones of the pelvis; False where the map does not reach there."""
    bones, colon = label == VALUE["pelvis"], label == VALUE["colon"]
    if not bones.any() or not colon.any():
        return False
    places = np.argwhere(bones)
    height = int(places[:, 0].min() + 0.42 * np.ptp(places[:, 0]))
    # The back of the pelvis' bones is the sacrum; the rectum lies in its hollow.
    promontory = int(np.quantile(places[:, 1], 0.5) - 20 / spacing_mm[1])
    rectum = colon[:height, promontory:]
    label[:height, promontory:][rectum] = VALUE["rectum"]
    return bool(rectum.any())


def _split_heads_(label: UInt8[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float], middle: float) -> bool:
    """Tell the femoral heads from the femora: the largest ball in the upper part that looks to the middle."""
    femur = label == VALUE["femur"]
    found = False
    for side, name in ((1, "femoral_head_left"), (-1, "femoral_head_right")):
        columns = np.arange(label.shape[2])[None, None, :]
        own = femur & (side * (columns - middle) > 0)
        if np.count_nonzero(own) < 8:
            continue
        depth = edt.edt(own, anisotropy=spacing_mm, black_border=False, parallel=1)
        inwards = depth - 0.12 * side * (columns - middle) * spacing_mm[2]
        inwards[~own] = -np.inf
        centre = np.unravel_index(int(inwards.argmax()), inwards.shape)
        square = sum(
            ((np.arange(size) - place) * step).reshape([-1 if axis == other else 1 for other in range(3)]) ** 2
            for axis, (size, place, step) in enumerate(zip(label.shape, centre, spacing_mm, strict=True))
        )
        radius = float(np.clip(depth[centre] + 3.0, 18.0, 28.0))
        label[own & (square < radius**2)] = VALUE[name]
        found = True
    return found
