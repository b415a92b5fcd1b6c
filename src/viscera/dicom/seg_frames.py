"""The frames of a SEG as bytes: what each shows of which slice, and its pixels. Written for 1,000 frames and more at once.

pydicom would take a second to build and a second to write the four sequences of every frame; here the parts that frames share
are encoded once and joined. Reading is in read_frames.py, which shares nothing with this.
"""

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from jaxtyping import Bool, Float, UInt8

if TYPE_CHECKING:
    from pydicom import Dataset

ITEM, END_OF_ITEMS = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
FRAME_GROUPS, PIXELS = (0x5200, 0x9230), (0x7FE0, 0x0010)
"""Tags; the last two of a SEG, in this order, are per-frame functional groups and pixel data."""
FRAMES_AT_ONCE = 8
"""Bits of frames follow each other without a gap, so only after eight frames does a byte surely begin with one."""


def ds(value: float) -> str:
    """Return a number as DICOM's decimal string, of at most 16 characters.

    Example:
        >>> ds(-123.456789012345), ds(0.7), ds(-1e-12)
        ('-123.456789', '0.7', '0')
    """
    return f"{round(value, 9) + 0.0:.10g}"


def present_in_slices(labels: UInt8[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z value"]:
    """Return which of the 256 values each slice holds."""
    return np.array([np.bincount(plane.ravel(), minlength=256) > 0 for plane in labels])


def frame_groups(
    planes: Sequence[tuple[int, int]],
    *,
    positions_mm: Float[np.ndarray, "z lps"],
    derivations: "Sequence[Dataset]",
    by_segment: bool,
) -> bytes:
    """Return the items of PerFrameFunctionalGroupsSequence.

    Args:
        planes: (segment number, slice) of each frame, in their order.
        positions_mm: ImagePositionPatient of each slice of the series.
        derivations: For each slice, the item of DerivationImageSequence.
        by_segment: Whether each frame shows one segment (BINARY) or all (LABELMAP).
    """
    from pydicom import Dataset

    used = sorted({place for _, place in planes})
    order = {place: number for number, place in enumerate(used, start=1)}
    sources, positions = {}, {}
    for place in used:
        sources[place] = _group("DerivationImageSequence", derivations[place])
        position = Dataset()
        position.ImagePositionPatient = [ds(value) for value in positions_mm[place]]
        positions[place] = _group("PlanePositionSequence", position)
    content, identity = Dataset(), Dataset()
    content.DimensionIndexValues = [1, 1] if by_segment else 1
    begin = _group("FrameContentSequence", content)[: -8 if by_segment else -4]
    segments = {}
    for segment in {segment for segment, _ in planes} if by_segment else ():
        identity.ReferencedSegmentNumber = segment
        segments[segment] = _group("SegmentIdentificationSequence", identity)
    items = []
    for segment, place in planes:
        index = struct.pack("<2I", segment, order[place]) if by_segment else struct.pack("<I", order[place])
        item = b"".join((sources[place], begin, index, positions[place], segments.get(segment, b"")))
        items += [struct.pack("<2HI", *ITEM, len(item)), item]
    return b"".join(items)


def _group(keyword: str, item: "Dataset") -> bytes:
    """Return a sequence of one item as explicit little endian bytes."""
    from pydicom import Dataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    group = Dataset()
    setattr(group, keyword, [item])
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, group)
    return buffer.getvalue()


def write_element(
    file: BinaryIO,
    tag: tuple[int, int],
    kind: str,
    value: bytes | memoryview,
    *,
    encapsulated: bool = False,
) -> None:
    """Write an element of a data set as explicit little endian bytes.

    Args:
        file: Where to.
        tag: Its group and number.
        kind: Its value representation, of those with four bytes for the length.
        value: Of even length.
        encapsulated: The value is a sequence of items, closed by a delimiter rather than told by its length.
    """
    length = 0xFFFFFFFF if encapsulated else len(value)
    file.write(struct.pack("<2H2s2xI", *tag, kind.encode(), length))
    file.write(value)
    if encapsulated:
        file.write(struct.pack("<2HI", *END_OF_ITEMS, 0))


def packed_bits(
    labels: UInt8[np.ndarray, "z y x"], planes: Sequence[tuple[int, int]], values: Sequence[int]
) -> memoryview:
    """Return the pixels of a BINARY SEG: one bit each, the first in the lowest bit, padded to an even number of bytes.

    Args:
        labels: The label map.
        planes: (segment number, slice) of each frame, in their order.
        values: The label of each segment, segment 1 first.
    """
    size = labels.shape[1] * labels.shape[2]
    pixels = np.zeros(-(-len(planes) * size // 16) * 2, np.uint8)
    for begin in range(0, len(planes), FRAMES_AT_ONCE):
        chunk = [labels[place] == values[segment - 1] for segment, place in planes[begin : begin + FRAMES_AT_ONCE]]
        bits = np.packbits(np.array(chunk), bitorder="little")
        pixels[begin * size // 8 :][: len(bits)] = bits
    return pixels.data


def run_lengths(labels: UInt8[np.ndarray, "z y x"], places: Sequence[int], numbers: UInt8[np.ndarray, " 256"]) -> bytes:
    """Return slices of a label map as encapsulated RLE frames.

    Args:
        labels: The label map.
        places: The slices to be written, in their order.
        numbers: The segment number of each label.
    """
    from pydicom.encaps import encapsulate
    from pydicom.pixels.encoders.base import get_encoder
    from pydicom.uid import RLELossless

    rows, columns = labels.shape[1:]
    what = {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": 8,
        "bits_stored": 8,
        "pixel_representation": 0,
        "photometric_interpretation": "MONOCHROME2",
    }
    encoder = get_encoder(RLELossless)
    frames = [encoder.encode(numbers[labels[place]], **what) for place in places]
    return encapsulate(frames, has_bot=True)
