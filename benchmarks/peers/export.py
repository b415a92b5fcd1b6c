"""Logits of a 3D network -> labels on the scanner's grid: viscera's ``on_axial`` beside nnU-Net's export, on the same logits.

The logits are smooth, as a network's are: an organ-like body per class, 14 classes, half precision as nnU-Net keeps them. Both
begin with them in memory and end with a label map in memory; the memory is what the process held at most beyond the logits.
Both grids cover the same block of the patient, so both interpolate at the same places.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from benchmarks.peers.child import Clock, Order, Segment, competing, measured

CLASSES = 14
GRID = (275, 512, 512)
SPACING_MM = (1.25, 0.75, 0.75)
PREPARED_MM = 1.5
PLANES = 4
"""Planes that are handed over at once, as viscera's windows do."""


def prepared_shape(grid: tuple[int, ...] = GRID) -> tuple[int, int, int]:
    """Return the voxels of the prepared grid."""
    z, y, x = (round(count * old / PREPARED_MM) for count, old in zip(grid, SPACING_MM, strict=True))
    return z, y, x


def write_logits(file: Path, grid: tuple[int, ...] = GRID) -> None:
    """Write logits of waved ellipsoids, plane by plane."""
    shape = prepared_shape(grid)
    logits = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=(CLASSES, *shape))
    draw = np.random.default_rng(0)
    centres, radii = draw.uniform(0.25, 0.75, (CLASSES, 3)), draw.uniform(0.08, 0.2, (CLASSES, 3))
    waves = draw.uniform(0, 2 * np.pi, (CLASSES, 2))
    y, x = (
        np.linspace(0, 1, count)[:, None] if axis else np.linspace(0, 1, count)
        for axis, count in ((1, shape[1]), (0, shape[2]))
    )
    for plane in range(shape[0]):
        z = plane / shape[0]
        logits[0, plane] = 0
        for index in range(1, CLASSES):
            (cz, cy, cx), (rz, ry, rx) = centres[index], radii[index]
            far = ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2
            wave = 0.2 * np.sin(24 * y + waves[index, 0] + 9 * z) * np.sin(24 * x + waves[index, 1])
            logits[index, plane] = np.clip(6 * (1 + wave - np.sqrt(far)), -12, 12)
    logits.flush()


def load(order: Order, clock: Clock) -> Segment:
    """Read the logits and return what exports them; ``how["who"]``: viscera or nnU-Net."""
    logits = np.load(order.scan)
    grid = tuple(int(count) for count in order.how["grid"].split("x"))
    export = our_export(logits, grid) if order.how["who"] == "viscera" else their_export(logits, grid)

    def segment(_: str, out: str) -> None:
        """Export, and keep the labels for comparison."""
        with clock.stage("labels"):
            labels = export()
        with clock.stage("kept for comparison"):
            np.save(out, labels)

    return segment


def our_export(logits: np.ndarray, grid: tuple[int, ...]) -> Callable[[], np.ndarray]:
    """Return viscera's export."""
    from viscera.inference.volumes import on_axial
    from viscera.inference.windows import Planes
    from viscera.preparation.geometry import Geometry
    from viscera.preparation.resampling import SliceGrid
    from viscera.volume import axial_turn

    z, y, x = logits.shape[1:]
    affine = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]) * np.array([*SPACING_MM, 1])
    slice_grid = SliceGrid(z, Fraction(0), Fraction(grid[0], z))
    step = Fraction(grid[1], y), Fraction(grid[2], x)
    geometry = Geometry((grid[0], grid[1], grid[2]), affine, axial_turn(affine), (y, x), (0, 0), step, slice_grid)

    def planes() -> Iterator[Planes]:
        """Return the logits as windows finish them."""
        for first in range(0, z, PLANES):
            part = logits[:, first : first + PLANES].astype(np.float32)
            yield Planes(first, first + part.shape[1], part, (slice(0, y), slice(0, x)))

    return lambda: on_axial(planes(), geometry)


def their_export(logits: np.ndarray, grid: tuple[int, ...]) -> Callable[[], np.ndarray]:
    """Return nnU-Net's export."""
    import torch
    from nnunetv2.inference.export_prediction import (  # pyright: ignore[reportMissingImports]
        convert_predicted_logits_to_segmentation_with_correct_shape,
    )
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # pyright: ignore[reportMissingImports]

    from benchmarks.peers import rivals as nnunet

    spacing_mm = [old * count / new for old, count, new in zip(SPACING_MM, grid, logits.shape[1:], strict=True)]
    configuration = nnunet.configuration_of(list(logits.shape[1:]), spacing_mm)
    manager = PlansManager(nnunet.plans_of({"3d_fullres": configuration}))
    properties = {
        "spacing": list(SPACING_MM),
        "shape_before_cropping": grid,
        "shape_after_cropping_and_before_resampling": grid,
        "bbox_used_for_cropping": [[0, count] for count in grid],
    }
    return lambda: convert_predicted_logits_to_segmentation_with_correct_shape(
        torch.from_numpy(logits),
        manager,
        manager.get_configuration("3d_fullres"),
        manager.get_label_manager(nnunet.dataset_of(CLASSES)),
        properties,
        num_threads_torch=torch.get_num_threads(),
    )


def compare(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Time both in alternating rounds; give rows for the JSON."""
    grid = tuple(options.export_grid or GRID)
    logits = folder / "logits.npy"
    write_logits(logits, grid)
    own_mib = logits.stat().st_size / 2**20
    rivals = {"viscera": (sys.executable, options.rounds)}
    if options.nnunet_python:
        rivals["nnU-Net"] = (options.nnunet_python, options.slow_rounds)
    found: dict[str, list[dict]] = {name: [] for name in rivals}
    for number in range(options.rounds):
        for name, (python, rounds) in rivals.items():
            if number < rounds:
                how = {"who": name, "grid": "x".join(map(str, grid))}
                order = Order(str(logits), str(folder / f"export_{len(name)}.npy"), how=how, most_gib=options.most_gib)
                found[name].append(competing("export", order, python=python, threads=options.threads))
                print("3D export", name, found[name][-1], flush=True)
    rows = []
    for name, rounds in found.items():
        failed = next((one["failed"] for one in rounds if "failed" in one), None)
        if failed:
            rows.append({"name": name, "failed": failed, "rounds": len(rounds)})
            continue
        seconds = [one["stages"]["labels"] for one in rounds]
        beyond = [one["peak_mib"] - one["start_up_mib"] for one in rounds]
        rows.append(
            {
                "name": name,
                "rounds": len(rounds),
                "median_s": statistics.median(seconds),
                "seconds": seconds,
                "peak_mib_beyond_logits": round(max(beyond), 1),
            }
        )
    ours = rows[0]
    for row in rows[1:]:
        if "median_s" in row and "median_s" in ours:
            row["times_ours"] = round(row["median_s"] / ours["median_s"], 1)
            kept = [np.load(folder / f"export_{len(name)}.npy", mmap_mode="r") for name in (ours["name"], row["name"])]
            row["voxels_unlike_ours_fraction"] = round(float(np.mean(kept[0] != kept[1])), 7)
    return {
        "classes": CLASSES,
        "prepared": "x".join(map(str, prepared_shape(grid))),
        "grid": "x".join(map(str, grid)),
        "logits_mib": round(own_mib, 1),
        "rows": rows,
    }


if __name__ == "__main__":
    measured(load)
