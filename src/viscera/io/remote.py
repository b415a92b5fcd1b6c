"""Scans at a URL, fetched by fsspec into a file that lasts as long as the work on it. A URL may hold a key: it is never shown."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from viscera.errors import FileError, SettingError
from viscera.io.extras import is_installed

SCHEMES = {"https": "aiohttp", "http": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
"""{scheme: the package by which fsspec reads it}"""
ATTEMPTS = 3
PAUSE_S = 1.0
"""Before the second attempt; twice as long before the third."""


def is_url(text: str) -> bool:
    """Tell whether a text is the URL of a scan elsewhere.

    Example:
        >>> is_url("s3://bucket/a.nii.gz"), is_url("folder/a.nii.gz"), is_url("file:///etc/a.nii.gz")
        (True, False, False)
    """
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def plain(url: str) -> Path:
    """Return what may be shown of a URL, as a path whose name is the scan's: no user, no query, nothing that could be a key.

    Example:
        >>> plain("https://me:secret@host/scans/a.nii.gz?signature=abc").as_posix()
        'https:/host/scans/a.nii.gz'
    """
    parts = urlsplit(url)
    return Path(f"{parts.scheme}:/{parts.netloc.rpartition('@')[2]}{parts.path}")


def require_reader(url: str) -> None:
    """Raise SettingError where what reads a URL's scheme is not installed; here, so that it is told before any work begins."""
    scheme = url.partition("://")[0].lower()
    missing = [package for package in ("fsspec", SCHEMES[scheme]) if not is_installed(package)]
    if missing:
        raise SettingError(
            f"scans at {scheme}:// need {' and '.join(missing)}, which is not installed",
            f"Install it, here and where workers are: pip install {' '.join(missing)}.",
        )


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Yield a file with what is at a URL; it goes with the block.

    Raises:
        FileError: It cannot be fetched, three times over.
        SettingError: What reads such URLs is not installed.
    """
    require_reader(url)
    name = plain(url).name
    with tempfile.TemporaryDirectory(prefix="viscera-") as folder:
        file = Path(folder, name)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _fetch(url, file)
                break
            except Exception as error:  # each scheme's library has its own; messages may hold the URL with its key
                if attempt == ATTEMPTS or isinstance(error, FileNotFoundError):
                    kind = "it is not there" if isinstance(error, FileNotFoundError) else type(error).__name__
                    raise FileError(
                        f"{name} cannot be fetched: {kind}",
                        "Check the URL, the rights and the connection of the machine that fetched it.",
                    ) from None
                time.sleep(PAUSE_S * attempt)
        yield file


def _fetch(url: str, file: Path) -> None:
    """Copy what is at a URL into a file."""
    import fsspec

    with fsspec.open(url, "rb") as source, file.open("wb") as target:
        shutil.copyfileobj(source, target, 2**20)  # pyright: ignore[reportArgumentType]
