"""Sign and Trust: what is said to people and programs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Sign:
    """Something that speaks against a result.

    Attributes:
        kind: A word for programs: border, volume, missing, pieces, hounsfield, edge_probability, edge_entropy, dropped, side; of
            scans slices, slice_spacing, pixel_spacing, view, body, chest, intensities, clipped, padded, nothing, few_organs,
            doubtful, mirrored, upside_down, back_to_front.
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
    """

    organs: Mapping[str, tuple[Sign, ...]]
    scan: tuple[Sign, ...]

    @property
    def messages(self) -> list[str]:
        """What people are told: of the scan first."""
        return [sign.message for signs in (self.scan, *self.organs.values()) for sign in signs]

    def to_json(self) -> dict[str, object]:
        """Give signs for JSON; organs without any are left out."""
        return {
            "scan": [asdict(sign) for sign in self.scan],
            "organs": {organ: [asdict(sign) for sign in signs] for organ, signs in self.organs.items() if signs},
        }
