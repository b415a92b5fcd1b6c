"""What coverage counted, added up by room."""

from covered import by_room, percent


def _file(lines: int, missing: int, branches: int = 0, partial: int = 0) -> dict:
    keys = ("num_statements", "missing_lines", "num_branches", "missing_branches")
    return {"summary": dict(zip(keys, (lines, missing, branches, partial), strict=True))}


def test_files_add_up_to_rooms_wherever_the_checkout_lies():
    files = {
        "src/viscera/io/nifti.py": _file(10, 1, 4, 1),
        "/home/x/src/viscera/io/deep/packing.py": _file(6, 0),
        "src/viscera/errors.py": _file(4, 4),
    }
    assert by_room({"files": files}) == {
        "": {"lines": 4, "branches": 0, "missing_lines": 4, "missing_branches": 0, "percent": 0.0},
        "io": {"lines": 16, "branches": 4, "missing_lines": 1, "missing_branches": 1, "percent": 90.0},
    }


def test_nothing_is_reached_wholly():
    assert percent(dict.fromkeys(("lines", "branches", "missing_lines", "missing_branches"), 0)) == 100
