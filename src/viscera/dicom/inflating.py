"""Deflated DICOM files: all behind the file meta information is compressed as in a ZIP, to be undone within limits."""

import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from viscera.errors import FileError

DEFLATED = "1.2.840.10008.1.2.1.99"
MOST_BYTES = 1 << 31
"""Of an inflated file: a file of 2 MB can hold as much. An enhanced CT of 1,000 images has 0.5 GB."""
PREAMBLE = 128


def is_deflated(head: bytes) -> bool:
    """Tell by the first KB of a file whether it names the deflated transfer syntax."""
    return DEFLATED.encode() in head


def inflate(file: Path) -> bytes:
    """Return a deflated file's data set, explicit VR, little endian.

    Raises:
        FileError: The file is damaged, or inflates to more than any CT.
    """
    with file.open("rb") as stream:
        return inflated(stream, file).getvalue()


def inflated(stream: BinaryIO, file: Path) -> io.BytesIO:
    """Return what ``inflate`` does as a stream at its start.

    Args:
        stream: The open file.
        file: For the message.
    """
    stream.seek(PREAMBLE + 4)
    head = stream.read(12)
    # The first element, (0002,0000) UL, says how long the file meta information behind it is.
    if len(head) < 12 or head[:6] != b"\x02\x00\x00\x00UL":
        raise FileError(f"{file}: its file meta information is damaged", "Export it again.", file=file)
    stream.seek(struct.unpack("<I", head[8:])[0], io.SEEK_CUR)
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpack.decompress(stream.read(), MOST_BYTES)
    except (zlib.error, MemoryError) as error:
        raise FileError(f"{file}: its compressed content is damaged", "Export it again.", file=file) from error
    if not unpack.eof:
        fault = "ends early" if len(content) < MOST_BYTES else f"has more than {MOST_BYTES >> 30} GiB"
        raise FileError(f"{file}: its compressed content {fault}", "Export it again.", file=file)
    return io.BytesIO(content)
