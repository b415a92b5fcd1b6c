"""Scans at a URL, fetched by fsspec into a file that lasts as long as the work on it.

What a server may do wrong is bounded: how long it may say nothing or little, how much it may send, where it may send us. The
libraries' messages may hold the URL with its key, so that reasons are given in words of our own.
"""

import shutil
import ssl
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from viscera.errors import FileError
from viscera.io.atomic import FULL
from viscera.io.locks import only_writer
from viscera.io.remote import plain, require_reader

if TYPE_CHECKING:
    import aiohttp

ATTEMPTS = 3
PAUSE_S = 1.0
"""Before the second attempt; twice as long before the third."""
CONNECT_S = 20.0
"""How long a server may take until there is a connection."""
STALL_S = 60.0
"""How long a server may send nothing, or less than ``LEAST_BYTES``."""
LEAST_BYTES = 2**20
MOST_BYTES = 8 * 2**30
"""Of a scan: a whole body of 3000 slices of 512x512 has 1.5 GiB, or 6 as float64."""
FOLDERS, HELD = "viscera-scan-", "scan"
"""What temporary folders are called, and what is locked in them."""
NEW_S = 600.0
"""Younger folders are left alone: they may not be locked yet."""
REMEDY = "Check the URL, the rights and the connection of the machine that fetched it."

_BROKEN = ("ClientPayloadError", "IncompleteReadError", "ResponseStreamingError", "ConnectionClosedError")
"""Of aiohttp and botocore: less came than was said."""


class _RefusedError(FileError):
    """What another attempt would not change."""


class _Limits:
    """Told by fsspec of each piece that has come.

    Args:
        folder: Where the file is written to.
    """

    def __init__(self, folder: Path) -> None:
        self._free = shutil.disk_usage(folder).free
        self._since, self._then = time.monotonic(), 0
        self.size: int | None = None

    def __call__(self, size: int | None, value: int, **_: object) -> None:
        """Raise where it is too much, or comes too slowly.

        Args:
            size: In bytes, as far as the server says.
            value: Bytes that have come.
        """
        self.size, most = size, max(size or 0, value)
        if most > MOST_BYTES:
            raise _RefusedError(
                f"it is larger than {MOST_BYTES / 2**30:g} GiB, which no scan is",
                "Give the URL of a scan.",
            )
        if most > self._free:
            raise _RefusedError(
                f"it has {most / 2**20:.0f} MiB, and {self._free / 2**20:.0f} MiB are free in the temporary folder",
                "Make room, or start workers with TMPDIR set to a folder on another disk.",
            )
        now = time.monotonic()
        if value - self._then >= LEAST_BYTES:
            self._since, self._then = now, value
        elif now - self._since > STALL_S:
            raise TimeoutError


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Yield a file with what is at a URL; it goes with the block. What killed processes left of theirs goes now.

    Raises:
        FileError: It cannot be fetched: it is not there, or not to be had, or three attempts failed.
        SettingError: What reads such URLs is not installed.
    """
    require_reader(url)
    name = plain(url).name
    _remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=FOLDERS) as folder, only_writer(Path(folder, HELD)):
        file = Path(folder, name)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _fetch(url, file)
                break
            except Exception as error:  # each scheme's library has its own; messages may hold the URL with its key
                refused = _refusal(error)
                if refused is None and attempt < ATTEMPTS:
                    time.sleep(PAUSE_S * attempt)
                    continue
                reason = refused or _RefusedError(_failure(error), REMEDY)
                raise FileError(f"{name} cannot be fetched: {reason.what}", reason.remedy) from None
        yield file


def _remove_abandoned() -> None:
    """Remove scans that killed processes had fetched: folders of ours that nobody holds. New ones may be about to be held."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*"):
        with suppress(OSError, FileError, UserWarning), warnings.catch_warnings():
            warnings.simplefilter("error")  # of a disk without locks, where nobody can tell
            if folder.is_symlink() or time.time() - folder.stat().st_mtime < NEW_S:
                continue
            with only_writer(folder / HELD):
                shutil.rmtree(folder)


def _fetch(url: str, file: Path) -> None:
    """Copy what is at a URL into a file, to the last byte as it lies there."""
    import fsspec

    limits = _Limits(file.parent)
    scheme = url.partition("://")[0].lower()
    system, place = fsspec.url_to_fs(url, **_options(scheme))
    if scheme == "s3":  # it would go on in the middle, and trust that the server heeds where
        system.retries = 1
    system.get_file(place, str(file), callback=fsspec.Callback(hooks={"limits": limits}))
    if limits.size is not None and file.stat().st_size != limits.size:
        raise ConnectionError


def _options(scheme: str) -> dict[str, object]:
    """Return what the file system of a scheme is to heed."""
    if scheme in ("http", "https"):
        return {"get_client": _client}
    if scheme == "s3":
        # One stream, as memory is a worker's; botocore waits where the server says that there are too many.
        retries = {"mode": "standard", "total_max_attempts": 3}
        times = {"connect_timeout": CONNECT_S, "read_timeout": STALL_S, "retries": retries}
        return {"config_kwargs": times, "max_concurrency": 1}
    return {}


async def _client(**options: object) -> "aiohttp.ClientSession":
    """Return what fetches over HTTP: bytes as they lie there, within some time, and nothing from less safe places."""
    import aiohttp

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(_heed_redirect)
    own = {
        "auto_decompress": False,  # a .nii.gz that is said to be "gzip of a .nii" is kept as it is
        "headers": {"Accept-Encoding": "identity"},
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=STALL_S),
        "trace_configs": [tracing],
    }
    return aiohttp.ClientSession(**{**own, **options})  # pyright: ignore[reportArgumentType]


async def _heed_redirect(session: object, context: object, redirect: "aiohttp.TraceRequestRedirectParams") -> None:
    """Raise where a server sends us to what is not HTTP, or from HTTPS to HTTP."""
    before, answer = str(redirect.url), redirect.response.headers
    scheme = urlsplit(urljoin(before, answer.get("Location") or answer.get("URI") or "")).scheme.lower()
    if scheme not in ("https", urlsplit(before).scheme.lower()):
        raise _RefusedError(f"the server sends elsewhere, to {scheme[:10]}://, which is not followed", REMEDY)


def _refusal(error: Exception) -> FileError | None:
    """Return what is wrong where another attempt would not change it; None where it may."""
    status, name = getattr(error, "status", None), type(error).__name__
    if isinstance(error, _RefusedError):
        return error
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return _RefusedError("it is not there", REMEDY)
    if isinstance(error, PermissionError) or status in (401, 403):
        return _RefusedError(
            "the server refuses it to us", "Check the rights of the machine that fetched it, and its keys."
        )
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return _RefusedError(
            "there are no keys for it",
            "Set them where workers are (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or ~/.aws), or, for public buckets, "
            "FSSPEC_S3_ANON=true.",
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return _RefusedError(
            "the server's certificate is not to be trusted",
            "Check the URL; of an authority of your own, start workers with SSL_CERT_FILE.",
        )
    if isinstance(error, OSError) and error.errno in FULL:
        return _RefusedError("the temporary folder is full", "Make room, or start workers with TMPDIR set to another.")
    return None


def _failure(error: Exception) -> str:
    """Say what went wrong three times."""
    name = type(error).__name__
    if isinstance(error, TimeoutError) or "Timeout" in name:
        return f"the server sent nothing, or next to nothing, for {STALL_S:g} s"
    if isinstance(error, ConnectionError) or name in _BROKEN:
        return "the connection breaks off before all has come"
    return name
