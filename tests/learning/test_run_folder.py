"""What a run writes beside its weights."""

import csv
import importlib.util
import json

import pytest

from viscera.errors import SettingError
from viscera.learning.run_folder import open_log, read_rows, write_row
from viscera.recipes.zhang2d import ZHANG2D


def row(epoch: int, loss: float) -> dict:
    return {"epoch": epoch, "train_loss": loss, "val_loss": None, "val_dice": {"liver": loss / 10, "spleen": None}}


def test_rows_are_added_and_an_epoch_that_is_done_once_more_replaces_its_own(tmp_path):
    for epoch, loss in ((1, 3.0), (2, 2.0), (3, 1.0), (2, 2.5)):
        write_row(tmp_path, row(epoch, loss))
    assert [(r["epoch"], r["train_loss"]) for r in read_rows(tmp_path)] == [(1, 3.0), (2, 2.5)]
    with (tmp_path / "log.csv").open() as file:
        table = list(csv.DictReader(file))
    assert table[1] == {
        "epoch": "2",
        "train_loss": "2.5",
        "val_loss": "",
        "val_dice/liver": "0.25",
        "val_dice/spleen": "",
    }


def test_a_log_whose_package_is_missing_says_what_to_install(tmp_path):
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises(SettingError, match=r"wandb is not installed. Run: pip install 'viscera\[wandb\]'"):
        open_log("wandb", tmp_path, ZHANG2D)


@pytest.mark.filterwarnings("ignore")  # tensorboard's own
def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = open_log("tensorboard", tmp_path, ZHANG2D)
    log(row(1, 3.0))
    log(row(2, 2.0))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(1, 3.0), (2, 2.0)]
    assert [e.value for e in events.Scalars("val_dice/liver")] == pytest.approx([0.3, 0.2])


def test_rows_are_json_without_nan(tmp_path):
    write_row(tmp_path, row(1, 1.0))
    assert json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)["val_dice"]["spleen"] is None
