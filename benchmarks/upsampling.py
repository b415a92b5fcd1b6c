"""Labels on the scanner's slices from logits of prepared ones: decided where open, interpolated everywhere, nearest.

Usage: python benchmarks/upsampling.py RUN [--scan SCAN] [--rounds 5] [--threads 2]

RUN is a trained 2D network's. Its logits on a real scan prepared in two ways are kept, then the rivals take turns on them.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch

from machine import ROOT, alternate, facts, rows, save
from viscera.config import Preparation, ResizedSlices, SpacedSlices
from viscera.inference.model import Model, load_model
from viscera.inference.segment import prepare_scan
from viscera.inference.slices import enlargement_of, slice_logits
from viscera.inference.upsampling import Enlargement, enlarged_labels, plain_labels, side_of
from viscera.io import nifti
from viscera.preparation.geometry import Geometry

SCAN = ROOT.parent / "shared" / "data" / "hcc_tace" / "HCC_048_portal_venous_ct.nii.gz"
AT_ONCE = 4
"""Slices, as viscera predict takes them."""

PREPARATIONS: dict[str, Preparation] = {
    "256x256 to 512x512": ResizedSlices(size=(256, 256)),
    "2.5 mm to the scanner's": SpacedSlices(spacing_mm=2.5, margin_mm=10),
}


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--scan", type=Path, default=SCAN)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    model = load_model(options.run, accelerator="cpu")
    found = [
        {"name": name} | measure(options.scan, with_preparation(model, preparation), rounds=options.rounds)
        for name, preparation in PREPARATIONS.items()
    ]
    content = {"scan": options.scan.name, "recipe": model.recipe.name, "threads": options.threads, "cases": found}
    print(save("upsampling", facts("torch", "numpy", "opencv-python-headless") | content))


def with_preparation(model: Model, preparation: Preparation) -> Model:
    """Give a model that sees slices prepared otherwise than in training."""
    return replace(model, recipe=replace(model.recipe, preparation=preparation))


def measure(path: Path, model: Model, *, rounds: int) -> dict[str, object]:
    """Time the rivals on the logits of one scan."""
    scan = prepare_scan(nifti.read(path), model)
    image, geometry = scan.images[model.recipe.preparation]
    parts = [range(first, min(first + AT_ONCE, len(image))) for first in range(0, len(image), AT_ONCE)]
    logits = [slice_logits(image, model, part) for part in parts]
    enlargement = enlargement_of(geometry)
    labels = {name: np.concatenate([way(part, enlargement) for part in logits]) for name, way in RIVALS.items()}
    seconds = alternate({name: (over(way, logits, enlargement), rounds) for name, way in RIVALS.items()})
    per_100 = {name: [round(100 / len(image) * time, 4) for time in times] for name, times in seconds.items()}
    row = {
        "prepared": "x".join(map(str, image.shape)),
        "enlarged": "x".join(map(str, enlargement.size)),
        "step": step_of(geometry),
        "classes": int(logits[0].shape[1]),
        "logits": str(logits[0].dtype).removeprefix("torch."),
        "open_fraction": round(float(np.mean([open_fraction(part, enlargement) for part in logits])), 4),
        "pixels_unlike_interpolated": {
            name: int((found != labels["interpolated"]).sum()) for name, found in labels.items()
        },
        "pixels": int(labels["viscera"].size),
        "per_100_slices": rows(per_100),
    }
    for rival in row["per_100_slices"]:
        print(row["prepared"], rival["name"], rival["median_s"], rival["times_ours"])
    return row


def step_of(geometry: Geometry) -> list[str]:
    """Give the scanner's pixels per prepared one."""
    return [str(step if step is not None else Fraction(1)) for step in geometry.pixel_grid.step]


def over(way: Callable, logits: list[torch.Tensor], enlargement: Enlargement) -> Callable[[], None]:
    """Give what decides on all slices and forgets the labels."""

    def run() -> None:
        for part in logits:
            way(part, enlargement)

    return run


@torch.inference_mode()
def nearest(logits: torch.Tensor, enlargement: Enlargement) -> np.ndarray:
    """Give the labels of the nearest prepared pixels: not the argmax of interpolated logits, but what peers do for speed."""
    sides = sides_of(logits, enlargement)
    places = [np.where(side.high_weight > side.low_weight, side.high, side.low) for side in sides]
    low = logits.contiguous().float().max(1).indices.to(torch.uint8).numpy()
    return low.take(places[1], axis=2).take(places[0], axis=1)


def open_fraction(logits: torch.Tensor, enlargement: Enlargement) -> float:
    """Give the share of the pixels whose four prepared neighbours do not all have the same class."""
    low = logits.float().argmax(1).numpy()
    y, x = sides_of(logits, enlargement)
    corners = [low[:, row][:, :, column] for row in (y.low, y.high) for column in (x.low, x.high)]
    return float(np.mean(np.any([corner != corners[0] for corner in corners[1:]], axis=0)))


def sides_of(logits: torch.Tensor, enlargement: Enlargement) -> list:
    """Give how rows and columns are mixed."""
    size, factors, start = enlargement.size, enlargement.factors or (None, None), enlargement.start
    return [
        side_of(int(logits.shape[2 + axis]), size[axis], factor=factors[axis], start=start[axis]) for axis in (0, 1)
    ]


RIVALS: dict[str, Callable[[torch.Tensor, Enlargement], np.ndarray]] = {
    "viscera": enlarged_labels,
    "interpolated": plain_labels,
    "nearest": nearest,
}

if __name__ == "__main__":
    main()
