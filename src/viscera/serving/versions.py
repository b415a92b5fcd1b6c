"""The versions of a model: which one serves, which came before, and by how much each beat the one before it.

    STUDIES/models/NAME/versions.json     which version serves; of each: its file and hash, and the comparison that it won
    STUDIES/models/NAME/002.safetensors   version 2; version 1 are the weights that the server was started with
    STUDIES/models/NAME/held_back.json    which corrections are for comparing only: what is held back is never trained on
    STUDIES/models/NAME/work              what a training in the background left, from which it goes on (tuning.py)

A version that is written stays; going back changes only which one serves.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from hashlib import sha256 as hash_of
from pathlib import Path

from viscera.config.ranges import STRICT
from viscera.errors import SettingError, WeightsError
from viscera.inference.model import Model
from viscera.io.atomic import replacing, sha256, write_json
from viscera.io.json_codec import from_json
from viscera.json_text import read_text
from viscera.networks.cards import as_shipped, find_shipped
from viscera.networks.find_weights import find_weights, is_export
from viscera.serving.datastore import NotThereError
from viscera.serving.names import safe_name

FOLDER, FILE, HELD_BACK, WORK = "models", "versions.json", "held_back.json", "work"
FORMAT = 1
"""Of versions.json. Others are refused."""
HELD_BACK_OF = 3
"""One of so many corrections is held back."""
LEAST_TRAINING = 2
"""Corrections to train on; with the one that is held back, three."""


@dataclass(frozen=True)
class Comparison:
    """A new version against the one that served, on corrections that neither was trained on here.

    Attributes:
        old: Version.
        old_dice: Its mean over the cases, of each the mean over the organs that its correction names.
        new_dice: The same of the new one.
        difference: Paired: the mean over the cases of new minus old.
        low: Lower end of the 95 % interval (bootstrap over cases); None with one case.
        high: Upper end.
        cases: How many corrections were held back.
        case_dice: (old, new) of each, in no order that tells which is which.
        organs: {organ: (old, new)}, means over the cases.
        agreement: {organ: Dice of new with old} of organs that no correction names: what must not be forgotten.
        better: Whether the new one serves from now on.
        why: In words.
    """

    __pydantic_config__ = STRICT

    old: int
    old_dice: float
    new_dice: float
    difference: float
    low: float | None
    high: float | None
    cases: int
    case_dice: tuple[tuple[float, float], ...]
    organs: dict[str, tuple[float, float]]
    agreement: dict[str, float]
    better: bool
    why: str


@dataclass(frozen=True)
class HeldBack:
    """What held_back.json holds: {scan: whether it is held back}."""

    __pydantic_config__ = STRICT

    held_back: dict[str, bool]


@dataclass(frozen=True)
class Version:
    """A version that was trained here.

    Attributes:
        version: From 2.
        file: Its name in the folder.
        sha256: Of that file.
        date: When it was written.
        training_cases: Corrections that it was trained on.
        comparison: Which it won.
    """

    __pydantic_config__ = STRICT

    version: int
    file: str
    sha256: str
    date: str
    training_cases: int
    comparison: Comparison


@dataclass(frozen=True)
class History:
    """What versions.json holds.

    Attributes:
        format: Of the file.
        first_sha256: Of the weights that are version 1.
        serving: Which version serves.
        versions: That were trained here, rising.
        lost: Comparisons that a new version did not win; it was not kept.
    """

    __pydantic_config__ = STRICT

    format: int
    first_sha256: str
    serving: int = 1
    versions: tuple[Version, ...] = ()
    lost: tuple[Comparison, ...] = ()

    def to_info(self) -> dict[str, object]:
        """Return what /info/ says of it."""
        return {
            "version": self.serving,
            "versions": [
                {"version": 1},
                *({"version": one.version, "date": one.date, **asdict(one.comparison)} for one in self.versions),
            ],
            "not_better": [asdict(one) for one in self.lost],
        }


class Versions:
    """The versions of all models that can learn, in the studies' folder."""

    def __init__(self, studies: Path, first: Mapping[str, Path], usual: Mapping[str, Sequence[str]]) -> None:
        """Begin.

        Args:
            studies: STUDIES.
            first: {model: its weights file}, version 1 of each.
            usual: {model: organs that it gives where none is asked for}; () for all.
        """
        self.folder = studies.absolute() / FOLDER
        self.first = dict(first)
        self.usual = {name: tuple(organs) for name, organs in usual.items()}
        self._first_sha256 = {name: sha256(file) for name, file in first.items()}
        self._lock = threading.Lock()

    def place(self, name: str) -> Path:
        """Return the folder of a model; its name was given by whoever started the server."""
        return self.folder / safe_name(name, what="model")

    def history(self, name: str) -> History:
        """Return the versions of a model.

        Raises:
            WeightsError: versions.json is damaged, of another format, or belongs to other weights.
        """
        file, mine = self.place(name) / FILE, self._first_sha256[name]
        if not file.is_file():
            return History(FORMAT, mine)
        remedy = f"Correct it, or move the folder {file.parent} away: then version 1 serves."
        text = read_text(file, error=WeightsError, remedy=remedy)
        what = f"{file} is not what viscera serve wrote"
        found = from_json(History, text, what=what, remedy=remedy, error=WeightsError)
        if found.format != FORMAT or found.first_sha256 != mine:
            raise WeightsError(
                f"{file} is of another format, or of other weights than are offered as '{name}' now", remedy
            )
        return found

    def file(self, name: str, version: int | None = None) -> Path:
        """Return the weights of a version, the one that serves where none is named.

        Raises:
            NotThereError: There is no such version.
            WeightsError: Its file is another than was written.
        """
        history = self.history(name)
        version = history.serving if version is None else version
        if version == 1:
            return self.first[name]
        one = next((one for one in history.versions if one.version == version), None)
        if one is None:
            known = ", ".join(str(one.version) for one in history.versions)
            raise NotThereError(
                f"there is no version {version} of the model", f"There are 1{', ' if known else ''}{known}."
            )
        file = self.place(name) / safe_name(one.file, what="version")
        if not file.is_file() or sha256(file) != one.sha256:
            raise WeightsError(f"{file} is gone, or another than was written", "Put it back, or go back to version 1.")
        return file

    def split(self, name: str, corrected: Sequence[str]) -> tuple[list[str], list[str]]:
        """Divide corrections into those to train on and those held back; write down what is new, so that it stays so.

        Args:
            name: Of the model.
            corrected: The scans' ids.

        Returns:
            Both sorted.

        Raises:
            SettingError: There are too few.
        """
        least = LEAST_TRAINING + 1
        if len(corrected) < least:
            raise SettingError(
                f"{len(corrected)} corrected scans are too few to learn from",
                f"Submit final labels of at least {least}: two to train on, one to compare on.",
            )
        place = self.place(name)
        file = place / HELD_BACK
        with self._lock:
            known = _sides(file) if file.is_file() else {}
            sides = {scan: side for scan, side in known.items() if scan in corrected}
            held = sum(sides.values())
            for scan in sorted(set(corrected) - set(known), key=lambda one: hash_of(one.encode()).digest()):
                sides[scan] = held < (len(sides) + 1) // HELD_BACK_OF or (held == 0 and len(sides) >= LEAST_TRAINING)
                held += sides[scan]
            if known | sides != known:
                write_json(file, {"held_back": known | sides})
        training = sorted(scan for scan, is_held in sides.items() if not is_held)
        back = sorted(scan for scan, is_held in sides.items() if is_held)
        if len(training) < LEAST_TRAINING or not back:
            raise SettingError(
                f"{len(training)} corrections to train on and {len(back)} held back are too few",
                f"Submit more: at least {LEAST_TRAINING} and one are needed.",
            )
        return training, back

    def conclude(self, name: str, weights: Path, comparison: Comparison, *, training_cases: int) -> Version | None:
        """Write down how a new version fared; one that is better is kept, and serves from now on.

        Returns:
            The new version; None where it was not better.
        """
        with self._lock:
            history, place = self.history(name), self.place(name)
            if not comparison.better:
                self._write(name, replace(history, lost=(*history.lost, comparison)))
                return None
            number = max((one.version for one in history.versions), default=1) + 1
            file = place / f"{number:03d}.safetensors"
            with replacing(file, overwrite=False) as part:
                part.write_bytes(weights.read_bytes())
            date = datetime.now().astimezone().isoformat(timespec="seconds")
            new = Version(number, file.name, sha256(file), date, training_cases, comparison)
            write_json(place / f"{number:03d}.json", asdict(new))
            self._write(name, replace(history, serving=number, versions=(*history.versions, new)))
            return new

    def serve(self, name: str, version: int) -> Path:
        """Let another version serve; return its weights.

        Raises:
            NotThereError: There is none.
            WeightsError: Its file is another than was written.
        """
        file = self.file(name, version)
        with self._lock:
            self._write(name, replace(self.history(name), serving=version))
        return file

    def _write(self, name: str, history: History) -> None:
        self.place(name).mkdir(parents=True, exist_ok=True)
        write_json(self.place(name) / FILE, asdict(history))


def first_weights(models: Mapping[str, Model], weights: Sequence[Path]) -> dict[str, Path]:
    """Return {model: weights file} of those that can learn: all but exports, which hold no torch module.

    Args:
        models: From ``load_models``.
        weights: What they were loaded from, the bundled ones left out.
    """
    files = [find_shipped().file]
    for path in weights:
        shipped = as_shipped(path)
        files.append(path if is_export(path) else shipped.file if shipped else find_weights(path))
    return {name: file for name, file in zip(models, files, strict=True) if not is_export(file)}


def _sides(file: Path) -> dict[str, bool]:
    """Return {scan: whether it is held back}.

    Raises:
        WeightsError: The file is damaged: going on could train on what is held back.
    """
    remedy = f"Put it back, or move {file.parent} away to begin anew."
    text = read_text(file, error=WeightsError, remedy=remedy)
    what = f"{file} is not what viscera serve wrote"
    return from_json(HeldBack, text, what=what, remedy=remedy, error=WeightsError).held_back
