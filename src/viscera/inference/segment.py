"""A scan -> its label map on exactly the scanner's grid. Files are read and written in predict.py.

2D networks go through slices.py, 3D ones through volumes.py: windows.py lays the windows, region.py says which of them may
hold organs. ``segment`` puts the steps together, a second network for tumours included; ``prepare_scan`` and
``segment_prepared`` are its halves, for those who want to forget the scan in between.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Bool, Int16, UInt8

from viscera.config import Preparation
from viscera.inference.certainty import Certainty
from viscera.inference.model import Model
from viscera.inference.postprocessing.edges_by_hu import Seen
from viscera.inference.postprocessing.tidying import tidy
from viscera.inference.postprocessing.tumours import merge_tumour, tumour_report
from viscera.inference.region import blocks_of_labels, widened
from viscera.inference.slices import label_slices
from viscera.io.nifti import GridWarning
from viscera.labels import TUMOUR, LabelSpace, fit
from viscera.networks.device import Stopwatch
from viscera.preparation.case import prepare_image
from viscera.preparation.geometry import Geometry
from viscera.preparation.shear import Shear, straighten
from viscera.volume import Volume, with_voxels

Watch = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A scan's labels, and what is to be said of its tumours.

    Attributes:
        labels: uint8 indices of ``model.output_space`` on the scan's grid.
        tumours: Volume, components and the organs that they lie in, for JSON; None without a network for tumours.
    """

    labels: Volume
    tumours: dict[str, object] | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan as the networks of a model see it, without the scan itself, which may so be forgotten: 432 MB of 824 slices.

    Attributes:
        grid: The scan's grid and header; its voxels are all 0 and take no memory.
        images: int16 HU and the way back to the grid, for each preparation that one of the networks asks for.
        shear: The way from that grid to the scanner's, where the gantry was tilted and the scan straightened.
    """

    grid: Volume
    images: dict[Preparation, tuple[Int16[np.ndarray, "z y x"], Geometry]]
    shear: Shear | None = None


def prepare_scan(ct: Volume, model: Model) -> Prepared:
    """Prepare a scan for a model and its other networks.

    Args:
        ct: HU, any orientation.
        model: From ``load_model``.

    Raises:
        GeometryError, FileError: The scan's grid or intensities are not CT's.

    Warns:
        GridWarning: The gantry was tilted.
    """
    ct, shear = straighten(ct)
    if shear is not None:
        warnings.warn(f"{shear.noted}, and its labels back onto the scanner's grid", GridWarning, stacklevel=3)
    preparations = dict.fromkeys(network.recipe.preparation for network in model.networks)
    images = {preparation: prepare_image(ct, preparation) for preparation in preparations}
    return Prepared(with_voxels(ct, np.broadcast_to(np.int16(0), ct.shape)), images, shear)


def segment(
    ct: Volume,
    model: Model,
    *,
    clock: Stopwatch | None = None,
    watch: Watch = lambda done, parts: None,
) -> Volume:
    """Return a scan's labels.

    Args:
        ct: HU, any orientation.
        model: From ``load_model``.
        clock: Gets the seconds of the stages prepare, region, network, tumour and postprocess.
        watch: Called with the slices or windows done, and all of them.

    Returns:
        uint8 indices of ``model.output_space`` on the grid of ``ct``, its header kept.

    Raises:
        GeometryError, FileError: The scan's grid or intensities are not CT's.
    """
    clock = clock or Stopwatch({})
    with clock.stage("prepare"):
        scan = prepare_scan(ct, model)
    return segment_prepared(scan, model, clock=clock, watch=watch).labels


def segment_prepared(
    scan: Prepared,
    model: Model,
    *,
    wanted: Bool[np.ndarray, "bz by bx"] | None = None,
    organs: Sequence[int] = (),
    certainty: Certainty | None = None,
    clock: Stopwatch | None = None,
    watch: Watch = lambda done, parts: None,
) -> Segmentation:
    """Return the labels of a scan that was prepared for the model, and what is to be said of its tumours; see ``segment``.

    A voxel that the second network calls tumour is tumour, whatever the first says (gao2step); it looks only where the
    first found organs, and around them.

    Args:
        scan: From ``prepare_scan``.
        model: The same.
        wanted: Blocks of the prepared scan that a 3D network is to look at; None: as its finder or its recipe says.
        organs: Indices of ``model.output_space`` that are wanted: parts of the scan that seem to hold none of them may be
            skipped, so that other organs are incomplete in the result. All of them where empty.
        certainty: From ``certainty_of``: takes in how sure the first network is; None where nobody asks.
        clock: See ``segment``.
        watch: See ``segment``.
    """
    if scan.shear is not None:
        straight = replace(scan, shear=None)
        found = segment_prepared(
            straight, model, wanted=wanted, organs=organs, certainty=certainty, clock=clock, watch=watch
        )
        return replace(found, labels=scan.shear.back(found.labels))
    clock, grid = clock or Stopwatch({}), scan.grid
    image, geometry = scan.images[model.recipe.preparation]
    if model.tumour is not None:
        organs = ()  # the tumours' network looks wherever the first found any organ
    if wanted is None and model.finder is not None:
        with clock.stage("region"):
            wanted = finder_blocks(scan, model=model, finder=model.finder, organs=organs, watch=watch)
    with clock.stage("network"):
        if model.recipe.inference.whole_slices:
            look = None if certainty is None else certainty.add
            axial = label_slices(image, geometry, model, organs=organs, look=look, watch=watch)
        else:
            from viscera.inference.volumes import segment_volume  # here, since slices need no torch

            axial = segment_volume(image, geometry, model, wanted=wanted, organs=organs, watch=watch)
    z, y, x = (grid.spacing_mm[axis] for axis in geometry.turn.axes)
    with clock.stage("postprocess"):
        untidied = axial
        settings, seen = model.recipe.postprocessing, Seen(image, geometry)
        axial = tidy(untidied, (z, y, x), settings=settings, space=model.space, seen=seen)
        if certainty is not None and axial is not untidied:
            certainty.add_tidied(untidied, axial)
        del untidied  # 216 MB of 824 slices
    report = None
    if model.tumour is not None:
        with clock.stage("tumour"):
            found = _tumours(scan, organs=axial, tumour=model.tumour, watch=watch)
            report = asdict(tumour_report(axial, found, space=model.space, voxel_ml=grid.voxel_ml))
            axial = merge_tumour(axial, found, index=model.output_space.index(TUMOUR))
    return Segmentation(with_voxels(grid, geometry.turn.undo(axial)), report)


def finder_blocks(
    scan: Prepared, *, model: Model, finder: Model, organs: Sequence[int], watch: Watch
) -> Bool[np.ndarray, "bz by bx"]:
    """Return the blocks of a prepared scan in which a finder finds organs that are wanted, and those around them."""
    image, geometry = scan.images[model.recipe.preparation]
    sought = sought_organs(model.space, finder.space, organs)
    if finder.recipe.preparation == model.recipe.preparation and not finder.recipe.inference.whole_slices:
        from viscera.inference.volumes import find_blocks

        blocks = find_blocks(image, finder, organs=sought, watch=watch)
    else:
        labels = segment_prepared(scan, finder, organs=sought, watch=watch).labels
        blocks = blocks_of_labels(only_organs(geometry.turn.apply(labels.voxels), sought), geometry)
    return widened(blocks, margin_mm=model.margin_mm, spacing_mm=geometry.spacing_mm)


def sought_organs(space: LabelSpace, finder: LabelSpace, organs: Sequence[int] = ()) -> list[int]:
    """Return the indices of what a finder is to look for: the wanted organs where it knows all of them, else all that it knows.

    Args:
        space: Of the network that is to look there.
        finder: The finder's.
        organs: Indices of ``space`` that are wanted; all where empty.

    Example:
        >>> from viscera.labels import ABDOMENCT1K, STARTER19
        >>> sought_organs(ABDOMENCT1K, STARTER19)  # liver, both kidneys, spleen, pancreas
        [1, 2, 3, 4, 5]
    """
    matched = fit(space, finder.labels, finder.organs)
    wanted = set(organs) or set(space.labels)
    if not wanted <= {space.index(organ) for organ in matched.annotated}:
        return list(finder.labels)
    return [index for index in finder.labels if matched.values.get(index) in wanted]


def _tumours(
    scan: Prepared, *, organs: UInt8[np.ndarray, "depth rows columns"], tumour: Model, watch: Watch
) -> Bool[np.ndarray, "depth rows columns"]:
    """Return where the second network finds tumours, in and around the organs."""
    geometry = scan.images[tumour.recipe.preparation][1]
    blocks = blocks_of_labels(organs, geometry)
    wanted = widened(blocks, margin_mm=tumour.margin_mm, spacing_mm=geometry.spacing_mm)
    labels = segment_prepared(scan, tumour, wanted=wanted, watch=watch).labels
    return geometry.turn.apply(labels.voxels) == tumour.space.index(TUMOUR)


def only_organs(labels: UInt8[np.ndarray, "z y x"], wanted: Sequence[int]) -> UInt8[np.ndarray, "z y x"]:
    """Return the label map with all but the wanted indices set to background."""
    table = np.zeros(256, np.uint8)
    table[list(wanted)] = list(wanted)
    return table[labels]
