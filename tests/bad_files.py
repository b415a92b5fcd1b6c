"""Small files that are wrong in one way each, written into the present folder; bad_inputs.py says what they are for."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import torch
from safetensors.torch import save_file

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
NAMES = {"labels": {"1": "liver", "2": "kidney", "3": "spleen", "4": "pancreas"}}


def hu(seed: int = 0) -> np.ndarray:
    """Give a body in air, with noise, as (x, y, z)."""
    body = np.full(SHAPE, -1000.0)
    body[2:14, 2:14] = 40
    return (body + np.random.default_rng(seed).normal(0, 15, SHAPE)).astype(np.int16)


def organs(liver: int = 1, spleen: int = 3) -> np.ndarray:
    """Give labels of the two organs, as (x, y, z)."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:8, 4:10, 2:7], labels[10:13, 8:12, 3:6] = liver, spleen
    return labels


def nifti(path: str, voxels: np.ndarray, *, affine: np.ndarray = AFFINE, **header: object) -> None:
    """Write a NIfTI file; ``header`` overwrites fields, whatever they then claim."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    for field, value in header.items():
        image.header[field] = value
    image.to_filename(path)


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


def voxels_like(value: float, *, where: tuple = (5, 5, 5)) -> np.ndarray:
    """Give a floating-point scan with one odd voxel."""
    voxels = hu(2).astype(np.float32)
    voxels[where] = value
    return voxels


def affine_with(value: float) -> np.ndarray:
    """Give an affine whose spacing along z is ``value``."""
    return np.diag([-20.0, -20.0, value, 1.0])


def zero_spacing(path: str = "data/Image/Case_00002_0000.nii.gz") -> None:
    """Write a scan whose header has a slice distance of 0 in sform and pixdim."""
    bad_scan()
    nifti(path, hu(2), srow_z=[0, 0, 0, 0], pixdim=[1, 20, 20, 0, 0, 0, 0, 0])


def other_weights() -> None:
    """Write a safetensors file of another program."""
    save_file({"layer": torch.zeros(2)}, "other.safetensors")


def pickled_weights() -> None:
    """Write weights as torch.save does."""
    torch.save({"layer": torch.zeros(2)}, "model.pth")


def no_training_cases() -> None:
    """Take the training cases out of the store's splits."""
    splits = json.loads(Path("store/splits.json").read_text())
    splits["cases"] = {name: split for name, split in splits["cases"].items() if split != "training"}
    text("store/splits.json", splits)


def damaged_case() -> None:
    """Cut off the labels of the store's cases."""
    for file in Path("store/cases").glob("*/labels.npy"):
        file.write_bytes(file.read_bytes()[:500])


def edited_recipe(**settings: object) -> None:
    """Write another recipe with some settings changed."""
    text("edited.json", RECIPE | settings)


def foreign_layout() -> None:
    """Lay a case out as nnU-Net v1 and FLARE do: without a dataset.json."""
    nifti("flare/imagesTr/a_0000.nii.gz", hu())
    nifti("flare/labelsTr/a.nii.gz", organs())


def predictions(*names: str, folder: str = "predictions") -> None:
    """Write label maps with names."""
    for name in names:
        nifti(f"{folder}/{name}.nii.gz", organs())
        text(f"{folder}/{name}.json", NAMES)


def copies(source: str, target: str) -> None:
    """Copy a file or folder."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)
