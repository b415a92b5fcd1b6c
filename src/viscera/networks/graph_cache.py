"""Graphs of networks that were exported and checked once, kept in the user's cache folder for the next start.

Writing a network of width 16 as ONNX and checking what the runtime makes of it takes 0.25 of the 2 s in which ``viscera predict``
starts; a kept graph is read in 0.01. OpenVINO still compiles it: its own cache of compiled networks would save 0.04 s more, and
is good for one kind of processor only. Whatever goes wrong with the folder costs that time and nothing else, so it is no error.

runners.py says which graphs are kept, cli/startup.py where.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from viscera.errors import FileError
from viscera.io.atomic import replacing
from viscera.networks.processor import this_processor

MOST_GRAPHS = 8
"""How many are kept, the latest used ones."""
MOST_BYTES = 2**30
"""Together; the latest stays however large it is. A network of width 64 has 124 MB."""
KEY_DIGITS = 32
"""Of the hash in a file's name: both hashes at full length would not fit into the names of encrypted home folders."""

SOURCES = ("*.py",)
"""What computes a graph from weights: when these files change, so may the graph, whatever the version says."""


@dataclass(frozen=True)
class GraphCache:
    """Where the graphs of one weights file are kept.

    Each is a file KEY-SHA256.onnx: KEY is the hash of all that the graph depends on, SHA256 that of the file's contents.

    Attributes:
        folder: For graphs only. It is made when the first one is kept.
        weights_sha256: Of the weights file.
    """

    folder: Path
    weights_sha256: str

    def find(self, runtime: str, *, exact: bool = False) -> bytes | None:
        """Return the graph that was kept; None where there is none, or only a damaged one.

        Args:
            runtime: Which was to run it, and was checked.
            exact: In fp32, where that was asked for.
        """
        with suppress(OSError):
            for file in self.folder.glob(f"{self._key(runtime, exact=exact)}-*.onnx"):
                graph = file.read_bytes()
                if file.stem.endswith(hashlib.sha256(graph).hexdigest()):
                    with suppress(OSError):  # a folder that others filled and that may only be read
                        os.utime(file)
                    return graph
                file.unlink()
        return None

    def keep(self, graph: bytes, runtime: str, *, exact: bool = False) -> None:
        """Keep a graph that passed its check, and drop those that were not used for longest.

        Args:
            graph: An ONNX file.
            runtime: As in ``find``.
            exact: As in ``find``.
        """
        file = self.folder / f"{self._key(runtime, exact=exact)}-{hashlib.sha256(graph).hexdigest()}.onnx"
        with suppress(OSError, FileError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(file) as part:
                part.write_bytes(graph)
            for old in _surplus(self.folder):
                old.unlink(missing_ok=True)

    def _key(self, runtime: str, *, exact: bool) -> str:
        """Return the hash of all that a graph, and that it was checked, depends on."""
        packages = ("viscera", "torch", "onnx", "openvino", "onnxruntime")
        processor = this_processor().key  # on which it was checked: a home folder may serve several
        facts = [
            self.weights_sha256,
            runtime,
            "exact" if exact else "mixed",
            processor,
            *_versions(packages),
            *_sources(),
        ]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:KEY_DIGITS]


def _versions(packages: Sequence[str]) -> Iterator[str]:
    for package in packages:
        with suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


def _sources() -> Iterator[str]:
    """Yield a hash of each file of SOURCES, as far as viscera is installed as files."""
    here = Path(__file__).parent
    for pattern in SOURCES:
        for file in sorted(here.glob(pattern)):
            yield f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}"


def _surplus(folder: Path) -> list[Path]:
    """List the files beyond what may be kept, and what killed processes left half-written."""
    files = sorted(((file.stat(), file) for file in folder.glob("*.onnx")), key=lambda pair: -pair[0].st_mtime)
    total, surplus = 0, []
    for place, (facts, file) in enumerate(files):
        total += facts.st_size
        if place > 0 and (place >= MOST_GRAPHS or total > MOST_BYTES):
            surplus.append(file)
    return surplus
