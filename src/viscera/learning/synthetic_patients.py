"""Fresh patients: synthetic ones that are made while a network trains, in each epoch others.

    RUN/fresh/epoch_0001/cases/fresh__000001/    as in a store (preparation/store.py); gone when the epoch is over

While the network learns from one epoch's patients, processes make the next one's: synthesis/ the scan and its labels,
preparation/case.py the case, as of any data set. Which patients an epoch has depends on seed and epoch only; those that a killed
run left whole are taken up again. training.py learns from them.
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pebble import ProcessExpired

from viscera.datasets.sources import Source
from viscera.datasets.synthetic import Cohort, make_patient
from viscera.errors import RunError, SettingError
from viscera.io.cores import usable_cores
from viscera.io.processes import process_pool, result_of
from viscera.labels import TUMOUR, LabelSpace, fit
from viscera.preparation.case import prepare_image, prepare_labels
from viscera.preparation.store import Case, Facts, SourceFacts, Store, remove_leftovers, write_case
from viscera.synthesis.canvas import ORGANS
from viscera.synthesis.grafting import Donor
from viscera.synthesis.template.template import Template
from viscera.synthesis.variety import INGREDIENTS, RICH, Variety

DATASET = "fresh"
FIRST = 10**9
"""Before the first patient's number: none of them is in a data set that ``viscera synth`` wrote with the same seed, which
may be what the network is validated on."""
LEAST_SHAPE = 16
NICENESS = 5
"""Of the processes. Linux gives them a quarter of a core that the training wants, too (weights 335 and 1024), and all of
one that it does not."""
MOST_JOBS = 8
"""Unless told otherwise; each takes 170 MiB and makes a patient of 96x160x160 voxels in 0.8 s of its core."""


@dataclass(frozen=True, eq=False, kw_only=True)
class OnlinePatients:
    """What is made for each epoch.

    Attributes:
        patients: In each epoch. On disk are those of two epochs: 6 MB a patient of this shape, prepared for the recipe starter.
        only: Learn from them alone; otherwise from the store's training cases, too.
        seed: Another seed gives other patients.
        shape: Slices, rows and columns of a scan, before it is prepared.
        variety: How much patients and scans differ.
        tumours: Whether every patient has some, which are labelled.
        templates: Label maps that the patients are made from, in turn; procedural anatomy where there is none.
        donors: Whose organs take the place of the patients' own in some of them; see synthesis/grafting.py.
        jobs: Processes; 0: one per core but one, at most MOST_JOBS. Changes nothing in the patients.
    """

    patients: int
    only: bool = False
    seed: int = 0
    shape: tuple[int, int, int] = (96, 160, 160)
    variety: Variety = RICH
    tumours: bool = False
    templates: tuple[Template, ...] = ()
    donors: tuple[Donor, ...] = ()
    jobs: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        if self.patients < 1 or min(self.seed, self.jobs) < 0:
            raise SettingError(
                f"fresh patients: patients {self.patients}, seed {self.seed}, jobs {self.jobs}",
                "Ask for at least 1 patient, and neither seed nor jobs below 0.",
            )
        if min(self.shape) < LEAST_SHAPE:
            shape = "x".join(map(str, self.shape))
            raise SettingError(f"fresh patients: shape {shape}", f"Give at least {LEAST_SHAPE} in each direction.")

    def facts(self) -> dict[str, object]:
        """Return for JSON what decides which patients are made."""
        facts: dict[str, object] = {
            "patients": self.patients,
            "only": self.only,
            "seed": self.seed,
            "shape": list(self.shape),
            "variety": [name for name in INGREDIENTS if getattr(self.variety, name)],
            "templates": [template.fingerprint for template in self.templates],
        }
        facts |= {"donors": [donor.fingerprint for donor in self.donors]} if self.donors else {}
        return facts | ({"tumours": True} if self.tumours else {})

    def annotated(self, space: LabelSpace) -> list[tuple[str, ...]]:
        """Return the organs of a label space that patients annotate: of each template, or of procedural anatomy."""
        more = (TUMOUR,) if self.tumours else ()
        names = [(*organs, *more) for organs in [template.annotated for template in self.templates] or [ORGANS]]
        return [fit(space, dict(enumerate(organs, start=1)), organs).annotated for organs in names]


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a network learns from: the training cases of a store, and patients that are made while it trains."""

    store: Store
    fresh: OnlinePatients


def split_supply(supply: Store | TrainingData) -> tuple[Store, OnlinePatients | None]:
    """Return the store, and what is made beside it, if anything is."""
    return (supply.store, supply.fresh) if isinstance(supply, TrainingData) else (supply, None)


def epoch_store(run: Path, epoch: int, store: Store) -> Store:
    """Return the place of an epoch's (from 0) patients, prepared as a store's cases are."""
    return Store(run / DATASET / f"epoch_{epoch + 1:04d}", store.space, store.preparation)


def open_patients(run: Path, epoch: int, supply: TrainingData) -> list[Case]:
    """Open an epoch's patients; they must have been made."""
    place = epoch_store(run, epoch, supply.store)
    return [place.case(f"{DATASET}__{name}") for name in _names(supply.fresh, epoch)]


class PatientWorker:
    """Make the patients of one epoch after the other, always one epoch ahead: a context, in which processes run.

    What was made is removed with its epoch, and at the end of the context; an error leaves it, for a run that is resumed.
    """

    def __init__(self, run: Path, supply: TrainingData, *, epochs: int) -> None:
        """Say where and what; nothing is made before the first ``need``.

        Args:
            run: The run's folder.
            supply: What is made, and the store for whose label space and preparation.
            epochs: How many there are.
        """
        self.run, self.supply, self.epochs = run, supply, epochs
        self.tasks: dict[int, list[Future[None]]] = {}
        jobs = min(supply.fresh.jobs or min(MOST_JOBS, usable_cores() - 1), supply.fresh.patients)
        self.context = ExitStack()
        self.pool = self.context.enter_context(process_pool(max(1, jobs), niceness=NICENESS))

    def __enter__(self) -> "PatientWorker":
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the processes; remove everything unless there was an error."""
        self.context.close()
        if kind is None:
            shutil.rmtree(self.run / DATASET, ignore_errors=True)

    def need(self, epoch: int) -> None:
        """Wait until the patients of an epoch (from 0) are there, and let the next ones be made; no others are kept.

        Raises:
            RunError: A process died, or the disk is full.
            SettingError: A template does not hold what is to be scanned.
        """
        wanted = range(epoch, min(epoch + 2, self.epochs))
        places = [epoch_store(self.run, number, self.supply.store).path for number in wanted]
        for old in (self.run / DATASET).glob("epoch_*"):
            if old not in places:
                shutil.rmtree(old)
        try:
            for number in wanted:
                if number not in self.tasks:
                    self.tasks[number] = self._order(number)
            for task in self.tasks.pop(epoch):
                result_of(task, self.pool)
        except (ProcessExpired, CancelledError, RuntimeError) as error:
            raise RunError(
                f"a process that made fresh patients for epoch {epoch + 1} died, probably for lack of memory",
                "Pass --resume to go on, and --fresh.jobs 1 to need less memory.",
            ) from error
        except OSError as error:
            where = self.run / DATASET
            raise RunError(
                f"fresh patients cannot be written to {where}: {error.strerror}",
                "Make room, and pass --resume to go on.",
            ) from error

    def _order(self, epoch: int) -> list[Future[None]]:
        """Have those patients of an epoch made that do not stand there."""
        fresh, place = self.supply.fresh, epoch_store(self.run, epoch, self.supply.store)
        (place.path / "cases").mkdir(parents=True, exist_ok=True)
        remove_leftovers(place.path)
        tasks = []
        for number, name in enumerate(_names(fresh, epoch), start=epoch * fresh.patients):
            if not (place.path / "cases" / f"{DATASET}__{name}").is_dir():
                work = (place, _cohort(fresh, number), FIRST + number)
                tasks.append(self.pool.schedule(make_fresh, args=work, kwargs={"name": name}))
        return tasks


def make_fresh(place: Store, cohort: Cohort, number: int, *, name: str) -> None:
    """Make a patient of a cohort, prepare it as place's cases are, and write it there."""
    patient = make_patient(cohort, number)
    organs = tuple(patient.organs.items())
    source = Source(name, DATASET, name, Path(name), None, organs, tuple(organ for _, organ in organs))
    image, geometry = prepare_image(patient.ct, place.preparation)
    found = prepare_labels(patient.labels.voxels, source, space=place.space, geometry=geometry)
    case = Case(f"{DATASET}__{name}", DATASET, name, image, found.labels, found.known, found.annotated, geometry)
    made = SourceFacts("", (), "", (), (), organs, source.annotated, ())
    write_case(place.path, case, Facts(case.name, DATASET, name, case.annotated, (), made, geometry, "", {}, {}))


def _cohort(fresh: OnlinePatients, number: int) -> Cohort:
    """Return what a patient (from 0) is one of, with no other templates than its own: tens of MB go to the process."""
    templates = fresh.templates and (fresh.templates[number % len(fresh.templates)],)
    return Cohort(
        "nnunet",
        seed=fresh.seed,
        shape=fresh.shape,
        tumours=fresh.tumours,
        variety=fresh.variety,
        templates=templates,
        donors=fresh.donors,
    )


def _names(fresh: OnlinePatients, epoch: int) -> Sequence[str]:
    """Name an epoch's patients: numbers from 1 through all epochs."""
    return [f"{epoch * fresh.patients + number:06d}" for number in range(1, fresh.patients + 1)]
