"""The node over loopback: what comes in, who is refused, what is ignored, and that a kill loses and doubles nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("pynetdicom", reason="viscera[pacs] is not installed")

from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage, SegmentationStorage
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt

from dicom_series import write_series
from ports import free_port
from viscera.errors import SettingError
from viscera.inference.model import load_model
from viscera.inference.predict import PredictOptions
from viscera.io import nifti
from viscera.pacs.address import Node, Web, parse_address
from viscera.pacs.node import Work, step
from viscera.pacs.receiving import Counts, Door, start_node
from viscera.pacs.spool import Job, Spool, State
from viscera.pacs.status import metrics, status

VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture(name="node")
def _node(tmp_path):
    """A node on a free port, with its queue and its log."""
    spool, lines, counts = Spool(tmp_path / "queue", "w"), [], Counts()
    spool.open()
    server = start_node(Door(port=0, callers=("FRIEND",)), spool, counts, lines.append)
    yield server.server_address[1], spool, lines, counts
    server.shutdown()


def call(port, *, title="FRIEND", kinds=(VERIFICATION, CTImageStorage, SecondaryCaptureImageStorage)):
    """Return an association with a node."""
    ae = AE(title)
    for kind in kinds:
        ae.add_requested_context(kind)
    return ae.associate("127.0.0.1", port, ae_title="VISCERA")


def held(spool: Spool, key: str, state: State) -> Job:
    """Return a job that is in a state."""
    job = spool.find(key, state)
    assert job is not None
    return job


def store(port, files):
    """Send files; return the statuses."""
    association = call(port)
    assert association.is_established
    found = [association.send_c_store(pydicom.dcmread(file)).Status for file in files]
    association.release()
    return found


def test_images_are_on_the_disk_when_their_sender_is_told_so(node, tmp_path):
    port, spool, lines, counts = node
    files = write_series(tmp_path / "ct")
    assert set(store(port, files)) == {0}
    [job] = spool.jobs("incoming")
    kept = {pydicom.dcmread(file).SOPInstanceUID for file in job.images.iterdir()}
    assert kept == {pydicom.dcmread(file).SOPInstanceUID for file in files}
    assert lines == []
    assert counts.now() == {"images": len(files)}


def test_echo_is_answered_and_an_unknown_caller_is_refused(node):
    port, _, lines, counts = node
    association = call(port)
    assert association.send_c_echo().Status == 0
    association.release()
    assert call(port, title="STRANGER").is_rejected
    assert counts.now() == {"associations refused": 1}
    assert "STRANGER" not in "".join(lines)


def test_a_series_waits_longer_while_its_sender_is_connected(node, tmp_path):
    port, spool, lines, _ = node
    work, model = Work(PredictOptions(), quiet_s=0.05), load_model(Path("starter"), accelerator="cpu", runtime="auto")
    association = call(port)
    association.send_c_store(pydicom.dcmread(write_series(tmp_path / "ct")[0]))
    time.sleep(0.1)
    assert not step(spool, model, work, lines.append, senders=lambda: 1)
    assert spool.jobs("waiting") == spool.jobs("working") == []
    association.release()
    assert step(spool, model, work, lines.append)  # one slice is no scan
    [job] = spool.jobs("failed")
    assert lines == [f"{job.key}: complete", f"{job.key}: failed (GeometryError)"]


def test_other_kinds_and_own_results_are_let_go_and_named_by_their_class_only(node, tmp_path):
    port, spool, lines, _ = node

    def other(dataset, index):
        if index:
            dataset.Manufacturer = "viscera"
        else:
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage

    files = write_series(tmp_path / "ct", np.zeros((2, 16, 16), np.int16), edit=other)
    assert store(port, files) == [0, 0]
    assert spool.jobs("incoming") == []
    assert lines == [
        "ignored: Secondary Capture Image Storage",
        "ignored, of viscera's own making: CT Image Storage",
    ]


def test_an_image_that_is_too_large_is_refused(tmp_path):
    spool, counts = Spool(tmp_path / "queue", "w"), Counts()
    spool.open()
    server = start_node(Door(port=0, image_bytes=1000), spool, counts, lambda line: None)
    try:
        [file, *_] = write_series(tmp_path / "ct")
        assert store(server.server_address[1], [file]) == [0xA700]
        assert spool.jobs("incoming") == []
    finally:
        server.shutdown()


def test_a_series_that_comes_again_is_one_job_and_one_with_late_images_fails(tmp_path):
    spool = Spool(tmp_path / "queue", "w")
    spool.open()
    key = spool.add("1.2", "a", b"image")
    assert spool.add("1.2", "b", b"image") == key
    assert spool.complete(held(spool, key, "incoming")) == "waiting"
    spool.add("1.2", "a", b"image")
    assert spool.complete(held(spool, key, "incoming")) == "busy"
    spool.finish(spool.move(held(spool, key, "waiting"), "sending"))
    assert spool.complete(held(spool, key, "incoming")) == "seen"
    spool.add("1.2", "c", b"image")
    assert spool.complete(held(spool, key, "incoming")) == "late"
    assert "send the whole series again" in held(spool, key, "failed").facts()["reason"]
    assert status(spool)["failed"] == [{"job": key, "reason": held(spool, key, "failed").facts()["reason"]}]
    for name in "abc":
        spool.add("1.2", name, b"image")
    assert spool.complete(held(spool, key, "incoming")) == "waiting"
    assert Spool(tmp_path / "queue", "other").add("1.2", "a", b"image") != key


def test_what_was_being_segmented_waits_again_after_a_kill(tmp_path):
    spool = Spool(tmp_path / "queue", "w")
    spool.open()
    key = spool.add("1.2", "a", b"image")
    spool.move(held(spool, key, "incoming"), "working")
    spool.open()
    assert [job.key for job in spool.jobs("waiting")] == [key]
    assert spool.jobs("working") == []
    assert 'viscera_jobs{state="waiting"} 1' in metrics(spool, {})


def test_destinations_are_nodes_or_dicomweb_and_nothing_else():
    assert parse_address("A B@[::1]:104") == Node("A B", "::1", 104)
    assert parse_address("http://127.0.0.1:8042/dicom-web/") == Web("http://127.0.0.1:8042/dicom-web")
    for wrong in ("ORTHANC", "A@b:0", "A@b:70000", "TITLE_OF_17_LETTER@h:1", "http://", "http://u:p@h/"):
        with pytest.raises(SettingError, match="--send-to"):
            parse_address(wrong)


class Receiver:
    """An archive of the test: keeps the SEGs that it is sent, by their identifiers, and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times, self.lock = folder, [], threading.Lock()
        folder.mkdir()
        ae = AE("ARCHIVE")
        ae.add_supported_context(SegmentationStorage, ALL_TRANSFER_SYNTAXES)
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.keep)])
        assert self.server is not None
        self.port = self.server.server_address[1]

    def keep(self, event):
        """Keep a SEG."""
        uid = event.request.AffectedSOPInstanceUID
        (self.folder / f"{uid}.dcm").write_bytes(event.encoded_dataset())
        with self.lock:
            self.times.append(str(uid))
        return 0


def listen(queue, port, to, log):
    """Start the verb, and wait until it listens."""
    command = [sys.executable, "-m", "viscera.cli", "listen", str(queue), "--port", str(port), "--quiet", "1"]
    with log.open("a") as stream:
        process = subprocess.Popen([*command, "--send-to", *to], stderr=stream, env=dict(os.environ))
    begun = time.monotonic()
    while "listening" not in log.read_text().rsplit("= start", 1)[-1]:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() - begun < 120
        time.sleep(0.1)
    return process


def wait_for(queue, count, *, state: State = "done"):
    """Wait until so many jobs are in a state."""
    begun = time.monotonic()
    while len(Spool(queue).jobs(state)) < count:
        assert time.monotonic() - begun < 120, status(Spool(queue))
        time.sleep(0.05)


def patient(folder, seed):
    """Write the series of a synthetic patient, in whom the bundled weights find organs."""
    from viscera.cli.command import main

    made = folder.parent / f"synth{seed}"
    assert (
        main(["synth", str(made), "--cases", "1", "--seed", str(seed), "--shape", "48", "128", "128", "--jobs", "1"])
        == 0
    )
    [image, *_] = sorted(made.rglob("*.nii.gz"))
    volume = nifti.read(image)
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0).round(3)
    write_series(folder, np.clip(volume.voxels, -1024, 3000).astype(np.int16), spacing=tuple(map(float, spacing)))
    return sorted(folder.iterdir())


@pytest.mark.slow
def test_kills_lose_nothing_and_double_nothing_and_voxels_are_those_of_predict(tmp_path):
    from viscera.cli.command import main

    archive, queue, port = Receiver(tmp_path / "archive"), tmp_path / "queue", free_port()
    to, log = [f"ARCHIVE@127.0.0.1:{archive.port}"], tmp_path / "log"
    series = [patient(tmp_path / f"ct{seed}", seed) for seed in range(3)]
    process = listen(queue, port, to, log)
    try:
        for files in series:
            assert set(store(port, files)) == {0}
        hits = 0
        for _ in range(2):
            begun = time.monotonic()
            while not Spool(queue).jobs("working") and time.monotonic() - begun < 60:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
            hits += len(Spool(queue).jobs("working"))  # what it was at lies there
            with log.open("a") as stream:
                stream.write("= start\n")
            process = listen(queue, port, to, log)
        assert hits == 2
        wait_for(queue, 3)
        assert len(archive.times) == len(set(archive.times)) == 3
        for files in series:  # the same again is known
            store(port, files)
        wait_for(queue, 3)
        time.sleep(3)
        assert len(archive.times) == 3
        assert Spool(queue).jobs("incoming") == []
    finally:
        process.kill()
        process.wait()
        assert archive.server is not None
        archive.server.shutdown()
    assert "Test" not in log.read_text()
    assert "2.25" not in log.read_text()
    ways = {}
    for number in range(3):
        out = tmp_path / f"out{number}.nii.gz"
        assert main(["predict", str(tmp_path / f"ct{number}"), str(out), "--write", "seg"]) == 0
        ways[pydicom.dcmread(series[number][0]).StudyInstanceUID] = out
    for file in (tmp_path / "archive").iterdir():
        sent = pydicom.dcmread(file)
        expected = pydicom.dcmread(str(ways[sent.StudyInstanceUID]).replace(".nii.gz", ".seg.dcm"))
        assert sent.PixelData == expected.PixelData
        assert len(sent.SegmentSequence) > 0
