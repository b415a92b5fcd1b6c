"""Bundled weights as graphs for OpenVINO, which need no torch: in fp32 and in int8.

    bundled/graphs/NAME.json                        which files belong together, their hashes, how they were made and checked
    bundled/graphs/NAME.fp32.xml                    the graph alone; its numbers are those of bundled/NAME.safetensors
    bundled/graphs/NAME.int8.xml, NAME.int8.bin     the graph and its numbers
    bundled/graphs/NAME.context.xml                 as NAME.fp32.xml, of the context network where the weights have one

The fp32 graph holds no numbers of its own: each of its constants is a place in the weights file, which OpenVINO reads as the
graph's weights. So there is nothing that could differ, and nothing is stored twice. OpenVINO folds the batch normalisations
while it compiles.

tools/bundle_graphs.py writes them. Nothing here imports torch or OpenVINO.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viscera.errors import WeightsError
from viscera.io.atomic import sha256
from viscera.json_text import load_json
from viscera.networks.cards import Shipped, way_out

Precision = Literal["fp32", "int8", "context"]

FOLDER_NAME = "graphs"
"""Beside the weights file."""
FORMAT = 1
"""Of NAME.json. Later ones are refused."""


@dataclass(frozen=True)
class BundledGraph:
    """A graph of bundled weights, for ``openvino.Core().read_model(file, weights)``.

    Its input is "image" (float32: batch, channel, y, x), its output "logits" (float32: batch, class, y, x); batch, rows and columns
    are free.

    Attributes:
        precision: Of the convolutions; "context": the context network, in fp32.
        file: The .xml.
        weights: What holds its numbers: a .bin beside it, or the weights file itself.
        stride: What rows and columns must be multiples of.
        dimensions: 2 for slices, 3 for the context.
        classes: Of the output, background included.
    """

    precision: Precision
    file: Path
    weights: Path
    stride: int
    dimensions: int
    classes: int


def find_graph(shipped: Shipped, precision: Precision) -> BundledGraph | None:
    """Return a graph of bundled weights, after comparing its files with their hashes; None where there is none of these weights.

    Args:
        shipped: The weights, from ``find_shipped``, which has compared them with their card.
        precision: Which graph.

    Raises:
        WeightsError: The description is damaged or of a later format; a file of the graph is missing or another one.
    """
    folder, name = shipped.file.parent / FOLDER_NAME, shipped.card.name
    described = folder / f"{name}.json"
    if not described.is_file():
        return None
    try:
        facts = load_json(described)
        if int(facts["format"]) > FORMAT:
            raise WeightsError(
                f"{described}: format {facts['format']} is later than {FORMAT}, which this viscera reads",
                way_out(),
                file=described,
            )
        if facts["weights_sha256"] != shipped.card.sha256 or precision not in facts["graphs"]:
            return None
        own_facts = facts["graphs"][precision]
        hashes: Mapping[str, str] = dict(own_facts["files"])
        stride, dimensions, classes = (int((facts | own_facts)[key]) for key in ("stride", "dimensions", "classes"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{described} is damaged, so it is not known what the graphs are", way_out(), file=described
        ) from error
    graph, own = f"{name}.{precision}.xml", f"{name}.{precision}.bin"
    if graph not in hashes:
        raise WeightsError(f"{described} is damaged: it does not name {graph}", way_out(), file=described)
    for file, expected in hashes.items():
        _require_same(folder / file, expected)
    weights = folder / own if own in hashes else shipped.file
    return BundledGraph(precision, folder / graph, weights, stride, dimensions, classes)


def _require_same(file: Path, expected: str) -> None:
    """Raise unless a file is there and has the hash."""
    if not file.is_file():
        raise WeightsError(f"{file} is missing, though its description is there", way_out(), file=file)
    if sha256(file) != expected:
        raise WeightsError(
            f"{file} is not the file that {file.parent.name}/ describes (SHA-256 {expected[:12]}...): it is damaged or was changed",
            way_out(),
            file=file,
        )
