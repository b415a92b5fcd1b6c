"""The report's section on signs that a result should not be trusted."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from viscera.errors import FileError
from viscera.evaluation.evaluate import evaluate
from viscera.evaluation.merging import merge_evaluations
from viscera.evaluation.scores import Evaluation, OrganScore, evaluation_from_json
from viscera.io.nifti import write
from viscera.quality.flags import CaseTrust, Sign, Trust, read_case_trust
from viscera.reports.page import Page, render
from viscera.reports.scores import evaluation_page
from viscera.reports.trust import MOST_ROWS, trust_section
from viscera.volume import Volume

TITLE = "Signs that a result should not be trusted"
NOTHING = "No statistics are at hand: viscera predict --statistics writes them beside the label maps, with the signs."


def sidecar(folder, name, *, organs=None, scan=()):
    """What ``viscera predict --statistics`` writes beside a label map; return the label map's path."""
    organs = {organ: tuple(sign(text) for text in texts) for organ, texts in (organs or {}).items()}
    facts = {"statistics": {}, "trust": Trust(organs, tuple(sign(text) for text in scan)).to_json()}
    (folder / f"{name}.json").write_text(json.dumps(facts))
    return folder / f"{name}.nii.gz"


def sign(message):
    return Sign("volume", 1.0, "less", message)


def scores(**cases):
    return [
        OrganScore(case, "Mrs Miller", organ, {"dice": value})
        for case, organs in cases.items()
        for organ, value in organs.items()
    ]


def section(given, *trusts):
    return trust_section(given, trusts, metric="dice", name="Dice")


def texts(found):
    """Rows of a section's table, quieter text behind its number."""
    return [[(cell.text + " " + cell.small).strip() for cell in row.cells] for row in found.table.rows]


def test_signs_are_read_from_the_file_beside_a_label_map_as_predict_writes_it(tmp_path):
    path = sidecar(tmp_path, "a", organs={"liver": ["liver: one", "liver: two"], "spleen": []}, scan=["upside down"])
    found = read_case_trust(path, case="set/a")
    assert found == CaseTrust("set/a", ("upside down",), {"liver": ("liver: one", "liver: two")})
    assert found.has_signs
    assert not read_case_trust(sidecar(tmp_path, "b", organs={"spleen": []}), case="b").has_signs


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        '{"labels": {}}',
        '{"statistics": {}}',
        '{"trust": null}',
        '{"trust": {"scan": []}}',
        '{"trust": {"scan": ["x"], "organs": {}}}',
        '{"trust": {"scan": [], "organs": []}}',
        '{"trust": {"scan": [], "organs": {"liver": [{"kind": "border"}]}}}',
        '{"trust": {"scan": 1, "organs": {}}}',
    ],
)
def test_files_of_others_and_older_ones_have_no_statistics(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert read_case_trust(tmp_path / "a.nii.gz", case="a") is None
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    assert read_case_trust(tmp_path / "a.nii.gz", case="a") is None
    assert read_case_trust(tmp_path / "missing.nii.gz", case="a") is None


def test_there_is_a_row_per_case_and_organ_the_scans_first_then_the_lowest_dice():
    given = scores(a={"liver": 0.9, "spleen": 0.2}, b={"liver": 0.4, "kidney_left": 0.6})
    found = section(
        given,
        CaseTrust("a", ("upside down", "clipped"), {"liver": ("liver: 1 ml", "liver reaches the border")}),
        CaseTrust("b", ("a chest",), {"kidney_left": ("kidney_left: 2 pieces",), "liver": ("liver: 3 ml",)}),
    )
    assert found.title == TITLE
    assert found.table.columns == ("case", "organ", "signs", "Dice")
    assert texts(found) == [
        ["b", "the scan", "a chest", "0.500 mean"],
        ["a", "the scan", "upside down; clipped", "0.550 mean"],
        ["b", "liver", "3 ml", "0.400"],
        ["b", "kidney left", "2 pieces", "0.600"],
        ["a", "liver", "1 ml; reaches the border", "0.900"],
    ]


def test_organs_without_a_score_come_last_and_are_in_no_mean():
    given = scores(a={"liver": 0.5, "colon": float("nan")})
    found = section(given, CaseTrust("a", (), {"aorta": ("x",), "colon": ("y",), "liver": ("z",)}))
    assert texts(found) == [["a", "liver", "z", "0.500"], ["a", "aorta", "x", "–"], ["a", "colon", "y", "–"]]
    assert found.notes == ("Mean Dice of organs with a sign: 0.500 (1); of organs without: none is scored.",)


def test_a_side_has_the_score_of_the_whole_where_the_truth_knows_only_this():
    found = section(
        scores(a={"kidney": 0.25, "liver": 0.75}), CaseTrust("a", (), {"kidney_left": ("x",), "kidney_right": ("y",)})
    )
    assert texts(found) == [
        ["a", "kidney left", "x", "0.250 of the kidney"],
        ["a", "kidney right", "y", "0.250 of the kidney"],
    ]
    # The kidney counts once.
    assert found.notes[0] == "Mean Dice of organs with a sign: 0.250 (1); of organs without: 0.750 (1)."
    both = section(scores(a={"kidney": 0.25, "kidney_left": 0.5}), CaseTrust("a", (), {"kidney_left": ("x",)}))
    assert texts(both) == [["a", "kidney left", "x", "0.500"]]


def test_names_of_organs_are_matched_as_the_scores_are():
    found = section(scores(a={"urinary_bladder": 0.5}), CaseTrust("a", (), {"Bladder": ("Bladder: 2 ml",)}))
    assert texts(found) == [["a", "urinary bladder", "2 ml", "0.500"]]


def test_it_says_how_many_cases_have_statistics_and_signs():
    given = scores(a={"liver": 1.0}, b={"liver": 1.0}, c={"liver": 1.0}, d={"liver": 1.0})
    signed = CaseTrust("a", (), {"liver": ("x",)})
    found = section(
        given, signed, CaseTrust("b", ("y",), {}), CaseTrust("c", (), {}), CaseTrust("not scored", ("z",), {})
    )
    assert found.text.startswith(
        "Of 3 cases with statistics, 2 have signs and 1 none. "
        "1 case has no statistics: viscera predict --statistics writes them. "
    )
    one = section(scores(a={"liver": 1.0}), signed)
    assert one.text.startswith("Of 1 case with statistics, 1 has signs and 0 none. A sign is ")


def test_without_any_statistics_there_is_one_line_only():
    found = section(scores(a={"liver": 1.0}), CaseTrust("not scored", ("z",), {}))
    assert found.text == NOTHING
    assert found.table is None
    assert found.notes == ()


def test_cases_without_signs_have_no_table():
    found = section(scores(a={"liver": 1.0}), CaseTrust("a", (), {}))
    assert found.table is None
    assert found.notes == ("Mean Dice of organs with a sign: none is scored; of organs without: 1.000 (1).",)


def test_organs_with_a_sign_are_held_against_those_without_and_against_the_same_organ_without():
    given = scores(
        a={"liver": 0.9, "pancreas": 0.5, "aorta": 0.7},
        b={"liver": 0.8, "pancreas": 0.6, "aorta": 0.8},
        c={"liver": 1.0, "pancreas": 0.1},
        unknown={"liver": 0.0},
    )
    found = section(
        given,
        CaseTrust("a", (), {"pancreas": ("x",)}),
        CaseTrust("b", ("y",), {"liver": ("x",), "pancreas": ("x",)}),
        CaseTrust("c", (), {}),
    )
    # With: 0.5, 0.8, 0.6. Without: 0.9, 0.7, 0.8, 1.0, 0.1. A case without statistics counts nowhere.
    assert found.notes[0] == "Mean Dice of organs with a sign: 0.633 (3); of organs without: 0.700 (5)."
    # Liver: 0.95 - 0.8 = 0.15; pancreas: 0.1 - 0.55 = -0.45; no aorta has a sign.
    assert found.notes[1] == (
        "Within the same organ, it is 0.150 higher with a sign than without (mean over 2 organs of which both occur)."
    )
    # b: 0.8, 0.6, 0.8; the others: 0.9, 0.5, 0.7, 1.0, 0.1.
    assert found.notes[2] == (
        "Mean Dice of all organs of scans with a sign of their own: 0.733 (3); of other scans: 0.640 (5)."
    )
    assert len(found.notes) == 3


@pytest.mark.parametrize(
    ("scans", "organs", "shown"),
    [(60, 60, (25, 25)), (60, 1, (49, 1)), (3, 60, (3, 47)), (60, 0, (50, 0)), (25, 25, (25, 25))],
)
def test_of_long_tables_the_worst_rows_are_shown(scans, organs, shown):
    given = scores(**{f"c{i}": {"liver": i / 100} for i in range(60)})
    trusts = [
        CaseTrust(f"c{i}", ("s",) if i < scans else (), {"liver": ("x",)} if i < organs else {})
        for i in reversed(range(60))
    ]
    found = section(given, *trusts)
    assert sum(shown) == len(found.table.rows) == MOST_ROWS
    expected = [[f"c{i}", "the scan", "s", f"{i / 100:.3f} mean"] for i in range(shown[0])]
    assert texts(found) == expected + [[f"c{i}", "liver", "x", f"{i / 100:.3f}"] for i in range(shown[1])]
    left_out = scans + organs - MOST_ROWS
    assert any(f"Left out: {left_out} more row" in note for note in found.notes) is (left_out > 0)


@pytest.mark.parametrize(
    ("mode", "metric", "name"),
    [("volume", "dice", "Dice"), ("flare", "dice", "Dice"), ("slices", "slice_dice", "slice Dice")],
)
def test_the_page_has_the_signs_before_the_worst_cases_by_the_mode_s_dice(mode, metric, name):
    given = (OrganScore("set/a", "Mrs Miller", "liver", {metric: 0.25, "flare_dice": 1.0}),)
    trust = CaseTrust("set/a", (), {"liver": ("liver: <b>1 ml</b>",)})
    page = evaluation_page(Evaluation(mode, given, (), trust=(trust,)), "x")
    titles = [section.title for section in page.sections]
    assert titles.index(TITLE) == titles.index("Worst and best cases") - 1
    found = page.sections[titles.index(TITLE)]
    assert found.table.columns[-1] == name
    assert texts(found) == [["set/a", "liver", "<b>1 ml</b>", "0.250"]]
    html = render(Page("x", "x", "x", sections=(found,)))
    assert "&lt;b&gt;1 ml" in html
    assert "Miller" not in html


def test_the_page_of_label_maps_without_statistics_says_how_to_get_them():
    given = (OrganScore("a", "a", "liver", {"dice": 0.5}),)
    found = [one for one in evaluation_page(Evaluation("volume", given, ()), "x").sections if one.title == TITLE]
    assert [(one.text, one.table) for one in found] == [(NOTHING, None)]
    assert all(one.title != TITLE for one in evaluation_page(Evaluation("volume", (), ()), "x").sections)


def test_an_evaluation_has_the_signs_of_its_predictions_and_so_has_its_json(tmp_path):
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 1:4, 1:4] = 1
    for folder in ("truth", "predicted"):
        (tmp_path / folder).mkdir()
        for case in ("a", "b"):
            write(tmp_path / folder / f"{case}.nii.gz", Volume(labels, np.diag([2.0, 2.0, 5.0, 1.0])))
            (tmp_path / folder / f"{case}.json").write_text('{"labels": {"1": "liver"}}')
    facts = {"labels": {"1": "liver"}, "trust": Trust({"liver": (sign("liver: x"),)}, (sign("y"),)).to_json()}
    (tmp_path / "predicted" / "a.json").write_text(json.dumps(facts))
    found = evaluate(tmp_path / "truth", tmp_path / "predicted")
    assert found.trust == (CaseTrust("a", ("y",), {"liver": ("liver: x",)}),)
    assert evaluation_from_json(found.to_json(), where="e.json").trust == found.trust
    assert '"trust"' not in replace(found, trust=()).to_json()
    both = merge_evaluations([found, found], ["one", "two"])
    assert [row.case for row in both.trust] == ["one/a", "two/a"]


@pytest.mark.parametrize("trust", [3, [3], [{"case": "a", "scan": "x", "organs": {}}], [{"case": "a", "scan": []}]])
def test_damaged_signs_of_an_evaluation_are_refused(trust):
    text = json.dumps({"mode": "volume", "cases": [], "summary": [], "trust": trust})
    with pytest.raises(FileError, match=r"e\.json is not an evaluation"):
        evaluation_from_json(text, where="e.json")


def test_a_report_needs_no_torch():
    code = "import sys, viscera.reports.write; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_predicted_dice_is_read_held_against_the_scores_and_stands_in_the_csv(tmp_path):
    path = sidecar(tmp_path, "a")
    facts = json.loads((tmp_path / "a.json").read_text())
    facts["statistics"] = {
        "liver": {"predicted_dice": 0.93},
        "spleen": {"predicted_dice": None},
        "aorta": {"volume_ml": 1.0},
    }
    (tmp_path / "a.json").write_text(json.dumps(facts))
    trust = read_case_trust(path, case="a")
    assert trust is not None
    assert trust.predicted_dice == {"liver": 0.93}
    found = Evaluation("volume", tuple(scores(a={"liver": 0.9, "spleen": 0.8})), (), trust=(trust,))
    assert found.to_csv().splitlines() == [
        "case,patient,organ,dice,predicted_dice",
        "a,Mrs Miller,liver,0.9,0.93",
        "a,Mrs Miller,spleen,0.8,",
    ]
    assert evaluation_from_json(found.to_json(), where="scores.json").trust == (trust,)
    assert "predicted_dice" not in replace(found, trust=()).to_csv()


def test_the_section_says_how_well_dice_was_predicted():
    true = {"liver": 0.9, "spleen": 0.8, "aorta": 0.7, "colon": 0.6, "stomach": 0.5}
    trust = CaseTrust("a", (), {}, {organ: dice - 0.1 for organ, dice in true.items()})
    assert (
        "Predicted Dice of 5 organs: 0.100 from theirs on the average; Pearson correlation 1.00."
        in section(scores(a=true), trust).notes
    )
    fewer = CaseTrust("a", (), {}, {"liver": 0.9})
    assert not any("Predicted" in note for note in section(scores(a=true), fewer).notes)
