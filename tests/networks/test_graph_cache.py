"""Graphs that are kept between starts: found again as they were, and only for what they were made from."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from viscera.networks import graph_cache
from viscera.networks.graph_cache import MOST_GRAPHS, GraphCache
from viscera.networks.processor import this_processor

GRAPH = b"graph" * 1000


def keep(folder: Path, graph: bytes, *, weights: str = "w", runtime: str = "openvino", exact: bool = False) -> None:
    GraphCache(folder, weights).keep(graph, runtime, exact=exact)


def find(folder: Path, *, weights: str = "w", runtime: str = "openvino", exact: bool = False) -> bytes | None:
    return GraphCache(folder, weights).find(runtime, exact=exact)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_kept_graph_is_found_as_it_was(tmp_path: Path) -> None:
    keep(tmp_path / "not" / "yet", GRAPH)
    assert find(tmp_path / "not" / "yet") == GRAPH


def test_without_a_folder_nothing_is_found_and_none_is_made(tmp_path: Path) -> None:
    assert find(tmp_path / "none") is None
    assert files(tmp_path) == []


def test_file_is_named_by_its_contents(tmp_path: Path) -> None:
    keep(tmp_path, GRAPH)
    (file,) = files(tmp_path)
    assert file.stem.split("-")[1] == hashlib.sha256(GRAPH).hexdigest()
    assert file.read_bytes() == GRAPH


@pytest.mark.parametrize("other", [{"weights": "v"}, {"runtime": "onnx"}, {"exact": True}])
def test_graph_of_something_else_is_not_found(tmp_path: Path, other: dict) -> None:
    keep(tmp_path, GRAPH)
    assert find(tmp_path, **other) is None


def test_graph_is_not_found_after_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, GRAPH)
    monkeypatch.setattr(graph_cache, "version", lambda package: {"openvino": "99.0"}.get(package, "1.0"))
    assert find(tmp_path) is None


def test_graph_is_not_found_on_another_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, GRAPH)
    other = replace(this_processor(), abilities=("AVX2", "AVX-512", "VNNI"), name="another")
    monkeypatch.setattr(graph_cache, "this_processor", lambda: other)
    assert find(tmp_path) is None
    keep(tmp_path, b"other")
    assert find(tmp_path) == b"other"
    monkeypatch.undo()
    assert find(tmp_path) == GRAPH


def test_sources_that_the_key_depends_on_are_there() -> None:
    here = Path(graph_cache.__file__).parent
    for pattern in graph_cache.SOURCES:
        assert list(here.glob(pattern)), pattern


def test_graph_is_not_found_after_a_network_was_programmed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, GRAPH)
    monkeypatch.setattr(graph_cache, "SOURCES", ("onnx.py",))
    assert find(tmp_path) is None


@pytest.mark.parametrize("damaged", [b"", GRAPH[:-1], GRAPH[:-1] + b"!"])
def test_damaged_graph_is_not_given_and_makes_room_for_a_good_one(tmp_path: Path, damaged: bytes) -> None:
    keep(tmp_path, GRAPH)
    files(tmp_path)[0].write_bytes(damaged)
    assert find(tmp_path) is None
    assert files(tmp_path) == []
    keep(tmp_path, GRAPH)
    assert find(tmp_path) == GRAPH


def test_those_used_last_are_kept(tmp_path: Path) -> None:
    for number in range(MOST_GRAPHS):
        keep(tmp_path, b"graph %d" % number, weights=str(number))
        (file,) = [file for file in files(tmp_path) if file.read_bytes() == b"graph %d" % number]
        os.utime(file, (1000 + number, 1000 + number))
    assert find(tmp_path, weights="0") == b"graph 0"  # now the one used last
    keep(tmp_path, b"graph 8", weights="8")
    kept = [number for number in range(MOST_GRAPHS + 1) if find(tmp_path, weights=str(number))]
    assert kept == [0, 2, 3, 4, 5, 6, 7, 8]


def test_graphs_that_are_too_large_together_make_room_for_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_cache, "MOST_BYTES", len(GRAPH) - 1)
    keep(tmp_path, b"small", weights="v")
    os.utime(files(tmp_path)[0], (1000, 1000))
    keep(tmp_path, GRAPH)
    assert find(tmp_path) == GRAPH
    assert find(tmp_path, weights="v") is None


def test_what_a_killed_process_left_is_dropped_with_the_oldest(tmp_path: Path) -> None:
    left = tmp_path / ".123.key-hash.onnx"
    left.write_bytes(b"half")
    os.utime(left, (1000, 1000))
    for number in range(MOST_GRAPHS):
        keep(tmp_path, GRAPH, weights=str(number))
    assert not left.exists()
    assert len(files(tmp_path)) == MOST_GRAPHS


def test_folder_that_cannot_be_made_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    keep(tmp_path / "file" / "graphs", GRAPH)
    assert find(tmp_path / "file" / "graphs") is None
    keep(tmp_path / "file", GRAPH)
    assert find(tmp_path / "file") is None
    assert [file.name for file in files(tmp_path)] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_may_only_be_read_still_gives_its_graphs(tmp_path: Path) -> None:
    keep(tmp_path, GRAPH)
    tmp_path.chmod(0o500)
    try:
        keep(tmp_path, GRAPH, weights="v")
        assert find(tmp_path) == GRAPH
        assert find(tmp_path, weights="v") is None
    finally:
        tmp_path.chmod(0o700)


def test_folder_is_its_users_own(tmp_path: Path) -> None:
    keep(tmp_path / "graphs", GRAPH)
    assert (tmp_path / "graphs").stat().st_mode & 0o077 == 0
