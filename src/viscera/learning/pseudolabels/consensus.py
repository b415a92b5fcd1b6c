"""The consensus of teachers on one case: networks and a prepared scan -> pseudo-labels with a verdict on each organ.

The voxel rule is here; the verdicts are acceptance.py's. Scans are asked about a few slices at a time, and of what the
teachers say only a label and one bit per organ are kept for each voxel. filling.py does it for a store.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from viscera.inference.model import Model
from viscera.inference.volumes import LogitReader, read_logits
from viscera.learning.pseudolabels.acceptance import Acceptance, Finding, Verdict, judge, together
from viscera.preparation.store import UNSURE, Case


@dataclass(frozen=True, eq=False)
class Draft:
    """What the teachers say of a case, before any organ is accepted.

    Attributes:
        labels: The organ that takes the voxel by the voxel rule, or 0.
        doubts: One bit per organ to fill in, packed: a teacher says it here, or does not rule it out.
        findings: What they say of each organ.
    """

    labels: UInt8[np.ndarray, "z y x"]
    doubts: UInt8[np.ndarray, "z byte y x"]
    findings: Mapping[str, Finding]


def fill_case(
    case: Case,
    models: Sequence[Model],
    *,
    organs: Sequence[str],
    settings: Acceptance,
    usual_ml: Mapping[str, tuple[float, float]] | None = None,
    finds: Mapping[str, float] | None = None,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> tuple[UInt8[np.ndarray, "z y x"], list[Verdict]]:
    """Return the pseudo-labels of a case, and the verdict on each organ.

    Args:
        case: With labels or without; pseudo-labels that it may have are not looked at.
        models: The teachers, all of one label space.
        organs: Those to fill in; the case must annotate none of them.
        settings: When teachers are believed.
        usual_ml: From ``usual_volumes``.
        finds: Dice with which the worst teacher finds an organ where it is annotated.
        watch: Called with the slices done and the slices of the case.

    Returns:
        Index of an organ where it is accepted and the voxel rule holds; UNSURE where an accepted organ is in doubt; 0
        elsewhere, where truth shows an organ, and where nothing is known.
    """
    if not organs:
        return np.zeros(case.image.shape, np.uint8), []
    draft = ask(case, models, organs=organs, settings=settings, watch=watch)
    usual_ml, finds = usual_ml or {}, finds or {}
    verdicts = [
        judge(organ, draft.findings[organ], settings=settings, usual_ml=usual_ml.get(organ), finds=finds.get(organ))
        for organ in organs
    ]
    believed = [verdict.verdict != "rejected" for verdict in verdicts]
    table = np.zeros(256, np.uint8)
    for organ, good in zip(organs, believed, strict=True):
        table[models[0].space.index(organ)] = models[0].space.index(organ) * good
    kept = table[draft.labels]
    unsure = (draft.doubts & np.packbits(believed)[:, None, None]).any(1)
    return np.where((kept == 0) & unsure, np.uint8(UNSURE), kept), verdicts


def ask(
    case: Case,
    models: Sequence[Model],
    *,
    organs: Sequence[str],
    settings: Acceptance,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> Draft:
    """Ask the teachers, some slices at a time; see ``fill_case``."""
    depth, size = len(case.image), min(model.recipe.inference.batch_size for model in models)
    indices = [models[0].space.index(organ) for organ in organs]
    label_of = np.array([*indices, 0], np.uint8)
    labels, doubts, counts = [], [], []
    readers = [read_logits(case.image, model, case.geometry) for model in models]
    for first in range(0, depth, size):
        part = range(first, min(first + size, depth))
        truth, known = torch.from_numpy(np.array(case.truth[part.start : part.stop])).to(models[0].device), None
        if case.known is not None:
            known = torch.from_numpy(np.array(case.known[part.start : part.stop])).to(truth.device)
        said = answers(models, readers, slices=part, indices=indices, known=known)
        open_ = (truth == 0) if known is None else (truth == 0) & known
        agreed = (said.given == said.given[0]).all(0) & open_ & (said.confidence >= settings.confidence)
        doubt = ~(said.most <= settings.doubt)  # NaN is a doubt, too
        for given in said.given:
            doubt.scatter_(1, given[:, None], True)
        labels.append(label_of[torch.where(agreed, said.given[0], len(organs)).cpu().numpy()])
        doubts.append(np.packbits((doubt[:, :-1] & open_[:, None]).cpu().numpy(), axis=1))
        edges = [place for place, z in enumerate(part) if z in (0, depth - 1)]
        counts.append(count(said, agreed=agreed, open_=open_, edges=edges))
        watch(part.stop, depth)
    voxel_ml = math.prod(case.geometry.spacing_mm) / 1000
    totals = [together(parts, voxel_ml=voxel_ml) for parts in zip(*counts, strict=True)]
    return Draft(np.concatenate(labels), np.concatenate(doubts), dict(zip(organs, totals, strict=True)))


@dataclass(frozen=True, eq=False)
class Answers:
    """What the teachers say of some slices. Organs are numbered in the order of those to fill in.

    Attributes:
        given: The organ that each teacher decides for; the number of organs where it is none of them, or nothing is known.
        confidence: The teachers' mean probability of the organ that the first decides for; not defined where it is none.
        most: The largest probability that any teacher gives each organ, 0 where nothing is known; one more channel of 0.
    """

    given: Int[Tensor, "teacher slice y x"]
    confidence: Float[Tensor, "slice y x"]
    most: Float[Tensor, "slice organ y x"]


def answers(
    models: Sequence[Model],
    readers: Sequence[LogitReader],
    *,
    slices: range,
    indices: Sequence[int],
    known: Bool[Tensor, "slice y x"] | None = None,
) -> Answers:
    """Ask the teachers about some slices of a case.

    A teacher decides for the class of the largest logit. Probabilities are a softmax over the classes, or with sigmoid
    heads each organ's own.

    Args:
        models: The teachers.
        readers: What gives their logits of the case, from its first slice on.
        slices: Which slices.
        indices: Of the organs to fill in, in the label space.
        known: False where what they say does not count.
    """
    number = torch.full((len(models[0].space.classes),), len(indices), device=models[0].device)
    number[list(indices)] = torch.arange(len(indices), device=number.device)
    decisions, chances = [], []
    for model, read in zip(models, readers, strict=True):
        logits = torch.as_tensor(read(slices)).float()
        sigmoid = model.recipe.network.heads == "sigmoid"
        chances.append((logits.sigmoid() if sigmoid else logits.softmax(1))[:, list(indices)])
        decisions.append(number[logits.max(1).indices])  # max is ten times as fast as argmax, see inference.decide
    given = torch.stack(decisions)
    if known is not None:
        given = torch.where(known, given, len(indices))
    first = given[:1].clamp(max=len(indices) - 1).movedim(0, 1)
    confidence = torch.stack([chance.gather(1, first)[:, 0] for chance in chances]).mean(0)
    confidence = torch.where(given[0] < len(indices), confidence, 0)
    most = reduce(torch.maximum, chances)
    if known is not None:
        most = torch.where(known[:, None], most, 0)
    return Answers(given, confidence, torch.nn.functional.pad(most, (0, 0, 0, 0, 0, 1)))


def count(
    said: Answers, *, agreed: Bool[Tensor, "slice y x"], open_: Bool[Tensor, "slice y x"], edges: Sequence[int]
) -> list[Finding]:
    """Count what the teachers say of each organ in some slices.

    Args:
        said: What they say.
        agreed: Where the organ takes the voxel by the voxel rule.
        open_: Where truth shows no organ.
        edges: Those of the slices that are the scan's first or last.
    """
    organs, given = said.most.shape[1] - 1, said.given

    def per_organ(chosen: Int[Tensor, "*place"]) -> list[int]:
        """Count the voxels of each organ."""
        return torch.bincount(chosen.flatten(), minlength=organs + 1)[:organs].tolist()

    voxels = [per_organ(one) for one in given]
    shared = [per_organ(a[(a == b) & open_]) for a, b in combinations(given, 2)]
    new = [per_organ(one[(given[:number] != one).all(0)]) for number, one in enumerate(given)]
    labelled, at_edges = per_organ(given[0][agreed]), per_organ(given[:, list(edges)])
    largest = said.most.amax((0, 2, 3)).tolist()
    return [
        Finding(
            given=[one[organ] for one in voxels],
            shared=[one[organ] for one in shared],
            united=sum(one[organ] for one in new),
            labelled=labelled[organ],
            largest=largest[organ],
            cut_off=at_edges[organ] > 0,
        )
        for organ in range(organs)
    ]
