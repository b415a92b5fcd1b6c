"""What organs are called in structure sets: by a table of the user's, else as AAPM's TG-263 says, else by their own name."""

import csv
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from viscera.colours import COLOURS
from viscera.errors import FileError, LabelError, did_you_mean
from viscera.json_text import read_json, read_text
from viscera.labels import ALIASES, is_known, organ_name, whole_of

LONGEST_NAME = 64
"""Characters that DICOM allows for ROI Name (VR LO, PS3.5 table 6.2-1)."""

TG263: dict[str, str] = {
    "liver": "Liver",
    "kidney": "Kidneys",
    "kidney_left": "Kidney_L",
    "kidney_right": "Kidney_R",
    "spleen": "Spleen",
    "pancreas": "Pancreas",
    "stomach": "Stomach",
    "gallbladder": "Gallbladder",
    "esophagus": "Esophagus",
    "duodenum": "Duodenum",
    "small_bowel": "Bowel_Small",
    "colon": "Colon",
    "rectum": "Rectum",
    "urinary_bladder": "Bladder",
    "aorta": "A_Aorta",
    "inferior_vena_cava": "V_Venacava_I",
    "superior_vena_cava": "V_Venacava_S",
    "pulmonary_vein": "V_Pulmonary",
    "adrenal_gland": "Glnd_Adrenal",
    "adrenal_gland_left": "Glnd_Adrenal_L",
    "adrenal_gland_right": "Glnd_Adrenal_R",
    "femoral_head_left": "Femur_Head_L",
    "femoral_head_right": "Femur_Head_R",
    "femur_left": "Femur_L",
    "femur_right": "Femur_R",
    "humerus_left": "Humerus_L",
    "humerus_right": "Humerus_R",
    "scapula_left": "Scapula_L",
    "scapula_right": "Scapula_R",
    "clavicula_left": "Clavicle_L",
    "clavicula_right": "Clavicle_R",
    "spinal_cord": "SpinalCord",
    "prostate": "Prostate",
    "seminal_vesicles": "SeminalVes",
    "uterus": "Uterus",
    "pelvis": "Bone_Pelvic",
    "lung": "Lungs",
    "lung_left": "Lung_L",
    "lung_right": "Lung_R",
    "heart": "Heart",
    "trachea": "Trachea",
    "thyroid_gland": "Glnd_Thyroid",
    "brain": "Brain",
    "skull": "Skull",
    "muscle": "Musc",
    "skin": "Skin",
}
"""{organ: its name in TG-263}, only where the two mean the same structure.

Without an entry, so by their own names: both femoral heads as one, the portal with the splenic vein, whole vertebrae (TG-263 has
their bodies), all ribs as one, fat, and tumours, which TG-263 names as targets by whoever draws them. TG-263 describes its femoral
heads as head and neck.

Source: Mayo et al. 2018, "American Association of Physicists in Medicine Task Group 263", Int J Radiat Oncol Biol Phys 100(4),
doi:10.1016/j.ijrobp.2017.12.013; each name compared with the list that HL7's CodeX radiation therapy guide maps to SNOMED CT.
"""


def roi_names_of(organs: Iterable[str], table: Mapping[str, str]) -> dict[str, str]:
    """Return {organ: what its ROI is called}.

    Args:
        organs: Names of organs.
        table: The user's {organ: ROI name}, which goes before TG-263's.

    Raises:
        LabelError: A name is empty, too long or unwritable, or two organs have the same.

    Example:
        >>> roi_names_of(["liver", "kidney_left", "femoral_head"], {"liver": "Leber"})
        {'liver': 'Leber', 'kidney_left': 'Kidney_L', 'femoral_head': 'femoral_head'}
    """
    own = {organ_name(organ): name for organ, name in table.items()}
    found = {organ: own.get(organ_name(organ), TG263.get(organ_name(organ), organ)) for organ in organs}
    _require_names(found, "the ROI names", None)
    return found


def load_roi_names(file: Path, *, organs: Iterable[str] = ()) -> dict[str, str]:
    """Read a user's table of what ROIs are called.

    Args:
        file: JSON, {"liver": "Leber"}, or CSV with two columns, organ and ROI name (a header "organ,roi" may stand above).
        organs: Names beside those that viscera knows, such as those of the weights.

    Returns:
        {organ: ROI name}.

    Raises:
        FileError: It cannot be read as such a table.
        LabelError: It holds an unknown organ, an organ twice, a name twice, or one that DICOM does not allow.
    """
    known = {*map(organ_name, organs)}
    found: dict[str, str] = {}
    for text, name in _pairs(file):
        organ = _organ(text, known, file)
        if organ in found:
            raise LabelError(f"{file} names '{organ}' twice", "Keep one of the two.", file=file)
        found[organ] = name
    _require_names(found, str(file), file)
    return found


def load_roi_organs(file: Path, *, organs: Iterable[str] = ()) -> dict[str, str]:
    """Read a user's table of what ROIs mean, for reading structure sets: several names may stand for one organ.

    Args:
        file: JSON, {"Leber": "liver", "LEBER_neu": "liver"}, or CSV with two columns, ROI name and organ (header "roi,organ").
        organs: Names beside those that viscera knows.

    Returns:
        {ROI name: organ}.

    Raises:
        FileError: It cannot be read as such a table.
        LabelError: It holds an unknown organ, or a ROI name for two organs.
    """
    known = {*map(organ_name, organs)}
    found: dict[str, str] = {}
    for name, text in _pairs(file):
        organ = _organ(text, known, file)
        if found.setdefault(name, organ) != organ:
            raise LabelError(f"{file}: ROI '{name}' is both {found[name]} and {organ}", "Keep one.", file=file)
    return found


def organ_of(roi_name: str, table: Mapping[str, str] | None = None) -> str | None:
    """Return the organ that an ROI's name means: by the user's table, then TG-263, then viscera's names; None: not known.

    Capitals and spaces at the ends do not count.

    Example:
        >>> organ_of("KIDNEY_L"), organ_of("Left kidney"), organ_of("Leber", {"leber": "liver"}), organ_of("PTV1")
        ('kidney_left', 'kidney_left', 'liver', None)
    """
    plain = roi_name.strip().casefold()
    for name, organ in (table or {}).items():
        if name.strip().casefold() == plain:
            return organ_name(organ)
    for organ, name in TG263.items():
        if name.casefold() == plain:
            return organ
    organ = organ_name(roi_name)
    return organ if _is_organ(organ) else None


def near_organ(roi_name: str) -> str:
    """Return " Did you mean 'liver'?" for an ROI's name that is like an organ's, or "" where none is."""
    names = {name.casefold(): organ for organ, name in TG263.items()} | ALIASES | {organ: organ for organ in COLOURS}
    near = difflib.get_close_matches(organ_name(roi_name[:LONGEST_NAME]), names, n=1)
    return f" Did you mean '{names[near[0]]}'?" if near else ""


def _is_organ(name: str) -> bool:
    return name in COLOURS or name in TG263 or is_known(name) or bool(whole_of(name))


def _organ(text: str, known: set[str], file: Path) -> str:
    """Return the organ that a table names.

    Raises:
        LabelError: It is not one.
    """
    organ = organ_name(text)
    if organ not in known and not _is_organ(organ):
        near = did_you_mean(organ, [*known, *COLOURS, *TG263, *ALIASES])
        raise LabelError(f"{file}: '{text[:80]}' is not an organ", f"{near} Correct the table.", file=file)
    return organ


def _pairs(file: Path) -> list[tuple[str, str]]:
    """Return the two columns of a table, in the order of its lines.

    Raises:
        FileError: It is not a table.
    """
    remedy = 'Write {"liver": "Leber"} as JSON, or two columns as CSV.'
    if file.suffix.lower() == ".csv":
        lines = read_text(file, remedy=remedy).splitlines()
        delimiter = ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
        rows = [[field.strip() for field in row] for row in csv.reader(lines, delimiter=delimiter) if any(row)]
        if rows and sorted(word.casefold() for word in rows[0]) == ["organ", "roi"]:
            rows = rows[1:]
        for row in rows:
            if len(row) != 2:
                raise FileError(f"{file}: a line has {len(row)} columns, not 2", remedy, file=file)
        pairs = [(row[0], row[1]) for row in rows]
    else:
        pairs = []
        for key, value in read_json(file, remedy=remedy).items():
            if not isinstance(value, str):
                raise FileError(f"{file}: '{key[:80]}' has no text beside it", remedy, file=file)
            pairs.append((key.strip(), value.strip()))
    if not pairs:
        raise FileError(f"{file} names no ROI", remedy, file=file)
    return pairs


def _require_names(names: Mapping[str, str], where: str, file: Path | None) -> None:
    """Raise unless every ROI has a name of its own that DICOM allows."""
    seen: dict[str, str] = {}
    for organ, name in names.items():
        if not name.strip() or len(name) > LONGEST_NAME or "\\" in name or not name.isprintable():
            raise LabelError(
                f"{where}: '{name[:80]}' for {organ} cannot be the name of an ROI",
                f"Use 1 to {LONGEST_NAME} letters without a backslash.",
                file=file,
            )
        other = seen.setdefault(name.strip().casefold(), organ)
        if other != organ:
            raise LabelError(
                f"{where}: {other} and {organ} are both called '{name}'", "Give each its own name.", file=file
            )
