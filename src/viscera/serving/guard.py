"""What stands before every route: who may ask, how much may be sent, how long a sender may be silent, and the log.

The log says when what was asked, how it ended and how long it took; of addresses only their fixed words, since the rest may name
a patient.
"""

import asyncio
import base64
import binascii
import hmac
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from viscera.serving.meter import Meter

SILENCE_S = 60.0
"""After which a request ends whose sender sends nothing more."""
UPLOAD_S = 3600.0
"""After which any upload ends: 2 GiB at 5 Mbit/s take as long."""
GRACE_S = 30.0
"""Before an upload's rate matters."""
LEAST_RATE = 8 * 1024
"""Bytes per second that an upload must bring on average after that."""
MOST_UPLOADS = 32
"""Bodies that may be arriving at a time: half of the connections, so that slow ones leave room for the rest."""
PIECE = 256 * 1024
"""Bytes of an answer that are handed on at a time, so that one who takes nothing is noticed (running.py)."""
LOG_LINES = 1000
OPEN = ("/auth", "/auth/token")
"""What needs no token: how to get one."""
PAGES = ("", "/metrics", "/montage.png", "/view")
"""What is for this machine's own browser and Prometheus, which log in as RFC 7617 has it: any name, the token as password."""
LOCAL = ("127.0.0.1", "localhost", "::1")
WORDS = frozenset(
    (
        *(
            "auth",
            "token",
            "valid",
            "info",
            "session",
            "datastore",
            "image",
            "label",
            "activelearning",
            "infer",
            "logs",
        ),
        *("train", "batch", "scoring", "rollback", "metrics", "view", "montage.png"),
    )
)


@dataclass(frozen=True)
class Limits:
    """Who may ask, and how much.

    Attributes:
        token: What a client must know; "" for none.
        local: Whether only names of this machine are taken as the server's, so that no web page can point at it.
        upload_bytes: The most that one request may send.
        silence_s: See SILENCE_S.
        upload_s: See UPLOAD_S.
        grace_s: See GRACE_S.
        least_rate: See LEAST_RATE.
        origins: Web pages of other servers that may ask, such as OHIF's: "http://localhost:3000".
    """

    token: str = ""
    local: bool = True
    upload_bytes: int = 2 * 2**30
    silence_s: float = SILENCE_S
    upload_s: float = UPLOAD_S
    grace_s: float = GRACE_S
    least_rate: float = LEAST_RATE
    origins: tuple[str, ...] = ()


class Log:
    """The last requests, without anything of theirs that could name a patient."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._lock = threading.Lock()

    def add(self, text: str) -> None:
        """Add a line with the time before it."""
        with self._lock:
            self._lines.append(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}")

    def last(self, count: int) -> str:
        """Return the last lines."""
        with self._lock:
            return "".join(f"{line}\n" for line in list(self._lines)[-count:])


def plain_path(path: str) -> str:
    """Return a path with everything but the protocol's own words left out.

    Example:
        >>> plain_path("/datastore/label"), plain_path("/infer/Miller")
        ('/datastore/label', '/infer/...')
    """
    return "/".join(word if word in WORDS or not word else "..." for word in path[:200].split("/"))


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, limits: Limits, log: Log, meter: Meter | None = None) -> None:
        self.app, self.limits, self.log, self.meter = app, limits, log, meter or Meter()
        self._arriving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, began = time.perf_counter(), 0, False
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        allowed = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]

        async def noted(message: Message) -> None:
            """Send on, in pieces, and note how the request ended."""
            nonlocal status, began
            if message["type"] == "http.response.start":
                status, began = message["status"], True
                if origin in self.limits.origins:
                    message = {**message, "headers": [*message.get("headers", []), *allowed]}
            for piece in _pieces(message):
                await send(piece)

        self.meter.begin()
        try:
            answer = self._refusal(scope, headers)
            if answer is not None:
                await answer(scope, receive, noted)
            else:
                await self._let_in(scope, receive, noted, has_body=_has_body(headers))
        finally:
            seconds, route = time.perf_counter() - start, plain_path(scope["path"])
            self.meter.end(scope["method"], route, status if began else 0, seconds)
            self.log.add(f"{scope['method'][:10]} {route} {status if began else 'no answer'} {seconds:.2f} s")

    async def _let_in(self, scope: Scope, receive: Receive, send: Send, *, has_body: bool) -> None:
        """Hand a request on, and count it among the uploads until its body is there."""
        counted = has_body

        def arrived() -> None:
            nonlocal counted
            self._arriving -= counted
            counted = False

        self._arriving += counted
        try:
            await self.app(scope, self._limited(receive, arrived), send)
        finally:
            arrived()

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to what is not let in, None to what is."""
        host, path = headers.get("host", ""), scope["path"].rstrip("/")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self.limits.local and name.strip("[]").lower() not in LOCAL:
            return refusal(
                403, "this server takes requests for its own machine only; begin its address with http://127.0.0.1"
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self.limits.origins and origin.partition("://")[2] != host:
            return refusal(
                403, "requests from web pages of other servers are not taken (viscera serve --origin allows one)"
            )
        if origin in self.limits.origins and scope["method"] == "OPTIONS":
            return Response(status_code=204, headers=PREFLIGHT)
        if path in PAGES and (scope.get("client") or ("",))[0] not in LOCAL:
            return refusal(403, "this page is for the server's own machine only")
        length = headers.get("content-length", "")
        if length.isascii() and length.isdecimal() and (len(length) > 15 or int(length) > self.limits.upload_bytes):
            self.meter.note_cut("large")
            return refusal(413, self._too_large())
        if _has_body(headers) and self._arriving >= MOST_UPLOADS:
            answer = refusal(503, "too many uploads are arriving; try again in half a minute")
            answer.headers["Retry-After"] = "30"
            return answer
        if self.limits.token and path not in OPEN and not self.knows_token(headers, is_page=path in PAGES):
            answer = refusal(401, "the token is missing or wrong; log in with it as the password")
            answer.headers["WWW-Authenticate"] = 'Basic realm="viscera"' if path in PAGES else "Bearer"
            return answer
        return None

    def knows_token(self, headers: Headers, *, is_page: bool) -> bool:
        """Tell whether a request's header holds the token; that of a page may be what a browser makes of a password."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        if is_page and kind.lower() == "basic":
            try:
                token = (
                    base64.b64decode(token.strip(), validate=True).decode("utf-8", "surrogateescape").partition(":")[2]
                )
            except (binascii.Error, ValueError):
                return False
        elif kind.lower() != "bearer":
            return False
        return same_token(token.strip(), self.limits.token)

    def _limited(self, receive: Receive, arrived: Callable[[], None] = lambda: None) -> Receive:
        """Return what receives a request's body, up to the limits.

        Args:
            receive: The server's.
            arrived: Called when the body is whole.
        """
        received, whole, start = 0, False, time.perf_counter()

        async def limited() -> Message:
            """Receive the next part of the body."""
            nonlocal received, whole
            if whole:  # what comes now is the end of the connection, for which a long answer may wait
                return await receive()
            limits = self.limits
            allowed = {"silent": limits.silence_s}
            spent = time.perf_counter() - start
            allowed["slow"] = limits.grace_s + received / limits.least_rate - spent
            allowed["long"] = limits.upload_s - spent
            why = min(allowed, key=lambda one: allowed[one])
            try:
                message = await asyncio.wait_for(receive(), max(allowed[why], 0.0))
            except TimeoutError:
                self.meter.note_cut(why)
                raise HTTPException(408, self._too_slow(why)) from None
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if whole:
                arrived()
            if received > limits.upload_bytes:
                self.meter.note_cut("large")
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_slow(self, why: str) -> str:
        """Say which limit of time an upload broke."""
        limits = self.limits
        return {
            "silent": f"nothing was received for {limits.silence_s:g} s",
            "slow": f"less than {limits.least_rate / 1024:g} KiB/s were received after the first {limits.grace_s:g} s",
            "long": f"the upload took more than {limits.upload_s:g} s",
        }[why]

    def _too_large(self) -> str:
        return f"more than {self.limits.upload_bytes / 2**20:.0f} MiB in one request; viscera serve --max-upload MB sets the limit"


PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, PUT, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Accept",
    "Access-Control-Max-Age": "600",
}


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _pieces(message: Message) -> Iterator[Message]:
    """Yield a message of an answer, a long body in pieces."""
    body = message.get("body", b"")
    if message["type"] != "http.response.body" or len(body) <= PIECE:
        yield message
        return
    view = memoryview(body)
    for start in range(0, len(body), PIECE):
        last = start + PIECE >= len(body)
        yield {
            **message,
            "body": bytes(view[start : start + PIECE]),
            "more_body": message.get("more_body", False) or not last,
        }


def same_token(given: str, token: str) -> bool:
    """Compare tokens in a time that tells nothing of them."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode("utf-8", "surrogateescape"))


def refusal(status: int, detail: str) -> JSONResponse:
    """Return an answer that says why."""
    return JSONResponse({"detail": detail}, status)
