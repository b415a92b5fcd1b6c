"""A trained network as a file for programs that know nothing of viscera, and a description of all that they need to use it.

Folder: network.onnx, or network.xml and network.bin (OpenVINO), and model.json. Before the folder stands, the files are run
and compared with fp32 torch; where organs would be lost nothing is written. networks/exported.py reads it again.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import compress
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int
from torch import nn

from viscera.deployment.description import describe
from viscera.deployment.int8 import drawn_inputs, quantised
from viscera.errors import FileError, RunError, SettingError
from viscera.evaluation.counts import count_case
from viscera.inference.model import Model
from viscera.inference.prepared import prepared_labels
from viscera.io.atomic import hidden_name, remove_abandoned, sha256, write_json, writing
from viscera.networks.doors import openvino_module
from viscera.networks.exported import CONTEXT_FILES, DESCRIPTION, FILES
from viscera.networks.onnx import shape_of, to_onnx
from viscera.networks.runners import (
    CannotRunError,
    Foreign,
    Runner,
    missing_packages,
    runner_facts,
    runner_of,
)
from viscera.networks.torch_runner import folded_runner, require_agreement
from viscera.preparation.geometry import Geometry
from viscera.preparation.store import Split, Store
from viscera.volume import Turn

RANDOM_SLICES = 4


@dataclass(frozen=True)
class Agreement:
    """How near a written network's labels are to those of torch in fp32.

    Attributes:
        measured_on: Cases of a split of a store, or random HU.
        slices: How many slices (or planes of prepared scans).
        differing_fraction: Of voxels, whose label differs.
        dice_difference_points: {organ: its Dice minus torch's, times 100}, Dice over the voxels of all cases that annotate the
            organ; organs that none of them shows are left out. Empty for random HU.
        dice_torch: {organ: torch's Dice, 0 to 1}, likewise.
    """

    measured_on: str
    slices: int
    differing_fraction: float
    dice_difference_points: dict[str, float]
    dice_torch: dict[str, float]


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What a written network is measured with.

    Attributes:
        store: Prepared cases; None: random HU, which show no loss of organs.
        split: Whose cases.
        dice_points: The most that an organ's Dice may differ from torch's, in hundredths.
    """

    store: Store | None = None
    split: Split = "validation"
    dice_points: float = 0.5


def export(
    model: Model,
    out: Path,
    *,
    kind: Foreign = "onnx",
    int8: bool = False,
    yardstick: Yardstick = Yardstick(),
    overwrite: bool = False,
    watch: Callable[[int, int], None] = lambda done, cases: None,
) -> Agreement:
    """Write a network and its description into a folder, once it has shown that it agrees with torch.

    Args:
        model: On the CPU, loaded without a runtime.
        out: The folder: new, empty or, with ``overwrite``, an earlier export.
        kind: Of the file.
        int8: Most weights in int8 rather than all in fp32, for OpenVINO; scales are taken from training cases of the
            yardstick's store (int8.py).
        yardstick: On what and how nearly it must agree.
        overwrite: Replace an earlier export.
        watch: Told of cases compared, and of all.

    Raises:
        FileError: The folder holds something else.
        SettingError: A package is missing, the network computes what the format does not know, or int8 is not for it.
        RunError: An organ's Dice differs by more than the yardstick allows; or the store has no cases to measure on.
        StoreError: The store is another recipe's.
    """
    _require_free(out, overwrite=overwrite)
    missing = missing_packages(kind)
    if missing:
        raise SettingError(
            f"--format {kind}: {' and '.join(missing)} not installed", f"Install it: pip install 'viscera[{kind}]'."
        )
    drawn = _drawn(model, yardstick.store, kind=kind) if int8 else None
    with _folder(out) as part:
        try:
            other = _written(model, part, kind=kind, drawn=drawn)
        except CannotRunError as error:
            raise SettingError(
                f"--format {kind} cannot hold '{model.recipe.name}': {error}", "Choose another format."
            ) from error
        agreement = measure(model, other, yardstick=yardstick, watch=watch)
        _require_near(agreement, yardstick.dice_points)
        facts = describe(model) | {"precision": "fp32" if drawn is None else "int8"}
        names = [*FILES[kind], *(() if model.context is None else CONTEXT_FILES[kind])]
        facts["files"] = {name: sha256(part / name) for name in names}
        facts["agreement"] = (
            asdict(agreement)
            | {"allowed_dice_points": yardstick.dice_points}
            | {"runtime": runner_facts(other.network)}
        )
        write_json(part / DESCRIPTION, facts)
    return agreement


def _drawn(model: Model, store: Store | None, *, kind: Foreign) -> list[Float32[np.ndarray, "1 channel *space"]]:
    """Draw what the scales of an int8 network are taken from.

    Raises:
        SettingError: There is nothing to draw from, or nothing that would run it.
        RunError: The store has no training cases.
        StoreError: The store is another recipe's.
    """
    if kind != "openvino":
        raise SettingError(
            "--int8 is for --format openvino: other runtimes gain little by it", "Choose that, or leave it out."
        )
    if store is None:
        raise SettingError("--int8 needs real slices to take its scales from", "Name a prepared store: --data STORE.")
    return list(drawn_inputs(model, store, generator=np.random.default_rng(0)))


def _written(
    model: Model, folder: Path, *, kind: Foreign, drawn: Sequence[Float32[np.ndarray, "1 channel *space"]] | None
) -> Model:
    """Write a network's files, in int8 where slices or windows were drawn for that; return the model as it runs from there.

    Raises:
        CannotRunError: The format or the runtime cannot.
    """
    runner = _runs_from(model.module, folder / FILES[kind][0], kind=kind, channels=model.recipe.channels, drawn=drawn)
    context = None
    if model.context is not None:
        context = _runs_from(_module(model.context), folder / CONTEXT_FILES[kind][0], kind=kind, channels=1, drawn=None)
    return replace(model, network=runner, context=context)


def _module(runner: Runner) -> nn.Module:
    return runner.module  # type: ignore[attr-defined]  # of a model that was loaded without a runtime


def _runs_from(
    module: nn.Module,
    file: Path,
    *,
    kind: Foreign,
    channels: int,
    drawn: Sequence[Float32[np.ndarray, "1 channel *space"]] | None,
) -> Runner:
    """Write one network, and run it from its file.

    Raises:
        CannotRunError: The format or the runtime cannot.
    """
    graph = to_onnx(module, channels=channels, labels=True)
    if kind == "onnx":
        file.write_bytes(graph)
    else:
        openvino = openvino_module()
        network = openvino.Core().read_model(graph) if drawn is None else quantised(graph, drawn)
        openvino.save_model(network, file, compress_to_fp16=False)
    runner = runner_of(kind, file, shape_of(module))
    if drawn is None:  # else random input is nothing like what the scales were made for; real cases are measured anyway
        require_agreement(runner, module, channels=channels)
    return runner


def measure(
    model: Model,
    other: Model,
    *,
    yardstick: Yardstick,
    watch: Callable[[int, int], None] = lambda done, cases: None,
) -> Agreement:
    """Compare another runtime's labels with those of torch in fp32, on the prepared grid and before anything is tidied.

    Raises:
        RunError: The store has no labelled cases in the split.
        StoreError: The store is another recipe's.
    """
    context = model.context and folded_runner(_module(model.context), model.device, exact=True)
    exact = replace(model, network=folded_runner(model.module, model.device, exact=True), context=context)
    if yardstick.store is None:
        return _on_random(exact, other)
    yardstick.store.require(space=model.space, preparation=model.recipe.preparation)
    names = yardstick.store.names(yardstick.split)
    if not names:
        raise RunError(
            f"{yardstick.store.path} has no {yardstick.split} cases to measure on",
            "Choose another --split, or leave --data out.",
            file=yardstick.store.path,
        )
    classes, slices, differing, voxels = model.space.classes, 0, 0, 0
    overlaps = np.zeros((2, len(classes), 2), np.int64)  # of torch and the other: each class's intersection and union
    for number, name in enumerate(names, 1):
        case = yardstick.store.case(name)
        found = [prepared_labels(case.image, one, case.geometry) for one in (exact, other)]
        slices, voxels = slices + len(case.image), voxels + case.image.size
        differing += int(np.count_nonzero(found[0] != found[1]))
        for total, labels in zip(overlaps, found, strict=True):
            for organ, pair in count_case(case, labels, classes=classes).voxels.items():
                total[classes.index(organ)] += pair
        watch(number, len(names))
    where = f"{len(names)} {yardstick.split} cases of a prepared store"
    shown = [bool(count) for count in yardstick.store.voxels(yardstick.split)]
    return Agreement(where, slices, differing / voxels, *_dice(overlaps[:, shown], list(compress(classes, shown))))


def _dice(overlaps: Int[np.ndarray, "2 class 2"], classes: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return {organ: difference in points} and {organ: torch's Dice} of classes that the truth shows."""
    # Both masks together have as many voxels as their intersection and their union.
    dice = 2 * overlaps[..., 0] / overlaps.sum(-1)
    both = {organ: pair for organ, pair in zip(classes, dice.T.tolist(), strict=True) if organ != "background"}
    return (
        {organ: round(100 * (other - first), 4) for organ, (first, other) in both.items()},
        {organ: round(first, 5) for organ, (first, _) in both.items()},
    )


def _on_random(exact: Model, other: Model) -> Agreement:
    """Compare labels of slices of random HU."""
    preparation, stride = exact.recipe.preparation, exact.network.stride
    side = max(64, 2 * stride)
    rows, columns = preparation.size or (side, side)
    depth = RANDOM_SLICES if exact.network.dimensions == 2 else side
    image = np.random.default_rng(0).integers(-1000, 1000, (depth, rows, columns)).astype(np.int16)
    pixels = Fraction(1)
    where = Geometry(
        image.shape, np.eye(4), Turn((0, 1, 2), (False, False, False)), image.shape[1:], step=(pixels, pixels)
    )
    first, second = (prepared_labels(image, one, where) for one in (exact, other))
    return Agreement("random HU", depth, float((first != second).mean()), {}, {})


def _require_near(agreement: Agreement, most: float) -> None:
    """Raise unless every organ's Dice is near enough to torch's."""
    far = {organ: points for organ, points in agreement.dice_difference_points.items() if not abs(points) <= most}
    if far:
        organ = max(far, key=lambda name: abs(far[name]))
        raise RunError(
            f"nothing is exported: on {agreement.measured_on} the Dice of {organ} differs by {far[organ]:+.2f} points from torch's "
            f"({agreement.dice_torch[organ]:.3f}), allowed are {most:g}"
            + (f"; too far are also {', '.join(name for name in far if name != organ)}" if len(far) > 1 else "")
            + ". Measure on more cases, take another --format, leave --int8 out, or raise --dice-points."
        )


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """Return a hidden folder that takes the place of ``out`` when the block ends well, and is removed otherwise."""
    part, old = (out.with_name(hidden_name(name)) for name in (out.name, f"old.{out.name}"))
    with writing(out):
        try:
            shutil.rmtree(part, ignore_errors=True)  # in a container, the killed process may have had our number
            part.mkdir(parents=True)
            remove_abandoned(out)
            yield part
            if out.exists():
                out.rename(old)
            try:
                part.rename(out)
            except OSError:
                if old.exists():
                    old.rename(out)
                raise
            remove_abandoned(out.with_name(f"old.{out.name}"))
        finally:
            for folder in (part, old):
                shutil.rmtree(folder, ignore_errors=True)


def _require_free(out: Path, *, overwrite: bool) -> None:
    """Raise unless there is nothing, or an earlier export that may be replaced."""
    if out.exists() and not out.is_dir():
        raise FileError(f"{out} is a file", "Give a folder for the export.")
    there = {child.name for child in out.iterdir()} if out.is_dir() else set()
    ours = {DESCRIPTION, *(name for files in (FILES, CONTEXT_FILES) for names in files.values() for name in names)}
    if there - ours or (there and DESCRIPTION not in there):
        raise FileError(
            f"{out} holds files that are not export ({min(there - ours or there)})", "Give a new or an empty folder."
        )
    if there and not overwrite:
        raise FileError(f"{out} holds an export already", "Choose another folder or pass --overwrite.")
