"""Varied synthetic patients: every ingredient has a switch of its own, and PLAIN stays what it was."""

from dataclasses import fields, replace

import numpy as np
import pytest

from makers import organ_volumes_ml
from viscera.cli.synth import main
from viscera.datasets.synthetic import Cohort, make_patient
from viscera.errors import SettingError
from viscera.synthesis.anatomy.chest import TOP_MM, paint_fluids_
from viscera.synthesis.anatomy.frame import draw_frame
from viscera.synthesis.anatomy.habitus import (
    change_posture_,
    draw_arms,
    draw_breathing,
    draw_fatness,
    draw_heart,
    paint_arms_,
)
from viscera.synthesis.anatomy.kidney_plans import KidneyPlan
from viscera.synthesis.anatomy.kidneys import draw_kidneys
from viscera.synthesis.anatomy.metal import paint_metal_
from viscera.synthesis.anatomy.plans import AVERAGE, draw_plan
from viscera.synthesis.anatomy.skeleton import draw_skeleton
from viscera.synthesis.appearance.enhancement import MOMENT_HU, MOMENTS, vary_palette
from viscera.synthesis.appearance.tissues import PHASES, draw_palette
from viscera.synthesis.canvas import ORGANS, VALUE, Tissue, blank_canvas, settle_
from viscera.synthesis.patient import synthesize
from viscera.synthesis.scanner.field_of_view import HIGHEST_MM, LOWEST_MM, draw_outside, draw_range
from viscera.synthesis.scanner.protocol import add_noise_, beam_loss, blur_varied, change_gain_
from viscera.synthesis.shapes import Grid
from viscera.synthesis.variety import INGREDIENTS, PLAIN, RICH, Variety, open_streams, without

TINY = {"shape": (14, 32, 32), "spacing_mm": (28.0, 13.0, 13.0), "orientation": "axial"}
IMAGE_ONLY = ("contrast", "lesions", "texture", "kernel", "noise", "streaks", "metal", "gain", "bright_bowel", "rugae")
"""Ingredients that never change a label."""
PLANNED = ("kidneys", "liver", "spleen", "stomach", "gallbladder", "bladder", "pancreas", "vessels", "contents", "cava",
           "confluence", "caudate")  # fmt: skip
RENAL = ("renal_places", "renal_look", "renal_hilum", "renal_lips")
"""Ingredients that change the kidneys' plans further."""
RARE = (
    *("arms", "fluids", "metal", "lesions", "view", "streaks", "gallbladder", "dome", "rims"),
    *("liver_lesions", "old_aorta", "surgery", "bodies", "caudate", "lungs", "bright_heart", "rugae", "bright_bowel"),
)
"""Ingredients that one patient may well show nothing of."""


def _patient(seed, variety, **options):
    return synthesize(np.random.default_rng(seed), variety=variety, **(TINY | options))


@pytest.fixture(scope="module")
def rich():
    return [_patient(seed, RICH) for seed in range(2)]


def test_plain_patients_are_those_of_before_there_was_variety():
    """Recorded from the version before; counts may differ by a voxel where another processor rounds otherwise."""
    patient = synthesize(np.random.default_rng(0), shape=(24, 64, 64), orientation="axial", variety=PLAIN)
    assert patient.phase == "none"
    counted = {"liver": 2402, "spleen": 317, "kidney_left": 251, "colon": 634, "aorta": 90, "muscle": 14219}
    counts = np.bincount(patient.labels.voxels.ravel(), minlength=len(ORGANS) + 1)
    for organ, count in counted.items():
        assert counts[VALUE[organ]] == pytest.approx(count, abs=2), organ
    assert patient.ct.voxels.mean() == pytest.approx(-584.6035, abs=0.05)


def test_every_ingredient_is_off_in_plain_and_on_in_rich():
    assert tuple(field.name for field in fields(Variety)) == INGREDIENTS
    assert not any(getattr(PLAIN, name) for name in INGREDIENTS)
    assert all(getattr(RICH, name) for name in INGREDIENTS)
    assert without(RICH, INGREDIENTS) == PLAIN
    assert without(RICH, ()) == RICH


def test_an_unknown_ingredient_is_named_with_its_neighbour():
    with pytest.raises(SettingError, match="no ingredient 'kidney'. Did you mean 'kidneys'"):
        without(RICH, ("kidney",))


def test_a_rich_patient_is_the_same_for_the_same_seed(rich):
    again = _patient(0, RICH)
    assert np.array_equal(again.ct.voxels, rich[0].ct.voxels)
    assert np.array_equal(again.labels.voxels, rich[0].labels.voxels)
    assert not np.array_equal(rich[1].ct.voxels, rich[0].ct.voxels)


@pytest.mark.parametrize(
    "ingredient",
    [pytest.param(name, marks=[pytest.mark.slow] * (n % 4 > 0)) for n, name in enumerate(reversed(INGREDIENTS))],
)
def test_an_ingredient_leaves_what_is_not_its_own(ingredient, rich):
    poorer = _patient(0, without(RICH, (ingredient,)))
    if ingredient != "contrast":
        assert poorer.phase == rich[0].phase
    if ingredient in IMAGE_ONLY:
        assert np.array_equal(poorer.labels.voxels, rich[0].labels.voxels)
    if ingredient not in ("scan_range", "bodies"):
        assert poorer.ct.affine[2, 3] == rich[0].ct.affine[2, 3]  # where the scan begins
    if ingredient not in RARE and np.array_equal(poorer.ct.voxels, rich[0].ct.voxels):  # on so coarse a grid, by chance
        assert not np.array_equal(_patient(1, without(RICH, (ingredient,))).ct.voxels, rich[1].ct.voxels)


@pytest.mark.parametrize("ingredient", PLANNED)
def test_plans_of_other_organs_do_not_depend_on_an_ingredient(ingredient):
    owned = {"kidneys": ("kidney_left", "kidney_right"), "contents": ("meals",)}.get(ingredient, (ingredient,))
    usual = without(RICH, RENAL)
    everything = draw_plan(open_streams(np.random.default_rng(4), usual), usual)
    variety = without(usual, (ingredient,))
    less = draw_plan(open_streams(np.random.default_rng(4), variety), variety)
    for field in fields(everything):
        expected = AVERAGE if field.name in owned else everything
        assert getattr(less, field.name) == getattr(expected, field.name), field.name


def _grid(axes, voxel_ml):
    z, y, x = (np.asarray(axis, np.float32) for axis in axes)
    return Grid(z, y, x, voxel_ml)


def _kidneys(**plans):
    """Both kidneys on a canvas of nothing but free fat: {organ: its places}."""
    axes = (np.arange(100, 420, 5.0), np.arange(-40, 130, 5.0), np.arange(-170, 171, 5.0))
    grid = _grid(axes, 0.125)
    frame = draw_frame(np.random.default_rng(0))
    plans = {"left": KidneyPlan(), "right": KidneyPlan()} | plans
    canvas = blank_canvas(grid)
    canvas.tissue[:] = Tissue.FREE
    for organ in draw_kidneys(np.random.default_rng(1), frame, lift_mm=0.0, **plans):
        settle_(organ, canvas)
    return {
        name: np.stack([axis[place] for axis, place in zip(axes, np.nonzero(canvas.label == VALUE[name]), strict=True)])
        for name in ("kidney_left", "kidney_right")
    }


def test_a_kidney_moves_grows_and_goes_missing_as_planned_and_the_other_stays():
    usual = _kidneys()
    moved = _kidneys(left=KidneyPlan(shift_mm=(-40.0, -10.0, 15.0)))
    shift = moved["kidney_left"].mean(axis=1) - usual["kidney_left"].mean(axis=1)
    assert shift == pytest.approx((-40, -10, 15), abs=2)
    grown = _kidneys(left=KidneyPlan(size=1.2))
    assert grown["kidney_left"].shape[1] == pytest.approx(1.2**3 * usual["kidney_left"].shape[1], rel=0.03)
    missing = _kidneys(left=KidneyPlan(missing=True))
    assert missing["kidney_left"].size == 0
    for other in (moved, grown, missing):
        assert np.array_equal(other["kidney_right"], usual["kidney_right"])


def test_kidneys_vary_as_widely_as_announced():
    plans = [draw_plan(open_streams(np.random.default_rng(seed), RICH), RICH) for seed in range(400)]
    kidneys = [kidney for plan in plans for kidney in (plan.kidney_left, plan.kidney_right)]
    assert 0.01 < np.mean([plan.kidney_left.missing or plan.kidney_right.missing for plan in plans]) < 0.06
    assert not any(plan.kidney_left.missing and plan.kidney_right.missing for plan in plans)
    heights = np.array([kidney.shift_mm[0] for kidney in kidneys])
    assert heights.min() < -60
    assert heights.max() > 35
    sizes = np.array([kidney.size for kidney in kidneys])
    assert 0.75 <= sizes.min() < 0.82
    assert 1.2 < sizes.max() <= 1.35
    assert 0.06 < np.mean([plan.gallbladder.missing for plan in plans]) < 0.19


def _palettes(phase, count=200):
    drawn = []
    for seed in range(count):
        generator = np.random.default_rng([PHASES.index(phase), seed])
        drawn.append(vary_palette(generator, draw_palette(generator, phase), phase))
    return drawn


def test_contrast_keeps_plausible_relations_but_for_a_quarter_of_patients():
    wide = [shown == "wide" for phase in PHASES for _, shown in _palettes(phase)]
    assert np.mean(wide) == pytest.approx(0.25, abs=0.05)
    for palette, shown in _palettes("none"):
        if shown != "wide":
            assert palette.means[Tissue.ARTERY] < 55
            assert palette.means[Tissue.VEIN] == pytest.approx(palette.means[Tissue.ARTERY], abs=3)
    for palette, shown in _palettes("arterial"):
        if shown != "wide":
            assert palette.means[Tissue.ARTERY] > max(palette.means[Tissue.VEIN], palette.means[Tissue.LIVER]) + 40
            assert palette.means[Tissue.KIDNEY_CORTEX] > palette.means[Tissue.KIDNEY_MEDULLA]


def test_liver_hu_reach_from_fatty_to_dense():
    livers = np.array([palette.means[Tissue.LIVER] for phase in PHASES for palette, _ in _palettes(phase)])
    assert livers.min() < 10
    assert livers.max() > 175
    assert 0.05 < (livers < 38).mean() < 0.2


def test_every_tissue_of_the_enhancement_table_has_a_range_at_each_moment():
    assert all(len(ranges) == 6 and all(low < high for low, high in ranges) for ranges in MOMENT_HU.values())
    assert set(MOMENTS) == set(PHASES)


def test_every_tissue_has_hu_of_its_own():
    palette, _ = _palettes("portal", 1)[0]
    for tissue in Tissue:
        assert tissue == Tissue.AIR or palette.means[tissue] != 0, tissue.name


@pytest.mark.parametrize("step_mm", [1.0, 5.0])
def test_a_kernel_keeps_the_mean_and_averages_a_thickness_whatever_the_spacing(step_mm):
    edge = np.zeros((40, 8, 8), np.float32)
    edge[20:] = 100.0
    for seed in range(8):
        blurred = blur_varied(np.random.default_rng(seed), edge, (step_mm, 2.5, 2.5))[:, 4, 4]
        assert blurred.mean() == pytest.approx(50, abs=1)
        if step_mm > 1:
            continue  # too coarse to show a slope
        # The spread of an edge's slope: that of a box of 0.9 to 5.5 mm, and of the voxel's own.
        slope = np.diff(blurred) / 100
        places = np.arange(len(slope)) * step_mm
        spread = np.sqrt((slope * (places - (slope * places).sum()) ** 2).sum())
        assert 0.25 * np.hypot(0.9, step_mm) < spread < 0.33 * np.hypot(5.5, step_mm)


def _cylinder(radius_mm):
    y, x = np.meshgrid(np.arange(-198, 200, 4.0), np.arange(-198, 200, 4.0), indexing="ij")
    return np.repeat(np.where(y**2 + x**2 < radius_mm**2, 40.0, -1000.0)[None], 3, axis=0).astype(np.float32)


def test_noise_is_strongest_in_the_middle_of_large_patients():
    strengths = {}
    for radius in (100, 180):
        clean = _cylinder(radius)
        loss, noisy = beam_loss(clean, (4.0, 4.0, 4.0)), clean.copy()
        add_noise_(np.random.default_rng(5), noisy, loss, (4.0, 4.0, 4.0))
        noise = noisy - clean
        strengths[radius] = noise[:, 42:58, 42:58].std(), noise[:, :8, :8].std()
    assert strengths[100][0] > 1.2 * strengths[100][1]
    assert strengths[180][0] > 1.05 * strengths[100][0]


def test_gain_moves_water_by_its_offset_and_fat_hardly_more():
    shifts = []
    for seed in range(40):
        image = np.zeros((1, 2, 2), np.float32)
        change_gain_(np.random.default_rng(seed), image)
        shifts.append(float(image[0, 0, 0]))
    assert max(map(abs, shifts)) < 38 + 0.1  # 3 % of 1000, and 8
    assert np.std(shifts) > 5


def test_scan_ranges_stay_on_the_body_and_keep_a_given_length():
    kinds = [draw_range(np.random.default_rng(seed), None) for seed in range(300)]
    lows, highs = np.array(kinds).T
    assert lows.min() >= LOWEST_MM
    assert highs.max() <= HIGHEST_MM == TOP_MM
    assert 60 <= (highs - lows).min() < 100
    assert (highs - lows).max() > 600
    for length in (80.0, 300.0, 900.0):
        for seed in range(40):
            low, high = draw_range(np.random.default_rng(seed), length)
            assert high - low == pytest.approx(length)
            assert low >= LOWEST_MM


def test_fields_of_view_are_whole_round_or_square_and_some_cut_the_patient():
    inside, some_cut = 0, False
    for seed in range(120):
        outside, value = draw_outside(np.random.default_rng(seed), (64, 64), 6.0, 170.0)
        assert value in (-1024, -1000)
        inside += outside is None
        if outside is not None:
            assert not outside[32, 32]
            some_cut |= bool(outside[32, 32 - 27])  # 162 mm off the middle, within the patient
    assert 30 < inside < 80
    assert some_cut


def test_posture_keeps_volumes_within_some_per_cent():
    axis = np.arange(-150, 151, 6.0, dtype=np.float32)
    canvas = blank_canvas(Grid(axis + 250, axis, axis, 0.216))
    z, y, x = canvas.grid.axes(canvas.grid.everything)
    ball = ((z - 250) / 70) ** 2 + (y / 60) ** 2 + (x / 80) ** 2 < 1
    for seed in range(4):
        canvas.label[:] = np.where(ball, VALUE["liver"], 0)
        change_posture_(np.random.default_rng(seed), canvas)
        assert (canvas.label > 0).sum() == pytest.approx(ball.sum(), rel=0.12)
        assert not np.array_equal(canvas.label > 0, ball)


def test_bodies_reach_from_lean_to_obese_and_domes_from_low_to_high():
    frame = draw_frame(np.random.default_rng(0))
    widths = [draw_fatness(np.random.default_rng(seed), frame).half_width_mm() for seed in range(60)]
    assert min(widths) < 170
    assert max(widths) > 210
    domes, shifts = [], []
    for seed in range(60):
        breathing, shift = draw_breathing(np.random.default_rng(seed), frame)
        domes.append(breathing.dome_right_mm - frame.dome_right_mm)
        shifts.append(shift)
    assert np.corrcoef(domes, shifts)[0, 1] > 0.99
    assert np.ptp(domes) > 50


def test_a_heart_has_two_kinds_of_blood_within_its_wall():
    frame = draw_heart(np.random.default_rng(0), draw_frame(np.random.default_rng(0)))
    assert {tissue for _, tissue in frame.chambers} == {Tissue.BLOOD_LEFT, Tissue.BLOOD_RIGHT}


def test_effusion_stands_at_the_back_and_ascites_along_the_wall_in_some_patients():
    frame = draw_frame(np.random.default_rng(0))
    canvas = blank_canvas(_grid((np.arange(60, 450, 10), np.arange(-110, 111, 10), np.arange(-150, 151, 10)), 1.0))
    upper = canvas.grid.z[:, None, None] > 320
    seen = {Tissue.EFFUSION: 0, Tissue.ASCITES: 0}
    for seed in range(80):
        canvas.tissue[:] = np.where(upper, Tissue.LUNG, Tissue.FREE)
        paint_fluids_(np.random.default_rng(seed), canvas, frame)
        for tissue in seen:
            wet = np.argwhere(canvas.tissue == tissue)
            seen[tissue] += bool(len(wet))
            if tissue == Tissue.EFFUSION and len(wet):
                air = np.argwhere(canvas.tissue == Tissue.LUNG)
                assert canvas.grid.y[wet[:, 1]].mean() > canvas.grid.y[air[:, 1]].mean()
    assert 5 < seen[Tissue.EFFUSION] < 32  # 19 % of patients expected, on one side or both
    assert 1 <= seen[Tissue.ASCITES] < 14  # 7 %
    assert not canvas.label.any()


def test_arms_lie_beside_the_body_in_some_scans_and_their_bones_have_no_label():
    frame, with_arms = draw_frame(np.random.default_rng(0)), 0
    canvas = blank_canvas(_grid((np.arange(200, 400, 8), np.arange(-60, 120, 8), np.arange(-320, 321, 8)), 0.512))
    for seed in range(60):
        canvas.tissue[:], canvas.label[:] = Tissue.AIR, 0
        arms = draw_arms(np.random.default_rng(seed))
        if arms is not None:
            paint_arms_(canvas, arms, half_width_mm=frame.half_width_mm(), fat_mm=frame.fat_mm)
            with_arms += 1
            assert np.abs(canvas.grid.x[np.nonzero(canvas.tissue)[2]]).min() > 0.85 * frame.half_width_mm()
            assert not canvas.label[canvas.tissue == Tissue.CORTEX].any()
    assert 6 <= with_arms <= 20  # a fifth of them expected


def test_metal_is_rare_and_leaves_labels():
    skeleton = draw_skeleton(np.random.default_rng(0), draw_frame(np.random.default_rng(0)))
    axes = (np.arange(-60, 300, 6.0), np.arange(-60, 130, 6.0), np.arange(-170, 171, 6.0))
    canvas, with_metal = blank_canvas(_grid(axes, 0.216)), 0
    for seed in range(200):
        canvas.tissue[:] = Tissue.MUSCLE
        paint_metal_(np.random.default_rng(seed), canvas, skeleton)
        with_metal += bool((canvas.tissue == Tissue.METAL).any())
    assert 3 <= with_metal <= 28
    assert not canvas.label.any()


def test_nothing_of_the_abdomen_is_found_high_in_a_chest():
    variety = replace(PLAIN, scan_range=True)
    lows = [draw_range(open_streams(np.random.default_rng(seed), variety)["scan_range"], 96.0)[0] for seed in range(99)]
    patient = _patient(int(np.argmax(lows)), variety, shape=(12, 48, 48), spacing_mm=(8.0, 9.0, 9.0))
    assert patient.labels.affine[2, 3] > 430
    volumes = organ_volumes_ml(patient)
    assert not any(volumes[organ] for organ in ("liver", "spleen", "stomach", "kidney_left", "colon", "pancreas"))
    assert volumes["lung"] > 500


def test_rich_patients_with_and_without_tumours_differ_by_them_only():
    labelled, none = _patient(2, RICH, tumours="labelled"), _patient(2, RICH)
    differs = labelled.labels.voxels != none.labels.voxels
    assert set(np.unique(labelled.labels.voxels[differs])) <= {len(ORGANS) + 1}


def test_a_cohort_of_rich_patients_is_that_of_synthesize():
    cohort = Cohort("nnunet", shape=(8, 32, 32), variety=without(RICH, ("noise",)))
    patient = make_patient(cohort, 3)
    expected = synthesize(np.random.default_rng([0, 3]), shape=(8, 32, 32), variety=cohort.variety)
    assert np.array_equal(patient.ct.voxels, expected.ct.voxels)


def test_the_command_refuses_ingredients_that_are_not_there_to_leave_out(tmp_path):
    with pytest.raises(SettingError, match="Add --variety rich"):
        main([str(tmp_path / "a"), "--without", "noise"])
    with pytest.raises(SettingError, match="Did you mean 'noise'"):
        main([str(tmp_path / "a"), "--variety", "rich", "--without", "noises"])
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("shape", "spacing"), [((4, 16, 16), None), ((4, 16, 16), (1.0, 1.0, 1.0)), ((6, 20, 90), None)]
)
def test_even_the_smallest_grids_hold_a_rich_patient(shape, spacing):
    for seed in range(2):
        patient = synthesize(
            np.random.default_rng(seed), shape=shape, spacing_mm=spacing, orientation="axial", variety=RICH
        )
        assert patient.ct.shape == shape
        assert -1024 <= patient.ct.voxels.min() <= patient.ct.voxels.max() <= 3071
