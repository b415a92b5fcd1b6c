"""Hand a page and its volumes to a browser on the same machine, for scans that are too large to embed.

Only this machine is listened to (127.0.0.1). The address holds a random word, so that another user of the machine, or a
web page that guesses the port, does not get at the scan. There are no folders and no files: what is served lies in
memory. Connections are few and end by themselves, whoever opens them and sends nothing.
"""

import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import BaseRequestHandler, TCPServer, ThreadingMixIn

from viscera.errors import SettingError

HOST = "127.0.0.1"
MOST_CONNECTIONS = 32
"""At a time, each of which has a thread. A browser opens six."""
SILENCE_S = 10.0
"""After which a connection ends that has not asked for anything, or takes nothing of what is sent."""
LONGEST_S = 600.0
"""After which any ends: a scan of 1 GB takes seconds."""


@dataclass(frozen=True)
class Site:
    """A site that is being served.

    Attributes:
        url: The page's address.
        wait: Blocks until the server ends.
    """

    url: str
    thread: threading.Thread

    def wait(self) -> None:
        """Block until the server ends or the user presses Ctrl-C."""
        while self.thread.is_alive():
            self.thread.join(0.5)


@contextmanager
def site(page: str, volumes: Mapping[str, bytes], *, port: int = 0) -> Iterator[Site]:
    """Serve a page and NAME.nii.gz of each volume until the block ends.

    Args:
        page: HTML.
        volumes: {name: contents of NAME.nii.gz}.
        port: 0 takes a free one.

    Raises:
        SettingError: The port is taken.
    """
    word = secrets.token_urlsafe(12)
    contents = {f"/{word}/": ("text/html; charset=utf-8", page.encode("utf-8"))}
    contents |= {f"/{word}/{name}.nii.gz": ("application/octet-stream", packed) for name, packed in volumes.items()}
    try:
        server = _Server((HOST, port), _handler(contents))
    except OSError as error:
        raise SettingError(
            f"port {port} cannot be used ({error.strerror})", "Choose another, or 0 for a free one."
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="viscera view", daemon=True)
    thread.start()
    try:
        yield Site(f"http://{HOST}:{server.server_address[1]}/{word}/", thread)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingMixIn, TCPServer):
    """A server with a bounded number of connections: where there is no room, the one that has been silent longest goes.

    Not http.server's, which looks up the name of the address that it listens on.
    """

    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128

    def __init__(self, address: tuple[str, int], handler: type[BaseRequestHandler]) -> None:
        self.lock, self.room = threading.Lock(), threading.BoundedSemaphore(MOST_CONNECTIONS)
        self.silent: dict[socket.socket, float] = {}
        self.served: dict[socket.socket, float] = {}
        super().__init__(address, handler)

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        """Give a connection its thread, if there is room or can be made."""
        if not self.room.acquire(blocking=False):
            with self.lock:
                longest = min(self.silent, key=self.silent.__getitem__, default=None)
                self.silent.pop(longest, None)  # type: ignore[arg-type]
            _cut(longest)
            if not self.room.acquire(timeout=0.5):
                self.shutdown_request(request)
                return
        with self.lock:
            self.silent[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        """Serve a connection, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.lock:
                self.silent.pop(request, None)
                self.served.pop(request, None)
            self.room.release()

    def has_asked(self, request: socket.socket) -> None:
        """Note that a connection is not silent."""
        with self.lock:
            self.served[request] = self.silent.pop(request, time.monotonic())

    def service_actions(self) -> None:
        """End the connections whose time is over; called twice a second."""
        now = time.monotonic()
        with self.lock:
            over = [one for one, began in self.silent.items() if now - began > SILENCE_S]
            over += [one for one, began in self.served.items() if now - began > LONGEST_S]
        for one in over:
            _cut(one)

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet of browsers that go away."""


def _cut(connection: socket.socket | None) -> None:
    """End a connection; its thread then ends."""
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _handler(contents: Mapping[str, tuple[str, bytes]]) -> type[BaseHTTPRequestHandler]:
    """Return a handler that knows these addresses and no others."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "viscera", ""
        timeout = SILENCE_S

        def do_GET(self) -> None:
            """Send what is asked for."""
            self._send(with_body=True)

        def do_HEAD(self) -> None:
            """Send its headers."""
            self._send(with_body=False)

        def _send(self, *, with_body: bool) -> None:
            if isinstance(self.server, _Server):
                self.server.has_asked(self.request)
            found = contents.get(self.path)
            # A foreign host name means that a web page has been pointed at this machine.
            if found is None or self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            kind, body = found
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *values: object) -> None:
            """Keep quiet."""

    return Handler
