"""The application on a socket, by uvicorn: connections are few, and those that ask for nothing end soon."""

import asyncio
import logging
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from viscera.errors import SettingError

MOST_CONNECTIONS = 64
"""At a time; whoever comes then is told to come again (503)."""
SILENCE_S = 10.0
"""After which a connection ends that has not asked for anything."""
BACKLOG = 128
GRACE_S = 1
"""For requests that are being answered when the server is to end."""


class Impatient(H11Protocol):
    """A connection that ends if it asks for nothing: uvicorn itself would wait for ever, and count it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._silence = self.loop.call_later(SILENCE_S, self._end_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._silence.cancel()
        super().connection_lost(exc)

    def _end_silent(self) -> None:
        if self.cycle is None:  # no request's headers were whole
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """Take a port; whoever comes from here on waits until ``serve`` is called.

    Args:
        host: An address of this machine.
        port: 0 takes a free one.

    Raises:
        SettingError: It cannot be had.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let two servers take one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        listening.close()
        raise SettingError(
            f"{host} port {port} cannot be used ({getattr(error, 'strerror', None) or error})",
            "Choose another --port, or 0 for a free one.",
        ) from error
    return listening


def serve(app: Starlette, listening: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM, which end it by KeyboardInterrupt.

    uvicorn writes no log of its own: its lines hold addresses, and these the names of scans.

    Args:
        app: From ``make_app``.
        listening: From ``listen``.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a line for each odd byte that is sent
    config = uvicorn.Config(
        app,
        http=Impatient,
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        ws="none",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listening])
