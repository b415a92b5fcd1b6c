"""The body's box: of shapes whose place is known, of synthetic patients and of real scans."""

import json

import numpy as np
import pytest

from viscera.io import nifti
from viscera.preparation.body import coarse_grid, find_body, find_coarse_body
from viscera.synthesis.patient import synthesize
from viscera.volume import axial_turn, turn_volume

SPACING_MM = (5.0, 1.0, 1.0)
SHAPE = (12, 200, 240)


def ellipse(centre: tuple[float, float], radii: tuple[float, float], shape: tuple[int, int] = SHAPE[1:]) -> np.ndarray:
    y, x = np.indices(shape)
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


def air(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).normal(-1000, 30, shape).astype(np.int16)


def is_box(found: tuple[slice, slice], rows: tuple[int, int], columns: tuple[int, int], *, slack: int = 6) -> None:
    """Nothing of the box is lost, and it is at most so many pixels too wide."""
    for side, (first, last) in zip(found, (rows, columns), strict=True):
        assert first - slack <= side.start <= first
        assert last + 1 <= side.stop <= last + 1 + slack


@pytest.mark.parametrize("hole", [None, -850], ids=["solid", "chest"])
def test_the_box_is_that_of_the_body_without_table_arms_and_clothes(hole):
    hu = air()
    hu[:, ellipse((90, 120), (60, 80))] = 40
    if hole is not None:
        hu[2:, ellipse((90, 120), (48, 66))] = hole  # thin walls around the lungs
    for column in (20, 220):
        hu[:, ellipse((90, column), (15, 14))] = 60  # arms, one of them bright
    hu[:, 152:155, 30:210] = hu[:, 185:188, 30:210] = 100  # the table's shells, the upper one under the skin
    hu[:, 155:185, 30:210] = -880
    hu[:, 26, 60:180] = 0  # a blanket
    is_box(find_body(hu, SPACING_MM), (30, 150), (40, 200))


def test_slices_lower_down_count_as_much_as_others():
    hu = air()
    hu[:, ellipse((90, 120), (40, 50))] = 40
    hu[9:, ellipse((90, 120), (70, 90))] = 40
    is_box(find_body(hu, SPACING_MM), (20, 160), (30, 210))


def test_both_legs_belong_to_the_body_though_they_do_not_touch():
    hu = air()
    hu[:, ellipse((100, 70), (40, 40))] = 40
    hu[:, ellipse((100, 170), (38, 38))] = 40
    is_box(find_body(hu, SPACING_MM), (60, 138 + 2), (30, 208))


def test_a_body_that_the_field_of_view_cuts_reaches_its_border():
    hu = air()
    hu[:, ellipse((100, 120), (130, 200))] = 40
    assert find_body(hu, SPACING_MM) == (slice(0, 200), slice(0, 240))


def test_metal_and_its_streaks_do_not_change_the_box():
    hu = air()
    hu[:, ellipse((90, 120), (60, 80))] = 40
    hu[5:8, ellipse((90, 90), (10, 10))] = 3000
    hu[6, 85:90] = -900  # a dark streak from side to side
    hu[6, 100:102] = 500  # a bright one beyond the skin
    is_box(find_body(hu, SPACING_MM), (30, 150), (40, 200))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 50), SHAPE])
def test_without_a_body_the_whole_slice_is_taken(shape):
    whole = slice(0, shape[1]), slice(0, shape[2])
    assert find_body(air(shape), SPACING_MM) == whole
    crumb = air(shape)
    crumb[:, : shape[1] // 6, : shape[2] // 6] = 40  # 33 x 40 mm at most
    assert find_body(crumb, SPACING_MM) == whole


def test_one_slice_is_enough():
    hu = air((1, *SHAPE[1:]))
    hu[:, ellipse((90, 120), (60, 80))] = 40
    is_box(find_body(hu, SPACING_MM), (30, 150), (40, 200))


def test_only_voxels_of_the_coarse_grid_are_looked_at():
    hu = air()
    hu[:, ellipse((90, 120), (60, 80))] = 40
    spacing_mm = (2.0, 1.0, 0.9)
    z, y, x = coarse_grid(spacing_mm)
    assert (z.step, y.step, x.step) == (2, 3, 3)  # 5 mm and 3 mm at most
    coarse = hu[z, y, x].copy()
    hidden = np.full_like(hu, 3000)
    hidden[z, y, x] = coarse
    box = find_body(hu, spacing_mm)
    assert find_body(hidden, spacing_mm) == find_coarse_body(coarse, SHAPE[1:], spacing_mm) == box
    assert box != (slice(0, SHAPE[1]), slice(0, SHAPE[2]))


@pytest.mark.parametrize("seed", range(6))
def test_a_synthetic_patient_lies_within_the_box(seed):
    patient = synthesize(np.random.default_rng(seed), shape=(40, 128, 128))
    turn = axial_turn(patient.ct.affine)
    ct, labels = turn_volume(patient.ct, turn), turn_volume(patient.labels, turn)
    rows, columns = find_body(ct.voxels, ct.spacing_mm)
    tissue = labels.voxels > 0
    assert tissue[:, rows, columns].sum() == tissue.sum()
    for axis, side in enumerate((rows, columns), start=1):
        other = tuple(a for a in range(3) if a != axis)
        places = np.flatnonzero(tissue.any(other))
        slack = 20 / ct.spacing_mm[axis]  # the skin has no label, and the box is up to 6 mm too wide
        assert side.start >= places[0] - slack
        assert side.stop <= places[-1] + 1 + slack


@pytest.mark.parametrize(
    ("name", "smaller"),
    [("ts_example_ct_3mm", 0.97), ("ts_example_ct_sm_3mm", 0.97), ("ts_example_dicom_20slices", 0.5)],
)
def test_no_label_of_a_real_trunk_is_outside_the_box(shared_data, name, smaller):
    folder = shared_data / "totalsegmentator_example"
    names = json.loads((folder / f"{name}_labels.json").read_text())
    arms = [int(value) for value, organ in names.items() if organ.startswith("humerus")]
    ct, labels = (nifti.read(folder / f"{name}_{kind}.nii.gz") for kind in ("ct", "label"))
    turn = axial_turn(ct.affine)
    ct, labels = turn_volume(ct, turn), turn_volume(labels, turn)
    rows, columns = find_body(ct.voxels, ct.spacing_mm)
    inside = labels.voxels[:, rows, columns]
    trunk = [np.count_nonzero(voxels) - np.isin(voxels, arms).sum() for voxels in (inside, labels.voxels)]
    assert trunk[0] == trunk[1] > 0
    assert inside.size < smaller * labels.voxels.size
