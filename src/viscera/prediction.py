"""Scans on disk -> label maps on disk, with what a reader needs beside them.

    NAME.nii.gz       labels on the grid of the scan
    NAME.json         {index: organ}, statistics on request, how and by what it was made
    labels.ctbl       colours for 3D Slicer; labels.itksnap.txt for ITK-SNAP (one pair per folder)

A label map takes its place after its NAME.json, so where both stand, the case is done.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int16, UInt8

from viscera import nifti
from viscera.efficiency import sample_efficiency
from viscera.errors import FileError, VisceraError
from viscera.files import write_json, write_text
from viscera.inference import Model, only_organs, prepare_scan, segment_prepared
from viscera.intensity import hounsfield
from viscera.labels import LabelSpace, colour
from viscera.machine import Stopwatch, peak_memory_mib
from viscera.runtime import runner_facts
from viscera.volume import Volume, with_voxels


@dataclass(frozen=True)
class Task:
    """One scan to segment."""

    scan: Path
    output: Path

    @property
    def sidecar(self) -> Path:
        """NAME.json beside the label map."""
        return self.output.with_name(nifti.stem(self.output) + ".json")


@dataclass(frozen=True)
class Wishes:
    """What to write.

    Attributes:
        organs: Only these, by name; empty for all that the network knows.
        statistics: Also volume, HU and border per organ in NAME.json.
        overwrite: Replace label maps that stand there.
    """

    organs: tuple[str, ...] = ()
    statistics: bool = False
    overwrite: bool = False


def find_tasks(scan: Path, output: Path) -> list[Task]:
    """List what a user asks for: one file to one file (or into a folder), or all scans of a folder into a folder.

    A trailing _0000 (nnU-Net's channel number) is left out of the name of the label map.

    Raises:
        FileError: No such scan, a folder without any, or one output name for two scans.
    """
    if scan.is_file():
        if nifti.is_nifti(output):
            return [Task(scan, output)]
        if output.exists() and not output.is_dir():
            raise FileError(f"{output} is another kind of file. Give a name that ends in .nii.gz, or a folder.")
        return [Task(scan, output / output_name(scan))]
    if not scan.is_dir():
        raise FileError(f"there is no scan at {scan}. Give a .nii or .nii.gz file, or a folder of them.")
    require_folder(output, what=scan.name)
    tasks = [Task(file, output / output_name(file)) for file in nifti.find_files(scan)]
    if not tasks:
        raise FileError(
            f"{scan} holds no .nii or .nii.gz file. Give the folder that holds the scans themselves; convert DICOM series "
            "first, for instance with dcm2niix."
        )
    names = [task.output.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise FileError(f"two scans in {scan} would both become {twice}. Rename one.")
    return tasks


def require_folder(output: Path, *, what: str) -> None:
    """Raise FileError if the place for the label maps of several scans is, or is named as, a file."""
    if nifti.is_nifti(output) or (output.exists() and not output.is_dir()):
        raise FileError(f"{what} is a folder, so the output must be one too, not {output.name}. Give a folder's name.")


def output_name(scan: Path) -> str:
    """Give the label map's file name for a scan's."""
    return nifti.stem(scan).removesuffix("_0000") + ".nii.gz"


def is_done(task: Task, model: Model, wishes: Wishes) -> bool:
    """Tell whether the label map stands there already, made by these weights with these wishes.

    Raises:
        FileError: Something else stands there, and overwriting was not wished.
    """
    if wishes.overwrite or not task.output.exists():
        return False
    facts: dict = {}
    try:
        facts = json.loads(task.sidecar.read_text())
        run = facts["run"]
        same = run["weights_sha256"] == model.weights_sha256 and run["organs"] == list(wishes.organs)
        same = same and run.get("other_weights_sha256", {}) == model.sha256s
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise FileError(
            f"{task.output.name} exists already, and not from this command. Say --overwrite or choose another output."
        )
    return not wishes.statistics or "statistics" in facts


def predict_file(
    task: Task,
    model: Model,
    *,
    wishes: Wishes = Wishes(),
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> dict[str, object]:
    """Segment one scan, file to file.

    Returns:
        What was written to NAME.json.

    Raises:
        FileError, GeometryError: The scan cannot be used.
        LabelError: An organ is wished for that the network does not know.
    """
    clock = Stopwatch({})
    hidden = task.output.with_name(f".part.{task.output.name}")
    with sample_efficiency(str(model.device)) as meter:
        facts, shape = _segment_file(task, hidden, model, wishes=wishes, clock=clock, watch=watch)
    facts["run"] = {
        "viscera": version("viscera"),
        "torch": torch.__version__,
        "recipe": model.recipe.name,
        "weights_sha256": model.weights_sha256,
        "other_weights_sha256": model.sha256s,
        "organs": list(wishes.organs),
        "device": str(model.device),
        "runtime": runner_facts(model.network)["name"],
        "precision": model.precision,
        "seconds": {stage: round(seconds, 3) for stage, seconds in clock.seconds.items()},
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "shape": list(reversed(shape)),
        "efficiency": meter.result.to_json(),
    }
    write_json(task.sidecar, facts)
    hidden.replace(task.output)
    return facts


def _segment_file(
    task: Task,
    output: Path,
    model: Model,
    *,
    wishes: Wishes,
    clock: Stopwatch,
    watch: Callable[[int, int], None],
) -> tuple[dict[str, object], tuple[int, int, int]]:
    """Read a scan, segment it, write its labels; give what is to be said of them, and the scan's shape."""
    space = model.output_space
    wanted = [space.index(organ) for organ in wishes.organs]
    with clock.stage("read"):
        ct = nifti.read(task.scan)
    ct = with_voxels(ct, hounsfield(ct, where=task.scan.name))
    with clock.stage("prepare"):
        scan = prepare_scan(ct, model)
    if not wishes.statistics:
        ct = scan.grid  # what is not needed any more is forgotten: HU are for the statistics only
    found = segment_prepared(scan, model, clock=clock, watch=watch)
    labels = found.labels
    if wanted:
        labels = with_voxels(labels, only_organs(labels.voxels, wanted))
    names = {index: organ for index, organ in space.labels.items() if not wanted or index in wanted}
    facts: dict[str, object] = {"labels": {str(index): organ for index, organ in names.items()}}
    if found.tumours is not None:
        facts["tumours"] = found.tumours
    if wishes.statistics:
        with clock.stage("statistics"):
            facts["statistics"] = organ_statistics(ct, labels.voxels, names)
    output.parent.mkdir(parents=True, exist_ok=True)
    with clock.stage("write"):
        nifti.write(output, labels, overwrite=True)
    return facts, ct.shape


def predict_all(
    tasks: Sequence[Task],
    model: Model,
    *,
    wishes: Wishes = Wishes(),
    done: Callable[[Task, str], None] = lambda task, how: None,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> list[tuple[Task, VisceraError]]:
    """Segment scans one after the other; one that cannot be used does not stop the rest.

    Args:
        tasks: From ``find_tasks``.
        model: Loaded once.
        wishes: What to write.
        done: Told after each scan how it went: "segmented", "was done" or the error's message.
        watch: Told of the slices of the present scan.

    Returns:
        The scans that could not be segmented, and why.
    """
    for organ in wishes.organs:
        model.output_space.index(organ)
    failed = []
    for task in tasks:
        try:
            how = "was done"
            if not is_done(task, model, wishes):
                predict_file(task, model, wishes=wishes, watch=watch)
                how = "segmented"
        except VisceraError as error:
            how = str(error)
            failed.append((task, error))
        done(task, how)
    for folder in {task.output.parent for task in tasks if task.output.exists()}:
        write_colours(folder, model.output_space)
    return failed


def organ_statistics(
    ct: Volume, labels: UInt8[np.ndarray, "z y x"], names: dict[int, str]
) -> dict[str, dict[str, float | bool | None]]:
    """Give per organ its volume (ml), mean and SD (HU; None for an absent organ), and whether it touches the scan's border.

    An organ that touches the border may be cut off: its volume is then a lower bound.
    """
    counts, sums, squares = np.zeros((3, 256))
    hu: Int16[np.ndarray, "z y x"] = ct.voxels
    for slice_labels, slice_hu in zip(labels, hu, strict=True):
        flat, values = slice_labels.ravel(), slice_hu.ravel().astype(np.float64)
        counts += np.bincount(flat, minlength=256)
        sums += np.bincount(flat, values, minlength=256)
        squares += np.bincount(flat, values**2, minlength=256)
    faces = [labels[[0, -1]], labels[:, [0, -1]], labels[:, :, [0, -1]]]
    border = set(np.unique(np.concatenate([face.ravel() for face in faces])).tolist())
    found: dict[str, dict[str, float | bool | None]] = {}
    for index, organ in names.items():
        count = counts[index]
        mean = sums[index] / count if count else None
        found[organ] = {
            "volume_ml": round(count * ct.voxel_ml, 3),
            "mean_hu": None if mean is None else round(mean, 2),
            "sd_hu": None if mean is None else round(max(squares[index] / count - mean**2, 0.0) ** 0.5, 2),
            "touches_border": index in border,
        }
    return found


def write_colours(folder: Path, space: LabelSpace) -> None:
    """Write the organs' names and colours for 3D Slicer (labels.ctbl) and ITK-SNAP (labels.itksnap.txt)."""
    rows = [(index, organ, *colour(organ)) for index, organ in space.labels.items()]
    slicer = ["# Color table file, 3D Slicer", "0 background 0 0 0 0"]
    slicer += [f"{index} {organ} {r} {g} {b} 255" for index, organ, r, g, b in rows]
    snap = ["# ITK-SNAP label description file: index R G B opacity visible mesh name", '0 0 0 0 0 0 0 "Clear Label"']
    snap += [f'{index} {r} {g} {b} 1 1 1 "{organ}"' for index, organ, r, g, b in rows]
    write_text(folder / "labels.ctbl", "\n".join(slicer) + "\n")
    write_text(folder / "labels.itksnap.txt", "\n".join(snap) + "\n")
