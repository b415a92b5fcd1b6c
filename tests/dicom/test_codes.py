"""What organs are called in SNOMED CT: against pydicom's own tables; colours against scikit-image."""

import numpy as np
import pytest
from pydicom.sr._concepts_dict import concepts
from skimage.color import rgb2lab

from viscera.colours import COLOURS
from viscera.dicom.codes import (
    ABNORMAL,
    ANATOMY,
    LEFT,
    PRIVATE,
    RIGHT,
    TISSUE,
    Code,
    Concept,
    cielab,
    concept,
    names_with_codes,
    organ_named,
)
from viscera.dicom.seg import AI, BACKGROUND, SEGMENTATION, SOURCE
from viscera.labels import SPACES

SNOMED = {code: meaning for entries in concepts["SCT"].values() for code, (meaning, _) in entries.items()}
IN_PYDICOM_AS = {
    "10200004": "Liver structure (body structure)",
    "64033007": "Kidney structure (body structure)",
    "78961009": "Splenic structure (body structure)",
    "15776009": "Pancreatic structure (body structure)",
    "69695003": "Stomach structure (body structure)",
    "28231008": "Gallbladder structure (body structure)",
    "32849002": "Esophagus",
    "38848004": "Duodenum",
    "30315005": "Small intestine",
    "71854001": "Colon structure (body structure)",
    "34402009": "Rectum structure (body structure)",
    "89837001": "Urinary bladder structure (body structure)",
    "15825003": "Aortic structure (body structure)",
    "64131007": "Inferior vena cava structure (body structure)",
    "23451007": "Adrenal structure (body structure)",
    "2812003": "Structure of head of femur (body structure)",
    "2748008": "Spinal cord structure (body structure)",
    "118645006": "Pelvis",
    "108369006": "Tumor",
}
"""{code: what pydicom's tables, made from the standard, call it}, for the organs that viscera's networks tell apart."""


def test_every_organ_of_a_label_space_or_with_a_colour_has_a_standard_code():
    organs = {organ for space in SPACES.values() for organ in space.organs} | set(COLOURS)
    assert [organ for organ in organs if concept(organ).type.scheme != "SCT"] == []


def test_codes_mean_what_the_standard_says():
    for code, meaning in IN_PYDICOM_AS.items():
        assert SNOMED[code] == meaning
    used = {concept(organ).type.value for space in SPACES.values() for organ in space.organs}
    assert used <= set(IN_PYDICOM_AS)


def test_every_code_that_pydicom_knows_shares_a_word_with_its_meaning_there():
    """A mistyped digit would name another part of the body."""
    same = {"pancreatic": "pancreas", "splenic": "spleen", "aortic": "aorta", "adrenal": "adrenal", "femur": "femur"}
    same |= {"prostatic": "prostate", "tracheal": "trachea", "pulmonary": "pulmonary", "ventricular": "ventricle"}
    compared = 0
    for name in names_with_codes():
        for code in (concept(name).type, concept(name).region):
            if code is not None and code.value in SNOMED:
                there = {same.get(word, word) for word in SNOMED[code.value].lower().replace("(", " ").split()}
                assert there & set(code.meaning.lower().split()), (name, SNOMED[code.value])
                compared += 1
    assert compared > 150


def test_sides_categories_and_words_of_dicom_are_what_the_standard_says():
    dicom = {code: meaning for entries in concepts["DCM"].values() for code, (meaning, _) in entries.items()}
    assert [SNOMED[code.value] for code in (LEFT, RIGHT, TISSUE)] == ["Left", "Right", "Tissue"]
    assert SNOMED[ABNORMAL.value] == "Morphologically Abnormal Structure"
    for code in (AI, SEGMENTATION, SOURCE, BACKGROUND):
        assert dicom[code.value].lower() == code.meaning.lower()


def test_no_two_names_mean_the_same():
    concepts_of = [concept(name) for name in names_with_codes()]
    assert len({(one.type, one.side, one.region, one.region_side) for one in concepts_of}) == len(concepts_of)


def test_sides_and_categories():
    assert concept("kidney_left") == Concept(ANATOMY, Code("64033007", "Kidney"), LEFT)
    assert concept("adrenal_gland_right").side == RIGHT
    assert concept("kidney").side is None
    assert concept("fat").category == TISSUE
    tumour = concept("liver_tumour")
    assert (tumour.category, tumour.type.meaning, tumour.region.meaning) == (ABNORMAL, "Tumor", "Liver")
    cyst = concept("kidney_cyst_left")
    assert (cyst.type.meaning, cyst.region.meaning, cyst.region_side) == ("Cyst", "Kidney", LEFT)
    assert concept("Left Kidney") == concept("kidney_left")
    assert concept("vertebrae_L5").type == concept("vertebrae_l5").type == Code("49668003", "L5 vertebra")
    assert concept("rib_right_12") == Concept(ANATOMY, Code("43993008", "Twelfth rib"), RIGHT)


@pytest.mark.parametrize(
    "name", ["colon_left", "rib_left_13", "rib_left_01", "vertebrae_l7", "hip_left", "organ_2", "gills"]
)
def test_a_name_without_a_code_gets_a_private_one_of_its_own(name):
    found = concept(name)
    assert found.type.scheme == PRIVATE
    assert found.type.value != concept("antlers").type.value
    assert len(found.type.value) <= 16  # SH
    assert concept(name) == found


def test_a_private_meaning_holds_no_letter_that_dicom_cannot_store():
    assert concept("größe\\x" * 20).type.meaning.isascii()
    assert "\\" not in concept("größe\\x" * 20).type.meaning
    assert len(concept("x" * 99).type.meaning) == 64  # LO


def test_codes_lead_back_to_the_name():
    for name in names_with_codes():
        assert organ_named(concept(name), "Segment 1") == name


KIDNEY, LIVER, TYPELESS = concept("kidney"), concept("liver"), Concept(ANATOMY, Code("", "", ""))


@pytest.mark.parametrize(
    ("found", "label", "name"),
    [
        (KIDNEY, "Kidney, left", "kidney_left"),
        (LIVER, "spleen", "liver"),
        (LIVER, "Liver tumor", "liver_tumour"),
        (LIVER, "segment 3", "liver"),
        (TYPELESS, "Left Kidney", "kidney_left"),
        (TYPELESS, "GTV-1", "gtv_1"),
        (TYPELESS, "", ""),
        (concept("gills"), "gills", "gills"),
        (Concept(ANATOMY, Code("18639004", "Left kidney")), "a", "kidney_left"),
        (Concept(TISSUE, TISSUE, None, LIVER.type), "a", "liver"),
        (Concept(ABNORMAL, Code("4147007", "Mass"), None, LIVER.type), "a", "liver_tumour"),
        (Concept(ABNORMAL, Code("52988006", "Lesion")), "a", "tumour"),
        (Concept(ANATOMY, KIDNEY.type, None, Code("818981001", "Abdomen")), "a", "kidney"),
        (Concept(ANATOMY, Code("10200004", "Liver", "99MINE")), "mine", "mine"),
    ],
)
def test_other_programs_codes_and_labels_lead_to_a_name(found, label, name):
    assert organ_named(found, label) == name


def test_cielab_is_what_scikit_image_computes():
    grid = [(r, g, b) for r in range(0, 256, 51) for g in range(0, 256, 51) for b in range(0, 256, 51)]
    colours = [*COLOURS.values(), *grid]
    lab = rgb2lab(np.array([colours], np.uint8))[0]
    expected = np.column_stack((lab[:, 0] * 655.35, (lab[:, 1] + 128) * 257, (lab[:, 2] + 128) * 257))
    assert np.abs(np.array([cielab(one) for one in colours]) - expected).max() < 3  # of 65535: rounded constants
