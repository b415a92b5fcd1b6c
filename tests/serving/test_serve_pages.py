"""The status page, metrics, the last result; what OHIF asks for; and limits of slow uploads. None of it on a real network."""

import asyncio
import base64
import json
import re
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import numpy as np
import pytest
import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from torch import nn

import viscera
from dicom_series import ball, write_series
from viscera.config import Recipe, ResizedSlices, SliceInference, Window
from viscera.inference.model import Model
from viscera.io import nifti
from viscera.labels import ABDOMENCT1K
from viscera.networks.torch_runner import TorchRunner
from viscera.reports.viewer.last import last_page
from viscera.serving.app import make_app
from viscera.serving.datastore import Datastore, predicted_dice
from viscera.serving.guard import Guard, Limits, Log
from viscera.serving.last_result import MOST_PIXELS, LastResult, thinned
from viscera.serving.meter import Meter
from viscera.serving.running import listen, server_of
from viscera.serving.service import Service
from viscera.serving.sessions import Sessions
from viscera.volume import Volume, to_axial

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # starlette would rather have httpx2, and takes httpx
    from starlette.testclient import TestClient

HERE = "http://127.0.0.1:8000"
SAMPLE = re.compile(r'[a-z_]+(\{([a-z_]+="[^"\\]*",?)+\})? [0-9.e+-]+')
"""A line of Prometheus' text form: name, labels, value."""


class Bright(nn.Module):
    """Calls what is above 50 HU spleen (3), above 200 HU liver (1)."""

    stride, dimensions = 1, 2

    def forward(self, image):
        hu = image[:, :1] * 800 - 400
        scores = [torch.zeros_like(hu), (hu - 200) / 9, torch.full_like(hu, -99.0), (hu - 50) / 99, hu * 0 - 99]
        return torch.cat(scores, 1)


@pytest.fixture
def service(tmp_path) -> Service:
    recipe = Recipe(
        label_space="abdomenct1k",
        preparation=ResizedSlices(size=(32, 32)),
        intensity=Window(-400, 400),
        inference=SliceInference(batch_size=3),
    )
    (tmp_path / "sessions").mkdir()
    model = Model(TorchRunner(Bright()), recipe, ABDOMENCT1K, "cpu", "hash")
    datastore = Datastore(tmp_path / "studies")
    hu = np.full((20, 40, 48), -1000, np.int16)
    hu[2:18, 5:35, 6:40], hu[4:9, 9:20, 10:25], hu[9:14, 12:24, 20:34] = -100, 100, 300
    affine = np.array([[0, 7, 0, 3], [0, 0, 7, -9], [-5, 0, 0, 11], [0, 0, 0, 1.0]])  # head to feet, left to right
    nifti.write(datastore.folder / "Miller.nii.gz", Volume(hu, affine))
    return Service({"starter": model}, datastore, Sessions(tmp_path / "sessions"), draw_page=last_page)


@pytest.fixture
def client(service) -> Iterator[TestClient]:
    with TestClient(make_app(service), base_url=HERE, client=("127.0.0.1", 9)) as made:
        yield made
    service.close()


def test_metrics_are_prometheus_text_that_counts_and_names_nobody(client):
    assert client.post("/infer/starter?image=Miller").status_code == 200
    assert client.get("/datastore/image?image=nobody").status_code == 404
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    for line in lines:
        assert line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.fullmatch(line), line
    assert 'viscera_requests_total{method="POST",route="/infer/...",status="200"} 1' in lines
    assert 'viscera_requests_total{method="GET",route="/datastore/image",status="404"} 1' in lines
    assert 'viscera_request_seconds_bucket{route="/infer/...",le="+Inf"} 1' in lines
    assert "viscera_failures_total 0" in lines
    assert "viscera_queue_waiting 0" in lines
    assert "viscera_scans 1" in lines
    assert "Miller" not in answer.text


def test_a_histogram_counts_what_is_at_most_its_bound():
    meter = Meter()
    for seconds in (0.01, 0.02, 400):
        meter.begin()
        meter.end("BREW", "/infer/...", 200, seconds)
    text = meter.text({})
    for bound, count in (("0.01", 1), ("0.05", 2), ("300.0", 2), ("+Inf", 3)):
        assert f'viscera_request_seconds_bucket{{route="/infer/...",le="{bound}"}} {count}\n' in text
    assert 'viscera_requests_total{method="other",route="/infer/...",status="200"} 3' in text
    assert meter.rows() == [("other", "/infer/...", 3, 0, pytest.approx(400.03 / 3))]


def test_the_page_shows_the_last_result_and_loads_nothing_from_elsewhere(client):
    assert "Nothing has been segmented" in client.get("/").text
    assert [client.get(page).status_code for page in ("/view/", "/montage.png")] == [404, 404]
    client.post("/infer/starter?image=Miller")
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "Miller" not in page.text
    picture = re.search(r'src="(/montage\.png\?n=\d+)"', page.text)[1]
    assert client.get(picture).content[:8] == b"\x89PNG\r\n\x1a\n"
    viewer = client.get(re.search(r'href="(/view/)"', page.text)[1]).text
    assert "at most 256 voxels along each axis" in viewer
    assert "Miller" not in viewer


def test_pages_are_for_this_machine_only_and_take_the_token_as_a_browser_sends_it(service):
    with TestClient(make_app(service), base_url=HERE, client=("10.1.2.3", 9)) as elsewhere:
        assert [elsewhere.get(page).status_code for page in ("/", "/metrics", "/view/", "/montage.png")] == [403] * 4
        assert elsewhere.get("/info/").status_code == 200
    limits = Limits(token="a long secret", local=False)
    guarded = Service(service.models, service.datastore, service.sessions, limits)
    with TestClient(make_app(guarded), base_url=HERE, client=("127.0.0.1", 9)) as here:
        asked = here.get("/")
        assert (asked.status_code, asked.headers["www-authenticate"]) == (401, 'Basic realm="viscera"')
        right = {"Authorization": "Basic " + base64.b64encode(b"any:a long secret").decode()}
        assert here.get("/", headers=right).status_code == 200
        for wrong in ("Basic " + base64.b64encode(b"any:other").decode(), "Basic é", "Basic !", "Bearer x"):
            assert here.get("/", headers={"Authorization": wrong.encode()}).status_code == 401
        assert here.get("/info/", headers=right).status_code == 401  # protocol's own form only
    service.close()
    guarded.close()


def test_small_copies_lie_where_the_scan_does():
    voxels = np.arange(600 * 3 * 5, dtype=np.int32).reshape(600, 3, 5) % 3000
    scan = Volume(voxels, np.array([[0, 0, 2, 5], [0, 3, 0, 6], [4, 0, 0, 7], [0, 0, 0, 1.0]]))
    small = thinned(scan)
    assert small.shape == (200, 3, 5)
    assert max(small.shape) <= MOST_PIXELS
    assert np.array_equal(small.voxels, voxels[::3])
    at = np.array([10, 1, 2, 1])
    assert np.allclose(small.affine @ at, scan.affine @ (at * [3, 1, 1, 1]))
    last = LastResult()
    last.put(small, Volume((voxels % 2).astype(np.uint8), scan.affine), {1: "liver"})
    assert np.array_equal(last.get().labels.voxels, voxels[::3] % 2)


OHIF = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
"""What plugins/ohifv3 of MONAI Label 0.8.5 sends with /infer/MODEL?image=SERIES&output=image."""


def nrrd_of(content: bytes) -> tuple[dict[str, str], bytes]:
    head, _, body = content.partition(b"\n\n")
    return dict(line.split(": ", 1) for line in head.decode().splitlines()[1:]), body


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_ohif_gets_bare_voxels_in_its_order_numbered_as_info_lists_them(client, service, kind):
    params = json.dumps(OHIF | {"result_dtype": kind})
    answer = client.post("/infer/starter?image=Miller&output=image", data={"params": params})
    head, body = nrrd_of(answer.content)
    assert (head["type"], head["encoding"]) == (kind, "raw")
    assert head.get("endian") == ("little" if kind == "uint16" else None)
    scan = viscera.read(service.datastore.folder / "Miller.nii.gz")
    upright, _ = to_axial(viscera.segment(scan, service.models["starter"]))  # feet to head, to the back, to the left
    assert head["sizes"] == " ".join(map(str, upright.shape[::-1]))
    found = np.frombuffer(body, np.dtype(kind)).reshape(upright.shape)
    labels = client.get("/info/").json()["models"]["starter"]["labels"]
    for organ in ("liver", "spleen"):
        ours = upright.voxels == service.models["starter"].output_space.index(organ)
        assert ours.any()
        assert np.array_equal(found == labels.index(organ) + 1, ours), organ
    # Cornerstone's affine: a step along x is to the left, along y to the back, along z to the head (LPS+).
    steps = np.array([json.loads(one.replace("(", "[").replace(")", "]")) for one in head["space directions"].split()])
    assert (np.diag(steps) > 0).all()


def test_a_series_is_asked_for_by_its_uid_and_answered_in_its_own_order(client, service, tmp_path):
    write_series(tmp_path / "series", ball())
    uid = "1.2.826.0.1.3680043.10.1"
    (service.datastore.folder / "dicom").mkdir()
    (tmp_path / "series").rename(service.datastore.folder / "dicom" / uid)
    answer = client.post(f"/infer/starter?image={uid}&output=image", data={"params": json.dumps(OHIF)})
    assert answer.status_code == 200
    scan = viscera.read(service.datastore.folder / "dicom" / uid)
    found = np.frombuffer(nrrd_of(answer.content)[1], np.uint8).reshape(scan.shape)
    assert np.array_equal(found > 0, viscera.segment(scan, service.models["starter"]).voxels > 0)
    for wrong in ("1.2.3", "..", "1..2", "1." * 60 + "1"):
        assert client.post("/infer/starter", params={"image": wrong}).status_code == 404


def test_a_page_that_is_allowed_may_ask_and_no_other(service):
    page = "http://localhost:3000"
    limits = Limits(token="a long secret", origins=(page,))
    guarded = Service(service.models, service.datastore, service.sessions, limits)
    with TestClient(make_app(guarded), base_url=HERE) as client:
        asked = client.options("/train/", headers={"Origin": page, "Access-Control-Request-Method": "DELETE"})
        assert asked.status_code == 204
        assert "DELETE" in asked.headers["access-control-allow-methods"]
        bearer = {"Authorization": "Bearer a long secret"}
        answer = client.get("/info/", headers={"Origin": page, **bearer})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page)
        other = client.get("/info/", headers={"Origin": "http://localhost:3001", **bearer})
        assert (other.status_code, "access-control-allow-origin" in other.headers) == (403, False)
    service.close()
    guarded.close()


def test_least_sure_is_the_one_with_the_least_predicted_dice(client, service, tmp_path):
    studies = service.datastore.folder
    (studies / "predictions").mkdir()
    for name, dice in (("Adams", 0.95), ("Baker", 0.6), ("Clark", None)):
        (studies / f"{name}.nii.gz").write_bytes((studies / "Miller.nii.gz").read_bytes())
        facts = {"labels": {}, "run": {"weights_sha256": ""}, "trust": {"scan": [], "organs": {}}}
        facts["statistics"] = {"liver": {"predicted_dice": dice}, "spleen": {"predicted_dice": None}}
        (studies / "predictions" / f"{name}.json").write_text(json.dumps(facts))
    asked = [client.post("/activelearning/least_sure", json={}).json()["id"] for _ in range(4)]
    assert asked[:2] == ["Baker", "Miller"]  # of Miller nothing is known, of Clark nothing bad
    assert set(asked[2:]) == {"Adams", "Clark"}
    assert {client.post("/activelearning/random", json={}).json()["id"] for _ in range(4)} == {*asked}
    assert [client.post("/activelearning/first", json={}).json()["id"] for _ in range(2)] == ["Adams", "Baker"]
    assert predicted_dice({"statistics": {"liver": {"predicted_dice": "a"}}}) is None
    assert predicted_dice(None) is None


def dripping(bytes_each: int, pause_s: float, limits: Limits) -> HTTPException:
    """Return what an upload ends with that brings some bytes every so often, for ever."""

    async def more():
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": b"x" * bytes_each, "more_body": True}

    async def take() -> None:
        receive = Guard(Starlette(), limits, Log())._limited(more)
        while True:
            await receive()

    with pytest.raises(HTTPException) as refused:
        asyncio.run(take())
    return refused.value


def test_an_upload_that_drips_is_ended_by_its_rate_and_one_that_lasts_by_its_time():
    drip = dripping(1, 0.001, Limits(grace_s=0.05, least_rate=1e6))
    assert (drip.status_code, "KiB/s" in drip.detail) == (408, True)
    long = dripping(100_000, 0.001, Limits(upload_s=0.05, grace_s=60))
    assert (long.status_code, "took more than" in long.detail) == (408, True)
    assert "nothing was received" in dripping(1, 5, Limits(silence_s=0.01)).detail


@pytest.fixture
def address(service) -> Iterator[str]:
    """Serve on a socket, with an upload's grace of a second; which ends by its own flag."""
    limits = Limits(grace_s=1.0)
    patient = Service(service.models, service.datastore, service.sessions, limits, meter=service.meter)
    listening, server = listen("127.0.0.1", 0), server_of(make_app(patient))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    patient.close()
    listening.close()


HEAD = b"PUT /session/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
HEAD += b"Content-Length: 999999\r\n\r\n--x\r\n"
HEAD += b'Content-Disposition: form-data; name="files"; filename="a.nii.gz"\r\n\r\n'


def test_slow_and_idle_connections_block_nobody_and_end(address, service):
    port = int(address.rpartition(":")[2])
    with ExitStack() as opened:

        def connect(count: int) -> list[socket.socket]:
            return [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]

        slow = connect(40)  # more than may upload at a time
        for one in slow:
            one.sendall(HEAD)
        assert httpx.get(f"{address}/info/", timeout=30).status_code == 200
        connect(40)  # idle: together more than may be connected
        assert httpx.get(f"{address}/info/", timeout=30).status_code == 200
        deadline = time.monotonic() + 60
        while service.meter.cut["slow"] < 10 and time.monotonic() < deadline:
            for one in slow:  # each goes on a byte at a time, until it is told
                with suppress(OSError):
                    one.sendall(b"x")
            time.sleep(0.1)
        assert service.meter.cut["slow"] >= 10
        assert httpx.get(f"{address}/info/", timeout=30).status_code == 200


def test_a_second_request_whose_head_never_ends_is_not_waited_for(address, monkeypatch):
    monkeypatch.setattr("viscera.serving.running.SILENCE_S", 0.3)
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(b"GET /auth/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        one.settimeout(20)
        assert b"200 OK" in one.recv(4096)
        one.sendall(b"GET /auth/ HTTP/1.1\r\nHost: 127.0")  # from here on uvicorn's own timer is off
        ended = b"?"
        with suppress(ConnectionError):
            while ended:
                ended = one.recv(4096)
    assert ended in (b"", b"?")
