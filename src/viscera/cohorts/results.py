"""One JSON file of a folder of results -> what the table says of it.

NAME.json           what predict wrote beside a label map (inference/predict.py)
NAME.failed.json    why predict could not segment a scan (inference/failures.py)

Whatever is wrong with a file is told in what is returned, and stops no other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viscera.cohorts.columns import ORGAN, SCAN, Value, checked, value_at
from viscera.inference.failures import failure_of
from viscera.inference.jobs import is_own
from viscera.io.paths_in_text import without_folders
from viscera.json_text import parse_json

What = Literal["result", "failure", "other", "damaged"]


@dataclass(frozen=True)
class Found:
    """What one JSON file says.

    Attributes:
        what: A result, a failure, something that is not predict's, or damaged.
        label_map: The name of the label map that it stands for; "" where it does not say.
        scan: The values of columns.SCAN, in their order.
        organs: Of each organ the values of columns.ORGAN.
        problem_kind: Of a failure or damage, the kind of error.
        problem: What is wrong.
    """

    what: What
    label_map: str = ""
    scan: tuple[Value, ...] = ()
    organs: tuple[tuple[Value, ...], ...] = ()
    problem_kind: str = ""
    problem: str = ""


def read_found(content: bytes, file: Path) -> Found:
    """Return what a JSON file says; whatever is wrong with it is told in the answer.

    Args:
        content: Of the file.
        file: Its path, for its name.
    """
    try:
        facts = parse_json(content)
        if isinstance(facts, dict) and (failed := failure_of(facts)) is not None:
            said = without_folders(failed.what)
            return Found("failure", failed.label_map, problem_kind=failed.error, problem=said)
        return _result(facts) if is_own(facts) else Found("other")
    except (ValueError, TypeError, AttributeError) as error:
        return damaged(str(error))


def damaged(why: str) -> Found:
    """Return what is said of a file that cannot be read."""
    return Found("damaged", problem_kind="FileError", problem=without_folders(why.partition("\n")[0])[:300])


def _result(facts: Mapping[str, object]) -> Found:
    """Return what a NAME.json says."""
    run = _object(facts, "run")
    label_map = run.get("label_map")
    scan = {column.name: value_at(facts, column) for column in SCAN if column.path}
    seconds = _object(run, "seconds").values()
    scan["seconds"] = round(sum(float(checked(one, _SECONDS) or 0) for one in seconds), 3) if seconds else None
    doubts = facts.get("doubts")
    scan["scan_flags"], scan["scan_flag_kinds"] = (None, None) if doubts is None else _flags(doubts)
    organs = tuple(_organ(facts, int(index), str(name)) for index, name in _object(facts, "labels").items())
    return Found(
        "result",
        label_map if isinstance(label_map, str) else "",
        tuple(scan[column.name] for column in SCAN),
        organs,
    )


def _organ(facts: Mapping[str, object], index: int, organ: str) -> tuple[Value, ...]:
    """Return an organ's values."""
    trust = _object(facts, "trust")
    measured = _object(_object(trust, "measured"), "organs")
    about = {
        "standing": _object(facts, "standing").get(organ),
        "statistics": _object(facts, "statistics").get(organ),
        "measured": measured.get(organ),
    }
    values = {column.name: value_at(about, column) for column in ORGAN if column.path}
    flags = _flags(_object(trust, "organs").get(organ, [])) if trust else (None, None)
    values |= {"organ": organ, "label": index, "flags": flags[0], "flag_kinds": flags[1]}
    return tuple(values[column.name] for column in ORGAN)


def _flags(signs: object) -> tuple[int, str | None]:
    """Return how many flags there are, and their kinds; no kinds of none.

    Raises:
        ValueError: It is not a list of flags.
    """
    if not isinstance(signs, Sequence) or not all(isinstance(sign, Mapping) and "kind" in sign for sign in signs):
        raise ValueError("its flags are not a list of objects with a kind")
    return len(signs), ";".join(str(sign["kind"]) for sign in signs) or None


def _object(facts: Mapping[str, object], key: str) -> Mapping[str, object]:
    """Return an object within another; empty where there is none.

    Raises:
        ValueError: It is something else.
    """
    value = facts.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} is not an object")
    return value


_SECONDS = next(column for column in SCAN if column.name == "seconds")
