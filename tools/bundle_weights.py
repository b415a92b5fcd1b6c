"""A run -> bundled weights, with their card; networks/cards.py reads them again.

Kernels are rounded to half precision, which halves the file. What has one dimension (biases, and the means and variances of
batch normalisation, which may be large) stays as it is: together it is less than a hundredth.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from viscera.config.ranges import STRICT
from viscera.errors import SettingError, WeightsError
from viscera.evaluation.scores import ALL, Evaluation
from viscera.io.atomic import sha256, write_json
from viscera.networks.cards import (
    FORMAT,
    STARTER,
    Card,
    Evidence,
    Figure,
    OrganCard,
    Shipped,
    Standing,
    TrainingData,
    TrainingRange,
    find_shipped,
)
from viscera.networks.weights import COUNT, NUMBERS, find_weights, load_weights, save_weights

MOST_MIB = 8.0
MEASURES = ("dice", "nsd")


@dataclass(frozen=True)
class Facts:
    """What a card says that the run does not know; see ``Card``.

    Attributes:
        title: One line.
        version: Of the weights.
        commit: Of viscera, when the run was trained.
        date: Of the training.
        training_data: What the run learnt from.
        evidence: What it was measured on.
        shipped: Organs of the default output; the others are experimental.
        known_failures: Each in a sentence.
        training_range: Which scans the run knows.
        seeds: Of the training; the recipe's where none is said.
    """

    __pydantic_config__ = STRICT

    title: str
    version: str
    commit: str
    date: str
    training_data: tuple[TrainingData, ...]
    evidence: tuple[Evidence, ...]
    shipped: tuple[str, ...]
    known_failures: tuple[str, ...]
    training_range: TrainingRange
    seeds: tuple[int, ...] = ()


def ship(
    run: Path, folder: Path, *, facts: Facts, evaluations: Mapping[str, Evaluation], name: str = STARTER
) -> Shipped:
    """Write the weights of a run in half precision, and their card.

    Args:
        run: Its best weights are taken; or a weights file.
        folder: Gets NAME.safetensors and NAME.json, in place of those that stand there.
        facts: For the card.
        evaluations: {name of the evidence: what `viscera evaluate` found there}.
        name: Of the weights.

    Returns:
        What was written, read again.

    Raises:
        WeightsError: No weights there; numbers that half precision cannot hold; a file that is too large.
        LabelError: An organ is to be shipped that the run does not know.
        SettingError: An organ is to be shipped of which no real scan is evidence; evaluations and evidence do not match.
    """
    weights = load_weights(find_weights(run))
    default = {weights.space.labels[weights.space.index(organ)] for organ in facts.shipped}
    organs = organ_cards(weights.space.organs, default, facts.evidence, evaluations)
    tensors = {key: halve(tensor, key) for key, tensor in weights.tensors.items()}
    halved = replace(weights, tensors=tensors | {NUMBERS: torch.arange(COUNT)})
    stored_mib = sum(one.numel() * one.element_size() for one in halved.tensors.values()) / 2**20
    if stored_mib > MOST_MIB:
        raise WeightsError(
            f"{run}: {stored_mib:.1f} MiB in half precision, and what comes with viscera may have {MOST_MIB:g}. "
            "Ship a narrower network."
        )
    file = folder / f"{name}.safetensors"
    save_weights(file, halved)
    card = Card(
        format=FORMAT,
        name=name,
        version=facts.version,
        title=facts.title,
        recipe=weights.recipe.name,
        commit=facts.commit,
        date=facts.date,
        seeds=facts.seeds or (weights.recipe.training.seed,),
        training_data=facts.training_data,
        evidence=facts.evidence,
        organs=organs,
        known_failures=facts.known_failures,
        training_range=facts.training_range,
        sha256=sha256(file),
    )
    write_json(folder / f"{name}.json", asdict(card))
    return find_shipped(name, folder)


def halve(tensor: Tensor, name: str) -> Tensor:
    """Round a kernel to half precision; give back what has one dimension or whole numbers.

    Args:
        tensor: Of a network.
        name: For messages.

    Raises:
        WeightsError: A number is too large for half precision.
    """
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    half = tensor.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        largest = float(tensor.abs().max())
        raise WeightsError(
            f"{name} holds {largest:g}, and half precision ends at 65504. The training went wrong: train again."
        )
    return half


def organ_cards(
    organs: Sequence[str], default: set[str], evidence: Sequence[Evidence], evaluations: Mapping[str, Evaluation]
) -> dict[str, OrganCard]:
    """Return each organ's standing and its figures.

    Args:
        organs: That the network knows, in order.
        default: Those that are in the default output.
        evidence: What the evaluations were made on.
        evaluations: {name of the evidence: evaluation}.

    Raises:
        SettingError: Evaluations and evidence do not match; a default organ has no figure on real scans.
    """
    names = [one.name for one in evidence]
    if set(names) != set(evaluations):
        raise SettingError(
            f"evaluations are of {', '.join(evaluations) or 'nothing'}, evidence is named {', '.join(names) or 'none'}. "
            "Give one evaluation for each."
        )
    real = {one.name for one in evidence if one.real}
    cards = {}
    for organ in organs:
        figures = tuple(figure for name in names for figure in figures_of(evaluations[name], organ, on=name))
        if organ in default and not any(figure.on in real and figure.measure == "dice" for figure in figures):
            raise SettingError(
                f"'{organ}' is to be shipped, but there is no evidence on real scans. Leave it experimental, or measure it."
            )
        standing: Standing = "shipped" if organ in default else "experimental"
        cards[organ] = OrganCard(standing, figures)
    return cards


def figures_of(evaluation: Evaluation, organ: str, *, on: str) -> list[Figure]:
    """Return an organ's Dice and NSD of an evaluation, with their intervals; none where it does not show the organ."""
    rows = {row.metric: row for row in evaluation.summary if row.organ == organ and row.group == ALL}
    found = [rows[measure] for measure in MEASURES if measure in rows and math.isfinite(rows[measure].mean)]
    return [
        Figure(on, row.metric, round(row.mean, 4), _rounded(row.low), _rounded(row.high), row.cases) for row in found
    ]


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
