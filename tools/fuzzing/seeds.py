"""Good files of every kind, small, for damage to begin with."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from viscera.config import Recipe, ResizedSlices, UNetShape
from viscera.config.recipe_json import recipe_to_json
from viscera.io import nifti
from viscera.io.atomic import sha256, write_json, write_text
from viscera.labels import ABDOMENCT1K
from viscera.networks.build import build_network
from viscera.networks.weights import Weights, save_weights
from viscera.preparation.geometry import Geometry
from viscera.preparation.store import Case, Facts, SourceFacts, create_store, write_case
from viscera.volume import Turn, Volume

SHAPE = (4, 16, 16)
AFFINE = np.array([[0, 0, -2.0, 16], [0, -2.0, 0, 16], [5.0, 0, 0, 0], [0, 0, 0, 1]])
RECIPE = Recipe(
    label_space="abdomenct1k", preparation=ResizedSlices(size=(16, 16)), network=UNetShape(widths=(2, 2, 2, 2, 2))
)
EPOCH = {
    "epoch": 1,
    "learning_rate": 0.001,
    "train_loss": 0.5,
    "val_loss": 0.4,
    "train_dice": {"liver": 0.5, "spleen": None},
    "val_dice": {"liver": 0.6, "spleen": 0.7},
    "val_iou": {"liver": 0.4},
    "seconds": 3.5,
}


def make_seeds(folder: Path) -> None:
    """Write them all."""
    _scans(folder / "scans")
    _data_sets(folder / "sets")
    _store(folder / "store")
    _run(folder / "run", folder / "store")
    _results(folder / "results")
    _dicom(folder / "dicom")


def _dicom(folder: Path) -> None:
    """Write a CT series, also as a ZIP, and what was drawn on it."""
    folder.mkdir(parents=True)
    import zipfile

    from dicom_series import write_series  # pyright: ignore[reportMissingImports]  # of tests/
    from viscera.dicom.finding import find_series
    from viscera.dicom.outputs import Maker
    from viscera.dicom.rtstruct import write_rtstruct
    from viscera.dicom.seg import write_seg

    voxels = np.arange(4 * 8 * 8, dtype=np.int16).reshape(4, 8, 8)
    with zipfile.ZipFile(folder / "series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in write_series(folder / "series", voxels):
            archive.write(file, file.name)
    [series] = find_series(folder / "series").series
    labels, names, maker = (voxels // 100).astype(np.uint8), {1: "liver", 2: "spleen"}, Maker("0", "none", "0" * 64)
    write_seg(folder / "seg.dcm", labels, names, series, maker)
    write_rtstruct(folder / "rtstruct.dcm", labels, names, series, maker)


def _scans(folder: Path) -> None:
    """Write NIfTI files: both versions, both byte orders, packed and not, scaled and not."""
    import nibabel

    voxels = np.arange(4 * 8 * 8, dtype=np.int16).reshape(4, 8, 8)
    for name in ("plain.nii", "packed.nii.gz"):
        nifti.write(folder / name, Volume(voxels, AFFINE))
    affine = AFFINE[:, [2, 1, 0, 3]]
    for name, kind, order in (("big.nii", nibabel.Nifti1Header, ">"), ("two.nii.gz", nibabel.Nifti2Header, "<")):
        header = kind(endianness=order)
        header.set_data_shape((8, 8, 4))
        header.set_data_dtype(np.dtype(f"{order}i2"))
        header.set_sform(affine, code=1)
        header["scl_slope"], header["scl_inter"], header["vox_offset"] = 2, -1024, header.sizeof_hdr + 4
        header["magic"] = b"n+1" if order == ">" else b"n+2"
        content = header.binaryblock + bytes(4) + voxels.astype(f"{order}i2").tobytes()
        if name.endswith(".gz"):
            import gzip

            content = gzip.compress(content, 1, mtime=0)
        (folder / name).write_bytes(content)


def _data_sets(folder: Path) -> None:
    """Write descriptors beside empty files: layouts do not open scans."""
    for name in ("msd", "listed", "nnunet", "named"):
        for file in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz"):
            write_text(folder / name / file, "")
    labels = {"0": "background", "1": "liver", "2": "Left Kidney", "3": "cancer"}
    modality = {"modality": {"0": "CT"}, "labels": labels}
    pair = [{"image": f"./imagesTr/{case}_0000.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in "ab"]
    write_json(folder / "msd/dataset.json", modality | {"numTraining": 2, "training": []})
    write_json(folder / "listed/dataset.json", modality | {"numTraining": 2, "training": pair})
    ours = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "spleen": [2]},
        "file_ending": ".nii.gz",
    }
    write_json(folder / "nnunet/dataset.json", ours | {"numTraining": 2})
    entries = {case: {"images": [f"imagesTr/{case}_0000.nii.gz"], "label": f"labelsTr/{case}.nii.gz"} for case in "ab"}
    write_json(folder / "named/dataset.json", ours | {"dataset": entries})
    for name in ("msd", "nnunet"):
        write_json(folder / name / "annotated.json", {"*": ["liver"], "a": ["liver"]})
    write_json(folder / "names.json", {"labels": {"1": "liver", "2": "Left Kidney"}, "annotated": ["liver"]})
    write_json(folder / "own.json", {"*": ["liver"], "a": ["spleen", "liver"]})


def _store(folder: Path) -> None:
    store = create_store(folder, space=ABDOMENCT1K, preparation=RECIPE.preparation)
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 2:6, 2:6] = 1
    geometry = Geometry(SHAPE, AFFINE, Turn((0, 1, 2), (False, False, False)), SHAPE[1:])
    for patient in "ab":
        case = Case(f"s__{patient}", "s", patient, np.zeros(SHAPE, np.int16), labels, None, ("liver",), geometry)
        source = SourceFacts(
            "a.nii.gz", ("b.nii.gz",), "0" * 64, ("0" * 64,), ((1, 2), (3, 4)), ((1, "liver"),), ("liver",), ()
        )
        hu = {"minimum": -10.0, "maximum": 10.0, "mean": 0.0, "p10": -5.0, "p90": 5.0}
        voxels = {"background": 960, "liver": 64}
        facts = Facts(case.name, "s", patient, ("liver",), ("spleen: merged",), source, geometry, "0" * 64, hu, voxels)
        write_case(folder, case, facts)
    splits = {"s__a": "training", "s__b": "validation"}
    write_json(
        folder / "splits.json",
        {"seed": 0, "fractions": {"training": 0.7, "validation": 0.1, "test": 0.2}, "cases": splits},
    )
    write_json(folder / "problems.json", [{"case": "c", "file": "c.nii.gz", "what": "is gone", "remedy": "copy it"}])
    write_json(folder / "cases/s__a/pseudo.json", {"organs": ["spleen"]})
    np.save(folder / "cases/s__a/pseudo.npy", labels)
    assert store.path == folder


def _run(folder: Path, store: Path) -> None:
    write_text(folder / "recipe.json", recipe_to_json(RECIPE) + "\n")
    splits = {"training": ["s__a"], "validation": ["s__b"], "test": []}
    facts = {
        "viscera": "0.2.0",
        "torch": "2.4",
        "device": "cpu",
        "precision": "32-true",
        "store": str(store),
        "splits": splits,
    }
    write_json(folder / "run.json", facts)
    (folder / "state.safetensors").touch()  # without which nothing is resumed
    rows = [EPOCH | {"epoch": number} for number in (1, 2)]
    write_text(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    network = build_network(RECIPE.network, classes=len(ABDOMENCT1K.classes), softmax=RECIPE.softmax)
    save_weights(
        folder / "best.safetensors", Weights(RECIPE, ABDOMENCT1K, network.state_dict(), {"epoch": 1, "loss": 0.5})
    )


def _results(folder: Path) -> None:
    """Write what verbs leave: an evaluation, a study, a scan's NAME.json, an export, a card."""
    from viscera.networks.cards import FOLDER

    scores = [
        {
            "case": case,
            "patient": case,
            "organ": organ,
            "group": "annotated",
            "dice": 0.9,
            "nsd": 0.8,
            "hd95_mm": 3.0,
            "volume_ml": 10.0,
        }
        for case in ("a", "b")
        for organ in ("liver", "spleen")
    ]
    mean = {"mean": 0.9, "low": 0.8, "high": 1.0, "cases": 2, "group": "all"}
    summary = [{"organ": organ, "metric": "dice", **mean} for organ in ("liver", "spleen", "mean")]
    trust = [{"case": "a", "scan": ["cut off"], "organs": {"liver": ["small"]}}]
    confusion = {
        "classes": ["background", "liver", "spleen"],
        "ml": [[900.0, 1.0, 0.0], [0.0, 20.0, 1.0], [2.0, 0.0, 9.0]],
    }
    problems = [{"case": "c", "file": "c.nii.gz", "what": "is gone", "remedy": "copy it"}]
    base = {
        "mode": "organs",
        "cases": scores,
        "summary": summary,
        "problems": problems,
        "notes": ["a note"],
        "trust": trust,
    }
    write_json(folder / "scores.json", base)
    efficiency = {"samples": 3, "seconds": 1.0, "peak_memory_mib": 300.0, "cpu_area_percent_s": 90.0}
    costs = [{"case": "a", "shape": [8, 8, 4], "efficiency": efficiency}]
    write_json(folder / "confused.json", base | {"confusion": confusion, "efficiency": costs})
    sidecar = {
        "labels": {"1": "liver"},
        "run": {"shape": [8, 8, 4], "efficiency": efficiency, "weights_sha256": "0", "organs": ["liver"]},
        "trust": {"scan": [{"kind": "border", "message": "cut off"}], "organs": {"liver": []}},
    }
    write_json(folder / "scan.json", sidecar)
    score = {"organ": "liver", "pooled": 0.5, "mean": 0.5, "low": None, "high": None, "cases": 1}
    case = {"case": "a", "patient": "a", "iou": {"liver": 0.5, "spleen": None}}
    cell = {
        "name": "depth=4",
        "folder": "depth-4",
        "settings": {"network.depth": 4},
        "failure": "",
        "epochs": 2,
        "best_epoch": 1,
    }
    cell |= {"seconds": 2.0, "parameters": 100, "classes": [score], "cases": [case]}
    write_json(folder / "cell.json", cell)
    study = {
        "name": "upv",
        "store": "s",
        "recipe": "upv1",
        "split": "test",
        "results": [cell],
        "cells": 1,
        "notes": ["n"],
    }
    write_json(folder / "study.json", study)
    for card in sorted(FOLDER.glob("*.json"))[:1]:
        write_text(folder / "card.json", card.read_text(encoding="utf-8"))
    write_text(folder / "export/network.onnx", "no network")
    space = {"name": ABDOMENCT1K.name, "organs": list(ABDOMENCT1K.organs)}
    exported = {
        "format": "viscera-export-2",
        "files": {"network.onnx": sha256(folder / "export/network.onnx")},
        "input": {"multiple_of": 16, "axes": ["batch", "channel", "y", "x"]},
        "label_space": space,
        "settings": asdict(RECIPE),
    }
    write_json(folder / "export/model.json", exported)
