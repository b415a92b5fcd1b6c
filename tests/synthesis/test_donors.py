"""Organs of donors in patients: the donor's shape at the patient's place, on its side, and nothing where there is none."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from makers import organ_volumes_ml
from viscera.cli.templates import read_donors
from viscera.datasets.synthetic import Cohort, make_patient
from viscera.errors import LabelError
from viscera.io import nifti
from viscera.io.label_names import label_names
from viscera.learning.synthetic_patients import OnlinePatients
from viscera.synthesis.canvas import VALUE
from viscera.synthesis.grafting import ALIKE, Donor, Place, choose_grafts, fit_graft, measure
from viscera.synthesis.patient import synthesize
from viscera.synthesis.template.donors import donor_of, read_donor
from viscera.synthesis.template.patient import synthesize_from
from viscera.synthesis.template.template import UNCHANGED, read_template
from viscera.synthesis.variety import RICH, without
from viscera.volume import Turn, Volume, turn_volume

STEP_MM = 3.0
SHAPE = (40, 60, 84)
NAMES = {1: "kidney_left", 2: "kidney_right", 3: "liver", 4: "gallbladder", 5: "fat", 6: "spleen"}
MIDDLES = {1: (54, 108, 174), 2: (54, 108, 75), 3: (72, 63, 75), 6: (72, 72, 180)}
SEMI_MM = {1: (30, 15, 18), 2: (30, 15, 18), 3: (36, 24, 42), 6: (24, 18, 15)}
MIXED = 5
"""A seed with which all of these organs come from the donor (test_the_seed_of_these_tests_takes_organs)."""


def _volume(voxels):
    """Voxels in axial order, 3 mm apart."""
    affine = np.array([[0, 0, -STEP_MM, 0], [0, -STEP_MM, 0, 0], [STEP_MM, 0, 0, 0], [0, 0, 0, 1.0]])
    return Volume(voxels, affine)


def _away(value):
    return [(axis * STEP_MM - middle) for axis, middle in zip(np.indices(SHAPE), MIDDLES[value], strict=True)]


def _balls():
    """Ellipsoids in fat."""
    voxels = np.full(SHAPE, 5, np.uint8)
    for value, semi in SEMI_MM.items():
        voxels[sum((a / s) ** 2 for a, s in zip(_away(value), semi, strict=True)) <= 1] = value
    return voxels


def _blocks(*values, scale=0.8):
    """Some of the organs as blocks, smaller than the ellipsoids, and all else unknown."""
    voxels = np.zeros(SHAPE, np.uint8)
    for value in values:
        voxels[np.all([np.abs(a) <= scale * s for a, s in zip(_away(value), SEMI_MM[value], strict=True)], axis=0)] = (
            value
        )
    return voxels


@pytest.fixture(scope="module")
def template():
    made = read_template(_volume(_balls()), NAMES)
    return replace(made, reshaping=UNCHANGED)


def _patient(template, seed=MIXED, **options):
    return synthesize_from(
        template,
        np.random.default_rng(seed),
        **({"shape": SHAPE, "spacing_mm": (STEP_MM,) * 3, "orientation": "axial"} | options),
    )


def _filled(labels, value):
    """Share of its bounding box that an organ fills: 1 for a block, pi / 6 = 0.52 for an ellipsoid."""
    own = labels.voxels == value
    box = ndimage.find_objects(own.astype(int))[0]
    return own[box].mean()


def _place(labels, organ):
    return measure(
        labels.voxels == VALUE[organ],
        [step * np.arange(n) for step, n in zip(labels.spacing_mm, labels.shape, strict=True)],
    )


def test_a_measured_block_has_the_middle_and_the_spread_of_a_uniform_distribution():
    own = np.zeros((20, 20, 20), bool)
    own[4:16, 2:8, 5:6] = True
    place = measure(own, [2.0 * np.arange(20)] * 3)
    assert place.middle_mm == pytest.approx((19, 9, 10))
    # n voxels in a row have the variance (n^2 - 1) / 12; below 1 mm none is told.
    assert place.spread_mm == pytest.approx((2 * np.sqrt(143 / 12), 2 * np.sqrt(35 / 12), 1.0))
    assert measure(own, [np.arange(20.0)] * 3, whole=True) is not None
    assert measure(own[4:], [np.arange(n * 1.0) for n in (16, 20, 20)], whole=True) is None
    assert measure(np.zeros((2, 2, 2), bool), [np.arange(2.0)] * 3) is None


def test_a_donor_keeps_distances_from_the_surface():
    donor = read_donor(_volume(_blocks(3)), NAMES)
    graft = donor.grafts["liver"]
    assert graft.names == ("liver",)
    fit = fit_graft(graft, Place(np.zeros(3), graft.spread_mm))
    places = np.zeros((3, 1, 1, 3), np.float32)
    places[1, 0, 0] = (0, 12, 30)  # the block is 2 * 18 + 3 mm deep: its surface lies 19.5 mm from the middle
    assert fit.fields(places, ("liver",))["liver"].ravel() == pytest.approx((19.5, 7.5, -10.5), abs=1.0)


def test_the_seed_of_these_tests_takes_organs(template):
    donor = read_donor(_volume(_blocks(1, 2, 3, 6)), NAMES)
    assert _filled(_patient(template, donors=(donor,)).labels, VALUE["liver"]) > 0.8
    assert _filled(_patient(template).labels, VALUE["liver"]) < 0.6


def test_a_donors_organ_has_the_donors_shape_and_the_patients_place_and_size(template):
    donor = read_donor(_volume(_blocks(1, 2, 3, 6)), NAMES)
    own, mixed = _patient(template).labels, _patient(template, donors=(donor,)).labels
    for organ in ("kidney_left", "kidney_right", "liver", "spleen"):
        before, after = _place(own, organ), _place(mixed, organ)
        assert after.middle_mm == pytest.approx(before.middle_mm, abs=2.0), organ
        assert after.spread_mm == pytest.approx(before.spread_mm, rel=0.1), organ
        # Blocks with the spread of a uniform distribution: side = sqrt(12) * spread.
        volume = float(np.prod(np.sqrt(12) * before.spread_mm)) / 1000
        assert np.count_nonzero(mixed.voxels == VALUE[organ]) * mixed.voxel_ml == pytest.approx(volume, rel=0.12), organ
    assert _filled(mixed, VALUE["liver"]) > 0.8


def test_left_stays_left(template):
    """Only the donor's left kidney is a block, and it is the patient's left one that becomes a block."""
    voxels = _blocks(1)
    voxels[_balls() == 2] = 2
    donor = read_donor(_volume(voxels), NAMES)
    labels = _patient(template, donors=(donor,)).labels
    assert _filled(labels, VALUE["kidney_left"]) > 0.75
    assert _filled(labels, VALUE["kidney_right"]) < 0.65
    columns = {
        organ: np.argwhere(labels.voxels == VALUE[organ])[:, 2].mean() for organ in ("kidney_left", "kidney_right")
    }
    assert columns["kidney_left"] > columns["kidney_right"]  # axial order: x from the patient's right to left


def test_a_mirrored_donor_is_refused():
    names = NAMES | {1: "kidney_right", 2: "kidney_left"}
    with pytest.raises(LabelError, match="scan7: kidney_left lies to the patient's right of kidney_right"):
        read_donor(_volume(_blocks(1, 2)), names, where="scan7")


def test_the_order_of_the_file_does_not_matter():
    labels = _volume(_blocks(1, 3))
    turned = turn_volume(labels, Turn((2, 0, 1), (True, False, True)))
    assert read_donor(turned, NAMES).fingerprint == read_donor(labels, NAMES).fingerprint
    assert read_donor(_volume(_blocks(1)), NAMES).fingerprint != read_donor(labels, NAMES).fingerprint


def test_names_that_viscera_does_not_know_are_left_out():
    voxels = _blocks(3)
    voxels[0, 0, 0] = 40
    assert set(read_donor(_volume(voxels), NAMES | {40: "hat"}).grafts) == {"liver"}


def test_organs_that_end_with_the_map_are_not_given():
    cut = _blocks(1, 3)[14:]  # the liver begins at 72 - 0.8 * 36 = 43.2 mm, the kidney at 54 - 24 = 30
    assert np.flatnonzero((cut == 1).any(axis=(1, 2)))[0] == 0
    donor = read_donor(_volume(cut), NAMES)
    assert set(donor.grafts) == {"liver"}
    assert donor.notes == ("kidney_left: cut by the label map's end, not given to others",)
    with pytest.raises(LabelError, match=r"scan7: no whole organ that could be given \(kidney_left: cut"):
        read_donor(_volume(np.where(cut == 1, cut, 0).astype(np.uint8)), NAMES, where="scan7")
    with pytest.raises(LabelError, match="A donor holds some of kidney_left"):
        read_donor(_volume(_balls()), {**NAMES, **dict.fromkeys((1, 2, 3, 4, 6), "lung")})


def test_a_donor_gives_only_what_the_patient_has_and_all_that_belongs_to_it(template):
    """The template has no gallbladder, so it gets none; a patient with one gets no liver without."""
    voxels = _blocks(3)
    voxels[16:19, 12:15, 24:28] = 4
    donor = read_donor(_volume(voxels), NAMES)
    assert donor.grafts["liver"].names == ("liver", "gallbladder")
    labels = _patient(template, donors=(donor,)).labels
    assert not (labels.voxels == VALUE["gallbladder"]).any()
    graft = read_donor(_volume(_blocks(3)), NAMES).grafts["liver"]
    place, alone = Place(np.zeros(3), graft.spread_mm), Donor({"liver": graft})

    def chosen(seed, held, where):
        return choose_grafts(np.random.default_rng(seed), (alone,), held, {"liver": where})

    seed = next(seed for seed in range(50) if chosen(seed, {"liver"}, place))
    assert chosen(seed, {"liver"}, place) == {"liver": graft}
    assert chosen(seed, {"liver", "gallbladder"}, place) == {}
    small = Place(np.zeros(3), graft.spread_mm / (1.1 * ALIKE, 1, 1))
    assert chosen(seed, {"liver"}, small) == {}


def test_a_template_as_its_own_donor_gives_itself(template):
    own, mixed = _patient(template), _patient(template, donors=(donor_of(template),))
    assert not np.array_equal(own.labels.voxels, mixed.labels.voxels)  # surfaces are interpolated anew
    for organ in ("kidney_left", "kidney_right", "liver", "spleen"):
        one, other = (patient.labels.voxels == VALUE[organ] for patient in (own, mixed))
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.95, organ


def test_what_is_annotated_stays_what_the_template_annotates(template):
    donor = read_donor(_volume(_blocks(1, 2, 3, 6)), NAMES)
    assert _patient(template, donors=(donor,)).organs == _patient(template).organs


def test_the_same_seed_gives_the_same_patient_and_a_useless_donor_changes_nothing(template):
    useful, useless = read_donor(_volume(_blocks(1, 2, 3, 6)), NAMES), Donor({})
    moved = replace(template, reshaping=replace(UNCHANGED, organs=True))
    mixed = _patient(moved, donors=(useful,))
    assert np.array_equal(_patient(moved, donors=(useful,)).ct.voxels, mixed.ct.voxels)
    for make in (lambda donors: _patient(moved, donors=donors), _procedural):
        own, mixed, other = make(()), make((useful,)), make((useless,))
        assert not np.array_equal(mixed.labels.voxels, own.labels.voxels)
        assert np.array_equal(other.ct.voxels, own.ct.voxels)
        assert np.array_equal(other.labels.voxels, own.labels.voxels)


def _procedural(donors, seed=7):
    return synthesize(
        np.random.default_rng(seed),
        shape=(48, 80, 80),
        scan="upper",
        orientation="axial",
        variety=without(RICH, ("scan_range", "view", "kidneys")),
        donors=donors,
    )


def test_templates_of_a_cohort_give_each_other_their_organs(template):
    other = replace(
        read_template(_volume(np.where(_blocks(1, 2, 3, 6), _blocks(1, 2, 3, 6), 5).astype(np.uint8)), NAMES),
        reshaping=UNCHANGED,
    )
    pair = (template, other)
    cohort = Cohort("nnunet", shape=(40, 48, 60), templates=pair, donors=tuple(map(donor_of, pair)))
    alone = replace(cohort, donors=())
    changed = 0
    for number in (1, 3):  # all of the first template, whose liver is an ellipsoid
        mixed, own = (make_patient(which, number).labels for which in (cohort, alone))
        assert mixed.shape == own.shape
        assert np.array_equal(make_patient(cohort, number).labels.voxels, mixed.voxels)
        changed += not np.array_equal(mixed.voxels, own.voxels)
    assert changed >= 1


def test_a_donor_file_is_read_with_the_names_beside_it_and_only_several_templates_are_mixed(tmp_path, template, capsys):
    path = tmp_path / "organs_label.nii.gz"
    nifti.write(path, _volume(_blocks(1, 3)))
    (tmp_path / "organs_labels.json").write_text('{"1": "kidney_left", "3": "liver"}')
    found = read_donors((path,), (template,))
    assert [set(one.grafts) for one in found] == [{"kidney_left", "liver"}]
    assert "organs_label.nii.gz gives kidney_left, liver" in capsys.readouterr().err
    assert len(read_donors((path,), (template, template))) == 3
    assert read_donors((), (template,)) == ()


def test_facts_name_donors_only_where_there_are_some(template):
    given = (donor_of(template),)
    assert "donors" not in OnlinePatients(patients=1).facts()
    assert OnlinePatients(patients=1, donors=given).facts()["donors"] == [given[0].fingerprint]


@pytest.fixture(scope="module")
def donor(shared_data):
    """The female, every other voxel."""
    path = shared_data / "hra_organs" / "visible_human_female_label.nii.gz"
    if not path.is_file():
        pytest.skip("no organs of the Human Reference Atlas beside the checkout")
    labels = nifti.read(path)
    coarse = Volume(np.ascontiguousarray(labels.voxels[::2, ::2, ::2]), labels.affine @ np.diag([2, 2, 2, 1.0]))
    return read_donor(coarse, label_names(path).labels, where=path.name)


def test_a_real_donor_gives_whole_organs(donor):
    assert {"kidney_left", "kidney_right", "liver", "spleen", "pancreas", "urinary_bladder"} == set(donor.grafts)
    assert donor.grafts["liver"].names == ("liver", "gallbladder")
    assert donor.grafts["pancreas"].names == ("pancreas", "duodenum")
    assert donor.notes == ()


def test_real_organs_keep_size_side_and_neighbours_in_procedural_patients(donor):
    own, mixed = _procedural(()), _procedural((donor,))
    volumes, before = organ_volumes_ml(mixed), organ_volumes_ml(own)
    for organ in ("liver", "spleen", "kidney_left", "kidney_right"):
        assert volumes[organ] == pytest.approx(before[organ], rel=0.25), organ
    places = {organ: _place(mixed.labels, organ) for organ in ("liver", "spleen", "kidney_left", "kidney_right")}
    assert places["kidney_left"].middle_mm[2] > places["kidney_right"].middle_mm[2]
    assert places["spleen"].middle_mm[2] > places["liver"].middle_mm[2]
    apart = [_from_liver(labels) for labels in (own.labels, mixed.labels)]
    assert apart[1] < 10 < apart[0]  # without donors the gallbladder lies where there is room


def _from_liver(labels):
    """The median distance of the gallbladder's voxels from the liver, in mm."""
    distance = ndimage.distance_transform_edt(labels.voxels != VALUE["liver"], sampling=labels.spacing_mm)
    return float(np.median(distance[labels.voxels == VALUE["gallbladder"]]))
