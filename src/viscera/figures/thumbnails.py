"""A picture that stands beside label maps -> a small JPEG for a page."""

import struct
from pathlib import Path

import cv2
import numpy as np

LARGEST_BYTES = 20 * 2**20
LARGEST_PIXELS = 40_000_000
"""Of a picture that is opened; a montage of viscera view has 2 million."""
WIDTH = 320
QUALITY = 72
"""Of the JPEG, in per cent: about 10 kB each."""
START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


def thumbnail(file: Path) -> bytes | None:
    """Return a PNG file as a small JPEG; None where there is none, or it is too large or damaged.

    Args:
        file: The picture.
    """
    try:
        if file.stat().st_size > LARGEST_BYTES:
            return None
        content = file.read_bytes()
    except OSError:
        return None
    if not content.startswith(START) or len(content) < len(START) + 8:
        return None
    width, height = struct.unpack(">II", content[len(START) : len(START) + 8])
    if not 0 < width * height <= LARGEST_PIXELS:
        return None
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        return None
    rows = max(1, round(picture.shape[0] * WIDTH / picture.shape[1]))
    small = cv2.resize(picture, (WIDTH, rows), interpolation=cv2.INTER_AREA) if picture.shape[1] > WIDTH else picture
    done, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return encoded.tobytes() if done else None
