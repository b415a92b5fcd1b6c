"""Work on label maps of 224x512x512 voxels with 11 organs, beside peers, one thread: speed, and whether the results agree.

    python -m benchmarks.label_maps metrics [--rounds 5]       Dice, NSD, HD95: NumPy, SimpleITK, MONAI, DeepMind (three minutes)
    python -m benchmarks.label_maps tidy [--out FILE.json]     largest component and holes: scipy, MONAI (as peers/speed.py does it)

The label map is a real one, enlarged, else spheres. Tidied is what a network adds to it, too: balls of organs in the wrong place,
and holes.
"""

import argparse
import json
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
from monai.transforms.post.array import FillHoles, KeepLargestConnectedComponent
from scipy import ndimage

from benchmarks.machine import DATA, ROOT, alternate, facts, rows, save
from viscera.evaluation.metrics import confusion, organ_boxes, overlap, surface_scores
from viscera.inference.postprocessing.components import select_components
from viscera.inference.postprocessing.morphology import fill_holes
from viscera.io import nifti
from viscera.io.label_names import read_names

REAL = DATA / "totalsegmentator_example" / "ts_example_ct_3mm_label.nii.gz"
ORGANS = (
    *("liver", "spleen", "kidney_left", "kidney_right", "stomach", "pancreas", "urinary_bladder", "colon", "aorta"),
    *("inferior_vena_cava", "gallbladder"),
)
LABELS = range(1, len(ORGANS) + 1)
FLECKS = 20
"""And as many holes per organ, of what is tidied."""
SPACING_MM = (1.5, 0.73, 0.59)
TOLERANCE_MM = 3.0
SURFACES = {"liver": 1, "spleen": 2, "kidney_left": 3}
CAP_S = 100
"""The longest that a rival may take over the far flecks."""


def label_maps() -> tuple[np.ndarray, np.ndarray, str]:
    """Return truth and prediction of 224x512x512 voxels with 11 organs, and where they come from."""
    if REAL.exists():
        names = {organ: value for value, organ in read_names(REAL).items()}
        table = np.zeros(256, np.uint8)
        for index, organ in enumerate(ORGANS, start=1):
            table[names[organ]] = index
        small, source = table[nifti.read(REAL).voxels], f"{REAL.name}, enlarged"
    else:
        grid, source = np.indices((112, 101, 122)), "spheres"
        small = np.zeros(grid.shape[1:], np.uint8)
        for index in LABELS:
            centre = np.array([10 * index - 4, 30 + 4 * index, 95 - 6 * index]).reshape(3, 1, 1, 1)
            small[((grid - centre) ** 2).sum(axis=0) < (26 - index) ** 2] = index
    enlarged = np.repeat(small, 2, axis=0)
    large = [cv2.resize(section, (512, 512), interpolation=cv2.INTER_NEAREST) for section in enlarged]
    truth = np.stack([cv2.medianBlur(section, 9) for section in large])
    prediction = np.zeros_like(truth)  # smoother, and moved by a slice and two rows
    prediction[1:, 2:] = np.stack([cv2.medianBlur(section, 17) for section in truth])[:-1, :-2]
    return truth, prediction, source


def with_flecks(mask: np.ndarray, number: int = 400) -> np.ndarray:
    """Return the mask with single voxels all over the volume, as a bad network leaves them."""
    flecked = mask.copy()
    flecked[tuple(np.random.default_rng(0).integers(0, mask.shape, (number, 3)).T)] = True
    return flecked


def our_dice(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    """Dice of each organ by one joint histogram."""
    counts = confusion(truth, prediction, len(ORGANS) + 1)
    return [overlap(counts, index).dice for index in LABELS]


def numpy_dice(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    """Dice of each organ by two masks per class."""
    values = []
    for index in LABELS:
        a, b = truth == index, prediction == index
        values.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return values


def simpleitk_dice(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    """Dice of each organ by LabelOverlapMeasuresImageFilter."""
    measures = SimpleITK.LabelOverlapMeasuresImageFilter()
    measures.Execute(SimpleITK.GetImageFromArray(truth), SimpleITK.GetImageFromArray(prediction))
    return [measures.GetDiceCoefficient(index) for index in LABELS]


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
    """Run a rival in a process of its own, at most CAP_S seconds; return its seconds and values."""
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
    """Return the largest absolute difference between two lists of numbers or of pairs."""
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


def spoilt(labels: np.ndarray) -> np.ndarray:
    """Return labels with flecks in the background and holes in the organs, balls of radius 1 to 4 voxels."""
    draw = np.random.default_rng(0)
    result = labels.copy()
    for label in LABELS:
        inside = np.argwhere(labels == label)
        for hole in (True, False):
            for _ in range(FLECKS):
                radius = int(draw.integers(1, 5))
                centre = inside[draw.integers(len(inside))] if hole else draw.integers(5, np.array(labels.shape) - 5)
                box = tuple(
                    slice(max(0, place - radius), min(count, place + radius + 1))
                    for place, count in zip(centre, labels.shape, strict=True)
                )
                grid = np.ogrid[box]
                ball = sum((axis - place) ** 2 for axis, place in zip(grid, centre, strict=True)) <= radius**2
                part = result[box]
                part[ball & (part == (label if hole else 0))] = 0 if hole else label
    return result


def our_largest(labels: np.ndarray) -> np.ndarray:
    """All organs in one pass."""
    return select_components(labels, keep=dict.fromkeys(LABELS, 1), smallest_voxels={})


def scipy_largest(labels: np.ndarray) -> np.ndarray:
    """One mask per organ."""
    result = labels.copy()
    for label in LABELS:
        pieces, count = ndimage.label(labels == label, np.ones((3, 3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            result[(pieces > 0) & (pieces != 1 + sizes[1:].argmax())] = 0
    return result


def monai_largest(labels: np.ndarray) -> np.ndarray:
    """MONAI's transform, each organ by itself, on a copy: it works in place."""
    keep = KeepLargestConnectedComponent(applied_labels=list(LABELS), independent=True, connectivity=3, is_onehot=False)
    return np.asarray(keep(torch.from_numpy(labels.copy())[None]))[0]


def our_holes(labels: np.ndarray) -> np.ndarray:
    """Organ by organ, in its box."""
    return fill_holes(labels, LABELS)


def scipy_holes(labels: np.ndarray) -> np.ndarray:
    """One mask per organ; what is not a background stays."""
    result = labels.copy()
    for label in LABELS:
        result[ndimage.binary_fill_holes(labels == label) & (result == 0)] = label
    return result


def monai_holes(labels: np.ndarray) -> np.ndarray:
    """MONAI's transform, holes by faces as the others'."""
    return np.asarray(FillHoles(applied_labels=list(LABELS), connectivity=1)(torch.from_numpy(labels.copy())[None]))[0]


TASKS = {
    "largest component": {"viscera": our_largest, "scipy": scipy_largest, "MONAI": monai_largest},
    "holes": {"viscera": our_holes, "scipy": scipy_holes, "MONAI": monai_holes},
}


def tidied(rounds: int, slow_rounds: int) -> dict[str, object]:
    """Time post-processing, and compare its results."""
    truth, _, source = label_maps()
    labels = spoilt(truth)
    found = []
    for what, ways in TASKS.items():
        results = {name: way(labels) for name, way in ways.items()}
        times = alternate(
            {
                name: (lambda way=way: way(labels), rounds if name == "viscera" else slow_rounds)
                for name, way in ways.items()
            }
        )
        unlike = {name: int(np.count_nonzero(result != results["viscera"])) for name, result in results.items()}
        changed = int(np.count_nonzero(results["viscera"] != labels))
        found.append(
            {
                "what": f"{what} of {len(ORGANS)} organs",
                "rows": rows(times),
                "voxels_changed": changed,
                "voxels_unlike_ours": unlike,
            }
        )
        print(found[-1]["what"], [(row["name"], row["median_s"]) for row in found[-1]["rows"]], unlike, flush=True)
    shape = "x".join(map(str, labels.shape))
    return {"labels": f"{shape} voxels (z, y, x): {source}, with flecks and holes", "threads": 1, "tasks": found}


def metrics(rounds: int) -> None:
    """Time Dice and surfaces; write benchmarks/results/metrics.json."""
    vars(np).update(Inf=np.inf, NaN=np.nan)  # surface-distance 0.1 uses names that NumPy 2 dropped
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


def main() -> None:
    """Run a sub-command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("metrics", "tidy"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=1, help="of the peers that tidy")
    parser.add_argument("--out", type=Path, help="of tidy; else it is only printed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.what == "metrics":
        metrics(options.rounds)
        return
    found = json.dumps(tidied(options.rounds, options.slow_rounds))
    if options.out:
        options.out.write_text(found)


if __name__ == "__main__":
    main()
