"""How signs of a result that should not be trusted behave, and how well the Dice is predicted; fits the calibration first.

Usage: python -m benchmarks.studies.trust WEIGHTS [--patients 80] [--fit 50] [--rows runs/trust/rows.jsonl] [--write]

Every synthetic patient is segmented as it is and in some of the ways that make networks fail (trust_scans.py). The calibration is
fitted to the first ones (trust_fit.py) and measured on the others: predicted against true Dice, and how often bad organs (Dice
below BAD, organs that are not there among them) and good ones are flagged, before and after the signs of this study. Real scans
are a check and take part in no fitting. With --write the calibration goes where the package reads it, beside the weights. A study
that was stopped goes on where it was: scans are measured once per weights.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.machine import facts, save
from benchmarks.studies.trust_fit import Case, fitted, predicted
from benchmarks.studies.trust_rates import counted, counted_scans, flagged_rates, good_flagged, measures
from benchmarks.studies.trust_scans import PER_PATIENT, WAYS, collected
from viscera.inference.model import Model, calibration_file, load_model
from viscera.io.atomic import write_json
from viscera.networks.cards import as_shipped
from viscera.networks.find_weights import find_weights
from viscera.quality.certainty import Edge, Handedness
from viscera.quality.contacts import Contact
from viscera.quality.flags import Sign, Trust
from viscera.quality.judging import KIDNEYS, signs
from viscera.quality.limits import Limits
from viscera.quality.measuring import Look, Organ
from viscera.quality.orientation import orientation_signs
from viscera.quality.predicted_dice import Calibration, doubts_of, scan_doubts
from viscera.quality.scan_signs import mirrored_signs

BAD = 0.8
"""Dice below."""
SEEN_ML = 1.0
"""An organ of which neither truth nor result has as much is neither good nor bad."""
NEW = ("half", "alike", "open", "dome", "predicted_dice")
"""Kinds of sign that there were not before."""


def main() -> None:
    """Measure, fit, judge and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--patients", type=int, default=80)
    parser.add_argument("--fit", type=int, default=50, help="of them to fit to; the others are measured on")
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 160, 160))
    parser.add_argument("--seed", type=int, default=7100, help="of patients that took part in no training")
    parser.add_argument("--rows", type=Path, default=Path("runs/trust/rows.jsonl"), help="what was measured")
    parser.add_argument("--write", action="store_true", help="put the calibration beside the weights")
    parser.add_argument("--name", default="trust", help="of the JSON in benchmarks/results")
    options = parser.parse_args()
    model = load_model(options.weights, accelerator="cpu", runtime="auto")
    rows = collected(model, patients=options.patients, shape=tuple(options.shape), seed=options.seed, file=options.rows)
    calibration = calibrated(model, rows, fit=options.fit)
    content = {
        "weights_sha256": model.weights_sha256,
        "recipe": model.recipe.name,
        "runtime": f"{model.network.name} {model.network.precision or ''}".strip(),
        "patients": options.patients - options.fit,
        "fitted_to": options.fit,
        "shape": list(options.shape),
        "ways": PER_PATIENT + 1,
        "bad_below": BAD,
        "limits": asdict(Limits()),
        "flag_below": calibration.flag_below,
        **judged(model, rows, calibration, fit=options.fit),
    }
    if options.write:
        shipped = as_shipped(options.weights)
        file = calibration_file(shipped.file if shipped else find_weights(options.weights), shipped)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(calibration))
        print(file)
    print(json.dumps({key: content[key] for key in ("measures", "flagged", "organ_signs", "scan_signs")}, indent=1))
    print(save(options.name, facts("torch", "numpy", "scipy") | content))


def calibrated(model: Model, rows: Sequence[Mapping], *, fit: int) -> Calibration:
    """Return the calibration that the first patients give."""
    chosen = [row for row in rows if 0 < patient_of(row) <= fit]
    usual_ml = usual_volumes(chosen)
    cases = [case for row in chosen for case in cases_of(row, usual_ml) if case.doubts and counts(case)]
    scans = len({(case.scan, case.way) for case in cases})
    told = f"{len(cases)} organs in {scans} scans of {fit} synthetic patients (variety rich, shown in {len(WAYS)} ways)"
    return fitted(cases, usual_ml, weights_sha256=model.weights_sha256, bad_below=BAD, fitted_on=told)


def judged(model: Model, rows: Sequence[Mapping], calibration: Calibration, *, fit: int) -> dict[str, object]:
    """Return what was found on the patients to which nothing was fitted, and on real scans."""
    unseen = [row for row in rows if not 0 < patient_of(row) <= fit]
    usual_ml = calibration.volumes_ml
    cases = [case for row in unseen for case in cases_of(row, usual_ml) if counts(case)]
    synthetic, real = ([case for case in cases if bool(case.patient) is kind] for kind in (True, False))
    default = set(model.default_organs or model.space.organs)
    groups: dict[str, Callable[[Case], bool]] = {
        "all": lambda case: True,
        "as it is": lambda case: case.way == "as it is",
        "not flipped": lambda case: not case.way.startswith("flipped"),
        "default organs": lambda case: case.organ in default,
        "default organs, as it is": lambda case: case.organ in default and case.way == "as it is",
    }
    chosen = {name: [case for case in synthetic if kept(case)] for name, kept in groups.items()} | {"real": real}
    by_organ = {organ: [case for case in synthetic if case.organ == organ] for organ in calibration.volumes_ml}
    return {
        "measures": {name: measures(predicted(some, calibration)) for name, some in chosen.items()},
        "organs": {organ: measures(predicted(some, calibration)) for organ, some in by_organ.items()},
        "flagged": {name: flagged_rates(some, calibration) for name, some in chosen.items()},
        "good_flagged": {name: good_flagged(some, calibration) for name, some in chosen.items()},
        "organ_signs": counted(synthetic, calibration),
        "perfect": perfect(unseen),
        "scan_signs": counted_scans([(row["way"], kinds(trust_of(row).scan)) for row in unseen]),
        "scan_signs_before": counted_scans([(row["way"], before(row)) for row in unseen]),
        "scans": [told(row, calibration) for row in unseen if row["way"] == "real"],
    }


def patient_of(row: Mapping) -> int:
    """Return a patient's number; 0 of a real scan."""
    return int(row["scan"].split()[1]) if row["scan"].startswith("synthetic") else 0


def counts(case: Case) -> bool:
    """Tell whether there is enough of an organ to call it good or bad."""
    return max(case.truth_ml, case.found_ml) >= SEEN_ML


def usual_volumes(rows: Sequence[Mapping]) -> dict[str, float]:
    """Return the median true volume of each organ that is not cut, over scans as they are."""
    volumes: dict[str, list[float]] = {}
    for row in rows:
        for organ, measured in row["truth"].items():
            truth = measured["facts"]
            cut = truth["touches_border"] and organ not in ("aorta", "inferior_vena_cava", "esophagus", "spinal_cord")
            if row["way"] == "as it is" and truth["volume_ml"] >= SEEN_ML and not cut:
                volumes.setdefault(organ, []).append(truth["volume_ml"])
    return {organ: float(np.median(some)) for organ, some in volumes.items()}


def organs_of(row: Mapping, key: str = "organs") -> tuple[dict[str, Organ], dict[str, Contact]]:
    """Return what was measured on the organs of a scan."""
    found = {organ: Organ(**_tuples(one["facts"])) for organ, one in row[key].items()}
    return found, {organ: Contact(**one["contact"]) for organ, one in row[key].items() if one["contact"]}


def _tuples(values: Mapping) -> dict:
    """Return values of JSON with tuples for its lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _sure(row: Mapping) -> tuple[dict[str, Edge], Handedness | None]:
    """Return how sure the network was."""
    edges = {organ: Edge(**edge) for organ, edge in row["edges"].items()}
    return edges, row["handedness"] and Handedness(**row["handedness"])


def trust_of(row: Mapping, calibration: Calibration | None = None) -> Trust:
    """Return what is said of a scan's result."""
    (organs, contacts), (edges, handedness) = organs_of(row), _sure(row)
    look = Look(**_tuples(row["look"]))
    return signs(organs, look, edges=edges, handedness=handedness, contacts=contacts, calibration=calibration)


def cases_of(row: Mapping, usual_ml: Mapping[str, float]) -> list[Case]:
    """Return the organs of a scan that have a true Dice."""
    trust, (organs, contacts), (edges, handedness) = trust_of(row), organs_of(row), _sure(row)
    scan, found = scan_doubts(trust.scan, edges, handedness), []
    for organ, dice in row.get("dice", {}).items():
        facts, doubts, raised = organs[organ], {}, trust.organs[organ]
        if facts.volume_ml and organ in edges and organ in usual_ml:
            doubts = doubts_of(
                facts, edges[organ], contacts.get(organ), raised, organ=organ, usual_ml=usual_ml[organ], scan=scan
            )
        old = tuple(sign.kind for sign in raised if was_before(sign, organ))
        found.append(
            Case(
                patient_of(row),
                row["scan"],
                row["way"],
                organ,
                dice or 0.0,
                row["truth_ml"][organ],
                facts.volume_ml,
                doubts,
                tuple(kinds(raised)),
                old,
                tuple(kinds(trust.scan)),
            )
        )
    return found


def was_before(sign: Sign, organ: str) -> bool:
    """Tell whether a sign was raised before this study, too."""
    if sign.kind == "edge_probability" and organ in KIDNEYS:
        return sign.value < Limits().edge_probability
    return sign.kind not in NEW and "the whole kidney" not in sign.message


def before(row: Mapping) -> list[str]:
    """Return the signs that a scan had before, of those that are about which way round it is, and the other ones."""
    organs, look = organs_of(row)[0], Look(**_tuples(row["look"]))
    turned = [*orientation_signs(organs, look), *mirrored_signs(_sure(row)[1], Limits())]
    others = [kind for kind in kinds(trust_of(row).scan) if kind not in ("mirrored", "upside_down", "back_to_front")]
    return [*others, *kinds(turned)]


def kinds(found: Sequence[Sign]) -> list[str]:
    """Return the words for programs."""
    return [sign.kind for sign in found]


def perfect(rows: Sequence[Mapping]) -> dict[str, list[int]]:
    """Return how often each sign is raised on the truth itself, of patients that are not flipped: {sign: [times, organs]}."""
    raised: dict[str, int] = {}
    count = 0
    for row in rows:
        if row["way"] not in ("as it is", "noisy", "blurred", "thick slices", "wrong HU"):
            continue
        organs, contacts = organs_of(row, "truth")
        trust = signs(organs, Look(**_tuples(row["look"])), contacts=contacts)
        for organ, one in organs.items():
            count += one.volume_ml >= SEEN_ML
            for kind in set(kinds(trust.organs[organ])):
                raised[kind] = raised.get(kind, 0) + (one.volume_ml >= SEEN_ML or kind == "missing")
    return {kind: [times, count] for kind, times in sorted(raised.items())}


def told(row: Mapping, calibration: Calibration) -> dict[str, object]:
    """Return what is said of a real scan."""
    trust = trust_of(row, calibration)
    return {
        "scan": row["scan"],
        "way": "real",
        "messages": trust.messages,
        "dice": {organ: round(dice, 3) for organ, dice in row.get("dice", {}).items() if dice is not None},
        "predicted_dice": {organ: round(dice, 3) for organ, dice in trust.predicted_dice.items()},
    }


if __name__ == "__main__":
    main()
