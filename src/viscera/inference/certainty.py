"""How sure a 2D network is: at the organs' edges, and of the scan rather than of its mirror image.

``Certainty`` sums up edges, and what was tidied away, on the way to labels: logits are forgotten slice by slice (slices.py), so
what is to be known of them is taken from each slice that the network has seen. ``handedness_of`` looks at a few slices by
itself: a network labels by place as much as by looks, so in a scan whose header has left and right the wrong way round it finds
a liver where there is none, and what it finds gives the fault away less than how unsure it is. Not here: from what value on an
organ is doubtful (quality/).
"""

from threading import Lock
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int16, UInt8

from viscera.inference.model import Model
from viscera.inference.slices import as_slice, context_of, slice_logits
from viscera.preparation.geometry import Geometry
from viscera.quality.certainty import SURE, Edge, Handedness

if TYPE_CHECKING:
    from viscera.inference.slices import AnySlice

NEGLIGIBLE = -5.0
"""Logit of the likeliest organ, less the background's, below which a pixel is left out: no organ has .7 % there."""
LOOKS = 16
"""Slices that are looked at for handedness, evenly spaced."""
AT_ONCE = 4
LEAST_PIXELS = 2000
"""Of organs, as it is and mirrored, below which neither can be said to be the right way round."""


class Certainty:
    """Sums over the edges and the insides of all classes, to which several threads may add."""

    def __init__(self, classes: int) -> None:
        """Begin with nothing.

        Args:
            classes: Channels of the network, the background included.
        """
        self._classes, self._lock = classes, Lock()
        self._pixels, self._probability, self._entropy = np.zeros((3, classes))
        self._inside, self._own, self._unsure, self._mass = np.zeros((4, classes))
        self._found, self._dropped = np.zeros((2, 256))

    def add(self, logits: "AnySlice") -> None:
        """Take in a slice that went through the network.

        Args:
            logits: Of a softmax.
        """
        labels, planes = logits.labels, logits.planes
        places = np.flatnonzero(planes[1:].max(axis=0) - planes[0] > NEGLIGIBLE)
        if not places.size:
            return
        which, at_edge = labels.reshape(-1)[places], edges(labels).reshape(-1)[places]
        shares, largest, entropy = _softmax(planes.reshape(len(planes), -1).take(places, axis=1))
        size, inside = self._classes, which > 0
        of_edge, of_inside = which[at_edge], which[inside]
        sums = [np.bincount(of_edge, values, minlength=size) for values in (None, largest[at_edge], entropy[at_edge])]
        sums += [np.bincount(of_inside, values, minlength=size) for values in (None, largest[inside])]
        unsure = np.bincount(of_inside, largest[inside] < SURE, minlength=size)
        with self._lock:
            self._pixels += sums[0]
            self._probability += sums[1]
            self._entropy += sums[2]
            self._inside += sums[3]
            self._own += sums[4]
            self._unsure += unsure
            self._mass += shares.sum(axis=1, dtype=float)

    def add_tidied(self, found: UInt8[np.ndarray, "z y x"], kept: UInt8[np.ndarray, "z y x"]) -> None:
        """Take in what post-processing made of a label map.

        Args:
            found: The network's labels.
            kept: Those after it.
        """
        for before, after in zip(found, kept, strict=True):
            x, y, width, height = cv2.boundingRect(np.ascontiguousarray(before))
            part = before[y : y + height, x : x + width]
            if part.size:
                self._found += cv2.calcHist([np.ascontiguousarray(part)], [0], None, [256], [0, 256]).ravel()
                self._dropped += np.bincount(part[part != after[y : y + height, x : x + width]], minlength=256)
        self._found[0] = self._dropped[0] = 0

    def edge(self, label: int) -> Edge:
        """Return what is known of one class; nothing for one that the network does not have."""
        dropped = float(self._dropped[label] / max(self._found[label], 1))
        inside = self._inside[label] if label < self._classes else 0
        if not inside:
            return Edge(0, None, None, dropped)
        pixels, own = int(self._pixels[label]), float(self._own[label])
        return Edge(
            pixels,
            float(self._probability[label] / pixels) if pixels else None,
            float(self._entropy[label] / pixels) if pixels else None,
            dropped,
            mean_probability=own / inside,
            uncertain_fraction=float(self._unsure[label] / inside),
            expected_dice=float(2 * own / (inside + self._mass[label])),
        )


def certainty_of(model: Model) -> Certainty | None:
    """Return what sums up how sure a model is, or None where its output is not a softmax over slices."""
    return Certainty(len(model.space.classes)) if model.gives_slice_probabilities else None


def edges(labels: UInt8[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """Return the pixels of organs with another label above, below, left or right of them; beyond the slice there is none."""
    found = np.zeros(labels.shape, bool)
    below, beside = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    found[1:] |= below
    found[:-1] |= below
    found[:, 1:] |= beside
    found[:, :-1] |= beside
    found &= labels > 0
    return found


def _softmax(
    logits: Float32[np.ndarray, "class n"],
) -> tuple[Float32[np.ndarray, "class n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return the probabilities at each pixel, the largest of them, and their entropy in bits."""
    below = logits - logits.max(axis=0)
    shares = np.exp(below)
    total = shares.sum(axis=0)
    # -sum p log p with p = exp(below) / total; a share that has become 0 adds nothing.
    entropy = np.log(total) - (shares * below).sum(axis=0) / total
    shares /= total
    return shares, 1 / total, entropy / np.log(2)


def handedness_of(
    image: Int16[np.ndarray, "z y x"], model: Model, geometry: Geometry | None = None
) -> Handedness | None:
    """Look at some slices of a scan as they are and mirrored.

    Args:
        image: HU, prepared as the model's recipe says.
        model: The network.
        geometry: Where the scan lies; a network with context needs it.

    Returns:
        None where the network's output is not a softmax over slices, or the slices show too little of any organ.
    """
    if not model.gives_slice_probabilities:
        return None
    slices = np.unique(np.linspace(0, len(image) - 1, LOOKS + 2).round().astype(int)[1:-1])
    found = [_organ_pixels(ways, model, slices, geometry) for ways in (image, np.ascontiguousarray(image[:, :, ::-1]))]
    if min(pixels for pixels, _ in found) < LEAST_PIXELS:
        return None
    as_is, mirrored = (total / pixels for pixels, total in found)
    return Handedness(as_is, mirrored)


def _organ_pixels(
    image: Int16[np.ndarray, "z y x"], model: Model, slices: np.ndarray, geometry: Geometry | None
) -> tuple[int, float]:
    """Return the pixels that got an organ, and the sum of their largest probabilities."""
    pixels, total, context = 0, 0.0, context_of(image, geometry, model)
    for start in range(0, len(slices), AT_ONCE):
        for one in map(as_slice, slice_logits(image, model, slices[start : start + AT_ONCE].tolist(), context=context)):
            planes, organs = one.planes, one.labels > 0
            pixels += int(np.count_nonzero(organs))
            total += float(_softmax(planes[:, organs])[1].sum(dtype=float))
    return pixels, total
