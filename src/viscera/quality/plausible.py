"""What is plausible in an adult: volumes, mean HU and pieces of the known organs, and which organ lies beside which.

The ranges are wide: they are to be crossed by a wrong segmentation, by what is not an adult's, and by a disease that a reader would
want to look at anyway, but not by a large or a small patient. They hold for CT with and without contrast.

Sources, all in ml or g (1.0 to 1.1 g per ml):
    ICRP Publication 89 (2002), table 2.8, reference woman and man: liver 1400, 1800; spleen 130, 150; kidneys 275, 310 together;
        pancreas 120, 140; adrenals 13, 14 together; stomach with content 370, 400; small intestine with content 880, 1000; colon
        without rectosigmoid with content 543, 525; rectosigmoid with content 150, 145; gallbladder with bile 56, 68; oesophagus
        35, 40; uterus 80; heart with blood 620, 840.
    Geraghty et al. 2004, doi:10.1007/s00261-003-0139-2 (149 adults on CT), means of women and men: liver 1411, 1710; spleen 180,
        238; one kidney 157, 193; pancreas 64, 87; left adrenal of women 4.4.
    Prassopoulos et al. 1997, Eur. Radiol. 7:246-248 (140 adults on CT): spleen 215, from 107 to 315.
A solid organ's range goes from about .4 of the smaller of these means to 2.5 times the larger one, the spleen's and the liver's
farther up (a spleen of a litre is common in haematology); a hollow organ's from empty to full. Vessels, cord, prostate, lungs and
femoral heads have no such source: theirs are tubes of the diameters and ellipsoids of the diameters that textbooks give.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """What is plausible for one organ.

    Attributes:
        volume_ml: Least and most of the whole organ. The least holds only where the scan does not cut it.
        mean_hu: Least and most.
        pieces: Of how many connected pieces it consists; None: of any number (bowel, which a network sees loop by loop).
        passes: It leaves most scans at a border (aorta, spinal cord), so that being cut there says nothing.
    """

    volume_ml: tuple[float, float]
    mean_hu: tuple[float, float]
    pieces: int | None = 1
    passes: bool = False


PLAUSIBLE: dict[str, Range] = {
    "liver": Range((550, 4500), (-30, 250)),
    "spleen": Range((50, 1500), (0, 300)),
    "kidney": Range((120, 900), (0, 350), pieces=2),
    "kidney_left": Range((60, 500), (0, 350)),
    "kidney_right": Range((60, 500), (0, 350)),
    "pancreas": Range((20, 250), (-60, 220)),
    "gallbladder": Range((3, 250), (-30, 250)),
    "stomach": Range((40, 2500), (-900, 600)),
    "duodenum": Range((15, 300), (-250, 500)),
    "small_bowel": Range((150, 3500), (-300, 600), pieces=None),
    "colon": Range((150, 4000), (-900, 700), pieces=None),
    "rectum": Range((15, 500), (-900, 700)),
    "esophagus": Range((5, 120), (-500, 300), passes=True),
    "aorta": Range((20, 600), (15, 650), passes=True),
    "inferior_vena_cava": Range((15, 350), (0, 450), passes=True),
    "portal_vein_and_splenic_vein": Range((8, 150), (10, 400)),
    "adrenal_gland": Range((2, 40), (-40, 200), pieces=2),
    "adrenal_gland_left": Range((1, 20), (-40, 200)),
    "adrenal_gland_right": Range((1, 20), (-40, 200)),
    "urinary_bladder": Range((15, 1500), (-40, 1500)),
    "prostate": Range((8, 250), (-20, 200)),
    "uterus": Range((10, 800), (-20, 250)),
    "femoral_head": Range((40, 350), (60, 1000), pieces=2),
    "femoral_head_left": Range((20, 200), (60, 1000)),
    "femoral_head_right": Range((20, 200), (60, 1000)),
    "spinal_cord": Range((8, 150), (-20, 150), passes=True),
    "lung": Range((1200, 9500), (-950, -400), pieces=2, passes=True),
    "heart": Range((300, 2200), (0, 450)),
}
"""For other names nothing is expected."""

RIGHT_OF: tuple[tuple[str, str], ...] = (
    ("liver", "spleen"),
    ("liver", "stomach"),
    ("gallbladder", "spleen"),
    ("gallbladder", "stomach"),
    ("inferior_vena_cava", "aorta"),
)
"""Pairs of which the first lies farther to the patient's right, in all but situs inversus."""

ABOVE: tuple[tuple[str, str], ...] = (
    ("liver", "urinary_bladder"),
    ("liver", "rectum"),
    ("liver", "femoral_head"),
    ("spleen", "urinary_bladder"),
    ("spleen", "rectum"),
    ("kidney", "urinary_bladder"),
    ("kidney", "femoral_head"),
    ("pancreas", "urinary_bladder"),
    ("lung", "liver"),
    ("heart", "liver"),
)
"""Pairs of which the first lies farther up."""

IN_FRONT_OF: tuple[tuple[str, str], ...] = (
    ("liver", "spinal_cord"),
    ("stomach", "spinal_cord"),
    ("pancreas", "spinal_cord"),
    ("aorta", "spinal_cord"),
    ("urinary_bladder", "rectum"),
)
"""Pairs of which the first lies farther to the front."""

SHOWN_WITH: dict[str, tuple[str, ...]] = {
    "liver": ("spleen", "stomach", "pancreas", "aorta", "inferior_vena_cava", "spinal_cord"),
    "urinary_bladder": ("rectum", "femoral_head", "femoral_head_left", "femoral_head_right"),
}
"""{organ: those that a scan which shows it whole must show, at least in part, unless they were removed}."""

SHOWN_BETWEEN: tuple[str, ...] = ("kidney", "kidney_left", "kidney_right", "colon", "small_bowel", "duodenum")
"""Organs that a scan which shows both liver and bladder must show."""
