"""Patients from a label map: what is read, what is made up, and that the truth stays the truth."""

from dataclasses import fields, replace

import numpy as np
import pytest

from makers import organ_volumes_ml
from viscera.errors import GeometryError, LabelError, SettingError
from viscera.synthesis.canvas import ORGANS, VALUE, Tissue
from viscera.synthesis.patient import synthesize
from viscera.synthesis.template.contents import gas_in_front
from viscera.synthesis.template.label_maps import meaning
from viscera.synthesis.template.patient import synthesize_from
from viscera.synthesis.template.reshaping import draw_warp
from viscera.synthesis.template.template import FINE_MM, UNCHANGED, Reshaping, read_template
from viscera.synthesis.template.thorax import grow_thorax, needs_thorax
from viscera.volume import Turn, Volume, turn_volume, with_voxels

NAMES = dict(enumerate(ORGANS, start=1))
STEP_MM = 3.0
SHAPE = (24, 56, 56)


def _volume(voxels):
    """Voxels in axial order, 3 mm apart."""
    affine = np.array([[0, 0, -STEP_MM, 0], [0, -STEP_MM, 0, 0], [STEP_MM, 0, 0, 0], [0, 0, 0, 1.0]])
    return Volume(voxels, affine)


@pytest.fixture(scope="module")
def labels():
    """An upper abdomen in the size of a doll, so that its template is small."""
    patient = synthesize(np.random.default_rng(5), shape=(36, 56, 56), scan="upper", orientation="axial")
    voxels = patient.labels.voxels.copy()
    cut = int(np.flatnonzero((voxels == VALUE["liver"]).any(axis=(1, 2)))[-1]) - 4
    return _volume(voxels[: max(cut, 12)])


@pytest.fixture(scope="module")
def template(labels):
    return read_template(labels, NAMES)


def _one(template, **on):
    """The template with nothing on but what is named."""
    return replace(template, reshaping=replace(UNCHANGED, **on))


def _patient(template, seed=0, **options):
    return synthesize_from(
        template, np.random.default_rng(seed), **({"shape": SHAPE, "orientation": "axial"} | options)
    )


def _centre(patient, organ):
    index = np.argwhere(patient.labels.voxels == VALUE[organ]).mean(axis=0)
    return (patient.labels.affine @ [*index, 1])[:3]


@pytest.mark.parametrize(
    ("name", "organ", "tissue"),
    [
        ("liver", "liver", Tissue.LIVER),
        ("Postcava", "inferior_vena_cava", Tissue.VEIN),
        ("kidney", "kidney", Tissue.KIDNEY_CORTEX),
        ("kidney_tumour", "kidney", Tissue.KIDNEY_CORTEX),
        ("kidney_cyst_left", "kidney_left", Tissue.KIDNEY_CORTEX),
        ("vertebrae_L3", "vertebrae", Tissue.MARROW),
        ("rib_right_12", "ribs", Tissue.MARROW),
        ("lung_lower_lobe_left", "lung", Tissue.LUNG),
        ("heart_myocardium", "heart", Tissue.HEART),
        ("iliac_artery_left", "iliac_artery", Tissue.ARTERY),
        ("gluteus_maximus_left", "muscle", Tissue.MUSCLE),
        ("pulmonary_artery", None, Tissue.VEIN),
    ],
)
def test_names_of_viscera_and_of_totalsegmentator_have_a_meaning(name, organ, tissue):
    assert meaning(name) == (organ, tissue)


def test_a_name_that_only_begins_alike_means_nothing():
    assert meaning("ribbon") is None
    assert meaning("hat") is None


def test_a_label_that_viscera_does_not_know_is_refused_with_the_way_out(labels):
    names = NAMES | {VALUE["spleen"]: "spleeen", VALUE["pancreas"]: "implant"}
    with pytest.raises(LabelError, match=r"scan7: .*'spleeen', 'implant'.*--ignore-labels spleeen implant"):
        read_template(labels, names, where="scan7")
    with pytest.raises(LabelError, match="Did you mean 'spleen'"):
        read_template(labels, NAMES | {VALUE["spleen"]: "spleeen"})


def test_ignored_labels_become_fat_and_are_not_annotated(labels):
    template = read_template(labels, NAMES | {VALUE["spleen"]: "implant"}, ignore=("implant",))
    assert "spleen" not in template.annotated
    assert not (template.label == VALUE["spleen"]).any()
    with pytest.raises(LabelError, match=r"no label 'splen'.*Did you mean 'spleen'"):
        read_template(labels, NAMES, ignore=("splen",))


def test_values_without_a_name_and_empty_maps_are_refused(labels):
    with pytest.raises(LabelError, match=r"holds label 7, but nothing names it"):
        read_template(labels, {value: name for value, name in NAMES.items() if value != 7})
    with pytest.raises(LabelError, match="no voxel is labelled"):
        read_template(_volume(np.zeros((4, 16, 16), np.uint8)), NAMES)
    with pytest.raises(LabelError, match="no voxel is labelled"):
        read_template(_volume(np.full((4, 16, 16), 7, np.uint8)), NAMES, ignore=("liver",))


def test_an_image_on_another_grid_is_refused(labels):
    image = _volume(np.zeros((3, 8, 8), np.int16))
    with pytest.raises(GeometryError, match="template's labels lie on another grid than the template's image"):
        read_template(labels, NAMES, image=image)


def test_the_order_of_the_file_does_not_matter(labels, template):
    turned = turn_volume(labels, Turn((2, 0, 1), (True, False, True)))
    other = read_template(turned, NAMES)
    assert np.array_equal(other.tissue, template.tissue)
    assert np.array_equal(other.label, template.label)
    assert np.array_equal(other.depth, template.depth)


def test_kidneys_labelled_as_one_are_told_apart(labels, template):
    one = labels.voxels.copy()
    one[one == VALUE["kidney_right"]] = VALUE["kidney_left"]
    names = {value: name for value, name in NAMES.items() if name != "kidney_right"} | {VALUE["kidney_left"]: "kidney"}
    other = read_template(_volume(one), names)
    assert {"kidney_left", "kidney_right"} <= set(other.annotated)
    assert "kidney" not in other.annotated
    for organ in ("kidney_left", "kidney_right"):
        assert (other.label == VALUE[organ]).sum() == pytest.approx((template.label == VALUE[organ]).sum(), rel=0.02)


def test_a_tumour_becomes_part_of_the_organ_around_it():
    voxels = np.zeros((20, 24, 24), np.uint8)
    voxels[2:18, 4:20, 4:20] = 1
    whole = read_template(_volume(voxels), {1: "liver"})
    voxels[8:12, 9:15, 9:15] = 2
    other = read_template(_volume(voxels), {1: "liver", 2: "tumour"})
    assert np.array_equal(other.label, whole.label)
    assert "tumour" not in other.annotated


def test_without_changes_organs_keep_their_volumes_and_places(labels, template):
    spacing = labels.spacing_mm
    patient = _patient(_one(template), shape=labels.shape, spacing_mm=spacing)
    assert patient.ct.spacing_mm == pytest.approx(spacing)
    given = {organ: (labels.voxels == VALUE[organ]).sum() * labels.voxel_ml for organ in ORGANS}
    volumes = organ_volumes_ml(patient)
    for organ in ("liver", "spleen", "kidney_left", "kidney_right", "stomach"):
        assert volumes[organ] == pytest.approx(given[organ], rel=0.12), organ
    assert _centre(patient, "liver")[0] > _centre(patient, "spleen")[0]
    assert _centre(patient, "kidney_right")[0] > _centre(patient, "kidney_left")[0]


def test_the_same_seed_gives_the_same_patient_and_each_switch_another(template):
    first, again = _patient(template, seed=3), _patient(template, seed=3)
    assert np.array_equal(first.ct.voxels, again.ct.voxels)
    assert np.array_equal(first.labels.voxels, again.labels.voxels)
    still = _patient(_one(template), seed=3)
    for switch in (field.name for field in fields(Reshaping) if field.type in (bool, "bool")):
        other = _patient(_one(template, **{switch: True}), seed=3)
        assert not np.array_equal(other.ct.voxels, still.ct.voxels), switch


def test_voxels_hold_what_the_template_annotates_and_nothing_else(labels):
    kept = np.where(np.isin(labels.voxels, (VALUE["liver"], VALUE["spleen"])), labels.voxels, 0)
    template = read_template(_volume(kept.astype(np.uint8)), NAMES | {40: "tumour"})
    few = read_template(_volume(kept.astype(np.uint8)), {VALUE["liver"]: "liver", VALUE["spleen"]: "spleen"})
    patient = _patient(few)
    assert set(patient.organs.values()) == {"liver", "spleen", "fat", "skin", "muscle"}
    assert set(np.unique(patient.labels.voxels)) <= {0, *patient.organs}
    assert "stomach" in template.annotated


def test_organs_have_their_hu_in_most_patients(template):
    for seed in range(3):
        patient = _patient(template, seed=seed, shape=(24, 80, 80))
        mean = {
            name: patient.ct.voxels[patient.labels.voxels == value].mean()
            for value, name in patient.organs.items()
            if (patient.labels.voxels == value).sum() > 200
        }
        assert 0 < mean["liver"] < 150
        assert 10 < mean["spleen"] < 160
        assert -140 < mean["fat"] < -40
        assert mean["lung"] < -600


def test_a_chest_grows_only_above_organs_that_are_cut_off(labels, template):
    assert needs_thorax(template)
    grown = grow_thorax(template, np.random.default_rng(0))
    extra_mm = (len(grown.label) - len(template.label)) * FINE_MM
    assert 80 < extra_mm < 132
    assert (grown.label == VALUE["liver"]).sum() > (template.label == VALUE["liver"]).sum()
    top = grown.label[-2:]
    assert not np.isin(top, (VALUE["liver"], VALUE["spleen"], VALUE["stomach"])).any()
    assert (top == VALUE["lung"]).any()
    low = labels.voxels.copy()
    low[-6:][np.isin(low[-6:], (VALUE["liver"], VALUE["spleen"], VALUE["stomach"]))] = VALUE["fat"]
    whole = read_template(_volume(low), NAMES)
    assert grow_thorax(whole, np.random.default_rng(0)) is whole


def test_organs_move_on_their_own_and_stay_on_their_side(template):
    still, moved = _patient(_one(template), seed=1), _patient(_one(template, organs=True), seed=1)
    assert np.array_equal(still.labels.voxels == VALUE["aorta"], moved.labels.voxels == VALUE["aorta"])
    before, after = organ_volumes_ml(still), organ_volumes_ml(moved)
    for organ in ("liver", "spleen", "kidney_left", "kidney_right"):
        assert 0 < after[organ] < 2.5 * before[organ]  # a doll has little room for shifts in an adult's mm
        assert not np.allclose(_centre(still, organ), _centre(moved, organ))
    assert _centre(moved, "kidney_right")[0] > _centre(moved, "kidney_left")[0]


def test_warps_stay_within_their_bounds():
    for seed in range(20):
        warp = draw_warp(np.random.default_rng(seed), Reshaping())
        assert (warp.size >= 0.72).all()
        assert (warp.size <= 1.4).all()
        assert np.linalg.norm(warp.matrix - np.eye(3)) < 0.5
        assert all(0.8 <= amplitude <= 9 for amplitude, _ in warp.displacements)
    assert draw_warp(np.random.default_rng(0), UNCHANGED).displacements == ()


def test_gas_lies_in_front_of_each_pieces_level():
    lumen = np.zeros((1, 8, 9), bool)
    lumen[0, 1:7, 1:4] = lumen[0, 3:7, 6:8] = True
    levels = np.full((1, 8, 9), -9.0, np.float32)
    levels[0, :, :4] = 0.5  # above the limit of one half, which is 0, by 0.5: 0.25 + 0.9 * 0.5 = 0.7 of six rows
    gas = gas_in_front(lumen, levels, share=0.5)
    assert np.array_equal(np.flatnonzero(gas[0, :, 2]), [1, 2, 3, 4, 5])
    assert not gas[0, :, 5:].any()
    assert not gas_in_front(lumen, levels, share=0.0).any()


def test_what_has_no_label_is_told_by_the_image():
    _, y, x = np.indices((16, 40, 48)) * STEP_MM
    hu = np.where(np.hypot((y - 60) / 50, (x - 70) / 62) < 1, -100, -1000).astype(np.int16)
    wall = np.hypot((y - 60) / 36, (x - 70) / 46)
    hu[(wall < 1) & (wall > 0.8)] = 55
    bone = np.hypot(y - 80, x - 70) < 12
    hu[bone] = 500
    voxels = (np.hypot(y - 55, x - 55) < 14).astype(np.uint8)
    hu[voxels > 0] = 60
    template = read_template(_volume(voxels), {1: "liver"}, image=_volume(hu))
    assert "muscle" not in template.annotated
    middle = template.tissue[8]
    offset = 30 / FINE_MM  # the room about the map

    def _at(y_mm, x_mm):
        return Tissue(middle[round(y_mm / FINE_MM + offset), round(x_mm / FINE_MM + offset)])

    assert _at(55, 55) == Tissue.LIVER
    assert _at(80, 70) == Tissue.CORTEX
    assert _at(60, 111) == Tissue.MUSCLE
    assert _at(60, 70) in (Tissue.FREE, Tissue.FAT)
    assert _at(60, 125) == Tissue.AIR  # fat beneath the skin is painted later, as thick as the patient is fat
    patient = _patient(_one(template), spacing_mm=(3.0, 3.0, 3.0), shape=(14, 48, 56))
    fat = patient.ct.voxels[(patient.labels.voxels == VALUE["fat"])]
    assert -140 < fat.mean() < -70


def test_colon_in_the_hollow_of_the_sacrum_is_rectum():
    voxels = np.zeros((30, 40, 40), np.uint8)
    voxels[:28, 30:34, 10:30] = 1  # sacrum
    voxels[:28, 12:14, 4:8] = 1  # a hip bone in front
    voxels[2:26, 24:28, 17:22] = 2
    voxels[2:6, 6:10, 17:22] = 2  # sigmoid, far in front
    template = read_template(_volume(voxels), {1: "hip_left", 2: "colon"})
    assert {"colon", "rectum"} <= set(template.annotated)
    slices = np.flatnonzero((template.label == VALUE["rectum"]).any(axis=(1, 2))) * FINE_MM
    assert slices.max() < 0.5 * 27 * STEP_MM
    front = (template.label == VALUE["colon"])[: round(18 / FINE_MM)]
    assert front.any()


def test_tumours_and_parts_of_the_body_are_chosen_as_for_procedural_patients(labels, template):
    liver = read_template(with_voxels(labels, (labels.voxels == VALUE["liver"]).astype(np.uint8)), {1: "liver"})
    patient = _patient(template, tumours="labelled", scan="upper")
    assert patient.organs[max(patient.organs)] == "tumour"
    with pytest.raises(SettingError, match="the template holds none of .*urinary_bladder.* no scan 'pelvis'"):
        _patient(liver, scan="pelvis")
    with pytest.raises(SettingError, match="shape must be at least"):
        _patient(template, shape=(1, 8, 8))


def test_a_template_of_one_slice_makes_a_patient():
    voxels = np.zeros((1, 30, 30), np.uint8)
    voxels[:, 8:20, 8:20] = 1
    patient = _patient(read_template(_volume(voxels), {1: "liver"}), shape=(4, 32, 32))
    assert (patient.labels.voxels == VALUE["liver"]).any()
