"""Synthetic patients made by the workers of a cluster: the same data set as synthetic.py writes on one machine.

A patient is a piece of work (io/cluster_sharing.py). Workers make them; who asks writes them, in their order, since a data set
names its organs as they come. What waits for those before it is no more than two patients for each worker.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from viscera.datasets.synthetic import Cohort, make_patient
from viscera.errors import RunError
from viscera.io.cluster_pieces import Place, Work, noted, require_place
from viscera.io.cluster_sharing import Lost, do_over, require_fit, shared_notes
from viscera.io.clusters import Cluster
from viscera.synthesis.patient import Patient


def make_over(cluster: Cluster, folder: Path, cohort: Cohort, numbers: Sequence[int]) -> Generator[Patient]:
    """Yield patients in their order, as workers make them. Leaving early hands out nothing further.

    Args:
        cluster: The workers.
        folder: The data set's, on a disk that all machines share: there workers note which patient they begin.
        cohort: Without templates and donors, which would be sent with each patient.
        numbers: The patients, from 1.

    Raises:
        SettingError: A worker cannot write to the folder, or is of another version.
        RunError: Two workers died of a patient; or the scheduler is gone, and does not come back.
    """
    if not numbers:
        return
    with shared_notes(folder) as place:
        get_ready = partial(require_place, place)
        require_fit(cluster, get_ready)
        work = Work(get_ready, partial(make_there, place, cohort))
        with closing(do_over(cluster, work, numbers, ordered=True)) as patients:
            for index, patient in patients:
                if isinstance(patient, Lost):
                    raise RunError(
                        f"workers died again and again while they had case {numbers[index]}", "See their logs."
                    )
                yield patient


def make_there(place: Place, cohort: Cohort, number: int) -> Patient:
    """Make a patient on a worker.

    Raises:
        RunError: Two workers died of it.
    """
    with noted(place, f"case {number}", name=f"case {number}", doing="made"):
        return make_patient(cohort, number)
