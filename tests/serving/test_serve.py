"""The server, without a socket: every route, what is refused, and that the i-th label has the i-th name, as Slicer has it."""

import asyncio
import errno
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email import message_from_bytes
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from torch import nn

import viscera
from dicom_series import ball, write_series
from viscera.cli.command import main
from viscera.config import Recipe, ResizedSlices, SliceInference, Window
from viscera.inference.jobs import own_facts
from viscera.inference.model import Model
from viscera.io import nifti
from viscera.labels import ABDOMENCT1K
from viscera.networks.cards import find_shipped
from viscera.networks.torch_runner import TorchRunner
from viscera.serving.app import Service, make_app
from viscera.serving.datastore import Datastore, doubts_of, names_of
from viscera.serving.guard import Guard, Limits, Log
from viscera.serving.running import Impatient
from viscera.serving.segmenting import Queue, load_models
from viscera.serving.sessions import Sessions, scan_in
from viscera.volume import Volume, with_voxels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # starlette would rather have httpx2, and takes httpx
    from starlette.testclient import TestClient

HERE = "http://127.0.0.1:8000"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Gapped(nn.Module):
    """The class whose centre is nearest to the pixel's HU; never the second, so that the labels that it finds have a gap."""

    stride, dimensions = 1, 2

    def forward(self, image):
        centres = (torch.tensor((-300.0, -100.0, 9000.0, 100.0, 300.0)) + 400) / 800
        return -((image - centres[None, :, None, None]) ** 2)


@pytest.fixture(scope="module")
def model() -> Model:
    recipe = Recipe(
        label_space="abdomenct1k",
        preparation=ResizedSlices(size=(32, 32)),
        intensity=Window(-400, 400),
        inference=SliceInference(batch_size=3),
    )
    return Model(TorchRunner(Gapped()), recipe, ABDOMENCT1K, "cpu", "hash")


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    """Return a folder of two scans; one lies askew by 5 degrees, its axes in another order than the body's."""
    folder = tmp_path_factory.mktemp("patients")
    c, s = np.cos(0.087), np.sin(0.087)
    askew = np.array([[c, -s, 0, 0.123456789], [s, c, 0, -7], [0, 0, 1, 1 / 3], [0, 0, 0, 1]])
    for name, affine in (
        ("Miller", askew @ np.array([[0, 5.1, 0, 3], [7.3, 0, 0, -9], [0, 0, -6.7, 11], [0, 0, 0, 1]])),
        ("Smith", np.array([[0, 0, -7, 3], [0, -7, 0, -9], [5, 0, 0, 11], [0, 0, 0, 1.0]])),
    ):
        hu = np.full((20, 40, 48), -1000, np.int16)
        hu[2:18, 5:35, 6:40] = -100
        hu[4:9, 9:20, 10:25], hu[9:14, 12:24, 20:34] = 100, 300
        nifti.write(folder / f"{name}.nii.gz", Volume(hu + np.arange(20, dtype=np.int16)[:, None, None], affine))
    return folder


@pytest.fixture
def service(tmp_path, patients, model) -> Service:
    shutil.copytree(patients, tmp_path / "studies")
    (tmp_path / "sessions").mkdir()
    limits = Limits(upload_bytes=30_000_000)
    return Service({"starter": model}, Datastore(tmp_path / "studies"), Sessions(tmp_path / "sessions"), limits)


@pytest.fixture
def client(service) -> Iterator[TestClient]:
    with TestClient(make_app(service), base_url=HERE) as made:
        yield made
    service.queue.close()


def parts_of(answer) -> dict[str, tuple[str | None, bytes]]:
    """Return {name: (file name, contents)} of a multipart answer, read by the standard library."""
    message = message_from_bytes(f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.content)
    parts = message.get_payload()
    return {
        part.get_param("name", header="content-disposition"): (part.get_filename(), part.get_payload(decode=True))
        for part in parts
    }


def infer(client, scan: str, **params) -> tuple[dict, sitk.Image]:
    answer = client.post(f"/infer/starter?image={scan}", data={"params": json.dumps(params)})
    assert answer.status_code == 200, answer.text
    parts = parts_of(answer)
    name, content = parts["image"]
    assert re.fullmatch(r"viscera-[0-9a-f]{16}\.nrrd", name)
    assert parts["params"][0] is None
    return json.loads(parts["params"][1]), as_image(content)


def as_image(content: bytes) -> sitk.Image:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "labels.nrrd")
        file.write_bytes(content)
        return sitk.ReadImage(file)


def affine_of(image: sitk.Image) -> np.ndarray:
    """Return the matrix from (z, y, x, 1) to RAS+ mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return (LPS @ affine)[:, [2, 1, 0, 3]]


@pytest.mark.parametrize("scan", ["Miller", "Smith"])
def test_the_ith_value_is_the_ith_name_with_the_voxels_that_segment_finds_and_lies_on_the_scan(
    client, patients, model, scan
):
    params, image = infer(client, scan)
    ct = viscera.read(patients / f"{scan}.nii.gz")
    expected = viscera.segment(ct, model)
    found = sitk.GetArrayFromImage(image)
    assert found.dtype == np.uint8
    names = params["label_names"]
    assert list(names.values()) == list(range(1, len(names) + 1)) == np.unique(found)[1:].tolist()
    assert list(names) == ["liver", "spleen", "pancreas"]  # labels 1, 3 and 4 of the model
    for value, organ in enumerate(names, start=1):  # as Slicer names what it finds
        assert np.array_equal(found == value, expected.voxels == model.output_space.index(organ)), organ
    assert not (expected.voxels == model.output_space.index("kidney")).any()
    assert image.GetSize() == ct.shape[::-1]
    corners = np.array([[z, y, x, 1] for z in (0, ct.shape[0]) for y in (0, ct.shape[1]) for x in (0, ct.shape[2])]).T
    assert np.abs((affine_of(image) - ct.affine) @ corners).max() < 1e-9


def test_only_the_organs_asked_for_come_back_raw_where_wished(client, patients, model):
    answer = client.post(
        "/infer/starter?image=Smith&output=image",
        data={"params": json.dumps({"organs": ["Spleen", "liver"], "result_compress": False})},
    )
    assert b"encoding: raw" in answer.content[:400]
    found = sitk.GetArrayFromImage(as_image(answer.content))
    expected = viscera.segment(viscera.read(patients / "Smith.nii.gz"), model, organs=["liver", "spleen"]).voxels
    listed = client.get("/info/").json()["models"]["starter"]["labels"]  # without names beside them, values count these
    for organ in ("liver", "spleen"):
        assert (found == listed.index(organ) + 1).any()
        value = model.output_space.index(organ)
        assert np.sum(found == listed.index(organ) + 1) == np.sum(expected == value), organ
    assert np.sum(found > 0) == np.sum(expected > 0)
    facts = client.post("/infer/starter?image=Smith.nii.gz&output=json", data={"params": "{}"}).json()
    assert set(facts) == {"label_names", "doubts", "notes", "latencies"}


def test_info_is_what_slicer_reads(client, model):
    info = client.get("/info/").json()
    assert "config" not in info  # Slicer takes the server for too old otherwise
    [(name, one)] = info["models"].items()
    assert (name, one["type"], one["dimension"]) == ("starter", "segmentation", 3)
    assert one["labels"] == list(model.default_organs or model.output_space.organs) == info["labels"]
    assert {"least_sure", "random", "first"} == set(info["strategies"])
    assert info["datastore"] == {"total": 2, "completed": 0, "label_tags": {}, "train": []}
    assert client.get("/auth/").json()["enabled"] is False
    assert client.post("/auth/token", data={"username": "a", "password": "b"}).json()["access_token"] is None


def test_a_session_lives_from_put_to_delete(client, service, patients):
    file = patients / "Smith.nii.gz"
    made = client.put(
        "/session/", files=[("files", ("C:\\scans\\Smith.nii.gz", file.read_bytes()))], data={"client_id": "x"}
    )
    name = made.json()["session_id"]
    assert set(made.json()["session_info"]) == {"create_ts", "last_access_ts", "expiry"}
    assert client.get(f"/session/{name}?image=true").content == file.read_bytes()
    answer = client.post(f"/infer/starter?image=whatever&session_id={name}&output=json")
    assert answer.json()["label_names"] == infer(client, "Smith")[0]["label_names"]
    assert client.delete(f"/session/{name}").status_code == 200
    assert [client.get(f"/session/{name}").status_code, client.delete(f"/session/{name}").status_code] == [404, 404]
    assert not list(service.sessions.folder.iterdir())


@pytest.mark.parametrize("packed", [False, True])
def test_a_session_may_be_a_dicom_series_as_files_or_a_zip(client, service, tmp_path, model, packed):
    write_series(tmp_path / "series", ball())
    files = sorted(file for file in (tmp_path / "series").rglob("*") if file.is_file())
    sent = [("files", (f"{number}.dcm", file.read_bytes())) for number, file in enumerate(files)]
    if packed:
        shutil.make_archive(str(tmp_path / "series"), "zip", tmp_path / "series")
        sent = [("files", ("series.zip", (tmp_path / "series.zip").read_bytes()))]
    name = client.put("/session/", files=sent).json()["session_id"]
    answer = client.post(f"/infer/starter?session_id={name}&output=image")
    found, ct = as_image(answer.content), viscera.read(tmp_path / "series")
    assert np.array_equal(sitk.GetArrayFromImage(found) > 0, viscera.segment(ct, model).voxels > 0)
    assert np.allclose(affine_of(found), ct.affine, atol=1e-9)
    assert client.get(f"/session/{name}?image=true").status_code == (200 if packed else 400)


def test_a_full_disk_and_a_session_that_ended_meanwhile_are_told(client, service, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", full)
        answer = client.put("/session/", files={"files": ("a.nii.gz", b"x")})
    assert (answer.status_code, answer.json()["detail"]) == (507, "the server's disk is full")
    assert not list(service.sessions.folder.iterdir())
    with pytest.raises(viscera.VisceraError, match="the session is over"):
        scan_in(tmp_path / "gone")


def test_old_sessions_end_and_the_oldest_makes_room(tmp_path):
    sessions = Sessions(tmp_path)
    names = [sessions.add(sessions.new_folder())[0] for _ in range(17)]
    assert len(list(tmp_path.iterdir())) == 16
    with pytest.raises(viscera.VisceraError, match="no such session"):
        sessions.get(names[0])
    sessions.get(names[1]).used -= 4000
    with pytest.raises(viscera.VisceraError, match="it is over"):
        sessions.get(names[1], touch=False)


def test_scans_are_added_once_and_never_replaced(client, service, patients):
    content = (patients / "Smith.nii.gz").read_bytes()
    put = {"data": {"params": "{}"}, "files": {"file": ("/tmp/x/tmp123.nii.gz", content)}}
    assert client.put("/datastore/?image=Jones", **put).json() == {"image": "Jones"}
    assert client.put("/datastore/?image=Jones.nii.gz", **put).json() == {"image": "Jones"}
    refused = client.put("/datastore/?image=Miller", **put)
    assert refused.status_code == 409
    assert "another scan has that name" in refused.json()["detail"]
    assert client.get("/datastore/image?image=Jones").content == content
    titled = client.put("/datastore/", params={"image": "2: CT"}, **put)  # as Slicer calls a series
    assert titled.json() == {"image": "2_ CT"}
    assert client.get("/datastore/image", params={"image": "2: CT"}).content == content
    info = client.get("/datastore/image/info?image=Jones").json()
    assert info["checksum"] == "SHA256:" + __import__("hashlib").sha256(content).hexdigest()
    assert sorted(client.get("/datastore/?output=all").json()["objects"]) == ["2_ CT", "Jones", "Miller", "Smith"]
    assert sorted(file.name for file in service.datastore.folder.iterdir()) == [
        f"{name}.nii.gz" for name in ("2_ CT", "Jones", "Miller", "Smith")
    ]


def label_bytes(scan: Volume, values: np.ndarray, tmp_path: Path) -> bytes:
    file = tmp_path / "label_in.nii.gz"
    nifti.write(file, with_voxels(scan, values), overwrite=True)
    return file.read_bytes()


def test_corrected_labels_are_kept_as_versions_that_other_verbs_read(client, service, patients, tmp_path):
    scan = viscera.read(patients / "Miller.nii.gz")
    values = np.zeros(scan.shape, np.int16)
    values[3:5, 4:9, 5:9], values[6] = 1, 3
    info = {"label_info": [{"name": "spleen", "idx": 1}, {"name": "liver", "idx": 2}, {"name": "my lesion", "idx": 3}]}

    def save(voxels: np.ndarray, params: object = info, tag: str = "", scan: Volume = scan):
        files = {"label": ("/tmp/label.nii.gz", label_bytes(scan, voxels, tmp_path))}
        url = f"/datastore/label?image=Miller{f'&tag={tag}' if tag else ''}"
        return client.put(url, data={"params": json.dumps(params)}, files=files)

    assert save(values).json() == {"image": "Miller", "label": "Miller", "version": "001"}
    assert save(values * 0).json()["version"] == "002"
    folder = service.datastore.folder / "labels" / "final" / "Miller"
    assert sorted(file.name for file in folder.iterdir()) == ["001.json", "001.nii.gz", "002.json", "002.nii.gz"]
    kept = viscera.read(folder / "001.nii.gz")
    assert np.array_equal(kept.voxels, values)
    assert np.array_equal(kept.affine, scan.affine)
    assert json.loads((folder / "001.json").read_text())["labels"] == {"1": "spleen", "2": "liver", "3": "my lesion"}
    assert save(values, tag="draft").status_code == 200
    got = client.get("/datastore/label?label=Miller&tag=draft")
    assert 'filename="Miller.nii.gz"' in got.headers["content-disposition"]
    assert got.content == (service.datastore.folder / "labels/draft/Miller/001.nii.gz").read_bytes()
    assert client.get("/datastore/label/info?label=Miller").json()["params"]["label_names"]["liver"] == 2
    assert client.get("/datastore/").json()["label_tags"] == {"draft": 1, "final": 1}
    assert client.get("/datastore/?output=train").json() == [{"image": "Miller", "label": "Miller"}]
    other = viscera.read(patients / "Smith.nii.gz")
    for bad, text in (
        (save(values, params={}), "no label_info"),
        (save(values, params={"label_info": [{"name": "a", "idx": 1}, {"name": "b", "idx": 3}]}), "have gaps"),
        (save(values, params={"label_info": [{"name": "a"}]}), "holds 3, which label_info does not name"),
        (save(values, params={"label_info": [{"name": "a"}, {"name": "a"}]}), "two segments have one name"),
        (save(np.zeros(other.shape, np.uint8), scan=other), "another grid"),
        (save(values, tag="..%2F..%2Fx"), "name of the tag"),
    ):
        assert bad.status_code == 400
        assert text in bad.json()["detail"]
        assert str(tmp_path) not in bad.text
    assert len(list(folder.iterdir())) == 4


def test_the_next_sample_is_the_least_sure_without_labels_and_not_the_same_twice(client, service):
    folder = service.datastore.folder / "predictions"
    folder.mkdir()

    def doubtful(name: str, scan: int, organs: int) -> None:
        trust = {"scan": [{}] * scan, "organs": {str(n): [{"kind": "volume"}] for n in range(organs)}}
        facts = {"labels": {}, "run": {"weights_sha256": ""}, "trust": trust}
        (folder / f"{name}.json").write_text(json.dumps(facts))

    def ask(strategy: str) -> dict:
        return client.post(f"/activelearning/{strategy}", json={"client_id": "me"}).json()

    doubtful("Miller", 0, 1)
    doubtful("Smith", 1, 0)
    assert [ask("least_sure")["id"] for _ in range(3)] == ["Smith", "Miller", "Smith"]
    assert re.fullmatch("SHA256:[0-9a-f]{64}", ask("first")["checksum"])
    for name in ("Miller", "Smith"):
        (service.datastore.folder / "labels" / "final" / name).mkdir(parents=True)
        shutil.copy(
            service.datastore.folder / f"{name}.nii.gz",
            service.datastore.folder / "labels" / "final" / name / "001.nii.gz",
        )
    assert ask("first") == {}
    assert client.post("/activelearning/entropy").status_code == 404
    assert client.post("/activelearning/random").json() == {}


def test_a_model_that_cannot_learn_says_so_and_nothing_runs(client):
    assert client.get("/info/").json()["trainers"] == {}
    for path in ("/train/", "/train/starter", "/scoring/points", "/train/nobody"):
        answer = client.post(path, json={})
        assert 400 <= answer.status_code < 502
        assert answer.json()["detail"]
    for path in ("/train/", "/scoring/", "/batch/infer"):
        assert client.get(f"{path}?check_if_running=true").status_code == 404  # for the client: nothing is running
        assert client.delete(path).json() is None


def test_two_requests_at_once_give_what_each_gives_alone(client):
    alone = [infer(client, name)[0]["label_names"] for name in ("Miller", "Smith")]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda name: infer(client, name), ("Miller", "Smith")))
    assert [params["label_names"] for params, _ in both] == alone


def test_the_log_holds_no_name(client):
    infer(client, "Miller")
    client.get("/datastore/image?image=Miller")
    client.get("/session/Miller")
    text = client.get("/logs/?lines=50").text
    assert "POST /infer/... 200" in text
    assert "GET /session/... 404" in text
    assert "Miller" not in text


def bad_requests(scan: bytes) -> dict[str, tuple[str, str, dict]]:
    """Return {what: (method, path, arguments)} of requests that are refused."""
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.nii.gz"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    nameless = b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--\r\n"
    label = {"files": {"label": ("a.nii.gz", scan)}, "data": {"params": '{"label_info": [{"name": "a"}]}'}}
    named = {"../a.nii.gz": "..", ".a.nii.gz": "hidden", "": "empty", "con.nii.gz": "reserved"}
    return {
        "no boundary": ("PUT", "/session/", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
        "not as its boundary": ("PUT", "/session/", {"content": b"hello", "headers": kind}),
        "cut short": ("PUT", "/session/", {"content": part + scan[:300], "headers": kind}),
        "no name": ("PUT", "/session/", {"content": nameless, "headers": kind}),
        "empty": ("PUT", "/session/", {}),
        "a field, not a file": ("PUT", "/session/", {"data": {"files": "hello"}}),
        "JSON, not a form": ("PUT", "/datastore/?image=a", {"json": {}}),
        "no NIfTI": ("PUT", "/session/", {"files": {"files": ("a.nii.gz", b"hello")}}),
        "a text": ("PUT", "/session/", {"files": {"files": ("a.txt", b"hello")}}),
        "a damaged scan": ("PUT", "/datastore/?image=a", {"files": {"file": ("a.nii.gz", scan[: len(scan) // 2])}}),
        "a NRRD": ("PUT", "/datastore/?image=a", {"files": {"file": ("a.nrrd", b"NRRD0004")}}),
        "up and away": ("PUT", "/datastore/?image=../../a", {"files": {"file": ("a.nii.gz", scan)}}),
        "an absolute path": ("PUT", "/datastore/?image=/etc/a", {"files": {"file": ("a.nii.gz", scan)}}),
        "two of one name": ("PUT", "/session/", {"files": [("files", ("a.dcm", b"1")), ("files", ("a.dcm", b"2"))]}),
        "read up and away": ("GET", "/datastore/image?image=../studies/Smith", {}),
        "labels up and away": ("GET", "/datastore/label?label=Smith&tag=../..", {}),
        "no such session": ("POST", "/infer/starter?session_id=..", {}),
        "no such scan": ("POST", "/infer/starter?image=nobody", {}),
        "no scan": ("POST", "/infer/starter", {}),
        "no such model": ("POST", "/infer/..%2Fx?image=Smith", {}),
        "params no JSON": ("POST", "/infer/starter?image=Smith", {"data": {"params": "{"}}),
        "params a list": ("POST", "/infer/starter?image=Smith", {"data": {"params": "[]"}}),
        "params deep": ("POST", "/infer/starter?image=Smith", {"data": {"params": "[" * 99_000}}),
        "params a file": ("POST", "/infer/starter?image=Smith", {"files": {"params": ("a", b"{}")}}),
        "no such organ": ("POST", "/infer/starter?image=Smith", {"data": {"params": '{"organs": ["toe"]}'}}),
        "organs no list": ("POST", "/infer/starter?image=Smith", {"data": {"params": '{"organs": {"a": 1}}'}}),
        "another form": ("POST", "/infer/starter?image=Smith", {"data": {"params": '{"result_extension": ".nii.gz"}'}}),
        "another type": ("POST", "/infer/starter?image=Smith", {"data": {"params": '{"result_dtype": "float32"}'}}),
        "scribbles": ("POST", "/infer/starter?image=Smith", {"files": {"label": ("a.nii.gz", b"")}}),
        "another output": ("POST", "/infer/starter?image=Smith&output=points", {}),
        "another listing": ("GET", "/datastore/?output=points", {}),
        "removing": ("DELETE", "/datastore/?id=Smith&type=image", {}),
        "another route": ("GET", "/admin", {}),
        "another method": ("PATCH", "/info/", {}),
        "samples' params": ("POST", "/activelearning/first", {"content": b"\xff{"}),
        "a label of nobody": ("PUT", "/datastore/label?image=nobody", label),
        "a label of no scan": ("PUT", "/datastore/label", {"files": {"label": ("a.nii.gz", scan)}}),
        **{
            f"{what} name": ("PUT", "/datastore/", {"files": {"file": (name, scan)}})
            for name, what in named.items()
            if what != ".."  # of a path the last part counts
        },
    }  # fmt: skip


CUT_SHORT = pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.SpooledTemporaryFile")
"""A file of a form that ends within it is closed by the garbage collector."""


@CUT_SHORT
def test_bad_requests_get_a_sentence_and_leave_nothing(client, service, patients):
    before = sorted(service.datastore.folder.rglob("*"))
    wrong = {}
    for what, (method, path, arguments) in bad_requests((patients / "Smith.nii.gz").read_bytes()).items():
        answer = client.request(method, path, **arguments)
        if not (400 <= answer.status_code < 500 and answer.json()["detail"]):
            wrong[what] = (answer.status_code, answer.text)
    assert not wrong
    assert sorted(service.datastore.folder.rglob("*")) == before
    assert not list(service.sessions.folder.iterdir())


def test_too_much_is_refused_said_or_unsaid(client, service):
    much = b"x" * 31_000_000
    assert client.put("/session/", files={"files": ("a.nii.gz", much)}).status_code == 413
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.nii.gz"\r\n\r\n'
    unsaid = client.put(
        "/session/", content=iter((head, much)), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert unsaid.status_code == 413
    assert "--max-upload" in unsaid.json()["detail"]
    assert client.get("/info/", headers={"Content-Length": "9" * 400}).status_code == 413
    assert not list(service.sessions.folder.iterdir())


def test_a_scan_that_unpacks_to_more_than_memory_is_refused_by_its_header(client):
    header = bytearray(header_of(20_000, 20_000, 20_000))
    answer = client.put("/session/", files={"files": ("a.nii", bytes(header) + b"\0" * 1000)})
    assert answer.status_code == 400


def header_of(x: int, y: int, z: int) -> bytes:
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape((x, y, z))
    header.set_data_dtype(np.int16)
    header.set_zooms((0.05, 0.05, 0.05))
    header.set_qform(np.diag([0.05, 0.05, 0.05, 1]), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    stream = BytesIO()
    header.write_to(stream)
    return stream.getvalue() + b"\0" * 4


FUZZED = (
    *(
        "/info/",
        "/session/",
        "/session/x",
        "/datastore/",
        "/datastore/image",
        "/datastore/label",
        "/datastore/label/info",
    ),
    *(
        "/activelearning/first",
        "/activelearning/least_sure",
        "/infer/starter",
        "/train/",
        "/train/starter",
        "/rollback/starter",
    ),
    *(
        "/batch/infer",
        "/batch/infer/nobody",
        "/scoring/",
        "/scoring/dice",
        "/logs/",
        "/auth/token",
        "/",
        "/metrics",
        "/view/",
    ),
)
QUERIES = (
    "image",
    "label",
    "tag",
    "output",
    "session_id",
    "version",
    "images",
    "check_if_running",
    "all",
    "lines",
    "expiry",
)


@CUT_SHORT
def test_fuzzed_requests_give_no_5xx(service):
    """Any method on any route, with queries, types and bodies that are no use; 501 and 503 say what is not there, or full."""
    generator, wrong = random.Random(4), []
    odd = ("", "0", "-1", "9" * 40, "..", "%00", "é", "NaN", "true", "Smith", "\u202e", "[]", "x" * 3000)
    bodies = (
        b"",
        b"{",
        b"null",
        b"[1]",
        b'{"max_epochs": -1}',
        b'{"steps": 1e999}',
        b'{"overwrite": 3}',
        b"\xff\xfe",
        b"[" * 5000,
    )
    kinds = (
        "application/json",
        "multipart/form-data; boundary=x",
        "text/plain",
        "multipart/form-data",
        "",
        "a/b; boundary=",
    )
    with TestClient(make_app(service), base_url=HERE, client=("127.0.0.1", 9)) as client:
        for _ in range(500):
            path, method = (
                generator.choice(FUZZED),
                generator.choice(("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "BREW")),
            )
            query = {generator.choice(QUERIES): generator.choice(odd) for _ in range(generator.randrange(3))}
            if path == "/infer/starter":
                query = {
                    name: value for name, value in query.items() if value != "Smith"
                }  # so that nothing is segmented
            body = bytearray(generator.choice(bodies))
            if body and generator.random() < 0.5:
                body[generator.randrange(len(body))] = generator.randrange(256)
            headers = {"Content-Type": generator.choice(kinds)}
            answer = client.request(method, path, params=query, content=bytes(body), headers=headers)
            if answer.status_code >= 500 and answer.status_code not in (501, 503):
                wrong.append((method, path, query, bytes(body), answer.text))
        assert "viscera_failures_total" in client.get("/metrics").text
    service.close()
    assert not wrong


@CUT_SHORT
def test_random_bytes_never_make_a_fault(client):
    generator = random.Random(3)
    paths = (
        "/session/",
        "/datastore/?image=a",
        "/datastore/label?image=Smith",
        "/infer/starter?image=Smith",
        "/auth/token",
    )
    form = b'--x\r\nContent-Disposition: form-data; name="params"\r\n\r\n{}\r\n'
    form += b'--x\r\nContent-Disposition: form-data; name="label"; filename="a.nii"\r\n\r\nhello\r\n--x--\r\n'
    for _ in range(150):
        content = bytearray(form)
        for _ in range(generator.randrange(1, 8)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        path = generator.choice(paths)
        method = "POST" if path.startswith(("/infer", "/auth")) else "PUT"
        content = content.replace(b'name="params"', b'name="label"')  # so that nothing is segmented
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        if path.startswith("/infer"):
            path = path.replace("Smith", "nobody")
        assert client.request(method, path, content=bytes(content), headers=kind).status_code < 500


def test_a_token_is_the_password(service):
    limits = Limits(token="a long secret", local=False)
    other = Service(service.models, service.datastore, service.sessions, limits)
    with TestClient(make_app(other), base_url="http://server:8000") as client:
        assert client.get("/auth/").json()["enabled"] is True
        for wrong in (
            {},
            {"Authorization": "Bearer x"},
            {"Authorization": "Basic a long secret"},
            {"Authorization": "Bearer é".encode()},
        ):
            assert client.get("/info/", headers=wrong).status_code == 401
        assert client.post("/auth/token", data={"username": "a", "password": "x"}).status_code == 401
        token = client.post("/auth/token", data={"username": "a", "password": "a long secret"}).json()
        right = {"Authorization": f"{token['token_type']} {token['access_token']}"}
        assert client.get("/auth/token/valid", headers=right).status_code == 200
        assert client.get("/info/", headers=right).status_code == 200
        assert client.get("/datastore/image?image=Smith").status_code == 401


def test_a_web_page_elsewhere_gets_nothing(client):
    assert client.get("/info/", headers={"Host": "evil.example:8000"}).status_code == 403
    assert client.get("/info/", headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.get("/info/", headers={"Origin": HERE}).status_code == 200


def test_a_fault_of_ours_is_logged_by_place_and_not_by_message(service, patients):
    fault = nn.Module()  # has no answer
    fault.stride, fault.dimensions = 1, 2
    model = replace(service.models["starter"], network=TorchRunner(fault))
    broken = Service({"starter": model}, service.datastore, service.sessions)
    with TestClient(make_app(broken), base_url=HERE) as client:
        assert client.post("/infer/starter?image=Smith").status_code == 500
        text = client.get("/logs/").text
    assert "viscera/serving/segmenting.py" in text
    assert "fault: builtins." in text
    assert "Smith" not in text


def test_the_command_says_what_to_install_where_the_extra_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["serve", "--port", "0"]) == 2
    assert "pip install 'viscera[serve]'" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="only there can a signal be ignored from the start")
@pytest.mark.parametrize(
    "handler", [signal.SIG_DFL, signal.SIG_IGN], ids=["usual", "ignored, as in what a shell starts by &"]
)
def test_the_command_serves_until_ctrl_c(tmp_path, handler):
    (tmp_path / "tmp").mkdir()
    words = [sys.executable, "-m", "viscera.cli", "serve", str(tmp_path / "studies"), "--port", "0", "--device", "cpu"]
    before = signal.signal(signal.SIGINT, handler)  # a process inherits whether a signal is ignored
    try:
        running = subprocess.Popen(
            words, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path / "tmp")}
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        lines = iter(running.stderr.readline, "")
        address = next(word for line in lines for word in line.split() if word.startswith("http://127.0.0.1:"))
        assert list(httpx.get(f"{address}/info/", timeout=60).json()["models"]) == ["starter"]
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=60)[1].splitlines()
        assert (said, running.returncode) == (["the server has ended"], 0)
    finally:
        running.kill()
        running.wait()
    assert list((tmp_path / "studies").iterdir()) == []
    assert not list((tmp_path / "tmp").glob("viscera-*"))


def test_a_silent_connection_ends_and_one_that_has_asked_does_not(model, tmp_path):
    async def ended(protocol: Impatient, *, asked: bool) -> bool:
        class Transport(asyncio.Transport):
            closed = False

            def get_extra_info(self, name, default=None):
                return default

            def write(self, data):
                pass

            def pause_reading(self):
                pass

            def is_closing(self):
                return self.closed

            def close(self):
                self.closed = True

        transport = Transport()
        protocol.connection_made(transport)
        if asked:
            protocol.data_received(b"PUT /session/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n")
        protocol._end_silent()
        closed = transport.closed
        protocol.connection_lost(None)
        await asyncio.sleep(0)
        return closed

    async def both() -> list[bool]:
        async def app(scope, receive, send):
            await receive()

        config = uvicorn.Config(app, log_config=None)
        config.load()
        state = uvicorn.server.ServerState()
        return [await ended(Impatient(config, state, {}), asked=asked) for asked in (False, True)]

    assert asyncio.run(both()) == [True, False]


def test_a_sender_that_stops_is_told_so():
    async def never():
        await asyncio.sleep(30)

    guard = Guard(Starlette(), Limits(silence_s=0.01), Log())
    with pytest.raises(HTTPException, match="408"):
        asyncio.run(guard._limited(never)())


def test_whoever_comes_when_too_many_wait_is_told_to_come_again(service):
    full = replace(service, queue=Queue(most=0))
    with TestClient(make_app(full), base_url=HERE) as client:
        answer = client.post("/infer/starter?image=Smith")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")


def test_weights_are_offered_by_their_names_and_no_two_by_one(tmp_path):
    shutil.copy(find_shipped().file, tmp_path / "my run.safetensors")
    assert list(load_models([tmp_path / "my run.safetensors"], accelerator="cpu")) == ["starter", "my_run"]
    shutil.copy(find_shipped().file, tmp_path / "starter.safetensors")
    with pytest.raises(viscera.VisceraError, match="two weights would be offered as 'starter'"):
        load_models([tmp_path / "starter.safetensors"], accelerator="cpu")


def test_doubts_of_a_plain_prediction_count_and_damaged_files_say_nothing(tmp_path):
    facts = {"labels": {}, "run": {"weights_sha256": ""}, "doubts": [{}, {}]}
    for text, count in ((json.dumps(facts), 4), ("{", None), (json.dumps(facts | {"doubts": 3}), None)):
        (tmp_path / "a.json").write_text(text)
        assert doubts_of(own_facts(tmp_path / "a.json")) == count
    assert names_of(tmp_path / "a.nii.gz") == {}
    (tmp_path / "a.json").write_text("[]")
    assert names_of(tmp_path / "a.nii.gz") == {}
