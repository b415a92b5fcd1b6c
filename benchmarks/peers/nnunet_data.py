"""Patients for nnunet.py: all of them in axial order, in nnU-Net's layout, with all organs annotated or with some left unknown."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from viscera.datasets.layouts import find_sources
from viscera.datasets.writing import write_case
from viscera.io import nifti
from viscera.io.processes import process_pool
from viscera.labels import SIDES, ZHANG12
from viscera.preparation.intensity import hounsfield
from viscera.preparation.resampling import (
    SliceGrid,
    resample_along_z,
    resample_labels,
    resample_labels_along_z,
    resampled_affine,
    resize_image,
    whole_pixel_grid,
)
from viscera.synthesis.patient import Patient, synthesize
from viscera.synthesis.variety import RICH, without
from viscera.volume import Volume, to_axial, with_voxels

SHAPE = (64, 128, 128)
TRAINING, VALIDATION, TEST = 24, 4, 16
SEED = 9200
ORGANS = ZHANG12.organs
HALF = ("liver", "kidney", "spleen", "pancreas", "stomach")
"""What every second patient annotates in the setting *partial*."""
SETTINGS = ("complete", "partial")


SPLITS = "splits.json"
"""In the data sets, where viscera reads it, and beside them."""
Scanned = tuple[Volume, Volume, Mapping[int, str]]
"""A scan, its labels, and what these mean."""


def make_patient(number: int) -> Patient:
    """Make a patient in axial order; every second one is an abdomen as a whole, the others are cut anywhere."""
    variety = RICH if number % 2 else without(RICH, ["scan_range"])
    return synthesize(np.random.default_rng([SEED, number]), shape=SHAPE, orientation="axial", variety=variety)


def smaller_patients(folder: Path) -> Iterator[Scanned]:
    """Return patients of a data set in nnU-Net's layout that `viscera synth` made, in axial order and resampled to SHAPE."""
    for source in find_sources("nnunet", folder)[0]:
        files = folder / "imagesTr" / f"{source.name}_0000.nii.gz", folder / "labelsTr" / f"{source.name}.nii.gz"
        ct, labels = (to_axial(nifti.read(file))[0] for file in files)
        pixels = whole_pixel_grid(ct.voxels.shape[1:], SHAPE[1:])
        slices = SliceGrid(SHAPE[0], Fraction(0), Fraction(len(ct.voxels), SHAPE[0]))
        affine = resampled_affine(ct.affine, pixels, slices)
        image = resample_along_z(resize_image(hounsfield(ct, where=source.name), SHAPE[1:]), slices)
        found = resample_labels_along_z(resample_labels(labels.voxels, pixels), slices).astype(np.uint8)
        yield Volume(image, affine), Volume(found, affine), dict(source.organs)


def made_patients(count: int, jobs: int) -> Iterator[Scanned]:
    """Make patients."""
    with process_pool(jobs) as pool:
        for task in [pool.schedule(make_patient, args=(number,)) for number in range(1, count + 1)]:
            patient = task.result()
            yield patient.ct, patient.labels, patient.organs


def make_data(work: Path, cores: Sequence[int], patients: Path | None = None) -> None:
    """Write the data sets in nnU-Net's layout, and their splits.

    Args:
        work: They go to its folder ``data``.
        cores: To make patients on.
        patients: A data set from whose first patients they are taken; None: they are made.
    """
    if (work / "data.done").exists():
        return
    shutil.rmtree(work / "data", ignore_errors=True)
    learnt = TRAINING + VALIDATION
    source = made_patients(learnt + TEST, len({*cores})) if patients is None else smaller_patients(patients)
    for number, (ct, labels, organs) in enumerate(islice(source, learnt + TEST), start=1):
        partly = HALF if number % 2 == 0 else ORGANS
        for folder, annotate in (
            {"complete": ORGANS, "partial": partly} if number <= learnt else {"test": ORGANS}
        ).items():
            write_case(
                "nnunet",
                work / "data" / folder,
                number=number,
                ct=ct,
                labels=labels,
                organs=organs,
                annotate=annotate,
            )
        print(f"\rpatient {number}", end="", file=sys.stderr)
    names = [nifti.stem(file) for file in sorted((work / "data" / "complete" / "labelsTr").iterdir())]
    splits = {"training": names[:TRAINING], "validation": names[TRAINING:]}
    for folder in (".", *SETTINGS):
        (work / "data" / folder / SPLITS).write_text(json.dumps(splits))
    (work / "data.done").touch()


def lay_out_real(work: Path) -> None:
    """Write the real scans, in axial order, as a data set of the organs that each annotates."""
    from benchmarks.studies.real_scans import ASIDE, real_scans

    folder = work / "data" / "real"
    if (folder / "names.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    names = {}
    for scan in real_scans(work / "real_scans"):
        if scan.name.endswith(ASIDE):
            continue
        known = set(scan.organs.values())
        organs = tuple(one for one in ORGANS if one in known or known.issuperset(SIDES.get(one, ("",))))
        labels = to_axial(with_voxels(scan.ct, scan.truth))[0]
        number = len(names) + 1
        source = write_case(
            "nnunet",
            folder,
            number=number,
            ct=to_axial(scan.ct)[0],
            labels=labels,
            organs=scan.organs,
            annotate=organs,
        )
        names[source.name] = scan.name
    (folder / "names.json").write_text(json.dumps(names))


def export(data: Path, raw: Path) -> None:
    """Write a data set as nnU-Net wants it: what a patient does not annotate is ``ignore``, where no annotated organ covers it."""
    content = json.loads((data / "dataset.json").read_text())
    known = {organ for organ, value in content["labels"].items() if value}
    ignore = len(known) + 1
    listed = data / "annotated.json"
    annotated = json.loads(listed.read_text()) if listed.exists() else {}
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for file in (data / "imagesTr").iterdir():
        shutil.copyfile(file, raw / "imagesTr" / file.name)
    for file in sorted((data / "labelsTr").iterdir()):
        labels = nifti.read(file)
        organs = annotated.get(nifti.stem(file), annotated.get("*", known))
        if set(organs) != known:
            labels = with_voxels(labels, np.where(labels.voxels == 0, ignore, labels.voxels).astype(np.uint8))
        nifti.write(raw / "labelsTr" / file.name, labels, overwrite=True)
    if annotated:
        content["labels"]["ignore"] = ignore
    (raw / "dataset.json").write_text(json.dumps(content, indent=2))
