"""nnU-Net's part of nnunet.py, in the Python of an environment that has nnunetv2 and need not have viscera.

nnU-Net is as it comes: its planner, its preprocessing, its trainer's class, its predictor. Three numbers of the trainer are set,
so that its schedule ends in the time given, and torch is told how many threads it has, since nnU-Net's commands take as many as the
machine has cores, whatever they are allowed to use.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.child import peak_mib

TRAINER = "nnUNetTrainer"


def train(order: dict) -> dict[str, object]:
    """Train fold 0 of a data set; return what it took.

    Args:
        order: dataset, configuration, epochs, iterations and validations (of an epoch).
    """
    start, cpu, trainer = time.perf_counter(), time.process_time(), trainer_of(order)
    trainer.num_epochs = order["epochs"]
    trainer.num_iterations_per_epoch = order["iterations"]
    trainer.num_val_iterations_per_epoch = order["validations"]
    marks = []
    for name in ("on_epoch_start", "on_epoch_end"):
        setattr(trainer, name, noting(getattr(trainer, name), marks))
    trainer.run_training()
    logged = trainer.logger.local_logger.my_fantastic_logging
    return described(trainer) | {
        "training_s": round(time.perf_counter() - start, 1),
        "training_cpu_s": round(time.process_time() - cpu, 1),
        "epoch_cpu_s": [round(end - begin, 2) for begin, end in zip(marks[::2], marks[1::2], strict=True)],
        "between_cpu_s": [round(begin - end, 2) for end, begin in zip(marks[1::2], marks[2::2], strict=False)],
        "learning_rates": [round(float(rate), 6) for rate in logged["lrs"]],
        "training_losses": [round(float(loss), 4) for loss in logged["train_losses"]],
    }


def noting(call: Callable[[], None], marks: list[float]) -> Callable[[], None]:
    """Return a function that notes the CPU seconds so far, and calls another."""

    def noted() -> None:
        """Note and call."""
        marks.append(time.process_time())
        call()

    return noted


def step(order: dict) -> dict[str, object]:
    """Return the seconds of a step on noise: what a network costs, without its data.

    Args:
        order: dataset, configuration and plans.
    """
    import torch

    trainer = trainer_of(order)
    # initialising looks there for the kind of its files, which 3D has only where it was preprocessed
    folder = Path(trainer.preprocessed_dataset_folder)
    trainer.preprocessed_dataset_folder = str(folder.with_name(folder.name.replace(order["configuration"], "2d")))
    trainer.initialize()
    planned = trainer.configuration_manager
    image = torch.rand(planned.batch_size, 1, *planned.patch_size)
    scales = trainer._get_deep_supervision_scales()
    sizes = [[round(size * part) for size, part in zip(planned.patch_size, scale, strict=True)] for scale in scales]
    target = [torch.randint(0, 3, (planned.batch_size, 1, *size)).float() for size in sizes]
    seconds = []
    for _ in range(2):
        start = time.process_time()
        trainer.train_step({"data": image, "target": target})
        seconds.append(round(time.process_time() - start, 2))
    return described(trainer) | {"step_cpu_s": seconds}


def trainer_of(order: dict):  # noqa: ANN201 - a class of nnU-Net's
    """Return nnU-Net's trainer of fold 0, with a thread for each core that it may use."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return get_trainer_from_args(
        order["dataset"], order["configuration"], 0, TRAINER, order["plans"], device=torch.device("cpu")
    )


def described(trainer) -> dict[str, object]:  # noqa: ANN001 - a class of nnU-Net's
    """Return what nnU-Net planned, of a trainer that is initialised."""
    configuration = trainer.configuration_manager
    return {
        "batch_size": configuration.batch_size,
        "patch_size": [int(size) for size in configuration.patch_size],
        "spacing_mm": [round(float(step), 3) for step in configuration.spacing],
        "parameters": sum(one.numel() for one in trainer.network.parameters()),
        "oversampled": trainer.oversample_foreground_percent,
    }


def predict(order: dict) -> dict[str, object]:
    """Segment a folder of scans, one after the other in this process.

    Args:
        order: folder (of the trained model), images, out; mirroring: nnU-Net's default is to do it.
    """
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    predictor = nnUNetPredictor(
        use_mirroring=order["mirroring"],
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(order["folder"], (0,), "checkpoint_final.pth")
    start = time.perf_counter()
    files = sorted(Path(order["images"]).glob("*_0000.nii.gz"))
    Path(order["out"]).mkdir(parents=True, exist_ok=True)
    names = [str(Path(order["out"]) / file.name.removesuffix("_0000.nii.gz")) for file in files]
    predictor.predict_from_files_sequential([[str(file)] for file in files], names)
    return {"scans": len(files), "predicting_s": round(time.perf_counter() - start, 1)}


STEPS: dict[str, Callable[[dict], dict[str, object]]] = {"train": train, "step": step, "predict": predict}


def run(step: str, order: str, out: str) -> None:
    """Do a step; write what it took.

    Args:
        step: Of STEPS.
        order: JSON.
        out: A .json file.
    """
    found = STEPS[step](json.loads(order)) | {"peak_mib": peak_mib(), "python": sys.version.split()[0]}
    Path(out).write_text(json.dumps(found))
