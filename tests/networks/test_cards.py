"""Bundled weights: what is written, read and refused, what they segment by default, and what begins with them."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from bundle_weights import Facts, halve, ship
from viscera.cli import info, predict
from viscera.config import ResizedSlices, UNetShape
from viscera.errors import LabelError, SettingError, WeightsError
from viscera.evaluation.scores import Evaluation, Summary
from viscera.inference.model import load_model
from viscera.labels import ABDOMENCT1K, FLARE13
from viscera.learning.finetune import start_from
from viscera.networks.build import build_network
from viscera.networks.cards import (
    Evidence,
    TrainingData,
    TrainingRange,
    as_shipped,
    find_shipped,
    shipped_weights,
    weights_path,
)
from viscera.networks.weights import COUNT, NUMBERS, Weights, load_weights, save_weights, without_context
from viscera.recipes.viscera2d import VISCERA2D

NAN = float("nan")
RECIPE = replace(
    VISCERA2D,
    name="tiny",
    label_space="abdomenct1k",
    preparation=ResizedSlices(size=(16, 16)),
    network=UNetShape(widths=(2, 4), slices=3),
    sampling=replace(VISCERA2D.sampling, window=None),
)
FACTS = Facts(
    title="four organs",
    version="7",
    commit="abc1234",
    date="2026-11-21",
    training_data=(TrainingData("synthetic", "10 patients", "none needed"),),
    evidence=(Evidence("real scans", "two patients", True), Evidence("phantoms", "ten patients", False)),
    shipped=("liver", "spleen"),
    known_failures=("Low kidneys are taken for bowel.",),
    training_range=TrainingRange((1.0, 8.0), (-1024.0, 3071.0), "abdomen"),
    seeds=(0, 3),
)


def evaluation(**dice: float) -> Evaluation:
    """An evaluation of 2 cases, whose intervals reach 0.1 to either side."""
    rows = [Summary(organ, "dice", value, value - 0.1, value + 0.1, 2) for organ, value in dice.items()]
    return Evaluation("volume", (), (*rows, Summary("liver", "hd95_mm", 4.0, 3.0, 5.0, 2)))


FOUND = {"real scans": evaluation(liver=0.93, spleen=0.85), "phantoms": evaluation(kidney=0.7, pancreas=NAN)}


def write_run(folder: Path, recipe=RECIPE) -> Path:
    """Write the random weights of a run."""
    torch.manual_seed(0)
    network = build_network(recipe.network, classes=len(recipe.space.classes))
    save_weights(folder / "best.safetensors", Weights(recipe, recipe.space, network.state_dict(), {"epoch": 1}))
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def folder(tmp_path, run) -> Path:
    """A folder as src/viscera/weights."""
    ship(run, tmp_path / "weights", facts=FACTS, evaluations=FOUND)
    return tmp_path / "weights"


@pytest.fixture
def as_before():
    """Leave threads and garbage collector as they were."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    gc.unfreeze()


def edit_card(folder: Path, **changes: object) -> None:
    file = folder / "starter.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def write_scan(path: Path) -> Path:
    hu = np.random.default_rng(0).choice([-1000, -80, 0, 100, 300], (16, 16, 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-0.7, -0.8, 2.5, 1])), path)
    return path


def test_kernels_are_halved_and_all_else_is_kept_to_the_bit(run, folder):
    before = load_weights(run / "best.safetensors").tensors
    shipped = load_weights(folder / "starter.safetensors").tensors
    after = without_context(shipped)
    assert torch.equal(shipped[NUMBERS], torch.arange(COUNT))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if tensor.ndim > 1:
            assert after[name].dtype == torch.float16
            assert torch.equal(after[name], tensor.half())
        else:
            assert after[name].dtype == tensor.dtype
            assert torch.equal(after[name], tensor)


def test_a_loaded_network_computes_in_single_precision(run, folder):
    model = load_model(find_shipped(folder=folder), accelerator="cpu")
    tensors = load_weights(run / "best.safetensors").tensors
    for name, tensor in model.module.state_dict().items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name].half().float() if tensors[name].ndim > 1 else tensors[name])


def test_shipping_twice_gives_the_same_file(run, folder, tmp_path):
    again = ship(run, tmp_path / "again", facts=replace(FACTS, shipped=()), evaluations=FOUND)
    assert again.card.sha256 == find_shipped(folder=folder).card.sha256


def test_the_card_holds_standing_and_figures_with_their_intervals(folder):
    (card,) = shipped_weights(folder)
    assert (card.name, card.recipe, card.seeds, card.commit) == ("starter", "tiny", (0, 3), "abc1234")
    assert "not a medical device" in card.notice
    assert tuple(card.organs) == ABDOMENCT1K.organs
    assert card.of_standing("shipped") == ("liver", "spleen")
    assert card.of_standing("experimental") == ("kidney", "pancreas")
    (liver,) = card.organs["liver"].figures
    assert (liver.on, liver.measure, liver.mean, liver.low, liver.high, liver.cases) == (
        "real scans", "dice", 0.93, 0.83, 1.03, 2,
    )  # fmt: skip
    assert [figure.on for figure in card.organs["kidney"].figures] == ["phantoms"]
    assert card.organs["pancreas"].figures == ()


def test_seeds_that_are_not_said_are_the_recipes(run, tmp_path):
    made = ship(run, tmp_path, facts=replace(FACTS, seeds=()), evaluations=FOUND)
    assert made.card.seeds == (RECIPE.training.seed,)


@pytest.mark.parametrize(
    ("facts", "evaluations", "error", "message"),
    [
        (
            replace(FACTS, shipped=("kidney",)),
            FOUND,
            SettingError,
            "'kidney' is to be shipped.*no evidence on real scans",
        ),
        (replace(FACTS, shipped=("livr",)), FOUND, LabelError, "no 'livr'. Did you mean 'liver'"),
        (FACTS, {"real scans": FOUND["real scans"]}, SettingError, "Give one evaluation for each"),
    ],
)
def test_what_has_no_evidence_is_not_shipped(run, tmp_path, facts, evaluations, error, message):
    with pytest.raises(error, match=message):
        ship(run, tmp_path / "weights", facts=facts, evaluations=evaluations)
    assert not (tmp_path / "weights").exists()


def test_a_network_of_more_than_8_mib_is_not_shipped(tmp_path):
    wide = write_run(tmp_path / "run", replace(RECIPE, network=UNetShape(widths=(256, 512), slices=3)))
    with pytest.raises(WeightsError, match=r"MiB in half precision, .* may have 8. Ship a narrower network"):
        ship(wide, tmp_path / "weights", facts=FACTS, evaluations=FOUND)


def test_a_number_that_half_precision_cannot_hold_is_refused():
    assert halve(torch.full((1, 1), 65504.0), "head.weight").item() == 65504
    with pytest.raises(WeightsError, match=r"head.weight holds 70000, and half precision ends at 65504"):
        halve(torch.full((1, 1), 7e4), "head.weight")


def test_weights_are_found_by_name_and_by_file_but_a_users_own_go_first(folder, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = folder / "starter.safetensors"
    assert weights_path(Path("starter"), folder) == ours
    shipped = as_shipped(ours, folder)
    assert shipped is not None
    assert shipped.card.name == "starter"
    assert as_shipped(run, folder) is as_shipped(Path("rum"), folder) is None
    run.rename("starter")
    assert weights_path(Path("starter"), folder) == Path("starter")


def test_an_installation_without_weights_says_which_to_give(tmp_path):
    assert shipped_weights(tmp_path) == []
    for find in (lambda: find_shipped(folder=tmp_path), lambda: as_shipped(Path("starter"), tmp_path)):
        with pytest.raises(WeightsError, match=r"no weights come with this viscera .*Give your own: --weights RUN"):
            find()


def test_a_misspelt_name_gets_the_nearest(folder):
    with pytest.raises(WeightsError, match="no weights 'startr' come with viscera. Did you mean 'starter'"):
        find_shipped("startr", folder)


def changed_file(folder: Path) -> None:
    file = folder / "starter.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed_file, r"starter.safetensors is not the file that its card describes \(SHA-256 [0-9a-f]{12}"),
        (lambda folder: (folder / "starter.safetensors").unlink(), "starter.safetensors is missing, though its card"),
        (lambda folder: edit_card(folder, format=2), "format 2 is later than 1.*Update viscera"),
        (lambda folder: edit_card(folder, seeds="no number"), "starter.json is damaged: seeds"),
        (lambda folder: edit_card(folder, colour="red"), "starter.json is damaged: colour"),
        (lambda folder: (folder / "starter.json").write_text("{"), "starter.json is damaged"),
        (lambda folder: (folder / "starter.json").write_text("[]"), "starter.json is damaged"),
    ],
)
def test_what_is_not_as_it_came_is_refused_with_the_way_out(folder, spoil, message):
    spoil(folder)
    with pytest.raises(WeightsError, match=message) as error:
        find_shipped(folder=folder)
    assert "--weights RUN" in str(error.value)


def test_a_card_of_other_organs_is_refused(folder):
    organs = json.loads((folder / "starter.json").read_text())["organs"]
    edit_card(folder, organs={organ: organs[organ] for organ in reversed(organs)})
    with pytest.raises(WeightsError, match=r"knows liver, kidney, .* card is of pancreas, spleen.*--weights RUN"):
        load_model(find_shipped(folder=folder), accelerator="cpu")


def said(folder: Path, *words: str) -> int:
    return predict.main([*words, "--jobs", "1", "--runtime", "torch", "--device", "cpu"], folder)


@pytest.mark.usefixtures("as_before")
def test_a_scan_gets_the_organs_with_evidence_unless_others_are_asked_for(folder, tmp_path, capsys):
    scan, out = str(write_scan(tmp_path / "scan.nii.gz")), tmp_path / "o.nii.gz"
    assert said(folder, scan, str(out)) == 0
    line = "weights: starter 7 (comes with viscera; 2 organs, 2 more with --organs all; not a medical device; "
    assert line + "viscera info weights)" in capsys.readouterr().err
    facts = json.loads((tmp_path / "o.json").read_text())
    assert facts["labels"] == {"1": "liver", "3": "spleen"}
    assert facts["standing"] == {"liver": "shipped", "spleen": "shipped"}
    assert (facts["run"]["weights"], facts["run"]["weights_version"]) == ("starter", "7")
    assert set(np.unique(np.asarray(nibabel.load(out).dataobj))) <= {0, 1, 3}
    before = out.stat().st_mtime_ns
    assert said(folder, scan, str(out)) == 0  # was done
    assert out.stat().st_mtime_ns == before
    assert said(folder, scan, str(tmp_path / "all.nii.gz"), "--organs", "all") == 0
    standing = json.loads((tmp_path / "all.json").read_text())["standing"]
    assert standing == dict.fromkeys(("liver", "spleen"), "shipped") | dict.fromkeys(
        ("kidney", "pancreas"), "experimental"
    )
    assert said(folder, scan, str(tmp_path / "one.nii.gz"), "--organs", "kidney") == 0
    assert json.loads((tmp_path / "one.json").read_text())["standing"] == {"kidney": "experimental"}
    with pytest.raises(SettingError, match="--organs all liver: 'all' leaves none to be named"):
        said(folder, scan, str(tmp_path / "no.nii.gz"), "--organs", "all", "liver")


@pytest.mark.usefixtures("as_before")
def test_a_folder_of_scans_is_segmented_and_then_skipped(folder, tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        write_scan(tmp_path / "in" / f"{name}.nii.gz")
    words = (str(tmp_path / "in"), str(tmp_path / "out"))
    assert said(folder, *words) == 0
    stamps = [(tmp_path / "out" / f"{name}.nii.gz").stat().st_mtime_ns for name in "ab"]
    assert said(folder, *words, "--weights", "starter") == 0  # the same weights, by their name
    assert [(tmp_path / "out" / f"{name}.nii.gz").stat().st_mtime_ns for name in "ab"] == stamps


@pytest.mark.usefixtures("as_before")
def test_a_users_own_weights_have_no_standing_and_give_all_organs(folder, run, tmp_path, capsys):
    scan = str(write_scan(tmp_path / "scan.nii.gz"))
    assert said(folder, scan, str(tmp_path / "o.nii.gz"), "--weights", str(run)) == 0
    assert "comes with viscera" not in capsys.readouterr().err
    facts = json.loads((tmp_path / "o.json").read_text())
    assert len(facts["labels"]) == 4
    assert "standing" not in facts
    assert facts["run"]["weights"] is None


@pytest.mark.usefixtures("as_before")
def test_predict_without_any_weights_says_which_to_give(tmp_path):
    scan = str(write_scan(tmp_path / "scan.nii.gz"))
    with pytest.raises(WeightsError, match="Give your own: --weights RUN"):
        said(tmp_path / "none", scan, str(tmp_path / "o.nii.gz"))


def test_the_card_is_shown_to_people_and_to_programs(folder, tmp_path, capsys):
    assert info.main(["weights"], folder) == 0
    shown = capsys.readouterr().out
    for part in (
        "starter 7: four organs", "liver     dice 0.930 (0.830 to 1.030) on real scans, n = 2", "experimental (--organs all)",
        "kidney    dice 0.700", "two patients (real)", "ten patients (synthetic)", "10 patients [none needed]",
        "- Low kidneys are taken for bowel.", "slices 1 to 8 mm apart", "not a medical device",
    ):  # fmt: skip
        assert " ".join(part.split()) in " ".join(shown.split())
    assert info.main(["weights", "--json"], folder) == 0
    (card,) = json.loads(capsys.readouterr().out)["weights"].values()
    assert card["organs"]["liver"]["standing"] == "shipped"
    assert info.main(["weights"], tmp_path / "none") == 0
    assert "none" in capsys.readouterr().out
    assert info.main([], tmp_path / "none") == 0


def test_an_overview_names_a_card_that_is_damaged(tmp_path):
    (tmp_path / "starter.json").write_text('{"name": "starter"}')
    with pytest.raises(WeightsError, match="starter.json is damaged"):
        info.main([], tmp_path)


def test_shared_organs_keep_their_head_by_name_and_the_trunk_is_kept(folder):
    file = weights_path(Path("starter"), folder)
    other = replace(RECIPE, label_space="flare13", postprocessing=RECIPE.postprocessing)
    torch.manual_seed(1)
    network = build_network(other.network, classes=len(FLARE13.classes))
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    start_from(network, other, file)
    old = {name: tensor.float() for name, tensor in without_context(load_weights(file).tensors).items()}
    new = network.state_dict()
    shared = {"background", "liver", "spleen", "pancreas"}
    for row, organ in enumerate(FLARE13.classes):
        for name in ("head.weight", "head.bias"):
            expected = old[name][ABDOMENCT1K.classes.index(organ)] if organ in shared else fresh[name][row]
            assert torch.equal(new[name][row], expected), organ
    for name in new.keys() - {"head.weight", "head.bias"}:
        assert torch.equal(new[name].float(), old[name]), name
        assert new[name].dtype == fresh[name].dtype


def test_weights_of_another_network_are_no_start(folder):
    wider = replace(RECIPE, network=UNetShape(widths=(4, 8), slices=3))
    network = build_network(wider.network, classes=5)
    with pytest.raises(
        WeightsError, match=r"widths 2, 4, the recipe for .*widths 4, 8. Begin with weights of the same"
    ):
        start_from(network, wider, weights_path(Path("starter"), folder))


def test_the_script_makes_both_files_of_a_run(run, tmp_path, capsys):
    from benchmarks.archive import ship_starter

    (tmp_path / "scores.json").write_text(evaluation(liver=0.93).to_json())
    facts = {
        "title": "four organs", "version": "1", "training_data": [], "shipped": ["liver"], "known_failures": [],
        "evidence": [{"name": "real", "what": "two patients", "real": True, "scores": "scores.json"}],
        "training_range": {"slice_spacing_mm": [1, 8], "intensity_hu": [-1024, 3071], "scan_range": "abdomen"},
    }  # fmt: skip
    file = tmp_path / "facts.json"
    file.write_text(json.dumps(facts))
    made = ship_starter.main([str(run), "--figures", str(file), "--out", str(tmp_path / "out")])
    assert made.card.of_standing("shipped") == ("liver",)
    assert "default organs: liver; experimental: kidney, spleen, pancreas" in capsys.readouterr().out
    file.write_text(json.dumps({name: value for name, value in facts.items() if name != "title"}))
    with pytest.raises(SettingError, match=r"facts.json: title: Field required"):
        ship_starter.read_facts(file)
