"""Slices skipped: seconds saved and Dice lost, by how far apart slices are looked at first, and where few organs are wanted.

Usage: python benchmarks/less.py RUN DATASET [--rounds 5] [--scans SCAN ...]

RUN is a trained 2D network's; DATASET a labelled data set in nnU-Net's layout that it never saw (viscera synth). Real scans have no
labels: there the labels with nothing skipped are the truth.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from machine import ROOT, facts, save
from viscera.config import SliceInference
from viscera.datasets.layouts import find_sources
from viscera.datasets.read_labels import read_labels
from viscera.datasets.sources import Source
from viscera.inference.model import Model, load_model
from viscera.inference.segment import Prepared, prepare_scan, segment_prepared
from viscera.io import nifti
from viscera.labels import fit
from viscera.preparation.intensity import hounsfield
from viscera.volume import with_voxels

DATA = ROOT.parent / "shared" / "data"
SCANS = (
    DATA / "lidc" / "LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz",
    DATA / "hcc_tace" / "HCC_048_portal_venous_ct.nii.gz",
)
LOOKS_MM = (0.0, 5.0, 10.0, 20.0, 40.0)
WANTED = (("liver",), ("kidney", "spleen"))


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scans", type=Path, nargs="*", default=SCANS)
    options = parser.parse_args()
    model = load_model(options.run, accelerator="cpu", runtime="auto")
    content = {
        "recipe": model.recipe.name,
        "runtime": model.network.name,
        "scans": [on_scan(model, scan, rounds=options.rounds) for scan in options.scans],
        "synthetic": on_labelled(model, options.dataset),
    }
    print(save("less", facts("torch", "openvino") | content))


def looking(model: Model, look_mm: float) -> Model:
    """Give a model that looks at slices so far apart first."""
    settings = model.recipe.inference
    if not isinstance(settings, SliceInference):
        raise SystemExit("RUN must be a 2D network's")
    return replace(model, recipe=replace(model.recipe, inference=replace(settings, look_mm=look_mm)))


def ways(model: Model) -> dict[str, tuple[Model, tuple[int, ...]]]:
    """Give the rivals: the model that looks, and the organs that are wanted."""
    found = {f"{look:g} mm": (looking(model, look), ()) for look in LOOKS_MM}
    for organs in WANTED:
        indices = tuple(model.space.index(organ) for organ in organs)
        found[f"10 mm, only {' and '.join(organs)}"] = (looking(model, 10.0), indices)
    return found


def prepared(model: Model, path: Path) -> Prepared:
    """Read and prepare a scan."""
    ct = nifti.read(path)
    return prepare_scan(with_voxels(ct, hounsfield(ct, where=path.name)), model)


def on_scan(model: Model, path: Path, *, rounds: int) -> dict[str, object]:
    """Time the rivals in turn, and compare their labels with those of all slices."""
    scan = prepared(model, path)
    rivals = ways(model)
    seconds: dict[str, list[float]] = defaultdict(list)
    labels: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, (one, organs) in rivals.items():
            start = time.perf_counter()
            labels[name] = segment_prepared(scan, one, organs=organs).labels.voxels
            seconds[name].append(round(time.perf_counter() - start, 3))
    every = labels["0 mm"]
    rows = []
    for name, (_, organs) in rivals.items():
        counted = organs or tuple(range(1, len(model.space.classes)))
        dice = {
            model.space.classes[index]: round(dice_of(every == index, labels[name] == index), 5)
            for index in counted
            if (every == index).any()
        }
        rows.append(
            {
                "way": name,
                "median_s": median(seconds[name]),
                "seconds": seconds[name],
                "voxels_that_differ": int(
                    (np.isin(every, counted) | np.isin(labels[name], counted))[every != labels[name]].sum()
                ),
                "lowest_dice_to_all_slices": min(dice.values(), default=1.0),
                "organ_of_it": min(dice, key=lambda organ: dice[organ], default=None),
            }
        )
        print(path.name, rows[-1], flush=True)
    return {"scan": path.name, "shape": list(every.shape), "voxels": int(every.size), "rows": rows}


def on_labelled(model: Model, dataset: Path) -> dict[str, object]:
    """Compare the rivals' Dice per organ with that of all slices, over patients with a truth."""
    rivals = ways(model)
    dice: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in rivals}
    seconds: dict[str, float] = dict.fromkeys(rivals, 0.0)
    sources, _ = find_sources("nnunet", dataset)
    for source in sources:
        truth, scan = true_labels(model, source), prepared(model, source.image)
        for name, (one, organs) in rivals.items():
            start = time.perf_counter()
            found = segment_prepared(scan, one, organs=organs).labels.voxels
            seconds[name] += time.perf_counter() - start
            for index in organs or range(1, len(model.space.classes)):
                if (truth == index).any() or (found == index).any():
                    dice[name][model.space.classes[index]].append(dice_of(truth == index, found == index))
    rows = []
    for name in rivals:
        change = {
            organ: round(100 * float(np.mean(values) - np.mean(dice["0 mm"][organ])), 3) if name != "0 mm" else 0.0
            for organ, values in dice[name].items()
        }
        rows.append(
            {
                "way": name,
                "seconds": round(seconds[name], 2),
                "dice_mean": round(float(np.mean([np.mean(values) for values in dice[name].values()])), 5),
                "dice_points": change,
            }
        )
        print(rows[-1], flush=True)
    return {"patients": len(sources), "rows": rows}


def true_labels(model: Model, source: Source) -> np.ndarray:
    """Give a case's truth in the model's label space."""
    values = fit(model.space, dict(source.organs), source.annotated, unknown=source.unknown)
    volume, table = read_labels(source), np.zeros(256, np.uint8)
    for value, index in values.values.items():
        table[value] = index
    return table[volume.voxels]


def dice_of(one: np.ndarray, other: np.ndarray) -> float:
    """Give the Dice of two masks of which one holds something."""
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


if __name__ == "__main__":
    main()
