"""The node beside a real archive: Orthanc sends series, and gets segmentations and structure sets back.

Orthanc is Debian's (orthanc, orthanc-dicomweb); it is started on loopback by a tool that lies beside this repository where its
developers work. pytest -m slow tests/pacs/test_orthanc.py: some minutes. With VISCERA_RECORD=1 the figures go to
benchmarks/results/pacs.json.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from pydicom import Dataset

pytest.importorskip("pynetdicom", reason="viscera[pacs] is not installed")

from dicom_series import write_series
from ports import free_port
from viscera.cli.command import main
from viscera.inference.jobs import own_facts
from viscera.io import nifti
from viscera.pacs.spool import Job, Spool, last_change
from viscera.synthesis.patient import synthesize
from viscera.volume import to_axial

SHARED = Path(__file__).parents[3] / "shared"
START = SHARED / "tools" / "orthanc" / "start"
LIDC = SHARED / "data" / "lidc" / "LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not Path("/usr/sbin/Orthanc").exists() or not START.exists(), reason="no Orthanc to start"),
]
GOOD, BROKEN = 17, 3


class Archive:
    """Orthanc, by its REST interface."""

    def __init__(self, folder: Path) -> None:
        self.http, self.dicom = free_port(), free_port()
        subprocess.run(
            ["bash", str(START), str(folder), str(self.http), str(self.dicom)], check=True, capture_output=True
        )
        self.pid = int((folder / "pid").read_text())
        self.rest = httpx.Client(base_url=f"http://127.0.0.1:{self.http}", timeout=300)
        self.web = f"http://127.0.0.1:{self.http}/dicom-web"
        self.node = f"ORTHANC@127.0.0.1:{self.dicom}"

    def add(self, files: list[Path]) -> str:
        """Store files, all of one series; return Orthanc's name of the series."""
        answers = [self.rest.post("/instances", content=file.read_bytes()).raise_for_status().json() for file in files]
        return answers[0]["ParentSeries"]

    def send(self, series: str) -> None:
        """Let it send a series to the node."""
        self.rest.post("/modalities/node/store", content=series).raise_for_status()

    def know(self, port: int) -> None:
        """Tell it where the node is."""
        self.rest.put("/modalities/node", json={"AET": "VISCERA", "Host": "127.0.0.1", "Port": port}).raise_for_status()

    def of(self, modality: str) -> list[Dataset]:
        """Return all it has of a modality."""
        found = []
        for series in self.rest.get("/series").json():
            facts = self.rest.get(f"/series/{series}").json()
            if facts["MainDicomTags"].get("Modality") == modality:
                for one in facts["Instances"]:
                    content = self.rest.get(f"/instances/{one}/file").content
                    found.append(pydicom.dcmread(BytesIO(content)))
        return found


@pytest.fixture
def archive(tmp_path) -> Iterator[Archive]:
    one = Archive(tmp_path / "orthanc")
    yield one
    one.rest.close()
    os.kill(one.pid, signal.SIGTERM)


class Node:
    """`viscera listen`, that can be killed and started again."""

    def __init__(self, queue: Path, words: list[str]) -> None:
        self.queue, self.port, self.log = queue, free_port(), queue.parent / "node.log"
        self.words = ["listen", str(queue), "--port", str(self.port), "--quiet", "1", *words]
        self.start()

    def start(self) -> None:
        with self.log.open("a") as stream:
            stream.write("= start\n")
            stream.flush()
            self.process = subprocess.Popen([sys.executable, "-m", "viscera.cli", *self.words], stderr=stream)
        begun = time.monotonic()
        while "listening" not in self.log.read_text().rsplit("= start", 1)[-1]:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - begun < 120
            time.sleep(0.1)

    def kill_at_work(self) -> int:
        """Kill it while it segments; return how many jobs lie where they were being segmented."""
        begun = time.monotonic()
        while not Spool(self.queue).jobs("working") and time.monotonic() - begun < 120:
            time.sleep(0.002)
        self.process.kill()
        self.process.wait()
        return len(Spool(self.queue).jobs("working"))

    def wait(self, done: int, failed: int = 0) -> None:
        spool, begun = Spool(self.queue), time.monotonic()
        while (len(spool.jobs("done")), len(spool.jobs("failed"))) != (done, failed):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - begun < 600, [(job.state, job.facts()) for job in spool.jobs("failed")]
            time.sleep(0.1)


@pytest.fixture
def node(tmp_path) -> Iterator:
    """Start nodes, and end them."""
    made: list[Node] = []

    def _start(words: list[str]) -> Node:
        made.append(Node(tmp_path / f"queue{len(made)}", words))
        return made[-1]

    yield _start
    for one in made:
        one.process.kill()
        one.process.wait()


def _patient(folder: Path, seed: int, shape: tuple[int, int, int] = (32, 96, 96), **options) -> list[Path]:
    """Write the series of a synthetic patient."""
    patient = synthesize(np.random.default_rng(seed), shape=shape, orientation="axial", scan="upper")
    z, y, x = (round(float(one), 3) for one in patient.ct.spacing_mm)
    return write_series(folder, patient.ct.voxels, spacing=(z, y, x), **options)


def _broken(folder: Path, kind: int) -> list[Path]:
    """Write a series that cannot be segmented: one slice, a gap, or slices turned against each other."""
    if kind == 0:
        return _patient(folder, 90)[:1]
    if kind == 1:
        files = _patient(folder, 91)
        return [*files[:12], *files[19:]]

    def turn(dataset: Dataset, index: int) -> None:
        if index % 2:
            dataset.ImageOrientationPatient = ["0", "1", "0", "1", "0", "0"]

    return _patient(folder, 92, edit=turn)


def test_results_come_back_both_ways_with_the_voxels_of_predict(archive, node, tmp_path):
    running = node(["--send-to", archive.node, archive.web, "--write", "seg", "rtstruct"])
    archive.know(running.port)
    files = _patient(tmp_path / "ct", 1)
    archive.send(archive.add(files))
    running.wait(done=1)
    (seg,), (structures,) = archive.of("SEG"), archive.of("RTSTRUCT")  # sent twice, there once
    out = tmp_path / "out.nii.gz"
    assert main(["predict", str(tmp_path / "ct"), str(out), "--write", "seg", "rtstruct"]) == 0
    expected = pydicom.dcmread(tmp_path / "out.seg.dcm")
    assert seg.PixelData == expected.PixelData
    assert [one.SegmentLabel for one in seg.SegmentSequence] == [one.SegmentLabel for one in expected.SegmentSequence]
    contours = pydicom.dcmread(tmp_path / "out.rtstruct.dcm")
    assert structures.ROIContourSequence == contours.ROIContourSequence
    assert {one.PatientID for one in (seg, structures)} == {"T1"}
    # What Orthanc forwards of our own starts no circle.
    archive.send(archive.rest.get("/series").json()[0])
    for series in archive.rest.get("/series").json():
        archive.send(series)
    time.sleep(4)
    running.wait(done=1)
    assert (len(archive.of("SEG")), len(archive.of("RTSTRUCT"))) == (1, 1)


def test_predict_from_and_to_the_archive(archive, tmp_path):
    files = _patient(tmp_path / "ct", 2)
    archive.add(files)
    out = tmp_path / "out"
    assert main(["predict", f"dicomweb:{archive.web}?PatientID=T1", str(out), "--write", "seg", "--send"]) == 0
    [seg] = archive.of("SEG")
    assert main(["predict", str(tmp_path / "ct"), str(tmp_path / "own.nii.gz"), "--write", "seg"]) == 0
    assert seg.PixelData == pydicom.dcmread(tmp_path / "own.seg.dcm").PixelData


def test_twenty_series_three_of_them_broken_and_two_kills(archive, node, tmp_path):
    series = [archive.add(_patient(tmp_path / f"ct{number}", number)) for number in range(GOOD)]
    series[5:5] = [archive.add(_broken(tmp_path / f"broken{kind}", kind)) for kind in range(BROKEN)]
    running = node(["--send-to", archive.node])
    archive.know(running.port)
    begun = time.monotonic()
    for one in series:
        archive.send(one)
    hits = 0
    for _ in range(2):
        hits += running.kill_at_work()
        running.start()
    running.wait(done=GOOD, failed=BROKEN)
    seconds = time.monotonic() - begun
    assert hits == 2
    segs = archive.of("SEG")
    assert (
        len(segs) == len({one.SOPInstanceUID for one in segs}) == len({one.SeriesInstanceUID for one in segs}) == GOOD
    )
    referenced = {one.ReferencedSeriesSequence[0].SeriesInstanceUID for one in segs}
    assert len(referenced) == GOOD
    reasons = sorted(job.facts()["reason"] for job in Spool(running.queue).jobs("failed"))
    assert len(set(reasons)) == BROKEN  # each says its own
    for one in series[:2]:  # again: known
        archive.send(one)
    time.sleep(4)
    running.wait(done=GOOD, failed=BROKEN)
    assert len(archive.of("SEG")) == GOOD
    log = running.log.read_text()
    assert not any(word in log for word in ("Test", "T1", "1.2.826", "2.25."))
    _record("twenty_series", {"results": len(segs), "failures": reasons, "kills": hits, "seconds": round(seconds, 1)})


@pytest.mark.skipif(not LIDC.exists(), reason="no scan of LIDC-IDRI")
def test_how_long_a_real_series_takes_from_its_last_image_to_the_result(archive, node, tmp_path):
    scan = to_axial(nifti.read(LIDC))[0]
    z, y, x = (round(float(one), 5) for one in scan.spacing_mm)
    series = archive.add(write_series(tmp_path / "ct", np.asarray(scan.voxels, np.int16), spacing=(z, y, x)))
    running = node(["--send-to", archive.node])
    archive.know(running.port)
    rows = []
    for _ in range(3):
        archive.send(series)
        spool, begun = Spool(running.queue), time.monotonic()
        last = 0.0
        while not spool.jobs("done") and time.monotonic() - begun < 300:
            for job in (*spool.jobs("incoming"), *spool.jobs("waiting"), *spool.jobs("working")):
                with suppress(FileNotFoundError):  # it moved on meanwhile
                    last = max(last, last_change(job))
            time.sleep(0.02)
        [job] = spool.jobs("done")
        facts = job.facts()
        [seg] = archive.of("SEG")
        rows.append(
            {
                "quiet_s": round(facts["completed"] - last, 2),
                "waiting_s": round(facts["began"] - facts["completed"], 2),
                "segmenting_s": facts["segmented_s"],
                "sending_s": facts["sent_s"],
                "whole_s": round(facts["ended"] - last, 2),
                "stages": _stages(job, facts["segmented_s"]),
            }
        )
        assert 0 < rows[-1]["whole_s"] < 300
        for one in archive.rest.get("/series").json():
            if archive.rest.get(f"/series/{one}").json()["MainDicomTags"].get("Modality") == "SEG":
                archive.rest.delete(f"/series/{one}")
        assert seg.NumberOfFrames > 0
        job.folder.rename(tmp_path / f"done{len(rows)}")  # so that the series is new again
    _record("slices_275", {"slices": len(scan.voxels), "--quiet": 1, "rows": rows})


def _stages(job: Job, segmented_s: float) -> dict[str, float]:
    """Part what segmenting took: reading, the network and all around it, writing; rest_s is what no clock of its own counts."""
    facts = own_facts(job.results / f"{job.key}.json")
    assert facts is not None
    seconds = dict(facts["run"]["seconds"])
    read, written = seconds.pop("read"), {"label_map_s": seconds.pop("write"), "dicom_s": seconds.pop("dicom")}
    inside = sum(seconds.values())
    rest = segmented_s - read - sum(written.values()) - inside
    return {
        name: round(value, 3)
        for name, value in {"read_s": read, "segment_s": inside, **written, "rest_s": rest}.items()
    }


def _record(what: str, found: object) -> None:
    """Put figures into benchmarks/results/pacs.json."""
    if not os.environ.get("VISCERA_RECORD"):
        return
    from benchmarks.machine import RESULTS, facts, save

    file = RESULTS / "pacs.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    kept = {name: old[name] for name in ("twenty_series", "slices_275") if name in old}
    save("pacs", facts("pynetdicom", "pydicom", "openvino") | kept | {what: found})
