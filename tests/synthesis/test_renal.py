"""Kidneys where networks lose them: low, turned, apart, joined, bright, with masses, with their sinus in the label."""

from dataclasses import fields, replace

import numpy as np
import pytest

from viscera.synthesis.anatomy.frame import draw_frame
from viscera.synthesis.anatomy.kidney_plans import (
    HORSESHOE,
    USUAL_KIDNEY,
    Hilum,
    KidneyPlan,
    Lip,
    Mass,
    draw_kidney_plans,
)
from viscera.synthesis.anatomy.kidneys import draw_kidneys
from viscera.synthesis.anatomy.plans import draw_plan
from viscera.synthesis.appearance.enhancement import brighten_kidneys
from viscera.synthesis.appearance.tissues import draw_palette
from viscera.synthesis.canvas import VALUE, Tissue, blank_canvas, settle_
from viscera.synthesis.patient import synthesize
from viscera.synthesis.shapes import Grid
from viscera.synthesis.template.contents import label_sinuses_, paint_masses_
from viscera.synthesis.template.patient import synthesize_from
from viscera.synthesis.template.reshaping import Sample
from viscera.synthesis.template.template import Reshaping, read_template
from viscera.synthesis.variety import PLAIN, RICH, Streams, Variety, open_streams, without
from viscera.volume import Volume

CREST_MM = 24 + 1.0 * 112 + 30 * np.sin(np.pi * 0.5)
"""How high the iliac wing reaches (skeleton.py)."""
NAMES = {VALUE[name]: name for name in VALUE}
KIDNEYS = ("kidney_left", "kidney_right")
LONG = (Lip(10.0, 9.0, 30.0, 0.0), Lip(4.0, 9.0, 30.0, 0.0))


def _plans(seeds, **on):
    variety = replace(PLAIN, **on)
    return (draw_kidney_plans(Streams(np.random.default_rng(seed), {}), variety) for seed in range(seeds))


def _canvas(left=USUAL_KIDNEY, right=USUAL_KIDNEY, step_mm=3.0):
    """Both kidneys in a block of fat."""
    axes = [np.arange(*ends, step_mm, dtype=np.float32) for ends in ((60, 420), (-100, 130), (-170, 171))]
    canvas = blank_canvas(Grid(*axes, step_mm**3 / 1000))
    canvas.tissue[:], canvas.label[:] = Tissue.FREE, VALUE["fat"]
    for organ in draw_kidneys(
        np.random.default_rng(1), draw_frame(np.random.default_rng(0)), lift_mm=0.0, left=left, right=right
    ):
        settle_(organ, canvas)
    return canvas


def test_streams_of_older_ingredients_do_not_depend_on_those_that_came_later():
    """The first numbers of the oldest and of the last old stream, as they were before there were renal ingredients."""
    spawned = np.random.default_rng(7).spawn(37)
    streams = open_streams(np.random.default_rng(7), RICH)
    assert streams["frame"].random() == spawned[0].random()
    assert streams["gain"].random() == spawned[36].random()
    generator, other = np.random.default_rng(7), np.random.default_rng(7)
    open_streams(generator, RICH)
    other.spawn(37)
    assert generator.spawn(1)[0].random() == other.spawn(1)[0].random()  # what tumours are drawn from
    mine, theirs = (open_streams(np.random.default_rng(7), v) for v in (RICH, without(RICH, ("renal_places",))))
    assert mine["rims"].random() == theirs["rims"].random()
    assert len({streams[name].random() for name in ("gain", "renal_places", "renal_look", "dome", "rims")}) == 5


@pytest.mark.parametrize("ingredient", ["renal_places", "renal_look", "renal_hilum", "renal_lips"])
def test_a_renal_ingredient_changes_the_kidneys_plans_and_no_other_plan(ingredient):
    poorer = without(RICH, (ingredient,))
    changed = 0
    for seed in range(6):
        rich, poor = (draw_plan(open_streams(np.random.default_rng(seed), v), v) for v in (RICH, poorer))
        for field in fields(rich):
            if field.name not in KIDNEYS:
                assert getattr(rich, field.name) == getattr(poor, field.name), field.name
        changed += rich != poor
    assert changed == 6


def test_the_lowest_of_sixty_patients_kidneys_lie_below_the_iliac_crest():
    lowest = []
    drawn = sorted(_plans(60, kidneys=True, renal_places=True), key=lambda pair: min(p.shift_mm[0] for p in pair))
    for plans in drawn[::6]:
        canvas = _canvas(*plans, step_mm=12.0)
        heights = [canvas.grid.z[np.nonzero(canvas.label == VALUE[name])[0]] for name in KIDNEYS]
        lowest.append(min(float(z.mean()) for z in heights if z.size))
    assert min(lowest) < CREST_MM
    assert np.median(lowest) > CREST_MM + 30
    usual = _canvas(step_mm=12.0)
    assert usual.grid.z[np.nonzero(usual.label == VALUE["kidney_left"])[0]].mean() > CREST_MM + 70


def test_kidneys_lie_apart_look_any_way_and_some_are_bare_of_fat():
    plans = list(_plans(1500, renal_places=True))
    apart = np.array([left.shift_mm[0] - right.shift_mm[0] for left, right in plans])
    assert apart.min() < -60
    assert apart.max() > 60
    turns = np.array([plan.turn for pair in plans for plan in pair if not plan.isthmus_mm])
    assert 0.15 < (np.abs(turns[:, 0]) > 0.6).mean() < 0.3
    assert np.abs(turns[:, 0]).max() > 2.5
    assert 0.3 < np.mean([plan.fat < 0.2 for pair in plans for plan in pair]) < 0.5
    assert 1 / 400 < np.mean([left.isthmus_mm > 0 for left, _ in plans]) < 1 / 70
    assert pytest.approx(1 / 150) == HORSESHOE


def test_a_bare_kidney_has_free_fat_at_its_surface_and_a_usual_one_has_not():
    def _bare(canvas):
        own = canvas.label == VALUE["kidney_left"]
        beside = np.zeros_like(own)
        beside[:, :, 1:] = own[:, :, :-1]
        return np.mean(canvas.tissue[beside & ~own] == Tissue.FREE)

    assert _bare(_canvas(KidneyPlan(fat=0.0), KidneyPlan(missing=True))) > 0.8
    assert _bare(_canvas(KidneyPlan(fat=1.0), KidneyPlan(missing=True))) < 0.2


def test_a_horseshoe_kidney_is_one_piece_whose_halves_meet_in_the_middle():
    from scipy import ndimage

    plan = next(pair for pair in _plans(3000, renal_places=True) if pair[0].isthmus_mm)
    canvas = _canvas(*plan)
    both = np.isin(canvas.label, [VALUE[name] for name in KIDNEYS])
    pieces, count = ndimage.label(both)
    assert np.bincount(pieces.ravel())[1:].max() > 0.98 * both.sum(), count
    for name, side in zip(KIDNEYS, (1, -1), strict=True):
        x = canvas.grid.x[np.nonzero(canvas.label == VALUE[name])[2]] * side
        assert x.min() > -3
        assert x.min() < 6
    assert np.median(canvas.grid.z[np.nonzero(both)[0]]) < 240


def _hilum(lip_mm=0.0):
    return KidneyPlan(hilum=Hilum(lip_mm, 5.0, 3.0, 4.0))


def test_the_label_holds_the_sinus_and_not_the_vessels_outside():
    bare, whole = _canvas(step_mm=2.0), _canvas(_hilum(), _hilum(), step_mm=2.0)
    for name, side in zip(KIDNEYS, (1, -1), strict=True):
        inner = (Tissue.FAT, Tissue.KIDNEY_PELVIS, Tissue.VEIN)
        held = [(c.label == VALUE[name]) & np.isin(c.tissue, inner) for c in (bare, whole)]
        assert not held[0].any()
        assert held[1].sum() * 0.008 > 2  # ml
        ours = whole.grid.x[None, None, :] * side > 0
        vessel = np.isin(whole.tissue, (Tissue.VEIN, Tissue.ARTERY)) & ours
        outside = vessel & (whole.label == VALUE["fat"])
        assert outside.sum() * 0.008 > 1
        # They lead from the hilum to the middle.
        assert (whole.grid.x[np.nonzero(outside)[2]] * side).min() < 25


def test_masses_belong_to_the_kidney_and_large_ones_reach_beyond_it():
    mass = Mass((0.0, 0.0, 1.1), 30.0, Tissue.RENAL_TUMOUR)
    usual, ill = _canvas(right=KidneyPlan(missing=True)), _canvas(KidneyPlan(masses=(mass,)), KidneyPlan(missing=True))
    tumour = ill.tissue == Tissue.RENAL_TUMOUR
    assert tumour.sum() * 0.027 == pytest.approx(4 / 3 * np.pi * 27, rel=0.25)  # 113 ml without what the surface loses
    assert (ill.label[tumour] == VALUE["kidney_left"]).all()
    assert (usual.label[tumour] == VALUE["fat"]).mean() > 0.3
    drawn = [mass for pair in _plans(200, renal_look=True) for plan in pair for mass in plan.masses]
    assert 0.08 < len(drawn) / 400 < 0.3
    assert {mass.tissue for mass in drawn} == {Tissue.CYST, Tissue.RENAL_TUMOUR}
    assert max(mass.radius_mm for mass in drawn) > 35


def test_some_cortices_are_very_bright_over_dark_medulla_soon_after_the_injection_only():
    found = {}
    for phase in ("none", "arterial", "portal"):
        palettes = []
        for seed in range(150):
            generator = np.random.default_rng(seed)
            palettes.append(brighten_kidneys(generator, draw_palette(generator, phase), phase))
        cortex = np.array([p.means[Tissue.KIDNEY_CORTEX] for p in palettes])
        medulla = np.array([p.means[Tissue.KIDNEY_MEDULLA] for p in palettes])
        found[phase] = cortex.max(), (cortex > 190).mean(), (cortex - medulla)[cortex >= min(215, cortex.max())].mean()
        assert all(0 < p.means[Tissue.RENAL_TUMOUR] < 330 for p in palettes)
    assert found["none"][0] < 45
    for phase in ("arterial", "portal"):
        assert 280 < found[phase][0] <= 300
        assert found[phase][1] > 0.3
        assert found[phase][2] > 80


@pytest.fixture(scope="module")
def template():
    """An upper abdomen in the size of a doll, with kidneys that have a hollow."""
    patient = synthesize(
        np.random.default_rng(5), shape=(46, 44, 48), scan="upper", orientation="axial", variety=Variety(heart=True)
    )
    affine = np.array([[0, 0, -5.0, 0], [0, -5.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1.0]])
    return read_template(Volume(patient.labels.voxels, affine), NAMES)


def _from(template, seed, **on):
    made = replace(template, reshaping=Reshaping(variety=replace(PLAIN, contrast=True, **on)))
    patient = synthesize_from(
        made, np.random.default_rng(seed), shape=(48, 56, 60), spacing_mm=(5.0, 5.0, 5.0), orientation="axial"
    )
    return patient.labels.voxels, patient.ct.voxels


def test_kidneys_of_a_template_move_further_and_all_else_stays(template):
    sunk = 0.0
    for seed in (0, 1, 2):
        (usual, _), (moved, _) = _from(template, seed), _from(template, seed, renal_places=True)
        for organ in ("aorta", "vertebrae"):
            assert np.array_equal(usual == VALUE[organ], moved == VALUE[organ])
        for name in KIDNEYS:
            before, after = (np.argwhere(labels == VALUE[name]) for labels in (usual, moved))
            assert len(after) > 0.4 * len(before)
            sunk = max(sunk, 5 * (before[:, 0].mean() - after[:, 0].mean()))
    assert sunk > 20


def test_the_hollow_of_a_templates_kidney_is_labelled_up_to_a_line_across_its_lips():
    axis = np.arange(-40, 41, 2.0, dtype=np.float32)
    canvas = blank_canvas(Grid(axis[:6], axis, axis, 0.008))
    _, y, x = canvas.grid.axes(canvas.grid.everything)
    canvas.tissue[:], canvas.label[:] = Tissue.FREE, VALUE["fat"]
    ring = (y**2 + x**2 < 30**2) & ~((y**2 + x**2 < 10**2) | ((np.abs(y) < 6) & (x < 0)))  # open to the right
    canvas.paint_(
        canvas.grid.everything, np.broadcast_to(ring, canvas.label.shape), Tissue.KIDNEY_CORTEX, "kidney_left"
    )
    depth = np.zeros(canvas.label.shape, np.uint8)
    label_sinuses_(Sample(canvas, depth, depth))
    own = canvas.label[2] == VALUE["kidney_left"]
    assert own[20, 20]  # the middle of the hollow
    assert own[20, 8]  # between the lips
    assert not own[20, 3]  # beyond them
    assert not own[0, 0]
    assert (canvas.tissue[2][own & ~ring[0]] == Tissue.KIDNEY_PELVIS).all()


def test_masses_of_a_templates_kidneys_are_kidney_and_take_the_place_of_fat():
    grown = []
    for seed in range(24):
        canvas = _canvas(step_mm=7.0)
        before, depth = canvas.label.copy(), np.zeros(canvas.label.shape, np.uint8)
        paint_masses_(np.random.default_rng(seed), Sample(canvas, depth, depth))
        mass = np.isin(canvas.tissue, (Tissue.CYST, Tissue.RENAL_TUMOUR))
        assert np.isin(canvas.label[mass], [VALUE[name] for name in KIDNEYS]).all()
        assert (canvas.label != before)[~mass].sum() == 0
        grown.append((canvas.label != before).sum() * 0.343)
    assert 3 <= sum(more > 1 for more in grown) <= 18  # about 1 in 3 has one on either side
    assert max(grown) > 30  # ml


def test_kidneys_of_a_template_lose_nothing_to_their_sinus(template):
    usual, whole = (_from(template, 1, **on)[0] for on in ({}, {"renal_hilum": True}))
    kidney, filled = (np.isin(labels, [VALUE[name] for name in KIDNEYS]) for labels in (usual, whole))
    assert filled[kidney].all()
    assert set(np.unique(usual[filled & ~kidney])) <= {VALUE["fat"]}


@pytest.mark.parametrize(("name", "side"), [("kidney_left", 1), ("kidney_right", -1)])
def test_lips_reach_past_the_hilum_and_the_kidney_keeps_its_volume_and_its_sinus(name, side):
    smooth, lipped = _canvas(), _canvas(KidneyPlan(lips=LONG), KidneyPlan(lips=LONG))
    whole, cleft = ((canvas.label == VALUE[name]).sum() for canvas in (smooth, lipped))
    assert cleft == pytest.approx(whole, rel=0.02)
    innermost = [
        np.sort(side * canvas.grid.x[np.nonzero(canvas.label == VALUE[name])[2]])[200] for canvas in (smooth, lipped)
    ]
    assert innermost[1] < innermost[0] - 5
    sinuses = [np.isin(canvas.tissue, (Tissue.KIDNEY_PELVIS, Tissue.VEIN)) for canvas in (smooth, lipped)]
    assert np.array_equal(*sinuses)
    assert sinuses[0].any()


def test_the_lip_in_front_is_the_longer_one_in_most_kidneys():
    lips = [plan.lips for pair in _plans(300, renal_lips=True) for plan in pair]
    assert 0.55 < np.mean([front.reach_mm > back.reach_mm for front, back in lips]) < 0.85
    assert all(6 < lip.thick_mm < 12 for pair in lips for lip in pair)
    assert not any(plan.lips for pair in _plans(5, renal_hilum=True) for plan in pair)
