"""Organ names, label spaces, and maps from a data set's labels to a label space.

Organs are named as in TotalSegmentator (liver, kidney_left, urinary_bladder ...). A label space is the ordered list of
organs that a network tells apart; index 0 is background. Data sets name and number their labels otherwise, split what a
space merges (left and right kidney) and lack what it holds; ``fit`` says which value becomes which index, which organs of
the space are thereby annotated, and, in sentences for the user, what is merged, unknown or lost.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from viscera.errors import LabelError, did_you_mean

TUMOUR = "tumour"
"""A tumour of whatever organ, as FLARE23 labels it. In a space without tumours its voxels are unknown, not background."""

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
"""A label that belongs to its whole wherever a space holds only the whole. Other lesions tell by their words: ``whole_of``."""

TUMOUR_WORDS = frozenset(
    (
        *("tumour", "tumours", "tumor", "tumors", "cancer", "cancers", "carcinoma", "adenocarcinoma", "neoplasm"),
        *("malignancy", "mass", "masses", "lesion", "lesions", "metastasis", "metastases", "hcc", "pdac", "pnet"),
        "rcc",
    )
)
LESION_WORDS = TUMOUR_WORDS | {
    *("cyst", "cysts", "nodule", "nodules", "abscess", "haematoma", "hematoma", "necrosis", "infarct"),
}
"""Words of names that mean a part of an organ which has fallen ill: what remains of the name is the organ."""

ADJECTIVES = {
    "hepatic": "liver",
    "renal": "kidney",
    "pancreatic": "pancreas",
    "splenic": "spleen",
    "gastric": "stomach",
    "colonic": "colon",
    "rectal": "rectum",
    "duodenal": "duodenum",
    "esophageal": "esophagus",
    "adrenal": "adrenal_gland",
    "pulmonary": "lung",
}
"""{first word of a lesion's name: its organ}."""

OUTSIDE = (
    *("portal_vein_and_splenic_vein", "portal_and_splenic_vein", "prostate", "uterus", "seminal_vesicle"),
    *("seminal_vesicles", "iliac_artery", "iliac_vena", "iliac_vein", "iliac_arteries", "iliac_veins"),
    *("vertebra", "vertebrae", "rib", "ribs", "pelvis", "hip", "hips", "sacrum", "femur", "femurs", "lung"),
    *("lungs", "heart", "atrial_appendage", "muscle", "muscles", "gluteus", "autochthon", "iliopsoas", "fat"),
    *("skin", "body", "bone", "bones", "costal_cartilages", "sternum", "clavicula", "scapula", "humerus"),
    *("trachea", "superior_vena_cava", "brachiocephalic_vein", "brachiocephalic_trunk", "pulmonary_vein"),
    *("pulmonary_artery", "subclavian_artery", "common_carotid_artery", "thyroid_gland", "brain", "skull"),
    "face",
)
"""Beginnings of names that viscera knows beside those of the label spaces, most of them TotalSegmentator's."""


def has_lesions(organ: str) -> bool:
    """Tell whether an organ's voxels are lesions, of which a patient may have any number.

    Example:
        >>> has_lesions("tumour"), has_lesions("liver_tumour"), has_lesions("liver")
        (True, True, False)
    """
    return organ == TUMOUR or organ.endswith(f"_{TUMOUR}")


def organ_name(text: str) -> str:
    """Return the name that viscera uses: lower case, underscores, aliases resolved.

    Example:
        >>> organ_name("Left Kidney"), organ_name("bladder"), organ_name("liver")
        ('kidney_left', 'urinary_bladder', 'liver')
    """
    name = "_".join(text.strip().lower().replace("-", " ").replace("_", " ").split())
    return ALIASES.get(name, name)


def whole_of(name: str) -> str | None:
    """Return the whole that a side or a lesion belongs to; "" for a lesion of no organ that is named, None for a whole.

    Example:
        >>> whole_of("kidney_left"), whole_of("renal_cyst"), whole_of("cyst"), whole_of("liver")
        ('kidney', 'kidney', '', None)
    """
    if name in PART_OF:
        return PART_OF[name]
    words = name.split("_")
    rest = [word for word in words if word not in LESION_WORDS]
    if len(rest) == len(words):
        return None
    organ = organ_name("_".join(ADJECTIVES.get(word, word) for word in rest))
    return organ if is_known(organ) else ""


def is_known(name: str) -> bool:
    """Tell whether a name is one of an organ or a structure that viscera knows, even if no label space holds it.

    Example:
        >>> is_known("liver"), is_known("vertebrae_l5"), is_known("arota")
        (True, True, False)
    """
    known = {*SIDES, *PART_OF, *(organ for space in SPACES.values() for organ in space.organs)}
    plain = name.replace("/", "_") + "_"
    return name in known or any(plain.startswith(f"{beginning}_") for beginning in OUTSIDE)


def readable(organ: str) -> str:
    """Return an organ's name for people.

    Example:
        >>> readable("inferior_vena_cava")
        'inferior vena cava'
    """
    return organ.replace("_", " ")


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
        """Return the index of an organ, by any of its names.

        Raises:
            LabelError: The space does not hold it.
        """
        name = organ_name(organ)
        if name not in self.organs:
            known = ", ".join(self.organs)
            raise LabelError(
                f"label space '{self.name}' has no '{organ}'", f"{did_you_mean(name, self.organs)} It holds {known}."
            )
        return self.organs.index(name) + 1


def label_space_from_json(found: object) -> LabelSpace:
    """Return the label space that a file describes: {"name": text, "organs": [text, ...]}.

    Raises:
        LabelError: It describes none.
    """
    name, organs = (found.get("name"), found.get("organs")) if isinstance(found, dict) else (None, None)
    if (
        not isinstance(name, str)
        or not isinstance(organs, list)
        or not all(isinstance(one, str) and one for one in organs)
    ):
        raise LabelError("a label space needs a name and a list of organs", "Write the file anew.")
    return LabelSpace(name, tuple(str(organ) for organ in organs))


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
"""What the bundled weights know."""

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
            f"'{organ}' is listed as annotated, but no label holds it",
            f"{did_you_mean(organ, possible)} The labels are {', '.join(sorted(possible))}. "
            "Correct annotated.json or the label names.",
        )
    complete = tuple(organ for organ in space.organs if organ in given)
    begun = {_target(space, name) for name in names.values() if name in given}
    values, lost, unlisted, unknown_values, notes = {}, [], [], set(unknown), []
    for value, name in names.items():
        target = _target(space, name)
        if target is None and (doubt := _doubt(space, name, complete)):
            unknown_values.add(value)
            notes.append(doubt)
        elif target is None:
            values[value] = 0
            if name in given and any(side in space.organs for side in SIDES.get(name, ())):
                notes.append(f"{name}: label space '{space.name}' tells its sides apart, so unknown in this case")
            elif name in given:
                lost.append(name)
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


def _doubt(space: LabelSpace, name: str, annotated: Collection[str]) -> str:
    """Say why the voxels of a label that is no organ of the space may be one all the same; "" where they are not."""
    if name == TUMOUR:
        return "tumour: in no organ of the label space; its voxels are unknown, not background"
    chain = [name]
    while whole := whole_of(chain[-1]):
        chain.append(whole)
    if whole == "":
        return f"{name}: a lesion whose name does not tell its organ; its voxels are unknown, not background"
    sides = [side for one in chain for side in SIDES.get(one, ()) if side in space.organs]
    if sides and (len(chain) > 1 or set(sides) & set(annotated)):
        return f"{name}: of {' or '.join(sides)}, nothing says which; its voxels are unknown, not background"
    if is_known(chain[-1]):
        return ""
    known = [*space.organs, *ALIASES, *(organ for one in SPACES.values() for organ in one.organs), *OUTSIDE]
    near = did_you_mean(name[:60], known)
    remedy = f"{near} Correct the name in the data set" if near else " If it is part of an organ, name it so"
    return f"{name}: viscera does not know this name; its voxels are unknown, not background.{remedy}"


def _target(space: LabelSpace, name: str) -> str | None:
    """Return the organ of the space that a label belongs to: itself, any tumour's, or the whole that it is part of."""
    if TUMOUR in space.organs and name not in space.organs and TUMOUR_WORDS & set(name.split("_")):
        return TUMOUR
    whole: str | None = name
    while whole and whole not in space.organs:
        whole = whole_of(whole)
    return whole or None
