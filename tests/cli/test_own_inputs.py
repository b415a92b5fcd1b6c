"""No verb replaces what it is given, whatever the spelling; names with brackets are shown as they are in every verb."""

import json
import os
import shutil

import numpy as np
import pytest

import viscera
from makers import call
from viscera.cli.console import progress, say, show_problems, show_table
from viscera.datasets.sources import Problem
from viscera.errors import FileError
from viscera.io import nifti
from viscera.volume import Volume

NAMES = ("[red]x[/red]", "a[/b]", "[bold]c", "[link=file:///etc]d", ":warning:", "[[e]]", "\\[f]")


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Stand in a folder with a truth T, a prediction P and a scan ct.nii.gz of one case."""
    monkeypatch.chdir(tmp_path)
    labels = np.zeros((6, 16, 16), np.uint8)
    labels[2:4, 4:12, 4:12] = 1
    affine = np.array([[0, 0, -2.0, 0], [0, -2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
    for folder in "TP":
        nifti.write(tmp_path / folder / "c.nii.gz", Volume(labels, affine))
        (tmp_path / folder / "c.json").write_text(json.dumps({"labels": {"1": "liver"}}))
    nifti.write(tmp_path / "ct.nii.gz", Volume(labels.astype(np.int16) * 1050 - 1000, affine))
    (tmp_path / "link").symlink_to("P")
    os.link(tmp_path / "T" / "c.nii.gz", tmp_path / "hard.html")
    (tmp_path / "P" / "page.html").write_text("theirs")
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command",
    [
        "evaluate T P --json P/c.json",
        "evaluate T P --json T/../link/c.json",
        "evaluate T P --csv P/c.nii.gz",
        "evaluate T/c.nii.gz P/c.nii.gz --json link/c.json",
        "evaluate T P --html hard.html",
        "evaluate T P --labels T/c.json --csv T/c.json",
        "view ct.nii.gz P/c.nii.gz --png link/c.nii.gz",
        "view ct.nii.gz P/c.nii.gz --png ct.nii.gz",
        "view ct.nii.gz P/c.nii.gz --png P/c.json",
        "view ct.nii.gz P/c.nii.gz T/c.nii.gz --html hard.html",
        "report P/c.json --out link/c.json",
        "report P --out P/c.nii.gz",
        "bench ct.nii.gz --json ct.nii.gz",
        "predict T link/../T",
        "predict P/c.nii.gz link",
    ],
)
def test_an_output_that_is_an_input_is_refused_before_anything_is_written(pair, command):
    before = contents(pair)
    code, said = call(f"{command} --overwrite")
    assert code == 2, said
    assert "is an input of this command, and would be replaced" in said
    assert contents(pair) == before


def test_inputs_of_a_data_set_are_inputs_too(pair):
    assert call("synth set --cases 1 --shape 16 32 32")[0] == 0
    (image,) = (pair / "set" / "imagesTr").glob("*.nii.gz")
    before = contents(pair)
    for output in ("set/dataset.json", f"set/imagesTr/{image.name}", "set/labelsTr/../labelsTr/case_0001.nii.gz"):
        code, said = call(f"evaluate nnunet=set set/labelsTr --json {output} --overwrite")
        assert (code, "is an input of this command" in said) == (2, True), said
    (pair / "elsewhere").symlink_to("set/labelsTr")
    code, said = call("predict nnunet=set elsewhere --overwrite")
    assert (code, "is an input of this command" in said) == (2, True), said
    with pytest.raises(FileError, match="is an input of this command"):
        viscera.predict(viscera.find_cases("nnunet", "set"), "elsewhere", overwrite=True)
    assert {path: contents(pair)[path] for path in before} == before


def test_cases_of_a_data_set_that_are_not_whole_are_counted_and_told_of(pair):
    assert call("synth set --cases 2 --shape 16 32 32")[0] == 0
    (pair / "set" / "labelsTr" / "case_0002.nii.gz").unlink()
    code, said = call("predict nnunet=set out --organs liver --runtime torch")
    assert (code, "1 of 2 scans segmented" in said, "image without labels" in said) == (2, True, True), said
    (pair / "set" / "labelsTr" / "case_0001.nii.gz").unlink()
    code, said = call("predict nnunet=set out --organs liver --runtime torch")
    assert (code, "0 of 2 scans segmented" in said) == (2, True), said


def test_two_outputs_of_one_name_are_refused(pair):
    code, said = call("evaluate T P --json out.x --csv ./out.x")
    assert (code, "out.x is named twice as an output" in said) == (2, True)
    assert not (pair / "out.x").exists()


def test_outputs_beside_the_inputs_are_written(pair):
    assert call("evaluate T P --json P/scores.json --csv T/scores.csv")[0] == 0
    with pytest.raises(FileError, match="is an input of this command"):
        viscera.report("P/scores.json", "link/scores.json", overwrite=True)
    assert call("report P/scores.json --out P/page.html --overwrite")[0] == 0
    assert "theirs" not in (pair / "P" / "page.html").read_text()
    assert call("view ct.nii.gz P/c.nii.gz --png P/c.png")[0] == 0


@pytest.mark.parametrize("name", NAMES)
def test_names_with_brackets_are_shown_as_they_are_in_tables_bars_and_messages(capsys, name):
    show_table(name, (name, "n"), [(name, name)])
    show_problems([Problem(name, name, name, name)])
    with progress() as bar:
        bar.add_task(name, total=1)
    say(name)
    out, err = capsys.readouterr()
    assert out.count(name) == 4
    assert err.count(name) == 6


def test_names_that_a_terminal_would_obey_or_cannot_show_are_escaped(capsys):
    name = "a\x1b[31m\udcff\r\x9b.nii.gz"
    show_table("t", ("file",), [(name,)])
    say(name)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert r"a\x1b[31m\udcff\r\x9b.nii.gz" in text


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        pytest.param(folder, name, marks=[pytest.mark.slow] * ((folder, name) != ("a[", "b].nii.gz")))
        for folder in ("scans", "a[", "[bold]")
        for name in ("[red]x[red].nii.gz", "b].nii.gz", "[bold].nii.gz")
    ],
)
def test_verbs_show_a_bad_file_with_brackets_by_its_name(pair, folder, name):
    """A slash cannot be in a file's name, but a[/b].nii.gz is a file b].nii.gz in a folder a[."""
    (pair / folder).mkdir()
    shutil.copy("ct.nii.gz", f"{folder}/good.nii.gz")
    for place in ("T", "P", folder):
        (pair / place / name).write_bytes(b"junk")
    code, said = call(f"predict '{folder}' out --runtime torch")
    assert code == 2
    assert f"{folder}/{name}" in said
    assert "1 of 2 scans segmented" in said
    for command in ("evaluate T P", f"view '{folder}/{name}' P/c.nii.gz", f"predict '{folder}/{name}' '[/x]'"):
        code, said = call(command)
        assert code == 2
        assert name in said, command
