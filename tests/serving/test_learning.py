"""Learning from corrections: a version serves only if it is better on what was held back, and can be gone back from."""

import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import viscera
from viscera.config import Recipe, ResizedSlices, SliceInference, UNetShape, Window
from viscera.inference.model import load_model
from viscera.io import nifti
from viscera.labels import ABDOMENCT1K
from viscera.networks.build import network_of
from viscera.networks.weights import Weights, save_weights
from viscera.serving.app import make_app
from viscera.serving.comparing import conclude, dice_of
from viscera.serving.corrections import Correction, filled
from viscera.serving.datastore import Datastore
from viscera.serving.improving import settings_of
from viscera.serving.segmenting import load_served
from viscera.serving.service import Service
from viscera.serving.sessions import Sessions
from viscera.serving.versions import Versions
from viscera.volume import Volume, with_voxels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # starlette would rather have httpx2, and takes httpx
    from starlette.testclient import TestClient

AFFINE = np.array([[0, 0, -8, 3], [0, -8, 0, -9], [5, 0, 0, 11], [0, 0, 0, 1.0]])
QUICK = {"max_epochs": 8, "steps": 20, "learning_rate": 0.02}


def tiny(file: Path, *, background: float) -> Path:
    """Write random weights of a tiny network.

    Args:
        file: To write.
        background: Added to what speaks for background: at 1 the network finds nothing yet, at 0 anything anywhere.
    """
    recipe = Recipe(
        label_space="abdomenct1k",
        preparation=ResizedSlices(size=(32, 32)),
        network=UNetShape(widths=(4, 8)),
        intensity=Window(-400, 400),
        inference=SliceInference(batch_size=3),
    )
    recipe = replace(recipe, training=replace(recipe.training, batch_size=4))
    torch.manual_seed(1)
    tensors = dict(network_of(recipe).state_dict())
    if background:
        tensors["head.weight"] = tensors["head.weight"] * 0.1
        tensors["head.bias"] = torch.tensor([background, 0, 0, 0, 0])
    save_weights(file, Weights(recipe, ABDOMENCT1K, tensors, {}))
    return file


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Return weights that know nothing yet, and find nothing."""
    return tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors", background=1.0)


def patient(number: int) -> tuple[Volume, np.ndarray]:
    """Return a scan whose liver (1) is at 100 HU and spleen (2) at 300, and its labels."""
    hu, labels = np.full((12, 32, 32), -1000, np.int16), np.zeros((12, 32, 32), np.uint8)
    hu[1:11, 3:29, 4:30] = -100
    for value, brightness, row in ((1, 100, 5), (2, 300, 17)):
        place = np.s_[2:10, row + number % 3 : row + 9, 6 + number : 16 + number]
        hu[place], labels[place] = brightness, value
    return Volume(hu, AFFINE), labels


def service_of(folder: Path, weights: Path) -> Service:
    (folder / "sessions").mkdir(exist_ok=True)
    models = {"tiny": load_model(weights, accelerator="cpu", runtime="torch")}
    datastore = Datastore(folder / "studies")
    versions = Versions(datastore.folder, {"tiny": weights}, {"tiny": ("liver", "spleen")})
    load_served(models, versions, accelerator="cpu")
    return Service(models, datastore, Sessions(folder / "sessions"), versions=versions)


@pytest.fixture
def client(tmp_path, weights) -> Iterator[TestClient]:
    service = service_of(tmp_path, weights)
    with TestClient(make_app(service), base_url="http://127.0.0.1:8000", client=("127.0.0.1", 9)) as made:
        made.folder = tmp_path
        yield made
    service.close()


def correct(client: TestClient, numbers: range) -> None:
    """Send scans and their corrected labels, as Slicer does."""
    names = [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]
    for number in numbers:
        ct, labels = patient(number)
        for kind, volume in (("ct", ct), ("labels", with_voxels(ct, labels))):
            nifti.write(client.folder / f"{kind}.nii.gz", volume, overwrite=True)
        files = {kind: (f"{kind}.nii.gz", (client.folder / f"{kind}.nii.gz").read_bytes()) for kind in ("ct", "labels")}
        assert client.put(f"/datastore/?image=Miller{number}", files={"file": files["ct"]}).status_code == 200
        params = json.dumps({"label_info": names})
        url = f"/datastore/label?image=Miller{number}"
        assert client.put(url, data={"params": params}, files={"label": files["labels"]}).status_code == 200


def ended(client: TestClient, path: str = "/train/") -> dict:
    """Wait until a task has ended; return it."""
    while (task := client.get(path).json())["status"] == "RUNNING" or "end_ts" not in task:
        time.sleep(0.1)
    return task


def dice_of_liver(client: TestClient) -> float:
    """Return what the server's liver is worth on a scan that nobody corrected."""
    ct, labels = patient(7)
    nifti.write(client.folder / "unseen.nii.gz", ct, overwrite=True)
    file = ("unseen.nii.gz", (client.folder / "unseen.nii.gz").read_bytes())
    answer = client.post(
        "/infer/tiny?output=image", data={"params": '{"result_compress": false}'}, files={"file": file}
    )
    raw = np.frombuffer(answer.content.partition(b"\n\n")[2], np.uint8).reshape(ct.shape)
    return dice_of((labels == 1).astype(np.uint8), (raw == 1).astype(np.uint8), {"liver": 1}, 2)["liver"]


@pytest.mark.slow
def test_a_model_learns_from_corrections_serves_its_better_version_and_goes_back(client, weights):
    correct(client, range(4))
    assert list(client.get("/info/").json()["trainers"]) == ["tiny"]
    before = dice_of_liver(client)
    task = client.post("/train/tiny", json={"client_id": "me", **QUICK}).json()
    assert task["status"] == "RUNNING"
    assert client.post("/train/tiny", json={}).status_code == 429
    assert client.get("/train/?check_if_running=true").status_code == 200
    task = ended(client)
    assert task["status"] == "DONE", task["details"]
    found = task["result"]
    assert found["better"]
    assert found["new_dice"] > found["old_dice"]
    assert (found["cases"], found["serving"]) == (1, 2)
    stats = client.get("/info/").json()["train_stats"]["tiny"]
    assert (stats["version"], stats["best_metric"]) == (2, found["new_dice"])
    assert stats["epoch"] == stats["total_epochs"] == 8
    [_, second] = stats["versions"]
    assert (second["old_dice"], second["new_dice"]) == (found["old_dice"], found["new_dice"])
    text = client.get("/logs/").text
    assert f"Dice {found['old_dice']:.4f} (version 1) and {found['new_dice']:.4f} (new)" in text
    assert "Miller" not in text
    place = client.folder / "studies" / "models" / "tiny"
    assert sorted(one.name for one in place.iterdir()) == [
        "002.json",
        "002.safetensors",
        "held_back.json",
        "versions.json",
    ]
    assert dice_of_liver(client) > before
    again = service_of(client.folder, weights)  # a server that starts later
    assert again.models["tiny"].weights_sha256 != load_model(weights, accelerator="cpu").weights_sha256
    again.close()
    assert client.post("/rollback/tiny").json()["version"] == 1
    assert dice_of_liver(client) == before
    assert client.post("/rollback/tiny?version=2").json()["version"] == 2
    assert client.post("/rollback/tiny?version=3").status_code == 404
    (place / "002.safetensors").write_bytes(b"another")
    assert client.post("/rollback/tiny?version=2").status_code == 400


@pytest.mark.slow
def test_a_stopped_training_goes_on_with_the_same_request(client):
    correct(client, range(3))
    long = {**QUICK, "max_epochs": 400}
    assert client.post("/train/", json={"tiny": long}).json()["status"] == "RUNNING"
    while client.get("/train/").json()["progress"].get("epoch", 0) < 2:
        assert client.get("/train/").json()["status"] == "RUNNING", client.get("/train/").json()
        time.sleep(0.1)
    assert client.delete("/train/").json()["status"] == "STOPPED"
    assert ended(client)["status"] == "STOPPED"
    rows = (client.folder / "studies/models/tiny/work/run/log.jsonl").read_text().splitlines()
    client.post("/train/tiny", json=long)
    while client.get("/train/").json()["progress"].get("epoch", 0) <= len(rows):
        assert client.get("/train/").json()["status"] == "RUNNING", client.get("/train/").json()
        time.sleep(0.1)
    task = client.delete("/train/").json()
    assert "going on where the same training was stopped" in task["details"]
    assert json.loads(
        (client.folder / "studies/models/tiny/work/run/log.jsonl").read_text().splitlines()[len(rows) - 1]
    ) == json.loads(rows[-1])
    ended(client)


def test_too_few_corrections_and_settings_that_cannot_be_are_told(client):
    correct(client, range(2))
    answer = client.post("/train/tiny", json={})
    assert (answer.status_code, "at least 3" in answer.json()["detail"]) == (400, True)
    for bad in ({"max_epochs": 0}, {"max_epochs": "many"}, {"speed": 3}, {"learning_rate": 2}, {"steps": 10**9}):
        with pytest.raises(viscera.VisceraError, match="setting"):
            settings_of(bad)
    assert settings_of({"client_id": "x", "max_epochs": [7, 9]}).max_epochs == 7  # Slicer's form of a choice
    assert client.post("/train/tiny?run_sync=true", json={}).status_code == 501
    assert client.get("/train/").status_code == 404


def test_what_was_held_back_stays_so_and_is_never_trained_on(tmp_path, weights):
    versions = Versions(tmp_path, {"tiny": weights}, {"tiny": ()})
    held: set[str] = set()
    trained: set[str] = set()
    for count in range(3, 20):
        training, back = versions.split("tiny", [f"scan {number}" for number in range(count)])
        assert len(back) == max(1, count // 3)
        assert len(training) + len(back) == count
        held |= set(back)
        trained |= set(training)
        assert not held & trained
    with pytest.raises(viscera.VisceraError, match="too few"):
        versions.split("tiny", ["scan 1", "scan 2"])
    (tmp_path / "models/tiny/held_back.json").write_text("{")
    with pytest.raises(viscera.VisceraError, match=r"held_back\.json"):
        versions.split("tiny", ["scan 1", "scan 2", "scan 3"])


def test_a_version_is_better_only_if_no_organ_loses_and_none_is_forgotten():
    same = {"liver": 0.8, "spleen": 0.6}
    better = conclude([(same, {"liver": 0.9, "spleen": 0.7}), (same, {"liver": 0.8, "spleen": 0.8})], [{}, {}], old=1)
    assert (better.old_dice, better.new_dice, better.difference, better.better) == (0.7, 0.8, 0.1, True)
    assert better.low is not None
    assert not conclude([(same, same)], [{}], old=1).better
    one_falls = conclude([(same, {"liver": 0.7, "spleen": 0.9})], [{}], old=1)
    assert (one_falls.difference, one_falls.better) == (0.1, False)
    assert "liver loses 0.100" in one_falls.why
    forgotten = conclude([(same, {"liver": 0.9, "spleen": 0.7})], [{"aorta": 0.3}], old=3)
    assert (forgotten.old, forgotten.better, forgotten.agreement) == (3, False, {"aorta": 0.3})
    assert "aorta" in forgotten.why
    assert not conclude([], [], old=1).better


def test_names_that_are_no_organs_are_unknown_and_not_background():
    names = {"Liver": 1, "my lesion": 2, "lung_left": 3}
    correction = Correction("/scans/Miller.nii.gz", "/labels/001.nii.gz", names, "hash", held_back=False)
    assert correction.values(ABDOMENCT1K) == {1: "liver"}
    assert correction.unknown(ABDOMENCT1K) == (2,)
    assert "Miller" not in correction.case


def test_what_a_correction_does_not_name_is_filled_in_by_the_version_that_serves(tmp_path):
    weights = tiny(tmp_path / "tiny.safetensors", background=0)
    ct, labels = patient(0)
    labels[0, 0, 0] = 3
    nifti.write(tmp_path / "ct.nii.gz", ct)
    nifti.write(tmp_path / "labels.nii.gz", with_voxels(ct, labels))
    names = {"Liver": 1, "spleen": 2, "my lesion": 3}
    correction = Correction(str(tmp_path / "ct.nii.gz"), str(tmp_path / "labels.nii.gz"), names, "", held_back=False)
    model = load_model(weights, accelerator="cpu", runtime="torch")
    found = viscera.segment(viscera.read(tmp_path / "ct.nii.gz"), model, organs="all").voxels
    made = viscera.read(filled(correction, model, tmp_path / "filled" / "a.nii.gz")).voxels
    liver, spleen = (model.space.index(organ) for organ in ("liver", "spleen"))
    assert np.array_equal(made == liver, labels == 1)
    assert np.array_equal(made == spleen, labels == 2)
    assert (made == 255).sum() == (labels == 3).sum() == 1
    left = (labels == 0) & ~np.isin(found, (liver, spleen))
    assert np.array_equal(made[left], found[left])
    assert (found[left] > 0).any()  # a network that knows nothing finds something everywhere
    nothing = Correction(correction.scan, correction.labels, {"my lesion": 3}, "", held_back=False)
    with pytest.raises(viscera.VisceraError, match="names no organ"):
        filled(nothing, model, tmp_path / "b.nii.gz")


def test_scans_are_segmented_in_the_background_then_scored(client):
    correct(client, range(2))
    ct, _ = patient(5)
    nifti.write(client.folder / "studies" / "Smith.nii.gz", ct)
    task = client.post("/batch/infer/tiny?images=unlabeled", json={"client_id": "x"}).json()
    assert task["request"] == {"model": "tiny", "images": "unlabeled"}
    assert ended(client, "/batch/infer")["result"]["segmented"] == 1
    assert sorted(one.name for one in (client.folder / "studies/predictions").glob("*.nii.gz")) == ["Smith.nii.gz"]
    assert client.get("/datastore/label?label=Smith&tag=original").status_code == 200
    assert client.get("/datastore/").json()["label_tags"] == {"final": 2, "original": 1}
    client.post("/batch/infer/tiny", json={"label_tag": "original"})
    result = ended(client, "/batch/infer")["result"]
    assert (result["segmented"], result["done before"], result["failed"]) == (2, 1, 0)
    client.post("/scoring/dice", json={})
    scores = ended(client, "/scoring/")["result"]
    assert scores["cases"] == 2
    assert set(scores["organs"]) == {"liver", "spleen"}
    assert json.loads((client.folder / "studies/scores/dice.json").read_text()) == scores
    for bad in ("?images=some", ""):
        assert client.post(f"/batch/infer/tiny{bad}", json={"label_tag": "final"}).status_code == 400
    assert client.post("/batch/infer/nobody", json={}).status_code == 404
