"""annotated.json: which organs were looked for in each case of a data set, where the layout cannot say it.

    {"*": ["liver", "kidney"], "Case_00007": ["liver"]}

"*" stands for all cases that are not named. An organ that is listed and not in the label file is absent from the
patient; an organ that is not listed is unknown, whatever the label file holds.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from viscera.datasets.sources import Source, read_json
from viscera.errors import DataSetError, LabelError, did_you_mean
from viscera.io.atomic import write_json
from viscera.labels import SIDES, organ_name

FILE = "annotated.json"
REST = "*"


class AnnotationWarning(UserWarning):
    """What the user should know of which cases and organs count as annotated."""


def read_annotations(folder: Path) -> dict[str, tuple[str, ...]]:
    """Read {case: organs}, empty where there is no such file.

    Raises:
        DataSetError: The file has another form.
    """
    path = folder / FILE
    return read_organ_lists(path) if path.exists() else {}


def read_organ_lists(path: Path) -> dict[str, tuple[str, ...]]:
    """Read {case: organs}, by viscera's names, from a JSON file.

    Raises:
        DataSetError: The file has another form.
    """
    cases = {}
    for case, organs in read_json(path).items():
        if not isinstance(organs, list) or not all(isinstance(organ, str) for organ in organs):
            raise DataSetError(
                f"{path}: '{case}' must have a list of organ names, got {organs!r}", "Correct the file.", file=path
            )
        cases[case] = tuple(dict.fromkeys(organ_name(organ) for organ in organs))
    return cases


def annotate(
    folder: Path, sources: Sequence[Source], annotations: dict[str, tuple[str, ...]], *, cases: Sequence[str]
) -> list[Source]:
    """Return the sources with the organs that annotated.json lists for them.

    Args:
        folder: The data set's.
        sources: What the layout found.
        annotations: What ``read_annotations`` gave.
        cases: All cases that the folder knows, unusable ones included.

    Raises:
        DataSetError: A case is listed that is not there.
        LabelError: An organ is listed that no label of the case can hold.
    """
    path = folder / FILE
    for case in sorted(annotations.keys() - {REST, *cases}):
        hint = did_you_mean(case, cases)
        raise DataSetError(f"{path} lists case '{case}', which is not in the data set", f"{hint} Correct the file.")
    result = []
    for source in sources:
        listed = annotations.get(source.name, annotations.get(REST))
        possible = possible_organs([organ for _, organ in source.organs])
        for organ in listed or ():
            if organ not in possible:
                hint = did_you_mean(organ, possible) or f" Its labels are {', '.join(possible) or 'none'}."
                raise LabelError(
                    f"{path}: no label of case '{source.name}' holds '{organ}'", f"{hint} Correct the file."
                )
        kept = source.annotated if listed is None else tuple(organ for organ in possible if organ in listed)
        result.append(replace(source, annotated=kept))
    return result


def possible_organs(organs: Sequence[str]) -> list[str]:
    """Return the organs of a label list, then the wholes whose two sides are among them."""
    wholes = [whole for whole, sides in SIDES.items() if set(sides) <= set(organs)]
    return list(dict.fromkeys([*organs, *wholes]))


def record(folder: Path, entries: dict[str, tuple[str, ...]]) -> None:
    """Write entries into annotated.json, beside those that are there."""
    path = folder / FILE
    content = read_json(path) if path.exists() else {}
    write_json(path, content | {case: list(organs) for case, organs in entries.items()})
