"""Synthetic patients: reproducible, anatomically ordered, with complete truth in adult sizes."""

import itertools

import numpy as np
import pytest

from makers import organ_volumes_ml
from viscera.errors import SettingError
from viscera.labels import ZHANG12
from viscera.synthesis.appearance.tissues import PHASES
from viscera.synthesis.canvas import ORGANS
from viscera.synthesis.patient import synthesize
from viscera.synthesis.shapes import Grid, Tube, draw_noise, ellipsoid, evaluate, spline
from viscera.volume import same_grid, to_axial

SMALL = (24, 64, 64)
ADULT_ML = {
    "liver": (1000, 2000),
    "spleen": (100, 360),
    "kidney_left": (100, 225),
    "kidney_right": (100, 225),
    "pancreas": (45, 125),
    "stomach": (130, 620),
    "urinary_bladder": (75, 460),
    "colon": (200, 1100),
    "small_bowel": (350, 1700),
    "rectum": (30, 200),
    "femoral_head_left": (35, 90),
    "femoral_head_right": (35, 90),
    "spinal_cord": (25, 110),
    "gallbladder": (8, 60),
    "aorta": (35, 140),
}


@pytest.fixture(scope="module")
def patients():
    return [synthesize(np.random.default_rng(seed), shape=(64, 128, 128)) for seed in range(5)]


def _centre(patient, *organs):
    """Mean position in RAS mm."""
    values = [value for value, name in patient.organs.items() if name in organs]
    index = np.argwhere(np.isin(patient.labels.voxels, values)).mean(axis=0)
    return (patient.labels.affine @ [*index, 1])[:3]


def test_the_same_seed_gives_the_same_patient_and_another_seed_another():
    first, again, other = (synthesize(np.random.default_rng(seed), shape=SMALL) for seed in (7, 7, 8))
    assert np.array_equal(first.ct.voxels, again.ct.voxels)
    assert np.array_equal(first.labels.voxels, again.labels.voxels)
    assert np.array_equal(first.ct.affine, again.ct.affine)
    assert first.phase == again.phase
    assert first.ct.shape != other.ct.shape or not np.array_equal(first.ct.voxels, other.ct.voxels)


def test_ct_and_labels_lie_on_one_grid_as_int16_hu_and_uint8(patients):
    for patient in patients:
        assert same_grid(patient.ct, patient.labels)
        assert patient.ct.voxels.dtype == np.int16
        assert patient.labels.voxels.dtype == np.uint8
        assert patient.ct.voxels.min() >= -1024
        assert patient.phase in PHASES
        assert set(np.unique(patient.labels.voxels)) <= {0, *patient.organs}


def test_a_whole_abdomen_holds_every_organ_of_the_label_space_in_adult_size(patients):
    wanted = set(ZHANG12.organs) - {"kidney", "femoral_head"}
    assert wanted <= set(ORGANS)
    for seed, patient in enumerate(patients):
        volumes = organ_volumes_ml(patient)
        absent = [name for name, volume in volumes.items() if volume == 0]
        assert len(absent) == 1, (seed, absent)
        assert absent[0] in ("prostate", "uterus")
        for organ, (low, high) in ADULT_ML.items():
            assert low <= volumes[organ] <= high, (seed, organ, volumes[organ])


def test_sides_are_right_in_the_world_whatever_the_order_of_the_file(patients):
    assert len({patient.ct.affine.round(3).tobytes() for patient in patients}) == len(patients)
    for patient in patients:
        right, anterior, superior = range(3)  # RAS+
        liver, spleen = _centre(patient, "liver"), _centre(patient, "spleen")
        assert liver[right] > spleen[right]
        assert _centre(patient, "kidney_right")[right] > _centre(patient, "kidney_left")[right]
        assert _centre(patient, "inferior_vena_cava")[right] > _centre(patient, "aorta")[right]
        assert _centre(patient, "spinal_cord")[anterior] < _centre(patient, "aorta")[anterior]
        assert _centre(patient, "urinary_bladder")[superior] < _centre(patient, "kidney_left", "kidney_right")[superior]
        assert _centre(patient, "rectum")[anterior] < _centre(patient, "urinary_bladder")[anterior]


def test_random_orientation_hides_the_same_axial_patient():
    turned = synthesize(np.random.default_rng(3), shape=SMALL, orientation="random")
    axial = synthesize(np.random.default_rng(3), shape=SMALL, orientation="axial")
    assert np.array_equal(to_axial(turned.ct)[0].voxels, axial.ct.voxels)
    assert np.array_equal(to_axial(turned.labels)[0].voxels, axial.labels.voxels)


def test_orders_on_disk_vary_and_some_grids_are_oblique():
    affines = [synthesize(np.random.default_rng(seed), shape=(6, 16, 16)).ct.affine[:3, :3] for seed in range(11)]
    orders = {tuple(np.sign(np.where(np.abs(a) > 0.5 * np.abs(a).max(0), a, 0)).ravel()) for a in affines}
    assert len(orders) >= 4
    oblique = [(np.abs(a / np.linalg.norm(a, axis=0)) > 1e-6).sum() > 3 for a in affines]
    assert any(oblique)
    assert not all(oblique)


def test_organs_have_their_hu(patients):
    for patient in patients:
        mean = {
            name: patient.ct.voxels[patient.labels.voxels == value].mean()
            for value, name in patient.organs.items()
            if (patient.labels.voxels == value).any()
        }
        assert 10 < mean["liver"] < 150
        assert 25 < mean["spleen"] < 160
        assert 10 < mean["pancreas"] < 140
        assert 15 < mean["kidney_left"] < 240
        assert -15 < mean["urinary_bladder"] < 230
        assert 0 < mean["spinal_cord"] < 75
        assert 120 < mean["femoral_head_left"] < 500
        assert -130 < mean["fat"] < -60
        assert 0 < mean["muscle"] < 90
        assert mean["lung"] < -700


def test_upper_scan_has_no_bladder_and_pelvic_scan_no_liver():
    upper = organ_volumes_ml(synthesize(np.random.default_rng(0), shape=SMALL, scan="upper"))
    assert upper["urinary_bladder"] == 0
    assert upper["liver"] > 700
    pelvis = organ_volumes_ml(synthesize(np.random.default_rng(0), shape=SMALL, scan="pelvis"))
    assert pelvis["liver"] == 0
    assert pelvis["urinary_bladder"] > 60


def test_given_spacing_is_honoured():
    patient = synthesize(np.random.default_rng(1), shape=(20, 64, 72), spacing_mm=(5.0, 6.0, 6.5), orientation="axial")
    assert patient.ct.shape == (20, 64, 72)
    assert patient.ct.spacing_mm == pytest.approx((5.0, 6.0, 6.5))


def test_volumes_depend_little_on_the_grid():
    coarse = organ_volumes_ml(synthesize(np.random.default_rng(2), shape=(48, 96, 96), orientation="axial"))
    fine = organ_volumes_ml(synthesize(np.random.default_rng(2), shape=(96, 160, 160), orientation="axial"))
    for organ in ("liver", "spleen", "kidney_left", "urinary_bladder", "femoral_head_left"):
        assert coarse[organ] == pytest.approx(fine[organ], rel=0.08)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (2, 64, 64)}, "at least 4x16x16"),
        ({"spacing_mm": (0.0, 1.0, 1.0)}, "0.1 to 50 mm"),
        ({"scan": "uper"}, "Did you mean 'upper'"),
        ({"orientation": "axal"}, "Did you mean 'axial'"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(SettingError, match=message):
        synthesize.__wrapped__(np.random.default_rng(0), **options)


def _cube(step):
    axis = np.arange(-40, 40 + step, step, dtype=np.float32)
    return Grid(axis, axis, axis, step**3 / 1000)


def test_an_ellipsoid_has_its_volume():
    grid = _cube(1.0)
    box, field = evaluate(ellipsoid((0.0, 0.0, 0.0), (20, 10, 15)), grid, reach_mm=0.0)
    assert (field > 0).sum() * grid.voxel_ml == pytest.approx(4 / 3 * np.pi * 20 * 10 * 15 / 1000, rel=0.02)
    assert all(part.stop - part.start < len(grid.z) for part in box)


def test_a_tube_is_a_cylinder_with_round_ends():
    grid = _cube(1.0)
    tube = spline(np.array([(-20.0, 0, 0), (0, 0, 0), (20, 0, 0)]), np.array((8.4, 8.4, 8.4)), step_mm=1)
    _, field = evaluate(tube, grid, reach_mm=0.0)
    expected = (np.pi * 8.4**2 * 40 + 4 / 3 * np.pi * 8.4**3) / 1000
    assert (field > 0).sum() * grid.voxel_ml == pytest.approx(expected, rel=0.03)


def test_a_shape_outside_the_grid_has_an_empty_field():
    tube = Tube(np.array([(500.0, 0.0, 0.0), (505.0, 0.0, 0.0)]), np.array((5.0, 5.0)))
    assert evaluate(tube, _cube(4.0), reach_mm=1.0)[1].size == 0


def test_noise_at_no_coordinates_is_empty():
    """The box of an organ that lies outside the scan is empty along some axes."""
    noise, some = draw_noise(np.random.default_rng(0), 20.0), np.zeros(4, np.float32)
    for empty in range(3):
        z, y, x = (some[: 0 if axis == empty else 4] for axis in range(3))
        assert noise(z[:, None, None], y[None, :, None], x[None, None, :]).shape == (len(z), len(y), len(x))


def test_noise_has_unit_variance_and_the_same_value_on_every_grid():
    noise = draw_noise(np.random.default_rng(0), 20.0)
    axis = np.arange(-140, 140, 4, dtype=np.float32)
    values = noise(axis[:, None, None] + 200, axis[None, :, None], axis[None, None, :])
    assert values.std() == pytest.approx(1, abs=0.12)
    for z, y, x in itertools.product((3, 40), (5, 60), (7, 31)):
        place = (np.array([[[axis[z] + 200]]]), np.array([[[axis[y]]]]), np.array([[[axis[x]]]]))
        assert float(noise(*place)[0, 0, 0]) == pytest.approx(float(values[z, y, x]), abs=1e-4)
