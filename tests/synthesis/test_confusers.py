"""What real scans confuse networks with: each ingredient shows what it announces, and the labels stay the truth."""

from dataclasses import replace

import cc3d
import numpy as np
import pytest

from makers import organ_volumes_ml
from viscera.synthesis.anatomy.bodies import ADULT, draw_build, shape_trunk
from viscera.synthesis.anatomy.frame import draw_frame
from viscera.synthesis.anatomy.old_vessels import age_arteries_, draw_old_aorta
from viscera.synthesis.anatomy.plans import CavaPlan, ConfluencePlan, draw_cava, draw_plan
from viscera.synthesis.anatomy.rugae import fold_stomach_
from viscera.synthesis.anatomy.surgery import SHARES, draw_surgery, operate_
from viscera.synthesis.anatomy.veins import flat_tube, flatten_cava_
from viscera.synthesis.appearance.confusers import brighten_bowel, match_cava, paint_chalk_, paint_mixing_, resemble
from viscera.synthesis.appearance.enhancement import vary_palette
from viscera.synthesis.appearance.large_lesions import KINDS, paint_large_lesions_
from viscera.synthesis.appearance.tissues import draw_palette, draw_phase
from viscera.synthesis.canvas import ORGANS, VALUE, Tissue, blank_canvas
from viscera.synthesis.patient import synthesize
from viscera.synthesis.scanner.protocol import Loss, add_noise_, beam_loss
from viscera.synthesis.shapes import Grid, evaluate
from viscera.synthesis.template.patient import synthesize_from
from viscera.synthesis.template.template import UNCHANGED, read_template
from viscera.synthesis.variety import INGREDIENTS, PLAIN, RICH, open_streams

OLDER = ("kidneys", "liver", "spleen", "stomach", "gallbladder", "bladder", "pancreas", "vessels", "fatness", "posture",
         "arms", "heart", "breathing", "fluids", "contrast", "lesions", "texture", "contents", "scan_range", "view",
         "kernel", "noise", "streaks", "metal", "gain")  # fmt: skip
NEW = (
    "confluence",
    "cava",
    "liver_lesions",
    "old_aorta",
    "surgery",
    "bodies",
    "caudate",
    "lungs",
    "bright_heart",
    "renal_lips",
    "rugae",
    "bright_bowel",
)
TINY = {"shape": (20, 32, 32), "orientation": "axial"}
CALM = replace(PLAIN, gain=True)


def _generator(seed):
    return np.random.default_rng(seed)


def _canvas(z, y, x, step):
    planes, rows, columns = (np.arange(low, high, step, dtype=np.float32) for low, high in (z, y, x))
    canvas = blank_canvas(Grid(planes, rows, columns, step**3 / 1000))
    canvas.tissue[:], canvas.label[:] = Tissue.FREE, VALUE["fat"]
    return canvas


def _fill(canvas, mask, tissue, organ):
    canvas.paint_(canvas.grid.everything, np.broadcast_to(mask, canvas.grid.shape), tissue, organ)


def _seed_where(found, limit=400):
    """The first seed whose streams, with every ingredient on, fulfil something."""
    return next(seed for seed in range(limit) if found(open_streams(_generator(seed), RICH)))


def test_older_ingredients_keep_their_places_and_with_them_their_streams():
    assert INGREDIENTS[: len(OLDER)] == OLDER
    assert set(NEW) <= set(INGREDIENTS[len(OLDER) :])


SHOWN = {
    "confluence": lambda streams: draw_plan(streams, replace(PLAIN, confluence=True)).confluence.portal > 1.4,
    "cava": lambda streams: max(draw_cava(streams["cava"]).flatness) < 0.5,
    "old_aorta": lambda streams: (plan := draw_old_aorta(streams["old_aorta"])) is not None and plan.aneurysm_mm > 28,
    "surgery": lambda streams: "spleen" in draw_surgery(streams["surgery"]).done,
    "bodies": lambda streams: draw_build(streams["bodies"]).size < 0.7,
}


@pytest.mark.parametrize("ingredient", SHOWN)
def test_a_patient_who_has_it_differs_by_it(ingredient):
    seed = _seed_where(SHOWN[ingredient])
    usual, other = (
        synthesize(_generator(seed), variety=variety, **TINY) for variety in (CALM, replace(CALM, **{ingredient: True}))
    )
    assert other.organs == usual.organs
    assert other.phase == usual.phase
    assert not np.array_equal(other.labels.voxels, usual.labels.voxels)
    before, after = organ_volumes_ml(usual), organ_volumes_ml(other)
    if ingredient == "surgery":
        assert before["spleen"] > 100
        assert after["spleen"] == 0  # taken out, and still annotated: other.organs names it
        assert "spleen" in other.organs.values()
    elif ingredient == "bodies":
        body_before, body_after = (sum(volumes.values()) for volumes in (before, after))
        assert body_after < 0.5 * body_before
        assert after["liver"] / body_after > before["liver"] / body_before  # organs are large for a child
    elif ingredient == "old_aorta":
        assert after["aorta"] > 1.5 * before["aorta"]
        assert after["heart"] == before["heart"]  # its chambers are not taken for aorta


def _old(seed, step=4.0):
    """An aorta, a vena cava, psoas and spine in fat; the aorta has aged."""
    canvas = _canvas((100, 400), (-90, 80), (-90, 90), step)
    z, y, x = canvas.grid.axes(canvas.grid.everything)
    _fill(canvas, (y - 45) ** 2 + x**2 < 24**2, Tissue.MARROW, "vertebrae")
    _fill(canvas, ((y - 8) ** 2 + (x + 24) ** 2 < 11**2) & (z > 165), Tissue.VEIN, "inferior_vena_cava")
    _fill(canvas, ((y - 8) ** 2 + (x - 7) ** 2 < 10**2) & (z > 170), Tissue.ARTERY, "aorta")
    before = canvas.label.copy()
    return canvas, before, age_arteries_(_generator(seed), canvas)


def test_aneurysms_are_wide_and_their_thrombus_is_aorta():
    widest, swollen, grafts, thrombi = [], 0, 0, 0
    for seed in range(56):
        canvas, before, plan = _old(seed)
        if plan is None:
            assert np.array_equal(canvas.label, before)
            continue
        aorta = canvas.label == VALUE["aorta"]
        assert cc3d.connected_components(aorta, connectivity=26).max() == 1
        for organ in ("vertebrae", "inferior_vena_cava"):
            assert np.array_equal(canvas.label == VALUE[organ], before == VALUE[organ])
        thrombus = canvas.tissue == Tissue.THROMBUS
        assert aorta[thrombus].all()
        areas_mm2 = aorta.sum(axis=(1, 2)) * 16.0
        widest.append(2 * np.sqrt(areas_mm2.max() / np.pi))
        swollen += bool(plan.aneurysm_mm)
        grafts += bool((canvas.tissue == Tissue.STENT).any())
        thrombi += bool(thrombus.any())
    assert 16 < len(widest) < 40  # half of 56
    assert 2 < swollen < 20  # 30 % of these
    assert max(widest) > 45
    assert max(widest) < 85
    assert grafts
    assert thrombi >= grafts


def test_an_old_aorta_winds():
    def spread(canvas, labels):
        rows = [np.nonzero(plane == VALUE["aorta"])[1] for plane in labels if (plane == VALUE["aorta"]).any()]
        return np.ptp([canvas.grid.x[columns].mean() for columns in rows])

    spreads = []
    for seed in range(40):
        canvas, before, plan = _old(seed)
        if plan is not None and not plan.aneurysm_mm:
            assert spread(canvas, before) < 0.1
            spreads.append(spread(canvas, canvas.label))
    assert max(spreads) > 12


def test_chalk_lies_in_walls_only():
    canvas, _, _ = _old(0)
    some = 0
    for seed in range(12):
        image = np.full(canvas.grid.shape, 40.0, np.float32)
        paint_chalk_(_generator(seed), canvas, image)
        bright = image > 200
        some += bool(bright.any())
        assert np.isin(canvas.label[bright], (VALUE["aorta"], VALUE["iliac_artery"])).all()
    assert 4 < some <= 12


def _abdomen():
    """Liver, spleen, kidneys, gallbladder as balls in fat."""
    canvas = _canvas((160, 400), (-110, 110), (-140, 140), 5.0)
    z, y, x = canvas.grid.axes(canvas.grid.everything)
    balls = {
        "liver": ((310, -10, -50), 80, Tissue.LIVER),
        "spleen": ((320, 30, 95), 38, Tissue.SPLEEN),
        "kidney_left": ((240, 40, 70), 32, Tissue.KIDNEY_CORTEX),
        "kidney_right": ((225, 60, -70), 32, Tissue.KIDNEY_CORTEX),
        "gallbladder": ((225, -40, -40), 16, Tissue.BILE),
    }
    for organ, (middle, radius, tissue) in balls.items():
        square = (z - middle[0]) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2
        _fill(canvas, (square < radius**2) & (canvas.tissue == Tissue.FREE), tissue, organ)
    return canvas


def test_what_was_taken_out_is_gone_and_bowel_falls_into_its_bed():
    usual, seen, fallen = _abdomen(), set(), 0
    for seed in range(250):
        if not draw_surgery(_generator(seed)).done:
            continue
        canvas = _abdomen()
        done = set(operate_(_generator(seed), canvas).done)
        seen |= done
        assert not {"kidney_left", "kidney_right"} <= done
        assert not {"left lobe", "right lobe"} <= done
        for organ in ("spleen", "kidney_left", "kidney_right", "gallbladder"):
            left = np.count_nonzero(canvas.label == VALUE[organ])
            gone = organ in done or (organ == "gallbladder" and "right lobe" in done)
            assert left == (0 if gone else np.count_nonzero(usual.label == VALUE[organ])), organ
        liver = np.count_nonzero(canvas.label == VALUE["liver"]) / np.count_nonzero(usual.label == VALUE["liver"])
        if "left lobe" in done:
            assert 0.6 < liver < 0.87
        elif "right lobe" in done:
            assert 0.48 < liver < 0.9
        else:
            assert liver == 1
        bowel = np.isin(canvas.label, (VALUE["colon"], VALUE["small_bowel"]))
        fallen += bool(bowel.any())
        assert not bowel.any() or done - {"gallbladder", "biliary stent", "ureter stent"}
    assert seen == set(SHARES)
    assert fallen > 10


def test_large_lesions_keep_the_label_of_their_organ_and_bulge_at_its_surface():
    canvas = _abdomen()
    liver, spleen = (canvas.label == VALUE[organ] for organ in ("liver", "spleen"))
    with_lesions, bulging, widest_mm, brightest, darkest = 0, 0, 0.0, 0.0, 100.0
    for seed in range(64):
        painted, image = _abdomen(), np.full(canvas.grid.shape, 100.0, np.float32)
        paint_large_lesions_(_generator(seed), painted, image)
        changed = image != 100
        for organ, before in (("liver", liver), ("spleen", spleen)):
            assert (painted.label[before] == VALUE[organ]).all()
        assert np.isin(painted.label[changed], (VALUE["liver"], VALUE["spleen"])).all()
        if not (changed & liver).any():
            continue
        with_lesions += 1
        bulging += bool(((painted.label == VALUE["liver"]) & ~liver).any())
        pieces = np.bincount(cc3d.connected_components(changed & liver, connectivity=6).ravel())[1:]
        widest_mm = max(widest_mm, 2 * (float(pieces.max()) * 125 * 3 / 4 / np.pi) ** (1 / 3))
        brightest, darkest = max(brightest, image[changed].max()), min(darkest, image[changed].min())
    assert 10 < with_lesions < 32  # 30 % of 64
    assert 3 < bulging < with_lesions
    assert widest_mm > 70
    assert brightest > 300  # chalk
    assert darkest < 10
    assert sum(kind.weight for kind in KINDS.values()) == pytest.approx(1)


def test_a_flat_vena_cava_is_flat_and_keeps_its_place():
    points = np.array([(150 + 20.0 * n, 0, 0) for n in range(6)])
    grid = _canvas((140, 260), (-30, 30), (-30, 30), 1.0).grid
    for flatness in (1.0, 0.3):
        tube = flat_tube(points, np.full(6, 11.0), CavaPlan((flatness,) * 6))
        _, field = evaluate(tube, grid, reach_mm=0.0)
        middle = (field > 0)[60 - 20]
        rows, columns = (np.count_nonzero(middle.any(axis=axis)) for axis in (1, 0))
        assert rows / columns == pytest.approx(flatness, abs=0.12)


def test_a_template_s_vena_cava_is_flattened_and_its_neighbours_take_its_place():
    seed = _seed_where(lambda streams: max(draw_cava(streams["cava"]).flatness) < 0.45)
    canvas = _canvas((180, 300), (-40, 40), (-60, 30), 2.0)
    z, y, x = canvas.grid.axes(canvas.grid.everything)
    _fill(canvas, (x < -20) & (z > 240), Tissue.LIVER, "liver")
    _fill(canvas, y**2 + (x + 20) ** 2 < 12**2, Tissue.VEIN, "inferior_vena_cava")
    before = canvas.label.copy()
    flatten_cava_(open_streams(_generator(seed), RICH)["cava"], canvas)
    was, now = (labels == VALUE["inferior_vena_cava"] for labels in (before, canvas.label))
    assert not (now & ~was).any()
    shares = now.sum(axis=(1, 2)) / was.sum(axis=(1, 2))
    assert (shares < 0.75).all()
    assert (shares > 0.15).all()
    assert {VALUE["liver"], VALUE["fat"]} == set(np.unique(canvas.label[was & ~now]).tolist())


def test_cavae_reach_from_slits_to_twice_as_wide():
    plans = [draw_cava(_generator(seed)) for seed in range(300)]
    slits = np.mean([min(plan.flatness) < 0.5 for plan in plans])
    assert 0.35 < slits < 0.7
    assert 0.08 < np.mean([plan.width > 1.2 for plan in plans]) < 0.2
    assert max(plan.width for plan in plans) > 1.65


def test_blood_from_the_legs_is_dark_below_the_kidneys_and_mixes_above_them():
    canvas = _canvas((150, 360), (-20, 20), (-40, 60), 3.0)
    z, y, x = canvas.grid.axes(canvas.grid.everything)
    _fill(canvas, y**2 + x**2 < 12**2, Tissue.VEIN, "inferior_vena_cava")
    _fill(canvas, (x > 45) & (np.abs(z - 262) < 40), Tissue.KIDNEY_CORTEX, "kidney_left")
    palette = draw_palette(_generator(0), "arterial")
    palette.means[[Tissue.ARTERY, Tissue.KIDNEY_CORTEX, Tissue.VEIN]] = 280, 180, 90
    cava, mixed = canvas.label == VALUE["inferior_vena_cava"], 0
    for seed in range(30):
        image = np.full(canvas.grid.shape, 90.0, np.float32)
        paint_mixing_(_generator(seed), canvas, image, palette)
        assert (image[~cava] == 90).all()
        if (image == 90).all():
            continue
        mixed += 1
        low, renal, high = (image[k][cava[k]] for k in (3, 42, 66))
        assert low.mean() < 91
        assert high.mean() > low.mean() + 15
        assert renal.std() > low.std()
    assert 9 < mixed < 25  # 55 % of 30


def test_portal_vein_pancreas_and_bowel_resemble_the_liver_in_some_patients():
    close = dict.fromkeys((Tissue.PORTAL_VEIN, Tissue.PANCREAS, Tissue.BOWEL_WALL, Tissue.VEIN), 0)
    bright = 0
    for seed in range(200):
        usual, _ = vary_palette(_generator(seed), draw_palette(_generator(seed), "portal"), "portal")
        drawn = match_cava(_generator(seed), resemble(_generator(seed), usual, enhanced=True))
        liver = drawn.means[Tissue.LIVER]
        assert liver == usual.means[Tissue.LIVER]
        assert abs(drawn.means[Tissue.LIVERLIKE] - liver) <= 18.1
        bright += drawn.means[Tissue.PORTAL_VEIN] > liver + 35
        for tissue in close:
            close[tissue] += abs(drawn.means[tissue] - liver) < 15
    assert all(25 < count < 170 for count in close.values()), close
    assert bright > 50


def test_part_of_the_bowel_is_served_what_looks_like_liver():
    usual = (Tissue.CHYME, Tissue.FLUID, Tissue.CHYME, Tissue.FLUID)
    assert ConfluencePlan().serve(usual) == usual
    assert ConfluencePlan(liverlike=0.5).serve(usual) == (Tissue.LIVERLIKE, Tissue.LIVERLIKE, *usual[2:])


def test_bodies_reach_from_children_to_the_very_obese():
    builds = [draw_build(_generator(seed)) for seed in range(300)]
    children = [build for build in builds if build.size < 1]
    obese = [build for build in builds if build.least_mm]
    assert 0.05 < len(children) / 300 < 0.16
    assert 0.08 < len(obese) / 300 < 0.19
    assert min(build.size for build in children) < 0.5
    frame = draw_frame(_generator(0))
    assert shape_trunk(frame, ADULT) is frame
    assert all(shape_trunk(frame, build).fat_mm <= 16 for build in children)
    widths = [shape_trunk(frame, build).half_width_mm() for build in obese]
    fronts = [shape_trunk(frame, build).depth_mm()[0] for build in obese]
    assert max(widths) > frame.half_width_mm() + 30
    assert max(fronts) > frame.depth_mm()[0] + 50


def test_a_quarter_of_patients_is_unenhanced():
    phases = [draw_phase(_generator(seed), varied=True) for seed in range(400)]
    # Of these a quarter has HU that tell nothing.
    assert 0.75 * np.mean([phase == "none" for phase in phases]) == pytest.approx(0.255, abs=0.05)
    assert np.mean([phase == "arterial" for phase in phases]) == pytest.approx(0.17, abs=0.05)


def test_thin_slices_are_often_noisy():
    loss = Loss(np.full((1, 48, 48), 0.75, np.float32), np.zeros(1, np.float32))
    noisy = {}
    for thickness in (1.0, 5.0):
        spread = []
        for seed in range(120):
            image = np.zeros((1, 48, 48), np.float32)
            add_noise_(_generator(seed), image, loss, (thickness, 2.0, 2.0))
            spread.append(image.std())
        noisy[thickness] = np.array(spread)
    assert np.mean(noisy[1.0] > 20) > 0.22
    assert 0.1 < np.mean(noisy[5.0] > 20) < 0.3
    assert noisy[1.0].max() > 45


def test_arms_beside_the_body_make_streaks_and_a_trunk_alone_makes_none():
    y, x = np.meshgrid(np.arange(-140, 140, 4.0), np.arange(-300, 300, 4.0), indexing="ij")
    plane = np.where((y / 110) ** 2 + (x / 160) ** 2 < 1, 50.0, -1000.0)
    plane[(y - 40) ** 2 + x**2 < 22**2] = 500
    trunk, arms = plane.copy(), plane.copy()
    for side in (-1, 1):
        limb = (y - 20) ** 2 + (x - 210 * side) ** 2
        arms[limb < 38**2] = 50
        arms[limb < 11**2] = 600
    loss = beam_loss(np.stack([trunk, arms]).astype(np.float32), (5.0, 4.0, 4.0))
    assert loss.side[0] < 0.45  # below it add_streaks_ adds nothing
    assert loss.side[1] > 0.7


@pytest.fixture(scope="module")
def template():
    labels = synthesize(_generator(2), shape=(34, 48, 56), scan="upper", orientation="axial").labels
    return read_template(labels, dict(enumerate(ORGANS, start=1)))


def test_a_template_s_patients_follow_the_same_switches(template):
    seed = _seed_where(lambda streams: "spleen" in draw_surgery(streams["surgery"]).done)
    counts = {}
    for ingredient in (None, "surgery"):
        variety = CALM if ingredient is None else replace(CALM, **{ingredient: True})
        made = replace(template, reshaping=replace(UNCHANGED, variety=variety))
        patient = synthesize_from(made, _generator(seed), shape=(20, 32, 32), orientation="axial")
        assert "spleen" in patient.organs.values()
        counts[ingredient] = np.count_nonzero(patient.labels.voxels == VALUE["spleen"])
    assert counts[None] > 30
    assert counts["surgery"] == 0


def test_bowel_is_as_bright_as_spleen_or_kidney_in_some_patients():
    like = {Tissue.SPLEEN: 0, Tissue.KIDNEY_MEDULLA: 0}
    for seed in range(200):
        usual = draw_palette(_generator(seed), "portal")
        drawn = brighten_bowel(_generator(seed), usual)
        others = np.ones(256, bool)
        others[[Tissue.BOWEL_WALL, Tissue.COLLAPSED]] = False
        assert np.array_equal(drawn.means[others], usual.means[others])
        assert drawn.means[Tissue.BOWEL_WALL] <= 175
        for tissue in like:
            goal = min(drawn.means[tissue], 160)
            like[tissue] += abs(drawn.means[Tissue.BOWEL_WALL] - goal) < 15.1 and bool(
                drawn.means[Tissue.BOWEL_WALL] != usual.means[Tissue.BOWEL_WALL]
            )
    assert 22 < like[Tissue.SPLEEN] < 80, like  # 20 % of 200
    assert 15 < like[Tissue.KIDNEY_MEDULLA] < 60, like  # 15 %


def _bag(level=-20.0):
    """A stomach in fat, 70 mm wide, with a wall of 3 mm, food, and gas in front of a level (of none)."""
    canvas = _canvas((250, 350), (-90, 30), (0, 120), 3.0)
    z, y, x = canvas.grid.axes(canvas.grid.everything)
    away = np.sqrt((z - 300) ** 2 + (y + 30) ** 2 + (x - 60) ** 2)
    _fill(canvas, away < 35, Tissue.STOMACH_WALL, "stomach")
    _fill(canvas, away < 32, Tissue.FOOD, "stomach")
    if level is not None:
        _fill(canvas, (away < 32) & (y < level), Tissue.GAS, "stomach")
    return canvas


@pytest.mark.parametrize("level", [-20.0, None])
def test_folds_stay_within_the_stomach_and_break_the_level_of_its_gas(level):
    before = _bag(level)
    own, front = before.label == VALUE["stomach"], before.grid.y[None, :, None]
    folded = uneven = 0
    for seed in range(40):
        canvas = _bag(level)
        fold_stomach_(_generator(seed), canvas)
        assert np.array_equal(canvas.label, before.label)
        assert np.array_equal(canvas.tissue[~own], before.tissue[~own])
        assert set(np.unique(canvas.tissue[own])) <= {Tissue.STOMACH_WALL, Tissue.FOOD, Tissue.GAS}
        if np.array_equal(canvas.tissue, before.tissue):
            continue
        folded += 1
        walls = [np.count_nonzero(one.tissue == Tissue.STOMACH_WALL) for one in (before, canvas)]
        assert walls[1] != walls[0]
        lumen = own & (canvas.tissue != Tissue.STOMACH_WALL)
        gas = lumen & (canvas.tissue == Tissue.GAS)
        held = lumen & ~gas
        # Above a level all gas lies in front of all that is none.
        mixed = gas.any() and np.where(gas, front, -99.0).max() > np.where(held, front, 99.0).min()
        uneven += bool(mixed)
    assert 17 < folded < 35  # 65 % of 40
    assert 7 < uneven < 26, uneven  # 60 % of these


def test_a_scan_without_a_stomach_is_left_alone():
    canvas = _canvas((250, 350), (-90, 30), (0, 120), 10.0)
    before = canvas.tissue.copy()
    for seed in range(6):
        fold_stomach_(_generator(seed), canvas)
    assert np.array_equal(canvas.tissue, before)
