"""The server of `viscera view --serve`: few connections, none for ever, and room for the browser whatever others hold open."""

import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from viscera.reports.viewer import serve


def _connections(url: str, count: int) -> list[socket.socket]:
    place = urlsplit(url)
    return [socket.create_connection((place.hostname, place.port), timeout=5) for _ in range(count)]


def test_600_idle_connections_hold_few_threads_and_the_page_is_still_served():
    before = threading.active_count()
    with serve.site("<p>page</p>", {"ct": b"1" * 100_000}) as running:
        idle = _connections(running.url, 600)
        try:
            began = time.perf_counter()
            assert urllib.request.urlopen(running.url, timeout=10).read() == b"<p>page</p>"
            assert len(urllib.request.urlopen(f"{running.url}ct.nii.gz", timeout=10).read()) == 100_000
            assert time.perf_counter() - began < 8
            assert threading.active_count() - before <= serve.MOST_CONNECTIONS + 2
        finally:
            for one in idle:
                one.close()


def test_a_connection_that_says_nothing_or_only_a_letter_at_a_time_ends(monkeypatch):
    monkeypatch.setattr(serve, "SILENCE_S", 0.5)
    with ExitStack() as opened, serve.site("page", {}) as running:
        silent, slow = (opened.enter_context(one) for one in _connections(running.url, 2))
        began = time.perf_counter()
        ended = False
        while time.perf_counter() - began < 6 and not ended:
            try:
                slow.sendall(b"G")
                slow.settimeout(0.1)
                ended = slow.recv(1) == b""
            except TimeoutError:
                pass
            except OSError:
                ended = True
        assert ended
        silent.settimeout(6)
        assert silent.recv(1) == b""


def test_the_server_listens_on_the_loopback_address_and_knows_its_host_only(monkeypatch):
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("a name was looked up"))
    with serve.site("page", {}) as running:
        assert urlsplit(running.url).hostname == "127.0.0.1"
        for host, code in (("evil.example", 404), ("127.0.0.1:1", 200), ("localhost", 200)):
            request = urllib.request.Request(running.url, headers={"Host": host})
            try:
                found = urllib.request.urlopen(request, timeout=5).status
            except urllib.error.HTTPError as error:
                found = error.code
            assert found == code


def test_room_comes_back_when_connections_end(monkeypatch):
    monkeypatch.setattr(serve, "MOST_CONNECTIONS", 2)
    with serve.site("page", {}) as running:
        for _ in range(20):
            assert urllib.request.urlopen(running.url, timeout=5).read() == b"page"
