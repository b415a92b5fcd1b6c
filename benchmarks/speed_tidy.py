"""Largest component and hole filling of 11 organs: viscera beside scipy and MONAI, on one label map, results compared.

The label map is metrics.py's (real organs enlarged to 224x512x512), with what a network adds to it: balls of organs in the wrong
place, and holes. Run by speed.py in a process of its own, one thread.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from monai.transforms.post.array import FillHoles, KeepLargestConnectedComponent
from scipy import ndimage

from machine import alternate, rows
from metrics import ORGANS, label_maps
from viscera.inference.postprocessing.components import keep_largest_components
from viscera.inference.postprocessing.morphology import fill_holes

LABELS = range(1, len(ORGANS) + 1)
EACH = 20
"""Flecks and holes per organ."""


def spoilt(labels: np.ndarray) -> np.ndarray:
    """Give labels with flecks in the background and holes in the organs, balls of radius 1 to 4 voxels."""
    draw = np.random.default_rng(0)
    result = labels.copy()
    for label in LABELS:
        inside = np.argwhere(labels == label)
        for hole in (True, False):
            for _ in range(EACH):
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
    return keep_largest_components(labels, dict.fromkeys(LABELS, 1))


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
    """One mask per organ; what is no background stays."""
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


def main(out: Path, rounds: int, slow_rounds: int) -> None:
    """Time everything."""
    torch.set_num_threads(1)
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
    out.write_text(
        json.dumps(
            {"labels": f"{shape} voxels (z, y, x): {source}, with flecks and holes", "threads": 1, "tasks": found}
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
