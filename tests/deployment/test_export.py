"""Exports: what is written agrees with torch or is not written; model.json suffices for a program without viscera."""

import ast
import hashlib
import importlib
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from viscera.cli.command import main
from viscera.colours import colour
from viscera.config import Contrast, Recipe, ResizedSlices, SpacedSlices, UNetShape, Window
from viscera.deployment.description import describe
from viscera.deployment.export import FILES, Yardstick, export, measure
from viscera.errors import FileError, RunError, SettingError, StoreError, WeightsError
from viscera.inference.model import Model, load_model
from viscera.inference.prepared import prepared_labels
from viscera.inference.segment import segment
from viscera.io import nifti
from viscera.io.atomic import sha256
from viscera.labels import ABDOMENCT1K
from viscera.networks.build import build_network
from viscera.networks.doors import openvino_module
from viscera.networks.onnx import to_onnx
from viscera.networks.runners import PACKAGES, OnnxRunner, OpenVinoRunner
from viscera.networks.torch_runner import TorchRunner
from viscera.networks.weights import Weights, save_weights
from viscera.preparation.case import prepare_image
from viscera.preparation.store import open_store
from viscera.volume import Turn, Volume, turn_volume

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPE = Recipe(
    name="tiny",
    label_space="abdomenct1k",
    preparation=ResizedSlices(size=(16, 16)),
    intensity=Window(-400, 400),
    network=UNetShape(widths=(8, 16)),
)


@pytest.fixture(scope="module")
def model(small_store) -> Model:
    """Return a network that has learnt to tell liver and spleen of the small store apart."""
    torch.manual_seed(0)
    network = build_network(RECIPE.network, classes=len(ABDOMENCT1K.classes))
    store = open_store(small_store)
    cases = [store.case(name) for name in store.names("training") if name.startswith("a")]
    images = torch.cat([(torch.from_numpy(case.image.copy()).clip(-400, 400) + 400)[:, None] / 800 for case in cases])
    labels = torch.cat([torch.from_numpy(case.truth.copy()).long() for case in cases])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return Model(TorchRunner(network.eval()), RECIPE, ABDOMENCT1K, "cpu", "hash")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory) -> Path:
    """Return its weights' folder."""
    folder = tmp_path_factory.mktemp("run")
    weights = Weights(model.recipe, model.space, model.module.state_dict(), {"epoch": 1})
    save_weights(folder / "best.safetensors", weights)
    return folder


def require(*kinds: str) -> None:
    for kind in kinds:
        for package in PACKAGES[kind]:
            pytest.importorskip(package)


@pytest.mark.parametrize("kind", FILES)
def test_an_export_runs_agrees_and_says_what_it_is(kind, model, small_store, tmp_path):
    require(kind)
    out = tmp_path / "out"
    found = export(model, out, kind=kind, yardstick=Yardstick(open_store(small_store), "training"))
    assert found.dice_torch["liver"] > 0.9  # something was learnt, so that agreement means something
    assert all(abs(points) <= 0.5 for points in found.dice_difference_points.values())
    assert {file.name for file in out.iterdir()} == {*FILES[kind], "model.json"}
    facts = json.loads((out / "model.json").read_text())
    assert facts["files"] == {name: sha256(out / name) for name in FILES[kind]}
    assert facts["agreement"]["dice_difference_points"] == found.dice_difference_points
    assert facts["agreement"]["runtime"]["name"] == kind
    assert "Not a medical device" in facts["notice"]
    assert facts["weights_sha256"] == "hash"
    assert facts["labels"]["1"] == {"organ": "liver", "colour": list(colour("liver"))}
    assert len(facts["labels"]) == 5
    assert facts["input"]["shape"] == [None, 1, 16, 16]
    assert (facts["preparation"]["kind"], facts["intensity"]["low_hu"]) == ("resized", -400)
    runner = OnnxRunner(out / "network.onnx", (2, 2)) if kind == "onnx" else OpenVinoRunner(out / "network.xml", (2, 2))
    image = np.random.default_rng(0).random((3, 1, 16, 16), np.float32)
    if kind == "onnx":
        labels = runner.session.run(["labels"], {"image": image})[0]
    else:  # the file has them for other programs; viscera's runner leaves them out
        openvino = openvino_module()
        labels = openvino.Core().compile_model(out / "network.xml", "CPU")([image])["labels"]
        assert len(runner.compiled.outputs) == 1
    for found in (labels, runner(image).argmax(1)):
        assert (found == model.network(image).argmax(1)).mean() > 0.98


def test_the_dice_of_both_are_pooled_over_the_cases_that_annotate_an_organ(model, small_store):
    require("onnx")
    store = open_store(small_store)
    worse = build_network(RECIPE.network, classes=5).eval()
    worse.load_state_dict(model.module.state_dict())
    with torch.no_grad():
        worse.head.bias[1] -= 8  # less liver
    written = replace(model, network=OnnxRunner(to_onnx(worse, channels=1, labels=True), (2, 2)))
    found = measure(model, written, yardstick=Yardstick(store, "training"))
    cases = [store.case(name) for name in store.names("training")]
    other = replace(model, network=TorchRunner(worse))
    for organ, index in (("liver", 1), ("spleen", 3)):
        dice = []
        for one in (model, other):
            both = sizes = 0
            for case in (case for case in cases if organ in case.annotated):
                labels = prepared_labels(case.image, one)
                if len(case.annotated) == 1:
                    labels = np.where(labels == index, index, 0)
                both += ((labels == index) & (case.truth == index)).sum()
                sizes += (labels == index).sum() + (case.truth == index).sum()
            dice.append(2 * both / sizes)
        assert found.dice_torch[organ] == pytest.approx(dice[0], abs=1e-5)
        assert found.dice_difference_points[organ] == pytest.approx(100 * (dice[1] - dice[0]), abs=1e-3)
    assert found.dice_difference_points["liver"] < -0.5
    assert set(found.dice_torch) == {"liver", "spleen"}  # kidney and pancreas are annotated, but shown by none
    labels = [np.stack([prepared_labels(case.image, one) for case in cases]) for one in (model, other)]
    assert found.differing_fraction == pytest.approx((labels[0] != labels[1]).mean())


def test_beyond_the_bound_nothing_is_written(model, small_store, tmp_path):
    require("onnx")
    unmeetable = Yardstick(open_store(small_store), "training", dice_points=-1)
    with pytest.raises(
        RunError, match=r"nothing is exported: on 4 training cases .* the Dice of \w+ differs by .* allowed are -1"
    ):
        export(model, tmp_path / "out", yardstick=unmeetable)
    assert list(tmp_path.iterdir()) == []


class Unknown(nn.Module):
    """A network with something that ONNX does not have."""

    stride, dimensions = 2, 2

    def forward(self, image):
        return torch.special.i1e(image)


def test_a_network_that_the_format_cannot_hold_leaves_nothing(model, tmp_path):
    require("onnx")
    with pytest.raises(SettingError, match="--format onnx cannot hold 'tiny': .*i1e.* is not supported"):
        export(replace(model, network=TorchRunner(Unknown())), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(importlib.import_module("sys").modules, "onnxruntime", None)
    with pytest.raises(SettingError, match=r"onnxruntime not installed. Install it: pip install 'viscera\[onnx\]'"):
        export(model, tmp_path / "out")


def test_a_folder_is_replaced_only_where_it_is_an_export_and_that_was_wished(model, tmp_path):
    require("onnx", "openvino")
    out = tmp_path / "out"
    out.mkdir()
    export(model, out)
    with pytest.raises(FileError, match="holds an export already. Choose another folder or pass --overwrite"):
        export(model, out)
    export(model, out, kind="openvino", overwrite=True)
    assert {file.name for file in out.iterdir()} == {"network.xml", "network.bin", "model.json"}
    (out / "letter.txt").write_text("mine")
    with pytest.raises(FileError, match=r"holds files that are not export \(letter.txt\)"):
        export(model, out, overwrite=True)
    with pytest.raises(FileError, match="is a file. Give a folder"):
        export(model, out / "letter.txt")
    assert (out / "letter.txt").read_text() == "mine"


def test_the_store_must_be_the_recipes_and_have_cases(model, small_store, tmp_path):
    require("onnx")
    store = open_store(small_store)
    other = replace(model, recipe=replace(RECIPE, preparation=ResizedSlices(size=(32, 32))))
    with pytest.raises(StoreError, match="was prepared with size 16x16, not size 32x32"):
        export(other, tmp_path / "out", yardstick=Yardstick(store))
    nobody = replace(store, splits=dict.fromkeys(store.splits, "training"))
    with pytest.raises(RunError, match="has no validation cases to measure on"):
        export(model, tmp_path / "out", yardstick=Yardstick(nobody))
    assert list(tmp_path.iterdir()) == []


def test_the_steps_name_what_the_recipe_does(model):
    recipe = replace(
        RECIPE,
        preparation=SpacedSlices(spacing_mm=2.5),
        contrast=Contrast("clahe"),
        network=UNetShape(widths=(4, 8), slices=3),
    )
    network = build_network(recipe.network, classes=5).eval()
    facts = describe(replace(model, recipe=recipe, network=TorchRunner(network)))
    steps = " ".join(facts["steps"])
    assert all(word in steps for word in ("2.5 mm", "clahe", "-400 to 400 HU", "Enlarge the logits"))
    assert facts["input"]["shape"] == [None, 3, None, None]
    assert "z-1 to z+1" in facts["input"]["channels"]


def test_the_command_says_what_was_measured(run, small_store, tmp_path, capsys):
    require("onnx")
    words = ["export", str(run), str(tmp_path / "out")]
    assert main(words) == 0
    assert "only the share of differing voxels was measured, on random HU" in capsys.readouterr().err
    assert main(words) == 2
    assert main([*words, "--overwrite", "--data", str(small_store)]) == 0
    shown = capsys.readouterr()
    assert "liver" in shown.out
    assert "of the voxels have another label" in shown.err
    facts = json.loads((tmp_path / "out" / "model.json").read_text())
    assert facts["weights_sha256"] == sha256(run / "best.safetensors")
    assert main([*words, "--overwrite", "--dice-points", "-1"]) == 2
    assert "--dice-points must not be negative" in capsys.readouterr().err


@pytest.fixture
def client(monkeypatch):
    """Return the stand-alone program."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("segment_with_onnx")


@pytest.mark.parametrize("kind", FILES)
def test_viscera_predicts_with_an_exported_folder_as_with_the_run(kind, model, run, tmp_path, capsys):
    require(kind)
    out = tmp_path / "out"
    assert main(["export", str(run), str(out), "--format", kind]) == 0
    nifti.write(tmp_path / "scan.nii.gz", scan())
    for weights in (run, out):
        words = ["predict", str(tmp_path / "scan.nii.gz"), str(tmp_path / f"{weights.name}.nii.gz"), "--weights"]
        assert main([*words, str(weights), "--runtime", kind if weights == run else "auto"]) == 0
    first, second = (nifti.read(tmp_path / f"{name}.nii.gz").voxels for name in (run.name, "out"))
    assert {1, 3} <= set(np.unique(first))
    assert (first == second).mean() > 0.999
    facts = json.loads((tmp_path / "out.json").read_text())
    loaded = load_model(out, runtime="auto")
    assert (loaded.recipe, loaded.space) == (RECIPE, ABDOMENCT1K)
    assert loaded.network.name == kind
    assert loaded.weights_sha256 in json.dumps(facts)
    hashes = [sha256(out / name) for name in FILES[kind]]
    assert loaded.weights_sha256 == (
        hashes[0] if kind == "onnx" else hashlib.sha256("".join(hashes).encode()).hexdigest()
    )
    capsys.readouterr()
    assert main([*words, str(out), "--runtime", "torch", "--overwrite"]) == 2
    assert f"holds a network for {kind}, not for torch. Leave --runtime out" in capsys.readouterr().err
    assert main(["export", str(out), str(tmp_path / "again")]) == 2
    assert "an exported network, which can segment and nothing else" in capsys.readouterr().err
    with pytest.raises(SettingError, match="runs on the CPU, not on 'cuda'. Leave --device out"):
        load_model(out, accelerator="cuda", runtime="auto")


def test_an_exported_folder_that_was_changed_is_refused(model, tmp_path):
    require("onnx")
    out = tmp_path / "out"
    export(model, out)
    file, network = out / "model.json", (out / "network.onnx").read_bytes()
    facts = json.loads(file.read_text())

    def complaint(changed: object) -> str:
        file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
        with pytest.raises((WeightsError, SettingError)) as raised:
            load_model(out, runtime="auto")
        return str(raised.value)

    assert "format 'viscera-export-9' is not 'viscera-export-2'" in complaint(facts | {"format": "viscera-export-9"})
    assert "Export the run again, or update viscera" in complaint(facts | {"format": "viscera-export-1"})
    for damaged in ("{", "[]", {"format": facts["format"]}, facts | {"files": {"../other.onnx": "0"}}):
        assert "model.json is damaged. Copy the folder again" in complaint(damaged)
    fewer = {"name": "abdomenct1k", "organs": ["liver"]}
    assert "organs are not the organs of its labels" in complaint(facts | {"label_space": fewer})
    assert "model.json: preparation.size" in complaint(
        facts | {"settings": facts["settings"] | {"preparation": {"kind": "resized", "size": [3, 3]}}}
    )
    (out / "network.onnx").write_bytes(network[:-1] + b"!")
    assert "network.onnx is not the file that model.json describes" in complaint(facts)
    (out / "network.onnx").unlink()
    assert "network.onnx is missing. Copy the folder again" in complaint(facts)
    (out / "network.onnx").write_bytes(b"no network")
    facts["files"] = {"network.onnx": sha256(out / "network.onnx")}
    assert "network.onnx: ONNX Runtime cannot: " in complaint(facts)


def test_an_exported_folder_says_what_must_be_installed(model, tmp_path, monkeypatch):
    require("onnx")
    export(model, tmp_path / "out")
    monkeypatch.setitem(importlib.import_module("sys").modules, "onnxruntime", None)
    with pytest.raises(WeightsError, match=r"a network for onnx, but onnxruntime is not installed. Install it: pip"):
        load_model(tmp_path / "out", runtime="auto")


def test_the_command_writes_int8_only_with_a_store(run, small_store, tmp_path, capsys):
    require("openvino")
    words = ["export", str(run), str(tmp_path / "out"), "--format", "openvino", "--int8"]
    assert main(words) == 2
    assert "--int8 needs real slices to take its scales from" in capsys.readouterr().err
    assert main([*words, "--data", str(small_store), "--split", "training", "--dice-points", "2"]) == 0
    assert json.loads((tmp_path / "out" / "model.json").read_text())["precision"] == "int8"


def scan() -> Volume:
    """Return a scan of another size than the network's, with blocks of liver and spleen."""
    rng = np.random.default_rng(3)
    hu = rng.normal(-100, 20, (5, 40, 52))
    hu[1:, 8:24, 8:24] += 180
    hu[1:, 20:34, 34:46] += 350
    affine = np.array([[0, 0, -1.5, 20.0], [0, -1.3, 0, 30.0], [4.0, 0, 0, -50.0], [0, 0, 0, 1]])
    return Volume(hu.astype(np.int16), affine)


def test_thirty_lines_without_viscera_give_visceras_labels(model, client, tmp_path):
    require("onnx")
    export(model, tmp_path / "out")
    for axes, flips in product([(0, 1, 2), (2, 0, 1), (1, 0, 2)], [(False,) * 3, (True, False, True)]):
        turned = turn_volume(scan(), Turn(axes, flips))
        ours = segment(turned, model).voxels
        # nibabel's arrays are (x, y, z); the affine's columns go with the axes.
        affine = turned.affine[:, [2, 1, 0, 3]]
        theirs = client.segment(tmp_path / "out", nibabel.Nifti1Image(turned.voxels.T, affine))
        assert {1, 3} <= set(np.unique(ours))
        assert (ours == np.asarray(theirs.dataobj).T).mean() > 0.999
        assert np.array_equal(theirs.affine, affine)


def test_the_program_makes_the_networks_input_as_viscera_does(client):
    hu = scan()
    rows, columns = client.linear(16, 40), client.linear(16, 52)
    ours, _ = prepare_image(hu, ResizedSlices(size=(16, 16)))
    theirs = np.rint(rows @ hu.voxels.astype(np.float32) @ columns.T)
    assert np.abs(theirs - ours).max() <= 1  # ties may be rounded either way
    assert np.allclose(rows.sum(1), 1)


def test_the_program_says_so_where_it_does_not_fit(model, client, tmp_path):
    require("onnx")
    network = build_network(UNetShape(widths=(4, 8), slices=3), classes=5).eval()
    recipe = replace(RECIPE, network=UNetShape(widths=(4, 8), slices=3))
    export(replace(model, recipe=recipe, network=TorchRunner(network)), tmp_path / "out")
    with pytest.raises(SystemExit, match="for resized single slices"):
        client.segment(tmp_path / "out", nibabel.Nifti1Image(scan().voxels.T, np.eye(4)))


def test_the_program_imports_neither_viscera_nor_torch_and_is_short():
    text = (EXAMPLES / "segment_with_onnx.py").read_text()
    tree = ast.parse(text)
    names = {alias.name for part in ast.walk(tree) if isinstance(part, ast.Import) for alias in part.names}
    names |= {part.module for part in ast.walk(tree) if isinstance(part, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} == {
        "json",
        "os",
        "sys",
        "pathlib",
        "nibabel",
        "numpy",
        "onnxruntime",
    }
    functions = [part for part in tree.body if isinstance(part, ast.FunctionDef)]
    assert sum(part.end_lineno - part.lineno + 1 for part in functions) <= 32
