"""Reports are read as a browser would: parsed, with nothing loaded from elsewhere."""

import base64
import io
import json
import re
from functools import partial

import numpy as np
import pytest
from PIL import Image

from makers import load_page
from viscera.config import Recipe, ResizedSlices, Training, UNetShape
from viscera.config.recipe_json import recipe_to_json
from viscera.datasets.writing import write_case as write_data_case
from viscera.errors import FileError, RunError, StoreError
from viscera.evaluation.evaluate import Rules, evaluate
from viscera.evaluation.pairing import ScoringJob
from viscera.evaluation.scores import Evaluation, OrganScore, evaluation_from_json
from viscera.figures.pictures import AGREE, AGREEMENT_COLOURS, FALSE, MISSED, OTHER, UNJUDGED
from viscera.io.nifti import write
from viscera.labels import LabelSpace
from viscera.learning.training import train
from viscera.preparation.geometry import Geometry
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.store import Case, Facts, SourceFacts, create_store, open_store, write_case
from viscera.quality.efficiency import CaseEfficiency, Efficiency
from viscera.reports.page import Cell, Page, Row, Section, Table, facts_table, render, without_folders
from viscera.reports.scores import CaseFiles, evaluation_page
from viscera.reports.scores import picture as picture_of
from viscera.reports.write import write_report
from viscera.volume import Volume, axial_turn

AFFINE = np.array([[0, 0, -2.0, 30], [0, -2.0, 0, 20], [4.0, 0, 0, -50], [0, 0, 0, 1]])


def evaluation(path, **changes):
    cases = [
        {"case": "a", "organ": "liver", "dice": 0.95, "iou": 0.9, "nsd": 0.8, "hd95_mm": 4.25, "truth_ml": 1500.0},
        {
            "case": "a",
            "organ": "kidney_left",
            "dice": 0.875,
            "iou": 0.7,
            "nsd": 0.6,
            "hd95_mm": None,
            "truth_ml": 150.0,
        },
        {"case": "b", "organ": "liver", "dice": 0.25, "iou": 0.1, "nsd": 0.2, "hd95_mm": 40, "truth_ml": 0},
        {
            "case": "<b>c</b>",
            "organ": "liver",
            "dice": None,
            "iou": None,
            "nsd": None,
            "hd95_mm": None,
            "truth_ml": 0.0,
        },
    ]
    summary = [
        {"organ": "mean", "metric": "dice", "mean": 0.7375, "low": None, "high": None, "cases": 2},
        {"organ": "liver", "metric": "dice", "mean": 0.6, "low": 0.25, "high": 0.95, "cases": 2},
        {"organ": "kidney_left", "metric": "dice", "mean": 0.875, "low": 0.875, "high": 0.875, "cases": 1},
        {"organ": "liver", "metric": "hd95_mm", "mean": 22.125, "low": 4.25, "high": 40.0, "cases": 2},
    ]
    path.write_text(json.dumps({"mode": "volume", "cases": cases, "summary": summary} | changes))
    return path


def run(folder, lines=3):
    folder.mkdir()
    (folder / "recipe.json").write_text(recipe_to_json(Recipe()))
    facts = {
        "viscera": "0.1.0",
        "device": "cpu",
        "store": "/home/Mrs Miller/store7",
        "splits": {"training": ["x", "Mr Smith"]},
    }
    (folder / "run.json").write_text(json.dumps(facts))
    rows = [
        {
            "epoch": i,
            "learning_rate": 1e-3,
            "train_loss": 1.5 / i,
            "val_loss": [0.9, 0.4321, 0.6][i - 1],
            "train_dice": {"liver": 0.1 * i, "colon": 0.2},
            "val_dice": {"liver": 0.25 * i, "colon": None},
            "val_iou": {"liver": 0.2 * i},
            "seconds": 50,
        }
        for i in range(1, lines + 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def store(folder):
    opened = create_store(folder, space=LabelSpace("x", ("liver", "colon")), preparation=ResizedSlices(size=(16, 16)))
    hu = {"minimum": -1024.0, "maximum": 2000.0, "mean": -300.5, "p10": -950.0, "p90": 110.0}
    geometry = Geometry((2, 16, 16), AFFINE, axial_turn(AFFINE), (16, 16))
    source = SourceFacts(
        "Mrs Miller.nii.gz", ("1.nii.gz",), "", ("",), ((1, 1), (1, 1)), ((1, "liver"),), ("liver",), ()
    )
    for name, organ in (("one__1", "liver"), ("one__2", "liver"), ("two__1", "colon")):
        dataset, annotated, voxels = name[:3], (organ,), {"background": 24, organ: 1000}
        image = np.zeros((2, 16, 16), np.int16)
        case = Case(name, dataset, "Mrs Miller", image, image.astype(np.uint8), None, annotated, geometry)
        write_case(
            opened.path, case, Facts(name, dataset, "Mrs Miller", annotated, (), source, geometry, "", hu, voxels)
        )
    splits = {"one__1": "training", "one__2": "validation", "two__1": "training"}
    (folder / "splits.json").write_text(json.dumps({"seed": 0, "cases": splits}))
    problem = {"case": "3", "file": "/home/Mrs Miller/3.nii.gz", "what": "4D & <odd>", "remedy": "Split it."}
    (folder / "problems.json").write_text(json.dumps([problem]))
    return folder


def labelled(value, left):
    labels = np.zeros((8, 20, 30), np.uint8)
    labels[2:6, 6:12, left : left + 5] = value
    return labels


def case_files(folder, *, truth=1, left=8, also=0):
    """A scan, a truth that calls the liver ``truth``, a prediction that calls it 2, as paths and as a task."""
    paths = [folder / name for name in ("ct.nii.gz", "truth.nii.gz", "prediction.nii.gz")]
    ct = np.full((8, 20, 30), -1000, np.int16)
    ct[:, 4:16, 5:25] = 40
    predicted = labelled(2, 8) + (labelled(also, 15) if also else 0)
    for path, voxels in zip(paths, (ct, labelled(truth, left), predicted.astype(np.uint8)), strict=True):
        write(path, Volume(voxels, AFFINE))
    (folder / "truth.json").write_text(json.dumps({"labels": {str(truth): "liver"}}))
    (folder / "prediction.json").write_text(json.dumps({"labels": {"1": "spleen", "2": "liver"}}))
    return paths[0], ScoringJob("a", paths[2], paths[1])


def pixels(png):
    """Decode a picture in base64, or the address of one."""
    with Image.open(io.BytesIO(base64.b64decode(png.rpartition(",")[2]))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def count(picture, code):
    return int((picture == AGREEMENT_COLOURS[code]).all(axis=-1).sum())


def test_an_evaluation_s_page_shows_means_with_intervals_and_every_score(tmp_path):
    out = write_report(evaluation(tmp_path / "evaluation.json"), tmp_path / "page.html")
    text, reader = load_page(out)
    assert ["liver", "2", "0.600[0.250, 0.950]", "22.1[4.2, 40.0]"] in reader.rows
    assert ["kidney left", "1", "0.875[0.875, 0.875]", "–"] in reader.rows
    assert ["mean", "2", "0.738", "–"] in reader.rows
    assert ["a", "kidney left", "0.875", "0.700", "0.600", "–", "150.0"] in reader.rows
    assert reader.tags.count("svg") == 2
    assert '<td data-v="0.875"' in text
    assert "<b>0.738</b><span>mean Dice</span>" in text


@pytest.mark.parametrize(("mode", "heading"), [("volume", "Dice"), ("flare", "FLARE DSC"), ("slices", "slice Dice")])
def test_accuracy_comes_first_and_says_of_what(mode, heading):
    scores = tuple(OrganScore(case, case, organ, {}) for case in "ab" for organ in ("liver", "spleen", "kidney"))
    page = evaluation_page(Evaluation(mode, scores, ()), "x")
    assert page.sections[0].title == f"Accuracy: {heading} of 3 organs on 2 cases against truth"


def test_the_mean_over_organs_comes_last(tmp_path):
    _, reader = load_page(write_report(evaluation(tmp_path / "evaluation.json"), tmp_path / "page.html"))
    organs = [row[0] for row in reader.rows[1:4]]
    assert organs == ["liver", "kidney left", "mean"]


def test_cases_are_ranked_from_the_worst_with_their_worst_organ(tmp_path):
    _, reader = load_page(write_report(evaluation(tmp_path / "evaluation.json"), tmp_path / "page.html"))
    start = reader.rows.index(["case", "worst organ", "mean Dice", "its Dice"])
    assert reader.rows[start + 1 : start + 3] == [
        ["b", "liver", "0.250", "0.250"],
        ["a", "kidney left", "0.912", "0.875"],
    ]


def test_names_are_escaped(tmp_path):
    text, reader = load_page(write_report(evaluation(tmp_path / "evaluation.json"), tmp_path / "page.html"))
    assert "<b>c</b>" not in text
    assert any(row[0] == "<b>c</b>" for row in reader.rows if row)


def test_slice_scores_have_their_own_names_and_say_that_they_are_no_volume_scores(tmp_path):
    cases = [
        {"case": name, "organ": "liver", "slice_dice": x, "slice_iou": x / 2} for name, x in (("a", 0.9), ("b", 0.5))
    ]
    summary = [
        {"organ": organ, "metric": metric, "mean": mean, "low": None, "high": None, "cases": 2}
        for metric, mean in (("slice_dice", 0.7), ("slice_iou", 0.35))
        for organ in ("liver", "mean")
    ]
    file = evaluation(tmp_path / "e.json", mode="slices", cases=cases, summary=summary)
    text, reader = load_page(write_report(file, tmp_path / "page.html"))
    assert "not to be compared with scores of whole volumes" in text
    assert ["organ", "cases", "slice Dice", "slice IoU"] in reader.rows
    assert ["liver", "2", "0.700", "0.350"] in reader.rows
    assert ["case", "worst organ", "mean slice Dice", "its slice Dice"] in reader.rows
    assert ["b", "liver", "0.500", "0.500"] in reader.rows
    assert "<b>0.700</b><span>mean slice Dice</span>" in text
    assert "slice Dice per case" in text
    assert not re.search(r"(?<![Ss]lice )\b(Dice|IoU)\b", text)


def test_problems_and_notes_of_an_evaluation_are_shown(tmp_path):
    problem = {"case": "c", "file": "/x/Mrs Miller/c.nii.gz", "what": "no <prediction>", "remedy": "Name it c.nii.gz."}
    file = evaluation(tmp_path / "e.json", problems=[problem], notes=["2 predictions <without> truth"])
    text, reader = load_page(write_report(file, tmp_path / "page.html"))
    assert ["c", "c.nii.gz", "no <prediction>", "Name it c.nii.gz."] in reader.rows
    assert "<li>2 predictions &lt;without&gt; truth</li>" in text
    assert "<b>1</b><span>problems</span>" in text


def test_a_mean_over_fewer_cases_says_so(tmp_path):
    summary = [
        {"organ": "liver", "metric": "dice", "mean": 0.5, "low": 0.25, "high": 0.75, "cases": 3},
        {"organ": "liver", "metric": "hd95_mm", "mean": 4.0, "low": None, "high": None, "cases": 2},
    ]
    _, reader = load_page(write_report(evaluation(tmp_path / "e.json", summary=summary), tmp_path / "page.html"))
    assert ["liver", "3", "0.500[0.250, 0.750]", "4.0of 2"] in reader.rows


def test_the_page_of_an_evaluation_is_that_of_its_json(tmp_path):
    _, task = case_files(tmp_path, left=9)
    found = evaluate(task.truth, task.prediction)
    (tmp_path / "page.json").write_text(found.to_json())
    first = write_report(found, tmp_path / "page.html").read_bytes()
    second = write_report(tmp_path / "page.json", tmp_path / "other.html").read_bytes()
    assert first == second
    _, reader = load_page(tmp_path / "page.html")
    # Two cubes 5 wide that share 4: Dice 4/5, IoU 4/6.
    assert any(row[:4] == ["prediction", "liver", "0.800", "0.667"] for row in reader.rows)


def flare_evaluation(path):
    """Two cases in FLARE's mode: the spleen is absent from both masks of b, the tumour stands first, an aorta is thin."""
    values = [
        ("a", "tumour", 0.0, 0.0, 0.0, 0.0),
        ("a", "liver", 0.9, 0.8, 0.9, 0.8),
        ("a", "spleen", 0.6, 0.4, 0.6, 0.4),
        ("a", "aorta", None, None, 0.5, 0.25),
        ("b", "liver", 0.7, 0.6, 0.75, 0.625),
        ("b", "spleen", 1.0, 1.0, None, None),
    ]
    names = ("case", "organ", "flare_dice", "flare_nsd", "dice", "nsd")
    cases = [dict(zip(names, row, strict=True)) for row in values]
    cost = {"seconds": 133.125, "samples": 1331, "peak_memory_mib": 2100.4, "cpu_area_percent_s": 25000.6}
    gpu = {"max_gpu_mib": 4200.0, "gpu_memory_area_mib_s": 30428.2}
    efficiency = [
        {"case": "a", "shape": [512, 512, 55], "efficiency": cost | gpu},
        {"case": "b", "shape": None, "efficiency": cost | {"seconds": 9.5}},
    ]
    return evaluation(path, mode="flare", cases=cases, efficiency=efficiency)


def test_flares_table_has_mean_and_deviation_per_target_tumour_and_average_last(tmp_path):
    text, reader = load_page(write_report(flare_evaluation(tmp_path / "e.json"), tmp_path / "page.html"))
    start = reader.rows.index(["Target", "Cases", "DSC (%), FLARE", "NSD (%), FLARE", "DSC (%)", "NSD (%)"])
    # Standard deviation of two values: their difference / sqrt(2).
    means = ((80, 80, 0), (70, 70, 0), (82.5, 60, 50, 0), (71.25, 40, 25, 0))  # of targets
    average = [f"{np.mean(column):.2f} ± {np.std(column, ddof=1):.2f}" for column in means]
    assert reader.rows[start + 1 : start + 6] == [
        ["liver", "2", "80.00 ± 14.14", "70.00 ± 14.14", "82.50 ± 10.61", "71.25 ± 12.37"],
        ["spleen", "2", "80.00 ± 28.28", "70.00 ± 42.43", "60.00of 1", "40.00of 1"],
        ["aorta", "1", "–", "–", "50.00", "25.00"],
        ["tumour", "1", "0.00", "0.00", "0.00", "0.00"],
        ["Average", "", *average],
    ]
    assert "official code of FLARE23" in text
    assert "<b>53" not in text  # tiles are of the summary
    assert any(row[:3] == ["case", "organ", "FLARE DSC"] for row in reader.rows)


def test_the_table_of_costs_marks_what_is_beyond_flares_tolerance(tmp_path):
    _, reader = load_page(write_report(flare_evaluation(tmp_path / "e.json"), tmp_path / "page.html"))
    start = reader.rows.index(
        [
            "Case ID",
            "Image size",
            "Running time (s)",
            "Max GPU (MB)",
            "Total GPU (MB·s)",
            "CPU area (%·s)",
            "Peak memory (MiB)",
        ]
    )
    assert reader.rows[start + 1 : start + 3] == [
        ["a", "(512, 512, 55)", "133.12▲ 118.12 beyond", "4200▲ 104 beyond", "30428", "25001", "2100"],
        ["b", "–", "9.50", "–", "–", "25001", "2100"],
    ]


def test_other_modes_have_no_table_of_flare_and_no_costs_unless_they_are_known(tmp_path):
    _, reader = load_page(write_report(evaluation(tmp_path / "e.json"), tmp_path / "page.html"))
    assert not [row for row in reader.rows if row and row[0] in ("Target", "Case ID")]


def test_costs_beside_predictions_travel_through_the_evaluation_to_the_page(tmp_path):
    _, task = case_files(tmp_path, left=9)
    cost = Efficiency(16.25, 163, 900.0, 1600.0)
    sidecar = tmp_path / "prediction.json"
    facts = json.loads(sidecar.read_text()) | {"run": {"efficiency": cost.to_json(), "shape": [30, 20, 8]}}
    sidecar.write_text(json.dumps(facts))
    found = evaluate(task.truth, task.prediction, rules=Rules("flare"))
    assert found.efficiency == (CaseEfficiency("prediction", (30, 20, 8), cost),)
    assert evaluation_from_json(found.to_json(), where="e.json").efficiency == found.efficiency
    (tmp_path / "page.json").write_text(found.to_json())
    _, reader = load_page(write_report(tmp_path / "page.json", tmp_path / "page.html"))
    assert ["prediction", "(30, 20, 8)", "16.25▲ 1.25 beyond", "–", "–", "1600", "900"] in reader.rows
    assert ["liver", "1", "80.00", "100.00", "80.00", "100.00"] in reader.rows  # 4 of 5 columns, 2 mm off


def grouped(path):
    """An evaluation in which case a's own data set does not annotate the spleen, which is taken for liver there."""
    cases = [
        {"case": "a", "organ": "liver", "dice": 0.9},
        {"case": "a", "organ": "spleen", "dice": 0.2, "group": "unannotated"},
        {"case": "b", "organ": "liver", "dice": 0.7},
        {"case": "b", "organ": "spleen", "dice": 0.8},
    ]
    empty = {"metric": "dice", "low": None, "high": None}
    summary = [
        {"organ": "liver", "mean": 0.8, "cases": 2} | empty,
        {"organ": "spleen", "mean": 0.5, "cases": 2} | empty,
        {"organ": "mean", "mean": 0.65, "cases": 2} | empty,
        {"organ": "liver", "mean": 0.8, "cases": 2, "group": "annotated"} | empty | {"low": 0.7, "high": 0.9},
        {"organ": "spleen", "mean": 0.8, "cases": 1, "group": "annotated"} | empty,
        {"organ": "mean", "mean": 0.8, "cases": 2, "group": "annotated"} | empty,
        {"organ": "spleen", "mean": 0.2, "cases": 1, "group": "unannotated"} | empty,
        {"organ": "mean", "mean": 0.2, "cases": 1, "group": "unannotated"} | empty,
    ]
    ml = [[900.0, 0.0, 4.0, 2.0], [10.0, 89.5, 0.5, 0.0], [0.0, 8.0, 12.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    confusion = {"classes": ["background", "liver", "spleen", "colon"], "ml": ml}
    return evaluation(path, cases=cases, summary=summary, confusion=confusion)


def test_organs_of_the_own_data_set_and_others_stand_side_by_side(tmp_path):
    _, reader = load_page(write_report(grouped(tmp_path / "e.json"), tmp_path / "page.html"))
    start = reader.rows.index(
        ["organ", "cases, annotated", "Dice, annotated", "cases, unannotated", "Dice, unannotated"]
    )
    assert reader.rows[start + 1 : start + 4] == [
        ["liver", "2", "0.800[0.700, 0.900]", "0", "–"],
        ["spleen", "1", "0.800", "1", "0.200"],
        ["mean", "2", "0.800", "1", "0.200"],
    ]
    assert ["spleen", "2", "0.500"] in reader.rows  # the summary is of both
    assert ["case", "organ", "own data set", "Dice"] in reader.rows
    assert ["a", "spleen", "unannotated", "0.200"] in reader.rows


def test_a_page_without_unannotated_scores_says_nothing_of_groups(tmp_path):
    text, _ = load_page(write_report(evaluation(tmp_path / "e.json"), tmp_path / "page.html"))
    assert "annotated:" not in text.lower().replace("unannotated:", "annotated:")
    assert "own data set" not in text
    assert "mistaken" not in text


def test_what_is_mistaken_for_what_is_drawn_and_told_in_both_directions(tmp_path):
    text, reader = load_page(write_report(grouped(tmp_path / "e.json"), tmp_path / "page.html"))
    assert 'aria-label="confusion matrix"' in text
    assert reader.tags.count("svg") == 3
    told = [line.strip() for line in re.findall(r"<li>(.*?)</li>", text)]
    assert told == [
        "colon: found where none of the organs is (2.0 ml), though no truth shows any.",
        "spleen: 40.0 % (8.0 ml) is called liver; 0.5 % of liver is called spleen.",
        "spleen: 20.0 % of its true volume (4.0 ml) is found where none of the organs is; 0.0 % is missed.",
        "liver: 10.0 % (10.0 ml) is missed; 0.0 % of its true volume is found where none of the organs is.",
    ]


def test_pictures_of_cases_are_png_in_the_page_the_worst_first(tmp_path):
    ct, task = case_files(tmp_path)
    pictures = [CaseFiles(name, ct, task) for name in ("a", "b", "not scored")]
    text, reader = load_page(write_report(evaluation(tmp_path / "e.json"), tmp_path / "page.html", pictures=pictures))
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert captions == ["b: place 1 of 2 from the worst", "a: place 2 of 2 from the worst"]
    images = [pixels(address) for address in reader.addresses if address.startswith("data:")]
    assert len(images) == 2
    assert all(image.shape[1] > 600 for image in images)


@pytest.mark.parametrize("truth", [1, 2, 7])
def test_organs_agree_in_a_picture_by_their_names_not_by_their_numbers(tmp_path, truth):
    ct, task = case_files(tmp_path, truth=truth)
    picture = pixels(picture_of(CaseFiles("a", ct, task)))
    swatch = 14 * 14  # of the legend
    assert count(picture, AGREE) > 3 * swatch
    assert count(picture, FALSE) <= swatch
    assert count(picture, MISSED) <= swatch
    assert count(picture, OTHER) == 0


def test_a_predicted_organ_that_the_truth_does_not_annotate_is_not_shown_as_false(tmp_path):
    ct, task = case_files(tmp_path, also=1)
    picture = pixels(picture_of(CaseFiles("a", ct, task)))
    assert count(picture, UNJUDGED) > 14 * 14
    assert count(picture, FALSE) <= 14 * 14


def test_voxels_of_unknown_truth_are_neither_false_nor_missed(tmp_path):
    ct, task = case_files(tmp_path, left=9)
    (tmp_path / "truth.json").write_text('{"labels": {"1": "liver", "5": "ignore"}}')
    voxels = labelled(1, 9)
    voxels[2:6, 6:12, 8] = voxels[2:6, 6:12, 13] = 5  # all that differs
    write(task.truth, Volume(voxels, AFFINE), overwrite=True)
    picture = pixels(picture_of(CaseFiles("a", ct, task)))
    # The prediction is cut where the truth is unknown; its column 13 is empty.
    assert count(picture, FALSE) <= 14 * 14
    assert count(picture, MISSED) <= 14 * 14


def test_of_many_pictures_the_best_and_the_worst_are_shown(tmp_path):
    ct, task = case_files(tmp_path)
    cases = [{"case": f"c{i}", "organ": "liver", "dice": i / 10} for i in range(7)]
    # A spleen that only c0 annotates lifts its mean from 0 to 0.45.
    cases.append({"case": "c0", "organ": "spleen", "dice": 0.9})
    file = evaluation(tmp_path / "e.json", cases=cases, summary=[])
    pictures = [CaseFiles(f"c{i}", ct, task) for i in range(7)]
    text, _ = load_page(write_report(file, tmp_path / "page.html", pictures=pictures))
    captions = re.findall(r"<figcaption>(c\d)", text)
    assert captions == ["c1", "c2", "c5", "c6"]


def test_a_case_whose_files_cannot_be_read_gets_a_sentence(tmp_path):
    folder = tmp_path / "Mrs Miller"
    folder.mkdir()
    ct, task = case_files(folder)
    (folder / "cut.nii.gz").write_bytes(ct.read_bytes()[:-200])
    write(folder / "other.nii.gz", Volume(np.zeros((8, 20, 31), np.int16), AFFINE))
    cases = [{"case": f"c{i}", "organ": "liver", "dice": i / 10} for i in range(4)]
    file = evaluation(tmp_path / "e.json", cases=cases, summary=[])
    pictures = [
        CaseFiles("c0", folder / "cut.nii.gz", task),
        CaseFiles("c1", folder / "other.nii.gz", task),
        CaseFiles("c2", ct, ScoringJob("c2", folder / "missing.nii.gz", task.truth)),
        CaseFiles("c3", ct, task),
    ]
    text, reader = load_page(write_report(file, tmp_path / "page.html", pictures=pictures))
    sentences = re.findall(r"<li>(No picture .*?)</li>", text)
    assert [sentence[:17] for sentence in sentences] == ["No picture of c0:", "No picture of c1:", "No picture of c2:"]
    assert "cut.nii.gz" in sentences[0]
    assert "another grid" in sentences[1]
    assert "missing.nii.gz" in sentences[2]
    assert "Miller" not in text
    assert reader.tags.count("img") == 1


def test_names_of_labels_may_lie_elsewhere(tmp_path):
    ct, task = case_files(tmp_path)
    (tmp_path / "prediction.json").rename(tmp_path / "names_of_all.json")
    with pytest.raises(FileError, match="nothing names its labels"):
        picture_of(CaseFiles("a", ct, task))
    pixels(picture_of(CaseFiles("a", ct, task, labels=tmp_path / "names_of_all.json")))


def test_a_page_names_no_folder(tmp_path):
    folder = tmp_path / "Mrs Miller"
    folder.mkdir()
    ct, task = case_files(folder)
    file = evaluation(folder / "e.json")
    text, _ = load_page(write_report(file, folder / "page.html", pictures=[CaseFiles("a", ct, task)]))
    assert "Miller" not in text
    text, _ = load_page(write_report(run(folder / "run7"), folder / "run.html"))
    assert "Miller" not in text
    assert "Smith" not in text
    text, _ = load_page(write_report(store(folder / "store7"), folder / "store.html"))
    assert "Miller" not in text


def test_an_evaluation_without_cases_has_a_page(tmp_path):
    text, _ = load_page(write_report(evaluation(tmp_path / "e.json", cases=[], summary=[]), tmp_path / "page.html"))
    assert "<b>0</b><span>cases</span>" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": [{"case": "a"}]}, "e.json is not an evaluation .*organ"),
        (
            {"cases": [{"case": "a", "organ": "liver", "dice": "high"}]},
            r"cases\[0\].*dice: should be .* number.*, got 'high'",
        ),
        ({"problems": [{"case": "a"}]}, "e.json is not an evaluation"),
    ],
)
def test_damaged_evaluations_are_refused(tmp_path, changes, message):
    with pytest.raises(FileError, match=message):
        write_report(evaluation(tmp_path / "e.json", **changes), tmp_path / "page.html")


def test_a_run_s_page_shows_scores_of_the_best_epoch_and_every_setting(tmp_path):
    text, reader = load_page(write_report(run(tmp_path / "run7"), tmp_path / "page.html"))
    assert "<h1>run7</h1>" in text
    assert "Scores per organ, epoch 2" in text
    assert ["liver", "0.500", "0.400", "0.200"] in reader.rows
    assert ["colon", "–", "–", "0.200"] in reader.rows
    assert "No validation case annotates colon: not scored." in text
    assert ["training.learning_rate", "0.0006"] in reader.rows
    assert ["network.widths", "64, 128, 256, 512, 1024"] in reader.rows
    assert ["training", "2"] in reader.rows
    assert ["store", "store7"] in reader.rows
    assert "<b>0.4321</b>" in text
    assert "<b>2 min 30 s</b>" in text


def test_a_run_of_one_epoch_has_a_page(tmp_path):
    load_page(write_report(run(tmp_path / "run", lines=1), tmp_path / "page.html"))


def test_a_trained_run_has_a_page(small_store, tmp_path):
    recipe = Recipe(
        name="tiny",
        label_space="abdomenct1k",
        preparation=ResizedSlices(size=(16, 16)),
        network=UNetShape(widths=(4, 8)),
        training=Training(epochs=2, visits_per_slice=2, batch_size=4, precision="32-true"),
    )
    train(recipe, open_store(small_store), tmp_path / "run")
    text, reader = load_page(write_report(tmp_path / "run", tmp_path / "page.html"))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    best = min(log, key=lambda row: row["val_loss"])
    assert f"Scores per organ, epoch {best['epoch']}" in text
    liver = [f"{best[name]['liver']:.3f}" for name in ("val_dice", "val_iou", "train_dice")]
    assert ["liver", *liver] in reader.rows
    assert next(row for row in reader.rows if row[0] == "spleen")[1:3] == ["–", "–"]  # not annotated for validation
    assert "<p>Recipe tiny, label space abdomenct1k.</p>" in text
    assert ["training.batch_size", "4"] in reader.rows
    assert ["network.widths", "4, 8"] in reader.rows
    start = reader.rows.index(["split", "cases"])
    assert reader.rows[start + 1 : start + 4] == [["training", "4"], ["validation", "1"], ["test", "1"]]
    assert ["device", "cpu"] in reader.rows
    assert ["store", small_store.name] in reader.rows
    assert not re.search(r"[ab]__[a-f]", text)
    assert str(small_store.parent) not in text
    assert reader.tags.count("svg") == 1


def test_a_store_s_page_shows_annotated_organs_splits_and_problems(tmp_path):
    text, reader = load_page(write_report(store(tmp_path / "store"), tmp_path / "page.html"))
    assert ["liver", "2", "–"] in reader.rows
    assert ["colon", "–", "1"] in reader.rows
    assert ["cases", "2", "1"] in reader.rows
    assert ["training", "1", "1"] in reader.rows
    assert ["validation", "1", "0"] in reader.rows
    assert ["3", "3.nii.gz", "4D & <odd>", "Split it."] in reader.rows
    assert "<p>Label space x, slices of 16x16 pixels.</p>" in text


def test_a_store_without_hu_has_a_page_without_their_chart(small_store, tmp_path):
    text, reader = load_page(write_report(small_store, tmp_path / "page.html"))
    assert ["annotated organ", "a", "b"] in reader.rows
    assert ["spleen", "3", "–"] in reader.rows
    assert ["validation", "0", "1"] in reader.rows
    assert "Intensities" not in text


def test_a_store_that_was_prepared_from_data_sets_has_a_page(tmp_path):
    organs = {1: "liver", 2: "spleen", 3: "kidney_left", 4: "kidney_right"}
    labels = sum(labelled(value, 3 + 6 * (value - 1)) for value in organs)
    ct = Volume(np.where(labels > 0, 100, -500).astype(np.int16), AFFINE)
    labels = Volume(labels, AFFINE)
    write_one = partial(write_data_case, ct=ct, labels=labels, organs=organs)
    sources = [
        write_one("abdomenct1k", tmp_path / "abdomenct1k", number=1, annotate=("liver", "spleen")),
        write_one("abdomenct1k", tmp_path / "abdomenct1k", number=2, annotate=("liver", "spleen")),
        write_one("radiotherapy", tmp_path / "radiotherapy", number=1, annotate=("liver", "kidney")),
    ]
    sources[1].image.write_bytes(sources[1].image.read_bytes()[:-50])
    space, preparation = LabelSpace("three", ("liver", "spleen", "kidney")), ResizedSlices(size=(16, 16))
    prepare_store(tmp_path / "store", sources, space=space, preparation=preparation, plan=Plan(jobs=1))
    text, reader = load_page(write_report(tmp_path / "store", tmp_path / "page.html"))
    assert ["annotated organ", "abdomenct1k", "radiotherapy"] in reader.rows
    assert ["liver", "1", "1"] in reader.rows
    assert ["spleen", "1", "–"] in reader.rows
    assert ["kidney", "–", "1"] in reader.rows
    problem = reader.rows[reader.rows.index(["case", "file", "problem", "remedy"]) + 1]
    assert problem[:2] == [sources[1].name, sources[1].image.name]
    assert "<b>2</b><span>cases</span>" in text
    assert "Intensities" in text
    assert str(tmp_path) not in text


def test_a_store_with_a_damaged_case_is_refused(tmp_path):
    folder = store(tmp_path / "store")
    (folder / "cases" / "one__1" / "case.json").write_text("{}")
    with pytest.raises(StoreError, match=r"case 'one__1' .*case\.json is damaged"):
        write_report(folder, tmp_path / "page.html")


def test_an_empty_store_is_refused(tmp_path):
    create_store(tmp_path / "store", space=LabelSpace("x", ("liver",)), preparation=ResizedSlices())
    with pytest.raises(StoreError, match="store holds no prepared case"):
        write_report(tmp_path / "store", tmp_path / "page.html")


def test_what_is_no_target_is_refused(tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        write_report(tmp_path / "nothing", tmp_path / "page.html")
    with pytest.raises(RunError, match="neither a run"):
        write_report(tmp_path, tmp_path / "page.html")
    (tmp_path / "a.json").write_text('{"labels": {}}')
    with pytest.raises(FileError, match=r"a\.json is not an evaluation"):
        write_report(tmp_path / "a.json", tmp_path / "page.html")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(FileError, match=r"b\.json is not an evaluation"):
        write_report(tmp_path / "b.json", tmp_path / "page.html")
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(FileError, match=r"c\.json is not an evaluation"):
        write_report(tmp_path / "c.json", tmp_path / "page.html")
    (tmp_path / "scan.nii.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(FileError, match=r"scan\.nii\.gz is not an evaluation.*viscera evaluate --json"):
        write_report(tmp_path / "scan.nii.gz", tmp_path / "page.html")


def test_a_run_without_a_finished_epoch_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text(recipe_to_json(Recipe()))
    with pytest.raises(RunError, match=r"has no log\.jsonl"):
        write_report(tmp_path, tmp_path / "page.html")


def test_a_page_that_stands_there_is_kept_when_asked(tmp_path):
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(FileError, match="exists already"):
        write_report(evaluation(tmp_path / "e.json"), tmp_path / "page.html", overwrite=False)
    assert (tmp_path / "page.html").read_text() == "mine"


def test_the_same_target_gives_the_same_page(tmp_path):
    file = evaluation(tmp_path / "e.json")
    first, second = (write_report(file, tmp_path / name).read_bytes() for name in ("1.html", "2.html"))
    assert first == second


def test_texts_of_all_parts_are_escaped():
    odd = '<script>alert("x")</script>'
    table = Table((odd,), (Row((Cell(odd, small=odd),)),))
    text = render(Page(odd, odd, odd, ((odd, odd),), (Section(odd, odd, images=((odd, "AAAA"),), table=table),)))
    assert odd not in text
    # Title (twice), kind, subtitle, tile (2), section (2), caption (2), heading, cell (2).
    assert text.count("&lt;script&gt;") == 13


def test_facts_are_flattened_and_paths_cut():
    table = facts_table({"a": {"b": 1e-4, "c": [1, 2]}, "d": None, "e": "/home/x/y", "f": "C:\\x\\y", "g": {}, "h": []})
    pairs = [[cell.text for cell in row.cells] for row in table.rows]
    assert pairs == [["a.b", "0.0001"], ["a.c", "1, 2"], ["d", "–"], ["e", "y"], ["f", "y"], ["g", "–"], ["h", "–"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/Mrs Miller/1.nii.gz: is cut off", "1.nii.gz: is cut off"),
        ("C:\\Mrs Miller\\1.nii.gz is cut off", "1.nii.gz is cut off"),
        ("~/Miller/1.nii.gz", "1.nii.gz"),
        ("/x/Mrs Miller/a.nii.gz and /x/Miller/b.nii.gz differ", "a.nii.gz and b.nii.gz differ"),
        ("no file in '/x/Mrs Miller/predictions'", "no file in 'predictions'"),
        ("in Miller/scans/1.nii.gz", "in 1.nii.gz"),
        ("/x/a.nii.gz holds the liver/kidney", "a.nii.gz holds the liver/kidney"),
        ("5.0/2.5 mm, liver/kidney, 1 / 2", "5.0/2.5 mm, liver/kidney, 1 / 2"),
    ],
)
def test_messages_lose_their_folders_and_nothing_else(text, expected):
    assert without_folders(text) == expected
