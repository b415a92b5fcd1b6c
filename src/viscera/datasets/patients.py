"""patients.json: which cases of a data set show one patient, where the layout cannot say it.

    {"case_01_art": "01", "case_01_pv": "01"}

A case that is not listed is a patient of its own, except that names as BIDS has them (sub-01_ses-2_ct) say who it is. The
names of patients go into the prepared store, so they should be numbers or pseudonyms.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from viscera.datasets.sources import Source, read_json
from viscera.errors import DataSetError, did_you_mean

FILE = "patients.json"


def read_patients(folder: Path, *, cases: Sequence[str]) -> dict[str, str]:
    """Read {case: patient}, empty where there is no such file.

    Args:
        folder: The data set's.
        cases: All cases that the folder knows, unusable ones included.

    Raises:
        DataSetError: The file has another form, or lists a case that is not there.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    patients = {}
    for case, patient in read_json(path).items():
        if case not in cases:
            remedy = f"{did_you_mean(case, cases)} Correct the file."
            raise DataSetError(f"{path} lists case '{case}', which is not in the data set", remedy, file=path)
        name = str(patient).strip()
        if not isinstance(patient, str | int) or isinstance(patient, bool) or not name:
            raise DataSetError(
                f"{path}: '{case}' must have the name or number of a patient, got {patient!r}",
                'List them as {"case": "patient"}.',
                file=path,
            )
        patients[case] = name
    return patients


def name_patients(folder: Path, sources: Sequence[Source], *, cases: Sequence[str]) -> list[Source]:
    """Return the sources with the patients that patients.json, else a BIDS name, says they show.

    Cases that the layout says to be of one patient stay so: what patients.json says of one of them goes for those that it
    does not list.

    Raises:
        DataSetError: patients.json cannot be used.
    """
    listed = read_patients(folder, cases=cases)
    groups: dict[str, list[Source]] = {}
    for source in sources:
        groups.setdefault(source.patient, []).append(source)
    named: dict[str, str] = {}
    for patient, group in groups.items():
        known = {listed[source.name] for source in group if source.name in listed}
        rest = known.pop() if len(known) == 1 else _bids(patient, cases)
        named |= {source.name: listed.get(source.name, rest) for source in group}
    return [replace(source, patient=named[source.name]) for source in sources]


def _bids(patient: str, cases: Sequence[str]) -> str:
    """Return the patient of sub-01_ses-2_ct, sub-01, where a patient is called after a case."""
    found = re.match(r"sub-[0-9A-Za-z]+(?=_)", patient)
    return found.group() if found and patient in cases else patient


def note_of_stems(dataset: str, sources: Sequence[Source]) -> list[str]:
    """Return a note where cases of a data set look by their names like several scans of one patient, and nothing says so.

    What all names begin with does not count; a stem ends with the first number after that: 01 in case_01_art.
    """
    tokens = {source.name: _tokens(source.name) for source in sources}
    patient = {source.name: source.patient for source in sources}
    columns = zip(*tokens.values(), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns)) if len(tokens) > 1 else 0
    stems: dict[tuple[str, ...], list[str]] = {}
    for name, parts in tokens.items():
        own = parts[shared:]
        numbers = [place for place, part in enumerate(own) if part[-1:].isdigit()]
        if numbers and numbers[0] + 1 < len(own):
            stems.setdefault(tuple(own[: numbers[0] + 1]), []).append(name)
        elif not numbers and any(part[-1:].isdigit() for part in parts[:shared]):
            stems.setdefault((), []).append(name)
    alike = [names for names in stems.values() if len({patient[name] for name in names}) > 1]
    if not alike:
        return []
    example = ", ".join(sorted(alike[0])[:3])
    count = "1 group of cases has names" if len(alike) == 1 else f"{len(alike)} groups of cases have names"
    return [
        f"{dataset}: {count} with the same stem ({example}), and nothing says whether they show one patient. "
        f"If so, write {FILE} into the data set's folder ({{case: patient}}), or training and test may share patients"
    ]


def _tokens(name: str) -> list[str]:
    """Return the words and numbers of a name: pat01, a of pat01a."""
    return re.findall(r"[^\W\d_]*\d+|[^\W\d_]+", name)
