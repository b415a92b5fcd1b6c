"""What viscera's shortcuts save and change: slices that are skipped or mixed, int8.

    python -m benchmarks.shortcuts skipped RUN DATASET                           by how far apart slices are looked at first
    python -m benchmarks.shortcuts steps [--patients N]                          the bundled weights: fewer slices, and int8
    python -m benchmarks.shortcuts bundled [DATASET] [--others NAME=FILE.xml]    the bundled graphs: fp32 beside int8 (and others)

RUN is a trained 2D network's; DATASET a labelled data set in nnU-Net's layout that it never saw (viscera synth). Without
DATASET ``bundled`` only measures seconds again. In ``skipped`` the labels of all slices stand for the truth of real scans.

``steps`` makes its patients, and scores label maps on the scanner's grid, tidied, as `viscera predict` writes them. What it has
measured stands in runs/NAME.json after each patient, so that an interrupted call goes on, and a later one can add patients.
"""

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np

from benchmarks.machine import DATA, RESULTS, ROOT, alternate, facts, save
from benchmarks.studies.starter import UNSEEN, data_set, kidney_set
from viscera.config import SliceInference
from viscera.datasets.layouts import find_sources
from viscera.datasets.read_labels import read_labels
from viscera.datasets.sources import Source
from viscera.evaluation.metrics import confusion, overlap
from viscera.evaluation.scores import MEAN, OrganScore
from viscera.evaluation.statistics import summarise
from viscera.inference.model import Model, load_model
from viscera.inference.segment import prepare_scan, segment, segment_prepared
from viscera.inference.slices import kept_step
from viscera.io import nifti
from viscera.io.atomic import sha256, write_json
from viscera.labels import LabelSpace, fit
from viscera.networks.bundled_graphs import BundledGraph, Precision, find_graph
from viscera.networks.cards import find_shipped
from viscera.networks.doors import openvino_module
from viscera.networks.runners import OpenVinoRunner
from viscera.preparation.intensity import hounsfield
from viscera.synthesis.patient import synthesize
from viscera.synthesis.variety import RICH
from viscera.volume import Volume, with_voxels

SCANS = (
    DATA / "lidc" / "LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz",
    DATA / "hcc_tace" / "HCC_048_portal_venous_ct.nii.gz",
)
LOOKS_MM = (0.0, 5.0, 10.0, 20.0, 40.0)
WANTED = (("liver",), ("kidney", "spleen"))
SLICES_MM = (1.0, 1.5, 2.0, 3.0, 5.0)
SEED, LONG_MM = 62_000, 288.0
"""Of the patients of ``steps``: which no training (4001, 5001), calibration (7001, 7002) or earlier test (61001) had."""
ARMS: dict[str, tuple[Precision, float]] = {
    "before": ("fp32", 0.0),
    "step 2 mm": ("fp32", 2.0),
    "step 3 mm": ("fp32", 3.0),
    "step 5 mm": ("fp32", 5.0),
    "after": ("int8", 3.0),
}
"""{arm of ``steps``: graph, and the recipe's ``step_mm``}; "after" is `viscera predict` where int8 is faster."""


def main() -> None:
    """Run a sub-command and save what it measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    skipped = verbs.add_parser("skipped")
    skipped.add_argument("run", type=Path)
    skipped.add_argument("dataset", type=Path)
    skipped.add_argument("--scans", type=Path, nargs="*", default=SCANS)
    skipped.add_argument("--rounds", type=int, default=5)
    steps = verbs.add_parser("steps")
    steps.add_argument("--patients", type=int, default=8, help="of each slice thickness")
    graphs = verbs.add_parser("bundled")
    graphs.add_argument("dataset", type=Path, nargs="?")
    graphs.add_argument("--others", nargs="*", default=[], help="NAME=FILE.xml")
    graphs.add_argument("--rounds", type=int, default=15)
    graphs.add_argument("--about", default="", help="how DATASET was made, for the JSON")
    for verb, name in ((skipped, "less"), (steps, "slice_step"), (graphs, "int8_bundled")):
        verb.add_argument("--name", default=name, help="of the JSON in benchmarks/results")
    options = parser.parse_args()
    ways = {"skipped": with_less, "steps": with_steps, "bundled": bundled}
    print(save(options.name, facts("torch", "openvino") | ways[options.verb](options)))


def with_less(options: argparse.Namespace) -> dict[str, object]:
    """Measure seconds saved and Dice lost by looking at fewer slices, and where few organs are wanted."""
    model = changed(load_model(options.run, accelerator="cpu", runtime="auto"), step_mm=0.0)
    return {
        "recipe": model.recipe.name,
        "runtime": getattr(model.network, "name", "torch"),
        "scans": [on_scan(model, scan, rounds=options.rounds) for scan in options.scans],
        "synthetic": on_labelled(model, options.dataset),
    }


def changed(model: Model, **settings: float) -> Model:
    """Return a model with other settings of ``SliceInference``, such as ``look_mm`` and ``step_mm``."""
    if not isinstance(model.recipe.inference, SliceInference):
        raise SystemExit("RUN must be a 2D network's")
    return replace(model, recipe=replace(model.recipe, inference=replace(model.recipe.inference, **settings)))


def scan_of(path: Path) -> Volume:
    """Read a scan in HU."""
    ct = nifti.read(path)
    return with_voxels(ct, hounsfield(ct, where=path.name))


def truth_of(source: Source, space: LabelSpace) -> np.ndarray:
    """Return a patient's truth in the network's label space."""
    fitted = fit(space, dict(source.organs), source.annotated, unknown=source.unknown)
    return in_space(read_labels(source).voxels, fitted.values)


def in_space(labels: np.ndarray, values: dict[int, int]) -> np.ndarray:
    """Return labels with each of their values replaced by another, and all else 0."""
    table = np.zeros(256, np.uint8)
    table[list(values)] = list(values.values())
    return table[labels]


def dice_per_organ(truth: np.ndarray, found: np.ndarray, space: LabelSpace) -> np.ndarray:
    """Return each organ's Dice, NaN where the truth does not show it."""
    counts = confusion(truth, found, len(space.classes))
    dice = np.array([overlap(counts, index).dice for index in space.labels])
    return np.where(counts.sum(axis=1)[1:] > 0, dice, np.nan)


def ways(model: Model) -> dict[str, tuple[Model, tuple[int, ...]]]:
    """Return the rivals: the model that looks, and the organs that are wanted."""
    found = {f"{look:g} mm": (changed(model, look_mm=look), ()) for look in LOOKS_MM}
    for organs in WANTED:
        indices = tuple(model.space.index(organ) for organ in organs)
        found[f"10 mm, only {' and '.join(organs)}"] = (changed(model, look_mm=10.0), indices)
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
        counts = np.isin(every, counted) | np.isin(labels[name], counted)
        found = dice_per_organ(every, labels[name], model.space)[np.array(counted) - 1]
        dice = {
            model.space.classes[index]: round(one, 5) for index, one in zip(counted, found, strict=True) if one >= 0
        }
        rows.append(
            {
                "way": name,
                "median_s": median(seconds[name]),
                "seconds": seconds[name],
                "voxels_that_differ": int((counts & (every != labels[name])).sum()),
                "lowest_dice_to_all_slices": min(dice.values(), default=1.0),
                "organ_of_it": min(dice, key=lambda organ: dice[organ], default=None),
            }
        )
        print(path.name, rows[-1], flush=True)
    return {"scan": path.name, "shape": list(every.shape), "voxels": int(every.size), "rows": rows}


def on_labelled(model: Model, dataset: Path) -> dict[str, object]:
    """Compare the rivals' Dice per organ with that of all slices, over patients with a truth."""
    rivals = ways(model)
    dice, seconds = {name: [] for name in rivals}, dict.fromkeys(rivals, 0.0)
    sources, _ = find_sources("nnunet", dataset)
    for source in sources:
        truth, scan = truth_of(source, model.space), prepare_scan(scan_of(source.image), model)
        for name, (one, organs) in rivals.items():
            start = time.perf_counter()
            found = segment_prepared(scan, one, organs=organs).labels.voxels
            seconds[name] += time.perf_counter() - start
            dice[name].append(dice_per_organ(truth, found, model.space))
    rows, exact = [], np.array(dice["0 mm"])
    for name, (_, organs) in rivals.items():
        level = over_patients(np.array(dice[name]), model.space)
        change = over_patients(np.array(dice[name]) - exact, model.space)
        counted = [organ for organ in level if organ != MEAN and (not organs or model.space.index(organ) in organs)]
        rows.append(
            {
                "way": name,
                "seconds": round(seconds[name], 2),
                "dice_mean": round(float(np.mean([level[organ][0] for organ in counted])), 5),
                "dice_points": {organ: round(100 * change[organ][0], 3) for organ in counted},
            }
        )
    return {"patients": len(sources), "rows": rows}


def with_steps(options: argparse.Namespace) -> dict[str, object]:
    """Measure the Dice of every arm beside that of all slices in fp32, on synthetic patients of each thickness and real scans."""
    graphs = bundled_graphs()
    model = load_model(Path("starter"), accelerator="cpu", runtime="openvino")
    shape = model.network.stride, model.network.dimensions
    runners = {name: OpenVinoRunner(graph.file, shape, weights=graph.weights) for name, graph in graphs.items()}
    arms = {name: changed(replace(model, network=runners[graph]), step_mm=step) for name, (graph, step) in ARMS.items()}
    hashes = {name: sha256(graph.weights) for name, graph in graphs.items()}
    file = ROOT / "runs" / f"{options.name}.json"
    measured = json.loads(file.read_text()) if file.exists() else {"graphs": hashes, "cases": {}}
    if measured["graphs"] != hashes:
        raise SystemExit(f"{file} is of other graphs: remove it")
    for cohort, case, make in cases(options.patients, model.space):
        if f"{cohort}/{case}" not in measured["cases"]:
            measured["cases"][f"{cohort}/{case}"] = {"cohort": cohort} | on_case(*make(), arms)
            write_json(file, measured)
            print(cohort, case, flush=True)
    cohorts = summed_up(list(measured["cases"].values()), model.space)
    return {"look_mm": model.recipe.inference.look_mm, "arms": ARMS, "cohorts": cohorts}


def bundled_graphs() -> dict[Precision, BundledGraph]:
    """Return the bundled weights' graphs."""
    found = {precision: find_graph(find_shipped(), precision) for precision in get_args(Precision)}
    if None in found.values():
        raise SystemExit("the bundled weights have no graphs: run tools/bundle_graphs.py")
    return found  # type: ignore[return-value]


def cases(patients: int, space: LabelSpace) -> Iterator[tuple[str, str, Callable[[], tuple[Volume, np.ndarray]]]]:
    """List the cohort and name of each case of ``steps``, and what makes its scan and its truth; other patients in each cohort."""
    with tempfile.TemporaryDirectory() as made:
        data_set(Path(made) / "20 slices", "ts20", DATA / UNSEEN)
        kidney_set(Path(made) / "kidneys")
        for cohort in ("20 slices", "kidneys"):
            for source in find_sources("nnunet", Path(made) / cohort)[0]:
                yield cohort, source.name, lambda one=source: (scan_of(one.image), truth_of(one, space))
        for number in range(1, patients + 1):
            for slice_mm in SLICES_MM:
                yield f"{slice_mm:g} mm", str(number), partial(synthetic, number, slice_mm, space)


def synthetic(number: int, slice_mm: float, space: LabelSpace) -> tuple[Volume, np.ndarray]:
    """Make a patient of 288 mm on pixels of 2 mm."""
    generator, shape = np.random.default_rng([SEED, int(10 * slice_mm), number]), (round(LONG_MM / slice_mm), 192, 192)
    patient = synthesize(generator, shape=shape, spacing_mm=(slice_mm, 2.0, 2.0), variety=RICH)
    values = fit(space, patient.organs, tuple(patient.organs.values())).values
    return patient.ct, in_space(patient.labels.voxels, values)


def on_case(ct: Volume, truth: np.ndarray, arms: dict[str, Model]) -> dict[str, object]:
    """Return each arm's Dice per organ and CPU seconds; arms that give the same slices to the same graph run once."""
    scan, first = prepare_scan(ct, arms["before"]), arms["before"].recipe
    slice_mm = scan.images[first.preparation][1].spacing_mm[0]
    rows, of_arm = {}, {}
    for name, model in arms.items():
        of_arm[name] = model.network.precision, kept_step(slice_mm, model.recipe.inference)
        if of_arm[name] not in rows:
            start = time.process_time()
            found = segment_prepared(scan, model).labels.voxels
            row = {"nth_slice": of_arm[name][1], "cpu_s": round(time.process_time() - start, 2)}
            dice = [None if np.isnan(one) else float(one) for one in dice_per_organ(truth, found, model.space)]
            rows[of_arm[name]] = row | {"dice": dice}
    found = {name: rows[key] for name, key in of_arm.items()}
    return {"slice_mm": round(slice_mm, 3), "shape": ct.shape, "arms": found}


def summed_up(measured: list[dict], space: LabelSpace) -> list[dict[str, object]]:
    """Return a row for each cohort, and one for all synthetic patients, with those arms that are not "before" again."""
    cohorts = defaultdict(list)
    for case in measured:
        cohorts[case["cohort"]].append(case)
    cohorts["all synthetic"] = [case for case in measured if case["cohort"].endswith("mm")]
    return [
        {
            "cohort": name,
            "patients": len(rows),
            "slice_mm": sorted({case["slice_mm"] for case in rows}),
            "arms": [arm_row(arm, rows, space) for arm in ARMS if arm == "before" or not as_before(arm, rows)],
        }
        for name, rows in cohorts.items()
    ]


def as_before(arm: str, cases: list[dict]) -> bool:
    """Return whether an arm took every slice in fp32 in all cases."""
    return all(case["arms"][arm] == case["arms"]["before"] for case in cases)


def arm_row(arm: str, cases: list[dict], space: LabelSpace) -> dict[str, object]:
    """Return an arm's Dice beside "before", which slices it looked at, and its mean CPU seconds."""
    dice, exact = (np.array([case["arms"][name]["dice"] for case in cases], float) for name in (arm, "before"))
    seconds = float(np.mean([case["arms"][arm]["cpu_s"] for case in cases]))
    nth = sorted({case["arms"][arm]["nth_slice"] for case in cases})
    return {"nth_slice": nth, "cpu_s": round(seconds, 2)} | beside(arm, dice, exact, space)


def beside(name: str, dice: np.ndarray, exact: np.ndarray, space: LabelSpace) -> dict[str, object]:
    """Return an arm's Dice (case, organ), and its difference from the exact one's with a 95 % interval over patients."""
    level, change = over_patients(dice, space), over_patients(dice - exact, space)
    mean = level.pop(MEAN)[0]
    rows = {
        organ: {"patients": one[3], "dice": one[0], "difference": change[organ][:3]} for organ, one in level.items()
    }
    return {
        "arm": name,
        "mean_dice": mean,
        "mean_difference": change[MEAN][:3],
        "worst_organ": min(rows, key=lambda organ: rows[organ]["difference"][0]),
        "worst_difference_of_a_case": round(float(np.nanmin(dice - exact)), 5),
        "organs": rows,
    }


def over_patients(values: np.ndarray, space: LabelSpace) -> dict[str, tuple[float, float | None, float | None, int]]:
    """Return {organ, or "mean" of all: mean, its 95 % interval and number of patients} of values (patient, organ)."""
    scores = [
        OrganScore(str(patient), str(patient), organ, {"dice": value})
        for patient, row in enumerate(values.tolist())
        for organ, value in zip(space.organs, row, strict=True)
    ]
    found = {}
    for row in summarise(scores, np.random.default_rng(0)):
        ends = (None if np.isnan(end) else round(end, 5) for end in (row.low, row.high))
        found[row.organ] = (round(row.mean, 5), *ends, row.cases)
    return found


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
    openvino, found = openvino_module(), {}
    for precision, graph in bundled_graphs().items():
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
        for name, model in models.items():
            dice[name].append(dice_per_organ(truth, segment(ct, model).voxels, space))
        print(source.name, {name: round(float(np.nanmean(rows[-1])), 4) for name, rows in dice.items()}, flush=True)
    exact = np.array(dice["fp32"])
    return {"cases": len(sources), "rows": [beside(name, np.array(dice[name]), exact, space) for name in models]}


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


if __name__ == "__main__":
    main()
