"""The pages of the documentation: their Python runs, their commands exist, the site builds from them alone."""

import ast
import re
import shutil
from pathlib import Path

import pytest

from viscera.cli.command import VERBS, main
from viscera.recipes.catalogue import RECIPES

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
PYTHON_PAGES = ("python.md", "segment_folders.md")
SMALLER = {
    "cases=8, shape=(48, 128, 128)": "cases=6, shape=(16, 32, 32)",
    '{"training.epochs": 2}': '{"training.epochs": 1, "training.batch_size": 8, "network.widths": (4, 8), '
    '"sampling.window": (32, 32)}',
}
"""What is put in place of the pages' sizes, and nothing else."""


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", PYTHON_PAGES)
def test_the_python_of_a_page_runs_and_imports_no_internal_name(name, tmp_path, monkeypatch, capsys):
    import viscera

    code = "\n".join(blocks(ROOT / "docs" / name, "python"))
    for sizes, smaller in SMALLER.items():
        code = code.replace(sizes, smaller)
    imported = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("viscera." in ast.unparse(node) for node in imported)
    assert set(re.findall(r"\bviscera\.(\w+)", code)) <= set(viscera.__all__)
    monkeypatch.chdir(tmp_path)
    cases = viscera.synthesize("others", cases=2, shape=(16, 32, 32))
    Path("SCANS").mkdir()
    for case in cases:
        shutil.copy(case.image, Path("SCANS") / case.image.name)
    exec(compile(code, name, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_name_verbs_recipes_and_options_that_exist(page, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    for line in (line for line in lines if line.startswith("viscera ")):
        words = line.partition("#")[0].split()
        assert words[1] in VERBS, line
        recipe = [words[2]] if words[1] == "train" else []
        assert not recipe or recipe[0] in RECIPES, line
        with pytest.raises(SystemExit):
            main([words[1], *recipe, "--help"])
        shown = capsys.readouterr().out
        assert [word for word in words if word.startswith("--") and word not in shown] == [], line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page):
    root_pages = {"contributing.md", "security.md", "changelog.md"}  # made of the root's files (tools/docs_hooks.py)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [link for link in links if "://" not in link and link not in root_pages]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_documents_that_a_page_cites_by_name_are_in_the_repository():
    known = {path.name for path in ROOT.rglob("[A-Z]*.md")}
    for page in (*PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"):
        assert set(re.findall(r"\b[A-Z][A-Z_]+\.md\b", page.read_text())) <= known, page.name
