"""Organ names, label spaces, and maps from a data set's labels to a label space.

Organs are named as in TotalSegmentator (liver, kidney_left, urinary_bladder ...). A label space is the ordered list of
organs that a network tells apart; index 0 is background. Data sets name and number their labels otherwise, split what a
space merges (left and right kidney) and lack what it holds; ``fit`` says which value becomes which index, which organs of
the space are thereby annotated, and, in sentences for the user, what is merged, unknown or lost.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from viscera.errors import LabelError, did_you_mean

TUMOUR = "tumour"
"""A tumour of whatever organ, as FLARE23 labels it. In a space without tumours its voxels are unknown, not background."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "liver": (204, 102, 119),
    "kidney": (221, 170, 51),
    "kidney_left": (221, 170, 51),
    "kidney_right": (238, 204, 102),
    "spleen": (136, 204, 238),
    "pancreas": (68, 170, 153),
    "stomach": (170, 68, 153),
    "gallbladder": (17, 119, 51),
    "esophagus": (238, 136, 102),
    "duodenum": (187, 204, 51),
    "small_bowel": (119, 170, 221),
    "colon": (153, 153, 51),
    "rectum": (136, 34, 85),
    "urinary_bladder": (255, 238, 136),
    "aorta": (204, 51, 17),
    "inferior_vena_cava": (51, 34, 136),
    "portal_vein_and_splenic_vein": (68, 119, 170),
    "adrenal_gland": (255, 170, 187),
    "adrenal_gland_left": (255, 170, 187),
    "adrenal_gland_right": (238, 119, 136),
    "femoral_head": (102, 204, 204),
    "femoral_head_left": (102, 204, 204),
    "femoral_head_right": (51, 153, 153),
    "spinal_cord": (240, 240, 240),
    "prostate": (170, 170, 0),
    "uterus": (255, 175, 210),
    TUMOUR: (0, 255, 127),
    "liver_tumour": (0, 255, 127),
    "kidney_tumour": (0, 230, 115),
    "kidney_cyst": (150, 255, 190),
    "pancreas_tumour": (0, 205, 100),
    "colon_tumour": (0, 180, 90),
    "vertebrae": (222, 211, 170),
    "ribs": (200, 190, 150),
    "pelvis": (190, 180, 140),
    "lung": (100, 150, 200),
    "heart": (180, 60, 60),
    "muscle": (150, 80, 70),
    "fat": (230, 200, 80),
    "skin": (220, 180, 160),
}
"""The organs with a colour of their own (Paul Tol's colour-blind-safe sets, extended). Other names are allowed."""

SLICER_COLOURS: dict[str, tuple[int, int, int]] = {
    "liver": (221, 130, 101),
    "kidney": (185, 102, 83),
    "kidney_left": (185, 102, 83),
    "kidney_right": (185, 102, 83),
    "spleen": (157, 108, 162),
    "pancreas": (249, 180, 111),
    "stomach": (216, 132, 105),
    "gallbladder": (139, 150, 98),
    "esophagus": (211, 171, 143),
    "duodenum": (255, 253, 229),
    "small_bowel": (205, 167, 142),
    "colon": (204, 168, 143),
    "rectum": (204, 168, 143),
    "urinary_bladder": (222, 154, 132),
    "aorta": (224, 97, 76),
    "inferior_vena_cava": (0, 151, 206),
    "portal_vein_and_splenic_vein": (0, 151, 206),
    "adrenal_gland": (249, 186, 150),
    "adrenal_gland_left": (249, 186, 150),
    "adrenal_gland_right": (249, 186, 150),
    "femoral_head": (255, 238, 170),
    "femoral_head_left": (255, 238, 170),
    "femoral_head_right": (255, 238, 170),
    "spinal_cord": (244, 214, 49),
    "prostate": (230, 158, 140),
    "uterus": (255, 181, 158),
    TUMOUR: (144, 238, 144),
    "liver_tumour": (144, 238, 144),
    "kidney_tumour": (144, 238, 144),
    "kidney_cyst": (205, 205, 100),
    "pancreas_tumour": (144, 238, 144),
    "colon_tumour": (144, 238, 144),
    "vertebrae": (212, 188, 102),
    "ribs": (253, 232, 158),
    "pelvis": (241, 214, 145),
    "lung": (197, 165, 145),
    "heart": (206, 110, 84),
    "muscle": (192, 104, 88),
    "fat": (230, 220, 70),
    "skin": (177, 122, 101),
}
"""The same organs in the colours that 3D Slicer gives them, lifelike rather than easy to tell apart: both kidneys share one.

Source: github.com/Slicer/Slicer, Base/Logic/Resources/ColorFiles/GenericAnatomyColors.txt (commit 3da969b). Its terminology
(SegmentationCategoryTypeModifier-SlicerGeneralAnatomy.json) recommends the same for DICOM segmentations where the two were
compared: small bowel, stomach, spinal cord. What the table lacks has the colour of its nearest entry: tumours "mass", both veins
"vein", the rectum "colon", femoral heads "skeleton_of_lower_limb", vertebrae "lumbar_vertebral_column", the pelvis "bone".
"""

ColourScheme = Literal["viscera", "slicer"]
"""Of COLOURS or of SLICER_COLOURS."""

SCHEMES: dict[ColourScheme, dict[str, tuple[int, int, int]]] = {"viscera": COLOURS, "slicer": SLICER_COLOURS}

ALIASES: dict[str, str] = {
    "bladder": "urinary_bladder",
    "small_intestine": "small_bowel",
    "postcava": "inferior_vena_cava",
    "ivc": "inferior_vena_cava",
    "gall_bladder": "gallbladder",
    "oesophagus": "esophagus",
    "left_kidney": "kidney_left",
    "right_kidney": "kidney_right",
    "kidneys": "kidney",
    "left_adrenal_gland": "adrenal_gland_left",
    "right_adrenal_gland": "adrenal_gland_right",
    "lag": "adrenal_gland_left",
    "rag": "adrenal_gland_right",
    "left_femoral_head": "femoral_head_left",
    "right_femoral_head": "femoral_head_right",
    "left_head_of_femur": "femoral_head_left",
    "right_head_of_femur": "femoral_head_right",
    "femur_head": "femoral_head",
    "tumor": TUMOUR,
    "lesion": TUMOUR,
    "cancer": TUMOUR,
    "liver_tumor": "liver_tumour",
    "kidney_tumor": "kidney_tumour",
    "pancreas_tumor": "pancreas_tumour",
    "colon_tumor": "colon_tumour",
    "colon_cancer": "colon_tumour",
    "spine": "vertebrae",
}

SIDES: dict[str, tuple[str, str]] = {
    "kidney": ("kidney_left", "kidney_right"),
    "adrenal_gland": ("adrenal_gland_left", "adrenal_gland_right"),
    "femoral_head": ("femoral_head_left", "femoral_head_right"),
}
"""Organs that are annotated as soon as both of their sides are."""

PART_OF: dict[str, str] = {side: whole for whole, sides in SIDES.items() for side in sides} | {
    "liver_tumour": "liver",
    "kidney_tumour": "kidney",
    "kidney_cyst": "kidney",
    "pancreas_tumour": "pancreas",
    "colon_tumour": "colon",
}
"""A label that belongs to its whole wherever a space holds only the whole."""


def organ_name(text: str) -> str:
    """Give the name that viscera uses: lower case, underscores, aliases resolved.

    Example:
        >>> organ_name("Left Kidney"), organ_name("bladder"), organ_name("liver")
        ('kidney_left', 'urinary_bladder', 'liver')
    """
    name = "_".join(text.strip().lower().replace("-", " ").replace("_", " ").split())
    return ALIASES.get(name, name)


def colour(organ: str, scheme: ColourScheme = "viscera") -> tuple[int, int, int]:
    """Give an organ's colour (red, green, blue in 0..255), the same everywhere; names without one get a stable grey-blue.

    Args:
        organ: Its name.
        scheme: viscera: colours that the colour-blind can tell apart. slicer: those of 3D Slicer.

    Example:
        >>> colour("liver"), colour("liver", "slicer")
        ((204, 102, 119), (221, 130, 101))
    """
    if organ in SCHEMES[scheme]:
        return SCHEMES[scheme][organ]
    code = sum((index + 1) * ord(letter) for index, letter in enumerate(organ))
    return 90 + code % 110, 90 + code // 7 % 110, 110 + code // 13 % 110


@dataclass(frozen=True)
class LabelSpace:
    """The ordered organs that a network tells apart; organs[0] has index 1, background 0.

    Attributes:
        name: A short name for tables and files.
        organs: Unique organ names, 1 to 255 of them.

    Example:
        >>> import viscera
        >>> space = viscera.LabelSpace("two", ("liver", "spleen"))
        >>> space.labels, space.index("Spleen")
        ({1: 'liver', 2: 'spleen'}, 2)
    """

    name: str
    organs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse spaces that uint8 labels cannot hold."""
        if not 1 <= len(self.organs) <= 255 or len(set(self.organs)) != len(self.organs):
            raise LabelError(f"label space '{self.name}' needs 1 to 255 different organs, got {len(self.organs)}.")

    @property
    def labels(self) -> dict[int, str]:
        """{index: organ}, without background."""
        return dict(enumerate(self.organs, start=1))

    @property
    def classes(self) -> tuple[str, ...]:
        """Background and the organs, in the order of the network's output channels."""
        return ("background", *self.organs)

    def index(self, organ: str) -> int:
        """Give the index of an organ, by any of its names.

        Raises:
            LabelError: The space does not hold it.
        """
        name = organ_name(organ)
        if name not in self.organs:
            known = ", ".join(self.organs)
            raise LabelError(
                f"label space '{self.name}' has no '{organ}'.{did_you_mean(name, self.organs)} It holds {known}."
            )
        return self.organs.index(name) + 1


ZHANG12 = LabelSpace(
    "zhang12",
    (
        "urinary_bladder",
        "colon",
        "femoral_head",
        "kidney",
        "liver",
        "rectum",
        "small_bowel",
        "spinal_cord",
        "stomach",
        "spleen",
        "pancreas",
    ),
)
"""The twelve classes of zhang2d (Zhang 2025, table II)."""

FLARE13 = LabelSpace(
    "flare13",
    (
        "liver",
        "kidney_right",
        "spleen",
        "pancreas",
        "aorta",
        "inferior_vena_cava",
        "adrenal_gland_right",
        "adrenal_gland_left",
        "gallbladder",
        "esophagus",
        "stomach",
        "duodenum",
        "kidney_left",
    ),
)
"""The thirteen organs of FLARE22 and FLARE23."""

ABDOMENCT1K = LabelSpace("abdomenct1k", ("liver", "kidney", "spleen", "pancreas"))
"""The four organs of AbdomenCT-1K and FLARE21 (Ma et al. 2021)."""

FLARE14 = LabelSpace("flare14", (*FLARE13.organs, TUMOUR))
"""FLARE23's organs and tumour."""

TUMOUR_ONLY = LabelSpace("tumour", (TUMOUR,))
"""For a network of tumours, whatever their organ (gao2step's second)."""

STARTER19 = LabelSpace(
    "starter19",
    (
        *("liver", "kidney_right", "kidney_left", "spleen", "pancreas", "gallbladder"),
        *("stomach", "duodenum", "small_bowel", "colon", "rectum", "esophagus"),
        *("aorta", "inferior_vena_cava", "adrenal_gland_right", "adrenal_gland_left"),
        *("urinary_bladder", "femoral_head", "spinal_cord"),
    ),
)
"""What the weights that come with viscera know."""

SPACES: dict[str, LabelSpace] = {
    space.name: space for space in (ZHANG12, FLARE13, FLARE14, ABDOMENCT1K, TUMOUR_ONLY, STARTER19)
}


@dataclass(frozen=True)
class Fit:
    """How a data set's labels become a label space's.

    Attributes:
        values: {value in the file: index in the space}, 0 where the space holds no such organ. Any value of a file
            that is in neither ``values`` nor ``unknown``, other than 0, is an error of the file.
        unknown: Values whose voxels may be anything (nnU-Net's ignore label, a tumour of no known organ).
        annotated: Organs of the space that the data set annotates wholly, in the space's order.
        notes: What the user should know: merged, lost and partly annotated organs.
    """

    values: dict[int, int]
    unknown: frozenset[int]
    annotated: tuple[str, ...]
    notes: tuple[str, ...]


def fit(
    space: LabelSpace, labels: Mapping[int, str], annotated: Collection[str], *, unknown: Collection[int] = ()
) -> Fit:
    """Map a data set's labels to a label space.

    Args:
        space: Where to.
        labels: {value in the file: organ name}, without background.
        annotated: The organs that this case annotates, absent ones included; each must be a name of ``labels``, or a
            whole whose two sides are.
        unknown: Values whose voxels are to be ignored.

    Returns:
        The map, and what it annotates. An organ of the space that is only partly annotated (one kidney) is not
        annotated: its voxels become 0, which with the organ unannotated means "not known".

    Raises:
        LabelError: ``annotated`` names an organ that the labels can never hold.
    """
    names = {value: organ_name(name) for value, name in labels.items()}
    given = _with_wholes({organ_name(name) for name in annotated})
    possible = _with_wholes(set(names.values()))
    for organ in sorted({organ_name(name) for name in annotated} - possible):
        raise LabelError(
            f"'{organ}' is listed as annotated, but no label holds it.{did_you_mean(organ, possible)} "
            f"The labels are {', '.join(sorted(possible))}. Correct annotated.json or the label names."
        )
    complete = tuple(organ for organ in space.organs if organ in given)
    begun = {_target(space, name) for name in names.values() if name in given}
    values, lost, unlisted, unknown_values, notes = {}, [], [], set(unknown), []
    for value, name in names.items():
        target = _target(space, name)
        if target is None and name == TUMOUR:
            unknown_values.add(value)
            notes.append("tumour: in no organ of the label space; its voxels are unknown, not background")
        elif target is None:
            values[value] = 0
            (lost if name in given else []).append(name)
        elif target not in complete:
            values[value] = 0
            if target in begun:
                notes.append(f"{target}: not wholly annotated, so unknown in this case")
            else:
                unlisted.append(target)
        else:
            values[value] = space.index(target)
            if target != name:
                notes.append(f"{name}: merged into {target}")
    if unlisted:
        notes.append(f"not listed as annotated, so unknown in this case: {', '.join(dict.fromkeys(unlisted))}")
    if lost:
        notes.append(f"not in label space '{space.name}', so background: {', '.join(lost)}")
    return Fit(values, frozenset(unknown_values), complete, tuple(dict.fromkeys(notes)))


def _with_wholes(organs: set[str]) -> set[str]:
    """Add each whole whose two sides are among the organs."""
    return organs | {whole for whole, sides in SIDES.items() if set(sides) <= organs}


def _target(space: LabelSpace, name: str) -> str | None:
    """Give the organ of the space that a label belongs to: itself, any tumour's, or the whole that it is part of."""
    if TUMOUR in space.organs and name not in space.organs and name.endswith(f"_{TUMOUR}"):
        return TUMOUR
    while name not in space.organs:
        if name not in PART_OF:
            return None
        name = PART_OF[name]
    return name
