"""Which organs each case's own data set annotates, where the truth to score against knows more.

A network that learns from several data sets sees an organ in the cases of some and never in those of others. Truth that is
complete, or was made later, tells how well it does on both; evaluate.py gives every score its group by this.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from viscera.datasets.annotations import REST, possible_organs, read_organ_lists
from viscera.datasets.sources import Source
from viscera.errors import DataSetError, FileError, LabelError, VisceraError, did_you_mean
from viscera.evaluation.pairing import ScoringJob, case_name
from viscera.io.label_names import label_names
from viscera.io.nifti import stem
from viscera.labels import PART_OF, SIDES, organ_name
from viscera.preparation.store import open_store


@dataclass(frozen=True)
class OwnOrgans:
    """The organs that each case's own data set annotates.

    Attributes:
        where: The file or store, for messages.
        cases: {case: organs}; "*" stands for all cases that are not named.
        is_store: It is a prepared store, whose organs are certain.
    """

    where: Path
    cases: Mapping[str, tuple[str, ...]]
    is_store: bool = False

    def taught(self, organs: Collection[str]) -> set[str]:
        """Return those of some organs that any case annotates."""
        return {organ for organ in organs if any(is_annotated(organ, own) for own in self.cases.values())}


def read_own_organs(path: Path) -> OwnOrgans:
    """Read a file like annotated.json, {case: [organs], "*": [organs]}, or what a prepared store's cases annotate.

    Raises:
        FileError: There is no such file.
        DataSetError: The file has another form.
        StoreError: A folder is not a store.
    """
    if path.is_dir():
        store = open_store(path)
        return OwnOrgans(path, {name: store.facts(name).annotated for name in store.names()}, is_store=True)
    if not path.exists():
        raise FileError(f"{path}: no such file or store", "Check the path of --annotated.", file=path)
    return OwnOrgans(path, read_organ_lists(path))


def own_organs(own: OwnOrgans, jobs: Sequence[ScoringJob], *, labels: Path | None = None) -> list[tuple[str, ...]]:
    """Return the organs that the own data set of each case annotates.

    Args:
        own: What ``read_own_organs`` gave.
        jobs: The cases, named as in ``own`` or with "<data set>__" before the name on either side.
        labels: A JSON file of names for label files that have none beside them.

    Raises:
        DataSetError: ``own`` says nothing of a case, or more than one thing.
        LabelError: It lists an organ that neither truth nor prediction can hold.
    """
    found = [_listed(own, job) for job in jobs]
    if not own.is_store:
        for job, organs in zip(jobs, found, strict=True):
            _require_possible(own, job, organs, labels=labels)
    return found


def is_annotated(organ: str, own: Collection[str]) -> bool:
    """Tell whether a data set annotates an organ: by its name, by both of its sides, or with the whole it is a side of.

    Example:
        >>> is_annotated("kidney", ["kidney_left", "kidney_right"]), is_annotated("kidney", ["kidney_left"])
        (True, False)
        >>> is_annotated("kidney_left", ["kidney"]), is_annotated("liver_tumour", ["liver"])
        (True, False)
    """
    wholes = (whole for whole in own if organ in SIDES.get(whole, ()))
    return organ in own or any(wholes) or (organ in SIDES and set(SIDES[organ]) <= set(own))


def half_annotated(organs: Iterable[str], own: Collection[str]) -> list[str]:
    """List the organs of which a data set annotates one side only."""
    return [organ for organ in organs if not is_annotated(organ, own) and not set(SIDES.get(organ, ())).isdisjoint(own)]


def _listed(own: OwnOrgans, job: ScoringJob) -> tuple[str, ...]:
    """Find a case's entry: under its own name, with or without its data set's, and last "*"."""
    if isinstance(job.truth, Source):
        names = [f"{job.truth.dataset}__{job.truth.name}", job.truth.name]
    else:
        names = [stem(job.truth), job.case, case_name(job.prediction)]
    for name in names:
        if name in own.cases:
            return own.cases[name]
    for name in names:
        longer = {case: organs for case, organs in own.cases.items() if case.endswith(f"__{name}")}
        if len(set(longer.values())) > 1:
            raise DataSetError(
                f"{own.where} has several cases '{job.case}' that annotate different organs: {', '.join(longer)}",
                "Name the truth's and the prediction's files like these.",
            )
        if longer:
            return next(iter(longer.values()))
        shorter = name.partition("__")[2]
        if shorter in own.cases:
            return own.cases[shorter]
    if REST in own.cases:
        return own.cases[REST]
    hint = did_you_mean(job.case, own.cases)
    entry = f'"{job.case}": ["liver", ...]'
    remedy = f"Prepare it, or give a file {{{entry}}}." if own.is_store else f'Add {entry}, or "*" for all others.'
    raise DataSetError(
        f"{own.where} does not say which organs the data set of case '{job.case}' annotates", f"{hint} {remedy}"
    )


def _require_possible(own: OwnOrgans, job: ScoringJob, organs: Sequence[str], *, labels: Path | None) -> None:
    """Raise LabelError for an organ that no label of truth or prediction holds."""
    held: list[str] = []
    try:
        truth = job.truth
        held += (
            dict(truth.organs).values()
            if isinstance(truth, Source)
            else label_names(truth, labels=labels).labels.values()
        )
        held += label_names(job.prediction, labels=labels).labels.values()
    except VisceraError:
        return  # said, with its remedy, when the case is scored
    possible = possible_organs([organ_name(organ) for organ in held])
    for organ in organs:
        if organ not in possible and PART_OF.get(organ) not in possible:
            hint = did_you_mean(organ, possible) or f" They hold {', '.join(possible)}."
            raise LabelError(
                f"{own.where}: neither truth nor prediction of case '{job.case}' can hold '{organ}'",
                f"{hint} Correct the file.",
            )
