"""DICOMweb by the standard library's HTTP: QIDO (what is there), WADO (fetch), STOW (store).

Source: DICOM PS3.18, sections 10.4 (retrieve), 10.5 (store), 10.6 (search) and 8.6.1 (multipart).
"""

import mmap
import re
import secrets
import shutil
import ssl
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qsl, quote, urlencode
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from viscera.errors import FileError, SettingError, VisceraError
from viscera.json_text import parse_json

TIMEOUT_S = 120.0
"""Without a byte. Orthanc compresses or expands a series of 1000 slices before the first one."""
MOST_JSON_BYTES = 64 * 2**20
UID = re.compile(r"[0-9.]{1,64}")
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
MODALITY = "00080060"
REFERENCED, REFERENCED_UID = "00081199", "00081155"


class ArchiveError(VisceraError):
    """An archive does not answer, refuses, or says something else than DICOMweb."""


@dataclass(frozen=True)
class Remote:
    """A series of an archive."""

    study_uid: str
    series_uid: str


class _Stay(HTTPRedirectHandler):
    """Follows no redirection: images of patients go where they were told to go."""

    def redirect_request(self, *_: object, **__: object) -> None:  # type: ignore[override]
        """Refuse."""


@contextmanager
def _asked(
    url: str,
    *,
    accept: str,
    body: bytes | IO[bytes] | None = None,
    kind: str = "",
    size: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[HTTPResponse]:
    """Yield the answer to a request: GET, or POST of a body; None for the system's authorities."""
    headers = {"Accept": accept}
    if body is not None:
        headers |= {"Content-Type": kind, "Content-Length": str(size)}
    opener = build_opener(ProxyHandler({}), _Stay, HTTPSHandler(context=tls))
    host = url.split("/")[2]
    try:
        with opener.open(Request(url, data=body, headers=headers), timeout=TIMEOUT_S) as answer:
            yield answer
    except HTTPError as error:
        error.close()
        raise ArchiveError(f"{host} answers {error.code}", "See its log.") from error
    except (URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise ArchiveError(f"{host} cannot be reached ({reason})", "Check the address, and that it runs.") from error


def find_remote(root: str, query: str) -> list[Remote]:
    """Return the CT series of an archive that a query matches (QIDO).

    Args:
        root: Of the DICOMweb server.
        query: As in an address: "PatientID=12&StudyDate=20240101-"; "" for all.

    Raises:
        ArchiveError: It does not answer so.
    """
    asked = [("Modality", "CT"), *((name, value) for name, value in parse_qsl(query) if name != "Modality")]
    with _asked(f"{root}/series?{urlencode(asked)}", accept="application/dicom+json") as answer:
        found = [] if answer.status == 204 else _json(answer.read(MOST_JSON_BYTES + 1))
    if not isinstance(found, list):
        raise ArchiveError("the archive's answer is no list of series", "Check that the address is DICOMweb's root.")
    remote = [Remote(_uid(row, STUDY), _uid(row, SERIES)) for row in found if _value(row, MODALITY) in ("CT", None)]
    return sorted(set(remote), key=lambda one: (one.study_uid, one.series_uid))


def fetch_series(root: str, one: Remote, folder: Path) -> int:
    """Fetch a series whole or not at all (WADO); return the number of files, numbered as they came.

    Files come as the archive has them (transfer-syntax=*): else it would expand each first, which takes ten times as long.

    Args:
        root: Of the DICOMweb server.
        one: Which.
        folder: For its files; nothing is fetched where it exists.

    Raises:
        ArchiveError: It does not answer so.
    """
    if folder.is_dir():
        return sum(1 for _ in folder.iterdir())
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        url = f"{root}/studies/{quote(one.study_uid)}/series/{quote(one.series_uid)}"
        with _asked(url, accept='multipart/related; type="application/dicom"; transfer-syntax=*') as answer:
            boundary = _boundary(answer.headers.get("Content-Type", ""))
            with tempfile.TemporaryFile(dir=part) as whole:
                shutil.copyfileobj(answer, whole, 2**20)
                length = answer.headers.get("Content-Length")
                if length is not None and whole.tell() != int(length):
                    raise ArchiveError("a series came in part only", "Run the same command again.")
                count = _write_parts(whole, boundary, part)
        if not count:
            raise ArchiveError("the archive sends a series without images", "See its log.")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return count


def store_files(root: str, files: Mapping[str, Path], *, tls: ssl.SSLContext | None = None) -> None:
    """Store files in an archive (STOW), and count what it says that it has stored: 200 alone says nothing.

    Args:
        root: Of the DICOMweb server.
        files: {SOP Instance UID: file}.
        tls: For https: whom to trust, and who calls; None for the system's authorities.

    Raises:
        ArchiveError: It does not answer, or has not stored all.
        FileError: A file cannot be read.
    """
    boundary = secrets.token_hex(16)
    with tempfile.TemporaryFile() as body:
        for file in files.values():
            body.write(f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode())
            try:
                with file.open("rb") as stream:
                    shutil.copyfileobj(stream, body)
            except OSError as error:
                raise FileError(
                    f"{file.name} cannot be read ({error.strerror})", "Check the disk.", file=file
                ) from error
            body.write(b"\r\n")
        body.write(f"--{boundary}--\r\n".encode())
        size = body.tell()
        body.seek(0)
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        with _asked(
            f"{root}/studies", accept="application/dicom+json", body=body, kind=kind, size=size, tls=tls
        ) as answer:
            said = _json(answer.read(MOST_JSON_BYTES + 1))
    rows = said.get(REFERENCED, {}).get("Value", []) if isinstance(said, dict) else []
    stored = {_value(row, REFERENCED_UID) for row in rows if isinstance(row, dict)}
    left = set(files) - stored
    if left:
        raise ArchiveError(
            f"the archive says that it stored {len(files) - len(left)} of {len(files)} files", "See its log."
        )


def split_address(text: str) -> tuple[str, str]:
    """Return the root and the query of ``dicomweb:URL[?query]``.

    Raises:
        SettingError: It is no such address.
    """
    from viscera.pacs.address import require_url

    url, _, query = text.removeprefix("dicomweb:").partition("?")
    if query and not parse_qsl(query):
        raise SettingError(f"'{query}' is no query", "Give pairs such as PatientID=12&StudyDate=20240101-.")
    return require_url(url, option="SCAN"), query


def _json(text: bytes) -> object:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ArchiveError(
            f"the archive's answer is no JSON ({error})", "Check that the address is DICOMweb's root."
        ) from error


def _value(row: object, tag: str) -> str | None:
    """Return the first value of an attribute in DICOM's JSON."""
    attribute = row.get(tag) if isinstance(row, dict) else None
    values: Sequence[object] = attribute.get("Value", ()) if isinstance(attribute, dict) else ()
    return str(values[0]) if values else None


def _uid(row: object, tag: str) -> str:
    value = _value(row, tag) or ""
    if not UID.fullmatch(value):
        raise ArchiveError("the archive names a series without a UID", "See its log.")
    return value


def _boundary(kind: str) -> bytes:
    message = Message()
    message["Content-Type"] = kind
    found = message.get_param("boundary")
    if message.get_content_type() != "multipart/related" or not isinstance(found, str):
        raise ArchiveError("the archive sends a series in another form than multipart/related", "See its log.")
    return found.encode()


def _write_parts(whole: IO[bytes], boundary: bytes, folder: Path) -> int:
    """Write the parts of a multipart body as files, in their order; return how many."""
    whole.flush()
    mark, count = b"--" + boundary, 0
    with mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ) as view:
        at = view.find(mark)
        while at >= 0 and view[at + len(mark) : at + len(mark) + 2] != b"--":
            begin, end = view.find(b"\r\n\r\n", at), view.find(b"\r\n" + mark, at)
            if begin < 0 or end < 0:
                raise ArchiveError("a series came in part only", "Run the same command again.")
            (folder / f"{count:06d}.dcm").write_bytes(view[begin + 4 : end])
            count, at = count + 1, end + 2
        if at < 0:
            raise ArchiveError("a series came in part only", "Run the same command again.")
    return count
