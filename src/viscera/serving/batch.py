"""Many scans in the background: each segmented when it is its turn, and what was found measured against corrections."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from viscera.errors import SettingError, VisceraError
from viscera.inference.jobs import ScanJob, is_own_label_map
from viscera.inference.predict import predict_all
from viscera.inference.run import PredictOptions, is_done
from viscera.io import nifti
from viscera.io.atomic import write_json
from viscera.io.label_values import whole_labels
from viscera.labels import organ_name
from viscera.serving.background import Task
from viscera.serving.comparing import dice_of
from viscera.serving.datastore import FINAL, ORIGINAL, Datastore, names_of
from viscera.serving.segmenting import require_size
from viscera.serving.service import Service
from viscera.volume import require_same_grid

SCORES = "scores"
"""Folder in STUDIES: dice.json is the last scoring."""


def choose_scans(datastore: Datastore, images: str, params: Mapping[str, object]) -> list[str]:
    """Return the ids of the scans that a client wants segmented.

    Args:
        datastore: Of which.
        images: "all"; "unlabeled": without final labels; "labeled": with them.
        params: ``max_batch_size``: at most so many, 0 for all; ``label_tag``: only "original"; ``overwrite``: see ``segment_all``.

    Raises:
        SettingError: Something else.
    """
    if images not in ("all", "unlabeled", "labeled"):
        raise SettingError("images must be all, unlabeled or labeled", "Leave it out for all.")
    if params.get("label_tag", ORIGINAL) != ORIGINAL:
        raise SettingError(
            "label_tag: what is segmented in the background has the tag original",
            "Leave it out: others are for people's labels.",
        )
    most = params.get("max_batch_size", 0)
    if type(most) is not int or most < 0:
        raise SettingError("max_batch_size is not a whole number", "Send 0 for all.")
    if type(params.get("overwrite", False)) is not bool:
        raise SettingError("overwrite is neither true nor false", "Leave it out.")
    found = list(datastore.scans())
    if images != "all":
        found = [name for name in found if (FINAL in datastore.labels(name)) == (images == "labeled")]
    return found[:most] if most else found


def segment_all(
    service: Service, name: str, scans: Sequence[str], task: Task, *, overwrite: bool = False
) -> dict[str, object]:
    """Segment scans as ``viscera predict STUDIES STUDIES/predictions --statistics`` does; others' turns come in between.

    A scan that is done by the same weights is passed over, so the same request goes on; one that cannot be used stops no other.

    Args:
        service: The server's.
        name: Of the model.
        scans: Their ids.
        task: Told how far it is.
        overwrite: Replace label maps that other weights, such as an earlier version, made; else they are kept.

    Returns:
        How many were segmented, were done before, were kept, and failed.

    Raises:
        StoppedError: The task was stopped; what was segmented stays.
    """
    datastore, start = service.datastore, time.perf_counter()
    counts = {"segmented": 0, "done before": 0, "kept": 0, "failed": 0}
    for number, scan in enumerate(scans, start=1):
        task.go_on()

        def work(scan: str = scan) -> str:
            _, file = datastore.scan(scan)
            return _segment(service, name, ScanJob(file, datastore.prediction(scan)), overwrite=overwrite)

        how = service.queue.wait(work, go_on=task.go_on)
        counts[how] += 1
        task.progress.update({"done": number, "of": len(scans), **counts})
        task.tell(f"{number} of {len(scans)} scans: {', '.join(f'{count} {what}' for what, count in counts.items())}")
    return {**counts, "seconds": round(time.perf_counter() - start, 2)}


def _segment(service: Service, name: str, job: ScanJob, *, overwrite: bool) -> str:
    """Segment one scan; return "segmented", "done before", "kept" or "failed"."""
    model, options = service.models[name], PredictOptions(service.usual_organs(name), statistics=True)
    try:
        require_size(job.scan)
        if is_done(job, model, options):
            return "done before"
    except (VisceraError, OSError):
        if not is_own_label_map(job.output):
            return "failed"
        if not overwrite:
            return "kept"
    job.output.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # of the whole process, which the queue makes safe
        warnings.simplefilter("ignore")
        failed = predict_all([job], model, options=replace(options, overwrite=overwrite))
    return "failed" if failed else "segmented"


def score_all(datastore: Datastore, task: Task) -> dict[str, object]:
    """Measure the label maps that were made in the background against final labels; also written to STUDIES/scores/dice.json.

    Returns:
        {"mean": over scans of the mean over organs, "organs": {organ: mean}, "scans": {id: mean}, "cases": how many}; an organ
        counts where its final labels name it; mean is None without scans that have both.

    Raises:
        StoppedError: The task was stopped.
    """
    scans: dict[str, dict[str, float]] = {}
    names = list(datastore.scans())
    for number, name in enumerate(names, start=1):
        task.go_on()
        labels = datastore.labels(name)
        if FINAL in labels and ORIGINAL in labels:
            try:
                scans[name] = _score(labels[FINAL], labels[ORIGINAL])
            except (VisceraError, OSError):
                task.tell("labels of a scan cannot be compared; they are left out")
        task.progress.update({"done": number, "of": len(names)})
    organs = sorted({organ for scores in scans.values() for organ in scores})
    means = {name: sum(scores.values()) / len(scores) for name, scores in scans.items() if scores}
    found: dict[str, object] = {
        "mean": round(sum(means.values()) / len(means), 4) if means else None,
        "organs": {organ: _mean([one[organ] for one in scans.values() if organ in one]) for organ in organs},
        "scans": {name: round(mean, 4) for name, mean in means.items()},
        "cases": len(means),
    }
    (datastore.folder / SCORES).mkdir(exist_ok=True)
    write_json(datastore.folder / SCORES / "dice.json", found)
    task.tell(f"{len(means)} scans: mean Dice {found['mean']}")
    return found


def _score(final: Path, original: Path) -> dict[str, float]:
    """Return {organ: Dice} of the organs that the final labels name; one that neither shows is left out.

    Raises:
        GeometryError, LabelError, FileError: The files do not go together.
    """
    drawn, found = nifti.read(final), nifti.read(original)
    require_same_grid(drawn, found, where="the label map")
    truth = {organ_name(name): value for name, value in names_of(final).items()}
    made = {organ_name(name): value for name, value in names_of(original).items()}
    organs = sorted(truth)
    tables = np.zeros((2, 256), np.uint8)
    for number, organ in enumerate(organs, start=1):
        tables[0, truth[organ]] = number
        if organ in made:
            tables[1, made[organ]] = number
    one, _ = whole_labels(drawn.voxels, where="the final labels")
    other, _ = whole_labels(found.voxels, where="the label map")
    numbers = {organ: number for number, organ in enumerate(organs, start=1)}
    return dice_of(tables[0][one.astype(np.uint8)], tables[1][other.astype(np.uint8)], numbers, len(organs) + 1)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)
