"""Signs from what organs are to each other and to their surroundings: each is raised on a built case, and not on a clean one."""

from dataclasses import replace

import numpy as np
import pytest

from quality.test_judging import GOOD, LOOK, kinds, organ
from viscera.quality.certainty import Edge, Handedness
from viscera.quality.contacts import ALIKE_HU, Contact, measure_contacts
from viscera.quality.judging import signs
from viscera.quality.measuring import measure_organs, measure_scan
from viscera.quality.neighbours import DOME_MM, HALF
from viscera.volume import Turn, Volume, turn_volume

AXIAL = np.diag([-3.0, -3.0, 5.0, 1])[:, [2, 1, 0, 3]]
"""Slices every 5 mm from the feet, pixels of 3 mm from the front and the right: the grid on which surfaces are looked at."""


def half(left_ml: float, right_ml: float, **changes: bool) -> list[str]:
    """Return the signs of a left kidney beside a right one."""
    left = replace(organ(left_ml, (270, 240, 260)), **changes)
    return kinds(
        signs({"kidney_left": left, "kidney_right": organ(right_ml, (260, 240, 140))}, LOOK).organs["kidney_left"]
    )


def test_a_kidney_of_less_than_half_the_other_is_told_with_its_possible_causes():
    assert half(74, 150) == ["half"]
    assert half(HALF * 150, 150) == []
    assert half(74, 150, touches_border=True) == ["border"]  # cut, so that its volume says nothing
    trust = signs({"kidney_left": organ(70, (270, 240, 260)), "kidney_right": organ(150, (260, 240, 140))}, LOOK)
    (sign,) = trust.organs["kidney_left"]
    assert "70 ml, 47% of kidney_right (150 ml)" in sign.message
    assert "missed" in sign.message
    assert "shrunken" in sign.message
    assert trust.organs["kidney_right"] == ()


def test_a_missing_kidney_is_told_where_the_other_is_whole():
    found = signs({"kidney_left": organ(0), "kidney_right": organ(150, (260, 240, 140))}, LOOK)
    (sign,) = found.organs["kidney_left"]
    assert (sign.kind, "shows the whole kidney_right" in sign.message) == ("missing", True)
    cut = replace(organ(150, (260, 240, 140)), touches_border=True)
    assert signs({"kidney_left": organ(0), "kidney_right": cut}, LOOK).organs["kidney_left"] == ()


def test_kidneys_need_surer_edges_than_other_organs():
    edge = Edge(900, 0.70, 0.4, 0.0)
    names: list[str] = ["liver", "kidney_left", "kidney_right"]
    found = signs({name: GOOD[name] for name in names}, LOOK, edges=dict.fromkeys(names, edge)).organs
    assert kinds(found["liver"]) == []
    assert kinds(found["kidney_left"]) == kinds(found["kidney_right"]) == ["edge_probability"]
    assert "at least 0.75 expected" in found["kidney_left"][0].message
    sure = dict.fromkeys(names, replace(edge, probability=0.76))
    assert kinds(signs(GOOD, LOOK, edges=sure).organs["kidney_left"]) == []


def blocks(right_hu: float, *, gap: int = 0, noise_hu: float = 0.0, labelled: bool = True) -> dict[str, Contact]:
    """Return the surfaces of a liver of 100 HU and of what lies beside it, perhaps with fat between; each 20 pixels wide."""
    hu = np.full((6, 40, 60), -100.0)
    labels = np.zeros(hu.shape, np.uint8)
    hu[:, 10:30, 10:30], labels[:, 10:30, 10:30] = 100, 1
    beside = np.s_[:, 10:30, 30 + gap : 50 + gap]
    hu[beside] = right_hu
    if labelled:
        labels[beside] = 2
    hu += np.random.default_rng(0).normal(0, noise_hu, hu.shape)
    return measure_contacts(Volume(hu.astype(np.int16), AXIAL), labels, {1: "liver", 2: "stomach"})


def test_surfaces_that_look_alike_are_counted_face_by_face():
    found = blocks(100)["liver"]
    # 20 faces on each of 4 sides of every slice, one side against the stomach. At its 2 ends three of the nine voxels are fat on
    # both sides, so that two thirds of the difference are left there.
    assert found == Contact(faces=6 * 80, alike_fraction=0.25, alike_with="stomach", open_fraction=0.0)
    assert blocks(100 + 1.6 * ALIKE_HU)["liver"].alike_fraction == 0.0
    assert blocks(100, gap=4)["liver"] == Contact(6 * 80, 0.0, "", 0.0)
    assert blocks(100, labelled=False)["liver"].open_fraction == 0.25
    assert blocks(100, noise_hu=15)["liver"].alike_fraction == pytest.approx(0.25, abs=0.03)


def test_the_order_of_the_file_changes_no_surface():
    generator = np.random.default_rng(1)
    ct = Volume(generator.integers(0, 60, (5, 24, 30)).astype(np.int16), AXIAL)
    labels = np.zeros(ct.shape, np.uint8)
    labels[:, 5:15, 5:15], labels[1:4, 8:20, 15:25] = 1, 2
    expected = measure_contacts(ct, labels, {1: "liver", 2: "stomach"})
    turn = Turn((2, 0, 1), (True, False, True))
    assert measure_contacts(turn_volume(ct, turn), turn.apply(labels), {1: "liver", 2: "stomach"}) == expected


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 3), (2, 4, 4)])
def test_tiny_maps_have_surfaces_that_look_like_nothing(shape):
    labels = np.zeros(shape, np.uint8)
    labels[0, 0, 0] = 1
    found = measure_contacts(Volume(np.zeros(shape, np.int16), AXIAL), labels, {1: "liver", 2: "spleen"})
    assert all(one.alike_fraction == one.open_fraction == 0.0 for one in found.values())


def test_an_organ_that_ends_at_its_like_is_told_of_with_the_other_one():
    contacts = {"kidney_left": Contact(500, 0.3, "spleen", 0.02), "liver": Contact(900, 0.02, "stomach", 0.4)}
    trust = signs(GOOD, LOOK, contacts=contacts)
    assert kinds(trust.organs["kidney_left"]) == ["alike"]
    assert "30% of its surface touches other organs, mostly spleen" in trust.organs["kidney_left"][0].message
    assert kinds(trust.organs["liver"]) == ["open"]
    assert "tissue without a label" in trust.organs["liver"][0].message
    clean = {name: Contact(500, 0.05, "stomach", 0.1) for name in GOOD}
    assert signs(GOOD, LOOK, contacts=clean).messages == []
    bowel = {"rectum": Contact(500, 0.5, "colon", 0.0)}  # which goes on as colon
    assert signs(GOOD, LOOK, contacts=bowel).messages == []


@pytest.mark.parametrize(
    ("top_mm", "lung_from_mm", "cut", "expected"),
    [
        (420.0, 380.0, False, []),
        (380.0 + DOME_MM - 1, 380.0, False, ["dome"]),
        (350.0, 380.0, False, ["dome"]),
        (350.0, None, False, []),
        (350.0, 380.0, True, ["border"]),
    ],
)
def test_a_liver_that_ends_below_the_lung_lacks_its_dome(top_mm, lung_from_mm, cut, expected):
    liver = replace(GOOD["liver"], top_mm=top_mm, touches_border=cut, cut_in_z=cut)
    found = signs({"liver": liver}, replace(LOOK, lung_from_mm=lung_from_mm)).organs["liver"]
    assert kinds(found) == expected
    assert all("dome was missed" in sign.message for sign in found if sign.kind == "dome")


def torso(liver_top: int) -> tuple[Volume, np.ndarray]:
    """Return 60 slices of a trunk with right and left lung from slice 40 on, and a liver up to some slice."""
    hu = np.full((60, 125, 120), -1000, np.int16)
    hu[:, 15:75, 10:110] = 20
    hu[40:, 25:65, 20:55] = hu[40:, 25:65, 65:100] = -800
    labels = np.zeros(hu.shape, np.uint8)
    labels[20:liver_top, 30:55, 25:50] = 1
    hu[labels == 1] = 80
    return Volume(hu, AXIAL), labels


@pytest.mark.parametrize(("liver_top", "expected"), [(50, []), (36, ["dome"])])
def test_the_dome_is_looked_for_in_the_scan_itself(liver_top, expected):
    ct, labels = torso(liver_top)
    organs, look = measure_organs(ct, labels, {1: "liver"}), measure_scan(ct)
    assert (look.lung_from_mm, look.lung_to_mm) == (200.0, 295.0)
    assert organs["liver"].top_mm == (liver_top - 1) * 5.0
    assert organs["liver"].slice_agreement == 1.0
    assert [kind for kind in kinds(signs(organs, look).organs["liver"]) if kind == "dome"] == expected


def test_a_chest_is_called_a_chest_and_not_mirrored_or_upside_down():
    chest = replace(
        LOOK, lung_slices_fraction=0.73, lung_low_fraction=0.3, lung_high_fraction=0.01, bone_behind_mm=-12.0
    )
    mirrored = {
        name: replace(facts, centre_mm=(1.0, 1.0, 400.0 - facts.centre_mm[2]))
        for name, facts in GOOD.items()
        if facts.centre_mm
    }
    trust = signs(mirrored, chest, handedness=Handedness(0.80, 0.85))
    assert kinds(trust.scan) == ["chest"]
    assert not any("left and right" in message for message in trust.messages)
    abdomen = signs(mirrored, LOOK, handedness=Handedness(0.80, 0.85))
    assert "mirrored" in kinds(abdomen.scan)


def test_what_is_missing_in_a_chest_is_not_called_missed():
    organs = GOOD | {"rectum": organ(0)}
    assert kinds(signs(organs, LOOK).organs["rectum"]) == ["missing"]
    assert kinds(signs(organs, replace(LOOK, lung_slices_fraction=0.8)).organs["rectum"]) == []


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"lung_slices_fraction": 0.8}, "the scan shows a chest"),
        ({"soft_fraction": 0.3}, "numbers may be no HU"),
        ({"view_mm": 150.0}, "the field of view is too small"),
        ({}, "is unlike those that the network learnt from"),
    ],
)
def test_a_doubtful_scan_names_the_cause_that_is_known(change, cause):
    odd = {name: replace(facts, mean_hu=-500.0) for name, facts in GOOD.items()}
    found = signs(odd, replace(LOOK, **change), handedness=Handedness(0.85, 0.80)).scan
    (message,) = [sign.message for sign in found if sign.kind == "doubtful"]
    assert cause in message
    assert "wrong way round" not in message
