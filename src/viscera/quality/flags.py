"""Sign and Trust: what is said to people and programs; CaseTrust: the same as NAME.json has it. Nothing here needs torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from viscera.io.nifti import stem
from viscera.json_text import load_json


@dataclass(frozen=True)
class Sign:
    """Something that speaks against a result.

    Attributes:
        kind: A word for programs: border, volume, missing, pieces, hounsfield, edge_probability, edge_entropy, dropped, half,
            alike, open, dome, side, predicted_dice; of scans slices, slice_spacing, pixel_spacing, view, body, chest, intensities,
            clipped, padded, nothing, few_organs, doubtful, mirrored, upside_down, back_to_front.
        value: What was found.
        expected: What would be in order.
        message: For people.
    """

    kind: str
    value: float | bool
    expected: str
    message: str


@dataclass(frozen=True)
class Trust:
    """All signs of one result.

    Attributes:
        organs: {organ: its signs}, those without any too.
        scan: Signs of the whole.
        predicted_dice: {organ: what Dice it probably has}, of those that were found; empty without a calibration.
    """

    organs: Mapping[str, tuple[Sign, ...]]
    scan: tuple[Sign, ...]
    predicted_dice: Mapping[str, float] = field(default_factory=dict)

    @property
    def messages(self) -> list[str]:
        """What people are told: of the scan first."""
        return [sign.message for signs in (self.scan, *self.organs.values()) for sign in signs]

    def to_json(self) -> dict[str, object]:
        """Return signs for JSON; organs without any are left out."""
        return {
            "scan": [asdict(sign) for sign in self.scan],
            "organs": {organ: [asdict(sign) for sign in signs] for organ, signs in self.organs.items() if signs},
        }


@dataclass(frozen=True)
class CaseTrust:
    """What speaks against the result of a case, in plain words.

    Attributes:
        case: Its name.
        scan: Signs of the whole.
        organs: {organ: its signs}; organs without any are left out.
        predicted_dice: {organ: what Dice it probably has}; empty where none was predicted.
    """

    case: str
    scan: tuple[str, ...]
    organs: Mapping[str, tuple[str, ...]]
    predicted_dice: Mapping[str, float] = field(default_factory=dict)

    @property
    def has_signs(self) -> bool:
        """Whether there is a sign."""
        return bool(self.scan or self.organs)


def read_case_trust(prediction: Path, *, case: str) -> CaseTrust | None:
    """Return the signs in the NAME.json beside a label map; None where there is none, or it has no statistics.

    Args:
        prediction: The label map.
        case: What the evaluation calls it.
    """
    try:
        found = load_json(prediction.with_name(stem(prediction) + ".json"))
        facts, measured = found["trust"], found.get("statistics", {})
        organs = {organ: _messages(signs) for organ, signs in facts["organs"].items() if signs}
        told = {
            organ: one["predicted_dice"] for organ, one in measured.items() if one.get("predicted_dice") is not None
        }
        predicted = {organ: float(dice) for organ, dice in told.items()}
        return CaseTrust(case, _messages(facts["scan"]), organs, predicted)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # files of others may lie there, and older ones of ours say nothing


def _messages(signs: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    return tuple(str(sign["message"]) for sign in signs)
