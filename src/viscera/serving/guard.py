"""What stands before every route: who may ask, how much may be sent, how long a sender may be silent, and the log.

The log says when what was asked, how it ended and how long it took; of addresses only their fixed words, since the rest may name
a patient.
"""

import asyncio
import hmac
import threading
import time
from collections import deque
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SILENCE_S = 60.0
"""After which a request ends whose sender sends nothing more."""
LOG_LINES = 1000
OPEN = ("/auth", "/auth/token")
"""What needs no token: how to get one."""
LOCAL = ("127.0.0.1", "localhost", "::1")
WORDS = frozenset(
    (
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
        "train",
        "batch",
        "scoring",
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
    """

    token: str = ""
    local: bool = True
    upload_bytes: int = 2 * 2**30
    silence_s: float = SILENCE_S


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

    def __init__(self, app: ASGIApp, limits: Limits, log: Log) -> None:
        self.app, self.limits, self.log = app, limits, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, began = time.perf_counter(), 0, False

        async def noted(message: Message) -> None:
            """Send on, and note how the request ended."""
            nonlocal status, began
            if message["type"] == "http.response.start":
                status, began = message["status"], True
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, noted)
            else:
                await self.app(scope, self._limited(scope, receive), noted)
        finally:
            seconds = time.perf_counter() - start
            self.log.add(
                f"{scope['method'][:10]} {plain_path(scope['path'])} {status if began else 'no answer'} {seconds:.2f} s"
            )

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """Return the answer to what is not let in, None to what is."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self.limits.local and name.strip("[]").lower() not in LOCAL:
            return refusal(
                403, "this server takes requests for its own machine only; begin its address with http://127.0.0.1"
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return refusal(403, "requests from web pages of other servers are not taken")
        length = headers.get("content-length", "")
        if length.isascii() and length.isdecimal() and (len(length) > 15 or int(length) > self.limits.upload_bytes):
            return refusal(413, self._too_large())
        if (
            self.limits.token
            and scope["path"].rstrip("/") not in OPEN
            and not self.knows_token(headers.get("authorization", ""))
        ):
            answer = refusal(401, "the token is missing or wrong; log in with it as the password")
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        return None

    def knows_token(self, authorization: str) -> bool:
        """Tell whether a header holds the token."""
        kind, _, token = authorization.partition(" ")
        return kind.lower() == "bearer" and same_token(token.strip(), self.limits.token)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Return what receives a request's body, up to the limit."""
        received, whole = 0, False

        async def limited() -> Message:
            """Receive the next part of the body."""
            nonlocal received, whole
            if whole:  # what comes now is the end of the connection, for which a long answer may wait
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.limits.silence_s)
            except TimeoutError:
                raise HTTPException(408, f"nothing was received for {self.limits.silence_s:g} s") from None
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if received > self.limits.upload_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"more than {self.limits.upload_bytes / 2**20:.0f} MiB in one request; viscera serve --max-upload MB sets the limit"


def same_token(given: str, token: str) -> bool:
    """Compare tokens in a time that tells nothing of them."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode("utf-8", "surrogateescape"))


def refusal(status: int, detail: str) -> JSONResponse:
    """Return an answer that says why."""
    return JSONResponse({"detail": detail}, status)
