"""Learning from corrections, seen from the server: what is to be learnt from, the process that learns, and who serves then."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from viscera.config import Accelerator
from viscera.errors import RunError, SettingError, VisceraError
from viscera.inference.model import load_model
from viscera.io.atomic import sha256, write_json
from viscera.io.json_codec import from_json
from viscera.json_text import load_json, read_json
from viscera.networks.cards import as_shipped
from viscera.serving.background import StoppedError, Task
from viscera.serving.corrections import Correction
from viscera.serving.datastore import FINAL, Datastore, names_of
from viscera.serving.service import Service
from viscera.serving.tuning import JOB, LOG, PROGRESS, RESULT, Job, Settings, read_job
from viscera.serving.versions import WORK, Comparison, Versions

LOOK_EVERY_S = 0.2
PASSED_OVER = (
    "client_id",
    "name",
    "pretrained",
    "device",
    "model",
    "dataset",
    "train_batch_size",
    "val_batch_size",
    "val_split",
)
"""What clients of MONAI Label send to other trainers."""
MOST_EPOCHS, MOST_STEPS = 1000, 10_000


def settings_of(params: Mapping[str, object]) -> Settings:
    """Return the settings that a client asks for.

    Raises:
        SettingError: One is unknown, or out of its range.
    """
    known = {name: value for name, value in params.items() if name not in PASSED_OVER}
    usual = asdict(Settings())
    for name, value in known.items():
        if name not in usual:
            raise SettingError(f"'{name[:40]}' is not a setting of this training", f"There are {', '.join(usual)}.")
        if isinstance(value, list) and value:  # Slicer's form of a choice
            known[name] = value[0]
    remedy = "Send whole numbers for max_epochs and steps, and a learning_rate above 0."
    found = from_json(
        Settings, {**usual, **known}, what="the settings cannot be used", remedy=remedy, error=SettingError
    )
    if found.max_epochs > MOST_EPOCHS or found.steps > MOST_STEPS or found.learning_rate > 1:
        raise SettingError(
            "the settings are out of all proportion",
            f"At most {MOST_EPOCHS} epochs of {MOST_STEPS} steps, learning_rate 1.",
        )
    return found


def make_job(service: Service, name: str, settings: Settings, *, device: Accelerator = "auto") -> Job:
    """Return what a training is to do: which corrections, from which weights.

    Raises:
        SettingError: There are too few corrections, or the model cannot learn.
        WeightsError: The weights that serve are gone.
    """
    versions = trainable(service, name)
    corrected = {pair["image"]: service.datastore.label(pair["image"], FINAL) for pair in service.datastore.pairs()}
    _, held = versions.split(name, list(corrected))
    return Job(
        model=name,
        version=versions.history(name).serving,
        weights=str(versions.file(name)),
        organs=service.usual_organs(name),
        corrections=tuple(
            _correction(service.datastore, scan, file, held=scan in held) for scan, file in corrected.items()
        ),
        settings=settings,
        device=device,
    )


def _correction(datastore: Datastore, scan: str, labels: Path, *, held: bool) -> Correction:
    names = names_of(labels)
    if not names:
        raise SettingError("the names of saved labels are gone", "Save these labels again from 3D Slicer.")
    return Correction(str(datastore.scan(scan)[1]), str(labels), names, sha256(labels), held)


def trainable(service: Service, name: str) -> Versions:
    """Return the versions of a model.

    Raises:
        SettingError: It cannot learn.
    """
    if service.versions is None or name not in service.versions.first:
        raise SettingError("this model cannot learn: it is an export, or not offered", "GET /info/ lists the trainers.")
    return service.versions


def learn(service: Service, job: Job, task: Task) -> dict[str, object]:
    """Train in a process of its own, compare, and let the better version serve; return what came out.

    Raises:
        StoppedError: The task was stopped; the same job goes on from there.
        VisceraError: Something cannot be used, or the process ended without a result.
    """
    versions = trainable(service, job.model)
    work = versions.place(job.model) / WORK
    if not _goes_on(work, job):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / JOB, asdict(job))
    else:
        task.tell("going on where the same training was stopped")
    if not (work / RESULT).is_file():
        _run_process(work, task)
    found = read_json(work / RESULT, error=RunError, remedy="Start the training again.")
    if "what" in found:
        (work / RESULT).unlink()
        raise RunError(str(found["what"]), str(found.get("remedy", "")))
    what, remedy = "the result of the training is damaged", "Start it again."
    raw = found.get("comparison")
    comparison = from_json(Comparison, raw if isinstance(raw, dict) else {}, what=what, remedy=remedy, error=RunError)
    held = len(job.of_side(held_back=False))
    new = versions.conclude(job.model, Path(str(found["weights"])), comparison, training_cases=held)
    shutil.rmtree(work, ignore_errors=True)
    figures = f"Dice {comparison.old_dice:.4f} (version {job.version}) and {comparison.new_dice:.4f} (new) on {comparison.cases}"
    told = f"{figures} held-back corrections: {comparison.why}"
    if new is not None:
        swap(service, job.model, versions.file(job.model, new.version), device=job.device)
        told = f"{told}; version {new.version} serves now"
    task.tell(told)
    service.log.add(f"train: {told}")
    return {**asdict(comparison), "serving": versions.history(job.model).serving}


def swap(service: Service, name: str, weights: Path, *, first: bool = False, device: Accelerator = "auto") -> None:
    """Load weights when it is their turn, and let them serve; scans that have asked before get the old ones.

    Args:
        service: In which.
        name: Of the model.
        weights: Its file.
        first: Whether they are those that the server began with: bundled ones then have their card again.
        device: Where they run.
    """

    def load() -> None:
        where = (as_shipped(weights) or weights) if first else weights
        service.models[name] = load_model(where, accelerator=device, runtime="auto")

    service.queue.wait(load)


def _goes_on(work: Path, job: Job) -> bool:
    """Tell whether a folder holds the same job."""
    try:
        return read_job(work) == job
    except VisceraError:
        return False


def _run_process(work: Path, task: Task) -> None:
    """Run the process that learns until it ends, or the task is to stop.

    Raises:
        StoppedError: It was stopped.
        RunError: It ended without a result.
    """
    (work / PROGRESS).unlink(missing_ok=True)
    words = [sys.executable, "-m", "viscera.serving.tuning", str(work)]
    with (work / LOG).open("ab") as log:
        child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=os.name == "posix"
        )
    try:
        while True:
            stopping = task.stop.wait(LOOK_EVERY_S)
            _take_progress(work / PROGRESS, task)
            if child.poll() is not None:
                break
            if stopping:
                raise StoppedError
    finally:
        if child.poll() is None:
            _kill(child)
        child.wait()
        if child.stdin is not None:
            child.stdin.close()
    if not (work / RESULT).is_file():
        task.go_on()
        raise RunError(
            f"the training ended without a result (exit code {child.returncode})",
            f"Start it again: it goes on. models/{task.request.get('model')}/{WORK}/{LOG} in the studies' folder may say why.",
        )


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the process, and those that it began: they are of its group. Every file is whole at every instant."""
    if os.name == "posix":
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()


def _take_progress(file: Path, task: Task) -> None:
    """Take over how far the process is."""
    try:
        found = load_json(file)
    except (OSError, ValueError):
        return
    if isinstance(found, dict):
        task.progress.update(found)
        task.tell(_in_words(found))


def _in_words(found: Mapping[str, object]) -> str:
    if found.get("stage") == "training":
        return f"training: epoch {found.get('epoch')} of {found.get('total_epochs')}"
    return f"{found.get('stage')}: {found.get('done')} of {found.get('of')} corrections"
