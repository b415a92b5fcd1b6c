"""Servers of files by HTTP(S) and S3 on this machine, and what makes URLs mean them."""

import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.request import Request, urlopen

import pytest
from fsspec.implementations.http import HTTPFileSystem

from certificates import own_certificate
from ports import free_port

SECRET = "SECRETKEY"
BODY = bytes(range(256)) * 4096
"""Of a file that is fetched: 1 MiB."""


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing."""

    def log_message(self, *arguments):
        pass


Serve = Callable[..., str]


@contextmanager
def servers() -> Iterator[Serve]:
    """Yield what starts a server on this machine and returns its URL."""
    running = []

    def start(handler, tls: ssl.SSLContext | None = None) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # who reads breaks off: that is what is tried
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        running.append(server)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def answers(*, status: int = 200, headers: dict[str, str | None] | None = None, body: bytes = BODY, then=None) -> type:
    """Return what answers each request in a certain way, and does something before it hangs up."""

    class Answer(BaseHTTPRequestHandler):
        asked: ClassVar[list[str]] = []

        def do_GET(self):
            self.asked.append(self.path)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
            if then is not None:
                then(self)

        def log_message(self, *arguments):
            pass

    return Answer


def make_authority(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """Return a certificate of 127.0.0.1 that is its own authority, and a server's TLS by it."""
    pem, key = own_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem, key)
    return pem, tls


@contextmanager
def s3_server(scan: Path) -> Iterator[str]:
    """An S3 server on this machine, in a process of its own, with the scan in a bucket; yield its URL."""
    if not all(map(find_spec, ("moto", "flask_cors", "s3fs"))):
        pytest.skip("no moto with its server, or no s3fs")
    port = free_port()
    words = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            _put(f"{url}/bucket", within_s=120)
            _put(f"{url}/bucket/scans/a.nii.gz", scan.read_bytes())
            _put(f"{url}/bucket/public/a.nii.gz", scan.read_bytes(), rights="public-read")
            yield url
        finally:
            server.kill()


def _put(url: str, body: bytes = b"", *, rights: str = "private", within_s: float = 0.0) -> None:
    """Store something, as soon as a server is there."""
    until = time.monotonic() + within_s
    request = Request(url, body, {"Content-Type": "application/octet-stream", "x-amz-acl": rights}, method="PUT")
    while True:
        try:
            with urlopen(request, timeout=60):
                return
        except OSError:  # URLError, too
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


@contextmanager
def s3_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Yield what makes s3:// mean a server; with keys, and without any of this machine's."""
    pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    yield partial(monkeypatch.setenv, "AWS_ENDPOINT_URL")
    forget_clients()


def forget_clients() -> None:
    """Let other times, servers and keys hold: fsspec keeps what fetches."""
    HTTPFileSystem.clear_instance_cache()
    if find_spec("s3fs"):
        from s3fs import S3FileSystem

        S3FileSystem.clear_instance_cache()
