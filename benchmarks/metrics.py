"""Speed and agreement of Dice, NSD and HD95 against per-class NumPy, SimpleITK, MONAI and DeepMind's surface-distance.

Run: .venv/bin/python benchmarks/metrics.py   (about three minutes; writes benchmarks/results/metrics.json)
"""

import argparse
import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core for everyone; torch reads it when it is imported

import cv2
import numpy as np
import SimpleITK
import surface_distance
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from machine import ROOT, alternate, facts, rows, save
from viscera.evaluation.metrics import confusion, organ_boxes, overlap, surface_scores
from viscera.io import nifti
from viscera.io.label_names import read_names

REAL = ROOT.parent / "shared" / "data" / "totalsegmentator_example" / "ts_example_ct_3mm_label.nii.gz"
ORGANS = [
    "liver",
    "spleen",
    "kidney_left",
    "kidney_right",
    "stomach",
    "pancreas",
    "urinary_bladder",
    "colon",
    "aorta",
    "inferior_vena_cava",
    "gallbladder",
]
SPACING_MM = (1.5, 0.73, 0.59)
TOLERANCE_MM = 3.0
SURFACES = {"liver": 1, "spleen": 2, "kidney_left": 3}
CAP_S = 100
"""The longest that a rival may take over the far flecks."""


def label_maps() -> tuple[np.ndarray, np.ndarray, str]:
    """Give truth and prediction of 224x512x512 voxels with 11 organs, and where they come from."""
    if REAL.exists():
        names = {organ: value for value, organ in read_names(REAL).items()}
        table = np.zeros(256, np.uint8)
        for index, organ in enumerate(ORGANS, start=1):
            table[names[organ]] = index
        small, source = table[nifti.read(REAL).voxels], f"{REAL.name}, enlarged"
    else:
        grid, source = np.indices((112, 101, 122)), "spheres"
        small = np.zeros(grid.shape[1:], np.uint8)
        for index in range(1, len(ORGANS) + 1):
            centre = np.array([10 * index - 4, 30 + 4 * index, 95 - 6 * index]).reshape(3, 1, 1, 1)
            small[((grid - centre) ** 2).sum(axis=0) < (26 - index) ** 2] = index
    enlarged = np.repeat(small, 2, axis=0)
    large = [cv2.resize(section, (512, 512), interpolation=cv2.INTER_NEAREST) for section in enlarged]
    truth = np.stack([cv2.medianBlur(section, 9) for section in large])
    prediction = np.zeros_like(truth)  # smoother, and moved by a slice and two rows
    prediction[1:, 2:] = np.stack([cv2.medianBlur(section, 17) for section in truth])[:-1, :-2]
    return truth, prediction, source


def with_flecks(mask: np.ndarray, number: int = 400) -> np.ndarray:
    """Give the mask with single voxels all over the volume, as a bad network leaves them."""
    flecked = mask.copy()
    flecked[tuple(np.random.default_rng(0).integers(0, mask.shape, (number, 3)).T)] = True
    return flecked


def our_dice(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    """Dice of each organ by one joint histogram."""
    counts = confusion(truth, prediction, len(ORGANS) + 1)
    return [overlap(counts, index).dice for index in range(1, len(ORGANS) + 1)]


def numpy_dice(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    """Dice of each organ by two masks per class."""
    values = []
    for index in range(1, len(ORGANS) + 1):
        a, b = truth == index, prediction == index
        values.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return values


def simpleitk_dice(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    """Dice of each organ by LabelOverlapMeasuresImageFilter."""
    measures = SimpleITK.LabelOverlapMeasuresImageFilter()
    measures.Execute(SimpleITK.GetImageFromArray(truth), SimpleITK.GetImageFromArray(prediction))
    return [measures.GetDiceCoefficient(index) for index in range(1, len(ORGANS) + 1)]


def monai_dice(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    """Dice of each organ by compute_dice on one-hot tensors of one byte per class and voxel."""
    classes = torch.arange(len(ORGANS) + 1, dtype=torch.uint8).view(1, -1, 1, 1, 1)
    one_hot = [torch.from_numpy(labels)[None, None] == classes for labels in (truth, prediction)]
    return compute_dice(one_hot[1].byte(), one_hot[0].byte(), include_background=False)[0].tolist()


def our_surfaces(truth: np.ndarray, prediction: np.ndarray, organs: dict[str, int]) -> list[tuple[float, float]]:
    """NSD and HD95 in each organ's box, from label maps, as evaluation.py does it."""
    boxes = [organ_boxes(labels, max(organs.values())) for labels in (truth, prediction)]
    values = []
    for index in organs.values():
        a, b = (found[index - 1] for found in boxes)
        box = tuple(slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True))
        scores = surface_scores(truth[box] == index, prediction[box] == index, SPACING_MM, tolerance_mm=TOLERANCE_MM)
        values.append((scores.nsd, scores.hd95_mm))
    return values


def deepmind_surfaces(truth: np.ndarray, prediction: np.ndarray, organs: dict[str, int]) -> list[tuple[float, float]]:
    """NSD and HD95 by surface-distance, which finds the box itself."""
    values = []
    for index in organs.values():
        found = surface_distance.compute_surface_distances(truth == index, prediction == index, SPACING_MM)
        nsd = surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)
        values.append((float(nsd), float(surface_distance.compute_robust_hausdorff(found, 95))))
    return values


def monai_surfaces(truth: np.ndarray, prediction: np.ndarray, organs: dict[str, int]) -> list[tuple[float, float]]:
    """NSD and HD95 by MONAI, whose definitions count border voxels instead of weighing areas."""
    values = []
    for index in organs.values():
        a, b = (torch.from_numpy(labels == index)[None, None] for labels in (truth, prediction))
        nsd = compute_surface_dice(b, a, [TOLERANCE_MM], include_background=True, spacing=SPACING_MM)
        hd95_mm = compute_hausdorff_distance(b, a, include_background=True, percentile=95, spacing=SPACING_MM)
        values.append((float(nsd), float(hd95_mm)))
    return values


def capped(run: Callable[..., object], *arguments: object) -> dict[str, object]:
    """Run a rival in a process of its own, at most CAP_S seconds; give its seconds and values."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        start = time.perf_counter()
        values = run(*arguments)
        sender.send((round(time.perf_counter() - start, 3), values))

    process = context.Process(target=work)
    process.start()
    outcome = receiver.recv() if receiver.poll(CAP_S) else None
    process.terminate()
    process.join()
    if outcome is None:
        return {"seconds": None, "note": f"stopped after {CAP_S} s"}
    return {"seconds": outcome[0], "values": outcome[1]}


def largest_difference(ours: list, theirs: list) -> float:
    """Give the largest absolute difference between two lists of numbers or of pairs."""
    return float(np.abs(np.array(ours) - np.array(theirs)).max())


def flecks(truth: np.ndarray, prediction: np.ndarray) -> dict[str, object]:
    """Time NSD and HD95 of a liver with far flecks."""
    liver = {"liver": 1}
    masks = (truth == 1).view(np.uint8), with_flecks(prediction == 1).view(np.uint8)
    seconds = alternate({"viscera": (lambda: our_surfaces(*masks, liver), 5)})
    ours = our_surfaces(*masks, liver)
    median_s = float(np.median(seconds["viscera"]))
    agreement: dict[str, float] = {}
    found: list[dict[str, object]] = [{"name": "viscera", "median_s": median_s, "times_ours": 1.0, **seconds}]
    for name, run in (("surface-distance", deepmind_surfaces), ("MONAI", monai_surfaces)):
        outcome = capped(run, *masks, liver)
        taken = outcome["seconds"]
        bound = taken if isinstance(taken, float) else CAP_S
        found.append(
            {"name": name, "median_s": taken, "times_ours": round(bound / median_s, 1), "rounds": 1, **outcome}
        )
        if name == "surface-distance" and "values" in outcome:
            agreement[name] = largest_difference(ours, outcome["values"])
    return {
        "largest_difference": agreement,
        "what": "NSD and HD95 of the liver, 400 single voxels all over the prediction",
        "rows": found,
    }


def main() -> None:
    """Time everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of the quick ones; the slow ones have 3")
    rounds = parser.parse_args().rounds
    vars(np).update(Inf=np.inf, NaN=np.nan)  # surface-distance 0.1 uses names that NumPy 2 dropped
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    truth, prediction, source = label_maps()
    slow = min(rounds, 3)
    dice = {"viscera": our_dice, "numpy": numpy_dice, "SimpleITK": simpleitk_dice, "MONAI": monai_dice}
    times = {"viscera": rounds, "numpy": slow, "SimpleITK": slow, "MONAI": slow}
    overlaps = alternate({name: (lambda run=run: run(truth, prediction), times[name]) for name, run in dice.items()})
    surface = {"viscera": our_surfaces, "surface-distance": deepmind_surfaces, "MONAI": monai_surfaces}
    times = {"viscera": rounds, "surface-distance": slow, "MONAI": slow}
    surfaces = alternate(
        {name: (lambda run=run: run(truth, prediction, SURFACES), times[name]) for name, run in surface.items()}
    )
    ours = our_surfaces(truth, prediction, SURFACES)
    content = {
        "benchmark": "metrics",
        **facts("numpy", "scipy", "opencv-python-headless", "edt", "simpleitk", "monai", "torch", "surface-distance"),
        "threads": 1,
        "labels": f"{'x'.join(map(str, truth.shape))} voxels (z, y, x), {len(ORGANS)} organs: {source}",
        "overlap": {
            "what": f"Dice of {len(ORGANS)} organs",
            "rows": rows(overlaps),
            "largest_difference": {
                name: largest_difference(our_dice(truth, prediction), run(truth, prediction))
                for name, run in dice.items()
                if name != "viscera"
            },
        },
        "surface": {
            "what": f"NSD at {TOLERANCE_MM:g} mm and HD95 of {', '.join(SURFACES)}",
            "rows": rows(surfaces),
            "values": ours,
            "largest_difference": {
                "surface-distance": largest_difference(ours, deepmind_surfaces(truth, prediction, SURFACES))
            },
            "note": "MONAI counts border voxels where DeepMind and viscera weigh areas: its values differ by definition",
        },
        "far_flecks": flecks(truth, prediction),
    }
    path = save("metrics", content)
    for part in ("overlap", "surface", "far_flecks"):
        print(content[part]["what"])
        for row in content[part]["rows"]:
            median = f"{row['median_s']:9.3f} s" if row["median_s"] is not None else f"  > {CAP_S:5d} s"
            print(f"  {row['name']:<18}{median}  {row['times_ours']:7.1f}x")
        print("  largest difference:", content[part].get("largest_difference", math.nan))
    print(Path(path).relative_to(ROOT))


if __name__ == "__main__":
    main()
