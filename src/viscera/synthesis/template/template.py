"""Templates: the anatomy of a label map that a user has, made ready for synthetic patients.

label_maps.py finds out what the labels are and surroundings.py makes up what they leave out (skin, fat, muscle wall,
discs ...); here both are brought onto one fine and even grid. patient.py makes patients of it. Reading files, and the
names beside them, is for the caller (io/nifti.py, io/label_names.py).
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import edt
import numpy as np
from jaxtyping import Float, Integer, Shaped, UInt8

from viscera.synthesis.canvas import ORGANS, VALUE, Tissue
from viscera.synthesis.template.label_maps import LabelMap, middle_column, read_label_map
from viscera.synthesis.template.surroundings import Scene, make_up
from viscera.synthesis.variety import PLAIN, Variety
from viscera.volume import Volume, require_same_grid, to_axial

FINE_MM, COARSE_MM = 1.5, 3.0
"""Steps of the grids on which templates are kept, and on which their surroundings are made up."""
PAD_MM = 30.0
"""Room about the label map, in-plane: patients may be fatter than the template."""
SMOOTHING = 0.55
"""Standard deviation of the smoothing between grids, in steps of the coarser: 3 mm voxels leave no stairs."""
THIN_WINS = 0.8
"""Weight of what is not labelled, against labels: thin organs would be smoothed away."""
DEPTH_STEPS_PER_MM = 4.0

Axes = list[Float[np.ndarray, " _"]]
"""Places along z, y and x."""

BONES = ("vertebrae", "ribs", "pelvis", "femur", "femoral_head_left", "femoral_head_right")
LAYERED = (*BONES, "kidney_left", "kidney_right", "stomach", "duodenum", "small_bowel", "colon", "rectum",
           "urinary_bladder")  # fmt: skip
"""Organs of which the depth beneath their surface is kept: bones, and what patient.py paints layers into."""
BONE_CORTEX_MM = 1.9


@dataclass(frozen=True, kw_only=True)
class Reshaping:
    """Which ingredients of a template's patients are on.

    Attributes:
        thorax: A chest above a template that stops below the domes, another one in each patient.
        affine: Size along each axis (0.72 to 1.4), small rotations and shear.
        coarse: Smooth displacement of 2 to 9 mm over decimetres.
        fine: Smooth displacement of 0.8 to 3.2 mm over centimetres.
        organs: Liver, spleen, kidneys and stomach turned, scaled and shifted on their own.
        fatness: Fat beneath the skin, 0.3 to 1.9 times the template's.
        contents: Stomach and bowel filled: gas in front, fluid, stool, contrast. Off: all wall.
        kidneys: Medulla and what the renal sinus holds. Off: all cortex and fat.
        variety: What appearance and acquisition may vary; of its anatomy what works on a painted patient: heart, contents,
            arms, renal_places, renal_look, renal_hilum, dome, rims, confluence (contents only), cava, liver_lesions, old_aorta
            (its arteries are there), surgery, bodies, lungs, bright_heart, rugae,
            bright_bowel.
    """

    thorax: bool = True
    affine: bool = True
    coarse: bool = True
    fine: bool = True
    organs: bool = True
    fatness: bool = True
    contents: bool = True
    kidneys: bool = True
    variety: Variety = PLAIN


UNCHANGED = Reshaping(
    thorax=False, affine=False, coarse=False, fine=False, organs=False, fatness=False, contents=False, kidneys=False
)
"""The template as it is."""


@dataclass(frozen=True, eq=False)
class Template:
    """The anatomy of a label map, complete from skin to skin, on an even grid in axial order.

    Attributes:
        tissue: What the X-ray would see, values of canvas.Tissue. Hollow organs are all wall, kidneys all cortex.
        label: Values of canvas.VALUE; 0 for what has no name.
        depth: In LAYERED organs the distance beneath the surface, in steps of 1 / DEPTH_STEPS_PER_MM mm. Outside of the
            trunk's muscles how far towards the skin: 0 at the muscles, surroundings.FULL_DEPTH at the skin.
        origin_mm: Where, from the first voxel on (z, y, x), the origin of synthesis/shapes.py's coordinates lies.
        annotated: Organs whose labels are the truth, absent ones included.
        notes: What was made up or told apart, for the user.
        reshaping: How patients may differ from it.
    """

    tissue: UInt8[np.ndarray, "z y x"]
    label: UInt8[np.ndarray, "z y x"]
    depth: UInt8[np.ndarray, "z y x"]
    origin_mm: tuple[float, float, float]
    annotated: tuple[str, ...]
    notes: tuple[str, ...]
    reshaping: Reshaping = field(default_factory=Reshaping)

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of the anatomy and of how it is reshaped."""
        found = hashlib.sha256(repr((self.label.shape, self.origin_mm, self.annotated)).encode())
        for array in (self.tissue, self.label, self.depth):
            found.update(array.tobytes())
        found.update(repr(self.reshaping).encode())
        return found.hexdigest()


def read_template(
    labels: Volume,
    names: Mapping[int, str],
    *,
    image: Volume | None = None,
    ignore: Collection[str] = (),
    where: str = "template",
) -> Template:
    """Make a label map ready for synthetic patients.

    Args:
        labels: The label map, in any orientation; 0 is what is not labelled.
        names: {value: name}, of TotalSegmentator's names or viscera's.
        image: The scan that was labelled, in HU: body, muscles and what else is not labelled are then taken from it.
        ignore: Names to be taken as not labelled.
        where: The file, for messages.

    Raises:
        LabelError: A value without a name, a name that means nothing here, or no label at all.
        GeometryError: The image lies on another grid.
    """
    if image is not None:
        require_same_grid(image, labels, where=where, names=("template's image", "template's labels"))
    source = read_label_map(labels, names, ignore=ignore, where=where)
    hu = None if image is None else to_axial(image)[0].voxels
    return _complete(source, hu)


def _complete(source: LabelMap, hu: Shaped[np.ndarray, "z y x"] | None) -> Template:
    """Make up what is not labelled on a coarse grid, and bring all of it onto the fine one."""
    given, coarse, fine = _axes(source)
    around = make_up(_scene(source, hu, given, coarse))
    label, tissue = _labels_on(source, given, fine)
    bare = tissue == 0
    background, backlabel = _background_on(around.tissue, around.label, coarse, fine)
    tissue[bare], label[bare] = background[bare], backlabel[bare]
    depth = np.rint(np.clip(_resample(around.ratio, coarse, fine), 1, 255)).astype(np.uint8)
    depth[:, [0, -1]] = 255  # whatever lies beyond the map is air
    depth[:, :, [0, -1]] = 255
    depth[tissue != Tissue.AIR] = 0
    _add_layers_(tissue, label, depth)
    annotated, notes = set(source.annotated), source.notes
    if "vertebrae" in annotated and "spinal_cord" not in annotated:
        annotated.add("spinal_cord")
        notes = (*notes, "spinal cord: made up in the spinal canal")
    # Fat and skin are made up everywhere; without a scan so are the muscles, with one any soft tissue passes for muscle.
    known = (annotated - {"muscle"}) | {"fat", "skin"} | ({"muscle"} if hu is None else set())
    origin_mm = _origin_mm(label, middle_column(source.label, source.tissue) * source.spacing_mm[2] + PAD_MM)
    return Template(tissue, label, depth, origin_mm, tuple(organ for organ in ORGANS if organ in known), notes)


def on_fine_grid(source: LabelMap) -> tuple[UInt8[np.ndarray, "_ _ _"], UInt8[np.ndarray, "_ _ _"]]:
    """Bring labels and tissues of a label map onto a grid of FINE_MM, PAD_MM wider in-plane; nothing is made up."""
    given, _, fine = _axes(source)
    return _labels_on(source, given, fine)


def _axes(source: LabelMap) -> tuple[Axes, Axes, Axes]:
    """Return where the voxels of the label map, of the coarse and of the fine grid lie, in mm from its first voxel."""
    given, coarse, fine = [], [], []
    for count, step_mm, pad_mm in zip(source.label.shape, source.spacing_mm, (0.0, PAD_MM, PAD_MM), strict=True):
        given.append(step_mm * np.arange(count))
        voxels = int(((count - 1) * step_mm + 2 * pad_mm) // COARSE_MM) + 1
        coarse.append(COARSE_MM * np.arange(voxels) - pad_mm)
        fine.append(FINE_MM * np.arange(2 * voxels - 1) - pad_mm)
    return given, coarse, fine


def _scene(source: LabelMap, hu: Shaped[np.ndarray, "z y x"] | None, given: Axes, coarse: Axes) -> Scene:
    """Bring a label map and its scan onto the coarse grid."""
    near, within = [], []
    for axis, places, step_mm in zip(coarse, given, source.spacing_mm, strict=True):
        index = np.rint(axis / step_mm).astype(int)
        within.append((index >= 0) & (index < len(places)))
        near.append(np.clip(index, 0, len(places) - 1))
    place = np.ix_(*near)
    inside = within[0][:, None, None] & within[1][None, :, None] & within[2][None, None, :]
    smooth = None if hu is None else np.where(inside, _resample(hu, given, coarse), -1000).astype(np.float32)
    return Scene(
        np.where(inside, source.label[place], 0).astype(np.uint8),
        np.where(inside, source.tissue[place], 0).astype(np.uint8),
        smooth,
        COARSE_MM,
    )


def _add_layers_(tissue: np.ndarray, label: np.ndarray, depth: np.ndarray) -> None:
    """Write the depth beneath the surface of layered organs, and give bones their cortex."""
    layered = np.where(np.isin(label, [VALUE[organ] for organ in LAYERED]), label, 0).astype(np.uint8)
    beneath_mm = edt.edt(layered, anisotropy=(FINE_MM,) * 3, black_border=False, parallel=1)
    # The surface lies half a step outside the first voxel's centre.
    beneath = np.clip((beneath_mm - FINE_MM / 2) * DEPTH_STEPS_PER_MM, 0, 255).astype(np.uint8)
    np.copyto(depth, beneath, where=layered > 0)
    bone = np.isin(label, [VALUE[organ] for organ in BONES]) & (tissue == Tissue.MARROW)
    tissue[bone & (depth < BONE_CORTEX_MM * DEPTH_STEPS_PER_MM)] = Tissue.CORTEX


def _weights(source: Float[np.ndarray, " n"], target: Float[np.ndarray, " m"]) -> Float[np.ndarray, "m n"]:
    """Return Gaussian weights that bring values from one axis to another; constant beyond the ends."""
    steps = [float(axis[1] - axis[0]) if len(axis) > 1 else FINE_MM for axis in (source, target)]
    distance = np.clip(target, source[0], source[-1])[:, None] - source[None, :]
    weights = np.exp(-0.5 * (distance / (SMOOTHING * max(steps))) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _resample(values: Shaped[np.ndarray, "z y x"], source: Axes, target: Axes) -> Float[np.ndarray, "_ _ _"]:
    """Bring values from one grid to another, smoothly."""
    z, y, x = (_weights(a, b) for a, b in zip(source, target, strict=True))
    flat = np.asarray(values, np.float32)
    slices = np.tensordot(z, flat, axes=(1, 0))
    return np.matmul(np.matmul(y, slices), x.T)


def _vote(
    codes: Integer[np.ndarray, "z y x"], source: Axes, target: Axes, *, nothing: float
) -> UInt8[np.ndarray, "_ _ _"]:
    """Return, on another grid, the code with the greatest smoothed share; ``nothing`` is the weight of code 0."""
    shape = tuple(len(axis) for axis in target)
    best, winner = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for code in np.unique(codes).tolist():
        own = codes == code
        ranges = [np.flatnonzero(own.any(axis=tuple(o for o in range(3) if o != axis))) for axis in range(3)]
        z, y, x = (slice(max(0, int(r[0]) - 3), int(r[-1]) + 4) for r in ranges)
        parts = [axis[cut] for axis, cut in zip(source, (z, y, x), strict=True)]
        boxes, inner = [], []
        for whole, part, axis in zip(source, parts, target, strict=True):
            low = 0 if part[0] == whole[0] else int(np.searchsorted(axis, part[0]))
            high = len(axis) if part[-1] == whole[-1] else int(np.searchsorted(axis, part[-1], side="right"))
            boxes.append(slice(low, high))
            inner.append(axis[low:high])
        share = _resample(own[z, y, x], parts, inner)
        if code == 0:
            share *= nothing
        place = (boxes[0], boxes[1], boxes[2])
        better = share > best[place]
        np.copyto(best[place], share, where=better)
        winner[place][better] = code
    return winner


def _labels_on(
    source: LabelMap, given: Axes, fine: Axes
) -> tuple[UInt8[np.ndarray, "_ _ _"], UInt8[np.ndarray, "_ _ _"]]:
    """Bring labels and tissues onto the fine grid; 0 beyond the label map."""
    bare = np.isin(source.label, (VALUE["fat"], VALUE["skin"])) | (source.tissue == 0)
    pairs, codes = np.unique(
        np.where(bare, 0, source.label.astype(np.uint16) * 256 + source.tissue), return_inverse=True
    )
    codes = codes.reshape(source.label.shape) + (0 if bare.any() else 1)
    pairs = pairs if bare.any() else np.concatenate([[0], pairs])
    winner = _vote(codes, given, fine, nothing=THIN_WINS)
    for axis, (place, original) in enumerate(zip(fine, given, strict=True)):
        outside = (place < original[0] - 1e-6) | (place > original[-1] + 1e-6)
        winner[(slice(None),) * axis + (outside,)] = 0
    return (pairs // 256).astype(np.uint8)[winner], (pairs % 256).astype(np.uint8)[winner]


def _background_on(
    tissue: UInt8[np.ndarray, "z y x"],
    label: UInt8[np.ndarray, "z y x"],
    coarse: Axes,
    fine: Axes,
) -> tuple[UInt8[np.ndarray, "_ _ _"], UInt8[np.ndarray, "_ _ _"]]:
    """Bring what was made up onto the fine grid."""
    pairs, codes = np.unique(label.astype(np.uint16) * 256 + tissue, return_inverse=True)
    winner = _vote(codes.reshape(label.shape), coarse, fine, nothing=1.0)
    return (pairs % 256).astype(np.uint8)[winner], (pairs // 256).astype(np.uint8)[winner]


STANDARD_MM: dict[str, float] = {
    "liver": 312.0,
    "spleen": 326.0,
    "kidney_left": 266.0,
    "kidney_right": 256.0,
    "pancreas": 268.0,
    "stomach": 312.0,
    "urinary_bladder": 40.0,
    "small_bowel": 150.0,
    "lung": 420.0,
    "heart": 420.0,
}
"""How high the middle of an organ lies in synthesis/shapes.py's coordinates."""


def _origin_mm(label: UInt8[np.ndarray, "z y x"], middle_mm: float) -> tuple[float, float, float]:
    """Find the origin of synthesis/shapes.py's coordinates by the organs that are there; the middle of the map without any."""
    heights = []
    for organ, standard_mm in STANDARD_MM.items():
        slices = (label == VALUE[organ]).sum(axis=(1, 2))
        if slices.sum() > 20:
            heights.append(float((slices * np.arange(len(slices))).sum() / slices.sum()) * FINE_MM - standard_mm)
    z_mm = float(np.median(heights)) if heights else (label.shape[0] - 1) / 2 * FINE_MM - 200
    return z_mm, (label.shape[1] - 1) / 2 * FINE_MM, middle_mm
