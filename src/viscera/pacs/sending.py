"""Results on their way back: C-STORE to a node, STOW to a DICOMweb server; whatever is not confirmed counts as not sent."""

import logging
import ssl
from collections.abc import Sequence
from pathlib import Path

from viscera.errors import FileError, SettingError
from viscera.pacs.address import Node, Web
from viscera.pacs.dicomweb import ArchiveError, store_files

TIMEOUT_S = 120.0


def send_files(
    files: Sequence[Path], to: Node | Web, *, own_aet: str = "VISCERA", tls: ssl.SSLContext | None = None
) -> None:
    """Send DICOM files.

    Args:
        files: Each keeps its identifiers, so that an archive that gets one twice has it once.
        to: Where.
        own_aet: The title to call with.
        tls: C-STORE speaks TLS so, and https trusts so; None for C-STORE without TLS and the system's authorities.

    Raises:
        ArchiveError: The archive does not take all of them.
        FileError: One cannot be read.
    """
    if isinstance(to, Web):
        store_files(to.url, {instance_uid(file): file for file in files}, tls=tls)
    else:
        _store(files, to, own_aet, tls)


def client_tls(authority: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Return what makes results travel by TLS.

    Args:
        authority: PEM file of who has signed the archive's certificate; its name is checked.
        certificate: Own one, for archives that want it.
        key: Its key.

    Raises:
        SettingError: A file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=authority)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise SettingError(f"the TLS files cannot be used ({error})", "Give PEM files: --send-tls-ca.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def instance_uid(file: Path) -> str:
    """Return the SOP Instance UID of a file.

    Raises:
        FileError: It has none.
    """
    from viscera.dicom.decoding import parsing_errors
    from viscera.io.doors import pydicom_module

    try:
        return str(pydicom_module().dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    except (*parsing_errors(), AttributeError) as error:
        raise FileError(f"{file.name} is no DICOM file with an identifier", "Write it again.", file=file) from error


def _store(files: Sequence[Path], to: Node, own_aet: str, tls: ssl.SSLContext | None) -> None:
    """Send files by C-STORE, one presentation context per class and transfer syntax: a node accepts one syntax of each."""
    from pydicom import dcmread
    from pynetdicom import AE

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    ae = AE(own_aet)
    ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = ae.connection_timeout = TIMEOUT_S
    datasets = [dcmread(file) for file in files]
    for kind, syntax in sorted({(one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in datasets}):
        ae.add_requested_context(kind, syntax)
    association = ae.associate(to.host, to.port, ae_title=to.aet, tls_args=None if tls is None else (tls, to.host))
    if not association.is_established:
        raise ArchiveError(
            f"{to} does not accept an association", "Check that it runs, and that it knows this node's title."
        )
    try:
        for dataset in datasets:
            name = dataset.SOPClassUID.name
            try:
                answer = association.send_c_store(dataset)
            except (ValueError, RuntimeError) as error:  # no context, or the association has ended
                raise ArchiveError(f"{to} does not take a {name}", "See its log.") from error
            status = answer.get("Status")
            if status is None or not (status == 0 or 0xB000 <= status <= 0xBFFF):
                code = "no answer" if status is None else f"0x{status:04X}"
                raise ArchiveError(f"{to} did not store a {name} ({code})", "See its log.")
    finally:
        association.release()
