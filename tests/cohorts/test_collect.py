"""viscera collect: every scan is in the table, none is read twice, nothing is replaced unasked, and no patient is named."""

import csv
import json
import os
import statistics
from pathlib import Path

import pytest

from cohort_results import ORGANS, facts_of, sign, write_result, write_results
from makers import call
from viscera.cohorts.columns import COLUMNS
from viscera.cohorts.index import index_file
from viscera.cohorts.outliers import robust_z
from viscera.errors import FileError
from viscera.inference.failures import failure_file, forget_failure, note_failure


@pytest.fixture(autouse=True)
def wide(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.chdir(tmp_path)


def rows_of(table: str) -> list[dict]:
    with Path(table).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_per_scan_and_organ_has_what_the_json_says():
    facts = facts_of("a")
    facts["trust"]["organs"]["liver"] = [sign("volume"), sign("border")]
    facts["doubts"] = [sign("chest")]
    facts["statistics"]["spleen"] |= {"volume_ml": 0, "mean_hu": None, "sd_hu": None, "predicted_dice": None}
    write_result(Path("out"), "a", facts)
    code, said = call("collect out --out cohort.csv")
    assert code == 0
    assert "1 scan found: 1 read, 0 that predict could not segment, 0 damaged" in said
    rows = {row["organ"]: row for row in rows_of("cohort.csv")}
    assert set(rows) == set(ORGANS)
    liver, spleen = rows["liver"], rows["spleen"]
    assert [column.name for column in COLUMNS] == list(liver)
    assert float(liver["volume_ml"]) == facts["statistics"]["liver"]["volume_ml"]
    assert (liver["flags"], liver["flag_kinds"], liver["scan_flag_kinds"]) == ("2", "volume;border", "chest")
    assert (spleen["volume_ml"], spleen["mean_hu"], spleen["predicted_dice"]) == ("0.0", "", "")
    assert (spleen["flags"], spleen["flag_kinds"]) == ("0", "")
    assert liver["segmented_at"] == "2026-11-27T16:29:20Z"  # 17:29:20 an hour east of Greenwich
    assert liver["seconds"] == "1.75"
    assert [liver[f"voxels_{axis}"] for axis in "xyz"] == ["512", "500", "120"]
    assert [liver[f"spacing_{axis}_mm"] for axis in "xyz"] == ["0.8", "0.7", "2.5"]
    assert (liver["source"], liver["case"], liver["label_map_exists"]) == ("out", "a", "true")


def test_without_statistics_measurements_are_empty_and_flags_are_not_known():
    write_result(Path("out"), "a", facts_of("a", statistics=False))
    assert call("collect out --out cohort.csv")[0] == 0
    row = rows_of("cohort.csv")[0]
    assert (row["volume_ml"], row["flags"], row["scan_flags"]) == ("", "", "0")


def test_no_scan_vanishes():
    write_results(Path("out"), 3)
    Path("out/case_00001.nii.gz").unlink()
    Path("out/case_00002.json").write_text('{"labels": {')
    wrong = facts_of("typed")
    wrong["statistics"]["liver"]["volume_ml"] = "large"
    write_result(Path("out"), "typed", wrong)
    Path("out/scores.json").write_text('{"cases": []}')
    Path("out/lonely.nii.gz").touch()
    note_failure(
        Path("out/bad.nii.gz"), "bad_0000.nii.gz", FileError("/home/Mrs Miller/bad.nii.gz is cut off", "Copy it.")
    )
    note_failure(Path("out/case_00000.nii.gz"), "case_00000_0000.nii.gz", FileError("was made with other weights"))
    code, said = call("collect out --out cohort.csv")
    assert code == 2
    assert (
        "5 scans found: 2 read (1 of them failed in a later attempt), 1 that predict could not segment, 2 damaged"
        in said
    )
    assert "1 JSON file that predict did not write" in said
    assert "1 NIfTI file without a NAME.json" in said
    assert "case_00002.json" in said
    assert "volume_ml is 'large', which is not a number" in said
    rows = rows_of("cohort.csv")
    status = {row["case"]: row["status"] for row in rows}
    assert status == {
        "bad": "failed", "case_00000": "read", "case_00001": "read", "case_00002": "damaged", "typed": "damaged",
    }  # fmt: skip
    bad = next(row for row in rows if row["case"] == "bad")
    assert (bad["organ"], bad["problem_kind"], bad["problem"]) == ("", "FileError", "bad.nii.gz is cut off")
    assert {row["failed_later"] for row in rows if row["case"] == "case_00000"} == {"true"}
    assert {row["label_map_exists"] for row in rows if row["case"] == "case_00001"} == {"false"}


def test_a_second_run_reads_what_is_new_or_changed_only():
    out = write_results(Path("out"), 6)
    assert "6 files read this time" in call("collect out --out cohort.csv")[1]
    before = Path("cohort.csv").read_bytes(), Path("cohort.csv").stat().st_mtime_ns
    code, said = call("collect out --out cohort.csv")
    assert (code, "nothing is new" in said, "0 files read this time" in said) == (0, True, True)
    assert (Path("cohort.csv").read_bytes(), Path("cohort.csv").stat().st_mtime_ns) == before
    write_result(out, "case_00000", facts_of("case_00000", seed=99))
    write_result(out, "new", facts_of("new", seed=7))
    code, said = call("collect out --out cohort.csv")
    assert code == 2
    assert "cohort.csv exists already, and 2 results are new or changed" in said
    code, said = call("collect out --out cohort.csv --overwrite")
    assert (code, "2 files read this time" in said) == (0, True)
    anew = call("collect out --out anew.csv")
    assert anew[0] == 0
    assert Path("anew.csv").read_bytes() == Path("cohort.csv").read_bytes()


def test_an_interrupted_run_goes_on_and_a_damaged_line_counts_for_nothing():
    write_results(Path("out"), 4)
    call("collect out --out cohort.csv")
    index, table = index_file(Path("cohort.csv")), Path("cohort.csv").read_bytes()
    lines = index.read_text().splitlines()
    index.write_text("\n".join(lines[1:4]) + "\n" + lines[4][:100])  # killed: no last word, half a line
    Path("cohort.csv").unlink()
    code, said = call("collect out --out cohort.csv")
    assert (code, "1 file read this time" in said) == (0, True)
    assert Path("cohort.csv").read_bytes() == table
    index.write_text(index.read_text().replace("1.75", '"much"'))  # values of another type are read anew
    Path("cohort.csv").unlink()
    assert "4 files read this time" in call("collect out --out cohort.csv")[1]
    assert Path("cohort.csv").read_bytes() == table


def test_a_file_with_another_time_and_the_same_contents_is_not_parsed(monkeypatch):
    out = write_results(Path("out"), 1)
    call("collect out --out cohort.csv")
    os.utime(out / "case_00000.json", ns=(1, 1))
    monkeypatch.setattr("viscera.cohorts.collect.read_found", None)
    assert call("collect out --out cohort.csv --overwrite")[0] == 0


def test_a_page_may_follow_a_table_without_overwriting_it():
    write_results(Path("out"), 2)
    call("collect out --out cohort.csv")
    assert call("collect out --out cohort.csv --html cohort.html")[0] == 0
    assert Path("cohort.html").exists()
    Path("cohort.html").write_text("mine")
    code, said = call("collect out --out cohort.csv --html cohort.html")
    assert (code, "cohort.html exists already" in said) == (2, True)
    assert Path("cohort.html").read_text() == "mine"


def test_several_folders_are_told_by_their_names_and_one_name_for_two_is_refused():
    write_results(Path("a/out"), 1)
    write_results(Path("b/out"), 2)
    code, said = call("collect a/out b/out --out cohort.csv")
    assert (code, "two folders are called 'out'" in said) == (2, True)
    code, said = call("collect first=a/out second=b/out --out cohort.jsonl")
    assert (code, "3 scans found" in said, "1 scan more than once" in said) == (0, True, True)
    rows = [json.loads(line) for line in Path("cohort.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == ["first"] * 5 + ["second"] * 10
    assert {type(row["volume_ml"]) for row in rows} == {float}
    assert {row["label_map_exists"] for row in rows} == {True}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("collect out", "nothing is to be written"),
        ("collect --out cohort.csv", "no folder of results"),
        ("collect nowhere --out cohort.csv", "nowhere: no such folder"),
        ("collect empty --out cohort.csv", "holds no JSON file"),
        ("collect out --out cohort.xlsx", "does not end in .parquet, .csv, .jsonl"),
        ("collect out --html cohort.csv", "does not end in .html"),
        ("collect out --out out/a.jsonl --html out/a.jsonl", "does not end in .html"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(command, message):
    write_results(Path("out"), 1)
    Path("empty").mkdir()
    before = sorted(Path().rglob("*"))
    code, said = call(command)
    assert (code, message in said) == (2, True), said
    assert sorted(Path().rglob("*")) == before


def test_neither_table_nor_page_nor_index_names_folders_or_header_texts():
    out = write_results(Path("Mrs Miller/born 1950/out"), 2)
    note_failure(out / "bad.nii.gz", "bad.nii.gz", FileError(f"{out.resolve()}/bad.nii.gz: no such file"))
    assert call("collect 'Mrs Miller/born 1950/out' --out cohort.csv --html cohort.html")[0] == 0
    for file in ("cohort.csv", "cohort.html", index_file(Path("cohort.csv"))):
        text = Path(file).read_text()
        assert "Miller" not in text, file
        assert "born" not in text, file


def test_parquet_has_types_and_the_numbers_of_the_csv():
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    write_results(Path("out"), 12)
    note_failure(Path("out/bad.nii.gz"), "bad.nii.gz", FileError("it is cut off"))
    assert call("collect out --out cohort.csv")[0] == 0
    assert call("collect out --out cohort.parquet")[0] == 0
    table = pq.read_table("cohort.parquet")
    assert table.schema.field("volume_ml").type == pa.float64()
    assert table.schema.field("segmented_at").type == pa.timestamp("ms", tz="UTC")
    assert table.schema.field("touches_border").type == pa.bool_()
    assert table.schema.metadata[b"viscera_scans_found"] == b"13"
    read, plain = table.to_pylist(), rows_of("cohort.csv")
    assert len(read) == len(plain) == 61
    for one, other in zip(read, plain, strict=True):
        assert one["organ"] == (other["organ"] or None)
        assert one["volume_robust_z"] == (float(other["volume_robust_z"]) if other["volume_robust_z"] else None)


def test_parquet_without_pyarrow_is_refused_with_a_way_out(monkeypatch):
    write_results(Path("out"), 1)
    monkeypatch.setattr("viscera.cohorts.tables.is_installed", lambda name: False)
    code, said = call("collect out --out cohort.parquet")
    assert (code, "pip install 'viscera[cohort]'" in said) == (2, True)


@pytest.mark.parametrize("reader", ["pandas", "duckdb"])
def test_other_programs_read_the_table(reader):
    library = pytest.importorskip(reader, reason=f"{reader} is not installed")
    write_results(Path("out"), 9)
    assert call("collect out --out cohort.csv")[0] == 0
    expected = statistics.median(float(row["volume_ml"]) for row in rows_of("cohort.csv") if row["organ"] == "liver")
    if reader == "pandas":
        table = library.read_csv("cohort.csv")
        found = table[table.organ == "liver"].volume_ml.median()
        assert table.label_map_exists.dtype == bool
    else:
        found = library.sql(
            "SELECT median(volume_ml) FROM 'cohort.csv' WHERE organ = 'liver' AND label_map_exists"
        ).fetchall()[0][0]
    assert found == pytest.approx(expected)


def test_robust_z_is_the_distance_from_the_median_in_deviations():
    # median 5, distances 4 3 2 1 0 1 2 3 4 -> their median 2; 0.6745 * (9 - 5) / 2
    assert robust_z([1, 2, 3, 4, 5, 6, 7, 8, 9])[-1] == pytest.approx(1.349)
    assert robust_z([1.0] * 7) == [None] * 7  # too few
    assert robust_z([1.0] * 9 + [2.0]) == [None] * 10  # no spread


def test_organs_that_are_cut_off_or_absent_have_no_z_and_do_not_move_the_median():
    for number in range(12):
        facts = facts_of("x", seed=number)
        facts["statistics"]["liver"] |= {"volume_ml": 100.0 + number, "touches_border": number > 9}
        facts["statistics"]["spleen"]["volume_ml"] = 0 if number > 9 else 50.0 + number
        write_result(Path("out"), f"c{number:02d}", facts)
    call("collect out --out cohort.csv")
    for organ in ("liver", "spleen"):
        far = [row["volume_robust_z"] for row in rows_of("cohort.csv") if row["organ"] == organ]
        assert far[10:] == ["", ""]
        assert [float(one) for one in far[:10]] == pytest.approx(robust_z(range(10)))


def test_a_failure_is_noted_and_goes_away_and_no_file_of_others_is_touched():
    output = Path("out/a.nii.gz")
    note_failure(output, "a_0000.nii.gz", FileError("it is cut off"))
    assert failure_file(output).exists()
    forget_failure(output)
    assert not failure_file(output).exists()
    failure_file(output).write_text('{"mine": 1}')
    note_failure(output, "a_0000.nii.gz", FileError("it is cut off"))
    forget_failure(output)
    assert failure_file(output).read_text() == '{"mine": 1}'


def test_the_documentation_has_every_column():
    text = (Path(__file__).parents[2] / "docs" / "cohorts.md").read_text(encoding="utf-8")
    rows = [f"| `{column.name}` | {column.kind} | {column.meaning} |" for column in COLUMNS]
    assert all(column.meaning for column in COLUMNS)
    assert "\n".join(rows) in text
