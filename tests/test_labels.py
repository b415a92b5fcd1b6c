import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab

from viscera.colours import COLOURS, colour
from viscera.errors import LabelError
from viscera.labels import (
    ABDOMENCT1K,
    ALIASES,
    FLARE13,
    PART_OF,
    SIDES,
    SPACES,
    TUMOUR,
    ZHANG12,
    LabelSpace,
    fit,
    is_known,
    label_space_from_json,
    organ_name,
    readable,
    whole_of,
)
from viscera.synthesis.canvas import ORGANS

TWO = LabelSpace("two", ("liver", "kidney"))
SIDED = LabelSpace("sided", ("kidney_left", "kidney_right", "liver"))
KIDNEYS = {1: "kidney_left", 2: "kidney_right"}


# --- names ---


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Left Kidney", "kidney_left"),
        ("  LIVER ", "liver"),
        ("small-intestine", "small_bowel"),
        ("gall  bladder", "gallbladder"),
        ("_gall__bladder_", "gallbladder"),
        ("Inferior_Vena-Cava", "inferior_vena_cava"),
        ("Oesophagus", "esophagus"),
        ("cancer", TUMOUR),
        ("something new", "something_new"),
    ],
)
def test_names_are_brought_to_one_form(text, name):
    assert organ_name(text) == name


@given(st.text())
def test_a_name_of_viscera_stays_itself(text):
    assert organ_name(organ_name(text)) == organ_name(text)


def test_no_alias_leads_to_another_alias():
    assert not set(ALIASES.values()) & set(ALIASES)


def test_sides_are_parts_of_their_whole():
    assert all(PART_OF[side] == whole for whole, sides in SIDES.items() for side in sides)


def test_people_read_names_without_underscores():
    assert readable("inferior_vena_cava") == "inferior vena cava"


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("kidney_left", "kidney"),
        ("renal_cyst", "kidney"),
        ("left_kidney_cyst", "kidney_left"),
        ("hepatic_metastases", "liver"),
        ("liver_tumour", "liver"),
        ("cyst", ""),
        ("arota_tumour", ""),
        ("portal_vein_mass", ""),
        ("liver", None),
        ("cystic_duct", None),
    ],
)
def test_the_whole_of_a_side_or_a_lesion_is_told_by_its_name(name, whole):
    assert whole_of(name) == whole


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("kidney", True),
        ("kidney_cyst", True),
        ("adrenal_gland", True),
        ("spinal_cord", True),
        ("vertebrae_l5", True),
        ("prostate/uterus", True),
        ("rib", True),
        ("ribcage", False),
        ("left_rib", False),
        ("arota", False),
        ("", False),
    ],
)
def test_a_name_is_known_as_a_whole_or_by_the_words_that_it_begins_with(name, known):
    assert is_known(name) is known


# --- spaces ---


def test_a_space_comes_from_json_as_it_was_written():
    assert label_space_from_json({"name": "two", "organs": ["liver", "kidney"]}) == TWO


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        "two",
        {},
        {"name": "two"},
        {"organs": ["liver"]},
        {"name": 2, "organs": ["liver"]},
        {"name": "two", "organs": "liver"},
        {"name": "two", "organs": {"liver": 1}},
        {"name": "two", "organs": ["liver", 2]},
        {"name": "two", "organs": ["liver", ""]},
        {"name": "two", "organs": ["liver", None]},
    ],
)
def test_what_is_no_label_space_is_refused(found):
    with pytest.raises(LabelError, match=r"^a label space needs a name and a list of organs\. Write the file anew\.$"):
        label_space_from_json(found)


def test_the_published_spaces_have_their_indices():
    # The tables of labels of Zhang 2025, FLARE23 and AbdomenCT-1K.
    assert ZHANG12.index("bladder") == 1
    assert ZHANG12.index("kidney") == 4
    assert ZHANG12.index("pancreas") == 11
    assert len(ZHANG12.classes) == 12
    assert FLARE13.labels[1] == "liver"
    assert FLARE13.labels[2] == "kidney_right"
    assert FLARE13.labels[13] == "kidney_left"
    assert ABDOMENCT1K.labels == {1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas"}
    assert ABDOMENCT1K.classes[0] == "background"
    assert all(SPACES[name].name == name for name in SPACES)
    assert all(organ == organ_name(organ) for space in SPACES.values() for organ in space.organs)


@pytest.mark.parametrize("organs", [(), ("liver", "liver"), tuple(f"organ_{i}" for i in range(256))])
def test_spaces_that_bytes_cannot_hold_are_refused(organs):
    with pytest.raises(LabelError, match=rf"label space 'odd' needs 1 to 255 different organs, got {len(organs)}"):
        LabelSpace("odd", organs)


def test_a_space_may_hold_255_organs():
    assert LabelSpace("full", tuple(f"organ_{i}" for i in range(255))).index("organ_254") == 255


def test_a_misspelt_organ_gets_the_right_name():
    with pytest.raises(
        LabelError, match=r"'zhang12' has no 'spleeen'\. Did you mean 'spleen'\? It holds urinary_bladder"
    ):
        ZHANG12.index("spleeen")
    with pytest.raises(LabelError, match=r"It holds liver, kidney\.$"):
        TWO.index("aorta")


# --- colours ---


def test_colours_are_the_same_in_every_process():
    # Derived by hand: code = 1*97 + 2*98 = 293 for "ab".
    assert colour("ab") == (90 + 293 % 110, 90 + 41, 110 + 22)
    assert colour("liver") == COLOURS["liver"]


@given(st.text(min_size=1))
def test_colours_are_bytes(name):
    assert all(0 <= value <= 255 for value in colour(name))


SEEN = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
"""What is seen of linear RGB (Machado, Oliveira & Fernandes 2009, doi:10.1109/TVCG.2009.113, severity 1)."""

NEIGHBOURS = [
    *[("kidney_right", organ) for organ in ("liver", "duodenum", "colon", "adrenal_gland_right", "inferior_vena_cava")],
    *[("kidney_left", organ) for organ in ("spleen", "stomach", "pancreas", "adrenal_gland_left")],
    *[("adrenal_gland_right", organ) for organ in ("liver", "inferior_vena_cava")],
    *[("adrenal_gland_left", organ) for organ in ("stomach", "spleen", "pancreas")],
    *[("femoral_head_right", organ) for organ in ("urinary_bladder", "pelvis", "muscle")],
]


def distance(one: str, other: str, seen: str) -> float:
    """Return the CIEDE2000 distance of two organs' colours; 2.3 is just noticeable."""
    linear = [
        ((np.array(colour(organ)) / 255 + 0.055) / 1.055) ** 2.4 @ np.transpose(SEEN[seen]) for organ in (one, other)
    ]
    shown = [rgb2lab(1.055 * np.clip(rgb, 0.0031308, 1) ** (1 / 2.4) - 0.055) for rgb in linear]
    return float(deltaE_ciede2000(*shown))


@pytest.mark.parametrize("seen", SEEN)
def test_left_and_right_are_told_apart_by_colour_and_so_are_neighbours(seen):
    for left, right in SIDES.values():
        assert distance(left, right, seen) > 25
    for one, other in NEIGHBOURS:
        assert distance(one, other, seen) > 8, (one, other)


def test_organs_of_one_space_look_different():
    for space in SPACES.values():
        assert len({colour(organ) for organ in space.organs}) == len(space.organs)


# --- fit ---


def test_equal_labels_map_onto_themselves():
    mapped = fit(FLARE13, FLARE13.labels, FLARE13.organs)
    assert mapped.values == {index: index for index in range(1, 14)}
    assert mapped.annotated == FLARE13.organs
    assert (mapped.notes, mapped.unknown) == ((), frozenset())


def test_left_and_right_merge_where_the_space_has_the_whole():
    mapped = fit(TWO, {**KIDNEYS, 7: "liver"}, ["kidney_left", "kidney_right", "liver"])
    assert mapped.values == {1: 2, 2: 2, 7: 1}
    assert mapped.annotated == ("liver", "kidney")
    assert mapped.notes == ("kidney_left: merged into kidney", "kidney_right: merged into kidney")


def test_a_whole_that_both_sides_make_up_may_be_listed_itself():
    assert fit(TWO, KIDNEYS, ["kidneys"]).annotated == ("kidney",)
    assert fit(TWO, KIDNEYS, ["kidneys"]).values == {1: 2, 2: 2}


def test_one_side_alone_leaves_the_whole_unknown():
    mapped = fit(TWO, KIDNEYS, ["kidney_left"])
    assert mapped.values == {1: 0, 2: 0}
    assert mapped.annotated == ()
    assert mapped.notes == ("kidney: not wholly annotated, so unknown in this case",)
    only = fit(TWO, {1: "kidney_left", 2: "liver"}, ["kidney_left", "liver"])
    assert only.values == {1: 0, 2: 1}
    assert only.annotated == ("liver",)


def test_a_whole_says_nothing_about_its_sides():
    mapped = fit(SIDED, {1: "kidney", 2: "liver"}, ["kidney", "liver"])
    assert mapped.values == {1: 0, 2: 3}
    assert mapped.annotated == ("liver",)


def test_a_tumour_of_an_organ_belongs_to_it():
    mapped = fit(TWO, {1: "liver", 2: "liver_tumor"}, ["liver", "liver_tumor"])
    assert mapped.values == {1: 1, 2: 1}
    assert mapped.notes == ("liver_tumour: merged into liver",)


def test_a_tumour_of_its_own_stays_apart():
    space = LabelSpace("with_tumour", ("liver", "liver_tumour"))
    assert fit(space, {1: "liver", 2: "liver_tumour"}, ["liver", "liver_tumour"]).values == {1: 1, 2: 2}


def test_a_tumour_of_an_unannotated_organ_is_not_that_organ():
    mapped = fit(TWO, {1: "liver_tumour"}, ["liver_tumour"])
    assert mapped.values == {1: 0}
    assert mapped.annotated == ()
    assert "liver: not wholly annotated, so unknown in this case" in mapped.notes


def test_a_tumour_of_no_known_organ_is_unknown():
    mapped = fit(FLARE13, {**FLARE13.labels, 14: "tumour"}, [*FLARE13.organs, "tumour"])
    assert mapped.unknown == {14}
    assert 14 not in mapped.values
    assert any("tumour" in note and "unknown, not background" in note for note in mapped.notes)


def test_a_tumour_that_the_space_holds_is_a_class():
    space = LabelSpace("tumour", ("tumour",))
    mapped = fit(space, {14: "lesion"}, ["lesion"])
    assert (mapped.values, mapped.unknown, mapped.annotated) == ({14: 1}, frozenset(), ("tumour",))


@pytest.mark.parametrize("name", ["flare14", "tumour"])
def test_a_tumour_of_an_organ_is_a_tumour_where_the_space_holds_tumours(name):
    space = SPACES[name]
    labels = {1: "liver", 2: "liver_tumor", 3: "pancreas_tumor", 14: "tumour"}
    mapped = fit(space, labels, list(labels.values()))
    assert {value: space.classes[mapped.values[value]] for value in (2, 3, 14)} == dict.fromkeys((2, 3, 14), "tumour")
    assert "tumour" in mapped.annotated
    assert {"liver_tumour: merged into tumour", "pancreas_tumour: merged into tumour"} <= set(mapped.notes)


@pytest.mark.parametrize("name", ["flare14", "tumour"])
def test_tumours_of_one_organ_do_not_annotate_those_of_all_and_are_then_unknown(name):
    mapped = fit(SPACES[name], {1: "liver", 2: "liver_tumour"}, ["liver", "liver_tumour"])
    assert mapped.values[2] == 0  # with the tumour unannotated: not known, and no liver either
    assert "tumour" not in mapped.annotated
    assert "tumour: not wholly annotated, so unknown in this case" in mapped.notes


def test_ignored_values_stay_unknown():
    mapped = fit(TWO, {1: "liver"}, ["liver"], unknown=[9])
    assert mapped.unknown == {9}
    assert mapped.values == {1: 1}


def test_organs_that_the_space_lacks_are_said():
    mapped = fit(TWO, {1: "liver", 2: "aorta", 3: "spleen"}, ["liver", "aorta", "spleen"])
    assert mapped.values == {1: 1, 2: 0, 3: 0}
    assert mapped.notes == ("not in label space 'two', so background: aorta, spleen",)


def test_organs_that_are_not_annotated_are_zero_even_if_the_file_holds_them():
    mapped = fit(TWO, {1: "liver", 2: "kidney"}, ["kidney"])
    assert mapped.values == {1: 0, 2: 2}
    assert mapped.annotated == ("kidney",)
    assert mapped.notes == ("not listed as annotated, so unknown in this case: liver",)


def test_an_annotated_organ_without_voxels_is_annotated():
    assert fit(TWO, {1: "liver", 2: "kidney"}, ["kidney", "liver"]).annotated == ("liver", "kidney")


def test_nothing_annotated_is_nothing_known():
    mapped = fit(TWO, {1: "liver", 2: "kidney"}, [])
    assert mapped.values == {1: 0, 2: 0}
    assert mapped.annotated == ()


def test_other_names_of_an_organ_do_as_well():
    mapped = fit(ZHANG12, {1: "Bladder", 2: "Small Intestine"}, ["urinary_bladder", "small-bowel"])
    assert mapped.values == {1: 1, 2: 7}
    assert mapped.annotated == ("urinary_bladder", "small_bowel")


def test_an_organ_that_no_label_holds_cannot_be_annotated():
    with pytest.raises(
        LabelError, match=r"'livr' is listed as annotated, but no label holds it\. Did you mean 'liver'"
    ):
        fit(TWO, {1: "liver"}, ["livr"])
    with pytest.raises(
        LabelError, match=r"'kidney' is listed .* The labels are kidney_left, liver\. Correct annotated.json"
    ):
        fit(TWO, {1: "liver", 2: "kidney_left"}, ["kidney"])


@given(st.sets(st.sampled_from(FLARE13.organs)), st.sampled_from([ZHANG12, FLARE13, ABDOMENCT1K]))
def test_no_voxel_of_an_unannotated_organ_gets_a_class(annotated, space):
    mapped = fit(space, FLARE13.labels, annotated)
    assert set(mapped.values) == set(FLARE13.labels)
    assert {space.classes[index] for index in mapped.values.values()} - {"background"} == set(mapped.annotated)
    for value, index in mapped.values.items():
        name = FLARE13.labels[value]
        assert index == 0 or space.classes[index] in (name, PART_OF.get(name))
        if name in space.organs:
            assert (index > 0) == (name in annotated)


@pytest.mark.parametrize(
    "lesion", ["kidney_cyst", "kidney_tumor", "renal_mass", "kidney_lesions", "renal_cell_carcinoma"]
)
def test_what_has_fallen_ill_in_an_annotated_organ_is_that_organ_or_unknown(lesion):
    mapped = fit(TWO, {1: "kidney", 2: lesion}, ["kidney", lesion])
    assert mapped.values.get(2) == 2 or mapped.unknown == {2}
    assert (mapped.values.get(2) == 2) == (lesion != "renal_cell_carcinoma")  # whose other words are no organ
    assert any(organ_name(lesion) in note for note in mapped.notes)


@pytest.mark.parametrize("lesion", ["cyst", "metastasis", "abscess", "nodules"])
def test_a_lesion_of_no_named_organ_is_unknown(lesion):
    mapped = fit(TWO, {1: "kidney", 2: "liver", 3: lesion}, ["kidney", "liver", lesion])
    assert (mapped.values, mapped.unknown) == ({1: 2, 2: 1}, {3})
    assert mapped.notes == (
        f"{lesion}: a lesion whose name does not tell its organ; its voxels are unknown, not background",
    )


def test_a_lesion_of_one_of_two_sides_is_unknown_where_the_space_tells_them_apart():
    labels = {**KIDNEYS, 3: "kidney_tumour", 4: "kidney_cyst_left"}
    mapped = fit(SIDED, labels, list(labels.values()))
    assert mapped.unknown == {3}
    assert mapped.values[4] == SIDED.index("kidney_left")
    assert (
        "kidney_tumour: of kidney_left or kidney_right, nothing says which; its voxels are unknown, not background"
        in (mapped.notes)
    )


def test_a_lesion_of_a_side_is_unknown_even_if_neither_side_is_annotated_and_a_whole_is_not():
    mapped = fit(SIDED, {1: "liver", 2: "kidney_tumour", 3: "kidney"}, ["liver", "kidney_tumour", "kidney"])
    assert (mapped.values, mapped.unknown) == ({1: 3, 3: 0}, {2})
    assert "kidney: label space 'sided' tells its sides apart, so unknown in this case" in mapped.notes


def test_an_organ_that_a_space_with_tumours_lacks_is_no_tumour():
    labels = {1: "liver", 2: "urinary_bladder", 3: "tumour", 4: "kidney_cyst"}
    mapped = fit(SPACES["flare14"], labels, list(labels.values()))
    assert mapped.values == {1: 1, 2: 0, 3: 14}
    assert mapped.unknown == {4}
    assert "not in label space 'flare14', so background: urinary_bladder" in mapped.notes


def test_an_unknown_name_that_is_near_none_gets_a_remedy_too():
    [note] = fit(TWO, {1: "liver", 2: "qqqq_xyz"}, ["liver", "qqqq_xyz"]).notes
    assert note == (
        "qqqq_xyz: viscera does not know this name; its voxels are unknown, not background."
        " If it is part of an organ, name it so"
    )


def test_a_lesion_of_an_organ_that_the_space_lacks_is_background():
    mapped = fit(TWO, {1: "liver", 2: "spleen_tumor", 3: "lung_nodule"}, ["liver", "spleen_tumor", "lung_nodule"])
    assert (mapped.values, mapped.unknown) == ({1: 1, 2: 0, 3: 0}, frozenset())


@pytest.mark.parametrize("name", ["liver_cancer", "colon_lesion", "pancreatic_mass"])
def test_every_word_for_a_tumour_is_one_where_the_space_holds_tumours(name):
    assert fit(SPACES["flare14"], {1: name, 2: "tumour"}, [name, "tumour"]).values == {1: 14, 2: 14}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("arota", "aorta"),
        ("livr", "liver"),
        ("spleeen", "spleen"),
        ("pancras", "pancreas"),
        ("kidney_rihgt", "kidney_right"),
    ],
)
@pytest.mark.parametrize("space", [FLARE13, ABDOMENCT1K])
def test_a_misspelt_organ_is_unknown_and_not_annotated_and_the_right_name_is_told(name, meant, space):
    mapped = fit(space, {1: "stomach", 2: name}, ["stomach", name])
    assert mapped.unknown == {2}
    assert 2 not in mapped.values
    assert meant not in mapped.annotated
    [note] = [note for note in mapped.notes if note.startswith(f"{name}: ")]
    assert f"unknown, not background. Did you mean '{meant}'?" in note


@pytest.mark.parametrize("name", ["liver_segment_2", "hepatic_vessel", "whole_kidney", "structure7", "pancreatic_duct"])
def test_a_name_that_viscera_does_not_know_is_unknown(name):
    assert fit(FLARE13, {1: "liver", 2: name}, ["liver", name]).unknown == {2}


@pytest.mark.parametrize(
    "name", ["vertebrae_L5", "rib_left_3", "lung_upper_lobe_left", "prostate/uterus", "gluteus_maximus_left", "heart"]
)
def test_structures_that_viscera_knows_and_the_space_lacks_are_background(name):
    mapped = fit(FLARE13, {1: "liver", 2: name}, ["liver", name])
    assert (mapped.values, mapped.unknown) == ({1: 1, 2: 0}, frozenset())


def test_what_synthetic_patients_hold_is_known():
    assert [organ for organ in ORGANS if not is_known(organ)] == []
