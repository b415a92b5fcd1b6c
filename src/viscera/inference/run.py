"""What all scans of a run share; and what is done already, what must not be written, and what others write."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from viscera.errors import FileError, VisceraError
from viscera.inference.dicom_objects import DicomOptions, require_series, stand
from viscera.inference.faults import as_problem
from viscera.inference.identity import is_finished, made_with
from viscera.inference.jobs import ScanJob, own_facts
from viscera.inference.memory import Budget
from viscera.inference.model import Model
from viscera.inference.reading import ReadAhead
from viscera.io.atomic import cannot_write
from viscera.io.locks import only_writer, remove_abandoned_lock
from viscera.networks.device import release_freed_memory
from viscera.quality.efficiency import Meter, sample_efficiency


@dataclass(frozen=True)
class PredictOptions:
    """What to write.

    Attributes:
        organs: Only these, by name; empty for all that the network knows.
        statistics: Also volume, HU and border per organ in NAME.json, and what speaks against the result.
        overwrite: Replace label maps that stand there, and their NAME.json.
        dicom: What to write beside the label maps of DICOM series.
    """

    organs: tuple[str, ...] = ()
    statistics: bool = False
    overwrite: bool = False
    dicom: DicomOptions = field(default_factory=DicomOptions)

    @property
    def measure(self) -> bool:
        """Whether organs are measured, because they are asked for or stand in a report."""
        return self.statistics or self.dicom.measured


class DoneMeanwhileError(VisceraError):
    """Another process wrote the same label map since this one began."""


def is_done(job: ScanJob, model: Model, options: PredictOptions) -> bool:
    """Tell whether the label map stands there already, made from this scan, by these weights and with these options.

    Raises:
        FileError: Something else stands there, and is not to be overwritten.
    """
    wanted = made_with(model, [model.output_space.index(organ) for organ in options.organs])
    require_series(job, options.dicom)
    if not is_finished(job, wanted, overwrite=options.overwrite):
        return False
    facts = own_facts(job.sidecar) or {}
    return (not options.statistics or "statistics" in facts) and stand(job, facts.get("run", {}), options.dicom)


def outcome_before(job: ScanJob, run: "Run") -> str | VisceraError | None:
    """Say why a scan needs no work, or must not be worked on; None where it is to be segmented."""
    try:
        if not is_done(job, run.model, run.options):
            return None
        remove_abandoned_lock(job.output)
        return "was done"
    except Exception as error:  # as in pipeline.py: whatever a scan causes is that scan's
        return as_problem(job, error)


def may_be_beside(job: ScanJob, run: "Run") -> bool:
    """Tell whether a scan may be read while others are worked on; what its header causes is told when it is read."""
    try:
        return run.budget.admit(job.scan)
    except Exception:  # reading causes it again, where it becomes that scan's failure
        return False


@dataclass(frozen=True, eq=False)
class Run:
    """What all scans of a run share.

    Attributes:
        model: The networks.
        options: What to write.
        wanted: Indices of the organs that are asked for; empty for all.
        budget: How each scan is to be read.
        meter: What the run costs; each scan that is written ends a lap.
        watch: Told of the slices of the present scan.
        ahead: The first scan, where reading it has begun before.
        claims: Of the label maps that are being made, what keeps other processes from writing them.
        written: Which files were written, by what the disk knows them by.
    """

    model: Model
    options: PredictOptions
    wanted: tuple[int, ...]
    budget: Budget
    meter: Meter
    watch: Callable[[int, int], None]
    ahead: ReadAhead | None = None
    claims: dict[ScanJob, ExitStack] = field(default_factory=dict)
    written: dict[tuple[int, int], str] = field(default_factory=dict)

    def claim(self, job: ScanJob) -> None:
        """Keep other processes from writing a scan's label map until it is released.

        Raises:
            FileError: Another process is writing it, something else has come to stand there, or nothing can be written.
        """
        try:
            job.output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(job.output, error) from error
        self.claims[job] = stack = ExitStack()
        stack.enter_context(only_writer(job.output))
        if job.output.exists() and disk_key(job.output) in self.written:
            raise FileError(
                f"{job.output.name} is the label map of {self.written[disk_key(job.output)]}: this disk takes both names for one",
                "Rename one of the scans.",
            )
        if is_done(job, self.model, self.options):
            raise DoneMeanwhileError(f"{job.output.name} was written meanwhile")

    def release(self, job: ScanJob) -> None:
        """Let others write a scan's label map again."""
        if job in self.claims:
            self.claims.pop(job).close()

    def spare_memory(self) -> None:
        """Return what a stage has left, where there is a limit."""
        if self.budget.most_mib is not None:
            release_freed_memory()


@contextmanager
def begin(
    model: Model,
    options: PredictOptions,
    *,
    max_memory_mib: float | None,
    watch: Callable[[int, int], None],
    ahead: ReadAhead | None = None,
) -> Iterator[Run]:
    """Begin a run, and measure what it costs."""
    wanted = tuple(model.output_space.index(organ) for organ in options.organs)
    budget = Budget(model, most_mib=max_memory_mib, statistics=options.measure)
    with sample_efficiency(model.device) as meter:
        run = Run(model, options, wanted, budget, meter, watch, ahead)
        try:
            yield run
        finally:
            for job in list(run.claims):
                run.release(job)


def disk_key(path: Path) -> tuple[int, int]:
    """Return by what the disk knows a file, whatever its name."""
    found = path.stat()
    return found.st_dev, found.st_ino
