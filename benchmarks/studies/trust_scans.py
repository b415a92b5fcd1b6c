"""The scans of the study of trust, each segmented and measured once, one line of JSON each: what trust.py judges.

Synthetic patients as they are (every other one with a scan range of its own, from thighs to chest), and in ways that make networks
fail: cropped, flipped, noisy, thick, blurred, of wrong HU. Which ways a patient is shown in depends on its number alone.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np

from benchmarks.machine import DATA
from viscera.evaluation.metrics import confusion, overlap
from viscera.inference.certainty import certainty_of, handedness_of
from viscera.inference.model import Model
from viscera.inference.segment import prepare_scan, segment_prepared
from viscera.io import nifti
from viscera.labels import fit
from viscera.preparation.intensity import hounsfield
from viscera.quality.contacts import measure_contacts
from viscera.quality.measuring import measure_organs, measure_scan
from viscera.synthesis.patient import synthesize
from viscera.synthesis.variety import RICH, without
from viscera.volume import Turn, Volume, with_voxels

LABELLED = (
    "totalsegmentator_example/ts_example_ct_3mm",
    "totalsegmentator_example/ts_example_dicom_20slices",
    "msd_spleen/spleen_8",
)
UNLABELLED = (
    "hcc_tace/HCC_048_portal_venous",
    "hcc_tace/HCC_006_LIVER_3PHASE",
    "lidc/LIDC-IDRI-0314_chest_upper_abdomen",
)
PER_PATIENT = 5
"""Ways beside "as it is" in which each patient is shown."""
NOISE_HU = 60.0
BLUR_PIXELS = 1.5
GAIN, OFFSET_HU = 0.8, 60.0
"""Of wrong HU."""

Scan = tuple[Volume, np.ndarray | None]
"""Axial HU, and the truth in the label space of the network."""


def boxed(ct: Volume, truth: np.ndarray, box: tuple[slice, slice, slice]) -> Scan:
    """Keep a box of a scan."""
    affine = ct.affine.copy()
    for axis, part in enumerate(box):
        affine[:3, 3] += affine[:3, axis] * (part.start or 0)
    return Volume(np.ascontiguousarray(ct.voxels[box]), affine), np.ascontiguousarray(truth[box])


def as_it_is(ct: Volume, truth: np.ndarray) -> Scan:
    """Change nothing."""
    return ct, truth


def cropped(ct: Volume, truth: np.ndarray) -> Scan:
    """Keep the middle half of the slices and the patient's right two thirds: through liver, kidneys and bowel."""
    depth, _, width = ct.shape
    return boxed(ct, truth, (slice(depth // 4, 3 * depth // 4), slice(None), slice(0, 2 * width // 3)))


def narrow(ct: Volume, truth: np.ndarray) -> Scan:
    """Keep the middle of the field of view, so that flanks, ribs and skin are cut off."""
    _, rows, width = ct.shape
    return boxed(ct, truth, (slice(None), slice(rows // 5, 4 * rows // 5), slice(width // 4, 3 * width // 4)))


def chest(ct: Volume, truth: np.ndarray) -> Scan:
    """Keep the upper 28 in a hundred slices: lungs, heart and the domes."""
    return boxed(ct, truth, (slice(round(0.72 * len(truth)), None), slice(None), slice(None)))


def flipped(axis: int) -> Callable[[Volume, np.ndarray], Scan]:
    """Return what makes the header tell one axis the wrong way round."""
    flips = tuple(number == axis for number in range(3))
    turn = Turn((0, 1, 2), (flips[0], flips[1], flips[2]))

    def flip(ct: Volume, truth: np.ndarray) -> Scan:
        return replace(ct, voxels=turn.apply(ct.voxels)), turn.apply(truth)

    return flip


def noisy(ct: Volume, truth: np.ndarray) -> Scan:
    """Add noise, the same to every patient of one shape."""
    noise = np.random.default_rng(0).normal(0, NOISE_HU, ct.shape)
    return with_voxels(ct, (ct.voxels + noise).clip(-1024, 3071).astype(np.int16)), truth


def blurred(ct: Volume, truth: np.ndarray) -> Scan:
    """Blur every slice."""
    voxels = [cv2.GaussianBlur(plane.astype(np.float32), (0, 0), BLUR_PIXELS) for plane in ct.voxels]
    return with_voxels(ct, np.stack(voxels).astype(np.int16)), truth


def thick(ct: Volume, truth: np.ndarray) -> Scan:
    """Make one slice of two; its truth is that of the lower one."""
    count = len(truth) // 2
    pairs = ct.voxels[: 2 * count].reshape(count, 2, *ct.shape[1:]).mean(axis=1).astype(np.int16)
    affine = ct.affine.copy()
    affine[:3, 3] += affine[:3, 0] / 2
    affine[:3, 0] *= 2
    return Volume(pairs, affine), np.ascontiguousarray(truth[: 2 * count : 2])


def wrong_hu(ct: Volume, truth: np.ndarray) -> Scan:
    """Stretch and shift the HU."""
    return with_voxels(ct, (ct.voxels * GAIN + OFFSET_HU).clip(-1024, 3071).astype(np.int16)), truth


WAYS: dict[str, Callable[[Volume, np.ndarray], Scan]] = {
    "as it is": as_it_is,
    "cropped": cropped,
    "narrow": narrow,
    "noisy": noisy,
    "blurred": blurred,
    "thick slices": thick,
    "wrong HU": wrong_hu,
    "flipped left to right": flipped(2),
    "flipped head to feet": flipped(0),
    "flipped front to back": flipped(1),
    "chest": chest,
}


def ways_of(number: int) -> list[str]:
    """Return the ways in which a patient is shown."""
    others = list(WAYS)[1:]
    return ["as it is", *(others[(3 * number + step) % len(others)] for step in range(PER_PATIENT))]


def collected(model: Model, *, patients: int, shape: tuple[int, int, int], seed: int, file: Path) -> list[dict]:
    """Return what was measured on every scan; scans that the file has already are not measured again.

    Args:
        model: The network.
        patients: How many synthetic ones.
        shape: Of their scans.
        seed: Of patients that took part in no training.
        file: One line of JSON per scan; of other weights, shapes or seeds it may hold lines, too.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    key = [model.weights_sha256, list(shape), seed]
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    found = {(line["scan"], line["way"]): line for line in lines if line["key"] == key}
    wanted = [(f"synthetic {number}", way) for number in range(1, patients + 1) for way in ways_of(number)]
    real_scans = [(name, "real") for name in (*LABELLED, *UNLABELLED) if (DATA / f"{name}_ct.nii.gz").exists()]
    missing = [each for each in (*wanted, *real_scans) if each not in found]
    with file.open("a", encoding="utf-8") as opened:
        for scan, way, (ct, truth), annotated in scans(model, missing, shape=shape, seed=seed):
            found[scan, way] = {"key": key, "scan": scan, "way": way, **measured(model, ct, truth, annotated)}
            opened.write(json.dumps(found[scan, way]) + "\n")
            opened.flush()
            print(scan, way, flush=True)
    return [found[each] for each in (*wanted, *real_scans)]


def scans(
    model: Model, wanted: list[tuple[str, str]], *, shape: tuple[int, int, int], seed: int
) -> Iterator[tuple[str, str, Scan, tuple[str, ...]]]:
    """Return scans by name and way, and which organs their truth has."""
    present, patient, truth = "", None, None
    for scan, way in wanted:
        if way == "real":
            yield scan, way, *real(model, scan)
            continue
        if scan != present:
            number, present = int(scan.split()[1]), scan
            variety = RICH if number % 2 else without(RICH, ["scan_range"])
            generator = np.random.default_rng([seed, number])
            patient = synthesize(generator, shape=shape, orientation="axial", variety=variety)
            truth = in_space(model, patient.labels.voxels, patient.organs)
        assert patient is not None
        assert truth is not None
        yield scan, way, WAYS[way](patient.ct, truth), model.space.organs


def real(model: Model, name: str) -> tuple[Scan, tuple[str, ...]]:
    """Read one of the real scans, with labels where there are any, and which organs these are."""
    ct = nifti.read(DATA / f"{name}_ct.nii.gz")
    ct = with_voxels(ct, hounsfield(ct, where=name))
    names = DATA / f"{name}_labels.json"
    if not names.exists():
        return (ct, None), ()
    labels = nifti.read(DATA / f"{name}_label.nii.gz").voxels.astype(np.uint8)
    organs = {int(value): organ for value, organ in json.loads(names.read_text()).items() if int(value)}
    annotated = fit(model.space, organs, set(organs.values())).annotated
    return (ct, in_space(model, labels, organs)), annotated


def in_space(model: Model, labels: np.ndarray, organs: dict[int, str]) -> np.ndarray:
    """Return a label map in the network's label space; 255 where it is not known."""
    fitted = fit(model.space, organs, set(organs.values()))
    table = np.zeros(256, np.uint8)
    for value, index in fitted.values.items():
        table[value] = index
    return table[labels]


def measured(model: Model, ct: Volume, truth: np.ndarray | None, annotated: tuple[str, ...]) -> dict:
    """Segment one scan and return all that is measured on it, for JSON."""
    names, certainty = model.space.labels, certainty_of(model)
    prepared = prepare_scan(ct, model)
    labels = np.ascontiguousarray(segment_prepared(prepared, model, certainty=certainty).labels.voxels)
    image, geometry = prepared.images[model.recipe.preparation]
    handedness = handedness_of(image, model, geometry)
    found = {
        "look": asdict(measure_scan(ct)),
        "handedness": handedness and asdict(handedness),
        "organs": facts_of(ct, labels, names),
        "edges": {} if certainty is None else {organ: asdict(certainty.edge(index)) for index, organ in names.items()},
    }
    if truth is None:
        return found
    truth = np.ascontiguousarray(truth)
    counts = confusion(truth, labels, len(names) + 1)
    scores = {organ: overlap(counts, index) for index, organ in names.items()}
    return found | {
        "dice": {organ: scores[organ].dice for organ in annotated},
        "truth_ml": {organ: score.truth_voxels * ct.voxel_ml for organ, score in scores.items()},
        "truth": facts_of(ct, truth, names),
    }


def facts_of(ct: Volume, labels: np.ndarray, names: dict[int, str]) -> dict:
    """Return what is measured on each organ of a label map."""
    contacts = measure_contacts(ct, labels, names)
    return {
        organ: {"facts": asdict(facts), "contact": asdict(contacts[organ]) if organ in contacts else None}
        for organ, facts in measure_organs(ct, labels, names).items()
    }
