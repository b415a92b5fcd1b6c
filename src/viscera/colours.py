"""The colour of every organ, the same in pictures, charts, pages and colour files for other programs."""

from typing import Literal

COLOURS: dict[str, tuple[int, int, int]] = {
    "liver": (204, 102, 119),
    "kidney": (221, 170, 51),
    "kidney_left": (221, 170, 51),
    "kidney_right": (136, 102, 238),
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
    "adrenal_gland_right": (170, 51, 102),
    "femoral_head": (102, 204, 204),
    "femoral_head_left": (102, 204, 204),
    "femoral_head_right": (17, 102, 119),
    "spinal_cord": (240, 240, 240),
    "prostate": (170, 170, 0),
    "uterus": (255, 175, 210),
    "tumour": (0, 255, 127),
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
"""The organs with a colour of their own (Paul Tol's colour-blind-safe sets, extended). Other names are allowed.

Left and right, and organs that touch, differ for people with protanopia and deuteranopia too: tests/test_labels.py measures it."""

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
    "tumour": (144, 238, 144),
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


def colour(organ: str, scheme: ColourScheme = "viscera") -> tuple[int, int, int]:
    """Return an organ's colour (red, green, blue in 0..255), the same everywhere; names without one get a stable grey-blue.

    Args:
        organ: Its name.
        scheme: "viscera": colours that the colour-blind can tell apart; "slicer": those of 3D Slicer.

    Example:
        >>> colour("liver"), colour("liver", "slicer")
        ((204, 102, 119), (221, 130, 101))
    """
    if organ in SCHEMES[scheme]:
        return SCHEMES[scheme][organ]
    code = sum((index + 1) * ord(letter) for index, letter in enumerate(organ))
    return 90 + code % 110, 90 + code // 7 % 110, 110 + code // 13 % 110
