"""What moving an organ's edge by HU gains and loses, per organ: on synthetic patients and on real scans.

    python -m benchmarks.studies.edges_by_hu [WEIGHTS] [--patients 8] [--reach-mm 4] [--organs liver spleen ...]

Each scan is segmented once and tidied twice: as the recipe says without ``edge_by_hu_mm``, and with it for all the organs asked
for. Synthetic patients are rich ones of the abdomen, as many unenhanced as portal venous, of thin (2 mm) and of thick (5 mm)
slices; of the differences there are bootstrap intervals over patients. The real scans are those of real_scans.py, and
ts_example_ct_3mm, which is unenhanced: bundled weights learnt from its label map, never from its image, and what is compared is
before and after. The recipe moves only edges of organs that gain on both. Writes results/edges_by_hu.json.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.machine import DATA, facts, save
from benchmarks.studies.real_scans import RealScan, read_ct, real_scans, signed_distances_mm
from benchmarks.studies.starter import UNLABELLED
from viscera.config.inference import Postprocessing
from viscera.evaluation.evaluate import Rules
from viscera.evaluation.metrics import surface_scores
from viscera.inference.model import Model, load_model
from viscera.inference.postprocessing.edges_by_hu import Seen
from viscera.inference.postprocessing.tidying import tidy
from viscera.inference.segment import prepare_scan, segment_prepared
from viscera.synthesis.appearance.tissues import draw_phase
from viscera.synthesis.patient import synthesize
from viscera.synthesis.variety import RICH, open_streams, without
from viscera.volume import Volume

ORGANS = ("liver", "spleen", "kidney_right", "kidney_left", "stomach", "aorta", "urinary_bladder", "pancreas")
SLICES = {"thin": ((128, 320, 320), (2.0, 1.2, 1.2)), "thick": ((56, 320, 320), (5.0, 1.2, 1.2))}
PHASES = ("none", "portal")
VARIETY = without(RICH, ["scan_range"])
STRICT_MM = 2.0
"""A tolerance that is the same for all organs, and narrower than FLARE's."""
DRAWS = 2000
MEASURES = ("dice", "nsd", "nsd_2mm", "signed_mm")


def synthetic_scans(patients: int, seed: int) -> Iterator[tuple[str, RealScan]]:
    """Return so many patients of each phase and thickness, under the name of their kind."""
    left = {(phase, slices): patients for phase in PHASES for slices in SLICES}
    number = 0
    while any(left.values()):
        number += 1
        # The phase is drawn from a stream of its own, so that it can be known before the patient is made.
        phase = str(draw_phase(open_streams(np.random.default_rng([seed, number]), VARIETY)["phase"]))
        slices = max(SLICES, key=lambda one, phase=phase: left.get((phase, one), 0))
        if not left.get((phase, slices)):
            continue
        left[phase, slices] -= 1
        shape, spacing_mm = SLICES[slices]
        patient = synthesize(
            np.random.default_rng([seed, number]),
            shape=shape,
            spacing_mm=spacing_mm,
            orientation="axial",
            variety=VARIETY,
        )
        truth = patient.labels.voxels.astype(np.uint8)
        yield f"{phase}, {slices}", RealScan(f"synthetic {number}", patient.ct, truth, patient.organs)


def both_ways(ct: Volume, model: Model, moved: Postprocessing) -> tuple[list[np.ndarray], float]:
    """Return a scan's labels in axial order, tidied without and with moved edges, and the CPU seconds that these take more."""
    bare = replace(model, recipe=replace(model.recipe, postprocessing=Postprocessing()))
    prepared = prepare_scan(ct, bare)
    image, geometry = prepared.images[model.recipe.preparation]
    found = np.ascontiguousarray(geometry.turn.apply(segment_prepared(prepared, bare).labels.voxels))
    z, y, x = (ct.spacing_mm[axis] for axis in geometry.turn.axes)
    results, seconds = [], []
    for settings in (replace(moved, edge_by_hu_mm={}), moved):
        start = time.process_time()
        results.append(tidy(found, (z, y, x), settings=settings, space=model.space, seen=Seen(image, geometry)))
        seconds.append(time.process_time() - start)
    return [geometry.turn.undo(one) for one in results], seconds[1] - seconds[0]


def differences(scan: RealScan, model: Model, moved: Postprocessing) -> dict[str, dict[str, list[float]]]:
    """Return {organ: {measure: [before, after]}} of a scan."""
    before, after = both_ways(scan.ct, model, moved)[0]
    pair = scan.pair(Volume(before, scan.ct.affine), model.space)
    rules, found = Rules(), {}
    for organ in moved.edge_by_hu_mm:
        index = model.space.index(organ)
        truth = pair.truth.voxels == index
        if organ not in pair.annotated or not truth.any():
            continue
        rows = []
        for labels in (before, after):
            mask = labels == index
            spacing_mm = scan.ct.spacing_mm
            wide, narrow = (
                surface_scores(truth, mask, spacing_mm, tolerance_mm=mm)
                for mm in (rules.tolerance_mm(organ), STRICT_MM)
            )
            dice = 2 * np.count_nonzero(truth & mask) / (np.count_nonzero(truth) + np.count_nonzero(mask))
            rows.append((dice, wide.nsd, narrow.nsd, signed_distances_mm(truth, mask, spacing_mm)[0]))
        found[organ] = {
            name: [None if np.isnan(value) else round(float(value), 4) for value in values]
            for name, values in zip(MEASURES, zip(*rows, strict=True), strict=True)
        }
    return found


def summary(scans: list[dict[str, dict[str, list[float]]]]) -> dict[str, dict]:
    """Return {organ: {measure: mean before, mean gain, its 95 % bootstrap interval, n}} over patients."""
    table: dict[str, dict] = {}
    for organ in dict.fromkeys(organ for scan in scans for organ in scan):
        rows = [scan[organ] for scan in scans if organ in scan]
        table[organ] = {"n": len(rows), "worse": sum(row["dice"][1] < row["dice"][0] for row in rows)}
        for measure in MEASURES:
            pairs = np.array([row[measure] for row in rows if None not in row[measure]], float)
            if not len(pairs):
                continue
            gain = pairs[:, 1] - pairs[:, 0]
            drawn = np.random.default_rng(0).integers(0, len(gain), (DRAWS, len(gain)))
            low, high = np.quantile(gain[drawn].mean(axis=1), (0.025, 0.975))
            values = {"before": pairs[:, 0].mean(), "gain": gain.mean(), "low": low, "high": high}
            table[organ][measure] = {key: round(float(value), 4) for key, value in values.items()}
    return table


def seconds_of(model: Model, moved: Postprocessing) -> dict[str, float]:
    """Return the CPU seconds more that the recipe's own organs take, on scans that nobody annotated."""
    names = {Path(scan).name: read_ct(DATA / f"{scan}_ct.nii.gz") for scan in UNLABELLED}
    return {name: round(min(both_ways(ct, model, moved)[1] for _ in range(2)), 3) for name, ct in names.items()}


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="?", default=Path("starter"))
    parser.add_argument("--patients", type=int, default=8, help="of each phase and thickness")
    parser.add_argument("--seed", type=int, default=9100, help="of patients that took part in no training")
    parser.add_argument("--reach-mm", type=float, default=4.0)
    parser.add_argument("--organs", nargs="+", default=list(ORGANS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "viscera_real_scans")
    parser.add_argument("--name", default="edges_by_hu", help="of the JSON in benchmarks/results")
    options = parser.parse_args()
    model = load_model(options.weights, accelerator="cpu", runtime="auto")
    edges = dict.fromkeys(options.organs, options.reach_mm)
    moved = replace(model.recipe.postprocessing, edge_by_hu_mm=edges)
    real = {scan.name: differences(scan, model, moved) for scan in real_scans(options.work) if scan.aside is None}
    kinds: dict[str, list] = {}
    for kind, scan in synthetic_scans(options.patients, options.seed):
        kinds.setdefault(kind, []).append(differences(scan, model, moved))
        print(kind, scan.name, {organ: one["dice"] for organ, one in kinds[kind][-1].items()}, flush=True)
    content = {
        "weights_sha256": model.weights_sha256,
        "precision": model.network.precision,
        "reach_mm": options.reach_mm,
        "patients": options.patients,
        "seed": options.seed,
        "real": real,
        "synthetic": {kind: summary(scans) for kind, scans in sorted(kinds.items())}
        | {"all": summary([one for scans in kinds.values() for one in scans])},
        "cpu_seconds_more": {},
    }
    save(options.name, facts("numpy", "openvino") | content)
    own = dict.fromkeys(("liver", "spleen"), options.reach_mm)
    content["cpu_seconds_more"] = seconds_of(model, replace(moved, edge_by_hu_mm=own))
    print(save(options.name, facts("numpy", "openvino") | content))


if __name__ == "__main__":
    main()
