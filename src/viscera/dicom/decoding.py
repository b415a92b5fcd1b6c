"""Compressed images, decoded in a process apart.

Decoders are C code, and what they decode comes from anywhere: a picture made for it can crash them, fill the memory, or run for
ever. So they run in a process of their own, which has a limit of memory and of time, no more to lose than the images it was given,
and takes nothing with it when it dies. It also spreads the work over the cores (JPEG 2000: 25 ms an image).

Which decoder decodes what is fixed here, whatever else is installed, for pydicom would take whichever comes first: GDCM has an
open advisory of 2026, and pylibjpeg-libjpeg is under the GPL. All JPEG of 1992 (baseline, extended, lossless) goes to libjpeg-turbo
by way of imagecodecs (BSD), with 12 bits, too; JPEG 2000 to OpenJPEG, JPEG-LS to CharLS, RLE to pylibjpeg-rle.
"""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Integer

from viscera.errors import FileError, SettingError
from viscera.io.cores import usable_cores
from viscera.io.doors import pydicom_module

if TYPE_CHECKING:
    from pydicom import Dataset

JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
RLE = ("1.2.840.10008.1.2.5",)
PLUGIN_OF = {
    **dict.fromkeys(JPEG_LS, "pyjpegls"),
    **dict.fromkeys((*JPEG_2000, *HTJ2K, *RLE), "pylibjpeg"),
}
"""pydicom's plug-in for a transfer syntax; JPEG is decoded past pydicom."""
COMPRESSED = frozenset((*JPEG, *PLUGIN_OF))
"""Transfer syntaxes that can be decoded."""

AT_ONCE = 160
"""Images for one process, which takes 0.8 s to start."""
MEMORY_GIB = 6
"""Of a process, where the system can hold it to that; what is imported takes 1 GiB of addresses, an image of 512x512 some MiB."""
SECONDS = 300
"""For one process; 160 images of 512x512 take 5."""
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from viscera.dicom.decoding import serve; serve()"
FAILED, MISSING = b"F", b"M"
DONE = {b"H": "<u2", b"h": "<i2", b"i": "<i4"}
"""In an answer: the first byte of an image, and how its values follow."""
EXPORT_AGAIN = "Export the series again, if possible without compression."
PARSING = (
    *(
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        NotImplementedError,
        RuntimeError,
        OSError,
        EOFError,
    ),
    *(AssertionError, ArithmeticError, MemoryError, BufferError, struct.error, zlib.error),
)
"""What pydicom and decoders raise over damaged files, but for pydicom's own."""


def parsing_errors() -> tuple[type[Exception], ...]:
    """Return what pydicom and decoders raise over damaged files."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*PARSING, BytesLengthException, InvalidDicomError)


def decoded(images: Sequence[tuple[Path, int]], shape: tuple[int, int]) -> list[Integer[np.ndarray, "y x"]]:
    """Return the stored values of compressed images, in a type that holds them.

    Args:
        images: File, and number of the frame in it, from 0.
        shape: (rows, columns) of each.

    Raises:
        FileError: One cannot be decoded, or crashed its decoder.
        SettingError: A decoder is not installed.
    """
    jobs = usable_cores()
    size = min(AT_ONCE, -(-len(images) // jobs))
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    with ThreadPoolExecutor(jobs) as threads:
        return [one for part in threads.map(lambda part: _apart(part, shape), parts) for one in part]


def _apart(images: Sequence[tuple[Path, int]], shape: tuple[int, int]) -> list[Integer[np.ndarray, "y x"]]:
    """Decode in a process of its own."""
    paths = json.dumps([str(Path(place or ".").resolve()) for place in sys.path])
    question = json.dumps([[str(file.resolve()), frame, *shape] for file, frame in images]).encode()
    # One thread each: BLAS, which nobody calls here, would reserve memory for each core.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        answer = subprocess.run(
            [sys.executable, "-c", START, paths],
            input=question,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            env=environment,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired as error:
        raise FileError(f"{images[0][0].parent}: decoding its images took over {SECONDS} s", EXPORT_AGAIN) from error
    found, place = [], 0
    for file, _ in images:
        kind, place = answer[place : place + 1], place + 1
        if kind == MISSING:
            raise no_decoder(f"{file} is compressed, and its decoder is not installed")
        dtype = np.dtype(DONE.get(kind, "<i4"))
        size = dtype.itemsize * shape[0] * shape[1]
        if kind not in DONE or place + size > len(answer):
            reason = answer[place:].decode("ascii", "replace") if kind == FAILED else "the decoder crashed"
            raise FileError(f"{file}: its pixel data cannot be decoded ({reason})", EXPORT_AGAIN, file=file)
        found.append(np.frombuffer(answer, dtype, shape[0] * shape[1], place).reshape(shape))
        place += size
    return found


def no_decoder(what: str) -> SettingError:
    """Return the error of packages that are not installed."""
    return SettingError(what, "Install it: pip install 'viscera[dicom]'.")


def serve() -> None:
    """Decode what standard input lists, and write it to standard output: the process apart."""
    import warnings

    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", "End of file reached before delimiter")
    if sys.platform != "win32":
        import resource

        most = MEMORY_GIB << 30
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    # What a decoder prints must not get into the answer.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        pydicom = pydicom_module()
    except ImportError:
        output.write(MISSING)
        output.flush()
        return
    last: tuple[str, Dataset] | None = None
    for file, frame, rows, columns in json.loads(sys.stdin.buffer.read()):
        try:
            if last is None or last[0] != file:
                last = (file, pydicom.dcmread(file, force=True))
            values = _decode(last[1], frame)
            if values.shape != (rows, columns):
                raise ValueError("another size than its header says")
        except ImportError:
            output.write(MISSING)
            break
        except parsing_errors() as error:
            # Its text may quote the header.
            output.write(FAILED + type(error).__name__.encode())
            break
        kind = next(kind for kind, dtype in DONE.items() if kind == b"i" or _holds(np.dtype(dtype), values))
        output.write(kind + values.astype(DONE[kind]).tobytes())
    output.flush()


def _holds(dtype: np.dtype, values: Integer[np.ndarray, "y x"]) -> bool:
    """Tell whether all values fit into a type."""
    limits = np.iinfo(dtype)
    return bool(limits.min <= values.min() and values.max() <= limits.max)


def _decode(dataset: "Dataset", frame: int) -> Integer[np.ndarray, "y x"]:
    """Return the stored values of one frame."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    count = int(dataset.get("NumberOfFrames") or 1)
    if syntax not in RLE:
        packed = get_frame(dataset.PixelData, frame, number_of_frames=count)
        # A decoder may fill up what is missing in silence; each of these formats has an end mark.
        if not packed.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise EOFError("the image ends early")
        if syntax in JPEG:
            import imagecodecs

            return _signed(np.asarray(imagecodecs.jpeg8_decode(packed)), dataset)
    decoder = get_decoder(syntax)
    if PLUGIN_OF[syntax] not in decoder.available_plugins:
        raise ImportError(PLUGIN_OF[syntax])
    # Bits that are not of the value are dropped in pixels.py: padding may be told by them.
    return decoder.as_array(
        dataset,
        index=frame,
        decoding_plugin=PLUGIN_OF[syntax],
        correct_unused_bits=False,  # pyright: ignore[reportArgumentType]
    )[0]


def _signed(values: Integer[np.ndarray, "y x"], dataset: "Dataset") -> Integer[np.ndarray, "y x"]:
    """Return values that JPEG knows as unsigned with the sign that the data set says they have."""
    if not dataset.PixelRepresentation:
        return values
    sign = 1 << (int(dataset.BitsStored) - 1)
    return ((values.astype(np.int32) & (2 * sign - 1)) ^ sign) - sign
