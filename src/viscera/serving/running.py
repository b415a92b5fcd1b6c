"""The application on a socket, by uvicorn: connections are few, and those that ask for nothing end soon."""

import asyncio
import logging
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from viscera.errors import SettingError

MOST_CONNECTIONS = 64
"""At a time; whoever comes then is told to come again (503)."""
SILENCE_S = 10.0
"""After which a connection ends that has not asked for anything."""
STALL_S = 60.0
"""After which a connection ends that takes nothing of its answer."""
BACKLOG = 128
GRACE_S = 1
"""For requests that are being answered when the server is to end."""


class Impatient(H11Protocol):
    """A connection that ends if it asks for nothing, or takes nothing of its answer: uvicorn itself would wait for ever.

    Where there is no room for a new connection, the one that has been idle for longest goes.
    """

    _stalled: asyncio.TimerHandle | None = None
    _answered: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room, and begin to wait for a request."""
        if len(self.connections) >= MOST_CONNECTIONS - 1:
            idle = [one for one in self.connections if isinstance(one, Impatient) and one.is_idle]
            if idle:
                longest = min(idle, key=lambda one: one.idle_since)
                self.connections.discard(longest)  # now, not when it is told: others may come before
                longest.transport.abort()
        super().connection_made(transport)
        self._await_request()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered on it, and none's headers are whole."""
        return self.cycle is self._answered

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._silence.cancel()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, of which uvicorn forgets the time once a byte of it has come."""
        self._answered = self.cycle
        super().on_response_complete()
        self._silence.cancel()
        self._await_request()

    def pause_writing(self) -> None:
        """Give a receiver that takes nothing its time."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that it has taken something."""
        if self._stalled is not None:
            self._stalled.cancel()
        super().resume_writing()

    def _await_request(self) -> None:
        self.idle_since = self.loop.time()
        self._silence = self.loop.call_later(SILENCE_S, self._end_silent)

    def _end_silent(self) -> None:
        if self.is_idle:
            self.transport.close()
            self._silence = self.loop.call_later(SILENCE_S, self.transport.abort)  # what it does not take is not kept


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
    """Serve until Ctrl-C or SIGTERM, which end it by KeyboardInterrupt; where they are ignored, it ends without.

    Args:
        app: From ``make_app``.
        listening: From ``listen``.
    """
    server_of(app).run(sockets=[listening])


def server_of(app: Starlette) -> uvicorn.Server:
    """Return uvicorn's server; it writes no log of its own: its lines hold addresses, and these the names of scans.

    Args:
        app: From ``make_app``.
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
    return uvicorn.Server(config)
