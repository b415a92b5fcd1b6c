"""Write a case as one of the data sets is laid out, with some of its organs annotated and the others left out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8

from viscera.datasets import msd, nnunet, pairs, totalsegmentator
from viscera.datasets.annotations import REST, possible_organs, read_annotations, record
from viscera.datasets.sources import Source, files_by_case, read_json
from viscera.errors import LabelError, SettingError, did_you_mean
from viscera.io import nifti
from viscera.labels import PART_OF, SIDES, organ_name
from viscera.volume import Volume, require_same_grid, with_voxels


@dataclass(frozen=True)
class Place:
    """Where a case goes, and what its labels will mean."""

    name: str
    image: Path
    labels: Path
    organs: dict[int, str]


def write_case(
    layout: str,
    folder: Path,
    *,
    number: int,
    ct: Volume,
    labels: Volume,
    organs: Mapping[int, str],
    annotate: Sequence[str],
) -> Source:
    """Write one case of a data set; not for two processes at once on the same folder.

    Args:
        layout: One of LAYOUTS.
        folder: The data set's; it is made.
        number: The case's, from 0; it becomes part of its name.
        ct: The scan, in HU.
        labels: All that is known of it, on the same grid.
        organs: {value in ``labels``: organ}.
        annotate: The organs to keep, by any of their names; voxels of all others become 0. Left and right are merged
            where the layout merges them, tumours go to their organ where they have no label of their own.

    Returns:
        The case as ``find_sources`` finds it.

    Raises:
        SettingError: There is no such layout, or it holds no labels; nothing to annotate.
        LabelError: The layout or ``labels`` cannot hold an organ.
        GeometryError: The scan and the labels lie on different grids.
        FileError: The case is there already, or cannot be written.
    """
    check_layout(layout, folder, annotate=annotate)
    require_same_grid(ct, labels, where=f"case {number}")
    wanted = tuple(dict.fromkeys(organ_name(organ) for organ in annotate))
    names = {value: organ_name(organ) for value, organ in organs.items()}
    if layout == "totalsegmentator":
        return _write_masks(folder, number=number, ct=ct, labels=labels, names=names, wanted=wanted)
    place = _place(layout, folder, number=number, wanted=wanted)
    annotated = _held(wanted, list(place.organs.values()))
    table = _table(names, {organ: value for value, organ in place.organs.items() if organ in annotated})
    mapped = _mapped(labels.voxels, table)
    nifti.write(place.image, ct)
    # The labels come last: until then the case has none, and at no instant does it seem to be wholly annotated.
    _describe(layout, folder, place=place, annotated=annotated)
    nifti.write(place.labels, with_voxels(labels, mapped))
    numbers = tuple(sorted(place.organs.items()))
    return Source(place.name, folder.name, place.name, place.image, place.labels, numbers, annotated)


def check_layout(layout: str, folder: Path, *, annotate: Sequence[str]) -> None:
    """Raise an error unless a layout can hold labels of these organs; nothing is written.

    Raises:
        SettingError: There is no such layout, or it holds no labels; nothing to annotate, or an organ and its sides.
        LabelError: The layout cannot hold an organ.
    """
    if layout == "images":
        raise SettingError("layout 'images' has no labels, so no labelled case can be written", "Choose another one.")
    if layout == "dicom":
        raise SettingError("layout 'dicom' is read, not written", "Choose another one.")
    wanted = tuple(dict.fromkeys(organ_name(organ) for organ in annotate))
    if not wanted:
        raise SettingError("no organ to annotate", "Name at least one.")
    _check_sides(wanted)
    if layout != "totalsegmentator":
        _held(wanted, list(_place(layout, folder, number=0, wanted=wanted).organs.values()))


def remove_case(layout: str, folder: Path, *, number: int) -> None:
    """Remove the files of a case that ``write_case`` did not finish; what describes the data set stays.

    Args:
        layout: One of LAYOUTS.
        folder: The data set's.
        number: The case's.
    """
    names = {"nnunet": nnunet.CASE_NAME, "msd": msd.CASE_NAME, "totalsegmentator": totalsegmentator.CASE_NAME}
    name = (pairs.PAIRS[layout].case_name if layout in pairs.PAIRS else names[layout]).format(number)
    for file in folder.rglob("*.nii.gz"):
        own = file.name in (f"{name}.nii.gz", f"{name}_0000.nii.gz") or name in file.relative_to(folder).parts[:-1]
        if own or (layout in pairs.PAIRS and file.name == f"{name}{pairs.PAIRS[layout].image_suffix}.nii.gz"):
            file.unlink()


def _write_masks(
    folder: Path, *, number: int, ct: Volume, labels: Volume, names: dict[int, str], wanted: tuple[str, ...]
) -> Source:
    """Write the scan, then a mask per organ."""
    name = totalsegmentator.CASE_NAME.format(number)
    mapped = _mapped(labels.voxels, _table(names, {organ: value for value, organ in enumerate(wanted, start=1)}))
    image = folder / name / "ct.nii.gz"
    nifti.write(image, ct)
    masks = {organ: folder / name / totalsegmentator.MASKS / f"{organ}.nii.gz" for organ in wanted}
    for value, path in enumerate(masks.values(), start=1):
        nifti.write(path, with_voxels(labels, mapped == value))
    return totalsegmentator.make_source(folder, name, image, masks)


def _place(layout: str, folder: Path, *, number: int, wanted: tuple[str, ...]) -> Place:
    """Say where a case goes; layouts that describe themselves take in the organs that they do not have yet."""
    if layout in pairs.PAIRS:
        pair = pairs.PAIRS[layout]
        images, labels = pairs.folders_of(pair, folder) or [folder / name for name in pair.folders[0]]
        return _place_in(images, labels, pair.case_name.format(number), pair.image_suffix, organs=dict(pair.organs))
    path = folder / "dataset.json"
    content = read_json(path) if path.exists() else {}
    match layout:
        case "nnunet":
            organs, unknown = nnunet.read_organs(path, content) if content else ({}, ())
            name, suffix = nnunet.CASE_NAME.format(number), "_0000"
        case "msd":
            organs, unknown = (msd.read_organs(path, content) if content else {}), ()
            name, suffix = msd.CASE_NAME.format(number), ""
        case _:
            known = [*pairs.PAIRS, "nnunet", "msd", "totalsegmentator"]
            raise SettingError(
                f"no layout '{layout}'", f"{did_you_mean(layout, known)} Choose one of {', '.join(known)}."
            )
    free = (value for value in range(1, 256) if value not in organs and value not in unknown)
    new = {value: organ for organ, value in zip(_not_held(wanted, list(organs.values())), free, strict=False)}
    return _place_in(folder / "imagesTr", folder / "labelsTr", name, suffix, organs=organs | new)


def _place_in(images: Path, labels: Path, name: str, suffix: str, *, organs: dict[int, str]) -> Place:
    return Place(name, images / f"{name}{suffix}.nii.gz", labels / f"{name}.nii.gz", organs)


def _describe(layout: str, folder: Path, *, place: Place, annotated: tuple[str, ...]) -> None:
    """Bring annotated.json and dataset.json up to date, where the layout needs them."""
    entries = {place.name: annotated}
    whole = set(annotated) == set(place.organs.values())
    path = folder / "dataset.json"
    if layout in ("nnunet", "msd") and path.exists():
        content = read_json(path)
        known = nnunet.read_organs(path, content)[0] if layout == "nnunet" else msd.read_organs(path, content)
        if len(known) < len(place.organs):
            # The cases that are there did not look for the organs that come now.
            there = files_by_case(folder / "labelsTr").keys() - read_annotations(folder).keys()
            entries |= {case: tuple(known.values()) for case in there}
    listed = read_annotations(folder)
    if not whole or len(entries) > 1 or layout == "flare" or {REST, place.name} & listed.keys():
        record(folder, entries)
    match layout:
        case "nnunet":
            cases = files_by_case(folder / "labelsTr").keys() | {place.name}
            nnunet.register(folder, organs=place.organs, cases=len(cases))
        case "msd":
            msd.register(folder, organs=place.organs, case=place.name)


def _check_sides(wanted: Collection[str]) -> None:
    for whole, sides in SIDES.items():
        if whole in wanted and set(sides) & set(wanted):
            raise SettingError(f"annotate '{whole}' or its sides ({', '.join(sides)}), not both.")


def _held(wanted: Collection[str], organs: Sequence[str]) -> tuple[str, ...]:
    """Return the organs of a layout that are wanted, one by one or as a whole of both sides or as both sides of a whole.

    Raises:
        LabelError: The layout cannot hold one.
    """
    for organ in _not_held(wanted, organs):
        whole = PART_OF.get(organ)
        if whole in SIDES and whole in organs:
            other = next(side for side in SIDES[whole] if side != organ)
            raise LabelError(
                f"the layout has one label for '{whole}'", f"Annotate '{other}' too, or leave out '{organ}'."
            )
        hint = did_you_mean(organ, organs)
        raise LabelError(f"the layout has no label for '{organ}'", f"{hint} It holds {', '.join(organs)}.")
    return tuple(organ for organ in organs if organ in _both_ways(wanted))


def _not_held(wanted: Collection[str], organs: Collection[str]) -> list[str]:
    """Return the wanted organs that no label of a layout can hold."""
    whole_too = set(possible_organs(list(organs)))
    merged = {side for whole, sides in SIDES.items() if whole in organs and set(sides) <= set(wanted) for side in sides}
    return [organ for organ in wanted if organ not in whole_too | merged]


def _both_ways(wanted: Collection[str]) -> set[str]:
    """Add each whole whose two sides are wanted, and both sides of each wanted whole."""
    wholes = {whole for whole, sides in SIDES.items() if set(sides) <= set(wanted)}
    return {*wanted, *wholes, *(side for whole, sides in SIDES.items() if whole in wanted for side in sides)}


def _table(names: Mapping[int, str], targets: Mapping[str, int]) -> dict[int, int]:
    """Return {value in the labels: value to write}: each label's own target, or that of the whole it is part of, or 0.

    Raises:
        LabelError: Nothing in the labels makes up a target.
    """
    table = {}
    for value, organ in names.items():
        name: str | None = organ
        while name is not None and name not in targets:
            name = PART_OF.get(name)
        table[value] = targets[name] if name else 0
    given = set(names.values())
    for organ in targets:
        if organ not in given and not (organ in SIDES and set(SIDES[organ]) <= given):
            hint = did_you_mean(organ, given) or f" They hold {', '.join(sorted(given))}."
            raise LabelError(f"'{organ}' cannot be annotated: the labels given do not hold it", f"{hint}")
    return table


def _mapped(labels: Integer[np.ndarray, "z y x"], table: Mapping[int, int]) -> UInt8[np.ndarray, "z y x"]:
    """Return labels with each value replaced.

    Raises:
        LabelError: They hold a value, other than 0, that the table lacks.
    """
    present = set().union(*(np.unique(section).tolist() for section in labels))
    if strange := sorted(present - table.keys() - {0}):
        raise LabelError(f"the labels hold {strange[0]}, which stands for no organ", "Name it, or set it to 0.")
    lookup = np.zeros(max(present) + 1, np.uint8)
    for value in present & table.keys():
        lookup[value] = table[value]
    return lookup[labels]
