"""Results on their way: over TLS, to archives that refuse, lie, are slow or away; what waits while weights change; the page."""

import http.server
import json
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

pytest.importorskip("pynetdicom", reason="viscera[pacs] is not installed")

from pydicom.uid import CTImageStorage
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt

from certificates import own_certificate
from dicom_series import write_series
from viscera.errors import SettingError
from viscera.inference.dicom_objects import DicomOptions, kinds_of
from viscera.inference.model import load_model
from viscera.inference.predict import PredictOptions
from viscera.pacs.address import Node, Web
from viscera.pacs.dicomweb import ArchiveError
from viscera.pacs.node import Work, send_due, start_sending, step
from viscera.pacs.picture import draw_last
from viscera.pacs.receiving import Counts, Door, series_uid, server_tls, start_node
from viscera.pacs.sending import client_tls, instance_uid, send_files
from viscera.pacs.spool import Job, Spool, series_key
from viscera.pacs.status import page, start_status, status
from viscera.synthesis.patient import synthesize

# pynetdicom leaves a socket that could not connect, or whose TLS failed, to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed")


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Two DICOM files, as results of a job are."""
    return write_series(tmp_path / "made", np.zeros((2, 16, 16), np.int16))


def _job(spool: Spool, files: list[Path], name: str = "1.2") -> Job:
    """A job whose results are there and are to be sent."""
    key = spool.add(name, "a", b"image")
    found = spool.find(key, "incoming")
    assert found is not None
    assert spool.complete(found) == "waiting"
    job = spool.find(key, "waiting")
    assert job is not None
    job.results.mkdir()
    for file in files:
        shutil.copy(file, job.results)
    job.note(results=[file.name for file in files], sent=[], tries=0)
    return spool.move(job, "sending")


def _open(folder: Path, weights: str = "w") -> Spool:
    spool = Spool(folder, weights)
    spool.open()
    return spool


class Peer:
    """A DICOM node of the test: answers with a status, after a while."""

    def __init__(self, *, status: int = 0, wait_s: float = 0.0, tls: ssl.SSLContext | None = None) -> None:
        self.status, self.wait_s, self.uids = status, wait_s, []
        ae = AE("ARCHIVE")
        ae.add_supported_context(CTImageStorage, ALL_TRANSFER_SYNTAXES)
        handlers: list = [(evt.EVT_C_STORE, self._take)]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls)
        assert self.server is not None
        self.node = Node("ARCHIVE", "127.0.0.1", self.server.server_address[1])

    def _take(self, event: evt.Event) -> int:
        time.sleep(self.wait_s)
        self.uids.append(str(event.dataset.SOPInstanceUID))
        return self.status

    def end(self) -> None:
        assert self.server is not None
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def peer():
    """Make peers, and end them."""
    made: list[Peer] = []

    def _make(**options: object) -> Peer:
        made.append(Peer(**options))  # type: ignore[arg-type]
        return made[-1]

    yield _make
    for one in made:
        one.end()


def test_an_archive_that_refuses_is_asked_again_later_each_time_and_then_named(tmp_path, files, peer):
    spool, lines, archive = _open(tmp_path / "queue"), [], peer(status=0xA700)
    job = _job(spool, files)
    work = Work(PredictOptions(), [archive.node], tries=3, first_wait_s=0.05)
    waits = []
    for _ in range(3):
        while not send_due(spool, work, lines.append):
            time.sleep(0.01)
        facts = status(spool)
        waits.append(facts["retried"])
    assert [one[0]["tries"] if one else None for one in waits] == [1, 2, None]
    assert lines == [f"{job.key}: not sent, try {number} of 3 (ArchiveError)" for number in (1, 2, 3)]
    [failed] = spool.jobs("failed")
    assert "0xA700" in failed.facts()["reason"]
    assert len(archive.uids) == 3  # each try ended with the first file that was refused

    archive.status = 0
    assert Spool(tmp_path / "queue", "w").open(retry_failed=True) == 1
    assert send_due(spool, work, lines.append)
    assert [one.key for one in spool.jobs("done")] == [job.key]
    assert set(archive.uids[-2:]) == {instance_uid(file) for file in files}
    assert spool.jobs("done")[0].facts()["reason"] is None


def test_an_archive_that_is_away_gets_all_when_it_is_back_and_others_get_nothing_twice(tmp_path, files, peer):
    spool, there, lines = _open(tmp_path / "queue"), peer(), []
    away = Peer()
    away.end()
    _job(spool, files)
    work = Work(PredictOptions(), [there.node, away.node], first_wait_s=0.05)
    assert send_due(spool, work, lines.append)
    assert not spool.jobs("done")
    assert len(there.uids) == 2
    back = Peer()
    try:
        [job] = spool.jobs("sending")
        work = Work(PredictOptions(), [there.node, back.node], first_wait_s=0.05)
        while not send_due(spool, work, lines.append):
            time.sleep(0.01)
        assert job.key == spool.jobs("done")[0].key
        assert len(back.uids) == len(there.uids) == 2
    finally:
        back.end()


def test_a_slow_archive_keeps_no_other_work_waiting(tmp_path, files, peer):
    spool, slow = _open(tmp_path / "queue"), peer(wait_s=0.6)
    _job(spool, files)
    end = start_sending(spool, Work(PredictOptions(), [slow.node]), lambda line: None)
    try:
        begun = time.monotonic()
        while not spool.jobs("done") and time.monotonic() - begun < 30:
            assert spool.jobs("sending") or spool.jobs("done")  # this thread is free meanwhile
            time.sleep(0.05)
        assert spool.jobs("done")
    finally:
        end()
    assert not any(thread.name == "viscera sends" for thread in threading.enumerate())


def test_a_fault_in_the_sending_thread_is_told_and_does_not_end_it(tmp_path, files, peer, monkeypatch):
    spool, archive, lines = _open(tmp_path / "queue"), peer(), []
    _job(spool, files)
    calls = []

    def broken(*arguments: object, **options: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        send_files(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("viscera.pacs.node.send_files", broken)
    end = start_sending(spool, Work(PredictOptions(), [archive.node], first_wait_s=0.05), lines.append)
    begun = time.monotonic()
    while not spool.jobs("done") and time.monotonic() - begun < 30:
        time.sleep(0.02)
    end()
    assert len(archive.uids) == 2
    assert "ZeroDivisionError" in lines[0]


def test_what_waits_over_a_restart_with_other_weights_is_another_job(tmp_path):
    folder = tmp_path / "queue"
    spool = _open(folder, "old")
    uids = {}
    for number in range(2):
        series = write_series(tmp_path / f"ct{number}", np.zeros((2, 16, 16), np.int16))
        uids[number] = str(pydicom.dcmread(series[0]).SeriesInstanceUID)
        for file in series:
            spool.add(uids[number], file.name, file.read_bytes())
    first = spool.find(series_key(uids[0], "old"), "incoming")
    assert first is not None
    spool.complete(first)
    again = Spool(folder, "new")
    again.open(series_uid)
    assert again.jobs("waiting") == []
    assert {job.key for job in again.jobs("incoming")} == {series_key(uids[number], "new") for number in range(2)}
    renamed = again.find(series_key(uids[0], "new"), "incoming")
    assert renamed is not None
    assert again.complete(renamed) == "waiting"
    # A second image of what came in part under the old name joins it.
    late = Spool(folder, "newer")
    late.add(uids[1], "other", (tmp_path / "ct1" / "IM0000").read_bytes())
    late.open(series_uid)
    joined = late.find(series_key(uids[1], "newer"), "incoming")
    assert joined is not None
    assert len(list(joined.images.iterdir())) == 3


def test_a_series_that_waits_while_weights_change_and_change_back_is_done_once(tmp_path):
    for weights in ("first", "second", "first"):
        spool = _open(tmp_path / "queue", weights)
        spool.open(lambda job: "1.2")
        if spool.jobs("incoming"):
            break
        key = spool.add("1.2", "a", b"image")
        came = spool.find(key, "incoming")
        assert came is not None
        assert spool.complete(came) == "waiting"
        if weights == "first":
            spool.finish(spool.move(spool.jobs("waiting")[0], "sending"))
    [job] = spool.jobs("incoming")
    assert job.key == series_key("1.2", "first")
    assert spool.complete(job) == "seen"
    assert [len(spool.jobs(state)) for state in ("incoming", "waiting", "done")] == [0, 0, 1]


def _came(spool: Spool, names: str) -> str:
    """Let images of one series come; return what became of them."""
    for name in names:
        spool.add("1.2", name, b"image")
    [job] = spool.jobs("incoming")
    return spool.complete(job)


def test_a_part_of_a_series_is_not_put_back_and_neither_is_what_came_again(tmp_path):
    spool = _open(tmp_path / "queue")
    assert _came(spool, "ab") == "waiting"
    spool.fail(spool.jobs("waiting")[0], "a gap")
    assert _came(spool, "abc") == "waiting"
    assert spool.open(retry_failed=True) == 0  # the whole series waits already
    spool.finish(spool.move(spool.jobs("waiting")[0], "sending"))
    assert spool.open(retry_failed=True) == 0  # and has been segmented
    assert _came(spool, "de") == "late"
    assert spool.open(retry_failed=True) == 0
    shutil.rmtree(spool.jobs("done")[0].folder)  # as users do when it is old
    assert spool.open(retry_failed=True) == 0
    assert [len(list(job.images.iterdir())) for job in spool.jobs("failed")] == [2]
    assert spool.jobs("waiting") == []
    assert _came(spool, "abcde") == "waiting"
    spool.fail(spool.jobs("waiting")[0], "the disk was full")
    assert spool.open(retry_failed=True) == 1
    assert len(spool.jobs("waiting")) == 1


class _Liar(http.server.BaseHTTPRequestHandler):
    """Answers 200 to a STOW, and names of what it was sent only as much as it is told to."""

    named: tuple[str, ...] = ()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        rows = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in self.named]
        body = json.dumps({"00081199": {"vr": "SQ", "Value": rows}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web():
    """Serve a handler over HTTP, or HTTPS."""
    servers = []

    def _serve(handler: type, tls: ssl.SSLContext | None = None) -> int:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_address[1]

    yield _serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_stow_that_says_200_and_stores_nothing_counts_as_not_sent(tmp_path, files, web):
    uids = [instance_uid(file) for file in files]
    for named, said in (((), "0 of 2"), (tuple(uids[:1]), "1 of 2")):
        port = web(type("Liar", (_Liar,), {"named": named}))
        with pytest.raises(ArchiveError, match=said):
            send_files(files, Web(f"http://127.0.0.1:{port}"))
    port = web(type("Honest", (_Liar,), {"named": tuple(uids)}))
    send_files(files, Web(f"http://127.0.0.1:{port}"))


@pytest.fixture
def certificate(tmp_path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that is its own authority, and its key."""
    return own_certificate(tmp_path)


def test_results_travel_by_tls_to_a_node_that_shows_its_certificate_and_wants_ours(certificate, files, peer):
    pem, key = certificate
    archive = peer(tls=server_tls(pem, key, pem))
    send_files(files, archive.node, tls=client_tls(pem, pem, key))
    assert len(archive.uids) == 2
    for tls in (None, client_tls(pem)):  # no TLS at all; no certificate of our own
        with pytest.raises(ArchiveError):
            send_files(files, archive.node, tls=tls)
    assert len(archive.uids) == 2


def test_a_node_or_server_of_another_authority_gets_nothing(certificate, files, peer, web, tmp_path):
    pem, key = certificate
    archive = peer(tls=server_tls(pem, key, None))
    other = ssl.create_default_context()  # trusts the system's authorities only
    with pytest.raises(ArchiveError):
        send_files(files, archive.node, tls=other)
    assert archive.uids == []
    uids = tuple(instance_uid(file) for file in files)
    port = web(type("Honest", (_Liar,), {"named": uids}), server_tls(pem, key, None))
    with pytest.raises(ArchiveError, match="cannot be reached"):
        send_files(files, Web(f"https://127.0.0.1:{port}"))
    send_files(files, Web(f"https://127.0.0.1:{port}"), tls=client_tls(pem))
    with pytest.raises(SettingError, match="TLS files"):
        client_tls(tmp_path / "none.pem")


def test_images_come_by_tls_from_who_has_a_certificate(certificate, files, tmp_path):
    pem, key = certificate
    spool, counts = _open(tmp_path / "queue"), Counts()
    server = start_node(Door(port=0, tls=server_tls(pem, key, pem)), spool, counts, lambda line: None)
    node = Node("VISCERA", "127.0.0.1", server.server_address[1])
    try:
        send_files(files, node, tls=client_tls(pem, pem, key))
        assert counts.now() == {"images": 2}
        with pytest.raises(ArchiveError):
            send_files(files, node)
        with pytest.raises(ArchiveError):
            send_files(files, node, tls=client_tls(pem))
        assert counts.now()["images"] == 2
    finally:
        server.shutdown()
        server.server_close()


def test_the_picture_of_the_last_result_is_on_the_page_and_its_images_are_gone(tmp_path):
    patient = synthesize(np.random.default_rng(3), shape=(24, 64, 64), orientation="axial", scan="upper")
    spacing = [round(float(one), 3) for one in patient.ct.spacing_mm]
    made = write_series(tmp_path / "ct", patient.ct.voxels, spacing=(spacing[0], spacing[1], spacing[2]))
    spool, model = _open(tmp_path / "queue"), load_model(Path("starter"), accelerator="cpu", runtime="auto")
    for file in made:
        spool.add("1.2", file.name, file.read_bytes())
    dicom = DicomOptions(kinds_of("seg"))
    work = Work(PredictOptions(overwrite=True, dicom=dicom), quiet_s=0.01, shown=lambda job: draw_last(job, spool.root))
    time.sleep(0.05)
    while not spool.jobs("sending"):
        assert step(spool, model, work, lambda line: None), status(spool)
    assert send_due(spool, work, lambda line: None)
    [job] = spool.jobs("done")
    assert not job.images.exists()
    picture = cv2.imread(str(spool.root / "last.png"))
    assert picture is not None
    assert picture.std() > 10
    view = (spool.root / "last.html").read_text()
    assert "Last result" in view
    assert "Test^Patient" not in view
    assert '<a href="/last.html">' in page(spool)
    assert f'<img src="/last.png?{(spool.root / "last.png").stat().st_mtime_ns}"' in page(spool)


def test_the_status_page_shows_the_queue_to_this_machine_only(tmp_path, files):
    spool, counts = _open(tmp_path / "queue"), Counts()
    job = _job(spool, files)
    spool.fail(job, "the archive said <no>")
    counts.add("images")
    served = start_status(spool, counts, 0)
    address = f"http://127.0.0.1:{served.server_address[1]}"
    try:

        def get(path: str, **headers: str) -> tuple[int, str, str]:
            request = urllib.request.Request(address + path, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status, answer.headers["Content-Type"], answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, "", ""

        code, kind, text = get("/")
        assert (code, kind.split(";")[0]) == (200, "text/html")
        assert "&lt;no&gt;" in text
        assert "<no>" not in text
        assert job.key in text
        assert json.loads(get("/status.json")[2])["jobs"]["failed"] == 1
        assert 'viscera_received_total{what="images"} 1' in get("/metrics")[2].splitlines()
        assert get("/else")[0] == get("/last.png")[0] == 404
        assert get("/", Host="evil.example")[0] == 403  # a page of elsewhere that resolves its name to this machine
    finally:
        served.shutdown()
        served.server_close()
