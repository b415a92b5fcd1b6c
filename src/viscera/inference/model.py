"""Model: a trained network on its device, with what its output means."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from viscera.config import Accelerator, Recipe
from viscera.errors import SettingError, WeightsError
from viscera.io.atomic import sha256
from viscera.io.extras import require_train
from viscera.labels import TUMOUR, LabelSpace
from viscera.networks.bundled_runner import bundled_context, bundled_runner
from viscera.networks.cards import Card, Shipped, as_shipped
from viscera.networks.device import device_type, keep_freed_memory
from viscera.networks.exported import read_export
from viscera.networks.find_weights import find_weights, is_export
from viscera.networks.graph_cache import GraphCache
from viscera.networks.members import find_members
from viscera.networks.runners import CannotRunError, Runner, RuntimeName, kept_runner, runner_of
from viscera.networks.weights_header import Header, read_header
from viscera.quality.predicted_dice import FILE_NAME, FOLDER_NAME, Calibration, read_calibration

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Member:
    """One network of an ensemble.

    Attributes:
        name: Its run's folder, for people.
        sha256: Of its weights file.
    """

    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Model:
    """A network on its device, with what its output means.

    Attributes:
        network: What runs it.
        recipe: How scans are prepared for it.
        space: What its channels mean.
        device: Where it is.
        weights_sha256: Hash of the weights file; of an ensemble, of its members' hashes.
        tumour: A second network, for tumours, whose finds override this one's; None without one.
        finder: A cheap network that says where this one is to look; None without one.
        context: What runs the recipe's context network; None without one.
        card: Of bundled weights: organs by standing and more; None for all others.
        calibration: By which the Dice of its organs is predicted; None: it is not.
        members: Of an ensemble its networks; empty for one network.
        more_contexts: Of an ensemble the context networks of the members after the first, in their order.

    Example:
        >>> import viscera
        >>> model = viscera.load_model("starter", device="cpu")
        >>> model.labels[1], "liver" in model.default_organs, model.recipe.name
        ('liver', True, 'starter')
    """

    network: Runner
    recipe: Recipe
    space: LabelSpace
    device: Literal["cpu", "cuda"]
    weights_sha256: str
    tumour: "Model | None" = None
    finder: "Model | None" = None
    context: Runner | None = None
    card: Card | None = None
    calibration: Calibration | None = None
    members: tuple[Member, ...] = ()
    more_contexts: tuple[Runner, ...] = ()

    @property
    def labels(self) -> dict[int, str]:
        """{index: organ} of the label maps that it makes, without background."""
        return self.output_space.labels

    @property
    def default_organs(self) -> tuple[str, ...]:
        """Which organs a user gets who names none: () for all; of bundled weights those with evidence."""
        if self.card is None or not self.card.of_standing("experimental"):
            return ()
        experimental = set(self.card.of_standing("experimental"))
        return tuple(organ for organ in self.output_space.organs if organ not in experimental)

    @property
    def output_space(self) -> LabelSpace:
        """What the labels of ``segment`` mean: the organs, and last the tumour of the second network."""
        if self.tumour is None or TUMOUR in self.space.organs:
            return self.space
        return LabelSpace(f"{self.space.name}+{TUMOUR}", (*self.space.organs, TUMOUR))

    @property
    def gives_slice_probabilities(self) -> bool:
        """Whether the output is a softmax over slices, so that it tells how sure the network is."""
        return self.recipe.network.heads == "softmax" and self.recipe.inference.whole_slices

    @property
    def margin_mm(self) -> float:
        """How far around what was found windows are looked at."""
        return self.recipe.inference.margin_mm

    @property
    def module(self) -> "nn.Module":
        """The torch module itself, of a model that was loaded without a runtime: as it was trained.

        Raises:
            SettingError: Another runtime than torch has it, or it is an ensemble.
        """
        if self.members:
            raise SettingError(
                f"these are {len(self.members)} networks that answer together, not one",
                "Give one of them: the folder of a fold.",
            )
        module = getattr(self.network, "module", None)
        if module is None:
            raise SettingError(f"the network runs on {self.network.name}, not on torch", "Load it without a runtime.")
        return module

    @property
    def networks(self) -> tuple["Model", ...]:
        """This model, and the second network and the finder where it has them."""
        return tuple(model for model in (self, self.tumour, self.finder) if model is not None)

    @property
    def sha256s(self) -> dict[str, str]:
        """{what for: hash of the weights file} of the second network and the finder."""
        others = {"tumour": self.tumour, "finder": self.finder}
        return {name: other.weights_sha256 for name, other in others.items() if other is not None}


def load_model(
    where: Path | Shipped,
    *,
    accelerator: Accelerator = "auto",
    runtime: Literal["auto"] | RuntimeName | None = None,
    graphs: Path | None = None,
    precision: str | None = None,
) -> Model:
    """Build a trained network.

    Args:
        where: A weights file, the folder of a run (its best weights), or one that `viscera export` wrote, which has its own
            runtime; a cross-validated run, or what `viscera choose` wrote: all of its networks (ensemble.py); or bundled weights,
            by their name (Path("starter")) or from ``find_shipped``.
        accelerator: Where to run it.
        runtime: What runs it (networks/runners.py); auto: the fastest that there is. None: torch's module as it was trained.
        graphs: Folder in which what was written for a runtime and checked is kept for the next start, and whether int8 is faster
            on this processor; None: nothing is kept.
        precision: Of bundled weights on OpenVINO, int8 or fp32; None: whichever is faster here.

    Raises:
        WeightsError: No weights there, or not for the network of their recipe; an exported network that was changed, cannot be
            run here, or of which torch's module is wanted; weights that came with viscera and are others by now; a calibration
            that is damaged.
        SettingError: No such device, or another runtime than an exported network's; torch is needed and not installed.
    """
    if isinstance(where, Shipped):
        shipped, file = where, where.file
    elif is_export(where):
        return _exported(where, accelerator=accelerator, runtime=runtime)
    elif (members := find_members(where)) is not None:
        from viscera.inference.ensemble import load_ensemble  # here, since it is made of what this file defines

        return load_ensemble(members, accelerator=accelerator, runtime=runtime, graphs=graphs)
    else:
        shipped = as_shipped(where)
        file = shipped.file if shipped else find_weights(where)
    device, header, digest = device_type(accelerator), read_header(file), sha256(file)
    if header.recipe.space.organs != header.space.organs:
        raise WeightsError(f"{file.name}: its recipe's organs are not the organs of its channels", "Train again.")
    if shipped:
        _require_own_card(shipped, header)
    cache = GraphCache(graphs, digest) if graphs else None
    runner = None
    if runtime is not None and device == "cpu":
        if shipped and runtime in ("auto", "openvino"):
            runner = bundled_runner(shipped, choices=graphs, precision=precision)
        if runner is None and cache is not None:
            runner = kept_runner(runtime, header.recipe.network, cache)
    if runner is None:
        runner = _on_torch(file, device=device, runtime=runtime, cache=cache)
    context = None
    if header.recipe.context is not None:
        context = _context(file, header, device=device, runtime=runtime, shipped=shipped, graphs=graphs, digest=digest)
    windows, card = not header.recipe.inference.whole_slices, shipped.card if shipped else None
    if device == "cpu" and (not windows or runner.name == "torch"):
        keep_freed_memory(spare=windows)  # from here on: what loading took may go
    calibration = read_calibration(calibration_file(file, shipped), weights_sha256=digest)
    return Model(
        runner, header.recipe, header.space, device, digest, context=context, card=card, calibration=calibration
    )


def calibration_file(weights: Path, shipped: Shipped | None) -> Path:
    """Return where the calibration of a weights file is, if it has one."""
    return weights.parent / FOLDER_NAME / f"{shipped.card.name}.json" if shipped else weights.parent / FILE_NAME


def _context(
    file: Path,
    header: Header,
    *,
    device: Literal["cpu", "cuda"],
    runtime: Literal["auto"] | RuntimeName | None,
    shipped: Shipped | None,
    graphs: Path | None,
    digest: str,
) -> Runner:
    """Build the context network of a recipe; see ``load_model``."""
    cache = GraphCache(graphs, f"{digest} context") if graphs else None
    if runtime is not None and device == "cpu":
        if shipped and runtime in ("auto", "openvino") and (runner := bundled_context(shipped)):
            return runner
        if cache is not None and (runner := kept_runner(runtime, header.recipe.context.network, cache)):  # type: ignore[union-attr]
            return runner
    return _on_torch(file, device=device, runtime=runtime, cache=cache, context=True)


def _on_torch(
    file: Path,
    *,
    device: Literal["cpu", "cuda"],
    runtime: Literal["auto"] | RuntimeName | None,
    cache: GraphCache | None,
    context: bool = False,
) -> Runner:
    """Build the network with torch, and put it on a runtime.

    Raises:
        SettingError: Torch is not installed.
        WeightsError: The weights are not for the network of their recipe.
    """
    require_train(f"running {file.name}", "torch")
    from viscera.networks.trained import on_runtime

    return on_runtime(file, device=device, runtime=runtime, cache=cache, context=context)


def _exported(where: Path, *, accelerator: Accelerator, runtime: Literal["auto"] | RuntimeName | None) -> Model:
    """Return the model of a folder that `viscera export` wrote."""
    if runtime is None:
        raise WeightsError(
            f"{where} holds an exported network, which can segment and nothing else",
            "Give the folder of the run that it came from.",
        )
    found = read_export(where)
    if runtime not in ("auto", found.kind):
        raise SettingError(f"{where} holds a network for {found.kind}, not for {runtime}", "Leave --runtime out.")
    if accelerator not in ("auto", "cpu"):
        raise SettingError(
            f"{where} holds a network for {found.kind}, which runs on the CPU, not on '{accelerator}'",
            "Leave --device out.",
        )
    if found.recipe.inference.whole_slices:
        keep_freed_memory()
    try:
        runner = runner_of(found.kind, found.file, found.shape)
        context = None if found.context is None else runner_of(found.kind, *found.context)
    except CannotRunError as error:
        raise WeightsError(
            f"{found.file}: {error}", "Export the run again on this machine.", file=found.file
        ) from error
    return Model(runner, found.recipe, found.space, "cpu", found.sha256, context=context)


def with_others(model: Model, *, tumour: Model | None = None, finder: Model | None = None) -> Model:
    """Return a model with a second network for tumours, a finder, or both.

    Raises:
        SettingError: The second network knows no tumour; a finder is given to a 2D network, or to one
            that keeps to the middle slices.
    """
    if tumour is not None and TUMOUR not in tumour.space.organs:
        raise SettingError(
            f"--tumour: these weights find {', '.join(tumour.space.organs)}, no tumour",
            "Train one: viscera train gao2step-tumour.",
        )
    if finder is not None and model.recipe.inference.whole_slices:
        raise SettingError(
            f"--finder: recipe '{model.recipe.name}' segments whole slices, so there is nothing to find",
            "Leave it out.",
        )
    if finder is not None and model.recipe.inference.region == "middle":  # type: ignore[union-attr]
        raise SettingError(
            f"--finder: recipe '{model.recipe.name}' looks at the middle slices whatever is found",
            "Pass --region find, or leave the finder out.",
        )
    return replace(model, tumour=tumour, finder=finder)


def with_region(model: Model, region: Literal["find", "whole", "middle"]) -> Model:
    """Return a model that looks at another part of the scans.

    Raises:
        SettingError: It is a 2D network.
    """
    settings = model.recipe.inference
    if settings.whole_slices:
        raise SettingError(
            f"--region: recipe '{model.recipe.name}' segments slice by slice, and always all of them", "Leave it out."
        )
    return replace(model, recipe=replace(model.recipe, inference=replace(settings, region=region)))


def _require_own_card(shipped: Shipped, weights: Header) -> None:
    """Raise WeightsError where a card is of other organs than the weights."""
    if tuple(shipped.card.organs) != weights.space.organs:
        raise WeightsError(
            f"{shipped.file} knows {', '.join(weights.space.organs)}, but its card is of {', '.join(shipped.card.organs)}",
            "Install viscera again (pip install --force-reinstall --no-deps viscera), or give other weights: --weights RUN.",
            file=shipped.file,
        )
