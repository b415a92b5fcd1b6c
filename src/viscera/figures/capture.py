"""The picture of a DICOM secondary capture: a montage, under a line that says what it is not."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from viscera.figures.montage import montage
from viscera.volume import Volume

BANNER = "viscera - research only, not for clinical use"
BANNER_ROWS = 32


def draw_capture(ct: Volume, labels: Volume, names: Mapping[int, str]) -> UInt8[np.ndarray, "row column 3"]:
    """Draw slices of a scan beside their labels, as RGB.

    Args:
        ct: HU.
        labels: On its grid.
        names: {index: organ}.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = montage(ct, labels, truth=None, names=names, out=Path(folder) / "montage.png")
        found = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    picture = np.ascontiguousarray(np.asarray(found)[..., ::-1], np.uint8)
    banner = np.zeros((BANNER_ROWS, picture.shape[1], 3), np.uint8)
    white, thickness = (255, 255, 255), 1
    cv2.putText(banner, BANNER, (8, BANNER_ROWS - 11), cv2.FONT_HERSHEY_SIMPLEX, 0.5, white, thickness, cv2.LINE_AA)
    return np.concatenate([banner, picture])
