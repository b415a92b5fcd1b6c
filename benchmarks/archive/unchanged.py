"""What exact upsampling, bf16, int8 and skipped slices change of the labels: from the plain path to the fast one.

    python -m benchmarks.archive.unchanged RUN [--data DATASET] [--int8 FOLDER]

RUN is a trained 2D network's; DATASET the labelled data set in nnU-Net's layout that the run's own test patients are in. The plain
path: the network as torch has it in fp32, every slice, all logits interpolated to the scanner's slices. One thing is changed after
the other, so that each step says what it costs. Real scans have no labels: there the plain path's are the truth.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import DATA, facts, save
from benchmarks.shortcuts import SCANS, changed, scan_of, truth_of
from viscera.datasets.layouts import find_sources
from viscera.datasets.sources import Source
from viscera.evaluation.metrics import confusion, overlap
from viscera.inference.model import Model, load_model
from viscera.inference.on_gpu import plain_labels
from viscera.inference.postprocessing.edges_by_hu import Seen
from viscera.inference.postprocessing.tidying import tidy
from viscera.inference.segment import prepare_scan, segment
from viscera.inference.slices import enlargement_of, slice_logits
from viscera.io import nifti
from viscera.labels import LabelSpace
from viscera.networks.torch_runner import TorchRunner
from viscera.volume import Volume, with_voxels

PLAIN = "plain: torch fp32, all logits interpolated, every slice"
FAST = "and slices skipped: the default"
EVERY = {"look_mm": 0.0, "step_mm": 0.0}
"""Settings with which every slice goes through the network."""
Scan = tuple[str, Path, Source | None]
"""Name, file, and where its truth is."""


def main() -> None:
    """Compare the steps and save what they change."""
    torch.set_grad_enabled(False)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", default="unchanged", help="of the JSON in benchmarks/results")
    parser.add_argument(
        "--scans", type=Path, nargs="*", default=(*SCANS, DATA / "hcc_tace" / "HCC_006_LIVER_3PHASE_ct.nii.gz")
    )
    parser.add_argument("--data", type=Path, help="the data set in nnU-Net's layout that the run was trained on")
    parser.add_argument("--int8", type=Path, help="the run exported in int8")
    parser.add_argument("--patients", type=int, default=0, help="at most so many test patients; 0: all")
    options = parser.parse_args()
    print(save(options.name, facts("torch", "openvino") | unchanged(options)))


def unchanged(options: argparse.Namespace) -> dict[str, object]:
    """Compare each step's labels with the plain path's, on real scans and on the run's test patients."""
    steps = steps_of(options.run, options.int8)
    plain = steps[PLAIN]
    scans: list[Scan] = [(nifti.stem(path), path, None) for path in options.scans]
    content = {"recipe": plain.recipe.name, "classes": len(plain.space.classes), "scans": compared(scans, steps)}
    if options.data:
        sources = test_patients(options.run, options.data)[: options.patients or None]
        content["patients"] = compared([(source.name, source.image, source) for source in sources], steps)
    return content


def steps_of(run: Path, int8: Path | None) -> dict[str, Model]:
    """Return the models of each step from plain to fast."""
    plain = load_model(run, accelerator="cpu", runtime=None)
    plain = replace(plain, network=TorchRunner(plain.module))
    fast = load_model(run, accelerator="cpu", runtime="openvino")
    steps = {
        PLAIN: plain,
        "exact upsampling": changed(plain, **EVERY),
        f"and {fast.network.name} in {fast.network.precision}": changed(fast, **EVERY),
        FAST: fast,
    }
    if int8:
        quantised = load_model(int8, accelerator="cpu", runtime="auto")
        steps |= {"int8, every slice": changed(quantised, **EVERY), "int8, slices skipped": quantised}
    return steps


def plain_path(ct: Volume, model: Model) -> Volume:
    """Return labels by interpolating all logits of every slice."""
    scan = prepare_scan(ct, model)
    image, geometry = scan.images[model.recipe.preparation]
    enlargement = enlargement_of(geometry)
    axial = np.zeros(geometry.axial_shape, np.uint8)
    inside = geometry.pixel_grid.inside(geometry.axial_shape[1:]) if geometry.step is not None else (slice(None),) * 2
    for z in range(len(image)):
        axial[z, *inside] = plain_labels(torch.from_numpy(slice_logits(image, model, range(z, z + 1))), enlargement)[0]
    z, y, x = (ct.spacing_mm[axis] for axis in geometry.turn.axes)
    settings, seen = model.recipe.postprocessing, Seen(image, geometry)
    axial = tidy(axial, (z, y, x), settings=settings, space=model.space, seen=seen)
    return with_voxels(ct, geometry.turn.undo(axial))


def compared(scans: list[Scan], steps: dict[str, Model]) -> dict[str, object]:
    """Compare each step's labels with the plain path's, and with the truth where there is one."""
    space = steps[PLAIN].space
    classes = len(space.classes)
    with_plain = {name: np.zeros((classes, classes), np.int64) for name in steps}
    with_truth = {name: [] for name in steps}
    differing: dict[str, list[int]] = {name: [] for name in steps}
    for case, path, source in scans:
        ct = scan_of(path)
        truth = None if source is None else truth_of(source, space)
        plain = np.zeros(0)
        for name, model in steps.items():
            labels = (plain_path(ct, model) if name == PLAIN else segment(ct, model)).voxels
            plain = labels if name == PLAIN else plain
            with_plain[name] += confusion(plain, labels, classes)
            differing[name].append(int(np.count_nonzero(labels != plain)))
            if truth is not None:
                with_truth[name].append(
                    [overlap(confusion(truth, labels, classes), index).dice for index in space.labels]
                )
        print(case, {name: counts[-1] for name, counts in differing.items()}, flush=True)
    rows = []
    for name, counts in with_plain.items():
        row = {
            "step": name,
            "voxels_unlike_plain": differing[name],
            "unlike_plain_fraction": round(sum(differing[name]) / max(1, int(counts.sum())), 8),
            "dice_with_plain": by_organ([overlap(counts, index).dice for index in space.labels], space),
        }
        if with_truth[name]:
            row |= against_truth(np.array(with_truth[name]), np.array(with_truth[PLAIN]), space)
        rows.append(row)
    return {"cases": [case for case, _, _ in scans], "rows": rows}


def against_truth(dice: np.ndarray, plain: np.ndarray, space: LabelSpace) -> dict[str, object]:
    """Return mean Dice with the truth, and its difference from the plain path's in points: per organ, and the largest of a case."""
    points = 100 * (dice - plain)
    mean = np.nanmean(points, axis=0)
    return {
        "dice_with_truth": by_organ(np.nanmean(dice, axis=0).tolist(), space),
        "mean_dice_with_truth": round(float(np.nanmean(dice)), 5),
        "dice_points_from_plain": by_organ(mean.tolist(), space),
        "mean_dice_points_from_plain": round(float(np.nanmean(points)), 4),
        "largest_dice_points_of_a_case": round(float(np.nanmax(np.abs(points))), 4),
    }


def by_organ(values: list[float], space: LabelSpace) -> dict[str, float | None]:
    """Return {organ: value}, None for one that no case holds."""
    return {
        organ: None if np.isnan(value) else round(value, 5) for organ, value in zip(space.organs, values, strict=True)
    }


def test_patients(run: Path, data: Path) -> list[Source]:
    """List the data set's patients that the run kept for testing."""
    names = set(json.loads((run / "run.json").read_text())["splits"]["test"])
    sources, _ = find_sources("nnunet", data)
    found = [source for source in sources if f"{source.dataset}__{source.name}" in names and source.labels is not None]
    if not found:
        raise SystemExit(f"{data} holds none of the run's test patients: {', '.join(sorted(names))}")
    return found


if __name__ == "__main__":
    main()
