"""JSON of anybody's: what json.dumps writes comes back, and what no reader should be given is refused with a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscera import json_text
from viscera.errors import FileError, StoreError
from viscera.json_text import DEEPEST, load_json, parse_json, read_json, read_text

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_is_written_is_read(value, ascii_only):
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 10_000, "nest deeper"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nest deeper"),
        ('{"a": 1, "a": 1}', "'a' stands twice"),
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "Infinity is not JSON"),
        ("1e999", "too large"),
        ("1" * 5000, "5000 digits"),
        ("1" * 20, "20 digits"),
        (r'"\ud800"', "surrogate"),
        (r'"a\u0000b"', "zero character"),
        (json.dumps({"x" * 1001: 1}), "1001 letters"),
        (b"\xff\xfe{\0}\0", "codec"),
        ("", "Expecting value"),
    ],
)
def test_what_no_reader_should_be_given_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_brackets_within_strings_do_not_nest_and_a_byte_order_mark_is_passed_over():
    text = json.dumps(["[" * 500 + '\\"{' * 50])
    assert parse_json(text) == json.loads(text)
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
    assert parse_json("[" * DEEPEST + "]" * DEEPEST) is not None


def test_logs_may_hold_nan():
    assert parse_json('{"loss": Infinity}', constants=True) == {"loss": float("inf")}


def test_files_are_refused_with_their_name_and_the_error_of_their_room(tmp_path):
    file = tmp_path / "x.json"
    with pytest.raises(FileError, match=r"x.json: no such file. Check the path"):
        read_json(file)
    file.write_text("[1]")
    with pytest.raises(StoreError, match=r"x.json must hold an object \{...\}, not a list. Mend it"):
        read_json(file, error=StoreError, remedy="Mend it.")
    file.write_bytes(b"\xff")
    with pytest.raises(FileError, match=r"x.json cannot be read: .*Correct the file"):
        read_text(file)
    with pytest.raises(ValueError, match="directory"):
        load_json(tmp_path)


def test_json_that_is_larger_than_any_of_ours_is_refused_before_it_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(json_text, "LARGEST_MIB", 1 / 2**20)
    with pytest.raises(ValueError, match="it is larger than"):
        json_text.parse_json("[1, 2]")
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="it is larger than"):
        json_text.load_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("1")
    assert json_text.load_json(tmp_path / "a.json") == 1
