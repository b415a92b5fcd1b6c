"""The layout of TotalSegmentator: CASE/ct.nii.gz and CASE/segmentations/ORGAN.nii.gz, one binary mask per organ.

A mask that is there and empty says that the organ was looked for and is absent; one that is not there says nothing.
Source: Wasserthal et al. 2023, doi:10.1148/ryai.230024.
"""

from pathlib import Path

from viscera.datasets.sources import Found, Problem, Source
from viscera.io import nifti
from viscera.labels import organ_name

CASE_NAME = "s{:04d}"
MASKS = "segmentations"


def find(folder: Path) -> Found | None:
    """Find the cases, or None where no subfolder holds a folder of masks."""
    places = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not any((place / MASKS).is_dir() for place in places):
        return None
    sources, problems = [], []
    for place in places:
        images = [path for path in nifti.find_files(place) if nifti.stem(path) == "ct"]
        masks = nifti.find_files(place / MASKS) if (place / MASKS).is_dir() else []
        names = [organ_name(nifti.stem(path)) for path in masks]
        if not images and not masks:
            what, remedy = "neither ct.nii.gz nor masks", "complete the case, or move the folder elsewhere"
        elif not images:
            what, remedy = "masks without ct.nii.gz", "add the scan, or move the case elsewhere"
        elif not masks:
            what, remedy = "ct.nii.gz without masks", "add its segmentations, or move the case elsewhere"
        elif len(images) > 1 or len(set(names)) < len(names):
            what, remedy = "two files for one scan or organ", "keep one of ct.nii and ct.nii.gz, one mask per organ"
        else:
            sources.append(make_source(folder, place.name, images[0], dict(zip(names, masks, strict=True))))
            continue
        problems.append(Problem(place.name, place.name, what, remedy))
    return sources, problems


def make_source(folder: Path, name: str, image: Path, masks: dict[str, Path]) -> Source:
    """Make the source of a case from {organ: mask file}, in the order of organ names."""
    ordered = tuple(sorted(masks.items()))
    organs = tuple((value, organ) for value, (organ, _) in enumerate(ordered, start=1))
    return Source(name, folder.name, name, image, ordered, organs, tuple(organ for organ, _ in ordered))
