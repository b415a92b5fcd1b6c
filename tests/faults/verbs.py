"""The verbs that write, each with a small place to work in, and what its results are."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from makers import call
from viscera.config import PartialLoss, Recipe, ResizedSlices, SliceInference, Training, UNetShape
from viscera.config.recipe_json import recipe_to_json
from viscera.io import nifti
from viscera.learning.training import train
from viscera.preparation.store import open_store
from viscera.volume import Volume

RECIPE = Recipe(
    name="tiny",
    label_space="abdomenct1k",
    preparation=ResizedSlices(size=(16, 16)),
    network=UNetShape(widths=(4, 8)),
    training=Training(epochs=2, visits_per_slice=0.5, batch_size=4, precision="32-true"),
    inference=SliceInference(batch_size=4),
)


@dataclass(frozen=True)
class Verb:
    """A command that writes.

    Attributes:
        name: Of the test.
        command: From an undisturbed place.
        results: Files (patterns) that must end as those of an undisturbed run.
        again: What the second run says more: --resume or --overwrite.
        slow: Whether it starts processes: each operation of the sweep meets one cause only, in turn.
        most: Of its operations, as many as the sweep tries.
    """

    name: str
    command: str
    results: tuple[str, ...]
    again: str = ""
    slow: bool = False
    most: int = 1000


VERBS = [
    Verb("train", "train recipe.json store new", ("new/*.safetensors", "new/log.*"), "--resume", most=24),
    Verb("predict", "predict scans/a.nii.gz out/a.nii.gz --weights run --statistics", ("out/*",)),
    Verb("folder", "predict scans out --weights run", ("out/*",)),
    Verb("evaluate", "evaluate abdomenct1k=data found --json new.json", ("new.json",), "--overwrite"),
    Verb("collect", "collect found --out new.csv --html new.html", ("new.csv", "new.html"), "--overwrite"),
    Verb("report", "report run --out new.html", ("new.html",), "--overwrite"),
    Verb("page", "view scans/a.nii.gz found/Case_00001.nii.gz --html new.html", ("new.html",), "--overwrite"),
    Verb("picture", "view scans/a.nii.gz found/Case_00001.nii.gz --png new.png", ("new.png",), "--overwrite", most=16),
    Verb("export", "export run new", ("new/*.onnx",), "--overwrite"),
    Verb("pseudolabel", "pseudolabel run run1 store", ("store/cases/*/pseudo.*", "store/*.csv")),
    Verb(
        "bench", "bench --weights run --rounds 1 --shape 8 16 16 --json new.json", (), "--overwrite", slow=True, most=3
    ),
    Verb("synth", "synth new --cases 2 --shape 16 32 32 --jobs 1", ("new/**/*",), slow=True, most=36),
    Verb(
        "prepare",
        "prepare new --data abdomenct1k=data --recipe recipe.json --jobs 1",
        ("new/cases/*/*", "new/*.json"),
        slow=True,
        most=36,
    ),
    Verb(
        "study",
        "study recipe.json store new --grid training.seed=0 --jobs 1",
        ("new/study.json", "new/table.csv", "new/cells/*/run/*.safetensors"),
        slow=True,
        most=6,
    ),
]


def furnish(place: Path, store: Path) -> Path:
    """Fill a folder with all that the verbs need."""
    (place / "recipe.json").write_text(recipe_to_json(RECIPE))
    shutil.copytree(store, place / "store")
    for number, name in enumerate(("run", "run1")):
        training = replace(RECIPE.training, seed=number, epochs=1)
        recipe = replace(RECIPE, loss=PartialLoss(), training=training)  # as teachers of pseudolabel must be
        train(recipe, open_store(place / "store"), place / name)
    affine = np.diag([5.0, -2.0, -2.0, 1.0])[[2, 1, 0, 3]]
    generator = np.random.default_rng(0)
    labels = np.zeros((8, 16, 16), np.uint8)
    labels[2:6, 3:9, 2:7], labels[2:6, 8:13, 10:14] = 1, 3
    for number, name in enumerate("ab", start=1):
        hu = np.choose(labels, [-100, 80, 0, 250]) + generator.normal(0, 20, labels.shape)
        scan = Volume(hu.astype(np.int16), affine)
        nifti.write(place / f"scans/{name}.nii.gz", scan)
        nifti.write(place / f"data/Image/Case_0000{number}_0000.nii.gz", scan)
        nifti.write(place / f"data/Mask/Case_0000{number}.nii.gz", Volume(labels, affine))
    assert call(f"predict {place}/data/Image {place}/found --weights {place}/run")[0] == 0
    return place


VOLATILE = re.compile(r"(second|date|memory|efficiency|stamps|path|_mib|created|time|^plan$)")


def steady(value: object) -> object:
    """Return JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if not VOLATILE.search(key)}
    return [steady(item) for item in value] if isinstance(value, list) else value


def content(file: Path) -> object:
    """Return what a file holds; raise where it is not whole."""
    name = file.name
    if name.endswith(".safetensors"):
        if "state" in name:
            return sorted(load_file(file))
        return {key: array.tolist() for key, array in load_file(file).items()}
    if name.endswith(".json"):
        return steady(json.loads(file.read_text()))
    if name.endswith(".jsonl"):
        return [steady(json.loads(line)) for line in file.read_text().splitlines()]
    if name.endswith(".csv"):
        rows = [line.split(",") for line in file.read_text().splitlines()]
        kept = [column for column, title in enumerate(rows[0]) if not VOLATILE.search(title)]
        return [[row[column] for column in kept] for row in rows]
    if name.endswith(".html"):
        text = file.read_text()
        assert text.rstrip().endswith("</html>")
        return len(text) > 1000
    if name.endswith((".nii.gz", ".nii")):
        return nifti.read(file).voxels.tobytes()
    return file.read_bytes()


def results(place: Path, verb: Verb) -> dict[str, object]:
    files = {file for pattern in verb.results for file in place.glob(pattern) if file.is_file()}
    return {str(file.relative_to(place)): content(file) for file in sorted(files) if file.name[0] != "."}


def leftovers(place: Path) -> list[str]:
    """List what is half-written."""
    kept = (".lock", ".unfinished.json", ".read.jsonl")  # the last: what viscera collect has read before
    return [str(file.relative_to(place)) for file in place.rglob(".*") if not file.name.endswith(kept)]


def whole(place: Path) -> None:
    """Raise where a file that bears its final name is not whole."""
    for file in place.rglob("*"):
        if file.is_file() and not any(part[0] == "." for part in file.relative_to(place).parts):
            content(file)


Runner = Callable[[str], tuple[int, str]]
