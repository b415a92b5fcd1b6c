"""What is at a URL, fetched to the last byte, or the reason in our words: what breaks off, hangs, is too much."""

import gzip
import logging
import os
import shutil
import ssl
import subprocess
import sys
from threading import Event

import pytest
from fsspec.config import conf, set_conf_env

from url_servers import (
    BODY,
    SECRET,
    Serve,
    answers,
    forget_clients,
    make_authority,
    s3_means,
    s3_server,
    servers,
)
from viscera.errors import FileError
from viscera.io import fetching, nifti
from viscera.io.fetching import fetched


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Wait for nothing between attempts."""
    monkeypatch.setattr(fetching, "PAUSE_S", 0.01)


@pytest.fixture
def serve():
    with servers() as start:
        yield start


@pytest.fixture
def authority(tmp_path):
    return make_authority(tmp_path)


@pytest.fixture
def s3(tmp_path, monkeypatch):
    with s3_means(tmp_path, monkeypatch) as means:
        yield means


def refused(url: str) -> str:
    """Return why a URL cannot be fetched; nothing of its key is told, and nothing is left."""
    with pytest.raises(FileError) as raised, fetched(url):
        raise AssertionError
    error = raised.value
    assert SECRET not in f"{error} {error.args} {error.file}"
    assert error.__cause__ is None
    assert error.__suppress_context__
    return str(error)


def test_what_is_at_a_url_comes_to_the_last_byte_as_it_lies_there(serve):
    for headers in ({}, {"Content-Encoding": "gzip"}):  # the latter of a .nii.gz, as some servers have it
        url = serve(answers(headers=headers))
        with fetched(f"{url}/scans/a.nii.gz?key={SECRET}") as file:
            assert (file.name, file.read_bytes()) == ("a.nii.gz", BODY)
        assert not file.parent.exists()


def test_a_packed_answer_to_another_name_is_told_and_not_taken_for_the_scan(serve):
    url = serve(answers(headers={"Content-Encoding": "gzip"}, body=gzip.compress(BODY)))
    with (
        fetched(f"{url}/a.nii") as file,
        pytest.raises(FileError, match="a.nii: its contents are gzip-compressed"),
    ):
        nifti.read(file)


@pytest.mark.parametrize(
    ("status", "reason", "times"),
    [
        (404, "it is not there", 1),
        (410, "it is not there", 1),
        (401, "the server refuses it to us", 1),
        (403, "the server refuses it to us", 1),
        (500, "ClientResponseError", 3),
    ],
)
def test_what_a_server_does_not_give_is_named_and_asked_for_again_where_that_may_help(serve, status, reason, times):
    handler = answers(status=status)
    assert f"a.nii.gz cannot be fetched: {reason}" in refused(f"{serve(handler)}/a.nii.gz?key={SECRET}")
    assert len(handler.asked) == times


@pytest.mark.parametrize("chunked", [False, True])
def test_a_connection_that_breaks_in_the_middle_gives_no_scan(serve, chunked):
    headers = (
        {"Transfer-Encoding": "chunked", "Content-Length": None} if chunked else {"Content-Length": str(2 * len(BODY))}
    )
    body = b"%x\r\n%b\r\n" % (len(BODY), BODY) if chunked else BODY
    handler = answers(headers=headers, body=body)
    handler.protocol_version = "HTTP/1.1"
    assert "the connection breaks off before all has come" in refused(f"{hung_up(serve, handler)}/a.nii.gz")
    assert len(handler.asked) == 3


def hung_up(serve: Serve, handler: type) -> str:
    """Serve what hangs up after each answer."""
    before = handler.do_GET

    def answer(self):
        before(self)
        self.close_connection = True

    handler.do_GET = answer
    return serve(handler)


def test_a_server_that_is_silent_or_trickles_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(fetching, "STALL_S", 0.2)
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    forget_clients()
    ends = Event()

    def trickle(self):
        while not ends.wait(0.05):
            self.wfile.write(b"x" * 100)

    silent = answers(headers={"Content-Length": "9999999"}, then=lambda self: ends.wait(20))
    slow = answers(headers={"Content-Length": "9999999"}, then=trickle, body=b"")
    try:
        for handler in (silent, slow):
            assert "the server sent nothing, or next to nothing, for 0.2 s" in refused(f"{serve(handler)}/a.nii.gz")
    finally:
        ends.set()
        forget_clients()


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/a.nii.gz", "data:,scan"])
def test_a_redirect_to_another_scheme_is_not_followed(serve, place):
    handler = answers(status=302, headers={"Location": place}, body=b"")
    scheme = place.partition(":")[0]
    assert f"the server sends elsewhere, to {scheme}://" in refused(f"{serve(handler)}/a.nii.gz")
    assert len(handler.asked) == 1


def test_a_redirect_is_followed_by_http_but_a_users_key_goes_to_no_other_server(serve):
    seen = []

    class Other(answers()):
        def do_GET(self):
            seen.append(self.headers.get("Authorization"))
            super().do_GET()

    there = serve(Other)
    first = serve(answers(status=302, headers={"Location": f"{there}/b.nii.gz"}, body=b""))
    with fetched(f"{first.replace('//', f'//me:{SECRET}@')}/a.nii.gz") as file:
        assert file.read_bytes() == BODY
    assert seen == [None]


def test_https_is_not_left_for_http(serve, authority, monkeypatch):
    import aiohttp

    pem, tls = authority
    plainly = answers()
    url = serve(
        answers(status=302, headers={"Location": f"{serve(plainly)}/a.nii.gz?key={SECRET}"}, body=b""),
        tls,
    )
    trusting = ssl.create_default_context(cafile=str(pem))

    async def client(**options):
        return await plain_client(**options, connector=aiohttp.TCPConnector(ssl=trusting))

    plain_client = fetching._client
    monkeypatch.setattr(fetching, "_client", client)
    assert "to http://, which is not followed" in refused(f"{url}/a.nii.gz")
    assert plainly.asked == []


def test_what_is_larger_than_a_scan_or_the_disk_is_refused_before_it_is_fetched(serve, monkeypatch):
    handler = answers(headers={"Content-Length": str(9 * 2**30)})
    assert "it is larger than 8 GiB, which no scan is" in refused(f"{serve(handler)}/a.nii.gz")
    monkeypatch.setattr(fetching, "MOST_BYTES", 2**19)
    endless = answers(headers={"Content-Length": None})
    assert "it is larger than" in refused(f"{serve(endless)}/a.nii.gz")
    monkeypatch.undo()
    handler = answers(headers={"Content-Length": str(5 * 2**30)})
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=2**20))
    assert "it has 5120 MiB, and 1 MiB are free in the temporary folder" in refused(f"{serve(handler)}/a.nii.gz")


def test_what_a_bucket_does_not_give_is_named(s3, caplog, tmp_path, monkeypatch):
    caplog.set_level(logging.INFO)
    (tmp_path / "a.nii.gz").write_bytes(BODY)
    with s3_server(tmp_path / "a.nii.gz") as url:
        s3(url)
        with fetched("s3://bucket/scans/a.nii.gz") as file:
            assert file.read_bytes() == BODY
        assert "it is not there" in refused("s3://bucket/scans/gone.nii.gz")
        assert "it is not there" in refused("s3://nowhere/scans/a.nii.gz")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        forget_clients()
        assert "there are no keys for it. Set them where workers are" in refused("s3://bucket/scans/a.nii.gz")
        monkeypatch.setenv("FSSPEC_S3_ANON", "true")
        set_conf_env(conf_dict := {})
        monkeypatch.setitem(conf, "s3", conf_dict["s3"])
        with fetched("s3://bucket/public/a.nii.gz") as file:
            assert file.read_bytes() == BODY
        assert "the server refuses it to us" in refused("s3://bucket/scans/a.nii.gz")
        assert SECRET not in caplog.text


def test_a_bucket_that_refuses_breaks_off_is_silent_or_has_too_much_is_named(serve, s3, monkeypatch):
    monkeypatch.setattr(fetching, "STALL_S", 0.3)
    ends = Event()
    denied = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    for handler, reason in (
        (answers(status=403, body=denied), "the server refuses it to us"),
        (answers(headers={"Content-Length": str(2 * len(BODY))}), "the connection breaks off before all has come"),
        (answers(headers={"Content-Length": str(9 * 2**30)}), "it is larger than 8 GiB"),
        (
            answers(headers={"Content-Length": str(2 * len(BODY))}, then=lambda self: ends.wait(20)),
            "the server sent nothing, or next to nothing, for 0.3 s",
        ),
    ):
        s3(serve(handler))
        forget_clients()
        assert reason in refused(f"s3://bucket/a.nii.gz?key={SECRET}")
    ends.set()


def test_what_killed_processes_left_goes_with_the_next_scan_and_what_is_held_stays(serve, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = serve(answers())
    held, left, new, others = (
        tmp_path / name for name in ("viscera-scan-a", "viscera-scan-b", "viscera-scan-c", "x-scan")
    )
    for folder in (held, left, new, others):
        folder.mkdir()
        (folder / "patient.nii.gz").write_bytes(b"1")
    (tmp_path / "viscera-scan-link").symlink_to(others)
    (left / f".{fetching.HELD}.lock").touch()  # of a process that was killed
    for folder in (held, left, others):
        os.utime(folder, (0, 0))
    code = """
import sys, time
from pathlib import Path
from viscera.io.locks import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code, held / fetching.HELD], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        os.utime(held, (0, 0))
        with fetched(f"{url}/a.nii.gz") as file:
            assert file.parent.parent == tmp_path
            assert sorted(one.name for one in tmp_path.iterdir() if one != file.parent) == [
                "viscera-scan-a", "viscera-scan-c", "viscera-scan-link", "x-scan"
            ]  # fmt: skip
        holder.kill()
    os.utime(held, (0, 0))
    with fetched(f"{url}/a.nii.gz"):
        assert not held.exists()
    assert (others / "patient.nii.gz").exists()
