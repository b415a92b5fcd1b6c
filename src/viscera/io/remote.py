"""Scans at a URL: which there are, and what may be shown of them. A URL may hold a key: it is never shown. fetching.py fetches."""

from pathlib import Path
from urllib.parse import urlsplit

from viscera.errors import SettingError
from viscera.io.extras import is_installed

SCHEMES = {"https": "aiohttp", "http": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
"""{scheme: the package by which fsspec reads it}"""
KEYLESS = ("s3", "gs")
"""Schemes whose URLs have no place for a user and a key."""


def is_url(text: str) -> bool:
    """Tell whether a text is the URL of a scan elsewhere.

    Example:
        >>> is_url("s3://bucket/a.nii.gz"), is_url("folder/a.nii.gz"), is_url("file:///etc/a.nii.gz")
        (True, False, False)
    """
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def url_fault(url: str) -> str:
    """Say what is wrong with a URL, without showing it; "" where nothing is.

    Example:
        >>> url_fault("s3://key:secret@bucket/a.nii.gz")
        'keys in s3:// URLs are not used; the configuration of the machine that fetches has them'
        >>> url_fault("https://me:secret@host/a.nii.gz")
        ''
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return "it is not a URL"
    if not host:
        return f"a {parts.scheme}:// URL without a {'bucket' if parts.scheme in KEYLESS else 'host'}"
    if "::" in url:  # fsspec takes what follows as the URL of another file system, on the worker's disk for instance
        return "a URL with '::' in it is not taken; in a path or query write %3A%3A"
    if parts.scheme in KEYLESS and "@" in parts.netloc:
        return f"keys in {parts.scheme}:// URLs are not used; the configuration of the machine that fetches has them"
    return ""


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
