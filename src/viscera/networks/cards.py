"""Bundled weights: what their cards say, and that the files are the ones that the cards describe.

    weights/NAME.safetensors   the network, most of it in half precision (weights.py reads it)
    weights/NAME.json          its card: what it learnt from, how good it is on what, where it fails

tools/bundle_weights.py writes both. Nothing here imports torch, so that `viscera info` can tell of them at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viscera.config.ranges import STRICT
from viscera.errors import WeightsError, did_you_mean
from viscera.io.atomic import sha256
from viscera.json_text import load_text, parse_json

FOLDER = Path(__file__).parent / "bundled"
FORMAT = 1
"""Of cards. Later ones are refused."""
STARTER = "starter"
"""The weights that are used where none are named."""
NOTICE = "not a medical device: for research, not for diagnosis or treatment; no warranty of any kind"

Standing = Literal["shipped", "experimental"]
"""shipped: with evidence on real scans, and in the default output. experimental: only where it is asked for."""


@dataclass(frozen=True)
class TrainingData:
    """Something that the weights were learnt from.

    Attributes:
        name: Of the data.
        what: How much of what, and how it was used.
        licence: Under which it may be used.
    """

    __pydantic_config__ = STRICT

    name: str
    what: str
    licence: str


@dataclass(frozen=True)
class Evidence:
    """Scans on which the weights were measured; none of them took part in the training.

    Attributes:
        name: Short, as in Figure.on.
        what: Which scans, and who drew the labels that are taken for the truth.
        real: Whether they are patients' scans, and not synthetic.
    """

    __pydantic_config__ = STRICT

    name: str
    what: str
    real: bool


@dataclass(frozen=True)
class Figure:
    """How well an organ is found.

    Attributes:
        on: Name of the evidence.
        measure: As in viscera evaluate: dice, nsd.
        mean: Over the cases.
        low: Lower end of the 95 % interval; None with fewer than two patients.
        high: Upper end.
        cases: How many.
    """

    __pydantic_config__ = STRICT

    on: str
    measure: str
    mean: float
    low: float | None
    high: float | None
    cases: int


@dataclass(frozen=True)
class OrganCard:
    """An organ's standing, and the figures behind it; none where no evidence shows the organ."""

    __pydantic_config__ = STRICT

    standing: Standing
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class TrainingRange:
    """What the scans that the weights learnt from were like; of others nothing is known.

    Attributes:
        slice_spacing_mm: From and to.
        intensity_hu: From and to.
        scan_range: Which parts of the body, in words.
    """

    __pydantic_config__ = STRICT

    slice_spacing_mm: tuple[float, float]
    intensity_hu: tuple[float, float]
    scan_range: str


@dataclass(frozen=True)
class Card:
    """What is to be known of bundled weights.

    Attributes:
        format: Of the card.
        name: Of the weights, and of their files.
        version: Of the weights.
        title: One line.
        recipe: Name of the recipe they were trained with.
        commit: Of viscera, when they were trained.
        date: Of the training, as 2026-11-21.
        seeds: Of the training.
        training_data: What they learnt from.
        evidence: What they were measured on.
        organs: {organ: standing and figures}, in the order of the network's labels.
        known_failures: Each in a sentence.
        training_range: Which scans they know.
        sha256: Of the weights file.
        notice: What they are not.
    """

    __pydantic_config__ = STRICT

    format: int
    name: str
    version: str
    title: str
    recipe: str
    commit: str
    date: str
    seeds: tuple[int, ...]
    training_data: tuple[TrainingData, ...]
    evidence: tuple[Evidence, ...]
    organs: dict[str, OrganCard]
    known_failures: tuple[str, ...]
    training_range: TrainingRange
    sha256: str
    notice: str = NOTICE

    def of_standing(self, standing: Standing) -> tuple[str, ...]:
        """Name the organs of a standing, in order."""
        return tuple(organ for organ, one in self.organs.items() if one.standing == standing)


@dataclass(frozen=True)
class Shipped:
    """Bundled weights: the file is the one that the card describes."""

    card: Card
    file: Path


def shipped_weights(folder: Path = FOLDER) -> list[Card]:
    """Return the cards of all weights that came with viscera; the files themselves are not looked at.

    Raises:
        WeightsError: A card is damaged, or of a later format.
    """
    return [read_card(file) for file in sorted(folder.glob("*.json"))]


def shipped_titles(folder: Path = FOLDER) -> dict[str, str]:
    """Return {name: title, and what the notice begins with} of all weights that came with viscera; ``shipped_weights`` checks more.

    Raises:
        WeightsError: A card is damaged.
    """
    found = {}
    for file in sorted(folder.glob("*.json")):
        try:
            name, title, notice = (parse_json(load_text(file))[key] for key in ("name", "title", "notice"))
            found[str(name)] = f"{title} ({str(notice).partition(':')[0]})"
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{file} is damaged", way_out(), file=file) from error
    return found


def find_shipped(name: str = STARTER, folder: Path = FOLDER) -> Shipped:
    """Return weights by their name, after comparing the file with the hash on its card.

    Args:
        name: Such as starter.
        folder: Where cards and files are.

    Raises:
        WeightsError: There are none of that name; the card is damaged or of a later format; the file is missing or another one.
    """
    card_file = folder / f"{name}.json"
    if not card_file.is_file():
        raise _none_there(name, folder)
    card, file = read_card(card_file), folder / f"{name}.safetensors"
    if not file.is_file():
        raise WeightsError(f"{file} is missing, though its card is there", way_out(), file=file)
    if sha256(file) != card.sha256:
        raise WeightsError(
            f"{file} is not the file that its card describes (SHA-256 {card.sha256[:12]}...): it is damaged or was changed",
            way_out(),
            file=file,
        )
    return Shipped(card, file)


def as_shipped(where: Path, folder: Path = FOLDER) -> Shipped | None:
    """Return the bundled weights where a user names them (starter) or their file; None for all others.

    A file or folder of that name goes first: it is the user's own.

    Args:
        where: What a user said for weights.
        folder: Where cards and files are.

    Raises:
        WeightsError: As ``find_shipped``.
    """
    if where.exists():
        ours = where.parent.resolve() == folder.resolve() and where.suffix == ".safetensors"
        return find_shipped(where.stem, folder) if ours else None
    named = str(where) == STARTER or (where.name == str(where) and (folder / f"{where}.json").is_file())
    return find_shipped(str(where), folder) if named else None


def weights_path(where: Path, folder: Path = FOLDER) -> Path:
    """Return the path of what a user said for weights: it, or the file of the bundled weights by that name.

    Args:
        where: What a user said.
        folder: Where cards and files are.

    Raises:
        WeightsError: As ``find_shipped``.
    """
    shipped = as_shipped(where, folder)
    return shipped.file if shipped else where


def read_card(file: Path) -> Card:
    """Read a card.

    Raises:
        WeightsError: It is damaged, or of a later format.
    """
    import pydantic  # here, because `viscera --help` needs none of it

    try:
        text = load_text(file)
        found = parse_json(text)["format"]
        if isinstance(found, int) and found > FORMAT:
            raise WeightsError(
                f"{file}: format {found} is later than {FORMAT}, which this viscera reads",
                "Update viscera, or give other weights: --weights RUN.",
                file=file,
            )
        return pydantic.TypeAdapter(Card).validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise WeightsError(f"{file} is damaged: {place}: {first['msg']}", way_out(), file=file) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{file} is damaged, so it is not known what the weights are", way_out(), file=file
        ) from error


def _none_there(name: str, folder: Path) -> WeightsError:
    """Say that there are no such weights, and what to do."""
    names = sorted(file.stem for file in folder.glob("*.json"))
    if names:
        remedy = f"{did_you_mean(name, names)} Choose one of {', '.join(names)}."
        return WeightsError(f"no weights '{name}' come with viscera", remedy)
    return WeightsError(
        f"no weights come with this viscera ({folder} holds none)",
        "Give your own: --weights RUN (a run's folder or a .safetensors file; viscera train --help), or install a release "
        "of viscera, which has them.",
    )


def way_out() -> str:
    """Return what to do where something that came with viscera is damaged or missing."""
    return (
        "Install viscera again (pip install --force-reinstall --no-deps viscera), or give other weights: --weights RUN."
    )
