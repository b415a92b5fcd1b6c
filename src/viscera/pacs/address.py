"""Where results go: a DICOM node, AET@HOST:PORT, or a DICOMweb server, http://HOST:PORT/dicom-web."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from viscera.errors import SettingError

LONGEST_AET = 16
NODE = re.compile(r"(?P<aet>[^@\\]+)@(?P<host>\[[0-9A-Fa-f:.]+\]|[^@:\s]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Node:
    """A DICOM node."""

    aet: str
    host: str
    port: int

    def __str__(self) -> str:
        """Return it as it is given."""
        return f"{self.aet}@{self.host}:{self.port}"


@dataclass(frozen=True)
class Web:
    """The root of a DICOMweb server."""

    url: str

    def __str__(self) -> str:
        """Return it as it is given."""
        return self.url


def require_aet(title: str, *, option: str) -> str:
    """Return an application entity title.

    Raises:
        SettingError: It is none (PS3.5 6.2: at most 16 letters, no backslash and no control character).
    """
    title = title.strip()
    if not 0 < len(title) <= LONGEST_AET or not title.isascii() or not title.isprintable() or "\\" in title:
        raise SettingError(f"{option}: '{title}' is no AE title", "Give 1 to 16 ASCII letters without a backslash.")
    return title


def parse_address(text: str, *, option: str = "--send-to") -> Node | Web:
    """Return the destination that a user names.

    Raises:
        SettingError: It is none.

    Example:
        >>> parse_address("ORTHANC@127.0.0.1:4242")
        Node(aet='ORTHANC', host='127.0.0.1', port=4242)
    """
    if text.startswith(("http://", "https://")):
        return Web(require_url(text, option=option))
    found = NODE.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise SettingError(
            f"{option}: '{text}' is no destination", "Give AET@HOST:PORT, or http://HOST:PORT/dicom-web for DICOMweb."
        )
    return Node(require_aet(found["aet"], option=option), found["host"].strip("[]"), int(found["port"]))


def require_url(text: str, *, option: str) -> str:
    """Return an address of HTTP without a slash at its end.

    Raises:
        SettingError: It is none, or holds a password, which would stand in lists of processes.
    """
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good, parts = False, None
    if not good or parts is None:
        raise SettingError(f"{option}: '{text}' is no http:// address", "Give http://HOST:PORT/dicom-web.")
    if parts.username or parts.password:
        raise SettingError(
            f"{option}: the address holds a user name or password, which other users of this machine can see",
            "Put a proxy that knows it in between.",
        )
    return text.rstrip("/")
