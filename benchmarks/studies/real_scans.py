"""Weights beside each other on the real scans of ../shared/data: which organ, on which scan, how well, and too large or too small.

    python -m benchmarks.studies.real_scans score starter width16=RUN new=FILE.safetensors [--without-template width16 ...]
    python -m benchmarks.studies.real_scans pictures starter new=FILE --out FOLDER
    python -m benchmarks.studies.real_scans synthetic starter new=FILE [--patients 24]

``score`` takes bundled weights by name, files, and folders of runs; NAME=... says what an arm is called in the table. It segments
as `viscera predict --organs all` does and writes Dice, NSD, signed surface distance and volume ratio per arm, scan and organ to
results/real_arms.json, where an arm takes the place of the row of its name; tables.py makes the table of it. ``pictures`` draws
six levels of each of three scans that nobody annotated, for a person to look at; every error that is seen should be written down.
``synthetic`` scores arms on rich synthetic patients that no arm learnt from (results/synthetic_arms.json).

The scans and their truths are those of starter.py: 20 slices of a patient who is in no training; the kidneys of two scans by their
HU; a spleen whose file has left and right exchanged, so that it is turned; three slices of a liver. And ts_example_ct_3mm, for
arms that did not learn from its label map: ``--without-template`` names them, and their rows on it say so.

Whether a kidney's label holds its sinus is a matter of the labels' rules. The truth by HU has nothing of it; TotalSegmentator's
and those of our synthetic patients have fat and pelvis in part. So each of the two scans counts twice: as it is, and with the
sinus aside, where no voxel between the kidney's lips counts.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import edt
import numpy as np
from jaxtyping import Bool, Int8, UInt8

from benchmarks.machine import DATA, RESULTS, facts, save
from benchmarks.studies.starter import UNLABELLED, make_tests
from viscera.colours import colour
from viscera.evaluation.evaluate import score_case
from viscera.evaluation.metrics import bounding_box
from viscera.evaluation.pairing import Pair
from viscera.evaluation.statistics import bootstrap_interval
from viscera.figures.montage import field_of
from viscera.figures.pictures import grey, overlay, resize_labels, resize_slice
from viscera.figures.sheet import draw_sheet
from viscera.inference.model import Model, load_model
from viscera.inference.segment import segment
from viscera.io import nifti
from viscera.labels import LabelSpace, fit
from viscera.networks.runners import runner_facts
from viscera.preparation.intensity import hounsfield
from viscera.synthesis.patient import synthesize
from viscera.synthesis.variety import RICH, without
from viscera.volume import Volume, to_axial, with_voxels

TEMPLATE = "3 mm"
"""The scan whose label map patients are made from."""
WHOLE = ("20 slices", TEMPLATE)
"""Scans whose truth names all that TotalSegmentator found: an organ that it lacks is not there."""
LEVELS = dict.fromkeys(UNLABELLED, (0.95, 0.78, 0.62, 0.46, 0.30, 0.12)) | {
    UNLABELLED[2]: (0.8, 0.5, 0.36, 0.24, 0.13, 0.03)
}
"""{scan: slices that are drawn, as parts of its height, from the head down}; the third is of a chest."""
PANEL = 560
"""Pixels of a picture's width."""
LEAST_ML = 1.0
"""Of an organ in view; less of it says nothing of a network."""
ASIDE, SINUS_MM = "_sinus_aside", 15.0
"""Behind a scan's name; the sinus is what a ball of this radius, rolled about the kidney, does not reach."""


@dataclass(frozen=True, eq=False)
class RealScan:
    """A real scan with its truth.

    Attributes:
        name: Of the case: as in tables.SCANS.
        ct: HU.
        truth: Its labels on that grid.
        organs: {value of the truth: organ}.
        aside: Voxels that count for nothing; None: all count.
    """

    name: str
    ct: Volume
    truth: UInt8[np.ndarray, "z y x"]
    organs: Mapping[int, str]
    aside: Bool[np.ndarray, "z y x"] | None = None

    def pair(self, labels: Volume, space: LabelSpace) -> Pair:
        """Return the truth beside a network's labels, in the network's label space."""
        fitted = fit(space, self.organs, set(self.organs.values()))
        table = np.zeros(256, np.uint8)
        for value, index in fitted.values.items():
            table[value] = index
        if self.aside is not None:
            labels = with_voxels(labels, np.where(self.aside, 0, labels.voxels))
        return Pair(self.name, self.name, with_voxels(self.ct, table[self.truth]), labels, space, fitted.annotated)


def real_scans(work: Path) -> Iterator[RealScan]:
    """Return the scans, those with many organs first; they are laid out in a folder once."""
    make_tests(work)
    for folder in sorted((work / "tests").iterdir(), key=lambda one: one.name not in WHOLE):
        names = json.loads((folder / "dataset.json").read_text())["labels"]
        organs = {int(value): organ for organ, value in names.items() if int(value)}
        for file in sorted((folder / "labelsTr").iterdir()):
            name = nifti.stem(file)
            ct, truth = read_ct(folder / "imagesTr" / f"{name}_0000.nii.gz"), nifti.read(file).voxels.astype(np.uint8)
            yield RealScan(name, ct, truth, organs)
            if folder.name == "kidneys":
                yield RealScan(f"{name}{ASIDE}", ct, truth, organs, sinuses(truth, ct.spacing_mm))


def sinuses(kidneys: UInt8[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float]) -> Bool[np.ndarray, "z y x"]:
    """Return what closing adds to each kidney: the sinus between its lips, and little else."""
    found = np.zeros(kidneys.shape, bool)
    margin = [int(np.ceil(2 * SINUS_MM / one)) for one in spacing_mm]
    for value in np.unique(kidneys[kidneys > 0]).tolist():
        kidney = np.pad(kidneys == value, [(one, one) for one in margin])
        box = bounding_box(kidney)
        assert box is not None
        box = tuple(slice(one.start - more, one.stop + more) for one, more in zip(box, margin, strict=True))
        reached = edt.edt(~kidney[box], anisotropy=spacing_mm) <= SINUS_MM
        closed = np.zeros(kidney.shape, bool)
        closed[box] = edt.edt(reached, anisotropy=spacing_mm) > SINUS_MM
        found |= closed[tuple(slice(one, -one) for one in margin)]
    return found & (kidneys == 0)


def read_ct(file: Path) -> Volume:
    """Read a scan as HU."""
    ct = nifti.read(file)
    return with_voxels(ct, hounsfield(ct, where=file.name))


def scores_of(scan: RealScan, labels: Volume, space: LabelSpace) -> dict[str, dict[str, float]]:
    """Return {organ: its scores} of a network's labels of a real scan."""
    pair, found = scan.pair(labels, space), {}
    for score in score_case(pair):
        index = space.index(score.organ)
        mean, median = signed_distances_mm(
            pair.truth.voxels == index, pair.prediction.voxels == index, scan.ct.spacing_mm
        )
        truth_ml = score.values["truth_ml"]
        values = {
            "dice": score.values["dice"],
            "nsd": score.values["nsd"],
            "signed_mm": mean,
            "signed_median_mm": median,
            "volume_ratio": score.values["prediction_ml"] / truth_ml if truth_ml else np.nan,
            "truth_ml": truth_ml,
        }
        found[score.organ] = {key: round(value, 4) if np.isfinite(value) else None for key, value in values.items()}
    return found


def signed_distances_mm(
    truth: Bool[np.ndarray, "z y x"], prediction: Bool[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float]
) -> tuple[float, float]:
    """Return how far the prediction's surface lies outside of the truth's: mean and median over both surfaces' area.

    A surface is the centres of the faces between voxels that are in and voxels that are out. Those of the prediction count
    positive outside of the truth, those of the truth inside of the prediction: both say that the prediction is too large. The
    median says where the edge lies; the mean also holds what was missed or invented as a whole. Of digital balls that are
    0.5 to 6 mm larger in radius, the mean was 4 to 10 % off.

    Returns:
        mm, positive where the prediction is too large; NaN if either mask is empty.
    """
    boxes = [box for box in map(bounding_box, (truth, prediction)) if box is not None]
    if len(boxes) < 2:
        return np.nan, np.nan
    both = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(*boxes, strict=True))
    true, predicted = (np.pad(mask[both], 1).view(np.int8) for mask in (truth, prediction))
    z, y, x = spacing_mm
    found, areas = [], []
    for surface, other, sign in ((predicted, true, 1), (true, predicted, -1)):
        away_mm = edt.edt(~face_centres(other), anisotropy=(z / 2, y / 2, x / 2))
        for axis, area_mm2 in enumerate((y * x, z * x, z * y)):
            here = np.diff(surface, axis=axis) != 0
            between = tuple(slice(int(each == axis), None, 2) for each in range(3))
            outside = 1 - (
                np.take(other, range(other.shape[axis] - 1), axis) + np.take(other, range(1, other.shape[axis]), axis)
            )
            found.append(away_mm[between][here] * outside[here] * sign)
            areas.append(np.full(len(found[-1]), area_mm2))
    signed_mm, area = np.concatenate(found), np.concatenate(areas)
    order = np.argsort(signed_mm)
    middle = np.searchsorted(np.cumsum(area[order]), area.sum() / 2)
    return float(np.average(signed_mm, weights=area)), float(signed_mm[order][middle])


def face_centres(mask: Int8[np.ndarray, "z y x"]) -> Bool[np.ndarray, "d h w"]:
    """Return, on a grid of half the spacing, the faces between voxels that are in a mask and voxels that are not."""
    fine = np.zeros([2 * count - 1 for count in mask.shape], bool)
    for axis in range(3):
        fine[tuple(slice(int(each == axis), None, 2) for each in range(3))] = np.diff(mask, axis=axis) != 0
    return fine


def false_finds(scan: RealScan, labels: Volume, space: LabelSpace) -> dict[str, float]:
    """Return the ml of organs that a whole truth lacks, where it names all that is there."""
    if scan.name not in WHOLE:
        return {}
    annotated = scan.pair(labels, space).annotated
    counts = np.bincount(labels.voxels.ravel(), minlength=len(space.classes))
    lacking = {
        organ: counts[index] * labels.voxel_ml for index, organ in space.labels.items() if organ not in annotated
    }
    return {organ: round(float(ml), 2) for organ, ml in lacking.items() if ml}


def arm_row(name: str, model: Model, scans: Sequence[RealScan], *, template: bool) -> dict[str, object]:
    """Segment the real scans by an arm and score them.

    Args:
        name: The arm's.
        model: Its weights.
        scans: To measure on; the template is left out where the arm learnt from it.
        template: Whether it learnt from the template's label map.
    """
    found, false, labels, seen = {}, {}, None, None
    for scan in scans:
        if scan.name == TEMPLATE and template:
            continue
        if labels is None or scan.ct is not seen:
            labels, seen = segment(scan.ct, model), scan.ct
        found[scan.name] = scores_of(scan, labels, model.output_space)
        false[scan.name] = false_finds(scan, labels, model.output_space)
        print(name, scan.name, {organ: one["dice"] for organ, one in found[scan.name].items()}, flush=True)
    here = facts("numpy")
    return {
        "arm": name,
        "recipe": model.recipe.name,
        "weights_sha256": model.weights_sha256,
        "runtime": runner_facts(model.network),
        "precision": model.network.precision,
        "learnt_from_template": template,
        "commit": here["commit"],
        "date": here["date"],
        "scans": found,
        "false_finds_ml": {scan: organs for scan, organs in false.items() if organs},
    }


def score(options: argparse.Namespace) -> None:
    """Measure arms and put their rows into the JSON."""
    arms = dict(named(one) for one in options.weights)
    for name in options.without_template:
        if name not in arms:
            raise SystemExit(f"--without-template {name}: no such arm; there are {', '.join(arms)}")
    scans = [scan for scan in real_scans(options.work) if not options.only or scan.name in options.only]
    old = json.loads(options.out.read_text())["arms"] if options.out.exists() else []
    for name, weights in arms.items():
        model = load_model(weights, accelerator="cpu", runtime="auto")
        row = arm_row(name, model, scans, template=name not in options.without_template)
        place = next((place for place, one in enumerate(old) if one["arm"] == name), len(old))
        old[place : place + 1] = [row]
        options.out.write_text(json.dumps(facts("numpy", "openvino") | {"arms": old}, indent=2) + "\n")
    print(options.out)


def synthetic(options: argparse.Namespace) -> None:
    """Measure arms on synthetic patients: the mean Dice of each organ, and the difference to the first arm over patients."""
    arms = dict(named(one) for one in options.weights)
    models = {name: load_model(weights, accelerator="cpu", runtime="auto") for name, weights in arms.items()}
    scores: dict[str, dict[str, dict[int, float]]] = {name: {} for name in arms}
    for number in range(1, options.patients + 1):
        patient = synthesize(
            np.random.default_rng([options.seed, number]),
            shape=(96, 160, 160),
            orientation="axial",
            variety=RICH if number % 2 else without(RICH, ["scan_range"]),
        )
        for name, model in models.items():
            labels = segment(patient.ct, model)
            scan = RealScan(str(number), patient.ct, patient.labels.voxels, patient.organs)
            for score in score_case(scan.pair(labels, model.output_space)):
                if score.values["truth_ml"] >= LEAST_ML:
                    scores[name].setdefault(score.organ, {})[number] = score.values["dice"]
        print(f"patient {number}", flush=True)
    first = next(iter(arms))
    rows = [
        {
            "arm": name,
            "weights_sha256": models[name].weights_sha256,
            "organs": {organ: row(of, scores[first][organ]) for organ, of in organs.items()},
        }
        for name, organs in scores.items()
    ]
    print(save("synthetic_arms", facts("numpy", "openvino") | {"patients": options.patients, "arms": rows}))


def row(dice: Mapping[int, float], first: Mapping[int, float]) -> dict[str, object]:
    """Return an organ's mean Dice, and the mean difference to the first arm with its bootstrap interval over patients."""
    gains = {str(number): [value - first[number]] for number, value in dice.items()}
    found = bootstrap_interval(gains, np.random.default_rng(0))
    return {
        "patients": len(dice),
        "dice": round(float(np.mean([*dice.values()])), 4),
        "gain": [round(one, 4) for one in found],
    }


def named(text: str) -> tuple[str, Path]:
    """Return name and place of weights that are given as NAME=PLACE or as a place alone."""
    name, equals, place = text.partition("=")
    return (name, Path(place)) if equals else (Path(text).stem, Path(text))


def pictures(options: argparse.Namespace) -> None:
    """Draw what weights find in the scans that nobody annotated: at the same levels whatever they find."""
    arms = dict(named(one) for one in options.weights)
    models = {name: load_model(place, accelerator="cpu", runtime="auto") for name, place in arms.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    for scan in UNLABELLED:
        ct = read_ct(DATA / f"{scan}_ct.nii.gz")
        maps = {name: to_axial(segment(ct, model))[0].voxels for name, model in models.items()}
        axial, names = to_axial(ct)[0], {name: model.output_space.labels for name, model in models.items()}
        for half, levels in enumerate((LEVELS[scan][:3], LEVELS[scan][3:]), start=1):
            out = options.out / f"{Path(scan).name}_{half}.png"
            print(sheet(axial, maps, names, levels=[int(level * len(axial.voxels)) for level in levels], out=out))


def sheet(
    axial: Volume,
    maps: Mapping[str, UInt8[np.ndarray, "z y x"]],
    names: Mapping[str, Mapping[int, str]],
    *,
    levels: Sequence[int],
    out: Path,
) -> Path:
    """Draw some slices: the scan and what each arm finds in it.

    Args:
        axial: HU, in axial order.
        maps: {arm: its labels on that grid}.
        names: {arm: {label: organ}}.
        levels: Slices, from the head down.
        out: The PNG.
    """
    _, rows, columns = field_of(axial, [])
    pixel_mm = (columns.stop - columns.start) * axial.spacing_mm[2] / PANEL
    size = round((rows.stop - rows.start) * axial.spacing_mm[1] / pixel_mm), PANEL
    drawn, captions, seen = [], [], {}
    for level in levels:
        plane = resize_slice(axial.voxels[level, rows, columns], size)
        row = [np.repeat(grey(plane)[..., None], 3, axis=2)]
        for arm, labels in maps.items():
            found = resize_labels(labels[level, rows, columns], size)
            shades = {value: colour(organ) for value, organ in names[arm].items()}
            row.append(overlay(plane, found, colours=shades, opacity=0.3))
            seen |= {names[arm][value]: shades[value] for value in np.unique(found).tolist() if value}
        drawn.append(row)
        captions.append((f"slice {level} of {len(axial.voxels)}", ("R", "L")))
    return draw_sheet(drawn, captions, columns=["CT", *maps], pixel_mm=pixel_mm, legend=[seen], title="", out=out)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    scoring = verbs.add_parser("score", help="measure arms")
    scoring.add_argument("weights", nargs="+", help="NAME=PLACE or PLACE: bundled weights, a file, a run's folder")
    scoring.add_argument("--without-template", nargs="*", default=[], help="arms that did not learn from its label map")
    scoring.add_argument("--only", nargs="*", help="scans to measure on; all of them if left out")
    scoring.add_argument("--out", type=Path, default=RESULTS / "real_arms.json")
    scoring.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "viscera_real_scans")
    scoring.set_defaults(run=score)
    drawing = verbs.add_parser("pictures", help="draw six levels of each of three scans")
    drawing.add_argument("weights", nargs="+", help="NAME=PLACE or PLACE; one column each")
    drawing.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    drawing.set_defaults(run=pictures)
    measuring = verbs.add_parser("synthetic", help="measure arms on synthetic patients")
    measuring.add_argument("weights", nargs="+", help="NAME=PLACE or PLACE; the others are compared with the first")
    measuring.add_argument("--patients", type=int, default=24)
    measuring.add_argument("--seed", type=int, default=7100)
    measuring.set_defaults(run=synthetic)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
