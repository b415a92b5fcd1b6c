"""What viscera's shortcuts save and change: slices that are skipped, exact upsampling, bf16, int8.

    python -m benchmarks.shortcuts unchanged RUN [--data DATASET] [--int8 FOLDER]  from the plain path to the fast one, step by step
    python -m benchmarks.shortcuts skipped RUN DATASET                              by how far apart slices are looked at first
    python -m benchmarks.shortcuts bundled [DATASET] [--others NAME=FILE.xml]      the bundled graphs: fp32 beside int8 (and others)

RUN is a trained 2D network's; DATASET a labelled data set in nnU-Net's layout: for ``unchanged`` the one that the run's own test
patients are in, for ``skipped`` and ``bundled`` one that it never saw (viscera synth). ``bundled`` also takes real scans with a
truth; without DATASET it only measures seconds again.

The plain path: the network as torch has it in fp32, every slice, all logits interpolated to the scanner's slices. One thing is
changed after the other, so that each step says what it costs. Real scans have no labels: there the plain path's (or those with
nothing skipped) are the truth.
"""

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.machine import DATA, RESULTS, alternate, facts, save
from benchmarks.studies.starter import UNSEEN, data_set, kidney_set
from viscera.config import SliceInference
from viscera.datasets.layouts import find_sources
from viscera.datasets.read_labels import read_labels
from viscera.datasets.sources import Source
from viscera.evaluation.metrics import confusion, overlap
from viscera.inference.model import Model, load_model
from viscera.inference.on_gpu import plain_labels
from viscera.inference.postprocessing.tidying import tidy
from viscera.inference.segment import prepare_scan, segment, segment_prepared
from viscera.inference.slices import enlargement_of, slice_logits
from viscera.io import nifti
from viscera.labels import LabelSpace, fit
from viscera.networks.bundled_graphs import find_graph
from viscera.networks.cards import find_shipped
from viscera.networks.doors import openvino_module
from viscera.networks.runners import OpenVinoRunner
from viscera.preparation.intensity import hounsfield
from viscera.volume import Volume, with_voxels

SCANS = (
    DATA / "lidc" / "LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz",
    DATA / "hcc_tace" / "HCC_048_portal_venous_ct.nii.gz",
    DATA / "hcc_tace" / "HCC_006_LIVER_3PHASE_ct.nii.gz",
)
PLAIN = "plain: torch fp32, all logits interpolated, every slice"
FAST = "and slices skipped: the default"
LOOKS_MM = (0.0, 5.0, 10.0, 20.0, 40.0)
WANTED = (("liver",), ("kidney", "spleen"))
Scan = tuple[str, Path, Source | None]
"""Name, file, and where its truth is."""


def main() -> None:
    """Run a sub-command and save what it measured."""
    torch.set_grad_enabled(False)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    steps, skipped = verbs.add_parser("unchanged"), verbs.add_parser("skipped")
    for verb, name in ((steps, "unchanged"), (skipped, "less")):
        verb.add_argument("run", type=Path)
        verb.add_argument("--name", default=name, help="of the JSON in benchmarks/results")
    steps.add_argument("--scans", type=Path, nargs="*", default=SCANS)
    steps.add_argument("--data", type=Path, help="the data set in nnU-Net's layout that the run was trained on")
    steps.add_argument("--int8", type=Path, help="the run exported in int8")
    steps.add_argument("--patients", type=int, default=0, help="at most so many test patients; 0: all")
    skipped.add_argument("dataset", type=Path)
    skipped.add_argument("--scans", type=Path, nargs="*", default=SCANS[:2])
    skipped.add_argument("--rounds", type=int, default=5)
    graphs = verbs.add_parser("bundled")
    graphs.add_argument("dataset", type=Path, nargs="?")
    graphs.add_argument("--others", nargs="*", default=[], help="NAME=FILE.xml")
    graphs.add_argument("--rounds", type=int, default=15)
    graphs.add_argument("--about", default="", help="how DATASET was made, for the JSON")
    graphs.add_argument("--name", default="int8_bundled", help="of the JSON in benchmarks/results")
    options = parser.parse_args()
    ways = {"unchanged": unchanged, "skipped": with_less, "bundled": bundled}
    print(save(options.name, facts("torch", "openvino") | ways[options.verb](options)))


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


def with_less(options: argparse.Namespace) -> dict[str, object]:
    """Measure seconds saved and Dice lost by looking at fewer slices, and where few organs are wanted."""
    model = load_model(options.run, accelerator="cpu", runtime="auto")
    return {
        "recipe": model.recipe.name,
        "runtime": getattr(model.network, "name", "torch"),
        "scans": [on_scan(model, scan, rounds=options.rounds) for scan in options.scans],
        "synthetic": on_labelled(model, options.dataset),
    }


def looking(model: Model, look_mm: float) -> Model:
    """Return a model that looks at slices so far apart first; 0: at all."""
    settings = model.recipe.inference
    if not isinstance(settings, SliceInference):
        raise SystemExit("RUN must be a 2D network's")
    return replace(model, recipe=replace(model.recipe, inference=replace(settings, look_mm=look_mm)))


def scan_of(path: Path) -> Volume:
    """Read a scan in HU."""
    ct = nifti.read(path)
    return with_voxels(ct, hounsfield(ct, where=path.name))


def steps_of(run: Path, int8: Path | None) -> dict[str, Model]:
    """Return the models of each step from plain to fast."""
    plain = replace(load_model(run, accelerator="cpu", runtime=None), autocast=None)
    fast = load_model(run, accelerator="cpu", runtime="openvino")
    steps = {
        PLAIN: plain,
        "exact upsampling": looking(plain, 0.0),
        f"and {fast.network.name} in {fast.precision}": looking(fast, 0.0),
        FAST: fast,
    }
    if int8:
        quantised = load_model(int8, accelerator="cpu", runtime="auto")
        steps |= {"int8, every slice": looking(quantised, 0.0), "int8, slices skipped": quantised}
    return steps


def plain_path(ct: Volume, model: Model) -> Volume:
    """Return labels by interpolating all logits of every slice."""
    scan = prepare_scan(ct, model)
    image, geometry = scan.images[model.recipe.preparation]
    enlargement = enlargement_of(geometry)
    axial = np.zeros(geometry.axial_shape, np.uint8)
    inside = geometry.raster.inside(geometry.axial_shape[1:]) if geometry.step is not None else (slice(None),) * 2
    for z in range(len(image)):
        axial[z, *inside] = plain_labels(slice_logits(image, model, range(z, z + 1)), enlargement)[0]
    z, y, x = (ct.spacing_mm[axis] for axis in geometry.turn.axes)
    axial = tidy(axial, (z, y, x), settings=model.recipe.postprocessing, space=model.space)
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


def truth_of(source: Source, space: LabelSpace) -> np.ndarray:
    """Return a patient's truth in the network's label space."""
    values = fit(space, dict(source.organs), source.annotated, unknown=source.unknown).values
    table = np.zeros(256, np.uint8)
    table[list(values)] = list(values.values())
    return table[read_labels(source).voxels]


def ways(model: Model) -> dict[str, tuple[Model, tuple[int, ...]]]:
    """Return the rivals: the model that looks, and the organs that are wanted."""
    found = {f"{look:g} mm": (looking(model, look), ()) for look in LOOKS_MM}
    for organs in WANTED:
        indices = tuple(model.space.index(organ) for organ in organs)
        found[f"10 mm, only {' and '.join(organs)}"] = (looking(model, 10.0), indices)
    return found


def on_scan(model: Model, path: Path, *, rounds: int) -> dict[str, object]:
    """Time the rivals in turn, and compare their labels with those of all slices."""
    scan = prepare_scan(scan_of(path), model)
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
        truth, scan = truth_of(source, model.space), prepare_scan(scan_of(source.image), model)
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


def bundled(options: argparse.Namespace) -> dict[str, object]:
    """Measure the bundled graphs' Dice, where there is a data set, and their seconds."""
    dice = {} if options.dataset else json.loads((RESULTS / f"{options.name}.json").read_text())["dice"]
    with tempfile.TemporaryDirectory() as made:
        files = self_contained(Path(made), options.others)
        if options.dataset:
            model = load_model(Path("starter"), accelerator="cpu", runtime=None)
            shape = model.network.stride, model.network.dimensions
            models = {name: replace(model, network=OpenVinoRunner(file, shape)) for name, file in files.items()}
            data_set(Path(made) / "20 slices", "ts20", DATA / UNSEEN)
            kidney_set(Path(made) / "kidneys")
            sets = {"synthetic": options.dataset} | {name: Path(made) / name for name in ("20 slices", "kidneys")}
            dice = facts("openvino") | {name: graphs_on(models, folder) for name, folder in sets.items()}
        return {"about": options.about, "dice": dice, "speed": graph_seconds(files, options.rounds)}


def self_contained(folder: Path, others: list[str]) -> dict[str, Path]:
    """Return {name: .xml with its .bin beside it} of the bundled graphs and of others."""
    openvino, shipped = openvino_module(), find_shipped()
    found = {}
    for precision in ("fp32", "int8"):
        graph = find_graph(shipped, precision)
        if graph is None:
            raise SystemExit("the bundled weights have no graphs: run tools/bundle_graphs.py")
        found[precision] = folder / f"{precision}.xml"
        network = openvino.Core().read_model(graph.file, graph.weights)
        openvino.save_model(network, found[precision], compress_to_fp16=False)
    return found | {name: Path(file) for name, _, file in (other.partition("=") for other in others)}


def graphs_on(models: dict[str, Model], dataset: Path) -> dict[str, object]:
    """Return each graph's Dice with the truth per organ, and its difference from fp32's, over cases that show the organ."""
    space, dice = models["fp32"].space, {name: [] for name in models}
    sources, _ = find_sources("nnunet", dataset)
    for source in sources:
        truth, ct = truth_of(source, space), scan_of(source.image)
        shown = np.bincount(truth.ravel(), minlength=len(space.classes))[1:] > 0
        for name, model in models.items():
            counts = confusion(truth, segment(ct, model).voxels, len(space.classes))
            found = np.array([overlap(counts, index).dice for index in space.labels])
            dice[name].append(np.where(shown, found, np.nan))
        print(source.name, {name: round(float(np.nanmean(rows[-1])), 4) for name, rows in dice.items()}, flush=True)
    exact = np.array(dice["fp32"])
    return {"cases": len(sources), "rows": [beside(name, np.array(dice[name]), exact, space) for name in models]}


def beside(name: str, dice: np.ndarray, exact: np.ndarray, space: LabelSpace) -> dict[str, object]:
    """Return a graph's Dice (case, organ) beside the fp32 graph's."""
    seen = np.flatnonzero(~np.isnan(exact).all(axis=0))
    organs = [space.organs[place] for place in seen]
    mean, change = np.nanmean(dice[:, seen], axis=0), np.nanmean((dice - exact)[:, seen], axis=0)
    return {
        "graph": name,
        "mean_dice": round(float(mean.mean()), 5),
        "mean_difference": round(float(change.mean()), 5),
        "worst_organ": organs[int(change.argmin())],
        "worst_difference": round(float(change.min()), 5),
        "worst_difference_of_a_case": round(float(np.nanmin(dice - exact)), 5),
        "dice": dict(zip(organs, mean.round(5).tolist(), strict=True)),
        "difference": dict(zip(organs, change.round(5).tolist(), strict=True)),
    }


def graph_seconds(files: dict[str, Path], rounds: int) -> dict[str, object]:
    """Time each graph on slices of 144x176: one on one thread, then eight on two streams."""
    openvino, image = openvino_module(), np.random.default_rng(0).random((1, 3, 144, 176), np.float32)
    content: dict[str, object] = {"slice": image.shape, "load_before": os.getloadavg()}
    for streams, slices in ((1, 1), (2, 8)):
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": streams, "NUM_STREAMS": streams}
        ready = {name: openvino.Core().compile_model(file, "CPU", settings) for name, file in files.items()}
        queues = {name: openvino.AsyncInferQueue(one, streams) for name, one in ready.items()}

        def run(queue: "openvino.AsyncInferQueue", slices: int = slices) -> None:
            for _ in range(slices):
                queue.start_async([image])
            queue.wait_all()

        for clock in (time.process_time, time.perf_counter):
            seconds = alternate({n: (lambda q=q: run(q), rounds + 2) for n, q in queues.items()}, clock=clock)
            content[f"{streams} stream(s), {clock.__name__}, ms per slice"] = {
                name: round(1000 * median(times[2:]) / slices, 1) for name, times in seconds.items()
            }
    return content | {"load_after": os.getloadavg()}


def dice_of(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Dice of two masks of which one holds something."""
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


if __name__ == "__main__":
    main()
