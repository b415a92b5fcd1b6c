"""From the image of an ideal scanner to the stored scan: table, streaks, blur, noise, gain, field of view.

For each step the usual one is in acquisition.py, the varied one in protocol.py or field_of_view.py; here they are put in order.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int16

from viscera.synthesis.canvas import Canvas
from viscera.synthesis.scanner.acquisition import OUTSIDE_HU, Scanner, add_grain_, blur, disc, paint_table_, store
from viscera.synthesis.scanner.field_of_view import draw_outside, paint_table_varied_
from viscera.synthesis.scanner.protocol import (
    add_metal_streaks_,
    add_noise_,
    add_streaks_,
    beam_loss,
    blur_varied,
    change_gain_,
)
from viscera.synthesis.variety import Streams, Variety


@dataclass(frozen=True, eq=False)
class View:
    """Where a scan lies about its patient.

    Attributes:
        y_mm: Places of the rows, to the back.
        x_mm: Places of the columns, to the left.
        spacing_mm: Of the voxels (z, y, x).
        back_mm: Where the table touches the patient.
        half_width_mm: Of the patient.
    """

    y_mm: Float[np.ndarray, "y"]
    x_mm: Float[np.ndarray, "x"]
    spacing_mm: tuple[float, float, float]
    back_mm: float
    half_width_mm: float


def scan_image(
    streams: Streams,
    variety: Variety,
    image: Float[np.ndarray, "z y x"],
    canvas: Canvas,
    *,
    scanner: Scanner,
    view: View,
) -> tuple[Int16[np.ndarray, "z y x"], Bool[np.ndarray, "y x"] | None]:
    """Return what the scanner stores, and what lies outside its field of view (None: nothing).

    Args:
        streams: Sources of randomness.
        variety: Which steps are varied.
        image: HU of an ideal scanner; changed.
        canvas: Of what the image was painted.
        scanner: The usual scanner.
        view: Where the scan lies.
    """
    if variety.view:
        paint_table_varied_(streams["view"], image, view.y_mm, view.x_mm, back_mm=view.back_mm)
    else:
        paint_table_(image, view.y_mm, view.x_mm, view.back_mm)
    loss = beam_loss(image, view.spacing_mm) if variety.noise or variety.streaks else None
    if variety.metal:
        add_metal_streaks_(streams["metal"], image, canvas, view.spacing_mm)
    if variety.kernel:
        scanned = blur_varied(streams["kernel"], image, view.spacing_mm)
    else:
        scanned = blur(image, scanner)
    if variety.noise and loss is not None:
        add_noise_(streams["noise"], scanned, loss, view.spacing_mm)
    else:
        add_grain_(streams["acquire"], scanned, scanner)
    if variety.streaks and loss is not None:
        add_streaks_(streams["streaks"], scanned, loss, view.spacing_mm)
    if variety.gain:
        change_gain_(streams["gain"], scanned)
    outside, outside_hu = (disc(image.shape[1:]) if scanner.circular else None), float(OUTSIDE_HU)
    if variety.view:
        outside, outside_hu = draw_outside(
            streams["view"].spawn(1)[0], image.shape[1:], view.spacing_mm[1], view.half_width_mm
        )
    return store(scanned, outside, outside_hu), outside
