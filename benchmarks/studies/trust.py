"""How signs of a result that should not be trusted behave: on good, cropped, flipped and chest-only scans, and on real ones.

Usage: python -m benchmarks.studies.trust WEIGHTS [--patients 6] [--shape 96 192 192] [--variety rich] [--name trust]

Every synthetic patient is segmented as it is and in each wrong way. Counted is how often each sign is raised on organs that were
segmented well (Dice above GOOD), badly (below BAD; so are finds of an organ that is not there) and perfectly (the truth itself),
and which limits a twentieth of the well segmented organs would cross. Real scans without labels are listed with what is said of
them.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.machine import DATA, facts, save
from viscera.evaluation.metrics import confusion, overlap
from viscera.inference.certainty import certainty_of, handedness_of
from viscera.inference.model import Model, load_model
from viscera.inference.segment import prepare_scan, segment_prepared
from viscera.io import nifti
from viscera.labels import fit
from viscera.preparation.intensity import hounsfield
from viscera.quality.certainty import Edge
from viscera.quality.flags import Trust
from viscera.quality.judging import Limits, fitted_limits, signs
from viscera.quality.measuring import Organ, measure_organs, measure_scan
from viscera.synthesis.patient import synthesize
from viscera.synthesis.variety import PLAIN, RICH, without
from viscera.volume import Turn, Volume, with_voxels

LABELLED = "totalsegmentator_example/ts_example_ct_3mm"
UNLABELLED = (
    "hcc_tace/HCC_048_portal_venous",
    "hcc_tace/HCC_006_LIVER_3PHASE",
    "lidc/LIDC-IDRI-0314_chest_upper_abdomen",
)
GOOD, BAD = 0.85, 0.5
"""Dice."""
SHARE = 0.05
"""Of the good organs that may cross a fitted limit."""
SEEN_ML = 1.0
"""An organ of which the scan shows less is neither good nor bad."""

Scan = tuple[Volume, np.ndarray | None]
"""Axial HU, and the truth in the label space of the network."""


@dataclass(frozen=True)
class Found:
    """One organ of one scan."""

    scan: str
    way: str
    organ: str
    dice: float | None
    truth_ml: float | None
    organ_facts: Organ
    edge: Edge | None
    signs: tuple[str, ...]


def as_it_is(ct: Volume, truth: np.ndarray) -> Scan:
    """Change nothing."""
    return ct, truth


def cropped(ct: Volume, truth: np.ndarray) -> Scan:
    """Keep the middle half of the slices and the patient's right two thirds: through liver, kidneys and bowel."""
    depth, _, width = ct.shape
    box = slice(depth // 4, 3 * depth // 4), slice(None), slice(0, 2 * width // 3)
    affine = ct.affine.copy()
    affine[:3, 3] += affine[:3, 0] * box[0].start
    return Volume(np.ascontiguousarray(ct.voxels[box]), affine), np.ascontiguousarray(truth[box])


def flipped(axis: int) -> Callable[[Volume, np.ndarray], Scan]:
    """Return what makes the header tell one axis the wrong way round."""
    flips = tuple(number == axis for number in range(3))
    turn = Turn((0, 1, 2), (flips[0], flips[1], flips[2]))

    def flip(ct: Volume, truth: np.ndarray) -> Scan:
        return replace(ct, voxels=turn.apply(ct.voxels)), turn.apply(truth)

    return flip


def chest(ct: Volume, truth: np.ndarray) -> Scan:
    """Keep the upper 28 in a hundred slices: lungs, heart and the domes."""
    first = round(0.72 * len(truth))
    affine = ct.affine.copy()
    affine[:3, 3] += affine[:3, 0] * first
    return Volume(np.ascontiguousarray(ct.voxels[first:]), affine), np.ascontiguousarray(truth[first:])


WAYS: dict[str, Callable[[Volume, np.ndarray], Scan]] = {
    "as it is": as_it_is,
    "cropped": cropped,
    "flipped left to right": flipped(2),
    "flipped head to feet": flipped(0),
    "flipped front to back": flipped(1),
    "chest": chest,
}


def main() -> None:
    """Segment, judge, count and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 192, 192))
    parser.add_argument("--variety", choices=("rich", "plain"), default="rich")
    parser.add_argument("--seed", type=int, default=7000, help="of patients that took part in no training")
    parser.add_argument("--name", default="trust", help="of the JSON in benchmarks/results")
    options = parser.parse_args()
    model = load_model(options.weights, accelerator="cpu")
    found: list[Found] = []
    scans: list[dict] = []
    for name, way, (ct, truth) in all_scans(model, options):
        rows, scan = judged(model, ct, truth)
        found += [replace(row, scan=name, way=way) for row in rows]
        scans.append({"scan": name, "way": way, **scan})
        print(name, way, scan["signs"], scan["seconds"])
    content = {
        "weights_sha256": model.weights_sha256,
        "recipe": model.recipe.name,
        "patients": options.patients,
        "shape": list(options.shape),
        "variety": options.variety,
        "limits": asdict(Limits()),
        "fitted": asdict(fit_to(found)),
        "organ_signs": counted(found),
        "scan_signs": counted_scans(scans),
        "scans": scans,
    }
    print(json.dumps(content["organ_signs"], indent=1))
    print(save(options.name, facts("torch", "numpy") | content))


def all_scans(model: Model, options: argparse.Namespace) -> Iterator[tuple[str, str, Scan]]:
    """Return every scan in every way."""
    variety = without(RICH, ["scan_range"]) if options.variety == "rich" else PLAIN
    for number in range(1, options.patients + 1):
        generator = np.random.default_rng([options.seed, number])
        patient = synthesize(generator, shape=tuple(options.shape), orientation="axial", variety=variety)
        truth = in_space(model, patient.labels.voxels, patient.organs)
        for way, change in WAYS.items():
            yield f"synthetic {number}", way, change(patient.ct, truth)
    yield LABELLED, "real", real(model, LABELLED)
    for name in UNLABELLED:
        yield name, "real", real(model, name)


def real(model: Model, name: str) -> Scan:
    """Read one of the real scans, with labels where there are any."""
    ct = nifti.read(DATA / f"{name}_ct.nii.gz")
    ct = with_voxels(ct, hounsfield(ct, where=name))
    names = DATA / f"{name}_labels.json"
    if not names.exists():
        return ct, None
    labels = nifti.read(DATA / f"{name}_label.nii.gz").voxels.astype(np.uint8)
    organs = {int(value): organ for value, organ in json.loads(names.read_text()).items() if int(value)}
    return ct, in_space(model, labels, organs)


def in_space(model: Model, labels: np.ndarray, organs: dict[int, str]) -> np.ndarray:
    """Return a label map in the network's label space; 255 where it is not known."""
    fitted = fit(model.space, organs, set(organs.values()))
    table = np.zeros(256, np.uint8)
    for value, index in fitted.values.items():
        table[value] = index
    return table[labels]


def judged(model: Model, ct: Volume, truth: np.ndarray | None) -> tuple[list[Found], dict]:
    """Segment one scan and return what is said of its organs and of itself."""
    names, certainty = model.space.labels, certainty_of(model)
    prepared = prepare_scan(ct, model)
    labels = segment_prepared(prepared, model, certainty=certainty).labels.voxels
    start = time.perf_counter()
    image, geometry = prepared.images[model.recipe.preparation]
    handedness = handedness_of(image, model, geometry)
    handedness_s, start = time.perf_counter() - start, time.perf_counter()
    organs = measure_organs(ct, labels, names)
    organs_s = time.perf_counter() - start
    look = measure_scan(ct)
    scan_s = time.perf_counter() - start - organs_s
    edges = {} if certainty is None else {organ: certainty.edge(index) for index, organ in names.items()}
    trust = signs(organs, look, edges=edges, handedness=handedness)
    rows = [Found("", "", organ, None, None, facts, edges.get(organ), ()) for organ, facts in organs.items()]
    said: dict = {"look": asdict(look), "seconds": {"organs": round(organs_s, 3), "scan": round(scan_s, 3)}}
    said["seconds"]["handedness"] = round(handedness_s, 3)
    said["handedness"] = handedness and asdict(handedness)
    if truth is not None:
        counts = confusion(np.ascontiguousarray(truth), np.ascontiguousarray(labels), len(names) + 1)
        scores = {organ: overlap(counts, index) for index, organ in names.items()}
        rows = [
            replace(row, dice=scores[row.organ].dice, truth_ml=scores[row.organ].truth_voxels * ct.voxel_ml)
            for row in rows
        ]
        perfect = signs(measure_organs(ct, np.ascontiguousarray(truth), names), look)
        said |= {"perfect_signs": kinds(perfect.scan), "perfect_organs": by_organ(perfect)}
    rows = [replace(row, signs=tuple(kinds(trust.organs[row.organ]))) for row in rows]
    return rows, {"signs": kinds(trust.scan), "messages": trust.messages, **said}


def kinds(found: tuple) -> list[str]:
    """Return the words for programs."""
    return [sign.kind for sign in found]


def by_organ(trust: Trust) -> dict[str, list[str]]:
    """Return the signs of each organ that has any."""
    return {organ: kinds(found) for organ, found in trust.organs.items() if found}


def quality(row: Found) -> str | None:
    """Say whether an organ was segmented well; None where that cannot be said, or nothing was found."""
    if row.dice is None or row.truth_ml is None or not row.organ_facts.volume_ml:
        return None
    if row.dice < BAD and max(row.truth_ml, row.organ_facts.volume_ml) >= SEEN_ML:
        return "bad"
    return "good" if row.dice > GOOD and row.truth_ml >= SEEN_ML else None


def counted(found: list[Found]) -> dict[str, dict[str, list[int]]]:
    """Return {sign: {"good", "bad": [times raised, organs]}}; "any" is any but the border."""
    groups: dict[str, list[Found]] = defaultdict(list)
    for row in found:
        if quality(row):
            groups[str(quality(row))].append(row)
    known = sorted({kind for row in found for kind in row.signs})
    table = {
        kind: {group: [sum(kind in row.signs for row in rows), len(rows)] for group, rows in sorted(groups.items())}
        for kind in known
    }
    table["any"] = {
        group: [sum(bool(set(row.signs) - {"border"}) for row in rows), len(rows)]
        for group, rows in sorted(groups.items())
    }
    return table


def counted_scans(scans: list[dict]) -> dict[str, dict[str, list[int]]]:
    """Return {way: {sign of the scan: [times raised, scans]}}."""
    table: dict[str, dict[str, list[int]]] = {}
    for way in dict.fromkeys(scan["way"] for scan in scans):
        ours = [scan["signs"] for scan in scans if scan["way"] == way]
        found = sorted({kind for raised in ours for kind in raised})
        table[way] = {kind: [sum(kind in raised for raised in ours), len(ours)] for kind in found}
    return table


def fit_to(found: list[Found]) -> Limits:
    """Return the limits that SHARE of the good organs cross."""
    good = [row for row in found if quality(row) == "good"]
    whole = [row.organ_facts for row in good if row.organ not in ("kidney", "femoral_head", "colon", "small_bowel")]
    return fitted_limits(whole, [row.edge for row in good if row.edge is not None], share=SHARE)


if __name__ == "__main__":
    main()
