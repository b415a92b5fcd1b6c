"""The studies' folder: scans, and the labels that people corrected. Nothing in it is ever replaced.

    STUDIES/NAME.nii.gz                 a scan; its id is NAME
    STUDIES/labels/TAG/NAME/001.nii.gz  labels that a client saved (TAG is "final" where it names none); then 002, 003 ...
    STUDIES/labels/TAG/NAME/001.json    {"labels": {value: name}}, as viscera's other verbs read it
    STUDIES/predictions/NAME.nii.gz     what was segmented in the background, the tag "original"; NAME.json says how sure it is.
                                        `viscera predict STUDIES STUDIES/predictions --statistics` writes the same
    STUDIES/dicom/UID/                  a series' files, for viewers that name scans by Series Instance UID (OHIF)

Scans are found by listing the folder, so a name from the net never becomes a path; names of what is written are checked.
"""

import re
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from viscera.errors import FileError, LabelError, VisceraError
from viscera.inference.jobs import is_own_label_map, own_facts
from viscera.io import nifti
from viscera.io.atomic import replacing, sha256, write_json
from viscera.io.label_values import whole_labels
from viscera.json_text import load_json
from viscera.serving.names import REPLACED, safe_name, title_name
from viscera.volume import Volume, require_same_grid, same_grid, with_voxels

LABELS, PREDICTIONS, DICOM = "labels", "predictions", "dicom"
FINAL, ORIGINAL = "final", "original"
SURE, PER_DOUBT, UNKNOWN = 0.95, 0.1, 0.9
"""Where no Dice was predicted: what a result without doubts counts as, what each doubt takes away, and a scan without a result."""
UID, LONGEST_UID = re.compile(r"[0-9]+(\.[0-9]+)+"), 64
"""Of DICOM (PS3.5, section 9)."""


class NotThereError(VisceraError):
    """What is asked for is not there."""


class TakenError(VisceraError):
    """Something else has that name already."""


class Datastore:
    """A folder of scans and their labels, for several clients at once."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made where it is missing.

        Args:
            folder: STUDIES.

        Raises:
            FileError: It is a file, or cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(
                f"{folder} cannot be used as a folder: {error.strerror}", "Choose another one.", file=folder
            ) from error
        self.folder = folder.absolute()
        self._lock = threading.Lock()
        self._hashes: dict[Path, tuple[tuple[int, int], str]] = {}
        self._doubts: dict[str, int] = {}
        self._handed: dict[str, int] = {}

    def scans(self) -> dict[str, Path]:
        """Return {id: file}, sorted by name; of two files with one id the first."""
        found: dict[str, Path] = {}
        for file in nifti.find_files(self.folder):
            if file.is_file():
                found.setdefault(nifti.stem(file), file)
        return found

    def scan(self, name: str) -> tuple[str, Path]:
        """Return the id and the file of a scan.

        Args:
            name: Its id, its file's name, or the title under which a client added it.

        Raises:
            NotThereError: There is none.
        """
        found = self.scans()
        if name not in found and Path(name).name == name:
            name = nifti.stem(Path(REPLACED.sub("_", name.strip())))
        if name not in found:
            raise NotThereError("there is no scan of that name on the server", "GET /datastore/?output=all lists them.")
        return name, found[name]

    def labels(self, name: str) -> dict[str, Path]:
        """Return {tag: newest label file} of a scan.

        Args:
            name: Its id.
        """
        root, found = self.folder / LABELS, {}
        with suppress(OSError):
            for tag in sorted(root.iterdir()):
                if (tag / name).is_dir() and (files := nifti.find_files(tag / name)):
                    found[tag.name] = files[-1]
        predicted = self.prediction(name)
        if ORIGINAL not in found and predicted.is_file() and is_own_label_map(predicted):
            found[ORIGINAL] = predicted
        return found

    def prediction(self, name: str) -> Path:
        """Return where a scan's label map goes that is made in the background.

        Args:
            name: Its id.
        """
        return self.folder / PREDICTIONS / f"{name}.nii.gz"

    def place(self, name: str) -> tuple[str, Path]:
        """Return the id and the file of a scan; of a series that is named by its UID, "" and its folder.

        Raises:
            NotThereError: There is neither.
        """
        series = self.folder / DICOM / name
        if UID.fullmatch(name) and len(name) <= LONGEST_UID and series.is_dir():
            return "", series
        return self.scan(name)

    def label(self, name: str, tag: str) -> Path:
        """Return the newest label file of a scan with a tag.

        Raises:
            NotThereError: There is none.
        """
        found = self.labels(self.scan(name)[0]).get(tag or FINAL)
        if found is None:
            raise NotThereError("there are no labels of that scan with that tag", "Save some first.")
        return found

    def add_scan(self, name: str, upload: Path) -> str:
        """Take a scan in, unless it is there already; return its id.

        Args:
            name: Its id, with or without .nii.gz.
            upload: A NIfTI file, which is read.

        Raises:
            FileError, GeometryError: The name or the file is not good.
            TakenError: Another scan has that name.
        """
        name = safe_name(nifti.stem(Path(title_name(name, what="scan"))), what="scan")
        sent = nifti.read(upload)
        with self._lock:
            there = self.scans().get(name)
            if there is not None:
                if not _equal(nifti.read(there), sent):
                    raise TakenError(
                        "another scan has that name on the server", "Rename the volume, then send it again."
                    )
                return name
            suffix = ".nii" if upload.name.lower().endswith(".nii") else ".nii.gz"
            with replacing(self.folder / f"{name}{suffix}", overwrite=False) as part:
                part.write_bytes(upload.read_bytes())
        return name

    def save_labels(self, name: str, tag: str, upload: Path, names: Mapping[int, str]) -> Path:
        """Write corrected labels beside those that are there; return the new file.

        Args:
            name: The scan's.
            tag: "" for "final".
            upload: A NIfTI file of labels on the scan's grid.
            names: {value: name}.

        Raises:
            NotThereError: There is no such scan.
            FileError, LabelError, GeometryError: They are no labels of that scan, or of values that nobody named.
        """
        tag = safe_name(tag or FINAL, what="tag")
        name, scan = self.scan(name)
        sent = nifti.read(upload)
        with nifti.open_slabs(scan) as opened:
            grid = Volume(np.broadcast_to(np.uint8(0), opened.shape), opened.affine, opened.header)
        require_same_grid(grid, sent, where="the label map")
        values, _ = whole_labels(sent.voxels, where="the label map")
        unnamed = [int(value) for value in np.unique(values) if value and int(value) not in names]
        if unnamed:
            raise LabelError(
                f"the label map holds {', '.join(map(str, unnamed[:9]))}, which label_info does not name",
                "Save it again from 3D Slicer.",
            )
        with self._lock:
            folder = self.folder / LABELS / tag / name
            last = max((int(file.name[:3]) for file in folder.glob("[0-9][0-9][0-9].nii.gz")), default=0)
            if last == 999:
                raise FileError("there are 999 versions of these labels", "Move the old ones elsewhere.")
            new = folder / f"{last + 1:03d}.nii.gz"
            write_json(
                new.with_name(f"{last + 1:03d}.json"), {"labels": {str(value): one for value, one in names.items()}}
            )
            nifti.write(new, with_voxels(grid, values.astype(np.uint8)))
        return new

    def note_doubts(self, name: str, count: int) -> None:
        """Remember how much spoke against the result of a scan, for the order of samples."""
        with self._lock:
            self._doubts[name] = count

    def next_scan(self, strategy: str) -> tuple[str, Path] | None:
        """Return the scan that should be looked at next, of those without final labels; None: there are none left.

        One that was handed out is handed out again only after all others, so that two people do not get the same.

        Args:
            strategy: "least_sure", "random" or "first".
        """
        found = {name: file for name, file in self.scans().items() if FINAL not in self.labels(name)}
        if not found:
            return None
        ranks = dict.fromkeys(found, 0.0)
        if strategy == "least_sure":
            ranks = {name: self._rank(name) for name in found}
        elif strategy == "random":
            ranks = {name: secrets.randbits(53) for name in found}
        with self._lock:
            name = min(found, key=lambda one: (self._handed.get(one, 0), ranks[one], one))
            self._handed[name] = self._handed.get(name, 0) + 1
        return name, found[name]

    def _rank(self, name: str) -> float:
        """Return less for what is less sure: the mean predicted Dice; where none was predicted, by the doubts."""
        facts = own_facts(self.folder / PREDICTIONS / f"{name}.json")
        dice = predicted_dice(facts)
        if dice is not None:
            return dice
        count = doubts_of(facts)
        if count is None:
            count = self._doubts.get(name)
        return UNKNOWN if count is None else SURE - PER_DOUBT * count

    def checksum(self, file: Path) -> str:
        """Return a file's hash as Slicer takes it: it keeps downloads by name, and would show an old scan without it."""
        stat = file.stat()
        key = (stat.st_mtime_ns, stat.st_size)
        known = self._hashes.get(file)
        if known is None or known[0] != key:
            known = self._hashes[file] = (key, sha256(file))
        return f"SHA256:{known[1]}"

    def status(self) -> dict[str, object]:
        """Return how much there is and how much of it is done."""
        found = self.scans()
        tags = [tag for name in found for tag in self.labels(name)]
        return {
            "total": len(found),
            "completed": tags.count(FINAL),
            "label_tags": {tag: tags.count(tag) for tag in sorted(set(tags))},
            "train": [],
        }

    def listing(self) -> dict[str, object]:
        """Return all scans and their labels, without any path."""
        objects = {}
        for name, file in self.scans().items():
            labels = {}
            for tag, label in self.labels(name).items():
                labels[tag] = {
                    "ext": ".nii.gz",
                    "info": {"params": {"label_names": names_of(label)}, "version": version_of(label)},
                }
            objects[name] = {"image": {"ext": file.name[len(name) :], "info": {"name": file.name}}, "labels": labels}
        return {"name": "viscera", "description": "", "objects": objects}

    def pairs(self) -> list[dict[str, str]]:
        """Return the ids of scans with final labels."""
        return [{"image": name, "label": name} for name in self.scans() if FINAL in self.labels(name)]


def version_of(labels: Path) -> str:
    """Return the version of a saved label file, from 001; "" of one that was made in the background."""
    return labels.name[:3] if labels.parent.name != PREDICTIONS else ""


def names_of(labels: Path) -> dict[str, int]:
    """Return {name: value} of a saved label file; {} where its JSON is missing or damaged."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        return {
            str(name): int(value)
            for value, name in load_json(labels.with_name(f"{nifti.stem(labels)}.json"))["labels"].items()
        }
    return {}


def doubts_of(facts: Mapping[str, Any] | None) -> int | None:
    """Return how many signs speak against a result of viscera predict, a scan's counting twice; None where none is known.

    Args:
        facts: From ``own_facts``.
    """
    if facts is None:
        return None
    with suppress(KeyError, TypeError, AttributeError):
        trust = facts["trust"]
        organs = sum(any(sign["kind"] != "border" for sign in signs) for signs in trust["organs"].values())
        return 2 * len(trust["scan"]) + organs
    doubts = facts.get("doubts")
    return 2 * len(doubts) if isinstance(doubts, list) else None


def predicted_dice(facts: Mapping[str, Any] | None) -> float | None:
    """Return the mean of the Dice that the organs of a result probably have; None where none was predicted.

    Args:
        facts: From ``own_facts``.
    """
    with suppress(KeyError, TypeError, AttributeError, ZeroDivisionError):
        known = [one["predicted_dice"] for one in (facts or {})["statistics"].values()]
        numbers = [float(dice) for dice in known if isinstance(dice, int | float) and 0 <= dice <= 1]
        return sum(numbers) / len(numbers)
    return None


def _equal(one: Volume, other: Volume) -> bool:
    return same_grid(one, other) and np.array_equal(one.voxels, other.voxels)
