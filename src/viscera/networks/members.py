"""Several networks that a user means by one path: a cross-validated run, whose folds they are, or what `viscera choose` wrote.

    RUN/folds.json      which case is in which fold (learning/cross_validation.py); RUN/fold_0, RUN/fold_1 ... are ordinary runs
    FILE.json           which networks were chosen, each by its path from the file and its SHA-256, and what tidies their labels

Nothing here imports torch, or loads a network; inference/ensemble.py makes one model of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import relpath
from pathlib import Path

from viscera.config.inference import Postprocessing
from viscera.errors import SettingError, WeightsError
from viscera.io.atomic import sha256
from viscera.io.json_codec import from_json
from viscera.json_text import load_json, read_text
from viscera.networks.find_weights import CHOICE_FORMAT, FOLDS, find_weights, fold_folder, is_choice

BEST = "best.safetensors"


@dataclass(frozen=True)
class Members:
    """Networks that answer together.

    Attributes:
        where: What the user named.
        files: Their weights.
        names: Of each, for people and for JSON: its run's folder, without those above it.
        postprocessing: What tidies their labels; None: what their recipe says.
    """

    where: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]
    postprocessing: Postprocessing | None = None


@dataclass(frozen=True)
class ChosenMember:
    """A network of a choice.

    Attributes:
        name: Its run's folder, for people.
        weights: Its file's path, from the folder of the choice.
        sha256: Of that file.
    """

    name: str
    weights: str
    sha256: str


@dataclass(frozen=True)
class ChosenNetworks:
    """What predicting needs of a choice; what else is in the file tells why (learning/choosing.py).

    Attributes:
        members: The networks.
        postprocessing: What tidies their labels, in place of what their recipe says.
        format: Of the file.
    """

    members: tuple[ChosenMember, ...]
    postprocessing: Postprocessing = field(default_factory=Postprocessing)
    format: str = CHOICE_FORMAT


def find_members(where: Path) -> Members | None:
    """Return the networks that a path means, where it means several, or one with other post-processing; None for all others.

    Raises:
        WeightsError: A fold is not trained yet; a file is damaged, or a network is gone or another one by now.
    """
    if (where / FOLDS).is_file():
        return members_of_run(where)
    return _chosen(where) if is_choice(where) else None


def members_of_run(run: Path) -> Members:
    """Return the folds of a cross-validated run.

    Raises:
        WeightsError: One is not trained yet, or folds.json is damaged.
    """
    folders = [fold_folder(run, number) for number in range(fold_count(run))]
    missing = [folder.name for folder in folders if not (folder / BEST).is_file()]
    if missing:
        raise WeightsError(
            f"{run} is cross-validated, but {', '.join(missing)} {'has' if len(missing) == 1 else 'have'} no weights yet",
            "Go on with it: viscera train RECIPE STORE RUN --folds N --resume. Or take one network alone: --fold K.",
            file=run,
        )
    files = tuple(folder / BEST for folder in folders)
    return Members(run, files, tuple(f"{run.name}/{folder.name}" for folder in folders))


def fold_count(run: Path) -> int:
    """Return how many folds a cross-validated run has.

    Raises:
        WeightsError: Its folds.json is damaged.
    """
    try:
        count = load_json(run / FOLDS)["count"]
        if type(count) is not int or count < 2:
            raise ValueError(f"{count} folds")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{run / FOLDS} is damaged: it does not say how many folds there are",
            "Copy it again, or train anew: --overwrite.",
            file=run / FOLDS,
        ) from error
    return count


def one_fold(run: Path, number: int) -> Path:
    """Return the folder of one fold of a cross-validated run.

    Raises:
        SettingError: The run is not cross-validated, or has no such fold.
    """
    if not (run / FOLDS).is_file():
        raise SettingError(
            f"--fold {number}: {run} is not a cross-validated run (it has no {FOLDS})",
            "Leave --fold out, or give the folder that viscera train --folds wrote.",
        )
    count = fold_count(run)
    if not 0 <= number < count:
        raise SettingError(f"--fold {number}: {run} has the folds 0 to {count - 1}.")
    return fold_folder(run, number)


def chosen_members(names: Sequence[str], files: Sequence[Path], *, beside: Path) -> tuple[ChosenMember, ...]:
    """Return how a choice names weights: by their paths from its own folder, so that both may be moved together.

    Args:
        names: Of each network.
        files: Their weights.
        beside: The choice's file.
    """
    folder = beside.resolve().parent
    return tuple(
        ChosenMember(name, Path(relpath(file.resolve(), folder)).as_posix(), sha256(file))
        for name, file in zip(names, files, strict=True)
    )


def _chosen(where: Path) -> Members:
    """Read what `viscera choose` wrote."""
    text = read_text(where, error=WeightsError, remedy="Choose again.")
    found = from_json(
        ChosenNetworks, text, what=f"{where} is damaged", remedy="Choose again: viscera choose.", error=WeightsError
    )
    if not found.members:
        raise WeightsError(f"{where} names no networks", "Choose again: viscera choose.", file=where)
    files = []
    for member in found.members:
        place = where.resolve().parent / member.weights
        if not place.exists():
            raise WeightsError(
                f"{where} names {member.weights}, which is not there",
                "Keep the file and its runs together, as they were when it was written; or choose again.",
                file=where,
            )
        file = find_weights(place)
        if sha256(file) != member.sha256:
            raise WeightsError(
                f"{member.weights} is not the network that {where.name} chose: it was trained on, or trained anew",
                "Choose again: viscera choose.",
                file=where,
            )
        files.append(file)
    return Members(where, tuple(files), tuple(member.name for member in found.members), found.postprocessing)
