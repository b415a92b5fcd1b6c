"""The usual way of a radiotherapy department: its series and structure sets -> a store, a network, label maps, scores, pages."""

import json
from pathlib import Path

import numpy as np
import pytest

import viscera
from dicom_series import write_series
from dicom_sets import GERMAN, NAMES, case, striped, write_truth
from viscera.cli.command import main
from viscera.config.recipe_json import recipe_to_json
from viscera.dicom.finding import find_series
from viscera.errors import FileError
from viscera.io import nifti
from viscera.preparation.store import open_store
from viscera.recipes.catalogue import find_recipe
from viscera.volume import Volume

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:no .*case annotates"),
    pytest.mark.filterwarnings("ignore::viscera.io.scans.LeftOutWarning"),
]
PATIENTS = ("Anna", "Bert", "Carl", "Dora", "Emil", "Frida")


@pytest.fixture(scope="module")
def way(tmp_path_factory) -> Path:
    """Make six patients as DICOM and the same as NIfTI, prepare both, and train on the DICOM ones."""
    folder = tmp_path_factory.mktemp("way")
    for seed, name in enumerate(PATIENTS):
        labels = case(folder / "hospital", name, seed, truth="seg" if name == "Emil" else "rtstruct")
        [series] = find_series(folder / "hospital" / name / "CT").series
        nifti.write(folder / f"plain/imagesTr/{name}_CT_0000.nii.gz", series.read())
        nifti.write(folder / f"plain/labelsTr/{name}_CT.nii.gz", Volume(labels, series.affine))
    table = {roi: organ for organ, roi in GERMAN.items()}
    (folder / "hospital" / "roi_names.json").write_text(json.dumps(table))
    named = {"background": 0} | {organ: value for value, organ in NAMES.items()}
    content = {"channel_names": {"0": "CT"}, "labels": named, "file_ending": ".nii.gz"}
    (folder / "plain" / "dataset.json").write_text(json.dumps(content))
    recipe = json.loads(recipe_to_json(find_recipe("zhang2d-small")))
    recipe["name"], recipe["preparation"]["size"], recipe["network"]["widths"] = "tiny", [32, 32], [4, 8]
    (folder / "tiny.json").write_text(json.dumps(recipe))
    for layout, name in (("dicom", "hospital"), ("nnunet", "plain")):
        words = ["prepare", str(folder / f"{name}_store"), "--data", f"{layout}={folder / name}", "--jobs", "2"]
        assert main([*words, "--recipe", str(folder / "tiny.json")]) == 0
    words = [str(folder / "tiny.json"), str(folder / "hospital_store"), str(folder / "run")]
    assert main(["train", *words, "--training.epochs", "2", "--machine.accelerator", "cpu"]) == 0
    return folder


def test_a_store_from_dicom_holds_the_same_voxels_and_labels_as_one_from_nifti(way):
    ours, others = open_store(way / "hospital_store"), open_store(way / "plain_store")
    assert len(ours.names()) == len(others.names()) == len(PATIENTS)
    for name in PATIENTS:
        one, other = ours.case(f"hospital__{name}_CT"), others.case(f"plain__{name}_CT")
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.labels, other.labels)
        assert set(np.unique(one.labels)) - {0}
        assert one.annotated == other.annotated
    assert json.loads((way / "hospital_store" / "problems.json").read_text()) == []


def test_nothing_of_the_headers_but_names_of_organs_gets_into_the_store_or_the_run(way):
    for place in ("hospital_store", "run"):
        for file in (way / place).rglob("*.json"):
            text = file.read_text()
            assert not any(
                word in text for word in ("Test^Patient", "IDAnna", "19500101", "Leber", "Milz", "1.2.826")
            ), file


def test_preparing_again_prepares_nothing(way):
    before = {file: file.stat().st_mtime_ns for file in (way / "hospital_store" / "cases").rglob("*.npy")}
    words = [str(way / "hospital_store"), "--data", f"dicom={way / 'hospital'}", "--recipe", str(way / "tiny.json")]
    assert main(["prepare", *words]) == 0
    assert {file: file.stat().st_mtime_ns for file in (way / "hospital_store" / "cases").rglob("*.npy")} == before


def test_unseen_patients_are_predicted_and_scored_as_from_nifti(way, capsys):
    found = {}
    for layout, name in (("dicom", "hospital"), ("nnunet", "plain")):
        out, scores, page = (way / f"{name}_{what}" for what in ("out", "scores.json", "page.html"))
        data = f"{layout}={way / name}"
        split = ["--split", "test"] if name == "hospital" else []
        assert main(["predict", data, str(out), "--weights", str(way / "run"), *split]) == 0
        run = ["--run", str(way / "run")] if split else []
        assert main(["evaluate", data, str(out), *split, *run, "--json", str(scores), "--html", str(page)]) == 0
        found[name] = {(row["case"], row["organ"]): row for row in json.loads(scores.read_text())["cases"]}
        assert "data:image/png;base64," in page.read_text()
    assert found["hospital"]
    for key, row in found["hospital"].items():
        assert {**found["plain"][key], "patient": ""} == {**row, "patient": ""}
    assert "test^patient" not in capsys.readouterr().err.lower()


def test_a_series_is_looked_at_with_its_label_map_its_structure_set_or_its_seg(way, tmp_path):
    place = way / "hospital" / "Anna"
    [series] = find_series(place / "CT").series
    nifti.write(tmp_path / "labels.nii.gz", Volume(striped(0)[1], series.affine))
    (tmp_path / "labels.json").write_text(json.dumps({"labels": {"1": "liver", "2": "spleen"}}))
    seg = write_truth(tmp_path / "seg.dcm", place / "CT", striped(0)[1], seg=True)
    rtstruct = write_truth(tmp_path / "rs.dcm", place / "CT", striped(0)[1], roi_names={})
    pictures = []
    for labels in (tmp_path / "labels.nii.gz", seg, rtstruct):
        picture = tmp_path / f"{labels.name}.png"
        assert (
            main(["view", str(place / "CT"), str(labels), str(tmp_path / "labels.nii.gz"), "--png", str(picture)]) == 0
        )
        pictures.append(picture.stat().st_size)
        assert main(["view", str(place / "CT"), str(labels), "--html", f"{picture}.html"]) == 0
        assert "spleen" in Path(f"{picture}.html").read_text()
    assert (
        main(["view", str(place / "CT"), str(tmp_path / "labels.nii.gz"), str(seg), "--png", str(tmp_path / "t.png")])
        == 0
    )
    assert min(pictures) > 1000
    data = f"dicom={way / 'hospital'}"
    copy = tmp_path / "Anna_CT.nii.gz"
    copy.write_bytes((tmp_path / "labels.nii.gz").read_bytes())
    (tmp_path / "Anna_CT.json").write_bytes((tmp_path / "labels.json").read_bytes())
    assert main(["view", str(place / "CT"), str(copy), data, "--png", str(tmp_path / "d.png")]) == 0


def test_labels_in_dicom_need_their_series_and_no_input_is_written_to(way, tmp_path, capsys):
    place = way / "hospital" / "Anna"
    seg = write_truth(tmp_path / "seg.dcm", place / "CT", striped(0)[1], seg=True)
    scan = way / "plain" / "imagesTr" / "Anna_CT_0000.nii.gz"
    assert main(["view", str(scan), str(seg), "--png", str(tmp_path / "x.png")]) == 2
    assert "the scan is not a series" in capsys.readouterr().err
    other = way / "hospital" / "Bert" / "CT"
    assert main(["view", str(other), str(seg), "--png", str(tmp_path / "x.png")]) == 2
    assert "drawn on another series" in capsys.readouterr().err
    before = seg.read_bytes()
    assert main(["view", str(place / "CT"), str(seg), "--png", str(seg), "--overwrite"]) == 2
    assert seg.read_bytes() == before


def test_of_several_series_one_must_be_chosen(way, tmp_path, capsys):
    place = way / "hospital"
    labels = tmp_path / "labels.nii.gz"
    [series] = find_series(place / "Carl" / "CT").series
    nifti.write(labels, Volume(striped(2)[1], series.affine))
    assert main(["view", str(place), str(labels), "--png", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert "holds 6 CT series: Anna_CT (" in error
    assert series.series_uid in error
    assert "--series UID" in error
    words = ["view", str(place), str(labels), "--series", series.series_uid, "--png", str(tmp_path / "x.png")]
    assert main(words) == 0


def test_viscera_read_takes_a_series_and_a_case_of_a_data_set(way, tmp_path):
    hu, _ = striped(0)
    assert np.array_equal(viscera.read(way / "hospital" / "Anna" / "CT").voxels, hu)
    assert np.array_equal(viscera.read(str(way / "hospital" / "Anna")).voxels, hu)
    with pytest.raises(FileError, match=r"holds 6 CT series: .*series=UID"):
        viscera.read(way / "hospital")
    [series] = find_series(way / "hospital" / "Anna" / "CT").series
    assert np.array_equal(viscera.read(way / "hospital", series=series.series_uid).voxels, hu)
    first = next(case for case in viscera.find_cases("dicom", way / "hospital") if case.name == "Anna_CT")
    assert np.array_equal(viscera.read(first.image).voxels, hu)
    write_series(tmp_path / "one", hu[:1])
    with pytest.raises(FileError):
        viscera.read(tmp_path / "nothing")
