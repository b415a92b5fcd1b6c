"""What an organ is called in SNOMED CT, for DICOM objects that name it; and its colour as DICOM stores it.

    concept(name)        how DICOM names an organ
    organ_named(...)     the organ that another program's codes mean
    cielab(rgb)          a colour as three 16-bit numbers

Sources of the codes: PS3.16 (the context groups under CID 7151, as pydicom 3.0.2 ships them) and TotalSegmentator's published
table resources/totalsegmentator_snomed_mapping.csv (commit 7c62b4b); those of the latter that contradict the former were left
out (hip bone, subclavian artery). A name without a code gets a private one, never a standard code that nearly fits.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from viscera.labels import organ_name, readable, whole_of


@dataclass(frozen=True)
class Code:
    """A coded word.

    Attributes:
        value: Its number in the scheme.
        meaning: For people; two codes of the same value and scheme are the same whatever it says.
        scheme: "SCT" is SNOMED CT, "DCM" DICOM's own, "99..." private.
    """

    value: str
    meaning: str
    scheme: str = "SCT"


@dataclass(frozen=True)
class Concept:
    """How DICOM names what a segment shows.

    Attributes:
        category: An anatomical structure, a tissue, or an abnormal structure.
        type: The organ, or the abnormality.
        side: Of the body; None where the organ has none or both sides are meant.
        region: Of an abnormality: the organ that it lies in.
        region_side: Which side of it.
    """

    category: Code
    type: Code
    side: Code | None = None
    region: Code | None = None
    region_side: Code | None = None


PRIVATE = "99VISCERA"
ANATOMY = Code("123037004", "Anatomical Structure")
"""As dcmqi, 3D Slicer and TotalSegmentator write it; CID 7150 has 91723000 for it, which they do not know. Both are read alike."""
TISSUE = Code("85756007", "Tissue")
ABNORMAL = Code("49755003", "Morphologically Abnormal Structure")
LEFT, RIGHT = Code("7771000", "Left"), Code("24028007", "Right")
SIDE_CODES = {"left": LEFT, "right": RIGHT}

WHOLE: dict[str, tuple[str, str]] = {
    "liver": ("10200004", "Liver"),
    "spleen": ("78961009", "Spleen"),
    "pancreas": ("15776009", "Pancreas"),
    "stomach": ("69695003", "Stomach"),
    "gallbladder": ("28231008", "Gallbladder"),
    "esophagus": ("32849002", "Esophagus"),
    "duodenum": ("38848004", "Duodenum"),
    "small_bowel": ("30315005", "Small intestine"),
    "colon": ("71854001", "Colon"),
    "rectum": ("34402009", "Rectum"),
    "urinary_bladder": ("89837001", "Urinary bladder"),
    "aorta": ("15825003", "Aorta"),
    "inferior_vena_cava": ("64131007", "Inferior vena cava"),
    "superior_vena_cava": ("48345005", "Superior vena cava"),
    "portal_vein_and_splenic_vein": ("110765007", "Portal vein and splenic vein"),
    "pulmonary_artery": ("81040000", "Pulmonary artery"),
    "pulmonary_vein": ("122972007", "Pulmonary vein"),
    "brachiocephalic_trunk": ("12691009", "Brachiocephalic artery"),
    "spinal_cord": ("2748008", "Spinal cord"),
    "prostate": ("41216001", "Prostate"),
    "seminal_vesicle": ("64739004", "Seminal vesicle"),
    "uterus": ("35039007", "Uterus"),
    "heart": ("80891009", "Heart"),
    "heart_atrium_left": ("82471001", "Left atrium"),
    "heart_atrium_right": ("73829009", "Right atrium"),
    "heart_ventricle_left": ("87878005", "Left ventricle of heart"),
    "heart_ventricle_right": ("53085002", "Right ventricle of heart"),
    "heart_myocardium": ("74281007", "Myocardium"),
    "lung_middle_lobe_right": ("72481006", "Middle lobe of right lung"),
    "trachea": ("44567001", "Trachea"),
    "thyroid_gland": ("69748006", "Thyroid gland"),
    "brain": ("12738006", "Brain"),
    "face": ("89545001", "Face"),
    "skull": ("89546000", "Skull"),
    "sternum": ("56873002", "Sternum"),
    "sacrum": ("54735007", "Sacrum"),
    "pelvis": ("118645006", "Bone structure of pelvis"),
    "vertebrae": ("51282000", "Vertebra"),
    "ribs": ("113197003", "Rib"),
    "skin": ("39937001", "Skin"),
}
"""Organs of which there is one, or whose side is part of the code's meaning."""

PAIRED: dict[str, tuple[str, str]] = {
    "kidney": ("64033007", "Kidney"),
    "adrenal_gland": ("23451007", "Adrenal gland"),
    "femoral_head": ("2812003", "Head of femur"),
    "femur": ("71341001", "Femur"),
    "humerus": ("85050009", "Humerus"),
    "scapula": ("79601000", "Scapula"),
    "clavicula": ("51299004", "Clavicle"),
    "lung": ("39607008", "Lung"),
    "lung_upper_lobe": ("45653009", "Upper lobe of lung"),
    "lung_lower_lobe": ("90572001", "Lower lobe of lung"),
    "iliac_artery": ("73634005", "Common iliac artery"),
    "iliac_vena": ("46027005", "Common iliac vein"),
    "subclavian_artery": ("36765005", "Subclavian artery"),
    "common_carotid_artery": ("32062004", "Common carotid artery"),
    "brachiocephalic_vein": ("8887007", "Brachiocephalic vein"),
    "gluteus_maximus": ("181674001", "Gluteus maximus muscle"),
    "gluteus_medius": ("78333006", "Gluteus medius muscle"),
    "gluteus_minimus": ("75297007", "Gluteus minimus muscle"),
    "autochthon": ("244849004", "Deep muscle of back"),
    "iliopsoas": ("68455001", "Iliopsoas muscle"),
}
"""Organs with two sides: the name alone, with _left or with _right."""

TISSUES: dict[str, tuple[str, str]] = {"muscle": ("91727004", "Muscle"), "fat": ("55603005", "Fat")}

VERTEBRAE: dict[str, str] = {
    **{
        f"c{level}": code
        for level, code in enumerate(
            ("14806007", "39976000", "113205007", "5329002", "36978003", "36054005", "87391001"), start=1
        )
    },
    **{
        f"t{level}": code
        for level, code in enumerate(
            (
                "64864005",
                "53733008",
                "1626008",
                "73071006",
                "56401006",
                "45296009",
                "62487009",
                "11068009",
                "82687006",
                "7610001",
                "12989004",
                "23215003",
            ),
            start=1,
        )
    },
    **{
        f"l{level}": code
        for level, code in enumerate(("66794005", "14293000", "36470004", "11994002", "49668003"), start=1)
    },
    "s1": "65985001",
}
"""{level: code}, of the names vertebrae_l1 ..."""

RIBS = (
    *(
        ("48535007", "First"),
        ("78247007", "Second"),
        ("25888004", "Third"),
        ("25523003", "Fourth"),
        ("15339008", "Fifth"),
    ),
    *(
        ("59558009", "Sixth"),
        ("24915002", "Seventh"),
        ("5953002", "Eighth"),
        ("22565002", "Ninth"),
        ("77644006", "Tenth"),
    ),
    *(("58830002", "Eleventh"), ("43993008", "Twelfth")),
)
"""Of the names rib_left_1 ..."""

TUMOR, CYST = Code("108369006", "Tumor"), Code("367643001", "Cyst")
ABNORMALITIES = {"tumour": TUMOR, "cyst": CYST}
"""What the last word of a name may mean; the rest is the organ."""

READ_AS_TUMOUR = frozenset(("4147007", "52988006", "372087000", "14799000", "86049000"))
"""Mass, lesion, primary, secondary and malignant neoplasm: other programs' words for what viscera calls a tumour."""
TELLS_NOTHING = frozenset(("123037004", "91723000", "85756007", "113343008", "91720002"))
"""Body structure, anatomical structure, tissue, organ: types beside which the organ stands as the region."""

SIDED: dict[str, str] = {
    "18639004": "kidney_left",
    "9846003": "kidney_right",
    "29392005": "adrenal_gland_right",
    "38360007": "adrenal_gland_left",
    "29700009": "subclavian_artery_right",
}
"""Codes with the side in them, which other programs write; read, never written."""


def concept(name: str) -> Concept:
    """Return how DICOM names an organ, in SNOMED CT where it has a code and privately where it has none.

    Args:
        name: As viscera and TotalSegmentator name it, in any of its spellings.

    Example:
        >>> concept("kidney_left").type.meaning, concept("kidney_left").side.meaning
        ('Kidney', 'Left')
        >>> concept("liver_tumour").region.meaning, concept("gills").type.scheme
        ('Liver', '99VISCERA')
    """
    plain = organ_name(name)
    known = _anatomy(plain)
    if known is None:
        known = _abnormality(plain)
    if known is not None:
        return known
    digest = hashlib.sha256(plain.encode()).hexdigest()[:12].upper()
    return Concept(ANATOMY, Code(f"V{digest}", plain_text(readable(plain))[:64], PRIVATE))


def _anatomy(name: str) -> Concept | None:
    """Return the concept of an organ, a side of one, or a tissue."""
    if name in WHOLE:
        return Concept(ANATOMY, Code(*WHOLE[name]))
    if name in PAIRED:
        return Concept(ANATOMY, Code(*PAIRED[name]))
    if name in TISSUES:
        return Concept(TISSUE, Code(*TISSUES[name]))
    organ, _, last = name.rpartition("_")
    if organ in PAIRED and last in SIDE_CODES:
        return Concept(ANATOMY, Code(*PAIRED[organ]), SIDE_CODES[last])
    if organ == "vertebrae" and last in VERTEBRAE:
        return Concept(ANATOMY, Code(VERTEBRAE[last], f"{last.upper()} vertebra"))
    rib, _, side = organ.rpartition("_")
    if rib == "rib" and side in SIDE_CODES and last.isdecimal() and 1 <= int(last) <= len(RIBS) and last[0] != "0":
        value, number = RIBS[int(last) - 1]
        return Concept(ANATOMY, Code(value, f"{number} rib"), SIDE_CODES[side])
    return None


def _abnormality(name: str) -> Concept | None:
    """Return the concept of a tumour or a cyst, of an organ or of none; TotalSegmentator puts the side last."""
    words = name.split("_")
    side = words.pop() if len(words) > 2 and words[-1] in SIDE_CODES else ""
    kind = ABNORMALITIES.get(words[-1])
    if kind is None:
        return None
    if len(words) == 1:
        return Concept(ABNORMAL, kind)
    organ = _anatomy("_".join([*words[:-1], *([side] if side else [])]))
    if organ is None:
        return None
    return Concept(ABNORMAL, kind, None, organ.type, organ.side)


def names_with_codes() -> tuple[str, ...]:
    """Return the names that have a standard code."""
    sides = [f"{organ}_{side}" for organ in PAIRED for side in SIDE_CODES]
    levels = [f"vertebrae_{level}" for level in VERTEBRAE]
    ribs = [f"rib_{side}_{number}" for side in SIDE_CODES for number in range(1, len(RIBS) + 1)]
    organs = [*WHOLE, *PAIRED]
    ill = [f"{organ}_{word}" for organ in organs for word in ABNORMALITIES]
    ill_sides = [f"{organ}_{word}_{side}" for organ in PAIRED for word in ABNORMALITIES for side in SIDE_CODES]
    return (*organs, *sides, *TISSUES, *levels, *ribs, *ABNORMALITIES, *ill, *ill_sides)


def _key(one: Concept) -> tuple[str, ...]:
    """Return what tells concepts apart."""
    codes = (one.type, one.side, one.region, one.region_side)
    return tuple("" if code is None else f"{code.scheme} {code.value}" for code in codes)


@cache
def _names() -> Mapping[tuple[str, ...], str]:
    """Return {what tells the concept: name}."""
    return {_key(concept(name)): name for name in names_with_codes()}


def organ_named(found: Concept, label: str) -> str:
    """Return the name of the organ that another program's segment shows.

    Args:
        found: Its codes, in SNOMED CT.
        label: Its label, as people read it. It counts where no code is known, and where it says more than the codes: one
            side of their organ, or a tumour of it.

    Returns:
        The name as viscera uses it; "" where neither tells.
    """
    by_label = name_of_label(label)
    name = _by_codes(found)
    if not name:
        return by_label
    whole = by_label
    while whole := whole_of(whole) or "":
        if whole == name:
            return by_label
    organ, _, side = by_label.rpartition("_")
    return by_label if organ == name and side in SIDE_CODES else name


def name_of_label(label: str) -> str:
    """Return the organ that a segment's label means, as far as it is a name: letters, digits and underscores.

    Example:
        >>> name_of_label("Kidney, left"), name_of_label("Left kidney"), name_of_label("GTV-1")
        ('kidney_left', 'kidney_left', 'gtv_1')
    """
    return organ_name("".join(letter if letter.isalnum() else " " for letter in label))[:64].strip("_")


def _by_codes(found: Concept) -> str:
    """Return the name of a concept by its codes alone, as other programs put them; "" for one that is not known."""
    kind = found.type
    if kind.scheme != "SCT":
        return ""
    if kind.value in SIDED:
        return SIDED[kind.value]
    if kind.value in TELLS_NOTHING and found.region is not None:
        return _by_codes(Concept(found.category, found.region, found.region_side or found.side))
    if kind.value in READ_AS_TUMOUR:
        return _by_codes(Concept(found.category, TUMOR, found.side, found.region, found.region_side))
    if kind in (TUMOR, CYST) or kind.value in (TUMOR.value, CYST.value):
        exact = Concept(ABNORMAL, kind, None, found.region, found.region_side or found.side)
        return _names().get(_key(exact), "")
    plain = Concept(found.category, kind, found.side or found.region_side)
    return _names().get(_key(plain)) or ""


@cache
def standard_codes() -> tuple[str, ...]:
    """Return every SNOMED CT number that is read, organs and sides alike."""
    found = [one for name in names_with_codes() for one in (concept(name).type, concept(name).side) if one]
    return tuple(dict.fromkeys((*(one.value for one in found), *SIDED, *READ_AS_TUMOUR, *TELLS_NOTHING)))


def plain_text(text: str) -> str:
    """Return a text that every character set of DICOM holds."""
    return "".join(letter if letter.isascii() and letter.isprintable() and letter != "\\" else "?" for letter in text)


def cielab(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return a colour as RecommendedDisplayCIELabValue stores it.

    Args:
        rgb: Red, green, blue (sRGB) in 0..255.

    Returns:
        L* of 0..100, a* and b* of -128..127, each spread over 0..65535.

    Source: PS3.3 C.10.7.1.1 (the encoding); IEC 61966-2-1 (sRGB); CIE 15 (L*a*b*). The white point is D65, as in DCMTK and
        highdicom, so that the colour that they show is the one that was meant.

    Example:
        >>> cielab((255, 255, 255)), cielab((0, 0, 0))
        ((65535, 32896, 32896), (0, 32896, 32896))
    """
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in (one / 255 for one in rgb)
    )
    xyz = (
        (0.412453 * red + 0.357580 * green + 0.180423 * blue) / 0.950456,
        0.212671 * red + 0.715160 * green + 0.072169 * blue,
        (0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.088754,
    )
    x, y, z = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in xyz)
    lightness, a, b = 116 * y - 16, 500 * (x - y), 200 * (y - z)
    scaled = (lightness * 655.35, (a + 128) * 257, (b + 128) * 257)
    first, second, third = (min(65535, max(0, round(value))) for value in scaled)
    return first, second, third
