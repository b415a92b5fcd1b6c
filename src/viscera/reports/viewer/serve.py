"""Hand a page and its volumes to a browser on the same machine, for scans that are too large to embed.

Only this machine is listened to (127.0.0.1). The address holds a random word, so that another user of the machine, or a
web page that guesses the port, does not get at the scan. There are no folders and no files: what is served lies in
memory.
"""

import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from viscera.errors import SettingError

HOST = "127.0.0.1"


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
        server = ThreadingHTTPServer((HOST, port), _handler(contents))
    except OSError as error:
        raise SettingError(
            f"port {port} cannot be used ({error.strerror})", "Choose another, or 0 for a free one."
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="viscera view", daemon=True)
    thread.start()
    try:
        yield Site(f"http://{HOST}:{server.server_port}/{word}/", thread)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(contents: Mapping[str, tuple[str, bytes]]) -> type[BaseHTTPRequestHandler]:
    """Return a handler that knows these addresses and no others."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "viscera", ""

        def do_GET(self) -> None:
            """Send what is asked for."""
            self._send(with_body=True)

        def do_HEAD(self) -> None:
            """Send its headers."""
            self._send(with_body=False)

        def _send(self, *, with_body: bool) -> None:
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
