"""What is said of other kinds of processor: only what was measured."""

from dataclasses import replace

import pytest

from viscera.cli.bench import ELSEWHERE, elsewhere_rows, show_elsewhere
from viscera.deployment.elsewhere import Figure, about_kinds, measured_figures, unmeasured_kinds
from viscera.errors import FileError
from viscera.networks.processor import KINDS, Processor, this_processor

FIGURE = Figure("AVX2", "AMD EPYC", 2, "LIDC, 512x512x275", "torch", "fp32", 8.32, 6.38, "42bd21f", "2026-11-26")
HERE = Processor("AMD EPYC", "", "x86_64", "Linux", 2, 2, ("AVX2",))


def test_kinds_without_a_figure_are_named():
    missing = unmeasured_kinds([FIGURE])
    assert missing == [kind for kind, _ in KINDS if kind != "AVX2"]
    assert about_kinds(HERE, [FIGURE]) == f"This processor is of the kind AVX2. No figures of: {', '.join(missing)}."
    assert about_kinds(HERE, [replace(FIGURE, kind=kind) for kind, _ in KINDS]) == "This processor is of the kind AVX2."


def test_a_kind_that_was_never_measured_gets_no_figure_of_another():
    text = about_kinds(replace(HERE, abilities=("AVX2", "AVX-512")), [FIGURE])
    assert text.startswith(
        "This processor is of the kind AVX-512, of which there is no measured figure. No figures of: "
    )
    assert "AVX-512," not in text.partition("No figures of: ")[2]
    untold = about_kinds(replace(HERE, untold=("VNNI",)), [FIGURE])
    assert untold.startswith("This processor is of the kind at least AVX2, of which there is no measured figure.")


def test_a_row_shows_a_dash_for_what_was_not_measured():
    (cells,) = elsewhere_rows([FIGURE])
    assert len(cells) == len(ELSEWHERE)
    assert cells == (
        *("AVX2", "AMD EPYC, 2 cores", "LIDC, 512x512x275", "torch fp32", "8.3", "6.4", "2026-11-26 (42bd21f)"),
    )
    (unsaid,) = elsewhere_rows([replace(FIGURE, precision=None, file_to_file_s=None)])
    assert unsaid[3:6] == ("torch", "8.3", "-")


def test_the_figures_in_the_package_are_of_several_kinds_and_each_is_possible():
    figures = measured_figures()
    assert len({figure.kind for figure in figures}) >= 2
    assert all(figure.kind in dict(KINDS) and figure.commit and figure.scan for figure in figures)
    assert all(figure.file_to_file_s is None or 0 < figure.file_to_file_s < figure.command_s for figure in figures)


@pytest.mark.parametrize("text", ["", "[]", '{"figures": [{"kind": "AVX2"}]}'])
def test_a_damaged_table_is_named(tmp_path, text):
    (tmp_path / "elsewhere.json").write_text(text)
    with pytest.raises(FileError, match=r"elsewhere\.json is not a table of measured times.*Install viscera again"):
        measured_figures(tmp_path / "elsewhere.json")


def test_bench_shows_this_processor_and_the_others_and_returns_them_for_json(capsys):
    facts = show_elsewhere()
    shown = capsys.readouterr().out
    assert f"Processor: {this_processor()}." in shown
    assert all(figure.commit in shown for figure in measured_figures())
    assert [row["kind"] for row in facts["elsewhere"]] == [figure.kind for figure in measured_figures()]
    assert facts["elsewhere_kinds"] in shown
