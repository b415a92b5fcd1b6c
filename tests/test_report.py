"""Reports are read as a browser would: parsed, with nothing loaded from elsewhere."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from viscera.cases import Case, Facts, Geometry, SourceFacts, create_store, write_case
from viscera.config import Preparation, Recipe, recipe_to_json
from viscera.errors import FileError, GeometryError, RunError, StoreError
from viscera.labels import LabelSpace
from viscera.nifti import write
from viscera.report import CaseFiles, write_report
from viscera.report.page import Cell, Page, Row, Section, Table, facts_table, render
from viscera.report.scores import read_scores
from viscera.volume import Volume, axial_turn

AFFINE = np.array([[0, 0, -2.0, 30], [0, -2.0, 0, 20], [4.0, 0, 0, -50], [0, 0, 0, 1]])


class Reader(HTMLParser):
    """Collects the texts of table rows, every address, and the tags in use."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.addresses, self.tags, self.cell = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
            self.cell = None


def load_page(path):
    text = path.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    reader = Reader(text)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in reader.addresses)
    assert not {"link", "iframe", "object", "embed"} & set(reader.tags)
    return text, reader


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
    opened = create_store(folder, space=LabelSpace("x", ("liver", "colon")), preparation=Preparation(size=(16, 16)))
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


def case_files(folder):
    shape = (8, 20, 30)
    ct, labels = np.full(shape, -1000, np.int16), np.zeros(shape, np.uint8)
    ct[:, 4:16, 5:25] = 40
    labels[2:6, 6:12, 7:12] = 1
    paths = [folder / name for name in ("ct.nii.gz", "prediction.nii.gz", "truth.nii.gz")]
    for path, voxels in zip(paths, (ct, labels, np.roll(labels, 1, axis=2)), strict=True):
        write(path, Volume(voxels, AFFINE))
    (folder / "prediction.json").write_text(json.dumps({"labels": {"1": "liver"}}))
    return paths


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


def test_slice_scores_say_that_they_are_not_volume_scores(tmp_path):
    text, _ = load_page(write_report(evaluation(tmp_path / "e.json", mode="slices"), tmp_path / "page.html"))
    assert "not to be compared with scores of whole volumes" in text


def test_pictures_of_cases_are_png_in_the_page_the_worst_first(tmp_path):
    ct, prediction, truth = case_files(tmp_path)
    pictures = [
        CaseFiles("a", ct, prediction, truth),
        CaseFiles("b", ct, prediction, truth),
        CaseFiles("other", ct, prediction),
    ]
    text, reader = load_page(write_report(evaluation(tmp_path / "e.json"), tmp_path / "page.html", pictures=pictures))
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert captions == ["b: place 1 of 2 from the worst", "a: place 2 of 2 from the worst", "other"]
    images = [address for address in reader.addresses if address.startswith("data:")]
    assert len(images) == 3
    for address in images:
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
            assert image.format == "PNG"
            assert image.width > 600


def test_of_many_pictures_the_best_and_the_worst_are_shown(tmp_path):
    ct, prediction, truth = case_files(tmp_path)
    cases = [{"case": f"c{i}", "organ": "liver", "dice": i / 10} for i in range(7)]
    file = evaluation(tmp_path / "e.json", cases=cases, summary=[])
    pictures = [CaseFiles(f"c{i}", ct, prediction, truth) for i in range(7)]
    text, _ = load_page(write_report(file, tmp_path / "page.html", pictures=pictures))
    captions = re.findall(r"<figcaption>(c\d)", text)
    assert captions == ["c0", "c1", "c5", "c6"]


def test_a_page_names_no_folder(tmp_path):
    folder = tmp_path / "Mrs Miller"
    folder.mkdir()
    ct, prediction, truth = case_files(folder)
    file = evaluation(folder / "e.json")
    text, _ = load_page(write_report(file, folder / "page.html", pictures=[CaseFiles("a", ct, prediction, truth)]))
    assert "Miller" not in text
    text, _ = load_page(write_report(run(folder / "run7"), folder / "run.html"))
    assert "Miller" not in text
    assert "Smith" not in text
    text, _ = load_page(write_report(store(folder / "store7"), folder / "store.html"))
    assert "Miller" not in text


def test_pictures_on_other_grids_and_damaged_names_are_refused(tmp_path):
    ct, prediction, truth = case_files(tmp_path)
    write(truth, Volume(np.zeros((8, 20, 31), np.uint8), AFFINE), overwrite=True)
    file = evaluation(tmp_path / "e.json")
    with pytest.raises(GeometryError, match="truth: labels lie on another grid"):
        write_report(file, tmp_path / "page.html", pictures=[CaseFiles("a", ct, prediction, truth)])
    (tmp_path / "prediction.json").write_text('{"labels": ["liver"]}')
    with pytest.raises(FileError, match=r"prediction\.json names no labels"):
        write_report(file, tmp_path / "page.html", pictures=[CaseFiles("a", ct, prediction)])
    assert not (tmp_path / "page.html").exists()


def test_an_evaluation_without_cases_has_a_page(tmp_path):
    text, _ = load_page(write_report(evaluation(tmp_path / "e.json", cases=[], summary=[]), tmp_path / "page.html"))
    assert "<b>0</b><span>cases</span>" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": [{"case": "a"}]}, "e.json is no evaluation .*organ"),
        ({"cases": "many"}, "expected a list of objects"),
        ({"cases": [{"case": "a", "organ": "liver", "dice": "high"}]}, "expected a number or null, got 'high'"),
        ({"summary": [{"organ": "liver", "metric": "dice", "mean": 0.5, "cases": 1.5}]}, "expected a whole number"),
    ],
)
def test_damaged_evaluations_are_refused(tmp_path, changes, message):
    with pytest.raises(FileError, match=message):
        read_scores(evaluation(tmp_path / "e.json", **changes))


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


def test_a_store_s_page_shows_annotated_organs_splits_and_problems(tmp_path):
    _, reader = load_page(write_report(store(tmp_path / "store"), tmp_path / "page.html"))
    assert ["liver", "2", "–"] in reader.rows
    assert ["colon", "–", "1"] in reader.rows
    assert ["training", "1", "1"] in reader.rows
    assert ["validation", "1", "0"] in reader.rows
    assert ["3", "3.nii.gz", "4D & <odd>", "Split it."] in reader.rows


def test_a_store_with_a_damaged_case_is_refused(tmp_path):
    folder = store(tmp_path / "store")
    (folder / "cases" / "one__1" / "case.json").write_text("{}")
    with pytest.raises(StoreError, match=r"case 'one__1' .*case\.json is damaged"):
        write_report(folder, tmp_path / "page.html")


def test_an_empty_store_is_refused(tmp_path):
    create_store(tmp_path / "store", space=LabelSpace("x", ("liver",)), preparation=Preparation())
    with pytest.raises(StoreError, match="store holds no prepared case"):
        write_report(tmp_path / "store", tmp_path / "page.html")


def test_what_is_no_target_is_refused(tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        write_report(tmp_path / "nothing", tmp_path / "page.html")
    with pytest.raises(RunError, match="neither a run"):
        write_report(tmp_path, tmp_path / "page.html")
    (tmp_path / "a.json").write_text('{"labels": {}}')
    with pytest.raises(FileError, match=r"a\.json is no evaluation"):
        write_report(tmp_path / "a.json", tmp_path / "page.html")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(FileError, match=r"b\.json is no JSON"):
        write_report(tmp_path / "b.json", tmp_path / "page.html")
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(FileError, match="holds a JSON list, not an object"):
        write_report(tmp_path / "c.json", tmp_path / "page.html")
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    with pytest.raises(FileError, match=r"scan\.nii\.gz is no evaluation"):
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
