"""A DICOM node that takes CT series: C-ECHO and C-STORE, by pynetdicom.

An image is on the disk before its sender is told that it was stored. What is no CT image, and what viscera made itself, is
answered as stored and let go, since archives send whole studies and try again what is refused. The log names SOP classes and
keys of jobs, nothing of a patient.
"""

import logging
import shutil
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  (made when it is imported)
from pynetdicom.transport import ThreadedAssociationServer

from viscera.dicom.decoding import parsing_errors
from viscera.dicom.outputs import MANUFACTURER
from viscera.errors import SettingError, VisceraError
from viscera.pacs.spool import Job, Spool

TAKEN = frozenset((CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage))
SUCCESS, NO_ROOM, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
"""Statuses of C-STORE (PS3.4 B.2.3)."""
ROOM_BYTES = 2**30
"""What has to be free on the disk for an image to be taken: results need room, too."""


@dataclass(frozen=True)
class Door:
    """Where to listen, and who may come.

    Attributes:
        aet: Own title; callers must name it.
        host: Address to listen on.
        port: 0 takes a free one.
        callers: AE titles that may call; () for any.
        tls: None for none.
        associations: At a time.
        image_bytes: The most that one image may have.
        silence_s: After which an association ends that says nothing.
    """

    aet: str = "VISCERA"
    host: str = "127.0.0.1"
    port: int = 11112
    callers: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None
    associations: int = 10
    image_bytes: int = 2**30
    silence_s: float = 60.0


@dataclass(eq=False)
class Counts:
    """What came, for /metrics."""

    counter: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str) -> None:
        """Count one."""
        with self.lock:
            self.counter[name] += 1

    def now(self) -> dict[str, int]:
        """Return {what: how many}."""
        with self.lock:
            return dict(self.counter)


def server_tls(certificate: Path, key: Path, authority: Path | None) -> ssl.SSLContext:
    """Return what makes a node speak TLS; with an authority, callers need a certificate that it signed.

    Raises:
        SettingError: A file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if authority is not None:
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise SettingError(
            f"the TLS files cannot be used ({error})", "Give PEM files: --tls-cert, --tls-key."
        ) from error
    return context


def start_node(door: Door, spool: Spool, counts: Counts, log: Callable[[str], None]) -> ThreadedAssociationServer:
    """Listen, on threads of its own; end with ``shutdown()``.

    Args:
        door: Where, and for whom.
        spool: Takes the images.
        counts: Told of all that comes.
        log: Told of what is ignored or refused, in a line without anything of a patient.

    Raises:
        SettingError: The port cannot be had.
    """
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # its lines hold titles, addresses and names
    ae = AE(door.aet)
    ae.require_called_aet = True
    ae.require_calling_aet = list(door.callers)
    ae.maximum_associations = door.associations
    ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = door.silence_s
    ae.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        if context.abstract_syntax is not None:
            ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)

    def store(event: evt.Event) -> int:
        return store_image(event, door, spool, counts, log)

    def refused(_: evt.Event) -> None:
        counts.add("associations refused")
        log("an association was refused (title of the caller or of this node, or too many at a time)")

    try:
        server = ae.start_server(
            (door.host, door.port),
            block=False,
            ssl_context=door.tls,
            evt_handlers=[(evt.EVT_C_STORE, store), (evt.EVT_REJECTED, refused)],
        )
    except OSError as error:
        raise SettingError(
            f"{door.host} port {door.port} cannot be used ({error.strerror or error})", "Choose another --port."
        ) from error
    if server is None:  # it blocks only where it is told to
        raise SettingError("the node did not start", "Start it again.")
    return server


def series_uid(job: Job) -> str:
    """Return the UID of a job's series, as its first image has it; "" where none can be read."""
    for file in sorted(job.images.glob("[!.]*.dcm")):
        try:
            return str(pydicom.dcmread(file, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID)
        except (*parsing_errors(), AttributeError):
            continue
    return ""


def store_image(event: evt.Event, door: Door, spool: Spool, counts: Counts, log: Callable[[str], None]) -> int:
    """Put an image into the queue, or let it go; return the status that its sender is told."""
    kind = UID(str(event.request.AffectedSOPClassUID))
    if kind not in TAKEN:
        counts.add("ignored")
        log(f"ignored: {kind.name if kind.name != kind else 'an unknown SOP class'}")
        return SUCCESS
    content = event.encoded_dataset()
    if len(content) > door.image_bytes or shutil.disk_usage(spool.root).free < ROOM_BYTES + len(content):
        counts.add("refused for size")
        log("refused: an image is too large, or the disk too full")
        return NO_ROOM
    try:
        tags = ["SeriesInstanceUID", "SOPInstanceUID", "Manufacturer"]
        header = pydicom.dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=tags)
        series, instance = str(header.get("SeriesInstanceUID", "")), str(header.get("SOPInstanceUID", ""))
        own = header.get("Manufacturer") == MANUFACTURER
    except parsing_errors():
        series = instance = ""
        own = False
    if own:
        counts.add("ignored")
        log(f"ignored, of viscera's own making: {kind.name}")
        return SUCCESS
    if not series or not instance:
        counts.add("not understood")
        log(f"refused, cannot be read: {kind.name}")
        return NOT_UNDERSTOOD
    try:
        spool.add(series, instance, content)
    except VisceraError:
        counts.add("refused for size")
        log("refused: the disk does not take an image")
        return NO_ROOM
    counts.add("images")
    return SUCCESS
