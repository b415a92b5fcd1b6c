"""What of the mutants counts, and that those said to be equivalent are of today's code."""

import json
import re
from pathlib import Path

import pytest

from mutation import EQUIVALENTS, MODULES, changed_lines, is_wording

ROOT = Path(__file__).parents[2]


def test_modules_and_their_tests_are_there():
    for module, tests in MODULES.items():
        assert (ROOT / "src" / "viscera" / module).is_file()
        assert all((ROOT / "tests" / test).is_file() for test in tests)


@pytest.mark.parametrize(
    ("was", "becomes", "wording"),
    [
        ('raise E("no such file")', 'raise E("XXno such fileXX")', True),
        ('raise E("No such file", x)', 'raise E("NO SUCH FILE", x)', True),
        ('raise E("no such file")', "raise E(None)", False),
        ('raise E("no such file", "Check it.")', 'raise E("no such file", )', False),
        ('", ".join(names)', '"XX, XX".join(names)', False),
        ('values.get("dice")', 'values.get("DICE")', False),
        ('f(" mm")', 'f("XX mmXX")', False),
        ('a = b + "a word"', 'a = b - "a word"', False),
    ],
)
def test_only_the_text_of_a_string_of_two_words_is_wording(was, becomes, wording):
    assert is_wording(was, becomes) is wording


def test_the_changed_lines_of_a_diff_are_those_without_its_context():
    diff = "--- a.py\n+++ a.py\n@@ -1,3 +1,3 @@\n def f():\n-    a = 1\n+    a = 2\n     return a"
    assert changed_lines(diff) == ("a = 1", "a = 2")


def test_every_equivalent_mutant_has_a_reason_and_is_of_code_that_still_stands():
    groups = json.loads(EQUIVALENTS.read_text())
    assert len({(group["module"], group["function"], group["why"]) for group in groups}) == len(groups)
    for group in groups:
        assert group["module"] in MODULES
        assert re.fullmatch(r"[A-Z].{20,}\.", group["why"])
        lines = {line.strip() for line in (ROOT / "src" / "viscera" / group["module"]).read_text().splitlines()}
        for was, becomes in group["mutants"]:
            assert set(was.splitlines()) <= lines, was
            assert becomes != was
