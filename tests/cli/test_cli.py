"""The command: help, verbs, and the usual way from data sets to a report, as a user would say it."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from viscera.cli.command import VERBS, main
from viscera.recipes.catalogue import RECIPES

README = Path(__file__).parents[2] / "README.md"
HEAVY = ("torch", "matplotlib", "scipy", "cv2", "pydantic", "nibabel")


@pytest.mark.parametrize("arguments", [["--help"], ["info", "recipes"], ["info", "system"], ["train", "--help"]])
def test_help_and_info_import_nothing_heavy(arguments):
    code = f"import sys; from viscera.cli.command import main\ntry: main({arguments!r})\nexcept SystemExit: pass\n"
    code += f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"usage: viscera {verb}" in capsys.readouterr().out


def test_info_tells_recipes_layouts_and_organs_for_people_and_programs(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in (*RECIPES, "totalsegmentator", "urinary_bladder", "torch"))
    assert main(["info", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"recipes", "layouts", "organs", "weights", "system"}
    assert main(["info", "zhang2d"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["learning_rate"] == 6e-4


@pytest.fixture(scope="module")
def way(tmp_path_factory) -> Path:
    """Go the usual way with patients of 16x32x32 voxels and a network of two levels."""
    folder = tmp_path_factory.mktemp("way")
    for layout, seed in (("abdomenct1k", "1"), ("radiotherapy", "2")):
        words = ["synth", str(folder / layout), "--layout", layout, "--cases", "5", "--seed", seed, "--jobs", "1"]
        assert main([*words, "--shape", "16", "32", "32"]) == 0
    recipe = json.loads(_recipe("zhang2d-small"))
    recipe["name"], recipe["preparation"]["size"], recipe["network"]["widths"] = "tiny", [32, 32], [4, 8]
    (folder / "tiny.json").write_text(json.dumps(recipe))
    sets = [f"{layout}={folder / layout}" for layout in ("abdomenct1k", "radiotherapy")]
    assert main(["prepare", str(folder / "store"), "--data", *sets, "--recipe", str(folder / "tiny.json")]) == 0
    words = [str(folder / "tiny.json"), str(folder / "store"), str(folder / "run")]
    assert main(["train", *words, "--training.epochs", "2", "--machine.accelerator", "cpu"]) == 0
    return folder


def _recipe(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "viscera.cli", "info", name], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_what_is_annotated_in_each_data_set_is_what_its_cases_annotate(way):
    from viscera.preparation.store import open_store

    store = open_store(way / "store")
    annotated = {store.case(name).dataset: set(store.case(name).annotated) for name in store.names()}
    assert annotated["abdomenct1k"] == {"kidney", "liver", "spleen", "pancreas"}
    assert annotated["radiotherapy"] == set(store.space.organs) - {"spleen", "pancreas"}
    assert {len(store.names(split)) for split in ("validation", "test")} >= {2}


def test_unseen_patients_are_predicted_evaluated_compared_and_reported(way, capsys):
    sets = [f"{layout}={way / layout}" for layout in ("abdomenct1k", "radiotherapy")]
    pairs = []
    for name in sets:
        out = way / "predictions" / name.partition("=")[0]
        assert main(["predict", name, str(out), "--weights", str(way / "run"), "--split", "test", "--statistics"]) == 0
        pairs += [name, str(out)]
    unseen = ["--split", "test", "--run", str(way / "run")]
    scores, page = way / "scores.json", way / "page.html"
    versus = ["--versus", pairs[1], pairs[3]]
    assert main(["evaluate", *pairs, *unseen, "--json", str(scores), "--html", str(page), *versus]) == 0
    shown = capsys.readouterr().out
    assert "liver" in shown
    assert "+0.0000" in shown  # a prediction does not differ from itself
    rows = json.loads(scores.read_text())["cases"]
    organs = {row["case"].partition("/")[0]: {r["organ"] for r in rows if r["case"] == row["case"]} for row in rows}
    assert organs["abdomenct1k"] == {"kidney", "liver", "spleen", "pancreas"}
    assert "spleen" not in organs["radiotherapy"]
    html = page.read_text()
    assert "https://" not in html
    assert "data:image/png;base64," in html
    assert main(["evaluate", *pairs, *unseen, "--json", str(scores)]) == 2  # not overwritten
    assert main(["report", str(way / "run"), "--out", str(way / "run.html")]) == 0
    assert main(["report", str(way / "store"), "--out", str(way / "store.html")]) == 0
    assert main(["report", str(scores), "--out", str(way / "scores.html")]) == 0


def test_one_scan_is_segmented_looked_at_and_its_statistics_shown(way, capsys):
    scan = sorted((way / "radiotherapy" / "ct").iterdir())[0]
    out = way / "one" / scan.name
    assert main(["predict", str(scan), str(out), "--weights", str(way / "run"), "--statistics"]) == 0
    assert "volume (ml)" in capsys.readouterr().out
    assert nibabel.load(out).shape == nibabel.load(scan).shape
    assert np.allclose(nibabel.load(out).affine, nibabel.load(scan).affine)
    picture = way / "look.png"
    assert main(["view", str(scan), str(out), f"radiotherapy={way / 'radiotherapy'}", "--png", str(picture)]) == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert main(["view", str(scan), str(out), "--png", str(picture)]) == 2  # not overwritten
    assert main(["predict", str(scan), str(out), "--weights", str(way / "run"), "--statistics"]) == 0  # was done


def test_preparing_again_does_nothing_and_training_again_needs_a_word(way):
    words = [str(way / "store"), "--data", f"abdomenct1k={way / 'abdomenct1k'}", "--recipe", str(way / "tiny.json")]
    before = {file: file.stat().st_mtime_ns for file in (way / "store" / "cases").rglob("*.npy")}
    assert main(["prepare", *words]) == 0
    assert {file: file.stat().st_mtime_ns for file in (way / "store" / "cases").rglob("*.npy")} == before
    train = ["train", str(way / "tiny.json"), str(way / "store"), str(way / "run"), "--training.epochs", "2"]
    assert main(train) == 2
    assert main([*train, "--resume"]) == 0


def test_the_readmes_commands_name_verbs_and_options_that_exist(capsys):
    lines = [
        line for line in README.read_text().splitlines() if line.startswith(tuple(f"viscera {verb}" for verb in VERBS))
    ]
    assert len(lines) >= 6
    for line in lines:
        words = line.partition("#")[0].split()
        with pytest.raises(SystemExit):
            main([words[1], *(["zhang2d"] if words[1] == "train" else []), "--help"])
        shown = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert option in shown, line


def test_the_readmes_generated_parts_are_up_to_date():
    done = subprocess.run([sys.executable, str(README.parent / "benchmarks" / "tables.py"), "--check"], check=False)
    assert done.returncode == 0, "run: make tables"
