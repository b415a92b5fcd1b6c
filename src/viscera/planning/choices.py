"""The choices that the data decide: label space, 2D or 3D, spacing, HU window, slices and patches. Pure functions.

What the machine decides (width, batch, length) is in search.py and length.py. Constants that no study supports are called rules of
thumb where they are used, so that the plan can say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Literal

from viscera.config import (
    PartialLoss,
    PatchSampling,
    PlainUNetShape,
    Preparation,
    Recipe,
    SliceSampling,
    SpacedSlices,
    SpacedVolumes,
    UNetShape,
    Window,
)
from viscera.config.context import UNMIRRORED
from viscera.errors import LabelError, SettingError, did_you_mean
from viscera.labels import SPACES, LabelSpace, fit, readable
from viscera.planning.fingerprint import Fingerprint
from viscera.planning.reasons import Reason, numbers
from viscera.recipes.viscera2d import VISCERA2D, of_width
from viscera.recipes.viscera25d import VISCERA25D, VISCERA25D_3D

Kind = Literal["3D", "2.5D with context", "2D"]

ANISOTROPIC = 3.0
"""Slices so many times as far apart as pixels are anisotropic: nnU-Net's rule."""
LONG_MM = 200.0
"""Scans that are shorter give a context network little to go by (docs/context.md); where the limit lies is a rule of thumb."""
SPACINGS_MM = (2.5, 2.0, 1.5, 1.0)
"""Of pixels; the first is viscera2d's."""
PIXELS_ACROSS = 6
"""That the thinnest organ is to have within its slices: a rule of thumb."""
COARSEST_CONTEXT_MM = 2.0
"""Pixels that are smaller make the context's voxels, twice as large, too many to look at in one piece: a rule of thumb."""
FAR_HU = 300.0
"""An organ whose median HU are higher is not well within viscera2d's window: a rule of thumb."""
SLICE_MM = (320.0, 400.0)
"""Rows and columns of viscera2d's training slices, in mm; larger bodies are cut at random places."""
REACH_MM = 7.5
"""Of the weight about boundaries: viscera2d's, 3 pixels of 2.5 mm."""
VOLUME_MM = {"cpu": (3.0, 3.0), "cuda": (1.0, 3.0)}
"""Finest and coarsest voxels of a 3D network: a rule of thumb."""
FIRST_WIDTH, MOST_WIDTH = {"cpu": 16, "cuda": 32}, 320
"""Of a 3D network: nnU-Net's on a GPU (32, doubled up to 320), gao2step-small's on a CPU."""
LARGEST_PATCH = {"cpu": 64**3, "cuda": 128**3}
"""Voxels to begin with: gao2step-small's and nnU-Net's usual ones."""


def choose_space(annotated: Sequence[Mapping[int, str]], given: str | None) -> tuple[LabelSpace, Reason]:
    """Return the label space that fits best: each organ that data sets annotate counts for it, each that none does against it.

    Args:
        annotated: Of each way in which cases are annotated, {number: organ}.
        given: A space's name, where one is asked for.

    Raises:
        SettingError: There is no such space.
        LabelError: No space holds any of the organs.
    """
    if given is not None:
        if given not in SPACES:
            raise SettingError(
                f"no label space '{given}'", f"{did_you_mean(given, SPACES)} Choose one of {', '.join(SPACES)}."
            )
        return SPACES[given], Reason("label_space", given, "It was asked for.", "asked for")
    held = {
        name: {organ for one in annotated for organ in fit(space, one, tuple(one.values())).annotated}
        for name, space in SPACES.items()
    }
    best = max(SPACES, key=lambda name: 2 * len(held[name]) - len(SPACES[name].organs) if held[name] else -256)
    if not held[best]:
        named = sorted({organ for one in annotated for organ in one.values()})
        raise LabelError(
            f"no label space holds any annotated organ ({', '.join(named) or 'none is named'})",
            "See viscera info organs, and the data sets' label names.",
        )
    many, size = len(held[best]), len(SPACES[best].organs)
    why = f"The data annotate {many} of its {size} organs: of viscera's label spaces the one with most such and fewest others."
    return SPACES[best], Reason("label_space", best, why, "data")


def kinds_for(fingerprint: Fingerprint, standing: Preparation | None) -> tuple[tuple[Kind, ...], tuple[Reason, ...]]:
    """Return the kinds of network that may be tried, best first, and why others are not.

    Args:
        fingerprint: Of the data.
        standing: How a store was prepared already; None: nothing is prepared yet.
    """
    if isinstance(standing, SpacedVolumes):
        why = "The store holds volumes of one voxel spacing, from which 3D networks learn here."
        return ("3D",), (Reason("kind", "3D", why, "data"),)
    refused: dict[Kind, Reason] = {}

    def refuse(kind: Kind, why: str, basis: Literal["data", "nnU-Net's rule", "rule of thumb"]) -> None:
        refused.setdefault(kind, Reason(f"not {kind}", "not tried", why, basis))

    if standing is not None:
        refuse("3D", "The store holds slices; prepare the data sets themselves as volumes to try it.", "data")
        if not isinstance(standing, SpacedSlices):
            refuse("2.5D with context", "Context needs slices of one pixel spacing, which the store's are not.", "data")
    if fingerprint.partly:
        why = (
            f"{fingerprint.partly} cases do not annotate every organ, and only viscera2d was measured on such data here "
            "(benchmarks/results/partial_labels.json, ablation.json)."
        )
        refuse("3D", why, "rule of thumb")
        refuse("2.5D with context", why, "rule of thumb")
    if fingerprint.anisotropy > ANISOTROPIC:
        why = (
            f"Slices are {fingerprint.anisotropy:.1f} times as far apart as pixels: beyond 3 nnU-Net treats that axis apart, "
            "which viscera's 3D networks cannot."
        )
        refuse("3D", why, "nnU-Net's rule")
    if fingerprint.extent_mm < LONG_MM:
        why = f"Half of the scans are shorter than {fingerprint.extent_mm:.0f} mm, which tells a context network too little."
        refuse("2.5D with context", why, "rule of thumb")
    every: tuple[Kind, ...] = ("3D", "2.5D with context", "2D")
    return tuple(kind for kind in every if kind not in refused), tuple(refused.values())


def choose_spacing(fingerprint: Fingerprint) -> tuple[float, Reason]:
    """Return the pixel spacing of slices: viscera2d's, or finer where the thinnest organ has too few pixels."""
    thinnest, finest = fingerprint.thinnest, max(fingerprint.spacing_mm[1:])
    across = None if thinnest is None else fingerprint.sizes[thinnest].across_mm
    if across is None:
        why = "The sample shows no organ, so it is viscera2d's."
        return SPACINGS_MM[0], Reason("preparation.spacing_mm", f"{SPACINGS_MM[0]:g} mm", why, "rule of thumb")
    wanted = next((one for one in SPACINGS_MM if across / one >= PIXELS_ACROSS), SPACINGS_MM[-1])
    chosen = max(wanted, min(round(finest, 2), SPACINGS_MM[0]))
    why = (
        f"The thinnest organ, {readable(str(thinnest))}, is {across:.1f} mm across in its slices (median): "
        f"{across / chosen:.1f} pixels of {PIXELS_ACROSS} wanted."
    )
    if chosen > wanted:
        why += f" Smaller ones would show no more, since the scans' own are {finest:.2f} mm."
    elif across / chosen < PIXELS_ACROSS:
        why += " Smaller ones than 1 mm are never chosen."
    elif chosen == SPACINGS_MM[0]:
        why += " So viscera2d's do."
    return chosen, Reason("preparation.spacing_mm", f"{chosen:g} mm", why, "rule of thumb")


def choose_window_hu(fingerprint: Fingerprint) -> tuple[Window, Reason]:
    """Return the HU window: viscera2d's, widened upwards in steps of 50 for organs most of which would be beyond it.

    Never downwards: what lies below is gas, within an organ or not, and no label space holds a lung.
    """
    beyond = {organ: size for organ, size in fingerprint.sizes.items() if size.median_hu > FAR_HU}
    high = max([400.0, *(50.0 * ceil(size.high_hu / 50) for size in beyond.values())])
    said = (
        ""
        if fingerprint.hu is None
        else f"99 % of the organs' voxels have {fingerprint.hu[0]:g} to {fingerprint.hu[1]:g} HU. "
    )
    why = (
        f"{said}viscera2d's window, -400 to 400, holds every organ's median but that of gas, of which nothing is lost."
    )
    if beyond:
        names = ", ".join(map(readable, beyond))
        why = f"{said}viscera2d's window, -400 to 400, is widened to percentile 99.5 of {names}."
    return Window(low_hu=-400.0, high_hu=high), Reason("intensity", f"-400 to {high:g} HU", why, "data")


def choose_slice(
    sizes: Sequence[tuple[int, int]], pixel_mm: tuple[float, float] | None
) -> tuple[tuple[int, int], Reason]:
    """Return rows and columns of training slices: those of nearly every prepared slice, but not more than viscera2d's.

    Args:
        sizes: Rows and columns of prepared cases, multiples of 16.
        pixel_mm: Of their pixels; None where these differ, and no slice is cut.
    """
    rows, columns = (sorted(size[axis] for size in sizes)[ceil(0.9 * len(sizes)) - 1] for axis in (0, 1))
    if pixel_mm is not None:
        rows, columns = (
            min(count, ceil(most / mm / 16) * 16)
            for count, most, mm in zip((rows, columns), SLICE_MM, pixel_mm, strict=True)
        )
    window = (ceil(rows / 16) * 16, ceil(columns / 16) * 16)
    why = (
        "It holds nine of ten prepared slices whole (as nnU-Net: the patch is as large as the typical image), up to "
        "viscera2d's 320 x 400 mm; larger ones are cut at random places."
    )
    return window, Reason("sampling.window", f"{window[0]} x {window[1]} pixels", why, "rule of thumb")


def slice_recipes(
    kind: Kind, base: Recipe, preparation: Preparation, *, window: tuple[int, int] | None
) -> tuple[Recipe, ...]:
    """Return candidates of a network of slices, the narrowest first.

    Args:
        kind: "2D" or "2.5D with context".
        base: Its label space and intensity count.
        preparation: Of its slices.
        window: Rows and columns of training slices; None: whole ones.
    """
    made = VISCERA25D if kind == "2.5D with context" else VISCERA2D
    loss = made.loss
    if isinstance(loss, PartialLoss) and preparation.pixel_mm is not None:
        loss = replace(loss, sigma_pixels=round(REACH_MM / preparation.pixel_mm[0], 2))
    sampling = SliceSampling(dataset_power=0.5, organ_fraction=0.33, window=window)
    made = replace(
        made,
        name="planned-viscera25d" if kind == "2.5D with context" else "planned-viscera2d",
        about=f"viscera plan: {kind}",
        label_space=base.label_space,
        intensity=base.intensity,
        preparation=preparation,
        loss=loss,
        sampling=sampling,
    )
    if kind == "2.5D with context":
        return tuple(replace(made, network=_stemmed(width)) for width in (16, 32))
    return tuple(replace(made, network=of_width(width)) for width in (16, 24, 32, 64))


def _stemmed(width: int) -> UNetShape:
    return UNetShape(widths=tuple(width * 2**level for level in range(4)), slices=3, stem=2)


def volume_recipe(
    base: Recipe, fingerprint: Fingerprint, standing: Preparation | None, *, device: str, most: int
) -> tuple[Recipe, tuple[Reason, ...]]:
    """Return the candidate of a 3D network, its patch as large as nnU-Net's rule gives for the median scan, and why."""
    if isinstance(standing, SpacedVolumes):
        preparation = standing
        reasons = (standing_reason(standing),)
    else:
        low, high = VOLUME_MM[device]
        z, y, x = (min(max(round(mm, 2), low), high) for mm in fingerprint.spacing_mm)
        preparation = SpacedVolumes(spacing_mm=(z, y, x))
        why = f"The median of the scans along each axis (nnU-Net's rule), but {low:g} to {high:g} mm."
        if low == high:
            why = f"{low:g} mm on a CPU, as gao2step-small has it."
        reasons = (Reason("preparation.spacing_mm", f"{numbers((z, y, x))} mm", why, "rule of thumb"),)
    median = tuple(
        count * old / new
        for count, old, new in zip(fingerprint.shape, fingerprint.spacing_mm, preparation.spacing_mm, strict=True)
    )
    patch, levels = choose_patch(median, most)
    first = FIRST_WIDTH[device]
    widths = tuple(min(first * 2**level, MOST_WIDTH) for level in range(levels))
    recipe = replace(
        VISCERA25D_3D,
        name="planned-3d",
        about="viscera plan: 3D, nnU-Net's plain U-Net, marginal and exclusion loss",
        label_space=base.label_space,
        intensity=base.intensity,
        preparation=preparation,
        network=PlainUNetShape(widths=widths, deep_supervision=True, norm="instance"),
        augmentation=replace(UNMIRRORED, shorten=0.0),
        sampling=PatchSampling(size=patch, foreground_fraction=0.5, off_centre=0.75, organs_alike=True),
    )
    why = (
        f"The median scan has {numbers(tuple(map(round, median)))} such voxels; the patch has its proportions and at most {most} "
        f"voxels ({LARGEST_PATCH[device]} to begin with, fewer where the memory asks for it)."
    )
    deep = "Each level halves all sides as long as 4 voxels are left; channels double up to 320."
    return recipe, (
        *reasons,
        Reason("sampling.size", f"{numbers(patch)} voxels", why, "nnU-Net's rule"),
        Reason("levels", str(levels), deep, "nnU-Net's rule"),
    )


def choose_patch(median: tuple[float, ...], most: int) -> tuple[tuple[int, int, int], int]:
    """Return a 3D patch and the levels of its network, as nnU-Net's rule has it.

    The patch begins as the median scan; the side that is largest in proportion shrinks until ``most`` voxels suffice.
    Levels halve all sides as long as at least 4 voxels are left of each.

    Args:
        median: Voxels of the median scan along z, rows and columns.
        most: Voxels.

    Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z. Departs: our networks halve all sides alike, so all sides are
    multiples of the same number.

    Example:
        >>> choose_patch((100, 128, 128), 64**3)
        ((56, 64, 72), 4)
    """
    levels = max(2, min(6, 1 + max(level for level in range(6) if min(median) // 2**level >= 4 or level == 0)))
    while True:
        step = 2 ** (levels - 1)
        sides = [max(2, ceil(side / step)) for side in median]
        while sides[0] * sides[1] * sides[2] * step**3 > most and max(sides) > 2:
            shares = [-1.0 if side <= 2 else side * step / full for side, full in zip(sides, median, strict=True)]
            sides[shares.index(max(shares))] -= 1
        if min(sides) * step >= 4 * step or levels <= 2:
            z, y, x = (side * step for side in sides)
            return (z, y, x), levels
        levels -= 1


def standing_reason(standing: Preparation) -> Reason:
    """Say that a store's preparation stays."""
    why = (
        "The store is prepared already, so its preparation stays. Another one needs another store: give viscera plan the data sets "
        "instead (LAYOUT=DIR), then viscera prepare NEW --data ... --recipe plan.json."
    )
    return Reason("preparation", standing.described, why, "data")
