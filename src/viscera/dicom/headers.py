"""What viscera reads of a DICOM file's header: what it is, and of CT images where they lie and how their pixels are stored.

Only what is needed is read, and never the pixels. What a header says goes into no message: it may name the patient.
"""

import io
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from viscera.dicom.decoding import COMPRESSED, parsing_errors
from viscera.dicom.inflating import inflated, is_deflated
from viscera.dicom.pixels import Pixels
from viscera.errors import FileError, VisceraError

if TYPE_CHECKING:
    from pydicom import Dataset

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
DICOMDIR = "1.2.840.10008.1.3.10"
NATIVE = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
"""Transfer syntaxes without compression of pixels; files without file meta information name none."""
TAGS = (
    *(
        0x00080008,
        0x00080016,
        0x00080018,
        0x00100020,
        0x00181120,
        0x00181210,
        0x00200100,
        0x0020000D,
        0x0020000E,
        0x00200011,
        0x00200012,
    ),
    *(0x00200032, 0x00200037, 0x00200052, 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280030),
    *(0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280120, 0x00280121, 0x00281052, 0x00281053, 0x00281054),
    *(0x52009229, 0x52009230),
)
"""What ``read_images`` asks of a data set, by number: it is asked of each file."""
LONGEST = 1 << 26
"""Bytes of an element that is read; the functional groups of 1,000 frames have 2 MB."""
MOST_PIXELS = 4096
"""Along a side: CT has 512, at times 1024 or 2048."""
LEFT_OUT_TYPES = {"LOCALIZER": "localizer", "SCREEN SAVE": "screenshot", "DOSE_INFO": "dose report"}
"""Values of ImageType by which scanners mark what is filed as a CT image and shows no slice."""
PARTS = ("AcquisitionNumber", "ConvolutionKernel", "TemporalPositionIdentifier")
DAMAGED, NOT_DICOM = "damaged", "not DICOM"
EXPORT_AGAIN = "Export the series again."


@dataclass(frozen=True, eq=False)
class Image:
    """One CT image, as its header describes it. Texts are "" and numbers None where the header does not say.

    Attributes:
        file: That holds it.
        frame: Its number in a multi-frame file, from 0; None in others.
        sop_instance_uid: From the data set, else from the file meta information.
        mended: Its SOP Instance UID is from the file meta information only.
        series_uid: Series Instance UID.
        study_uid: Study Instance UID.
        frame_of_reference_uid: In which its position is given.
        patient: Whose: to be compared, never shown.
        series_number: As the scanner counts.
        part: Acquisition, reconstruction kernel and time within the series: to be compared, never shown.
        position: Of the first pixel's centre, LPS mm.
        orientation: Directions of rows and of columns.
        spacing: Between rows, between columns, in mm.
        shape: Rows, columns.
        tilt_degrees: Of the gantry, as the header has it.
        inverted: Is shown with air in white (MONOCHROME1).
        pixels: How they are stored.
        fault: Why it cannot be read.
    """

    file: Path
    frame: int | None
    sop_instance_uid: str
    mended: bool
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    patient: str
    series_number: int | None
    part: tuple[str, ...]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    shape: tuple[int, int]
    tilt_degrees: float
    inverted: bool
    pixels: Pixels | None
    fault: VisceraError | None = None


def looks_like_dicom(head: bytes) -> bool:
    """Tell by the first bytes of a file whether it may be DICOM: with its mark, or without in the manner of old archives."""
    if head[128:132] == b"DICM":
        return True
    group, element = struct.unpack("<HH", head[:4]) if len(head) >= 132 else (0, 0)
    return (group, element) in ((2, 0), (2, 1), (2, 2), (8, 0), (8, 1), (8, 5), (8, 8), (8, 0x16), (8, 0x18))


def read_images(file: Path) -> tuple[str, list[Image]]:
    """Return ("", the CT images of a file), or of another file (what it is, none).

    The caller silences pydicom's warnings, which quote what headers hold.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(1024)
            if not looks_like_dicom(head):
                return NOT_DICOM, []
            return _read(stream, file, head)
    except (*parsing_errors(), VisceraError):
        marked = "head" in locals() and head[128:132] == b"DICM"  # pyright: ignore[reportPossiblyUnboundVariable]
        return DAMAGED if marked else NOT_DICOM, []


def _read(stream: BinaryIO | io.BytesIO, file: Path, head: bytes) -> tuple[str, list[Image]]:
    """Read an open file that looks like DICOM."""
    from pydicom import dcmread
    from pydicom.filereader import read_dataset, read_file_meta_info
    from pydicom.uid import UID

    if is_deflated(head):
        meta = read_file_meta_info(file)
        stream = inflated(stream, file)
        dataset: Dataset = read_dataset(stream, False, True, stop_when=_at_pixels, specific_tags=list(TAGS))
        implicit, little, size = False, True, len(stream.getbuffer())
    else:
        stream.seek(0)
        dataset = dcmread(stream, force=True, stop_before_pixels=True, defer_size=LONGEST, specific_tags=list(TAGS))
        meta = dataset.file_meta
        implicit, little = dataset.original_encoding
        size = file.stat().st_size
    place = stream.tell()
    kind = text(dataset, "SOPClassUID") or text(meta, "MediaStorageSOPClassUID")
    if not kind:
        return DAMAGED if head[128:132] == b"DICM" else NOT_DICOM, []
    if kind != CT and kind not in ENHANCED_CT:
        return (DICOMDIR if kind == DICOMDIR else UID(kind).keyword or "unknown SOP class"), []
    for value, name in LEFT_OUT_TYPES.items():
        if value in image_type(dataset):
            return name, []
    syntax = text(meta, "TransferSyntaxUID")
    storage = _storage(
        stream, place, size, deflated=is_deflated(head), little=little is not False, implicit=implicit is True
    )
    first = _image(file, dataset, meta)
    if kind == CT:
        if (integer(dataset, "NumberOfFrames") or 1) != 1:
            return "", [replace(first, fault=_fault(file, "holds several frames, though it is a plain CT image"))]
        return "", [_with_pixels(first, dataset, (syntax, storage))]
    return "", list(_frames(first, dataset, (syntax, storage)))


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:
    return tag in (0x7FE00010, 0x7FE00009, 0x7FE00008)


@dataclass(frozen=True)
class _Storage:
    """Where the pixel data begin, how many bytes they should and do have, and whether numbers are little endian."""

    offset: int
    promised: int | None
    there: int
    deflated: bool
    little: bool
    fault: str = ""


def _storage(
    stream: BinaryIO | io.BytesIO, place: int, size: int, *, deflated: bool, little: bool, implicit: bool
) -> _Storage:
    """Read the first bytes of the pixel data element, at which the stream stands."""
    head = stream.read(12)
    end = "<" if little else ">"
    if len(head) < 8 or struct.unpack(f"{end}HH", head[:4]) != (0x7FE0, 0x0010):
        floating = len(head) >= 8 and struct.unpack(f"{end}HH", head[:4]) in ((0x7FE0, 8), (0x7FE0, 9))
        fault = "its pixels are floating-point numbers, which no CT has" if floating else "it has no pixel data"
        return _Storage(0, None, 0, deflated, little, fault)
    if implicit or len(head) < 12:
        begin, length = place + 8, struct.unpack(f"{end}I", head[4:8])[0]
    else:
        begin, length = place + 12, struct.unpack(f"{end}I", head[8:12])[0]
    return _Storage(begin, None if length == 0xFFFFFFFF else length, max(0, size - begin), deflated, little)


def _image(file: Path, dataset: "Dataset", meta: "Dataset") -> Image:
    """Return what the header says but for the pixels."""
    rows, columns = (integer(dataset, keyword) or 0 for keyword in ("Rows", "Columns"))
    own_uid = text(dataset, "SOPInstanceUID")
    uid = own_uid or text(meta, "MediaStorageSOPInstanceUID")
    tilt = numbers(dataset, "GantryDetectorTilt", 1)
    return Image(
        file,
        None,
        uid,
        bool(uid) and not own_uid,
        text(dataset, "SeriesInstanceUID"),
        text(dataset, "StudyInstanceUID"),
        text(dataset, "FrameOfReferenceUID"),
        text(dataset, "PatientID"),
        integer(dataset, "SeriesNumber"),
        tuple(text(dataset, keyword) for keyword in PARTS),
        numbers(dataset, "ImagePositionPatient", 3),
        numbers(dataset, "ImageOrientationPatient", 6),
        numbers(dataset, "PixelSpacing", 2),
        (rows, columns),
        tilt[0] if tilt else 0.0,
        text(dataset, "PhotometricInterpretation") == "MONOCHROME1",
        None,
    )


def _with_pixels(
    image: Image, dataset: "Dataset", stored: tuple[str, _Storage], groups: "Dataset | None" = None
) -> Image:
    """Return an image with how its pixels are stored, or with what is wrong with them.

    Args:
        image: As its header describes it.
        dataset: That header.
        stored: Transfer syntax, and where the pixel data are.
        groups: Where the rescale is; the header where None.
    """
    fault = _unsupported(image, dataset, stored)
    if fault:
        return replace(image, fault=_fault(image.file, fault))
    groups = dataset if groups is None else groups
    slope, intercept = (numbers(groups, keyword, 1) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None or not slope[0] > 0:
        what = "has no rescale slope and intercept, so its values may not be Hounsfield units"
        if slope is not None and intercept is not None:
            what = "has a rescale slope that is not positive"
        return replace(image, fault=_fault(image.file, what))
    # "US" is DICOM's word for unspecified.
    if text(groups, "RescaleType").upper() not in ("", "HU", "US"):
        return replace(image, fault=_fault(image.file, "holds values in another unit than Hounsfield's"))
    syntax, storage = stored
    allocated, bits, high, signed = _bits(dataset)
    native = syntax in NATIVE
    dtype = f"{'<' if storage.little else '>'}{'i' if signed else 'u'}{allocated // 8}"
    size = image.shape[0] * image.shape[1] * allocated // 8
    pixels = Pixels(
        storage.offset + (image.frame or 0) * size if native else -1,
        storage.deflated,
        dtype if native else f"<{'i' if signed else 'u'}4",
        (high + 1 - bits, high + 1),
        slope[0],
        intercept[0],
        _padding(dataset, allocated, signed=bool(signed)),
    )
    return replace(image, pixels=pixels)


def _bits(dataset: "Dataset") -> tuple[int, int, int, int]:
    """Return bits allocated, bits stored, high bit and pixel representation; -1 where the header does not say."""
    allocated, bits, high, signed = (
        -1 if (value := integer(dataset, keyword)) is None else value
        for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    )
    return allocated, bits, bits - 1 if high < 0 else high, signed


def _unsupported(image: Image, dataset: "Dataset", stored: tuple[str, _Storage]) -> str:
    """Return why the pixels cannot be read, "" where they can."""
    syntax, storage = stored
    allocated, bits, high, signed = _bits(dataset)
    photometric = text(dataset, "PhotometricInterpretation")
    if syntax not in NATIVE and syntax not in COMPRESSED:
        return "its transfer syntax is not supported"
    if (integer(dataset, "SamplesPerPixel") or 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return "is not an image in grey levels"
    if not all(0 < side <= MOST_PIXELS for side in image.shape):
        return f"its rows and columns are not between 1 and {MOST_PIXELS}"
    if allocated not in (8, 16, 32) or not 0 < bits <= high + 1 <= allocated or signed not in (0, 1):
        return "its pixels are not integers of 8, 16 or 32 bits"
    if storage.fault:
        return storage.fault
    if allocated == 8 and not storage.little:  # whether bytes are swapped in pairs depends on who wrote it
        return "its transfer syntax is not supported for 8 bits"
    if syntax in COMPRESSED:
        return "" if storage.promised is None else "its compressed pixel data are not in fragments"
    size = image.shape[0] * image.shape[1] * allocated // 8 * max(1, integer(dataset, "NumberOfFrames") or 1)
    if storage.promised is None or storage.promised > size + size % 2:
        return "its pixel data do not have the size that its header says"
    if min(storage.promised, storage.there) < size:
        return "its pixel data end early"
    return ""


def _padding(dataset: "Dataset", allocated: int, *, signed: bool) -> tuple[int, int] | None:
    """Return from where to where stored values are padding, with the sign that they are stored with."""
    first = integer(dataset, "PixelPaddingValue")
    if first is None:
        return None
    last = integer(dataset, "PixelPaddingRangeLimit")
    both = []
    for value in (first, first if last is None else last):
        low = value & ((1 << allocated) - 1)
        both.append(low - (1 << allocated) if signed and low >> (allocated - 1) else low)
    return both[0], both[1]


def _frames(first: Image, dataset: "Dataset", stored: tuple[str, _Storage]) -> Iterator[Image]:
    """Yield the images of a multi-frame file: what its functional groups say, a frame's own or those that all share."""
    from pydicom import Dataset

    shared = _item(dataset, "SharedFunctionalGroupsSequence") or Dataset()
    frames = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    count = integer(dataset, "NumberOfFrames")
    if not frames or count != len(frames):
        yield replace(first, fault=_fault(first.file, "its frames are not each described"))
        return
    for number, own in enumerate(frames):

        def group(keyword: str, own: "Dataset" = own) -> "Dataset":
            return _item(own, keyword) or _item(shared, keyword) or Dataset()

        if "LOCALIZER" in image_type(group("CTImageFrameTypeSequence"), "FrameType"):
            continue
        image = replace(
            first,
            frame=number,
            position=numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3),
            orientation=numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
            spacing=numbers(group("PixelMeasuresSequence"), "PixelSpacing", 2),
        )
        yield _with_pixels(image, dataset, stored, group("PixelValueTransformationSequence"))


def _item(dataset: "Dataset", keyword: str) -> "Dataset | None":
    """Return the first item of a sequence, None where there is none."""
    sequence = dataset.get(keyword)
    return sequence[0] if sequence else None


def _fault(file: Path, what: str) -> FileError:
    """Return the error of one image."""
    where = f"{file}: {what}" if what.startswith(("its ", "it ")) else f"{file} {what}"
    return FileError(where, EXPORT_AGAIN, file=file)


def text(dataset: "Dataset", keyword: str) -> str:
    """Return a value as text, "" where there is none."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def numbers(dataset: "Dataset", keyword: str, count: int) -> tuple[float, ...] | None:
    """Return so many finite numbers, None where there are not so many or something else."""
    try:
        value = dataset.get(keyword)
        if value is None:
            return None
        values = np.atleast_1d(np.asarray(value, float))
    except parsing_errors():
        return None
    return tuple(values.tolist()) if values.shape == (count,) and np.isfinite(values).all() else None


def integer(dataset: "Dataset", keyword: str) -> int | None:
    """Return one whole number, None where there is none."""
    value = numbers(dataset, keyword, 1)
    return int(value[0]) if value and value[0].is_integer() and abs(value[0]) < sys.maxsize else None


def image_type(dataset: "Dataset", keyword: str = "ImageType") -> list[str]:
    """Return the values of an image's type."""
    value = dataset.get(keyword)
    return [str(one).strip().upper() for one in ([value] if isinstance(value, str) else value or ())]
