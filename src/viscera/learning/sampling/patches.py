"""3D patches to learn from: where they lie, strided phases, patches about organs, the distance to organ boundaries.

A patch of n voxels with stride s starts at voxel a of the scan and holds a, a + s ... a + (n - 1) s along each axis, so its
start chooses the phase: 512 columns with n = 128 and s = 4 have the four starts 0 to 3. Everything is read from the
memory-mapped store with strided slices; a scan is never read whole, but for counting its organs, once, slice by slice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import edt
import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Shaped, UInt8
from torch import Generator

from viscera.config import Contrast, Distance, PatchSampling
from viscera.labels import LabelSpace
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.lesions import Lesion, lesion_labels, lesion_voxel, lesions_of
from viscera.learning.sampling.reading import step_generator
from viscera.learning.sampling.shown import shown_slice, with_pseudo
from viscera.learning.sampling.slices import NO_ORGAN_DISTANCE_PIXELS
from viscera.preparation.contrast import UNCHANGED, enhance
from viscera.preparation.store import Case


@dataclass(frozen=True, eq=False)
class PatchIndex:
    """The patches of some cases, numbered through.

    Attributes:
        cases: The cases.
        settings: Size and stride of the patches, and where they lie.
        positions: Patch n is positions[n] = (case, number of the patch within the case).
        contrast: How the grey levels of each axial slice are enhanced before a patch is cut.
        lesions: Labels whose voxels are lesions.
    """

    cases: tuple[Case, ...]
    settings: PatchSampling
    positions: Int[np.ndarray, "patches 2"]
    contrast: Contrast = UNCHANGED
    lesions: tuple[int, ...] = ()
    _counts: dict[int, Int[np.ndarray, "z class"]] = field(init=False, repr=False, default_factory=dict)
    _lesions: dict[int, list[list[Lesion]]] = field(init=False, repr=False, default_factory=dict)

    @staticmethod
    def of(
        cases: Sequence[Case],
        settings: PatchSampling,
        *,
        per_case: int = 1,
        contrast: Contrast = UNCHANGED,
        space: LabelSpace | None = None,
    ) -> "PatchIndex":
        """Number the patches of some cases.

        Args:
            cases: In the order of their numbers. ``settings.cases`` is for whoever chooses them.
            settings: Of the patches.
            per_case: Patches of each case.
            contrast: How grey levels are enhanced.
            space: Says which labels are lesions; None: none are.
        """
        pairs = [(case, patch) for case in range(len(cases)) for patch in range(per_case)]
        positions = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return PatchIndex(tuple(cases), settings, positions, contrast, lesion_labels(space))

    def __len__(self) -> int:
        """Count the patches."""
        return len(self.positions)

    def organ_voxels(self, case: int) -> Int[np.ndarray, "z class"]:
        """Count the voxels of each class in each slice of a case; those of background are given as 0.

        Counted when first asked for (threads that ask at once count twice, alike), then kept: 30 kB for 500 slices.
        """
        if case not in self._counts:
            self._counts[case] = _count_organs(self.cases[case])
        return self._counts[case]

    def lesions_of(self, case: int) -> list[list[Lesion]]:
        """Find the lesions of a case by size. Found when first asked for, then kept: at most 8 kB of each."""
        if case not in self._lesions:
            self._lesions[case] = [lesions for lesions in lesions_of(self.cases[case], self.lesions) if lesions]
        return self._lesions[case]


def _count_organs(case: Case) -> Int[np.ndarray, "z class"]:
    # numpy.bincount would first make 8 bytes of each voxel; the float32 of OpenCV's histogram counts up to 4096x4096.
    slices = [cv2.calcHist([shown_slice(case, z)], [0], None, [256], [0, 256]) for z in range(len(case.truth))]
    counts = np.array(slices).reshape(-1, 256).astype(np.int32)
    counts[:, 0] = 0
    return counts[:, : int(np.flatnonzero(counts.any(0)).max(initial=0)) + 1].copy()


def draw_patch_places(count: int, generator: Generator) -> Float[np.ndarray, "patch 6"]:
    """Draw where patches lie: six numbers of [0, 1) each, whatever the settings.

    They choose: whether about an organ, or about a lesion; the organ or lesion; the voxel; then how far off the patch's middle that
    lies along z, rows and columns, or where a patch about nothing starts.
    """
    return torch.rand((count, 6), generator=generator, dtype=torch.float64).numpy()


def fixed_patch_places(index: PatchIndex, numbers: Int[np.ndarray, " patch"]) -> Float[np.ndarray, "patch 6"]:
    """Return places that follow from the patches' numbers only: each epoch validates the same patches.

    They follow from case and number within the case, so with more patches per case the first ones stay.
    """
    places = [draw_patch_places(1, step_generator(0, *place)) for place in index.positions[numbers].tolist()]
    return np.concatenate(places) if places else np.zeros((0, 6))


def read_patches(
    index: PatchIndex,
    numbers: Int[np.ndarray, " batch"],
    *,
    space: LabelSpace,
    places: Float[np.ndarray, "batch 6"],
    distance: Distance | None,
) -> Batch:
    """Read patches from the store.

    With probability ``foreground_fraction`` a patch is centred on an organ's voxel: any organ voxel of the case with the
    same probability, or with ``organs_alike`` first an organ that the case shows, then one of its voxels; a share of
    ``lesion_fraction`` of these on a lesion's voxel, where the case shows any. Where that would
    reach beyond the scan it is moved inside by whole strides, so its phase is the voxel's and the voxel is always in it.
    Otherwise, and where a case shows no organ, any start has the same probability.

    Where the scan is smaller than the patch it lies at the patch's first voxels. The last ones taken repeat to the patch's
    end, labels too so that no boundary arises there, and count as unknown. Every phase can be drawn there as well.

    Args:
        index: Where they are, and how large.
        numbers: Which.
        space: The classes of ``Batch.annotated``.
        places: Where in their cases they lie (``draw_patch_places``, ``fixed_patch_places``).
        distance: To the nearest organ boundary, or to the nearest organ; None: the loss needs none, and
            ``Batch.distance`` is (batch, 1, 1, 1) of NO_ORGAN_DISTANCE_PIXELS.
    """
    cases = [int(case) for case in index.positions[numbers, 0]]
    read = [
        _read_patch(index.cases[case], patch_start(index, case, place), index=index)
        for case, place in zip(cases, places, strict=True)
    ]
    images, labels, known, pseudo = (np.stack(arrays) for arrays in zip(*read, strict=True))
    if distance is None:
        distances = np.full((len(cases), 1, 1, 1), NO_ORGAN_DISTANCE_PIXELS, np.float32)
    else:
        shown = with_pseudo(labels, pseudo)
        distances = np.stack([patch_boundary_distance(patch, distance) for patch in shown])
    chosen = [index.cases[case] for case in cases]
    return Batch(
        image=torch.from_numpy(images[:, None]),
        labels=torch.from_numpy(labels),
        known=torch.from_numpy(known),
        distance=torch.from_numpy(distances),
        annotated=torch.tensor([[True, *(organ in case.annotated for organ in space.organs)] for case in chosen]),
        pseudo=torch.from_numpy(pseudo),
        pseudo_annotated=torch.tensor(
            [[False, *(organ in case.pseudo_annotated for organ in space.organs)] for case in chosen]
        ),
    )


def patch_start(index: PatchIndex, case: int, place: Float[np.ndarray, "6"]) -> tuple[int, int, int]:
    """Return the first voxel (z, y, x) of a patch.

    Args:
        index: The cases and settings.
        case: Number of the case.
        place: What was drawn for the patch.
    """
    settings = index.settings
    axes = list(zip(index.cases[case].image.shape, settings.size, settings.stride, strict=True))
    if place[0] < settings.foreground_fraction:
        voxel = _organ_voxel(index, case, place)
        if voxel is not None:
            middles = (
                at - _off_centre(settings, float(share), size=size, stride=stride)
                for at, share, (_, size, stride) in zip(voxel, place[3:], axes, strict=True)
            )
            z, y, x = (_start_about(middle, *axis) for middle, axis in zip(middles, axes, strict=True))
            return z, y, x
    z, y, x = (int(share * (_last_start(*axis) + 1)) for share, axis in zip(place[3:].tolist(), axes, strict=True))
    return z, y, x


def _off_centre(settings: PatchSampling, share: float, *, size: int, stride: int) -> int:
    """Return how many voxels, in whole strides, an organ's voxel lies from the middle of its patch along an axis."""
    reach = int(settings.off_centre * (size - 1) / 2)
    return (int(share * (2 * reach + 1)) - reach) * stride


def _last_start(length: int, size: int, stride: int) -> int:
    """Return the last voxel at which a patch may start: the last that leaves none of it outside, and every phase."""
    return max(length - (size - 1) * stride, min(stride, length)) - 1


def _start_about(voxel: int, length: int, size: int, stride: int) -> int:
    """Return the start of the patch whose middle is the voxel, moved by whole strides into the scan."""
    start, last = voxel - size // 2 * stride, _last_start(length, size, stride)
    if start < 0:
        return start % stride
    return start if start <= last else last - (last - start) % stride


def _organ_voxel(index: PatchIndex, case: int, place: Float[np.ndarray, "6"]) -> tuple[int, int, int] | None:
    """Return the voxel of an organ or a lesion that was drawn; None where the case shows none.

    Of an organ only its slice is read.
    """
    settings = index.settings
    about_lesion = index.lesions and place[0] < settings.foreground_fraction * settings.lesion_fraction
    if about_lesion and (sizes := index.lesions_of(case)):
        flat = lesion_voxel(sizes, float(place[1]), float(place[2]))
        z, y, x = np.unravel_index(flat, index.cases[case].truth.shape)
        return int(z), int(y), int(x)
    counts = index.organ_voxels(case)
    organs = np.flatnonzero(counts.any(0))
    if not len(organs):
        return None
    if settings.organs_alike:
        organs = organs[[int(place[1] * len(organs))]]
    sums = np.cumsum(counts[:, organs].sum(1, dtype=np.int64))
    rank = int(place[2] * sums[-1])
    z = int(np.searchsorted(sums, rank, side="right"))
    shown = shown_slice(index.cases[case], z)
    there = np.flatnonzero(shown == organs[0] if settings.organs_alike else shown)
    y, x = divmod(int(there[rank - sums[z]]), shown.shape[1])  # counted from the slice's end: below 0
    return z, y, x


def _read_patch(
    case: Case, start: tuple[int, int, int], *, index: PatchIndex
) -> tuple[Shaped[np.ndarray, "z y x"], ...]:
    """Return image, labels, known and pseudo-labels of the patch that starts there."""
    settings = index.settings
    z, y, x = (
        slice(first, first + (size - 1) * stride + 1, stride)
        for first, size, stride in zip(start, settings.size, settings.stride, strict=True)
    )
    cut = (z, y, x)
    if index.contrast.method == "none":
        image = np.array(case.image[cut])
    else:  # of whole slices, which takes much longer to read
        image = enhance(case.image[z], index.contrast)[:, y, x].copy()
    labels = np.array(case.truth[cut])
    known = np.ones(image.shape, bool) if case.known is None else np.array(case.known[cut])
    pseudo = np.zeros(image.shape, np.uint8) if case.pseudo is None else np.array(case.pseudo[cut])
    missing = [(0, size - found) for size, found in zip(settings.size, image.shape, strict=True)]
    if any(after for _, after in missing):
        image, labels, pseudo = (np.pad(array, missing, mode="edge") for array in (image, labels, pseudo))
        known = np.pad(known, missing)
    return image, labels, known, pseudo


def patch_boundary_distance(labels: UInt8[np.ndarray, "z y x"], distance: Distance) -> Float32[np.ndarray, "z y x"]:
    """Return each voxel's distance d in voxels of the patch, at most NO_ORGAN_DISTANCE_PIXELS.

    Args:
        labels: A patch. What lies outside of it is not seen.
        distance: "boundary": outside an organ to its nearest voxel, inside to the nearest voxel that is none. "organ": to
            the nearest organ voxel, 0 inside. As ``boundary_distance`` of slices.

    Source: exact Euclidean transform (Felzenszwalb and Huttenlocher 2012, in the library edt).
    """
    organ = labels > 0
    if not organ.any():
        return np.full(labels.shape, NO_ORGAN_DISTANCE_PIXELS, np.float32)
    found = edt.edt(~organ, parallel=1)
    if distance == "boundary":
        found = found + edt.edt(organ, parallel=1)
    return np.minimum(found, np.float32(NO_ORGAN_DISTANCE_PIXELS))
