"""The signs that a case's result should not be trusted, as NAME.json has them; the package trust finds them, with torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from viscera.nifti import stem


@dataclass(frozen=True)
class CaseTrust:
    """What speaks against the result of a case, in plain words.

    Attributes:
        case: Its name.
        scan: Signs of the whole.
        organs: {organ: its signs}; organs without any are left out.
    """

    case: str
    scan: tuple[str, ...]
    organs: Mapping[str, tuple[str, ...]]

    @property
    def has_signs(self) -> bool:
        """Whether there is a sign."""
        return bool(self.scan or self.organs)


def read_case_trust(prediction: Path, *, case: str) -> CaseTrust | None:
    """Give the signs in the NAME.json beside a label map; None where there is none, or it has no statistics.

    Args:
        prediction: The label map.
        case: What the evaluation calls it.
    """
    try:
        facts = json.loads(prediction.with_name(stem(prediction) + ".json").read_text(encoding="utf-8"))["trust"]
        organs = {organ: _messages(signs) for organ, signs in facts["organs"].items() if signs}
        return CaseTrust(case, _messages(facts["scan"]), organs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # files of others may lie there, and older ones of ours say nothing


def case_trust_from_json(value: Mapping[str, object]) -> CaseTrust:
    """Undo ``dataclasses.asdict`` of a CaseTrust.

    Raises:
        KeyError, TypeError: Something is missing or of another type.
    """
    organs = value["organs"]
    if not isinstance(organs, dict):
        raise TypeError(f"trust has organs {organs!r}, not an object")
    return CaseTrust(
        str(value["case"]), _texts(value["scan"]), {str(organ): _texts(signs) for organ, signs in organs.items()}
    )


def _messages(signs: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    return tuple(str(sign["message"]) for sign in signs)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"signs are {value!r}, not a list")
    return tuple(str(text) for text in value)
