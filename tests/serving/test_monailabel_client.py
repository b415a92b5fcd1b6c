"""The unmodified client of MONAI Label against `viscera serve` on a socket, with the bundled weights.

The client comes from the wheel, which is no part of this repository (Apache-2.0, 20 MB). To run this:
pip download --no-deps monailabel -d FOLDER, VISCERA_MONAILABEL=FOLDER, pytest -m slow tests/serving.
With VISCERA_RECORD=1 the figures of the correction loop go to benchmarks/results/serve_loop.json.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import SimpleITK as sitk

import viscera
from viscera.cli.command import main
from viscera.io import nifti
from viscera.synthesis.patient import synthesize
from viscera.volume import with_voxels

FOLDER = Path(os.environ.get("VISCERA_MONAILABEL", Path(tempfile.gettempdir(), "monailabel")))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:'cgi' is deprecated", "ignore:unclosed", "ignore:Exception ignored"),
]


@pytest.fixture(scope="module")
def client_module() -> types.ModuleType:
    """Return monailabel/client/client.py, from the wheel."""
    wheels = sorted(FOLDER.glob("monailabel-*.whl"))
    if not wheels:
        pytest.skip(f"no wheel of monailabel in {FOLDER}")
    if sys.version_info >= (3, 13):
        pytest.skip("the client needs cgi, which Python 3.13 has no more")
    module = types.ModuleType("monailabel_client")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        source = wheel.read("monailabel/client/client.py")
    exec(compile(source, "client.py", "exec"), module.__dict__)
    return module


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run the command, and return it with its address; sessions go to tmp_path/tmp."""
    (tmp_path / "tmp").mkdir()
    words = [sys.executable, "-m", "viscera.cli", "serve", str(tmp_path / "studies"), "--port", "0", "--device", "cpu"]
    running = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    )
    try:
        assert running.stderr is not None
        lines = iter(running.stderr.readline, "")
        address = next(word for line in lines for word in line.split() if word.startswith("http://"))
        yield running, address
    finally:
        running.kill()
        running.communicate()


def test_the_clients_whole_way(client_module, server, tmp_path):
    running, address = server
    patient = synthesize(np.random.default_rng([77, 1]), shape=(32, 128, 128))
    file = tmp_path / "scan.nii.gz"
    nifti.write(file, patient.ct)
    (tmp_path / "answers").mkdir()
    client = client_module.MONAILabelClient(address, str(tmp_path / "answers"), "somebody")

    assert client.auth_enabled() is False
    info = client.info()
    assert "liver" in info["models"]["starter"]["labels"]

    session = client.create_session(str(file))["session_id"]
    assert client.get_session(session)["expiry"] > 0
    answer, params = client.infer(
        "starter", "scan", {"result_extension": ".nrrd", "result_dtype": "uint8"}, session_id=session
    )
    assert answer.endswith(".nrrd")
    found, names = sitk.ReadImage(answer), list(params["label_names"])
    assert main(["predict", str(file), str(tmp_path / "expected.nii.gz"), "--device", "cpu"]) == 0
    expected = viscera.read(tmp_path / "expected.nii.gz").voxels
    labels = {
        organ: int(label) for label, organ in json.loads((tmp_path / "expected.json").read_text())["labels"].items()
    }
    values = sitk.GetArrayFromImage(found)
    assert np.unique(values).tolist() == list(range(len(names) + 1))
    assert {"liver", "spleen"} <= set(names)
    different = {
        organ: int(np.sum((values == value) != (expected == labels[organ])))
        for value, organ in enumerate(names, start=1)
    }
    assert not any(different.values()), different
    scan = sitk.ReadImage(file)
    for place in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert np.allclose(getattr(found, place)(), getattr(scan, place)(), atol=1e-5)  # NIfTI's are float32
    assert client.remove_session(session)["expiry"] > 0
    with pytest.raises(client_module.MONAILabelClientException):
        client.get_session(session)

    assert client.upload_image(str(file), "patient") == {"image": "patient"}
    again, params = client.infer("starter", "patient", {})
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(again)), values)
    sample = client.next_sample("least_sure", {})
    assert sample["id"] == "patient"

    corrected = tmp_path / "corrected.nii.gz"
    nifti.write(corrected, with_voxels(patient.ct, values))
    info = [{"name": name, "idx": value} for value, name in enumerate(names, start=1)]
    assert client.save_label("patient", str(corrected), params={"label_info": info})["label"] == "patient"
    assert list(client.datastore()["objects"]["patient"]["labels"]["final"]["info"]["params"]["label_names"]) == names
    assert np.array_equal(viscera.read(client.download_label("patient", "final")).voxels, values)
    assert client.next_sample("least_sure", {}) == {}

    assert client.train_status(check_if_running=True) is False
    with pytest.raises(client_module.MONAILabelClientException) as refused:
        client.train_start("starter", {})
    assert "too few to learn from" in refused.value.msg

    running.send_signal(signal.SIGINT)
    assert running.wait(10) == 0
    assert running.stderr is not None
    assert "the server has ended" in running.stderr.read()
    assert not list((tmp_path / "tmp").glob("viscera-*"))
    assert sorted(one.name for one in (tmp_path / "studies").iterdir()) == ["labels", "patient.nii.gz"]


CORRECTED = ("liver", "spleen", "kidney_left", "kidney_right", "stomach", "aorta")


def test_corrections_make_a_better_version_that_serves_and_can_be_gone_back_from(client_module, server, tmp_path):
    _, address = server
    (tmp_path / "answers").mkdir()
    client = client_module.MONAILabelClient(address, str(tmp_path / "answers"), "somebody")
    assert list(client.info()["trainers"]) == ["starter"]
    start = time.perf_counter()
    for number in range(6):
        patient = synthesize(np.random.default_rng([78, number]), shape=(40, 112, 112))
        files = [tmp_path / f"{kind}.nii.gz" for kind in ("scan", "labels")]
        nifti.write(files[0], patient.ct, overwrite=True)
        table = np.zeros(256, np.uint8)
        for value, organ in enumerate(CORRECTED, start=1):
            table[next(label for label, name in patient.organs.items() if name == organ)] = value
        nifti.write(files[1], with_voxels(patient.ct, table[patient.labels.voxels]), overwrite=True)
        client.upload_image(str(files[0]), f"patient {number}")
        info = [{"name": name, "idx": value} for value, name in enumerate(CORRECTED, start=1)]
        client.save_label(f"patient {number}", str(files[1]), params={"label_info": info})
    corrected_s = time.perf_counter() - start
    start = time.perf_counter()
    assert client.train_start("starter", {"max_epochs": 3, "steps": 20})["status"] == "RUNNING"
    assert client.train_status(check_if_running=True) is True
    while client.train_status(check_if_running=True):
        time.sleep(1)
    task = client.train_status()
    trained_s = time.perf_counter() - start
    assert task["status"] == "DONE", task["details"]
    found = task["result"]
    assert (found["cases"], len(found["case_dice"])) == (2, 2)
    info = client.info()
    stats = info["train_stats"]["starter"]
    assert found["better"] == (found["serving"] == 2) == (info["models"]["starter"]["version"] == 2)
    compared = [*stats["versions"][1:], *stats["not_better"]]
    assert [(one["old_dice"], one["new_dice"]) for one in compared] == [(found["old_dice"], found["new_dice"])]
    log = httpx.get(f"{address}/logs/").text
    assert f"Dice {found['old_dice']:.4f} (version 1) and {found['new_dice']:.4f} (new)" in log
    assert "patient" not in log
    if found["better"]:
        assert httpx.post(f"{address}/rollback/starter", timeout=60).json()["version"] == 1
    if os.environ.get("VISCERA_RECORD"):
        from benchmarks.machine import facts, save

        seconds = {"sending_6_corrections": round(corrected_s, 1), "training_and_comparing": round(trained_s, 1)}
        what = "6 synthetic patients of 40x112x112 voxels through MONAI Label's unmodified client: 4 to train on, 2 held back"
        rows = {"what": what, "seconds": seconds, "settings": task["request"], "result": found}
        save("serve_loop", facts("torch", "starlette", "uvicorn") | rows)


def test_an_idle_connection_and_half_a_request_do_not_block_others(client_module, server, tmp_path):
    _, address = server
    port = int(address.rpartition(":")[2])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    head = b"PUT /session/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n"
    for one in idle[10:]:
        one.sendall(head + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x")
    assert client_module.MONAILabelClient(address, str(tmp_path)).info()["name"] == "viscera"
    for one in idle:
        one.close()


def test_a_flood_of_idle_connections_ends_by_itself(server):
    _, address = server
    port = int(address.rpartition(":")[2])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(80)]
    start = time.monotonic()
    while (status := httpx.get(f"{address}/info/").status_code) == 503 and time.monotonic() - start < 60:
        time.sleep(0.5)
    assert status == 200
    for one in idle:
        one.close()


def test_ctrl_c_ends_it_while_a_scan_is_segmented(server, tmp_path):
    running, address = server
    patient = synthesize(np.random.default_rng(1), shape=(400, 128, 128))
    nifti.write(tmp_path / "studies" / "long.nii.gz", patient.ct)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, f"{address}/infer/starter?image=long", timeout=60)
        time.sleep(2)
        start = time.monotonic()
        running.send_signal(signal.SIGINT)
        assert running.wait(30) in (0, 130)
        assert time.monotonic() - start < 5
        with suppress(
            httpx.HTTPError
        ):  # the connection ends: without an answer, with a refusal, or with what was done just then
            assert waiting.result().status_code in (200, 500, 503)
    assert not list((tmp_path / "tmp").glob("viscera-*"))
