"""Signs that a result should not be trusted: numbers against scipy, signs of results that are wrong in a known way."""

import json
from dataclasses import replace
from itertools import permutations, product
from typing import Any, cast

import numpy as np
import pytest
from scipy import ndimage

from viscera.errors import SettingError
from viscera.labels import STARTER19
from viscera.quality.certainty import Edge
from viscera.quality.judging import signs, trust_to_json
from viscera.quality.limits import Limits, fitted_limits
from viscera.quality.measuring import Look, Organ, measure_organs, measure_scan
from viscera.quality.plausible import ABOVE, IN_FRONT_OF, PLAUSIBLE, RIGHT_OF, SHOWN_BETWEEN, SHOWN_WITH
from viscera.volume import Turn, Volume, turn_volume

AXIAL = np.array([[0, 0, -2.0, 90], [0, -3.0, 0, 70], [5.0, 0, 0, -40], [0, 0, 0, 1]])
"""Slices every 5 mm from the feet, rows every 3 mm from the front, columns every 2 mm from the right."""

LOOK = Look(
    slices=100,
    spacing_mm=(5.0, 0.8, 0.8),
    view_mm=400.0,
    body_mm=320.0,
    middle_mm=200.0,
    lowest_hu=-1024.0,
    highest_hu=1400.0,
    at_lowest_fraction=0.2,
    at_highest_fraction=0.0,
    lung_slices_fraction=0.3,
    lung_low_fraction=0.0,
    lung_high_fraction=0.2,
    bone_behind_mm=25.0,
    soft_fraction=0.9,
)
"""A scan of abdomen and pelvis."""


def organ(volume_ml: float, place: tuple[float, float, float] = (250.0, 200.0, 200.0), hu: float = 60.0) -> Organ:
    """Return an organ in one piece inside the scan."""
    return (
        Organ(volume_ml, hu, 15.0, False, place, 1, (1.0,)) if volume_ml else Organ(0, None, None, False, None, 0, ())
    )


GOOD = {
    "liver": organ(1500, (350, 180, 130)),
    "spleen": organ(200, (350, 240, 290)),
    "stomach": organ(300, (340, 150, 250)),
    "kidney_left": organ(170, (270, 240, 260)),
    "kidney_right": organ(170, (260, 240, 140)),
    "aorta": organ(100, (250, 220, 210)),
    "inferior_vena_cava": organ(80, (250, 210, 180)),
    "spinal_cord": organ(40, (250, 290, 202)),
    "urinary_bladder": organ(150, (50, 170, 200), 5.0),
    "rectum": organ(80, (50, 250, 200)),
}
"""Places along z, y, x in mm."""


def kinds(found: tuple) -> list[str]:
    return [sign.kind for sign in found]


def painted(shape: tuple[int, int, int] = (12, 20, 24), seed: int = 0) -> tuple[Volume, np.ndarray]:
    """Return random HU and blobs of three labels."""
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.normal(size=shape), 1.5)
    labels = np.digitize(smooth, np.quantile(smooth, [0.7, 0.85, 0.97])).astype(np.uint8)
    labels[0] = 0
    return Volume(generator.integers(-100, 200, shape).astype(np.int16), AXIAL), labels


NAMES = {1: "liver", 2: "spleen", 3: "pancreas", 4: "aorta"}


def test_numbers_are_those_of_numpy_and_scipy():
    ct, labels = painted()
    found = measure_organs(ct, labels, NAMES)
    for index in (1, 2, 3):
        mask, facts = labels == index, found[NAMES[index]]
        assert facts.volume_ml == pytest.approx(mask.sum() * 0.03)
        assert facts.mean_hu == pytest.approx(ct.voxels[mask].mean())
        assert facts.sd_hu == pytest.approx(ct.voxels[mask].std())
        assert facts.centre_mm == pytest.approx(np.array(ndimage.center_of_mass(mask)) * (5, 3, 2))
        pieces, count = cast(tuple, ndimage.label(mask, np.ones((3, 3, 3))))
        assert facts.pieces == count
        largest = np.sort(np.bincount(pieces.ravel())[1:])[::-1][:3] / mask.sum()
        assert facts.shares == pytest.approx(largest.tolist())
    assert found["aorta"] == Organ(0.0, None, None, False, None, 0, ())


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_the_order_of_the_file_changes_nothing(axes):
    ct, labels = painted()
    expected, look = measure_organs(ct, labels, NAMES), measure_scan(ct)
    for a, b, c in product((False, True), repeat=3):
        turn = Turn(axes, (a, b, c))
        turned = turn_volume(ct, turn)
        found = measure_organs(turned, turn.apply(labels), NAMES)
        for name, facts in expected.items():
            assert found[name].centre_mm == (facts.centre_mm and pytest.approx(facts.centre_mm))
            assert found[name].volume_ml == pytest.approx(facts.volume_ml)
            assert (found[name].touches_border, found[name].pieces) == (facts.touches_border, facts.pieces)
            assert (found[name].shares, found[name].mean_hu) == (facts.shares, facts.mean_hu)
        assert measure_scan(turned) == look


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 1, 1), (4, 4, 4)])
def test_empty_maps_single_voxels_and_single_slices_are_measured(shape):
    ct = Volume(np.zeros(shape, np.int16), AXIAL)
    labels = np.zeros(shape, np.uint8)
    assert measure_organs(ct, labels, {1: "liver"})["liver"].volume_ml == 0
    labels[0, 0, 0] = 1
    facts = measure_organs(ct, labels, {1: "liver"})["liver"]
    assert (facts.pieces, facts.shares, facts.touches_border, facts.centre_mm) == (1, (1.0,), True, (0, 0, 0))
    look = measure_scan(ct)
    json.dumps(trust_to_json(signs({"liver": facts}, look), {"liver": facts}, look, edges={}), allow_nan=False)


def test_a_good_result_has_no_sign():
    trust = signs(GOOD, LOOK, edges={name: Edge(5000, 0.85, 0.4, 0.01) for name in GOOD})
    assert trust.messages == []
    assert trust.to_json() == {"scan": [], "organs": {}}


@pytest.mark.parametrize(
    ("name", "facts", "expected"),
    [
        ("liver", organ(40), ["volume"]),
        ("liver", organ(6000), ["volume"]),
        ("liver", replace(organ(40), touches_border=True), ["border"]),
        ("liver", replace(organ(6000), touches_border=True), ["border", "volume"]),
        ("aorta", replace(organ(40), touches_border=True), []),
        ("liver", organ(1500, hu=-100.0), ["hounsfield"]),
        ("pancreas", replace(organ(80), pieces=3, shares=(0.6, 0.3, 0.1)), ["pieces"]),
        ("pancreas", replace(organ(80), pieces=3, shares=(0.98, 0.01, 0.01)), []),
        ("kidney", replace(organ(300), pieces=2, shares=(0.5, 0.5)), []),
        ("kidney", replace(organ(300), pieces=3, shares=(0.4, 0.35, 0.25)), ["pieces"]),
        ("colon", replace(organ(700), pieces=9, shares=(0.3, 0.2, 0.1)), []),
        ("left_toe", replace(organ(7000, hu=-900.0), pieces=9, shares=(0.3, 0.2, 0.1)), []),
    ],
)
def test_each_fault_of_an_organ_raises_its_sign(name, facts, expected):
    assert kinds(signs({name: facts}, LOOK).organs[name]) == expected


def test_pieces_are_told_in_plain_words():
    facts = replace(organ(170, (260, 240, 260)), pieces=3, shares=(0.62, 0.3, 0.08))
    (sign,) = signs({"kidney_left": facts}, LOOK).organs["kidney_left"]
    assert sign.message == "kidney_left: 3 pieces, the largest 62%"
    assert (sign.kind, sign.value, sign.expected) == ("pieces", 0.62, "the largest at least 85%")


@pytest.mark.parametrize(
    ("edge", "expected"),
    [
        (Edge(900, 0.85, 0.4, 0.0), []),
        (Edge(900, 0.45, 0.9, 0.0), ["edge_probability"]),
        (Edge(900, 0.8, 1.9, 0.0), ["edge_entropy"]),
        (Edge(0, None, None, 0.6), ["dropped"]),
        (Edge(0, None, None, 0.0), []),
    ],
)
def test_an_unsure_network_raises_signs(edge, expected):
    assert kinds(signs({"liver": GOOD["liver"]}, LOOK, edges={"liver": edge}).organs["liver"]) == expected


def test_an_organ_that_must_be_there_is_missed_and_one_that_need_not_is_not():
    absent = {"spleen": organ(0), "gallbladder": organ(0), "colon": organ(0)}
    trust = signs(GOOD | absent, LOOK)
    assert kinds(trust.organs["spleen"]) == kinds(trust.organs["colon"]) == ["missing"]
    assert kinds(trust.organs["gallbladder"]) == []
    assert "shows the whole liver" in trust.organs["spleen"][0].message
    cut = signs(GOOD | absent | {"liver": replace(GOOD["liver"], touches_border=True)}, LOOK)
    assert kinds(cut.organs["spleen"]) == kinds(cut.organs["colon"]) == []


def mirrored(organs: dict[str, Organ], axis: int, length_mm: float = 400.0) -> dict[str, Organ]:
    """Return organs found in a scan whose header tells an axis the wrong way round."""
    found = {}
    for name, facts in organs.items():
        place = list(facts.centre_mm or ())
        place[axis] = length_mm - place[axis]
        found[name] = replace(facts, centre_mm=tuple(place))
    return found


@pytest.mark.parametrize(("axis", "kind"), [(0, "upside_down"), (1, "back_to_front"), (2, "mirrored")])
def test_a_flipped_axis_is_a_sign_of_the_scan(axis, kind):
    bone_mm = -25.0 if axis == 1 else 25.0
    found = signs(mirrored(GOOD, axis), replace(LOOK, bone_behind_mm=bone_mm))
    assert kinds(found.scan) == [kind]


def test_swapped_kidneys_are_told_apart_from_a_mirrored_scan():
    swapped = GOOD | {"kidney_left": GOOD["kidney_right"], "kidney_right": GOOD["kidney_left"]}
    trust = signs(swapped, LOOK)
    assert kinds(trust.organs["kidney_left"]) == kinds(trust.organs["kidney_right"]) == ["side"]
    assert kinds(trust.scan) == []
    assert trust.organs["kidney_left"][0].message == (
        "kidney_left lies to the right of kidney_right: left and right are mixed up"
    )


def test_one_kidney_is_compared_with_the_middle():
    alone = {name: facts for name, facts in GOOD.items() if name != "kidney_right"}
    assert kinds(signs(alone, LOOK).organs["kidney_left"]) == []
    alone["kidney_left"] = GOOD["kidney_right"]  # 62 mm to the right of the spinal cord
    (sign,) = signs(alone, LOOK).organs["kidney_left"]
    assert (sign.kind, sign.value) == ("side", 62.0)
    del alone["spinal_cord"]  # 60 mm to the right of the body's middle
    assert signs(alone, LOOK).organs["kidney_left"][0].value == 60.0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"slices": 12}, ["slices"]),
        ({"spacing_mm": (12.0, 0.8, 0.8)}, ["slice_spacing"]),
        ({"spacing_mm": (0.2, 0.8, 0.8)}, ["slice_spacing"]),
        ({"spacing_mm": (5.0, 0.8, 5.0)}, ["pixel_spacing"]),
        ({"spacing_mm": (10.0, 3.5, 3.5)}, []),
        ({"view_mm": 150.0, "body_mm": 150.0}, ["view"]),
        ({"body_mm": 160.0}, ["body"]),
        ({"lung_slices_fraction": 0.75, "lung_low_fraction": 0.3}, ["chest"]),
        ({"soft_fraction": 0.3}, ["intensities"]),
        ({"highest_hu": 300.0, "at_highest_fraction": 0.02}, ["clipped"]),
        ({"highest_hu": 3071.0, "at_highest_fraction": 0.02}, []),
        ({"at_lowest_fraction": 0.9}, ["padded"]),
        ({"lung_low_fraction": 0.3, "lung_high_fraction": 0.0}, ["upside_down"]),
        ({"bone_behind_mm": -25.0}, ["back_to_front"]),
        ({"bone_behind_mm": None}, []),
    ],
)
def test_each_oddity_of_a_scan_raises_its_sign(change, expected):
    few = {"liver": organ(1500, (350, 180, 130))}  # organs that could outvote the lung are left out
    assert kinds(signs(few, replace(LOOK, **change)).scan) == expected


def test_little_found_is_a_sign_where_much_was_looked_for():
    nothing = dict.fromkeys(STARTER19.organs, organ(0))
    assert kinds(signs(nothing, LOOK).scan) == ["nothing"]
    assert kinds(signs(nothing | {"liver": GOOD["liver"]}, LOOK).scan) == ["few_organs"]
    assert kinds(signs({"liver": organ(0)}, LOOK).scan) == ["nothing"]
    assert kinds(signs({"tumour": organ(0)}, LOOK).scan) == []


def trunk(lungs: slice) -> Volume:
    """Return 40 slices of a trunk 300 mm wide on a table's worth of air, with lungs on some slices."""
    hu = np.full((40, 100, 120), -1000, np.int16)
    hu[:, 20:80, 10:110] = 40
    hu[:, 60:70, 60:65] = 600  # a spine, its centre 15 rows behind the body's
    hu[lungs, 30:70, 20:60] = hu[lungs, 30:70, 65:100] = -800
    return Volume(hu, np.diag([-3.0, -3.0, 5.0, 1])[:, [2, 1, 0, 3]])


def test_a_scan_is_measured_as_it_was_made():
    look = measure_scan(trunk(slice(30, 40)))
    lung, body = 40 * (40 + 35), 60 * 100
    assert (look.slices, look.spacing_mm, look.view_mm) == (40, (5, 3, 3), 300)
    assert look.lung_slices_fraction == 0.25
    assert look.lung_high_fraction == pytest.approx(lung / body, rel=0.02)
    assert look.lung_low_fraction == 0
    assert look.bone_behind_mm == pytest.approx(45, abs=0.5)  # rows 60-69 against 20-79
    assert look.soft_fraction == pytest.approx(0.99, abs=0.002)  # all but the spine's 50 of 6000, or 3000, pixels
    assert 300 <= look.body_mm <= 312
    assert look.middle_mm == pytest.approx(59.5 * 3, abs=6)
    assert (look.lowest_hu, look.highest_hu) == (-1000, 600)


def test_a_chest_and_a_scan_upside_down_are_seen_in_the_image_alone():
    assert "chest" in kinds(signs({}, measure_scan(trunk(slice(0, 40)))).scan)
    upright, turned = (signs({}, measure_scan(trunk(lungs))) for lungs in (slice(32, 40), slice(0, 8)))
    assert "upside_down" not in kinds(upright.scan)
    assert "upside_down" in kinds(turned.scan)


def test_a_scan_most_of_whose_organs_are_odd_is_odd_itself():
    odd = {name: replace(GOOD[name], mean_hu=-500.0) for name in ("spleen", "aorta", "urinary_bladder")}
    few = {"liver": GOOD["liver"], "stomach": GOOD["stomach"]}
    assert kinds(signs(few | odd, LOOK).scan) == ["doubtful"]
    assert kinds(signs(few | {"rectum": GOOD["rectum"]} | odd, LOOK).scan) == []  # three of six
    assert "3 of 5 organs found are doubtful" in signs(few | odd, LOOK).messages[0]


def test_fitted_limits_leave_the_share_of_good_organs_beyond_them():
    organs = [replace(organ(100), pieces=2, shares=(value / 100,)) for value in range(1, 101)]
    edges = [Edge(10, value / 100, value / 50, value / 1000) for value in range(1, 101)]
    limits = fitted_limits(organs, edges, share=0.1)
    assert sum(one.shares[0] < limits.largest_fraction for one in organs) == 10
    assert sum((edge.probability or 0) < limits.edge_probability for edge in edges) == 10
    assert sum((edge.entropy_bits or 0) > limits.edge_entropy_bits for edge in edges) == 10
    assert sum(edge.dropped_fraction > limits.dropped_fraction for edge in edges) == 10
    assert fitted_limits([], []) == Limits()
    with pytest.raises(SettingError, match=r"must be in \[0, 1\), got 1"):
        fitted_limits(organs, edges, share=1.0)


def test_every_organ_of_the_starter_and_of_every_pair_has_a_plausible_range():
    paired = {name for pair in (*RIGHT_OF, *ABOVE, *IN_FRONT_OF) for name in pair}
    shown = {*SHOWN_WITH, *SHOWN_BETWEEN, *(name for names in SHOWN_WITH.values() for name in names)}
    assert set(STARTER19.organs) | paired | shown <= set(PLAUSIBLE)
    for limits in PLAUSIBLE.values():
        assert 0 < limits.volume_ml[0] < limits.volume_ml[1]
        assert limits.mean_hu[0] < limits.mean_hu[1]


def test_json_holds_the_signs_and_the_numbers_behind_them():
    organs = GOOD | {"spleen": organ(3000, (350, 240, 290))}
    edges = {"spleen": Edge(100, 0.61234567, 0.5, 0.0)}
    written: Any = trust_to_json(signs(organs, LOOK, edges=edges), organs, LOOK, edges=edges)
    assert json.loads(json.dumps(written)) == written
    assert [sign["kind"] for sign in written["organs"]["spleen"]] == ["volume", "edge_probability"]
    assert written["measured"]["organs"]["spleen"]["probability"] == 0.6123
    assert written["measured"]["scan"]["slices"] == 100
