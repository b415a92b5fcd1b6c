"""Scans -> label maps: in memory (``segment``) and from files to files (``predict``)."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from viscera.api.data import warn_of
from viscera.api.images import NAME, Image, like, to_volume
from viscera.config import Accelerator
from viscera.datasets.sources import Source
from viscera.errors import LabelError, SettingError, VisceraError, did_you_mean
from viscera.figures.capture import draw_capture
from viscera.inference import model as models
from viscera.inference.dicom_jobs import find_dicom_jobs
from viscera.inference.dicom_objects import DicomOptions, kinds_of
from viscera.inference.failures import note_failure
from viscera.inference.jobs import (
    ScanJob,
    find_scan_jobs,
    output_name,
    own_facts,
    refuse_scans_as_outputs,
    require_folder,
)
from viscera.inference.loading import Networks
from viscera.inference.manifest import find_manifest_jobs, is_manifest
from viscera.inference.model import Model
from viscera.inference.predict import PredictOptions, predict_all
from viscera.inference.segment import only_organs, prepare_scan, segment_prepared
from viscera.io.clusters import Address, joined, parse_address, require_answer
from viscera.io.dicom_files import is_dicom_place
from viscera.labels import organ_name
from viscera.networks.cards import STARTER, find_shipped
from viscera.networks.members import one_fold
from viscera.networks.runners import RuntimeName
from viscera.preparation.intensity import hounsfield
from viscera.volume import with_voxels

PathLike = str | os.PathLike[str]


class EmptyWarning(UserWarning):
    """Nothing was found in a scan."""


EMPTY = (
    "none of the organs was found, the label map is empty. Check that it is a CT of the abdomen in HU, and that its spacing "
    "and orientation are right."
)


def load_model(
    weights: PathLike = STARTER,
    *,
    device: Accelerator = "auto",
    runtime: Literal["auto"] | RuntimeName = "auto",
    finder: PathLike | None = None,
    tumour: PathLike | None = None,
    fold: int | None = None,
) -> Model:
    """Load a trained network, to segment many scans with it.

    Args:
        weights: "starter": the bundled weights. Else a run's folder (its best weights), a .safetensors file, or a folder that
            `viscera export` wrote. Of a cross-validated run (`viscera train --folds`), or a file that `viscera choose` wrote, all
            networks answer together.
        device: Where it runs: "cpu", "cuda", or "auto": a GPU where there is one.
        runtime: What runs it on a CPU: "auto" takes OpenVINO where it is installed, else torch.
        finder: Weights of a cheap network that says where a 3D network is to look.
        tumour: Weights of a second network, for tumours, whose finds override the organs.
        fold: Of a cross-validated run, this network alone, counted from 0.

    Returns:
        The model. ``model.labels`` is {index: organ} of its label maps; ``model.default_organs`` are the organs that are
        segmented where none is named, () for all; ``model.card`` says how good bundled weights are on what.

    Raises:
        WeightsError: There are no weights, or they are damaged.
        SettingError: There is no such device or fold, or the networks do not go together.

    Example:
        >>> import viscera
        >>> model = viscera.load_model("starter", device="cpu")
        >>> model.labels[1], model.labels[4], len(model.labels)
        ('liver', 'spleen', 19)
    """
    named = weights if fold is None else one_fold(Path(weights), fold)
    paths = {"": named, "finder": finder, "tumour": tumour}
    loaded = {
        name: models.load_model(find_shipped() if path == STARTER else Path(path), accelerator=device, runtime=runtime)
        for name, path in paths.items()
        if path is not None
    }
    return models.with_others(loaded.pop(""), **loaded)


def segment(
    image: Image,
    model: Model | PathLike = STARTER,
    *,
    organs: str | Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Image:
    """Segment a CT in memory: the label map comes back as the kind of image that was given, on exactly its grid.

    The label map is the one that `viscera predict` writes for the same scan.

    Args:
        image: A CT in Hounsfield units, in any orientation:

            - a ``viscera.Volume``, as ``viscera.read`` gives it;
            - a nibabel image (a NIfTI image comes back, its header's geometry kept);
            - a SimpleITK image (origin, spacing and direction are kept);
            - a tuple (array, affine) as in nibabel: the array's axes are (x, y, z), the 4x4 affine takes (x, y, z, 1) to
              millimetres to the patient's right, front and head (RAS+). The tuple that comes back holds the same affine.
        model: From ``load_model``, or what it takes. Load it once for many scans.
        organs: Only these organs: a name, several names, or "all". None: all that the network knows; of the bundled weights
            those that were tested on real scans.
        progress: Called with the slices or windows that are done, and how many there are.

    Returns:
        Labels (uint8): 0 is background, the rest is in ``load_model(...).labels``.

    Warns:
        EmptyWarning: No organ was found. Other doubts about a result need files: ``predict`` writes them into NAME.json.

    Raises:
        LabelError: The model does not know an organ.
        FileError: The voxels cannot be HU of a CT.
        GeometryError: The grid is not a scanner's.
        SettingError: The image is of another kind.
        WeightsError: There are no such weights.

    Example:
        >>> import nibabel, viscera
        >>> [case] = viscera.synthesize("patients", cases=1, shape=(48, 128, 128), annotate=["liver"])
        >>> image = nibabel.load(case.image)
        >>> labels = viscera.segment(image, organs=["liver", "spleen"])
        >>> labels.shape, labels.get_data_dtype(), bool((labels.affine == image.affine).all())
        ((128, 128, 48), dtype('uint8'), True)
    """
    volume = to_volume(image)
    ct = with_voxels(volume, hounsfield(volume, where=NAME))
    loaded, names = _model_and_organs(model, organs)
    wanted = [loaded.output_space.index(organ) for organ in names]
    watch = progress or (lambda done, parts: None)
    labels = segment_prepared(prepare_scan(ct, loaded), loaded, organs=wanted, watch=watch).labels
    if wanted:
        labels = with_voxels(labels, only_organs(labels.voxels, wanted))
    if not labels.voxels.any():
        warnings.warn(EMPTY, EmptyWarning, stacklevel=2)
    return like(image, labels)


@dataclass(frozen=True)
class PredictResult:
    """What became of the scans that ``predict`` was given.

    Attributes:
        labels: The label maps that stand there now, in the order of the scans.
        problems: {scan: why it was not segmented}; DICOM series go by their names.
        doubts: {label map: what speaks against the whole result}, such as an empty one, or a scan that is none of an abdomen;
            what is sound is not in it.
    """

    labels: tuple[Path, ...]
    problems: Mapping[Path | str, VisceraError]
    doubts: Mapping[Path, tuple[str, ...]]


def predict(
    scans: PathLike | Sequence[PathLike | Source],
    output: PathLike,
    model: Model | PathLike = STARTER,
    *,
    organs: str | Sequence[str] | None = None,
    statistics: bool = False,
    write: str | Sequence[str] = (),
    overwrite: bool = False,
    cluster: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PredictResult:
    """Segment scans from files to files; the next one is read and the last one written while the network works.

    Beside each label map NAME.nii.gz stands NAME.json, which says which index is which organ and how it was made. Scans that
    are done (from the same file, by the same weights and options) are skipped, so the same call goes on after an interruption.
    A scan that cannot be used does not stop the others.

    Args:
        scans: A .nii or .nii.gz file, a folder of them, a list of files or of cases from ``find_cases``; a folder or ZIP of
            DICOM files, of which every CT series is a scan; or a .csv or .parquet file that lists scans in its column input.
        output: A folder; for a single file also the label map's own name.
        model: From ``load_model``, or what it takes.
        organs: As for ``segment``.
        statistics: Also write volume (ml), mean and SD (HU) of each organ, and quality flags.
        write: Of DICOM series, also "seg" (DICOM SEG), "rtstruct" (RT structure set), "report" (DICOM SR), "capture" (a picture).
        overwrite: Replace label maps that stand there.
        cluster: Who segments: None: this process. "local:4": four processes of this machine (in a script under
            ``if __name__ == "__main__":``); "tcp://HOST:PORT": the workers of a Dask scheduler; "slurm:20": jobs of a queue. All
            files lie on a disk that they share. They load the networks themselves, so ``model`` is then given by its path or name.
        progress: Called with the scans that are done, and how many there are.

    Returns:
        The label maps, and the scans that could not be segmented (then there is a warning, too).

    Raises:
        VisceraError: The only scan could not be segmented.
        LabelError: The model does not know an organ.
        FileError: There is no scan, or the output cannot be a folder.
        WeightsError: There are no such weights.
        SettingError: No scheduler answers, a worker sees other files, or ``model`` is loaded already.

    Example:
        >>> import viscera
        >>> cases = viscera.synthesize("patients", cases=1, shape=(16, 32, 32))
        >>> result = viscera.predict(cases, "labels", organs="liver")
        >>> [path.name for path in result.labels], len(result.problems)
        (['case_0001.nii.gz'], 0)
    """
    kinds = kinds_of(write)
    there = None if cluster is None else _elsewhere(cluster, model)
    tasks, unusable = _tasks(scans, Path(output), urls=cluster is not None)
    loaded, names = _model_and_organs(model, organs, device="auto" if there is None else "cpu")
    ended: list[ScanJob] = []

    def done(task: ScanJob, how: str) -> None:
        ended.append(task)
        if progress is not None:
            progress(len(ended), len(tasks))

    options = PredictOptions(names, statistics, overwrite, DicomOptions(kinds, draw=draw_capture))
    way = predict_all if there is None else partial(_predict_there, *there)
    failed = way(tasks, loaded, options=options, done=done)
    for name, error in unusable.items():
        note_failure(Path(output) / f"{name}.nii.gz", str(name), error)
    if len(tasks) == len(failed) == 1 and not unusable:
        raise failed[0][1]
    told = [f"{task.scan.name}: {error}" for task, error in failed]
    told += [f"{name}: {error}" for name, error in unusable.items()]
    warn_of(told, of=len(tasks) + len(unusable), what="scans could not be segmented")
    wrong = {task for task, _ in failed}
    labels = {task.output: _doubts(task) for task in tasks if task not in wrong}
    return PredictResult(
        tuple(labels),
        {task.scan if isinstance(task.scan, Path) else task.scan.name: error for task, error in failed} | unusable,
        {file: found for file, found in labels.items() if found},
    )


def _elsewhere(cluster: str, model: Model | PathLike) -> tuple[Address, Networks]:
    """Return where a cluster's workers are, and what they load.

    Raises:
        SettingError: It is no cluster, or none that answers; or the model is loaded already.
    """
    if isinstance(model, Model):
        raise SettingError(
            "a loaded model stays in this process, and workers of a cluster load their own", "Give its path or name."
        )
    address = parse_address(cluster)
    require_answer(address)
    return address, Networks(weights=None if model == STARTER else Path(model))


def _predict_there(
    address: Address,
    networks: Networks,
    tasks: Sequence[ScanJob],
    model: Model,
    *,
    options: PredictOptions,
    done: Callable[[ScanJob, str], None],
) -> list[tuple[ScanJob, VisceraError]]:
    """Segment scans on a cluster, as ``predict_all`` does here."""
    from viscera.inference.on_cluster import elsewhere, predict_on_cluster

    with joined(address) as workers:
        return predict_on_cluster(tasks, model, workers, elsewhere(networks, model), options=options, done=done)


def _doubts(task: ScanJob) -> tuple[str, ...]:
    """Return what NAME.json says against a whole result."""
    return tuple(str(sign["message"]) for sign in (own_facts(task.sidecar) or {}).get("doubts", ()))


def _tasks(
    scans: PathLike | Sequence[PathLike | Source], output: Path, *, urls: bool
) -> tuple[list[ScanJob], dict[Path | str, VisceraError]]:
    """List the scans, and where their label maps go; and the DICOM series that cannot be segmented.

    Raises:
        FileError: There is no scan, one name stands for two label maps, or the output cannot be a folder or is an input.
    """
    if isinstance(scans, str | os.PathLike):
        if is_dicom_place(Path(scans)):
            found, wrong = find_dicom_jobs(Path(scans), output)
            return found, {**wrong}
        if is_manifest(Path(scans)):
            found, wrong = find_manifest_jobs(Path(scans), output, urls=urls)
            return found, {**wrong}
        return find_scan_jobs(Path(scans), output), {}
    require_folder(output, what="a list of scans")
    tasks = []
    for scan in scans:
        if isinstance(scan, Source):
            tasks.append(ScanJob(scan.image, output / f"{scan.name}.nii.gz"))
        else:
            tasks.append(ScanJob(Path(scan), output / output_name(Path(scan))))
    names = [task.output.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice or not tasks:
        if not tasks:
            raise SettingError("the list of scans is empty", "Give one or more.")
        raise SettingError(
            f"two scans of the list would both become {twice}", "Rename one, or call viscera.predict for each folder."
        )
    refuse_scans_as_outputs(tasks, [scan for scan in scans if isinstance(scan, Source)])
    return tasks, {}


def _model_and_organs(
    model: Model | PathLike, organs: str | Sequence[str] | None, *, device: Accelerator = "auto"
) -> tuple[Model, tuple[str, ...]]:
    """Return the model, and the organs that are wanted, () for all; unknown ones are refused before anything is loaded.

    Raises:
        SettingError: "all" beside other names.
        LabelError: The model does not know an organ.
    """
    names = (organs,) if isinstance(organs, str) else tuple(organs or ())
    if "all" in names and len(names) > 1:
        raise SettingError(
            f"organs {', '.join(names)}: 'all' leaves none to be named", "Give 'all', or the organs' names."
        )
    if isinstance(model, Model):
        loaded = model
    else:
        if model == STARTER and names != ("all",):
            _require_known(names, tuple(find_shipped().card.organs))
        loaded = load_model(model, device=device)
    if names == ("all",):
        return loaded, ()
    _require_known(names, loaded.output_space.organs)
    return loaded, names or loaded.default_organs


def _require_known(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise LabelError for an organ that is not among those of the model."""
    for name in names:
        if organ_name(name) not in known:
            hint = did_you_mean(organ_name(name), known)
            raise LabelError(f"the model does not know the organ '{name}'", f"{hint} It knows {', '.join(known)}.")
