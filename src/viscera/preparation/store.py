"""Case: a prepared scan with its labels; the store of prepared cases on disk.

    STORE/store.json                    label space and preparation, the same for all cases
    STORE/cases/<data set>__<case>/     image.npy, labels.npy, known.npy, case.json
                                        pseudo.npy, pseudo.json where a teacher filled in what is not annotated
    STORE/splits.json                   which cases are for training, validation and test
    STORE/datasets.json                 which data sets it holds, each told by its content
    STORE/problems.json                 what could not be prepared

A case's folder is written under another name and renamed when complete, so one that stands there is whole. Cases are
made in case.py and divided among the splits in splits.py; learning/sampling/ draws from them.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tokenize import TokenError
from typing import Annotated, Literal, get_args

import numpy as np
from jaxtyping import Bool, Int16, Shaped, UInt8

from viscera.config import Preparation
from viscera.errors import StoreError
from viscera.io.atomic import hidden_name, sync_folder, write_json, writing
from viscera.io.json_codec import Read, from_json
from viscera.json_text import load_json, load_text
from viscera.labels import LabelSpace
from viscera.preparation.geometry import Geometry, geometry_from_json, geometry_to_json

FORMAT = 1
"""Of the store. Raise it whenever an older store would be misread."""

UNSURE = 255
"""In pseudo-labels: may be an organ of ``Case.pseudo_annotated`` or not."""

Split = Literal["training", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Case:
    """One prepared scan. The arrays are read from disk as they are used.

    Attributes:
        name: Unique in the store: <data set>__<case>.
        dataset: Where it comes from.
        patient: Whom it shows; unique in the data set.
        image: int16 HU; axial, feet to head, front to back, the patient's right to left.
        labels: Index in the store's label space; None without labels. 0 is background, or an organ not annotated.
        known: False where the label may be anything; None where all voxels are known.
        annotated: Organs of the label space that are annotated, absent ones included.
        geometry: Where on the scanner's grid it lies.
        pseudo: Index of an organ of ``pseudo_annotated`` where the teachers agree on it, UNSURE where they do not, 0
            elsewhere and wherever ``labels`` shows an organ; None without pseudo-labels.
        pseudo_annotated: Organs that are not annotated, but filled in by teachers (pseudolabels/).
    """

    name: str
    dataset: str
    patient: str
    image: Int16[np.ndarray, "z y x"]
    labels: UInt8[np.ndarray, "z y x"] | None
    known: Bool[np.ndarray, "z y x"] | None
    annotated: tuple[str, ...]
    geometry: Geometry
    pseudo: UInt8[np.ndarray, "z y x"] | None = None
    pseudo_annotated: tuple[str, ...] = ()

    @property
    def truth(self) -> UInt8[np.ndarray, "z y x"]:
        """The labels; where there are none all 0, which takes no memory: no organ is annotated."""
        return np.broadcast_to(np.uint8(0), self.image.shape) if self.labels is None else self.labels


@dataclass(frozen=True)
class SourceFacts:
    """The files that a case was made from, as they were then.

    Attributes:
        image: File, relative to the data set's folder.
        labels: Files likewise; more than one where each organ has its mask.
        image_sha256: Of the image file.
        labels_sha256: Of each label file.
        stamps: Of image and labels: bytes, mtime and ctime in ns. A file with another stamp is compared by its content.
        organs: What each value of the labels means.
        annotated: Organs annotated, by the data set's names.
        unknown: Label values to be ignored.
    """

    image: str
    labels: tuple[str, ...]
    image_sha256: str
    labels_sha256: tuple[str, ...]
    stamps: tuple[tuple[int, ...], ...]
    organs: tuple[tuple[int, str], ...]
    annotated: tuple[str, ...]
    unknown: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Facts:
    """What case.json says.

    Attributes:
        name: The case's.
        dataset: The case's.
        patient: The case's.
        annotated: The case's.
        notes: What the user should know: organs merged, lost, annotated but absent.
        source: The files it was made from.
        geometry: The case's.
        image_sha256: Of the prepared voxels; equal for one scan in files compressed or oriented otherwise.
        hu: {minimum, maximum, mean, p10, p90} of the prepared image.
        voxels: {class: voxels of the prepared labels that are known}, background first; empty without labels.
    """

    name: str
    dataset: str
    patient: str
    annotated: tuple[str, ...]
    notes: tuple[str, ...]
    source: SourceFacts
    geometry: Annotated[Geometry, Read(geometry_from_json)]
    image_sha256: str
    hu: dict[str, float]
    voxels: dict[str, int]


@dataclass(frozen=True)
class _Settings:
    """What store.json says that holds for all cases."""

    label_space: LabelSpace
    preparation: Preparation


@dataclass(frozen=True, eq=False)
class Store:
    """Prepared cases on disk.

    Attributes:
        path: The folder.
        space: What the labels mean.
        preparation: How every case was prepared.
        splits: {case: split}; cases without annotated organs are in none.
    """

    path: Path
    space: LabelSpace
    preparation: Preparation
    splits: Mapping[str, Split] = field(default_factory=dict)

    def names(self, split: Split | None = None) -> list[str]:
        """Return the names of all cases, or of a split's, sorted.

        Raises:
            StoreError: The splits are not written, or name a case that is gone.
        """
        folder = self.path / "cases"
        there = sorted(child.name for child in folder.iterdir() if child.name[0] != ".") if folder.is_dir() else []
        if split is None:
            return there
        if not (self.path / "splits.json").is_file():
            raise StoreError(
                f"{self.path} is not divided into splits: preparing was interrupted",
                "Run viscera prepare again.",
                file=self.path,
            )
        gone = sorted(set(self.splits) - set(there))
        if gone:
            raise StoreError(
                f"{self.path}: case {gone[0]} is gone", "Run viscera prepare again with its data set.", file=self.path
            )
        return [name for name in there if self.splits.get(name) == split]

    def facts(self, name: str) -> Facts:
        """Read a case's case.json.

        Raises:
            StoreError: No such case, or its file is damaged.
        """
        file = self.path / "cases" / name / "case.json"
        try:
            return facts_from_json(load_text(file), what=f"case '{name}' in {self.path}: {file.name} is damaged")
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.path} has no case '{name}' with a {file.name}", f"{PREPARE_AGAIN}", file=self.path
            ) from error
        except ValueError as error:
            raise StoreError(f"case '{name}' in {self.path}: {file.name} is damaged", f"{PREPARE_AGAIN}") from error

    def case(self, name: str) -> Case:
        """Open a case; its arrays are memory-mapped, read-only.

        Raises:
            StoreError: No such case, or it is damaged.
        """
        facts, folder = self.facts(name), self.path / "cases" / name
        shape = facts.geometry.prepared_shape
        labelled = facts.voxels or (folder / "labels.npy").exists()
        image = _map_array(folder / "image.npy", np.int16, shape)
        labels = _map_array(folder / "labels.npy", np.uint8, shape) if labelled else None
        known = _map_array(folder / "known.npy", np.bool_, shape) if (folder / "known.npy").exists() else None
        pseudo, filled = None, _pseudo_annotated(folder)
        if filled:
            pseudo = _map_array(folder / "pseudo.npy", np.uint8, shape)
        annotated, geometry = facts.annotated, facts.geometry
        return Case(name, facts.dataset, facts.patient, image, labels, known, annotated, geometry, pseudo, filled)

    def voxels(self, split: Split) -> list[int]:
        """Count the known voxels of each class, background first, over a split's cases that annotate it."""
        counts = [0] * len(self.space.classes)
        for name in self.names(split):
            facts = self.facts(name)
            for index, organ in enumerate(self.space.classes):
                if index == 0 or organ in facts.annotated:
                    counts[index] += facts.voxels.get(organ, 0)
        return counts

    def require(self, *, space: LabelSpace, preparation: Preparation) -> None:
        """Raise StoreError unless the store was made for this label space and preparation."""
        if space.organs != self.space.organs:
            raise StoreError(
                f"{self.path} was prepared for label space '{self.space.name}' ({', '.join(self.space.organs)}), "
                f"not '{space.name}' ({', '.join(space.organs)})",
                "Prepare another store, or change the recipe's label_space.",
                file=self.path,
            )
        if preparation != self.preparation:
            raise StoreError(
                f"{self.path} was prepared with {self.preparation.described}, not {preparation.described}",
                "Prepare another store, or change the recipe's preparation.",
                file=self.path,
            )


PREPARE_AGAIN = "Delete the case's folder and run viscera prepare again."


def open_store(path: Path) -> Store:
    """Open a prepared store.

    Raises:
        StoreError: There is none, or it is damaged or of another format.
    """
    file = path / "store.json"
    try:
        there = file.is_file()
    except (OSError, ValueError):  # what no system takes for a name
        there = False
    if not there:
        raise StoreError(
            f"{path} is not a prepared store (it has no store.json)",
            f"Make one: viscera prepare {path} --data LAYOUT=DIR.",
            file=path,
        )
    what, remedy = f"{path}: store.json or splits.json is damaged", "Prepare the store anew in another folder."
    try:
        found = load_json(file)
        if found["format"] != FORMAT:
            raise StoreError(
                f"{path} has store format {found['format']} (viscera {found['viscera']}); this viscera reads {FORMAT}",
                "Prepare it anew in another folder.",
                file=path,
            )
        # those without a kind are from before there was another one
        settings = {**found, "preparation": {"kind": "resized", **found["preparation"]}}
        made = from_json(_Settings, settings, what=what, remedy=remedy, error=StoreError)
        splits = path / "splits.json"
        cases = load_json(splits)["cases"] if splits.is_file() else {}
        _require_splits(splits, cases)
        return Store(path, made.label_space, made.preparation, cases)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(what, remedy, file=path) from error


def _require_splits(file: Path, cases: Mapping[str, str]) -> None:
    """Raise StoreError for a word that is no split; its cases would be left out of all."""
    for case, word in cases.items():
        if word not in get_args(Split):
            remedy = f"Write {', '.join(get_args(Split))}, or give viscera prepare the file by --splits."
            raise StoreError(f"{file}: case '{case}' is in {word!r}, which is not a split", remedy, file=file)


def create_store(path: Path, *, space: LabelSpace, preparation: Preparation) -> Store:
    """Make an empty store, or open the one that stands there.

    Raises:
        StoreError: The folder holds something else, or a store made with other settings.
    """
    if not (path / "store.json").is_file():
        if path.exists() and not path.is_dir():
            raise StoreError(f"{path} is a file", "Give a folder for the store.", file=path)
        if path.is_dir() and any(child.name[0] != "." for child in path.iterdir()):
            raise StoreError(
                f"{path} holds files but is not a prepared store", "Give a new or an empty folder.", file=path
            )
        written = {
            "format": FORMAT,
            "viscera": version("viscera"),
            "label_space": {"name": space.name, "organs": list(space.organs)},
            "preparation": asdict(preparation),
        }
        write_json(path / "store.json", written)
    store = open_store(path)
    store.require(space=space, preparation=preparation)
    with writing(path / "cases"):
        (path / "cases").mkdir(exist_ok=True)
    return store


def write_case(store: Path, case: Case, facts: Facts) -> None:
    """Write a case whole or not at all, in place of one of the same name."""
    final = store / "cases" / case.name
    part = final.with_name(hidden_name(case.name))
    arrays = {"image.npy": case.image, "labels.npy": case.labels, "known.npy": case.known}
    with writing(final):
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir()
            for file_name, array in arrays.items():
                if array is not None:
                    with (part / file_name).open("wb") as file:
                        np.save(file, array)
                        file.flush()
                        os.fsync(file.fileno())
            write_json(part / "case.json", facts_to_json(facts))
            remove_case(store, case.name)
            part.rename(final)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        sync_folder(final.parent)


def remove_case(store: Path, name: str) -> None:
    """Remove a case, if it is there, so that no half of it is ever seen."""
    whole, old = (store / "cases" / one for one in (name, hidden_name(f"old.{name}")))
    if whole.exists():
        with writing(whole):
            shutil.rmtree(old, ignore_errors=True)
            whole.rename(old)
        shutil.rmtree(old, ignore_errors=True)  # what is left of it is removed by the next `remove_leftovers`


def remove_leftovers(store: Path) -> None:
    """Remove what killed runs left half written."""
    for child in [*store.glob(".*.json"), *(store / "cases").glob(".*")]:
        if child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        else:
            child.unlink(missing_ok=True)


def facts_to_json(facts: Facts) -> dict[str, object]:
    """Return what case.json holds."""
    return vars(facts) | {"source": asdict(facts.source), "geometry": geometry_to_json(facts.geometry)}


def facts_from_json(found: str | Mapping[str, object], *, what: str) -> Facts:
    """Read what ``facts_to_json`` gave.

    Args:
        found: Text or object.
        what: What to say where it is damaged.

    Raises:
        StoreError: It is.
    """
    return from_json(Facts, found, what=what, remedy=PREPARE_AGAIN, error=StoreError)


def _pseudo_annotated(folder: Path) -> tuple[str, ...]:
    """Return the organs that pseudo.json says are filled in."""
    file = folder / "pseudo.json"
    if not file.is_file():
        return ()
    try:
        return tuple(str(organ) for organ in load_json(file)["organs"])
    except (ValueError, KeyError, TypeError) as error:
        remedy = "Delete it and run viscera pseudolabel again."
        raise StoreError(f"case '{folder.name}': pseudo.json is damaged", remedy) from error


def _map_array(file: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> Shaped[np.ndarray, "z y x"]:
    where = f"case '{file.parent.name}': {file.name}"
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise StoreError(f"{where} is missing", PREPARE_AGAIN) from error
    except (ValueError, EOFError, OSError, SyntaxError, TokenError, MemoryError) as error:
        # numpy reads the array's type and shape as Python's literals, for which it has Python's own errors
        raise StoreError(f"{where} is damaged or cut off", PREPARE_AGAIN) from error
    if array.dtype != dtype or array.shape != shape:
        found = f"{array.dtype} {array.shape}"
        raise StoreError(f"{where} holds {found}, expected {np.dtype(dtype)} {shape}", PREPARE_AGAIN)
    return array
