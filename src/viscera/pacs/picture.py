"""The last result, for the status page, without a name: QUEUE/last.png, slices beside labels, and last.html, the viewer's page."""

from pathlib import Path

from viscera.errors import VisceraError
from viscera.figures.montage import montage
from viscera.inference.dicom_jobs import find_dicom_jobs
from viscera.inference.jobs import own_facts
from viscera.io import nifti, scans
from viscera.io.atomic import write_text
from viscera.pacs.spool import PAGE, PICTURE, Job
from viscera.preparation.intensity import hounsfield
from viscera.reports.viewer.last import last_page
from viscera.serving.last_result import LastResult, thinned
from viscera.volume import with_voxels


def draw_last(job: Job, root: Path) -> None:
    """Draw a job whose images and results are still there; without either, or where it fails, what was drawn last stays.

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
        volume, last = nifti.read(labels), LastResult()
        montage(ct, volume, truth=None, names=names, out=root / PICTURE)
        last.put(thinned(ct), volume, names)
        if (small := last.get()) is not None:
            write_text(root / PAGE, last_page(small.ct, small.labels, names), overwrite=True)
    except (VisceraError, ValueError):
        return
