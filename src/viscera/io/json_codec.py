"""Values <-> JSON: dataclasses by their fields' names and types, NaN as null; recipes, which are strict, in config/recipe_json.py.

Written is what ``asdict`` has. Read is with pydantic, which is imported at the first reading only: `viscera --help` needs
none of it. Keys that a type does not name are ignored (a later viscera may have written them); whole numbers serve where
numbers are wanted, no other type serves for another.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from viscera.errors import FileError, VisceraError
from viscera.json_text import parse_json

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


@dataclass(frozen=True)
class Before:
    """Marks a type, ``Annotated[type, Before(change)]``, whose JSON is changed before it is read.

    Attributes:
        change: From what JSON has to what the type is read from; a ValueError says what is wrong.
    """

    change: Callable[[Any], object]

    def __get_pydantic_core_schema__(self, source: object, handler: Callable[[object], Any]) -> object:
        """Return what pydantic's own BeforeValidator would, without importing pydantic for the annotation."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.change, handler(source))


@dataclass(frozen=True)
class Read:
    """Marks a type, ``Annotated[type, Read(make)]``, that ``make`` makes from what JSON has; no field of it is looked at.

    Attributes:
        make: Raises ValueError, KeyError, TypeError or ZeroDivisionError where it cannot.
    """

    make: Callable[[Any], object]

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> object:
        """Return what pydantic's own PlainValidator would."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self._made)

    def _made(self, found: object) -> object:
        try:
            return self.make(found)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"is damaged ({error!r})") from error


Score = Annotated[float, Before(lambda value: math.nan if value is None else value)]
"""A number that may be NaN, which JSON has as null."""
FINITE = {"allow_inf_nan": False}
"""A dataclass's ``__pydantic_config__`` where no number may be NaN or infinite."""


def renamed(**names: str) -> dict[str, Callable[[str], str]]:
    """Return a dataclass's ``__pydantic_config__`` where JSON has other keys than the dataclass has fields: field="key"."""
    return {"alias_generator": lambda field: names.get(field, field)}


def without_nan(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row with None for NaN and infinity: an empty field in CSV.

    Example:
        >>> without_nan({"case": "a", "dice": float("nan")})
        {'case': 'a', 'dice': None}
    """
    return {name: _finite(value) for name, value in row.items()}


def to_json(value: object) -> str:
    """Return a value as indented JSON: dataclasses as objects, NaN and infinity as null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    """Return a value as JSON has it, all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else _finite(value)


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(
    kind: type[T],
    found: str | Mapping[str, object],
    *,
    what: str,
    remedy: str,
    error: type[VisceraError] = FileError,
    constants: bool = False,
) -> T:
    """Read a value of a type.

    Args:
        kind: A dataclass, or any other type that pydantic reads.
        found: The JSON, or an object from within it.
        what: What to say where it is something else: "scores.json is not an evaluation".
        remedy: What to do then.
        error: What to raise.
        constants: Let NaN and Infinity pass, as ``json_text.parse_json``.

    Raises:
        VisceraError: An ``error``: it is not JSON, or something in it is missing or of another type; the place is named.
    """
    from pydantic import ValidationError

    try:
        if isinstance(found, str):
            parse_json(found, constants=constants)  # for its bounds
    except ValueError as reason:
        raise error(f"{what} ({reason})", remedy) from reason
    try:
        return _reader(kind).validate_json(found if isinstance(found, str) else json.dumps(found), strict=True)
    except ValidationError as complaint:
        raise error(f"{what} ({_first(complaint.errors()[0])})", remedy) from complaint


@cache
def _reader(kind: type) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _first(complaint: Mapping[str, Any]) -> str:
    """Return pydantic's first complaint in our words, with its place: "cases[3].iou.liver: ..."."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in complaint["loc"]).lstrip(".")
    match complaint["type"]:
        case "missing":
            return f"{place} is missing"
        case "value_error":
            text = str(complaint["ctx"]["error"])
        case "json_invalid":
            text = f"not JSON: {complaint['ctx']['error']}"
        case _:
            text = f"{complaint['msg'].replace('Input should', 'should')}, got {repr(complaint['input'])[:80]}"
    return f"{place}: {text}" if place else text
