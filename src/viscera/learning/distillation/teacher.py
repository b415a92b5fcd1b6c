"""The teacher of a student: which trained networks may teach it, and what they say of what it sees.

They are asked while the student trains, about the very images that it sees, changed as these are: nothing is written to disk, and
nothing that was said of another view has to be bent to this one (Beyer et al. 2022, arXiv:2106.05237, found such a teacher the
better one). It costs one forward pass of each network per step.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from viscera.config import Recipe
from viscera.config.recipe_json import first_difference
from viscera.errors import SettingError
from viscera.inference.ensemble import mean_model, seen_and_said
from viscera.learning.distillation.loss import taught_loss
from viscera.learning.distillation.settings import Distillation
from viscera.learning.losses import LossFunction
from viscera.learning.pseudolabels.teachers import Seen, TeacherWarning, check_teaching, find_teacher, shared_cases
from viscera.networks.device import device_type
from viscera.networks.find_weights import find_weights
from viscera.networks.members import Members, find_members
from viscera.networks.runners import Runner
from viscera.networks.weights_header import read_header
from viscera.preparation.store import Store


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Who teaches a student.

    Attributes:
        runner: What runs the networks, on torch: logits of their mean probabilities.
        taught: Organs that any of them learnt from labels; all where that is not known.
        facts: For run.json and the weights: who they are, and what is learnt of them.
        settings: How much is learnt of them.
        weights: The first one's, whose measurements the student takes over.
    """

    runner: Runner
    taught: frozenset[str]
    facts: dict[str, object]
    settings: Distillation
    weights: Path

    def beside(self, loss: LossFunction, *, unannotated: Literal["marginal", "background"]) -> "Taught":
        """Return a loss of labels with this teacher's part (``taught_loss``)."""
        return Taught(taught_loss(self.settings, loss, self, unannotated=unannotated), self.facts)

    def __call__(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch class *space"]:
        """Return the logits of the mean probabilities, as `viscera predict --runtime torch` has them."""
        found = self.runner(np.ascontiguousarray(image.detach().float().cpu().numpy()))
        return torch.as_tensor(found, device=image.device).float().clone()


@dataclass(frozen=True)
class Taught:
    """What a teacher adds to a session.

    Attributes:
        loss: Of labels and teacher.
        facts: For run.json and the weights.
    """

    loss: LossFunction
    facts: dict[str, object]


def members_of(settings: Distillation) -> Members:
    """Return the networks that teach.

    Raises:
        WeightsError: A fold is not trained yet; a file is damaged or gone.
    """
    where = settings.teacher
    if (found := find_members(where)) is not None:
        return found
    file = find_weights(where)
    return Members(where, (file,), (file.resolve().parent.name,))


def check_student(recipe: Recipe, settings: Distillation) -> Members:
    """Return the networks that are to teach a recipe's, of which only headers are read.

    Raises:
        WeightsError: There are none.
        SettingError: They see scans otherwise, mean other organs, or the recipe cannot be taught.
    """
    members = members_of(settings)
    if recipe.context is not None or recipe.network.heads != "softmax":
        what = "context" if recipe.context is not None else "sigmoid heads"
        raise SettingError(
            f"--distil: recipe '{recipe.name}' has {what}, and what a teacher says to that is not built",
            "Take a recipe without, or leave --distil out.",
        )
    wanted = _without_measurements(recipe)
    for name, file in zip(members.names, members.files, strict=True):
        differs = first_difference(_without_measurements(read_header(file).recipe), wanted)
        if differs:
            said = differs.replace(" was ", ": ", 1).replace(", now ", ", and the student's ")
            raise SettingError(
                f"{name} cannot teach recipe '{recipe.name}': they see scans otherwise, or mean other organs: its {said}",
                "Take the teacher's recipe, whose network and training may be changed.",
            )
    return members


def _without_measurements(recipe: Recipe) -> dict[str, object]:
    """Return what both must have alike; the student takes over the organs' HU that its teacher measured."""
    shared = seen_and_said(recipe)
    return shared | {"intensity": asdict(recipe.intensity) | {"measured": None}}


def open_teacher(recipe: Recipe, settings: Distillation, store: Store, fabric: Fabric) -> Ensemble:
    """Load the networks that teach a recipe's.

    Args:
        recipe: The student's.
        settings: Who they are.
        store: The student's: what it is validated and tested on.
        fabric: Where the student is trained, and they run.

    Raises:
        WeightsError: They cannot be loaded, or do not go together.
        SettingError: They do not go with the student (``check_student``), which is trained on several devices.
        RunError: One learnt from a test case of the store, or learnt that what is not annotated is background.

    Warns:
        TeacherWarning: Some learnt from the student's validation cases, or do not tell what they learnt from.
    """
    members = check_student(recipe, settings)
    if fabric.world_size > 1:
        raise SettingError("--distil: a student is trained on one device", "Leave machine.devices at 1.")
    device = device_type("cpu" if fabric.device.type == "cpu" else "cuda")
    teachers = [find_teacher(file, accelerator=device, runtime="torch") for file in members.files]
    check_teaching(teachers, store)
    known = [one.seen for one in teachers if one.seen is not None]
    leaked = _warn_of_leaks(known, store, silent=len(teachers) - len(known))
    model = mean_model([one.model for one in teachers], names=members.names) if len(teachers) > 1 else teachers[0].model
    organs = [None if one.seen is None else one.seen.taught for one in teachers]
    facts: dict[str, object] = {
        "teacher": members.where.resolve().name,
        "weights_sha256": model.weights_sha256,
        "members": [
            {"name": name, "sha256": one.model.weights_sha256}
            for name, one in zip(members.names, teachers, strict=True)
        ],
        "temperature": settings.temperature,
        "weight": settings.weight,
        "validation_cases_seen_by_teacher": leaked,
    }
    taught = frozenset(recipe.space.organs) if None in organs else frozenset().union(*(one or () for one in organs))
    return Ensemble(model.network, taught, facts, settings, members.files[0])


def _warn_of_leaks(known: Sequence[Seen], store: Store, *, silent: int) -> int:
    """Warn where scores of the student's validation cases are not of cases unseen; return how many a teacher has learnt from."""
    validation = store.names("validation")
    hashes = {name: store.facts(name).image_sha256 for name in validation}
    seen = {name for one in known for name in shared_cases(one.training, hashes)}
    if seen:
        warnings.warn(
            f"the teacher's networks learnt from {len(seen)} of the {len(validation)} validation cases, as folds do: the student's "
            "validation scores are too high for comparing it with others. Compare on test cases, which none of them may have seen",
            TeacherWarning,
            stacklevel=4,
        )
    if silent:
        warnings.warn(
            f"{silent} of the {silent + len(known)} networks that teach do not tell what they learnt from (no run.json beside "
            "their weights): make sure that they saw no test case of this store",
            TeacherWarning,
            stacklevel=4,
        )
    return len(seen)
