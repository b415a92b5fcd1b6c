"""The caudate lobe, lungs without air, unequal ventricles: shapes and places, and that labels stay the truth."""

from dataclasses import replace

import numpy as np
import pytest

from viscera.synthesis.anatomy.caudate import CaudatePlan, draw_caudate, part_caudate
from viscera.synthesis.anatomy.sick_lungs import sicken_lungs_
from viscera.synthesis.appearance.enhancement import brighten_heart
from viscera.synthesis.appearance.tissues import draw_palette
from viscera.synthesis.canvas import VALUE, Tissue, blank_canvas
from viscera.synthesis.patient import synthesize
from viscera.synthesis.shapes import Grid
from viscera.synthesis.variety import PLAIN, RICH, without

SICK = (Tissue.EFFUSION, Tissue.COLLAPSED_LUNG, Tissue.HAZE)


def _generator(seed):
    return np.random.default_rng(seed)


def _parted(**changes):
    """What is left of a block of liver: mask, and its axes."""
    plan = CaudatePlan(
        tip_mm=-16, front_mm=-28, slope=0.5, half_mm=1.5, left_mm=16, low_mm=305, high_mm=360, groove_mm=10
    )
    z, y, x = (
        np.arange(low, high, 1.0, dtype=np.float32).reshape(shape)
        for low, high, shape in ((280, 400, (-1, 1, 1)), (-60, 40, (1, -1, 1)), (-80, 60, (1, 1, -1)))
    )
    field = np.full((z.size, y.size, x.size), 30, np.float32)
    return part_caudate(field, z, y, x, plan=replace(plan, **changes), lift_mm=0.0) > 0, z.ravel(), y.ravel(), x.ravel()


def _at(mask, axes, z, y, x):
    return bool(mask[tuple(int(np.argmin(np.abs(axis - place))) for axis, place in zip(axes, (z, y, x), strict=True))])


def test_the_caudate_lobe_lies_between_its_fissure_and_the_vena_cava():
    mask, *axes = _parted()
    assert not _at(mask, axes, 330, -28 + 0.5 * 16, 0)  # within the fissure
    assert _at(mask, axes, 330, -28 + 0.5 * 16 - 6, 0)  # the left lobe before it
    assert _at(mask, axes, 330, -28 + 0.5 * 16 + 6, 0)  # the caudate behind it
    assert not _at(mask, axes, 330, 0, 40)  # it ends on the left
    assert _at(mask, axes, 330, -28 + 0.5 * 40 - 16, 40)  # where the left lobe goes on
    assert _at(mask, axes, 330, -20, -40)  # right of the fissure's end
    assert _at(mask, axes, 380, -28 + 0.5 * 16, 0)  # above it
    assert _at(mask, axes, 290, -28 + 0.5 * 16, 0)  # below it


def test_no_liver_lies_behind_a_bare_vena_cava():
    bare, *axes = _parted()
    wrapped, *_ = _parted(groove_mm=None)
    for z, y, x in ((330, 18, -26), (380, 12, -20)):
        assert not _at(bare, axes, z, y, x)
        assert _at(wrapped, axes, z, y, x)
    assert _at(bare, axes, 330, 18, -70)  # the right lobe, behind and beside it
    assert _at(bare, axes, 330, -10, -26)  # before it


def test_caudate_lobes_are_in_most_patients_and_of_many_sizes():
    plans = [draw_caudate(_generator(seed)) for seed in range(200)]
    found = [plan for plan in plans if plan is not None]
    assert 150 < len(found) < 190
    assert 0.7 < sum(plan.groove_mm is not None for plan in found) / len(found) < 0.9
    assert min(plan.left_mm for plan in found) < 4
    assert max(plan.left_mm for plan in found) > 36
    assert all(plan.low_mm + 39 < plan.high_mm for plan in found)


def test_a_patient_has_one_liver_of_the_same_volume_with_and_without():
    seed = next(seed for seed in range(50) if draw_caudate(_generator(seed)) is not None)
    calm = replace(PLAIN, gain=True)
    options = {"shape": (48, 64, 64), "orientation": "axial", "scan": "upper"}
    usual, other = (
        synthesize(_generator(seed), variety=variety, **options) for variety in (calm, replace(calm, caudate=True))
    )
    counts = [np.count_nonzero(patient.labels.voxels == VALUE["liver"]) for patient in (usual, other)]
    assert counts[1] != counts[0]
    assert counts[1] == pytest.approx(counts[0], rel=0.12)


def _chest(step=5.0):
    """Two lungs of different width beside a spine."""
    z, y, x = (np.arange(low, high, step, dtype=np.float32) for low, high in ((300, 500), (-100, 100), (-130, 130)))
    canvas = blank_canvas(Grid(z, y, x, step**3 / 1000))
    z, y, x = canvas.grid.axes(canvas.grid.everything)
    canvas.paint_(
        canvas.grid.everything, np.broadcast_to(np.hypot(y, 0.8 * x) < 95, canvas.grid.shape), Tissue.LUNG, "lung"
    )
    canvas.paint_(
        canvas.grid.everything, np.broadcast_to(np.hypot(y - 60, x) < 25, canvas.grid.shape), Tissue.MARROW, "vertebrae"
    )
    return canvas


@pytest.fixture(scope="module")
def sick_chests():
    chests = [_chest() for _ in range(60)]
    for seed, canvas in enumerate(chests):
        sicken_lungs_(_generator(seed), canvas)
    return chests


def test_sick_lungs_keep_their_label_and_all_kinds_occur(sick_chests):
    before = _chest()
    sides, tissues = [], set()
    for canvas in sick_chests:
        assert np.array_equal(canvas.label, before.label)
        changed = canvas.tissue != before.tissue
        assert (before.tissue[changed] == Tissue.LUNG).all()
        assert np.isin(canvas.tissue[changed], SICK).all()
        tissues |= set(np.unique(canvas.tissue[changed]).tolist())
        fluid = canvas.tissue == Tissue.EFFUSION
        sides.append((fluid[..., canvas.grid.x < 0].any(), fluid[..., canvas.grid.x > 0].any()))
    assert tissues == set(SICK)
    right, left = np.array(sides).mean(axis=0)
    assert 0.08 < right < 0.4
    assert 0.08 < left < 0.4
    assert any(one != other for one, other in sides)  # the sides are drawn apart


def test_effusions_lie_at_the_back_more_often_than_in_front(sick_chests):
    backs = []
    for canvas in sick_chests:
        rows = np.nonzero(canvas.tissue == Tissue.EFFUSION)[1]
        if len(rows):
            backs.append(float(canvas.grid.y[rows].mean()))
    assert np.median(backs) > 8
    assert min(backs) < 5  # loculated at the side or beneath the lung


def test_a_bright_ventricle_is_far_from_its_wall_and_everything_else_keeps_its_hu():
    bright = 0
    for seed in range(60):
        palette = draw_palette(_generator(seed), "arterial")
        changed = brighten_heart(_generator(seed), palette)
        others = np.ones(256, bool)
        others[[Tissue.BLOOD_LEFT, Tissue.BLOOD_RIGHT, Tissue.MYOCARDIUM, Tissue.HEART, Tissue.HAZE]] = False
        assert np.array_equal(changed.means[others], palette.means[others])
        assert -700 < changed.means[Tissue.HAZE] < -100
        if not np.array_equal(changed.means[:64], palette.means[:64]):
            bright += 1
            blood = max(changed.means[Tissue.BLOOD_LEFT], changed.means[Tissue.BLOOD_RIGHT])
            assert blood > changed.means[Tissue.MYOCARDIUM] + 25
    assert 6 < bright < 26  # a quarter of 60


def test_patients_of_before_are_made_by_leaving_the_new_ones_out():
    older = without(RICH, ("caudate", "lungs", "bright_heart", "renal_lips", "rugae", "bright_bowel"))
    one, other = (
        synthesize(_generator(3), shape=(14, 32, 32), orientation="axial", variety=variety)
        for variety in (older, replace(older, caudate=True))
    )
    muscle = [np.count_nonzero(patient.labels.voxels == VALUE["vertebrae"]) for patient in (one, other)]
    assert muscle[0] == muscle[1]
