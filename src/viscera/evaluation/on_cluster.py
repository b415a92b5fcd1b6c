"""Predictions scored against truth by the workers of a cluster: the same scores as evaluate.py gives on one machine.

A case is a piece of work (io/cluster_sharing.py). What comes of each is kept in a hidden folder until all are done, by the contents
of all files that it comes from, so that a command that was interrupted goes on.
"""

import hashlib
import json
import shutil
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from viscera.datasets.elsewhere import absolute_source
from viscera.datasets.sources import Source, label_files
from viscera.errors import FileError, VisceraError
from viscera.evaluation.evaluate import Outcome, Rules, ScoringCase, failed, score_or_tell
from viscera.evaluation.pairing import ScoringJob
from viscera.io.atomic import sha256, write_text
from viscera.io.cluster_pieces import Place, Work, noted, require_place
from viscera.io.cluster_sharing import Lost, do_over, require_fit, shared_place
from viscera.io.clusters import Cluster
from viscera.io.json_codec import from_json
from viscera.io.label_names import files_of_names


@dataclass(frozen=True)
class Order:
    """What all cases of a call share.

    Attributes:
        place: Where what is finished is kept.
        rules: How to score.
        labels: A JSON file of names; its path is absolute.
    """

    place: Place
    rules: Rules
    labels: Path | None


def kept_beside(file: Path) -> Path:
    """Return the folder in which finished cases are kept until a file of scores is written."""
    return file.with_name(f".{file.name}.cases")


def forget_kept(folder: Path) -> None:
    """Remove what was kept of finished cases."""
    shutil.rmtree(folder, ignore_errors=True)


def score_over(
    cluster: Cluster, kept: Path, rules: Rules, labels: Path | None, cases: Sequence[ScoringCase]
) -> Generator[tuple[int, Outcome]]:
    """Yield the number of each case and what came of it, as workers are done; see ``evaluate``.

    Args:
        cluster: The workers.
        kept: A folder, on a disk that all machines share, in which finished cases are kept; see ``forget_kept``.
        rules: How to score.
        labels: A JSON file of names for label files that have none beside them.
        cases: What is to be scored.

    Raises:
        SettingError: A worker sees other files than we do, or a case is in a ZIP that only this machine has unpacked.
        RunError: The scheduler is gone, and does not come back.
        FileError: Nothing can be written to ``kept``.

    Warns:
        ClusterWarning: A worker that came later cannot be used.
    """
    if not cases:
        return
    there = [(_absolute(job, here=bool(cluster.address.local)), organs) for job, organs in cases]
    inputs = [file for job in (there[0][0], there[-1][0]) for file in _files(job)[:2]]
    with shared_place(kept, inputs) as place:
        get_ready = partial(require_place, place)
        require_fit(cluster, get_ready)
        order = Order(place, rules, labels and labels.absolute())
        with closing(do_over(cluster, Work(get_ready, partial(score_there, order)), there)) as outcomes:
            for index, found in outcomes:
                lost = isinstance(found, Lost)
                yield index, _lost(cases[index][0]) if lost else _as_given(found, there[index][0], cases[index][0])


def score_there(order: Order, case: ScoringCase) -> Outcome:
    """Score a case on a worker, unless that was done; whatever it causes is told, nothing is raised."""
    job, _ = case
    try:
        key = _key(order, case)
        file = order.place.probe.with_name(f"{key}.json")
        with noted(order.place, key, name=job.case, doing="scored"):
            if (before := _kept(file)) is not None:
                return before
            found = score_or_tell(order.rules, order.labels, case)
            if not found.problems:
                write_text(file, json.dumps(asdict(found)))
            return found
    except VisceraError as error:
        return failed(job, error.what.removeprefix(f"{job.case}: "), error.remedy)
    except OSError:  # a file of the case: what is wrong with it, scoring tells
        return score_or_tell(order.rules, order.labels, case)


def _key(order: Order, case: ScoringCase) -> str:
    """Return what tells a case by all that its scores come from."""
    job, organs = case
    facts: list[object] = [version("viscera"), asdict(order.rules), job.case, job.patient, organs]
    if isinstance(job.truth, Source):
        truth = job.truth
        facts += [truth.patient, truth.organs, truth.annotated, truth.unknown]
    named = [job.prediction, *(() if isinstance(job.truth, Source) else (job.truth,))]
    names = [file for path in named for file in files_of_names(path)]
    for file in (*_files(job), *names, *((order.labels,) if order.labels else ())):
        facts.append((file.name, sha256(file) if file.exists() else None))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _kept(file: Path) -> Outcome | None:
    """Return what came of a case before; None where that is not known."""
    with suppress(FileNotFoundError, FileError, UnicodeDecodeError):
        return from_json(Outcome, file.read_text(encoding="utf-8"), what=file.name, remedy="", constants=True)
    return None


def _files(job: ScoringJob) -> list[Path]:
    """Return the label files of a case, the prediction first."""
    return [job.prediction, *(label_files(job.truth) if isinstance(job.truth, Source) else (job.truth,))]


def _absolute(job: ScoringJob, *, here: bool) -> ScoringJob:
    """Return a case by paths that hold for other processes."""
    truth = absolute_source(job.truth, here=here) if isinstance(job.truth, Source) else job.truth.absolute()
    return replace(job, prediction=job.prediction.absolute(), truth=truth)


def _as_given(outcome: Outcome, there: ScoringJob, here: ScoringJob) -> Outcome:
    """Return an outcome whose problem names files by the paths that the user gave."""
    pairs = list(zip(_files(there), _files(here), strict=True))
    pairs += [(long.parent, short.parent) for long, short in pairs]

    def short(text: str) -> str:
        """Return a text with the paths of this machine."""
        for long, given in pairs:
            text = text.replace(str(long), str(given))
        return text

    problems = tuple(replace(one, file=short(one.file), what=short(one.what)) for one in outcome.problems)
    return replace(outcome, problems=problems)


def _lost(job: ScoringJob) -> Outcome:
    """Return what came of a case that Dask gave up, since workers die before they can note that they begin."""
    return failed(
        job, "workers died again and again while they had it", "See their logs; the same command tries it again."
    )
