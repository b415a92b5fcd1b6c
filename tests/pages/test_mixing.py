"""docs/mixing_data_sets.md: its commands, in order and as they stand there, on smaller patients and for one epoch."""

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from makers import call
from viscera.datasets.annotations import read_annotations
from viscera.preparation.store import open_store

PAGE = Path(__file__).parents[2] / "docs" / "mixing_data_sets.md"
SMALLER = {
    "synth": "--cases 4 --shape 16 32 32 --jobs 1",
    "prepare": "--jobs 1",
    "train": "--training.epochs 1 --training.batch-size 8 --network.widths 4 8 --sampling.window 32 32 "
    "--machine.accelerator cpu --machine.threads 1",
    "pseudolabel": "--device cpu",
    "predict": "--device cpu",
    "evaluate": "--jobs 1",
}
"""What is added to the page's commands: it overrides their sizes, and nothing else."""
UPPER = {"liver", "spleen", "kidney", "pancreas", "stomach"}
LOWER = {"colon", "small_bowel", "rectum", "urinary_bladder", "femoral_head", "spinal_cord", "kidney"}


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of the page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Return the lines that the page tells the user to type."""
    return [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@dataclass(frozen=True)
class Way:
    """Where the page was followed, and what each of its commands said."""

    folder: Path
    outcome: dict[str, tuple[int, str]]


@pytest.fixture(scope="module")
def way(tmp_path_factory) -> Way:
    """Type the page."""
    folder = tmp_path_factory.mktemp("page")
    outcome = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "600")
        for line in commands():
            verb = line.split()[1]
            if line.startswith("viscera "):
                outcome[line] = call(f"{line.removeprefix('viscera ')} {SMALLER[verb]}")
            else:
                done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
                outcome[line] = done.returncode, done.stderr
    return Way(folder, outcome)


def test_the_page_needs_fewer_than_ten_commands():
    verbs = [line.split()[1] for line in commands() if line.startswith("viscera ")]
    assert set(verbs) == set(SMALLER)
    assert len(verbs) < 10


@pytest.mark.slow
def test_every_command_of_the_page_ends_well(way):
    assert {line: outcome for line, outcome in way.outcome.items() if outcome[0]} == {}


@pytest.mark.slow
def test_the_page_ends_with_label_maps_and_scores_of_the_test_patients(way):
    test = [name.removeprefix("upper__") for name in open_store(way.folder / "store").names("test") if "upper" in name]
    assert test
    assert {file.name.partition(".")[0] for file in (way.folder / "predictions").glob("*.nii.gz")} == set(test)
    assert {row["case"] for row in json.loads((way.folder / "scores.json").read_text())["cases"]} == set(test)


@pytest.mark.slow
def test_scores_come_apart_by_what_the_own_data_set_annotates(way):
    rows = json.loads((way.folder / "scores.json").read_text())["cases"]
    by_group = {
        group: {row["organ"] for row in rows if row["group"] == group} for group in ("annotated", "unannotated")
    }
    assert by_group == {"annotated": UPPER, "unannotated": LOWER - UPPER}


@pytest.mark.slow
def test_the_page_s_data_sets_annotate_what_it_says_and_all_organs_together(way):
    store = open_store(way.folder / "store")
    found = {name: set(store.facts(name).annotated) for name in store.names()}
    assert {name: organs for name, organs in found.items() if organs != (UPPER if "upper" in name else LOWER)} == {}
    assert set(store.space.organs) == UPPER | LOWER


@pytest.mark.slow
def test_the_page_quotes_what_prepare_and_pseudolabel_say(way):
    said = "\n".join(text for _, text in way.outcome.values())
    page = PAGE.read_text()
    for words in ("not listed as annotated, so unknown in this case", "accepted", "absent", "rejected"):
        assert words in said
        assert words in page


@pytest.mark.slow
def test_the_page_s_annotated_json_can_be_read(way, tmp_path):
    (example,) = blocks("json")
    (tmp_path / "annotated.json").write_text(example)
    read = read_annotations(tmp_path)
    assert {organ for organs in read.values() for organ in organs} <= UPPER
    assert set(read["case_0007"]) < set(read["*"])
    shutil.copytree(way.folder / "upper", tmp_path / "upper")
    case = next(file.name.partition(".")[0] for file in (tmp_path / "upper" / "labelsTr").iterdir())
    (tmp_path / "upper" / "annotated.json").write_text(example.replace("case_0007", case))
    code, text = call(
        f"prepare {tmp_path / 'new'} --data nnunet={shlex.quote(str(tmp_path / 'upper'))} "
        "--recipe viscera2d-16 --jobs 1"
    )
    assert code == 0, text
    assert set(open_store(tmp_path / "new").facts(f"upper__{case}").annotated) == set(read["case_0007"])


@pytest.mark.slow
def test_every_verb_and_option_in_the_text_exists(way):
    """The sentences between the blocks name commands too."""
    quoted = [" ".join(text.split()) for text in re.findall(r"`(viscera [^`]+)`", PAGE.read_text())]
    assert len(quoted) >= 5
    for text in quoted:
        verb = text.removeprefix("viscera ").split()[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", "200")
            shown = call(f"{verb} --help")[1]
        assert "usage: viscera" in shown
        assert [option for option in re.findall(r"--[a-z.-]+", text) if option not in shown] == []
