"""The page of a study is read as a browser would, from made-up results and label maps; nothing is trained here."""

import base64
import io
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import wilcoxon

from makers import load_page
from viscera.config import Contrast, Recipe, ResizedSlices, Window
from viscera.config.recipe_json import recipe_to_json
from viscera.errors import FileError
from viscera.evaluation.scores import MEAN
from viscera.figures.curves import Epoch
from viscera.figures.study import Curve, Dot, iou_curves, iou_dots, loss_curves, mean_iou
from viscera.labels import ABDOMENCT1K
from viscera.learning.study.results import CaseScore, CellResult, ClassScore, Study
from viscera.learning.study.scoring import write_labels
from viscera.preparation.contrast import enhance
from viscera.preparation.geometry import Geometry
from viscera.preparation.store import Case, Facts, SourceFacts, create_store, open_store, write_case
from viscera.reports.effects import Effect, effects, findings, varied
from viscera.reports.error_grids import case_mean, error_grids, judged_slice
from viscera.reports.study import best_cell, study_page, write_study_report
from viscera.volume import axial_turn

SHAPE = (6, 32, 48)
AFFINE = np.array([[0, 0, -4.0, 90], [0, -6.0, 0, 90], [5.0, 0, 0, 0], [0, 0, 0, 1]])
ORGANS = ABDOMENCT1K.organs
CASES = [f"a__{number}" for number in range(7)]
CENTRES = {"liver": (12, 14, 8), "kidney": (20, 30, 4), "spleen": (14, 38, 5), "pancreas": (17, 24, 3)}
CONTRASTS = ("none", "equalisation", "clahe")


def scan(seed):
    """A body with four organs on slices 1 to 4, largest on slice 3."""
    z, y, x = np.indices(SHAPE)
    image = np.full(SHAPE, -1000, np.int16)
    image[((y - 16) / 14) ** 2 + ((x - 24) / 21) ** 2 < 1] = 20
    labels = np.zeros(SHAPE, np.uint8)
    for index, (row, column, radius) in enumerate(CENTRES.values(), start=1):
        inside = ((z - 3) / 2.5) ** 2 + ((y - row) / radius) ** 2 + ((x - column) / radius) ** 2 < 1
        labels[inside] = index
        image[inside] = 40 + 30 * index
    noise = np.random.default_rng(seed).normal(0, 12, SHAPE)
    return (image + noise).astype(np.int16), labels


def make_store(folder, annotated=ORGANS):
    opened = create_store(folder, space=ABDOMENCT1K, preparation=ResizedSlices(size=(32, 48)))
    geometry = Geometry(SHAPE, AFFINE, axial_turn(AFFINE), SHAPE[1:])
    source = SourceFacts("x.nii.gz", ("y.nii.gz",), "", ("",), ((1, 1), (1, 1)), ((1, "liver"),), ("liver",), ())
    for seed, name in enumerate(CASES):
        image, labels = scan(seed)
        labels[~np.isin(labels, [ORGANS.index(organ) + 1 for organ in annotated])] = 0
        hu = {"minimum": -1024.0, "maximum": 2000.0, "mean": 0.0, "p10": 0.0, "p90": 0.0}
        case = Case(name, "a", name, image, labels, None, tuple(annotated), geometry)
        write_case(
            opened.path, case, Facts(name, "a", name, tuple(annotated), (), source, geometry, "", hu, {"liver": 1})
        )
    (folder / "splits.json").write_text(json.dumps({"seed": 0, "cases": dict.fromkeys(CASES, "test")}))
    return open_store(folder)


def result(settings, quality, *, cases=CASES, organs=ORGANS):
    """A cell whose case number n has IoU quality - 0.02 n for every organ."""
    name = " ".join(f"{key.split('.')[-1].replace('method', 'contrast')}={value}" for key, value in settings.items())
    scores = tuple(
        CaseScore(case, f"a/{case}", {"background": 0.99} | dict.fromkeys(organs, quality - 0.02 * n))
        for n, case in enumerate(cases)
    )
    mean = quality - 0.01 * (len(cases) - 1)
    of = [ClassScore(organ, mean + 0.01, mean, mean - 0.05, mean + 0.05, len(cases)) for organ in (*organs, MEAN)]
    background = ClassScore("background", 0.99, 0.99, math.nan, math.nan, len(cases))
    folder = name.replace("=", "-").replace(" ", "_")
    return CellResult(name, settings, "", 5, 4, 61.0, 1234567, (background, *of), scores, folder)


def make_study(variants=(1, 2), depths=(4, 5), contrasts=CONTRASTS):
    gain = {"none": 0.0, "equalisation": 0.05, "clahe": -0.001}
    results = []
    for variant, depth, contrast in itertools.product(variants, depths, contrasts):
        settings = {"network.variant": variant, "network.depth": depth, "contrast.method": contrast}
        results.append(result(settings, 0.7 + gain[contrast] + 0.001 * variant * (-1) ** depth))
    return Study("upv", "store7", "upv1-small", "test", tuple(results), len(results))


def write_runs(study, out, epochs=5):
    for number, cell in enumerate(study.results):
        run = out / "cells" / cell.folder / "run"
        run.mkdir(parents=True)
        contrast = Contrast(cell.settings.get("contrast.method", "none"))
        recipe = Recipe(label_space="abdomenct1k", contrast=contrast, intensity=Window(-160.0, 240.0))
        (run / "recipe.json").write_text(recipe_to_json(recipe))
        rows = [
            {
                "epoch": i,
                "train_loss": (1.4 + number / 20) / i,
                "val_loss": 1.5 / i + (0.2 if i == 5 else 0),
                "train_dice": dict.fromkeys(ORGANS, 0.15 * i),
                "val_dice": dict.fromkeys(ORGANS, 0.13 * i + number / 200),
                "seconds": 3,
            }
            for i in range(1, epochs + 1)
        ]
        (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for seed, case in enumerate(CASES):
            write_labels(run.parent / "labels" / f"{case}.npz", np.roll(scan(seed)[1], 1 + seed // 2, axis=2))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    study = make_study()
    failed = replace(study.results[1], failure="out of memory in /home/Mrs Miller/x.npy", classes=(), cases=())
    study = replace(study, results=(study.results[0], failed, *study.results[2:]), notes=("a note",))
    write_runs(study, folder / "out")
    return study, folder / "out", make_store(folder / "store7")


def section(page, title):
    return next(one for one in page.sections if one.title == title)


def test_the_page_holds_tables_curves_grids_and_failures_and_loads_nothing(place):
    study, out, store = place
    file = write_study_report(study, out, store)
    assert file == out / "study.html"
    text, reader = load_page(file)
    assert text.count("<svg") == 3  # dots, loss, IoU
    assert "Miller" not in text
    assert "<b>11 of 12</b><span>cells with a score" in text
    assert next(row[:5] for row in reader.rows if row[:3] == ["1", "4", "none"]) == ["1", "4", "none", "0.990", "0.651"]
    assert any(row[0] == "variant=1 depth=4 contrast=equalisation" and "out of memory" in row[1] for row in reader.rows)
    assert "Best case: a__0, slice 3; variant=2 depth=4 contrast=equalisation, mean IoU of the case 0.752" in text
    assert len(text) < 3_000_000


def test_pooled_and_mean_iou_are_in_their_own_tables_with_intervals(place, tmp_path):
    page = study_page(make_study(variants=(1,)), tmp_path, place[2])
    pooled, means = (section(page, title).table for title in ("IoU, pooled over voxels", "IoU, mean over cases"))
    assert pooled.columns == ("depth", "contrast", "background", *ORGANS, "mean")
    assert pooled.words == 2
    assert len(pooled.rows) == len(means.rows) == 6
    # Quality 0.701 falls by 0.02 per case, so its mean over seven is 0.641; the made-up pooled IoU is 0.01 more.
    assert [cell.text for cell in pooled.rows[0].cells[2:]] == ["0.990", *["0.651"] * 5]
    assert [(cell.text, cell.small) for cell in means.rows[0].cells[2:]] == [("0.641", "[0.59, 0.69]")] * 5


def test_grids_show_best_median_and_worst_case_for_each_contrast(place):
    study, out, store = place
    images, notes = error_grids(study, best_cell(study), out, store=store)
    assert notes == ()
    assert [caption.split(",")[0] for caption, _ in images] == [
        *["Best case: a__0"] * 3,
        *["Median case: a__3"] * 3,
        *["Worst case: a__6"] * 3,
    ]
    assert all("variant=2 depth=4" in caption for caption, _ in images)
    with Image.open(io.BytesIO(base64.b64decode(images[0][1]))) as image:
        assert image.width == 2 * 18 + 3 * 280 + 2 * 18


def test_chosen_cases_and_slices_are_drawn_and_those_that_are_not_there_are_told(place):
    study, out, store = place
    places = [("a__2", 4), ("a__2", 99), ("gone", 0)]
    images, notes = error_grids(study, study.results[3], out, store=store, places=places)
    assert images[0][0].startswith("a__2, slice 4; variant=1 depth=5 contrast=none")
    assert len(images) == 3
    assert any("a__2 has no slice 99: it has 0 to 5" in note for note in notes)
    assert any("has no case 'gone'" in note for note in notes)


def test_the_slice_is_shown_as_the_network_saw_it(place):
    case = place[2].case("a__1")
    labels = np.zeros(SHAPE, np.uint8)
    # The body fills rows 3 to 29 and columns 4 to 44 (2 % of a line: one pixel); the margin of 12 mm is 2 rows, 3 columns.
    field = np.s_[1:32, 1:48]
    for method in CONTRASTS:
        judged, index = judged_slice(case, labels, recipe=Recipe(contrast=Contrast(method)), space=ABDOMENCT1K)
        assert index == 3  # where all organs are largest
        assert (judged.input_hu == enhance(np.asarray(case.image[3]), Contrast(method))[field]).all()
        assert judged.spacing_mm == (6.0, 4.0)
    with pytest.raises(FileError, match="labels of a__1 have .* The store was prepared anew"):
        judged_slice(case, labels[1:], recipe=Recipe(), space=ABDOMENCT1K)


def test_labels_that_are_missing_become_a_note(place, tmp_path):
    study, _, store = place
    page = study_page(study, tmp_path, store)
    grids = section(page, "Error grids")
    assert grids.images == ()
    assert len(grids.notes) == 9
    assert "a__0.npz" in grids.notes[0]
    assert "Training" not in [one.title for one in page.sections]


def test_a_difference_in_every_patient_is_beyond_chance_and_a_tiny_mixed_one_is_not():
    rows = {(row.setting, row.value): row for row in effects(make_study(), np.random.default_rng(0))}
    gain = rows["contrast", "equalisation"]
    assert gain.differences[MEAN].difference == pytest.approx(0.05)
    assert gain.differences["liver"].difference == pytest.approx(0.05)
    assert (gain.reference, gain.pairs, gain.higher) == ("none", 4, 4)
    # Seven patients that differ by as much in the same direction: two-sided exact p = 2 / 2**7; Holm's factor is at most 4.
    assert wilcoxon([1.0, 2, 3, 4, 5, 6, 7]).pvalue == pytest.approx(2 / 2**7)
    assert 2 / 2**7 <= gain.p_value <= 4 * 2 / 2**7 + 1e-9
    assert rows["contrast", "none"].reference == ""
    assert rows["contrast", "none"].mean == pytest.approx(0.7 - 0.06)
    # Variant 2 is 0.001 better at depth 4 and as much worse at depth 5: nothing on the average, one pair in two better.
    variant = rows["variant", "2"]
    assert variant.differences[MEAN].difference == pytest.approx(0, abs=1e-12)
    assert (variant.pairs, variant.higher) == (6, 3)
    assert not variant.shown


def test_p_values_are_corrected_by_holm():
    study = make_study()
    rows = [row for row in effects(study, np.random.default_rng(0)) if row.reference]
    raw = np.array([row.differences[MEAN].p_value for row in rows])
    order = np.argsort(raw, kind="stable")
    expected = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
    assert np.array([row.p_value for row in rows])[order] == pytest.approx(expected)


def test_findings_say_what_is_shown_what_is_not_and_what_chance_means():
    study = make_study()
    rows = effects(study, np.random.default_rng(0))
    shown, rest, method = findings(study, [replace(row, p_value=row.p_value / 10) for row in rows])
    assert shown.startswith("Beyond the chance of which patients are scored: ")
    assert "contrast equalisation against none +0.050 [+0.050, +0.050]" in shown
    assert "higher in 4 of 4 pairs" in shown
    assert rest.startswith("No difference shown: variant 2 against 1")
    assert "trained once" in method


def test_few_patients_can_show_nothing_and_the_page_says_so():
    study = make_study(depths=(4,), contrasts=("none", "equalisation"))
    few = tuple(
        result(dict(cell.settings), 0.7 + 0.1 * (cell.settings["contrast.method"] != "none"), cases=CASES[:3])
        for cell in study.results
    )
    study = replace(study, results=few)
    rows = effects(study, np.random.default_rng(0))
    assert not any(row.shown for row in rows)
    assert any(
        "With 3 patients and 2 comparisons the test cannot fall below 0.05" in one for one in findings(study, rows)
    )


def test_a_failed_cell_takes_its_pairs_out_of_the_comparison(place):
    rows = {(row.setting, row.value): row for row in effects(place[0], np.random.default_rng(0))}
    assert rows["contrast", "equalisation"].cells == 3
    assert rows["contrast", "equalisation"].pairs == 3
    assert rows["contrast", "clahe"].pairs == 4


def test_one_cell_is_a_page_without_comparisons(tmp_path):
    study = make_study(variants=(1,), depths=(4,), contrasts=("none",))
    write_runs(study, tmp_path, epochs=1)
    page = study_page(study, tmp_path, make_store(tmp_path / "s"))
    assert varied(study.results) == {}
    assert section(page, "What the study shows").notes == (
        "No two scored cells differ in one setting only, so there is nothing to compare.",
    )
    assert len(section(page, "Training").charts) == 2
    assert len(section(page, "Error grids").images) == 3


def test_failed_cells_only_are_a_page_that_says_so(tmp_path):
    cell = CellResult("alpha=1", {"loss.alpha": 1}, failure="the loss is not finite", folder="alpha-1")
    study = Study("x", "s", "zhang2d", "test", (cell,), 3)
    text, reader = load_page(write_study_report(study, tmp_path, make_store(tmp_path / "s")))
    assert "No cell has a score yet." in text
    assert ["alpha=1", "the loss is not finite"] in reader.rows
    assert "0 of 3" in text


def test_an_empty_study_and_a_damaged_log_do_not_stop_the_page(tmp_path):
    store = make_store(tmp_path / "s")
    load_page(write_study_report(Study("x", "s", "zhang2d", "test"), tmp_path, store))
    study = make_study(variants=(1,), depths=(4,), contrasts=("none",))
    write_runs(study, tmp_path)
    (tmp_path / "cells" / study.results[0].folder / "run" / "log.jsonl").write_text("{}\n{}\n")
    assert (
        "No curves of variant=1 depth=4 contrast=none" in section(study_page(study, tmp_path, store), "Notes").notes[0]
    )


def test_iou_that_is_no_number_is_a_dash(tmp_path):
    cell = result({"loss.alpha": 1}, math.nan)
    page = study_page(Study("x", "s", "zhang2d", "test", (cell,), 1), tmp_path, make_store(tmp_path / "s"))
    assert [cell.text for cell in section(page, "IoU, mean over cases").table.rows[0].cells] == [
        "alpha=1",
        *["–"] * 5,
    ]
    assert best_cell(Study("x", "s", "z", "test", (cell,))) is None
    assert math.isnan(case_mean(cell.cases[0]))


def test_an_organ_that_the_store_does_not_annotate_is_not_judged(tmp_path):
    store = make_store(tmp_path / "s", annotated=("liver", "spleen"))
    judged, _ = judged_slice(store.case("a__0"), scan(0)[1], recipe=Recipe(), space=ABDOMENCT1K)
    assert [judged.judges(organ) for organ in ORGANS] == [True, False, True, False]


def test_iou_of_pooled_dice_is_exact():
    # 6 voxels of truth, 4 predicted, 3 in both: Dice 0.6, IoU 3 / 7.
    assert mean_iou({"liver": 0.6}) == pytest.approx(3 / 7)


def test_curves_share_axes_and_ring_the_best_epoch():
    epochs = [Epoch(i, train_loss=2 / i, val_loss=1 / i, val_dice={"liver": 0.1 * i}) for i in (1, 2, 3)]
    curves = [Curve(f"depth {depth}", line, epochs, 2) for depth in (4, 5) for line in ("none", "clahe")]
    for figure, height in ((loss_curves(curves), 0.5), (iou_curves(curves), 0.2 / 1.8)):
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["depth 4", "depth 5"]
        rings = [line for line in figure.axes[0].get_lines() if line.get_markersize() == 10]
        assert [(ring.get_xdata()[0], ring.get_ydata()[0]) for ring in rings] == [(2, pytest.approx(height))] * 2
        assert rings[0].get_color() != rings[1].get_color()
        assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


@pytest.mark.parametrize("epochs", [[], [Epoch(1)], [Epoch(1, train_loss=1.0)], [Epoch(i) for i in range(1, 201)]])
def test_curves_of_little_can_be_drawn(epochs):
    curves = [Curve(f"panel {number}", "", epochs, 1) for number in range(5)]
    loss_curves(curves).canvas.draw()
    iou_curves([]).canvas.draw()


def test_dots_are_drawn_without_intervals_and_without_scores():
    gap = math.nan
    dots = {"liver": [Dot(0.5, gap, gap, gap), Dot(gap, gap, gap, gap)], "spleen": [Dot(0.5, 0.4, 0.6, 0.55)] * 2}
    figure = iou_dots([("a", "x"), ("b", "y")], dots)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no score"]
    assert [len(axes.get_lines()) for axes in figure.axes] == [1, 6]
    figure.canvas.draw()
    iou_dots([], {}).canvas.draw()


def test_an_effect_without_pairs_is_not_tested():
    assert findings(make_study(), [Effect("depth", "5", "4", 1, 0.5)]) == (
        "No two scored cells differ in one setting only, so there is nothing to compare.",
    )
