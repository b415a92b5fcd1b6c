"""The picture of the last result, for the status page: QUEUE/last.png, slices of a scan beside its labels, and no name."""

from pathlib import Path

from viscera.errors import VisceraError
from viscera.figures.montage import montage
from viscera.inference.dicom_jobs import find_dicom_jobs
from viscera.inference.jobs import own_facts
from viscera.io import nifti, scans
from viscera.pacs.spool import PICTURE, Job
from viscera.preparation.intensity import hounsfield
from viscera.volume import with_voxels


def draw_last(job: Job, root: Path) -> None:
    """Draw a job whose images and results are still there; without either, or where it fails, the last picture stays.

    Args:
        job: Segmented.
        root: The queue's folder.
    """
    labels = job.results / f"{job.key}.nii.gz"
    facts = own_facts(job.results / f"{job.key}.json")
    if facts is None or not labels.is_file():
        return
    try:
        (one, *_), _ = find_dicom_jobs(job.images, labels)
        ct = scans.read(one.scan)
        ct = with_voxels(ct, hounsfield(ct, where=job.key))
        names = {int(value): organ for value, organ in facts["labels"].items()}
        montage(ct, nifti.read(labels), truth=None, names=names, out=root / PICTURE)
    except (VisceraError, ValueError):
        return
