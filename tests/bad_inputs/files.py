"""What a bad input is, and small files that are wrong in one way each, written into the present folder."""

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from safetensors.numpy import save_file

SHAPE = (16, 16, 8)
"""Voxels (x, y, z)."""
AFFINE = np.diag([-20.0, -20.0, 5.0, 1.0])
RECIPE = {
    "name": "tiny",
    "label_space": "abdomenct1k",
    "preparation": {"size": [16, 16]},
    "network": {"widths": [4, 8]},
    "training": {"epochs": 1, "visits_per_slice": 1, "batch_size": 4, "precision": "32-true"},
}
PARTIAL = RECIPE | {"loss": {"kind": "partial"}}
"""For ``mixed``, whose data sets annotate different organs."""
VOLUME = {
    "name": "tiny3d",
    "label_space": "abdomenct1k",
    "preparation": {"kind": "volumes", "spacing_mm": [5, 20, 20], "margin_mm": 0},
    "intensity": {"kind": "foreground"},
    "network": {"kind": "plain3d", "widths": [4, 8]},
    "loss": {"kind": "partial", "alpha": 0},
    "sampling": {"kind": "patches", "size": [8, 8, 8]},
    "augmentation": {"kind": "volume"},
    "training": {"epochs": 1, "visits_per_slice": 1, "batch_size": 2, "precision": "32-true"},
    "inference": {"kind": "windows"},
}
"""In 3D."""
PICKLE = b"PK\x03\x04" + b"archive/data.pkl" * 20
"""How a file of torch.save begins."""
NAMES = {"labels": {"1": "liver", "2": "kidney", "3": "spleen", "4": "pancreas"}}


@dataclass(frozen=True)
class BadInput:
    """One bad input.

    Attributes:
        title: What is wrong.
        command: The command line after `viscera`, run in a folder of its own.
        message: A regular expression that the output must match.
        files: Writes the bad files into the present folder, beside those of ``make_base``.
        exit_code: Expected.
        survives: A file that must stand afterwards: that of a good case.
    """

    title: str
    command: str
    message: str
    files: Callable[[], object] = lambda: None
    exit_code: int = 2
    survives: str = ""


def hu(seed: int = 0) -> np.ndarray:
    """Return a body in air, with noise, as (x, y, z)."""
    body = np.full(SHAPE, -1000.0)
    body[2:14, 2:14] = 40
    return (body + np.random.default_rng(seed).normal(0, 15, SHAPE)).astype(np.int16)


def organs(liver: int = 1, spleen: int = 3) -> np.ndarray:
    """Return labels of four organs, as (x, y, z)."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:8, 4:10, 2:7], labels[10:13, 8:12, 3:6] = liver, spleen
    labels[9:11, 3:6, 3:6], labels[8:9, 8:12, 3:6] = 2, 4
    return labels


def nifti(path: str, voxels: np.ndarray, *, affine: np.ndarray = AFFINE, **header: object) -> None:
    """Write a .nii.gz file; ``header`` overwrites fields, whatever they then claim."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    content = image.to_bytes()
    fields = nibabel.Nifti1Header(content[:348], check=False)
    for field, value in header.items():
        fields[field] = value
    Path(path).write_bytes(gzip.compress(fields.binaryblock + content[348:]))


def text(path: str, content: str | dict) -> None:
    """Write a text file, or JSON."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content if isinstance(content, str) else json.dumps(content))


def pair(name: str, image: np.ndarray | None = None, labels: np.ndarray | None = None, *, folder: str = "data") -> None:
    """Write a case of an AbdomenCT-1K folder."""
    nifti(f"{folder}/Image/{name}_0000.nii.gz", hu(len(name)) if image is None else image)
    nifti(f"{folder}/Mask/{name}.nii.gz", organs() if labels is None else labels)


def bad_scan(voxels: np.ndarray | None = None, **header: object) -> None:
    """Put a case with a bad scan beside the good one."""
    pair("Case_00002")
    nifti("data/Image/Case_00002_0000.nii.gz", hu(2) if voxels is None else voxels, **header)  # type: ignore[arg-type]


def bad_labels(voxels: np.ndarray, *, affine: np.ndarray = AFFINE) -> None:
    """Put a case with bad labels beside the good one."""
    pair("Case_00002")
    nifti("data/Mask/Case_00002.nii.gz", voxels, affine=affine)


def bad_bytes(path: str, *, keep: int = 10**9, content: bytes = b"") -> None:
    """Cut a good scan off after ``keep`` bytes, or write other bytes in its place."""
    pair("Case_00002")
    nifti(path, hu(2))
    Path(path).write_bytes(content or Path(path).read_bytes()[:keep])


def one_voxel(value: float) -> np.ndarray:
    """Return a floating-point scan with one odd voxel."""
    voxels = hu(2).astype(np.float32)
    voxels[5, 5, 5] = value
    return voxels


def spaced(value: float) -> np.ndarray:
    """Return an affine whose spacing along z is ``value``."""
    return np.diag([-20.0, -20.0, value, 1.0])


def other_weights() -> None:
    """Write a safetensors file of another program."""
    save_file({"layer": np.zeros(2)}, "other.safetensors")


def no_training_cases() -> None:
    """Take the training cases out of the store's splits."""
    splits = json.loads(Path("store/splits.json").read_text())
    splits["cases"] = {name: split for name, split in splits["cases"].items() if split != "training"}
    text("store/splits.json", splits)


def exchanged_splits(store: str) -> None:
    """Make a store's training cases its test cases, and the other way round."""
    splits = json.loads(Path(store, "splits.json").read_text())
    other = {"training": "test", "test": "training"}
    splits["cases"] = {name: other.get(split, split) for name, split in splits["cases"].items()}
    text(f"{store}/splits.json", splits)


def edited_cases(store: str, **facts: object) -> None:
    """Change what all case.json of a store say."""
    for file in Path(store, "cases").glob("*/case.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def other_space(store: str) -> None:
    """Let a store say that its labels are other organs."""
    content = json.loads(Path(store, "store.json").read_text())
    text(f"{store}/store.json", content | {"label_space": {"name": "others", "organs": ["kidney", "liver"]}})


def emptied_labels(store: str) -> None:
    """Let the labels of a store's cases be all background."""
    for file in Path(store, "cases").glob("*/labels.npy"):
        np.save(file, np.load(file) * np.uint8(0))


def damaged_case() -> None:
    """Cut off the labels of the store's cases."""
    for file in Path("store/cases").glob("*/labels.npy"):
        file.write_bytes(file.read_bytes()[:500])


def edited_recipe(**settings: object) -> None:
    """Write another recipe with some settings changed."""
    text("edited.json", RECIPE | settings)


def predictions(*names: str, folder: str = "predictions") -> None:
    """Write label maps with names."""
    for name in names:
        nifti(f"{folder}/{name}.nii.gz", organs())
        text(f"{folder}/{name}.json", NAMES)


def cut_off(path: str) -> None:
    """Keep the first half of a file."""
    Path(path).write_bytes(Path(path).read_bytes()[: Path(path).stat().st_size // 2])


def copies(source: str, target: str) -> None:
    """Copy a file or folder."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)
