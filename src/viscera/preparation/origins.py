"""Which data sets a store holds, and whether what is to be prepared is one of them, changed, or another of the same name.

A data set is told by its content, never by its path, which may name people. STORE/datasets.json keeps of each its layout, its
number of cases and a fingerprint: a SHA-256 over the names of its cases and the hashes of their files.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from viscera.datasets.sources import Source, label_files
from viscera.errors import DataSetError, StoreError
from viscera.io.atomic import sha256, write_json
from viscera.io.scans import sha256_of
from viscera.json_text import load_json
from viscera.preparation.case import case_name, describe
from viscera.preparation.store import Facts, SourceFacts, Store, facts_to_json

FILE = "datasets.json"
READERS = 4
"""Files hashed at a time."""


@dataclass(frozen=True)
class Standing:
    """What a store holds of a source.

    Attributes:
        source: The source.
        facts: Of the store's case of that name; None where there is none, or none that is whole.
        now: The source's files as they are, with their checksums; None where one cannot be read.
        same_image: Whether the case was made from the same scan file.
        is_current: Whether the case was made from the same files, with the same organs annotated, and shows the same
            patient.
    """

    source: Source
    facts: Facts | None = None
    now: SourceFacts | None = None
    same_image: bool = False
    is_current: bool = False


def compare_all(store: Store, sources: Sequence[Source]) -> list[Standing]:
    """Compare sources with the store's cases; files are read only where their stamps are not those of the case."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(partial(_compare, store), sources))


def _compare(store: Store, source: Source) -> Standing:
    try:
        facts = store.facts(case_name(source))
    except (StoreError, OSError):
        return Standing(source)
    try:
        now = describe(source)
        if now.stamps == facts.source.stamps:
            hashes = facts.source.image_sha256, facts.source.labels_sha256
        else:
            hashes = sha256_of(source.image), tuple(sha256(file) for file in label_files(source))
    except OSError:
        return Standing(source, facts)
    now = replace(now, image_sha256=hashes[0], labels_sha256=hashes[1])
    same = replace(now, stamps=()) == replace(facts.source, stamps=())
    is_current = (
        same and facts.patient == source.patient and facts.dataset == source.dataset and _is_whole(store, source)
    )
    return Standing(source, facts, now, now.image_sha256 == facts.source.image_sha256, is_current)


def _is_whole(store: Store, source: Source) -> bool:
    try:
        store.case(case_name(source))
    except (StoreError, OSError):
        return False
    return True


def require_one_folder_each(sources: Sequence[Source]) -> None:
    """Raise DataSetError where two folders are data sets of one name."""
    folders: dict[str, Path] = {}
    for source in sources:
        if source.origin is None:
            continue
        layout, folder = source.origin.layout, source.origin.folder
        if not _same_folder(folders.setdefault(source.dataset, folder), folder):
            raise DataSetError(
                f"two folders are data sets called '{source.dataset}'",
                f"Give one of them another name: {layout}:NAME=DIR.",
            )


def _same_folder(one: Path, other: Path) -> bool:
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def require_same_data_sets(store: Store, standings: Sequence[Standing]) -> None:
    """Raise DataSetError where a data set in the store goes by the name of another one that is to be prepared.

    Two are the same if at least half of the cases that both have show the same scan, and there are such.
    """
    held = Counter(_dataset_of(store, name) for name in store.names())
    for standing in standings:
        if standing.facts is not None and standing.facts.dataset != standing.source.dataset:
            raise DataSetError(
                f"case '{case_name(standing.source)}' in {store.path} comes from data set '{standing.facts.dataset}', "
                f"not '{standing.source.dataset}'",
                _name_it(standing.source),
            )
    for dataset in dict.fromkeys(standing.source.dataset for standing in standings):
        own = [standing for standing in standings if standing.source.dataset == dataset]
        shared = [standing for standing in own if standing.facts is not None]
        same = sum(standing.same_image for standing in shared)
        if held[dataset] and (not same or same < len(shared) - same):
            what = f"{len(shared)} of their cases have the same names, of which {same} show the same scan"
            raise DataSetError(
                f"{store.path} holds another data set called '{dataset}': {what}",
                f"{_name_it(own[0].source)} If it is the same one with every scan changed, delete "
                f"{store.path / 'cases' / dataset}__* first.",
            )


def _name_it(source: Source) -> str:
    layout = source.origin.layout if source.origin else "LAYOUT"
    return f"Give the data set a name of its own: {layout}:NAME=DIR."


def _dataset_of(store: Store, name: str) -> str:
    try:
        return store.facts(name).dataset
    except StoreError:
        return ""  # damaged; it is prepared anew if its data set is there


def refresh_stamps(store: Store, standings: Sequence[Standing]) -> None:
    """Write down the stamps of files that were copied or touched, but are the same, so that they need not be read again."""
    for standing in standings:
        facts, now = standing.facts, standing.now
        if standing.is_current and facts is not None and now is not None and facts.source.stamps != now.stamps:
            file = store.path / "cases" / facts.name / "case.json"
            write_json(file, facts_to_json(replace(facts, source=now)))


def notes_of_changes(standings: Sequence[Standing]) -> list[str]:
    """Return a note for each data set of which cases changed since they were prepared, with what it was that changed."""
    changed: dict[str, Counter[str]] = {}
    for standing in standings:
        facts, now = standing.facts, standing.now
        if facts is None or now is None or standing.is_current:
            continue
        before = facts.source
        reasons = {
            "scan": now.image_sha256 != before.image_sha256,
            "labels": now.labels_sha256 != before.labels_sha256,
            "names of the labels": (now.organs, now.unknown) != (before.organs, before.unknown),
            "organs annotated": now.annotated != before.annotated,
            "patient": standing.source.patient != facts.patient,
            "place of the files": (now.image, now.labels) != (before.image, before.labels),
        }
        counts = changed.setdefault(standing.source.dataset, Counter())
        counts.update([reason for reason, is_so in reasons.items() if is_so])
    return [
        f"{dataset}: changed since it was prepared, so prepared anew: "
        + ", ".join(f"{reason} ({count} case{'s' * (count > 1)})" for reason, count in counts.items())
        for dataset, counts in sorted(changed.items())
        if counts
    ]


def write_data_sets(store: Store, sources: Sequence[Source]) -> None:
    """Write datasets.json: of each data set with cases in the store its layout, number of cases and fingerprint."""
    layouts = {source.dataset: source.origin.layout for source in sources if source.origin}
    facts: dict[str, list[Facts]] = {}
    for fact in map(store.facts, store.names()):
        facts.setdefault(fact.dataset, []).append(fact)
    found = {
        dataset: {
            "layout": layouts.get(dataset) or _written_layout(store, dataset),
            "cases": len(cases),
            "fingerprint": fingerprint(cases),
        }
        for dataset, cases in sorted(facts.items())
    }
    if _written(store) != found:
        write_json(store.path / FILE, found)


def fingerprint(cases: Sequence[Facts]) -> str:
    """Return a SHA-256 over the names of cases and the hashes of the files that they were made from."""
    lines = [" ".join([case.source.image_sha256, *case.source.labels_sha256, case.name]) for case in cases]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _written(store: Store) -> dict[str, object]:
    """Return what datasets.json holds; nothing where it is not there or damaged, for it is written anew."""
    file = store.path / FILE
    try:
        found = load_json(file) if file.is_file() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _written_layout(store: Store, dataset: str) -> str:
    entry = _written(store).get(dataset)
    return str(entry.get("layout", "")) if isinstance(entry, dict) else ""
