"""What Dice an organ probably has: numbers that were measured on it -> a number, by a calibration that belongs to the weights.

The model is additive: each doubt lowers a score along a curve of straight pieces that never rises, so that less certainty never
predicts a better Dice, whatever it was fitted to; a logistic function makes the score a Dice, and another such score the
probability that an organ is not bad, by which it is flagged. All is plain numbers in a JSON, which benchmarks/studies/trust.py
fits and writes. Without one for exactly these weights nothing is predicted.

Source:
    Generalised additive models, Hastie and Tibshirani 1986, doi:10.1214/ss/1177013604. That a network's own certainty predicts its
    Dice: e.g. Roy et al. 2019, doi:10.1016/j.neuroimage.2019.03.042 (here one number of several).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from pathlib import Path

from viscera.config.ranges import STRICT
from viscera.errors import WeightsError
from viscera.io.json_codec import from_json
from viscera.json_text import load_text
from viscera.quality.certainty import Edge, Handedness
from viscera.quality.contacts import Contact
from viscera.quality.flags import Sign
from viscera.quality.measuring import Organ
from viscera.quality.plausible import PLAUSIBLE

FORMAT = 1
"""Of calibrations. Others are refused."""
FOLDER_NAME = "trust"
"""Beside bundled weights: trust/NAME.json."""
FILE_NAME = "trust.json"
"""Beside a run's weights."""
WRONG_WAY = ("mirrored", "upside_down", "back_to_front")
OF_RESULT = ("nothing", "few_organs", "doubtful")
"""Signs of a scan that depend on which organs were asked for."""
NOT_COUNTED = ("border", "edge_probability", "edge_entropy", "dropped", "pieces", "alike", "open", "predicted_dice")
"""Signs whose numbers are doubts themselves, or that are none."""
UNSURE = ("edge_probability", "edge_entropy")
"""Signs with one limit for all organs, which a calibration knows better."""

DOUBTS = (
    *(
        "expects_less",
        "edge",
        "entropy",
        "uncertain",
        "dropped",
        "slices",
        "apart",
        "alike",
        "smaller",
        "larger",
        "cut",
    ),
    *("signs", "wrong_way", "odd_scan", "mirrored", "scan"),
)
"""All that ``doubts_of`` returns."""
MOST_SCORE, MOST_EXPONENT = 50.0, 500.0
"""Scores of fits lie within +-8; what is far beyond would overflow."""

Doubts = Mapping[str, float]
"""{name: doubt}, where more is worse."""


@dataclass(frozen=True)
class Curve:
    """How much a doubt lowers the score.

    Attributes:
        knots: Values of the doubt, rising; below the first nothing is lowered, above the last no more.
        drops: By how much from each knot to the next; none below 0.
    """

    __pydantic_config__ = STRICT

    knots: tuple[float, ...]
    drops: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise ValueError, which reading turns into a refusal, where it is no curve that never rises."""
        if len(self.drops) != len(self.knots) - 1 or any(low >= high for low, high in pairwise(self.knots)):
            raise ValueError("knots must rise, with one drop between each two")
        if any(drop < 0 for drop in self.drops):
            raise ValueError("no drop may be below 0: less certainty would predict a better Dice")

    def __call__(self, doubt: float) -> float:
        """Return what is to be taken from the score."""
        return sum(
            drop * min(max((doubt - low) / (high - low), 0.0), 1.0)
            for drop, low, high in zip(self.drops, self.knots[:-1], self.knots[1:], strict=True)
        )


@dataclass(frozen=True)
class OrganScore:
    """What is an organ's own.

    Attributes:
        score: Without any doubt.
        curves: {doubt: its curve}, which is added to the one that all organs share.
    """

    __pydantic_config__ = STRICT

    score: float
    curves: dict[str, Curve]


@dataclass(frozen=True)
class Additive:
    """From doubts to a number in (0, 1).

    Attributes:
        organs: {organ: what is its own}.
        shared: {doubt: curve of all organs}.
    """

    __pydantic_config__ = STRICT

    organs: dict[str, OrganScore]
    shared: dict[str, Curve]

    def __post_init__(self) -> None:
        """Raise ValueError where a doubt is not one that viscera measures, or a score is beyond all sense."""
        for name in [*self.shared, *(name for own in self.organs.values() for name in own.curves)]:
            if name not in DOUBTS:
                raise ValueError(f"'{name}' is not one of {', '.join(DOUBTS)}")
        if any(abs(own.score) > MOST_SCORE for own in self.organs.values()):
            raise ValueError(f"scores must lie within +-{MOST_SCORE:g}")

    def __call__(self, organ: str, doubts: Doubts) -> float:
        """Return the number for an organ; the more of any doubt, the less."""
        own = self.organs[organ]
        curves = [*self.shared.items(), *own.curves.items()]
        score = own.score - sum(curve(doubts[name]) for name, curve in curves)
        return 1 / (1 + exp(min(-score, MOST_EXPONENT)))


@dataclass(frozen=True)
class Calibration:
    """From doubts to a Dice, for one network's weights.

    Attributes:
        format: Of the file.
        weights_sha256: Of the weights that it belongs to.
        fitted_on: In words.
        bad_below: The Dice below which an organ is called bad.
        flag_below: The probability of not being bad below which an organ is flagged: 95 % of the bad ones were.
        volumes_ml: {organ: its usual volume}; no other organ gets a prediction.
        dice: What Dice an organ probably has.
        good: The probability that it is not bad.
    """

    __pydantic_config__ = STRICT

    format: int
    weights_sha256: str
    fitted_on: str
    bad_below: float
    flag_below: float
    volumes_ml: dict[str, float]
    dice: Additive
    good: Additive

    def __post_init__(self) -> None:
        """Raise ValueError where an organ lacks something."""
        if not set(self.volumes_ml) <= set(self.dice.organs) & set(self.good.organs):
            raise ValueError("each organ needs a usual volume and both scores")
        if any(volume <= 0 for volume in self.volumes_ml.values()):
            raise ValueError("usual volumes must be above 0 ml")

    def flags(self, organ: str, doubts: Doubts) -> bool:
        """Tell whether an organ is probably bad."""
        return self.good(organ, doubts) < self.flag_below

    def signs(self, organ: str, doubts: Doubts, others: Sequence[Sign]) -> tuple[Sign, ...]:
        """Return an organ's signs with that of a predicted Dice, or without those of an unsure network that is usually right.

        Args:
            organ: One of ``volumes_ml``.
            doubts: From ``doubts_of``.
            others: Its other signs.
        """
        if not self.flags(organ, doubts):
            return tuple(sign for sign in others if sign.kind not in UNSURE)
        dice, good = self.dice(organ, doubts), self.good(organ, doubts)
        text = f"{organ} may be segmented badly: predicted Dice {dice:.2f}, at least {self.bad_below:.2f} with a probability of"
        expected = f"at least {self.bad_below:.2f} with a probability of {self.flag_below:.0%}"
        return (*others, Sign("predicted_dice", round(dice, 3), expected, f"{text} {good:.0%}"))


def doubts_of(
    facts: Organ,
    edge: Edge,
    contact: Contact | None,
    signs: Sequence[Sign],
    *,
    organ: str,
    usual_ml: float,
    scan: Doubts,
) -> dict[str, float]:
    """Return the doubts of an organ that was found.

    Args:
        facts: What was measured on it.
        edge: How sure the network was.
        contact: Its surface.
        signs: What was said of it.
        organ: Its name.
        usual_ml: Its usual volume.
        scan: From ``scan_doubts``.
    """
    expected = PLAUSIBLE[organ].pieces if organ in PLAUSIBLE else 1
    apart = 1 - sum(facts.shares[: expected or 3])
    larger = log(max(facts.volume_ml, 1e-3) / max(usual_ml, 1e-3))
    return {
        "expects_less": 1 - (edge.expected_dice or 0.0),
        "edge": 1 - (edge.probability if edge.probability is not None else 1.0),
        "entropy": edge.entropy_bits or 0.0,
        "uncertain": edge.uncertain_fraction or 0.0,
        "dropped": edge.dropped_fraction,
        "slices": 0.0 if facts.slice_agreement is None else 1 - facts.slice_agreement,
        "apart": apart,
        # The sum, so that it does not depend on which other organs were asked for.
        "alike": contact.alike_fraction + contact.open_fraction if contact else 0.0,
        "smaller": max(-larger, 0.0),
        "larger": max(larger, 0.0),
        "cut": float(facts.touches_border),
        "signs": float(sum(sign.kind not in NOT_COUNTED for sign in signs)),
        **scan,
    }


def scan_doubts(signs: Sequence[Sign], edges: Mapping[str, Edge], handedness: Handedness | None) -> dict[str, float]:
    """Return the doubts of a scan, which all its organs share.

    Args:
        signs: Of the scan.
        edges: Of all organs that the network knows, asked for or not.
        handedness: How sure the network was of the scan and of its mirror image.
    """
    expected = [edge.expected_dice for edge in edges.values() if edge.expected_dice is not None]
    return {
        "wrong_way": float(any(sign.kind in WRONG_WAY for sign in signs)),
        "odd_scan": float(sum(sign.kind not in (*WRONG_WAY, *OF_RESULT) for sign in signs)),
        "mirrored": 0.0 if handedness is None else handedness.mirrored - handedness.as_is,
        "scan": 1 - sum(expected) / len(expected) if expected else 1.0,
    }


def read_calibration(file: Path, *, weights_sha256: str) -> Calibration | None:
    """Return the calibration of some weights; None where there is none, or it belongs to others.

    Args:
        file: Where it would be.
        weights_sha256: Of the weights.

    Raises:
        WeightsError: The file is damaged, or of another format.
    """
    if not file.is_file():
        return None
    remedy = "Write it again (python -m benchmarks.studies.trust), or remove it: then no Dice is predicted."
    try:
        text = load_text(file)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read ({error})", remedy, file=file) from error
    found = from_json(Calibration, text, what=f"{file} is not a calibration", remedy=remedy, error=WeightsError)
    if found.format != FORMAT:
        raise WeightsError(
            f"{file}: format {found.format} is not {FORMAT}, which this viscera reads", remedy, file=file
        )
    return found if found.weights_sha256 == weights_sha256 else None
