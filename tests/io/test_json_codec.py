"""Values to JSON and back: NaN is null, types are strict, the place of what is wrong is named."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from viscera.errors import FileError, StoreError
from viscera.io.json_codec import FINITE, Score, from_json, renamed, to_json


@dataclass(frozen=True)
class Row:
    __pydantic_config__ = renamed(name="case")

    name: str
    dice: Mapping[str, Score] = field(default_factory=dict)
    shape: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Cost:
    __pydantic_config__ = FINITE

    seconds: float


def read(found, kind=Row, **options):
    return from_json(kind, found, what="x.json is wrong", remedy="Mend it.", **options)


def test_nan_is_null_and_tuples_are_lists_there_and_back():
    text = to_json({"case": "a", "dice": {"liver": math.nan, "spleen": 0.5}, "shape": (2, 3)})
    assert json.loads(text) == {"case": "a", "dice": {"liver": None, "spleen": 0.5}, "shape": [2, 3]}
    found = read(text)
    assert math.isnan(found.dice["liver"])
    assert (found.name, found.dice["spleen"], found.shape) == ("a", 0.5, (2, 3))


def test_keys_that_a_later_viscera_wrote_are_ignored():
    assert read({"case": "a", "colour": "red"}) == Row("a")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, r"x.json is wrong \(case is missing\). Mend it"),
        ("[1]", r"should be an object, got \[1\]"),
        ("{", r"x.json is wrong \(Expecting property name"),
        ({"case": 3}, r"case: should be a valid string, got 3"),
        ({"case": "a", "dice": {"liver": "0.5"}}, r"dice.liver: should be a valid number, got '0.5'"),
        ({"case": "a", "shape": [1, 2.5]}, r"shape\[1\]: should be a valid integer, got 2.5"),
    ],
)
def test_what_is_missing_or_of_another_type_is_named_with_its_place(found, message):
    with pytest.raises(FileError, match=message):
        read(found)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, True])
def test_numbers_that_must_be_finite_are(value):
    with pytest.raises(StoreError, match="seconds: should be a"):
        read({"seconds": value}, kind=Cost, error=StoreError)
