"""The examples run as a reader runs them, on patients so small that it takes seconds; what they draw is pictures."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

import viscera

EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURES = {
    "explore_a_data_set": ("hu.png", "volumes.png", "overlay.png"),
    "train_and_look": ("dice.png", "look.png"),
    "compare_two_models": ("differences.png", "weighted.png", "uniform.png"),
}


def test_the_readme_names_every_example():
    text = (EXAMPLES / "README.md").read_text()
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PICTURES, "segment_with_onnx"}
    assert all(f"{path.name}" in text for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", PICTURES)
def test_an_example_is_cells_of_functions_that_a_process_may_read_again(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.startswith("# %% [markdown]\n# # ")
    starting = [
        part
        for part in ast.parse(text).body
        if not isinstance(part, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Assign)
    ]
    assert starting
    assert all(isinstance(part, ast.If) and "__main__" in ast.unparse(part.test) for part in starting)


@pytest.mark.parametrize("name", PICTURES)
def test_an_example_uses_what_is_public_and_nothing_else(name):
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    assert not [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "viscera" in (node.module or "")
    ]
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "viscera"
    }
    assert used
    assert used <= set(viscera.__all__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder for all of them: later ones find the patients of the first."""
    return tmp_path_factory.mktemp("examples")


def require_pictures(name: str, folder: Path) -> None:
    """Look for an example's pictures, and for anything beside the folder that it was given."""
    for file in PICTURES[name]:
        image = cv2.imread(str(folder / "out" / file))
        assert image is not None
        assert image.std() > 5  # not blank
    assert [path.name for path in folder.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_and_look", "compare_two_models"])
def test_an_example_s_main_draws_its_pictures(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(EXAMPLES)
    importlib.import_module(name).main(Path("out"), quick=True)
    assert PICTURES[name][0] in capsys.readouterr().out
    require_pictures(name, folder)


@pytest.mark.slow
def test_an_example_runs_as_its_first_cell_says(folder):
    name = "explore_a_data_set"
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), "out", "--quick"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    assert PICTURES[name][0] in done.stdout
    require_pictures(name, folder)
