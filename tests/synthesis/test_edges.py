"""Where organs end: the label's edge against the edge in HU, rims of muscle, and what meets beneath the domes."""

from dataclasses import replace

import numpy as np
import pytest

from viscera.synthesis.anatomy.dome import draw_dome
from viscera.synthesis.anatomy.frame import draw_frame
from viscera.synthesis.anatomy.plans import AVERAGE
from viscera.synthesis.anatomy.rims import REACH_MM, distances, paint_rims_
from viscera.synthesis.appearance.enhancement import level_heart
from viscera.synthesis.appearance.tissues import draw_palette
from viscera.synthesis.canvas import VALUE, Tissue, blank_canvas
from viscera.synthesis.patient import synthesize
from viscera.synthesis.shapes import Grid
from viscera.synthesis.template.patient import synthesize_from
from viscera.synthesis.template.template import Reshaping, read_template
from viscera.synthesis.template.thorax import grow_thorax, needs_thorax
from viscera.synthesis.variety import PLAIN, RICH, without
from viscera.volume import Volume

QUIET = without(RICH, ("noise", "texture", "streaks", "lesions", "metal", "gain", "scan_range", "view", "fluids"))
"""Nothing in the image but anatomy and partial volume."""
COARSE = {"shape": (40, 112, 112), "spacing_mm": (6.0, 3.5, 3.5), "scan": "upper", "orientation": "axial"}
EDGED = ("liver", "spleen", "kidney_left", "kidney_right")
LEAST_HU = 60.0
"""Between organ and fat, for an edge to be found."""


def signed_distances(ct, labels, organ, axis):
    """How far outside the label's edge HU fall to half-way between organ and fat, in voxels along an axis.

    Taken wherever three voxels of an organ are followed by three of fat, both ways.
    """
    found = []
    for step in (1, -1):
        hu, label = (np.moveaxis(array, axis, -1)[..., ::step] for array in (ct.astype(np.float32), labels))
        own, fat, count = label == VALUE[organ], label == VALUE["fat"], label.shape[-1] - 5
        places = np.ones(own[..., :count].shape, bool)
        for offset in range(3):
            places &= own[..., offset : offset + count] & fat[..., offset + 3 : offset + 3 + count]
        z, y, x = np.nonzero(places)
        profile = np.stack([hu[z, y, x + offset] for offset in range(6)], axis=1)
        profile = profile[profile[:, 0] > profile[:, 5] + LEAST_HU]
        half = 0.5 * (profile[:, 0] + profile[:, 5])
        above = profile > half[:, None]
        first = above.argmin(axis=1)
        once = above.sum(axis=1) == first  # it falls once
        profile, half, first = profile[once], half[once], first[once]
        rows = np.arange(len(first))
        before, after = profile[rows, first - 1], profile[rows, first]
        found.append(first - 1 + (before - half) / (before - after) - 2.5)
    return np.concatenate(found)


def _ball(radius_mm, step_mm, *, label_radius_mm):
    """A ball of 100 HU in fat, its voxels' true means, and a label of perhaps another radius."""
    fine = np.arange(-36, 36, step_mm / 4) + step_mm / 8
    z, y, x = np.meshgrid(fine, fine, fine, indexing="ij", sparse=True)
    inside = z**2 + y**2 + x**2 < radius_mm**2
    n = len(fine) // 4
    share = inside.reshape(n, 4, n, 4, n, 4).mean(axis=(1, 3, 5))
    middle = fine.reshape(n, 4).mean(axis=1)
    z, y, x = np.meshgrid(middle, middle, middle, indexing="ij", sparse=True)
    label = np.where(z**2 + y**2 + x**2 < label_radius_mm**2, VALUE["liver"], VALUE["fat"])
    return -100 + 200 * share, label


def test_the_measure_finds_a_label_that_is_half_a_voxel_too_wide_or_too_narrow():
    # Along an axis an oblique surface is further away than along its normal.
    for extra_mm, least, most in ((0.0, -0.1, 0.1), (1.0, -0.95, -0.45), (-1.0, 0.45, 0.95)):
        hu, label = _ball(26.0, 2.0, label_radius_mm=26.0 + extra_mm)
        for axis in range(3):
            assert least < signed_distances(hu, label, "liver", axis).mean() < most


def _mean_distances(patients):
    found = {(organ, axis): [] for organ in ("liver", "spleen", "kidney") for axis in range(3)}
    for patient in patients:
        for organ in EDGED:
            for axis in range(3):
                found[organ.split("_")[0], axis].append(
                    signed_distances(patient.ct.voxels, patient.labels.voxels, organ, axis)
                )
    joined = {key: np.concatenate(values) for key, values in found.items()}
    assert min(map(len, joined.values())) > 60
    return {key: float(values.mean()) for key, values in joined.items()}


@pytest.fixture(scope="module")
def patients():
    return [synthesize(np.random.default_rng(seed), variety=QUIET, **COARSE) for seed in (0, 1)]


def test_labels_end_where_hu_are_half_way_to_fat(patients):
    for key, mean in _mean_distances(patients).items():
        assert abs(mean) < 0.15, (key, mean)


@pytest.fixture(scope="module")
def template():
    """A patient in the size of a doll whose domes are cut off, as templates are."""
    patient = synthesize(
        np.random.default_rng(5), shape=(60, 90, 96), spacing_mm=(4.0, 4.0, 4.0), scan="upper", orientation="axial"
    )
    voxels = patient.labels.voxels
    cut = int(np.flatnonzero((voxels == VALUE["liver"]).any(axis=(1, 2)))[-1]) - 6
    affine = np.array([[0, 0, -2.5, 0], [0, -2.5, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 1.0]])
    return read_template(Volume(voxels[:cut], affine), {VALUE[name]: name for name in VALUE})


def _from(template, seed, variety):
    made = replace(template, reshaping=Reshaping(variety=variety))
    return synthesize_from(made, np.random.default_rng(seed), **(COARSE | {"spacing_mm": (4.0, 2.2, 2.2)}))


@pytest.fixture(scope="module")
def dolls(template):
    return [_from(template, seed, QUIET) for seed in (0, 1, 2, 3)]


def test_labels_of_a_templates_patients_end_where_hu_are_half_way_to_fat(dolls):
    for key, mean in _mean_distances(dolls).items():
        assert abs(mean) < 0.15, (key, mean)


def _muscle_beside(labels, organ, other):
    """Share of an organ's surface that touches muscle, and that touches another label."""
    own = labels == VALUE[organ]
    faces = [(own[:, :, :-1], labels[:, :, 1:]), (own[:, :, 1:], labels[:, :, :-1])]
    faces += [(own[:, :-1], labels[:, 1:]), (own[:, 1:], labels[:, :-1]), (own[:-1], labels[1:])]
    beyond = np.concatenate([there[here] for here, there in faces])
    beyond = beyond[beyond != VALUE[organ]]
    return (beyond == VALUE["muscle"]).mean(), (beyond == VALUE[other]).mean()


def test_muscle_lies_between_organ_and_lung_with_rims_and_touches_it(patients, dolls, template):
    poor = without(QUIET, ("rims",))
    for with_rims, bare in (
        (patients[1], synthesize(np.random.default_rng(1), variety=poor, **COARSE)),
        (dolls[1], _from(template, 1, poor)),
    ):
        for organ in ("liver", "spleen"):
            muscle, lung = _muscle_beside(with_rims.labels.voxels, organ, "lung")
            usual, usual_lung = _muscle_beside(bare.labels.voxels, organ, "lung")
            assert muscle > usual + 0.05
            assert lung < 0.5 * usual_lung


def _block():
    """Liver beside lung, and beside fat with a wall behind it: a canvas of 2 mm voxels."""
    axis = np.arange(0, 80, 2.0, dtype=np.float32)
    canvas = blank_canvas(Grid(axis[:12] + 300, axis, axis - 40, 0.008))
    canvas.tissue[:], canvas.label[:] = Tissue.LUNG, VALUE["lung"]
    everything = canvas.grid.everything
    for columns, tissue, organ in (((10, 30), Tissue.LIVER, "liver"), ((30, 32), Tissue.FREE, "fat"),
                                   ((32, 40), Tissue.MUSCLE, "muscle")):  # fmt: skip
        mask = np.zeros(canvas.label.shape, bool)
        mask[:, :, slice(*columns)] = True
        canvas.paint_(everything, mask, tissue, organ)
    return canvas


def test_a_rim_is_some_millimetres_thick_and_takes_little_of_the_organ():
    thick, touched, behind = [], [], 0
    for seed in range(30):
        canvas = _block()
        paint_rims_(np.random.default_rng(seed), canvas)
        muscle = canvas.label == VALUE["muscle"]
        assert np.array_equal(muscle, canvas.tissue == Tissue.MUSCLE)
        thick.append(2.0 * muscle[:, :, :10].sum() / (12 * 40))  # in what was lung
        touched.append(float(muscle[:, :, 30].mean()))
        behind += bool((canvas.tissue[:, :, 33:] == Tissue.FAT).any())
        assert (canvas.label == VALUE["liver"]).sum() > 0.85 * 12 * 40 * 20
        assert not muscle[:, :, :2].any()  # 16 mm away
    assert min(thick) > 0.8
    assert max(thick) < 6
    assert 2 < np.mean(thick) < 4
    assert min(touched) < 0.5 < 0.9 < max(touched)
    assert behind >= 8


def test_distances_are_those_to_the_surface_of_voxels():
    from scipy import ndimage

    mask = np.zeros((11, 21, 21), bool)
    mask[5, 8:13, 8:13] = True
    near = distances(mask, (4.0, 2.0, 2.0))
    assert near[5, 10, 13] == pytest.approx(1.0)
    assert near[6, 10, 10] == pytest.approx(2.0)
    assert near[7, 10, 10] == pytest.approx(6.0)
    assert not near[mask].any()
    exact = ndimage.distance_transform_edt(~mask, sampling=(4.0, 2.0, 2.0))
    close = (exact < REACH_MM) & ~mask
    assert ((exact - near)[close] >= 0.4).all()
    assert ((exact - near)[close] <= 2.3).all()


def test_the_heart_sinks_between_the_lobes_and_domes_stand_high_in_some():
    frame = draw_frame(np.random.default_rng(0))
    drawn = [draw_dome(np.random.default_rng(seed), frame, AVERAGE) for seed in range(80)]
    sunk = np.array([frame.heart.low[0] - after.heart.low[0] for after, _ in drawn])
    assert 3 <= sunk.min() < 12
    assert sunk.max() > 45
    assert max(after.dome_right_mm - frame.dome_right_mm for after, _ in drawn) > 35
    assert max(plan.liver.left_mm for _, plan in drawn) > 55
    assert max(plan.stomach.shift_mm[0] for _, plan in drawn) > 30
    assert all(plan.kidney_left == AVERAGE.kidney_left for _, plan in drawn)


def test_heart_and_liver_share_slices_with_the_dome_ingredient():
    shared = {}
    for variety in (replace(PLAIN, heart=True, dome=True), replace(PLAIN, heart=True)):
        shared[variety.dome] = []
        for seed in range(3):
            labels = synthesize(np.random.default_rng(seed), variety=variety, shape=(64, 40, 48), scan="upper",
                                spacing_mm=(5.0, 9.0, 9.0), orientation="axial").labels.voxels  # fmt: skip
            heart, liver = (labels == VALUE["heart"], labels == VALUE["liver"])
            both = heart.any(axis=(1, 2)) & liver.any(axis=(1, 2))
            shared[variety.dome].append(5 * int(both.sum()))
    assert np.mean(shared[True]) > np.mean(shared[False]) + 10
    assert np.ptp(shared[True]) > 10


def test_the_heart_has_the_livers_hu_in_some_patients():
    equal = []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        means = level_heart(generator, draw_palette(generator, "arterial")).means
        equal.append(abs(means[Tissue.BLOOD_LEFT] - means[Tissue.LIVER]) < 20)
    assert 0.25 < np.mean(equal) < 0.55


def test_a_templates_chest_holds_the_heart_lower_with_the_dome_ingredient(template):
    assert needs_thorax(template)
    lowest = []
    for seed in range(5):
        usual = grow_thorax(template, np.random.default_rng(seed))
        sunk = grow_thorax(template, np.random.default_rng(seed), pit=np.random.default_rng(seed))
        lowest.append([np.flatnonzero((grown.label == VALUE["heart"]).any(axis=(1, 2)))[0] for grown in (usual, sunk)])
        assert sunk.label.shape == usual.label.shape
    steps = np.array(lowest)
    assert (steps[:, 1] < steps[:, 0]).sum() >= 3
    assert (steps[:, 0] - steps[:, 1]).max() > 8
