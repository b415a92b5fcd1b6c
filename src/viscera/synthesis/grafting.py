"""Organs of other people in a patient: which are taken from which donor, and how they are fitted to the patient's own.

A donor's organ takes the place of one that the patient has: its middle comes to lie where that one's was, and its size
along each axis comes near to it, so that the neighbours stay neighbours; the shape is the donor's. Procedural patients
get it as a shape like any other, which claims free space (canvas.py); patients of a template are painted with it
(template/reshaping.py). template/donors.py makes donors from label maps and templates.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8

from viscera.synthesis.canvas import VALUE, Canvas, Organ, Tissue
from viscera.synthesis.shapes import Blob, Field, Noise, draw_noise, rotation_about

GROUPS: tuple[tuple[str, ...], ...] = (
    ("kidney_left",),
    ("kidney_right",),
    ("spleen",),
    ("liver", "gallbladder"),
    ("stomach",),
    ("pancreas", "duodenum"),
    ("urinary_bladder",),
)
"""Organs that go together, the one that is fitted first."""
SINUS = "sinus"
"""The name of a kidney's sinus where a label map leaves it out of the kidney."""
PATIENTS = 0.6
"""Share of the patients that have organs of donors."""
SHARE = 0.7
"""Of their organs, those that come from a donor."""
STEP_MM = 3.0
"""Of the grids on which donors' organs are kept; between them signed distances are interpolated."""
PER_MM = 4.0
"""Steps of a stored signed distance."""
OWN_SIZE = 0.5
"""How far the size along one axis is the patient's (1), rather than the donor's proportions in the patient's size (0)."""
ALIKE = 2.0
"""Organs that differ more than so in their size along an axis are not exchanged: one of them is a rest or deformed."""
BENT_MM, BENT_OVER_MM = (1.0, 3.5), 45.0
"""Smooth displacement of a donor's organ in a procedural patient, and over which distance it is alike."""
TURNED = 0.35
"""Radians; procedural kidneys that are turned further keep their own shape: a donor's hilum would not look to their sinus."""


@dataclass(frozen=True, eq=False)
class Graft:
    """Organs that go together, cut out of a label map. Millimetres count from the middle of the first organ.

    Attributes:
        names: What it holds: of one of GROUPS, perhaps SINUS.
        fields: For each of them the distance from its surface in steps of 1 / PER_MM mm, positive inside.
        first_mm: Where the first voxel of the fields lies.
        low_mm: The lowest corner (z, y, x) of the organs.
        high_mm: The highest.
        spread_mm: Standard deviation of the first organ's voxels along each axis.
    """

    names: tuple[str, ...]
    fields: tuple[Int8[np.ndarray, "z y x"], ...]
    first_mm: Float[np.ndarray, "3"]
    low_mm: Float[np.ndarray, "3"]
    high_mm: Float[np.ndarray, "3"]
    spread_mm: Float[np.ndarray, "3"]


@dataclass(frozen=True, eq=False)
class Donor:
    """The organs of one person that others may get.

    Attributes:
        grafts: By the first organ of their group.
        notes: What was left out, for the user.
    """

    grafts: Mapping[str, Graft]
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of the organs."""
        found = hashlib.sha256()
        for graft in self.grafts.values():
            found.update(repr((graft.names, graft.first_mm.tolist(), graft.spread_mm.tolist())).encode())
            for field in graft.fields:
                found.update(repr(field.shape).encode() + field.tobytes())
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Place:
    """Where an organ lies, and how large it is: mean and standard deviation of its voxels along z, y, x, in mm."""

    middle_mm: Float[np.ndarray, "3"]
    spread_mm: Float[np.ndarray, "3"]


def measure(
    own: Bool[np.ndarray, "z y x"], axes: Sequence[Float[np.ndarray, " _"]], *, whole: bool = False
) -> Place | None:
    """Return where an organ lies; None without one.

    Args:
        own: Its voxels.
        axes: Where these lie along z, y, x.
        whole: Return None also where the organ reaches the first or the last slice: it may go on beyond.
    """
    if not own.any() or (whole and (own[0].any() or own[-1].any())):
        return None
    middle, spread = [], []
    for axis, places in enumerate(axes):
        counts = own.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.int64)
        mean = float((counts * places).sum() / counts.sum())
        middle.append(mean)
        spread.append(max(1.0, float(np.sqrt((counts * (places - mean) ** 2).sum() / counts.sum()))))
    return Place(np.array(middle), np.array(spread))


def choose_grafts(
    generator: np.random.Generator, donors: Sequence[Donor], held: Collection[str], places: Mapping[str, Place]
) -> dict[str, Graft]:
    """Draw which organs come from which donor.

    Args:
        generator: Source of randomness.
        donors: All that may give; at least one.
        held: Names of all organs that the patient has.
        places: Of those that may be exchanged.

    Returns:
        By the first organ of a group; each holds all of its group that the patient has.
    """
    mixed = bool(generator.random() < PATIENTS)
    found = {}
    for names in GROUPS:
        taken, number = bool(generator.random() < SHARE), int(generator.integers(len(donors)))
        graft = donors[number].grafts.get(names[0])
        if not (mixed and taken) or graft is None or names[0] not in places:
            continue
        ratio = places[names[0]].spread_mm / graft.spread_mm
        if {name for name in names if name in held} <= set(graft.names) and (
            np.abs(np.log(ratio)) < np.log(ALIKE)
        ).all():
            found[names[0]] = graft
    return found


@dataclass(frozen=True, eq=False)
class Fit:
    """A donor's organs in a patient.

    Attributes:
        graft: The organs.
        size: How much larger they are in the patient, along z, y, x.
        matrix: Turns a difference to the patient's middle of the organ into one to the donor's.
    """

    graft: Graft
    size: Float[np.ndarray, "3"]
    matrix: Float[np.ndarray, "3 3"]

    def fields(self, away: Float32[np.ndarray, "3 z y x"], names: Collection[str]) -> dict[str, Field]:
        """Return signed distances, in about the patient's mm, from the surfaces of some of the organs.

        Args:
            away: Differences to the middle.
            names: Those that are wanted; what the graft does not hold is left out.
        """
        from scipy import ndimage  # of the extra train

        outside = np.zeros(away.shape[1:], np.float32)
        index = np.empty_like(away)
        rows = self.matrix.astype(np.float32)
        for axis, (row, first, count) in enumerate(
            zip(rows, self.graft.first_mm.tolist(), self.graft.fields[0].shape, strict=True)
        ):
            place = row[0] * away[0] + row[1] * away[1] + row[2] * away[2]
            place -= np.float32(first)
            place /= np.float32(STEP_MM)
            np.clip(place, 0, count - 1, out=index[axis])
            outside += np.abs(place - index[axis])
        scale = float(np.prod(self.size) ** (1 / 3))
        found = {}
        for name, stored in zip(self.graft.names, self.graft.fields, strict=True):
            if name in names:
                inside = ndimage.map_coordinates(stored, index, order=1, output=np.float32, mode="nearest")
                found[name] = (inside / np.float32(PER_MM) - outside * np.float32(STEP_MM)) * np.float32(scale)
        return found

    @property
    def reach_mm(self) -> Float[np.ndarray, "3"]:
        """How far the organs go from the middle along each axis, before they are turned."""
        return np.maximum(-self.graft.low_mm, self.graft.high_mm) * self.size


def fit_graft(graft: Graft, place: Place) -> Fit:
    """Fit organs to the place of the patient's own."""
    ratio = place.spread_mm / graft.spread_mm
    size = ratio**OWN_SIZE * float(np.prod(ratio)) ** ((1 - OWN_SIZE) / 3)
    return Fit(graft, size, np.diag(1 / size))


def graft_organs(
    generator: np.random.Generator,
    donors: Sequence[Donor],
    organs: Sequence[Organ],
    canvas: Canvas,
    *,
    turned: Collection[str] = (),
) -> list[Organ]:
    """Return a procedural patient's organs, some of them in the shape of donors'.

    Volume, tissue and all that is painted into an organ stay what they were; the shape is slightly turned and bent.

    Args:
        generator: Source of randomness.
        donors: At least one.
        organs: As drawn.
        canvas: On which they are settled; it tells where each of them lies.
        turned: Those that keep their shape.
    """
    axes = (canvas.grid.z, canvas.grid.y, canvas.grid.x)
    # Organs of one shape; tubes (bowel, stomach), vessels and what has layers about its own centre are left alone.
    shaped = {organ.name for organ in organs if isinstance(organ.shape, Blob) and organ.volume_ml is not None}
    places = {}
    for names in GROUPS:
        own = (canvas.label == VALUE[names[0]]) & (canvas.tissue != Tissue.CYST)
        place = measure(own, axes) if names[0] in shaped and names[0] not in turned else None
        if place is not None:
            places[names[0]] = place
    chosen = choose_grafts(generator, donors, shaped, places)
    shapes: dict[str, Blob] = {}
    for names in GROUPS:
        turning, bending = generator.spawn(2)
        if names[0] in chosen:
            fit = fit_graft(chosen[names[0]], places[names[0]])
            matrix = fit.matrix
            for axis, angle in enumerate(np.clip(turning.normal(0, 0.08, 3), -0.2, 0.2).tolist()):
                matrix = matrix @ rotation_about(axis, angle)
            bent = float(bending.uniform(*BENT_MM)), tuple(draw_noise(bending, BENT_OVER_MM) for _ in range(3))
            shapes |= _shapes(replace(fit, matrix=matrix), places[names[0]].middle_mm, names, bent)
    return [
        replace(organ, shape=shapes[organ.name]) if organ.volume_ml is not None and organ.name in shapes else organ
        for organ in organs
    ]


def _shapes(
    fit: Fit, middle: Float[np.ndarray, "3"], names: tuple[str, ...], bent: tuple[float, tuple[Noise, ...]]
) -> dict[str, Blob]:
    """Return the shapes of fitted organs, by name."""
    reach = fit.reach_mm * 1.12 + 3 * bent[0]
    reach = np.maximum(reach, 0.25 * reach.max())  # turned a little, a long organ needs room across

    def _blob(name: str) -> Blob:
        def _field(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
            away = [
                axis - np.float32(centre) + np.float32(bent[0]) * noise(z, y, x)
                for axis, centre, noise in zip((z, y, x), middle.tolist(), bent[1], strict=True)
            ]
            return fit.fields(np.stack(away), (name,))[name]

        return Blob(middle - reach, middle + reach, _field)

    return {name: _blob(name) for name in names if name in fit.graft.names}
