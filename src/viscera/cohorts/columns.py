"""The columns of a cohort's table: names, types, meanings, and where in a NAME.json each value stands.

One row per scan and organ (docs/cohorts.md says why). Units are in the names; what is not known is null.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

Kind = Literal["text", "whole", "number", "yes", "time"]
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: With the unit, where it has one.
        kind: Of its values: text, whole numbers, numbers, yes or no, points in time (UTC).
        meaning: For people.
        path: Where a NAME.json has it: keys, one within the other, and numbers of a list's items; empty where it is worked out.
    """

    name: str
    kind: Kind
    meaning: str
    path: tuple[str | int, ...] = ()


SOURCE = (
    Column("source", "text", "the folder of the results, by its name, or the name that it was given"),
    Column("case", "text", "the result's name: NAME of NAME.json"),
    Column("status", "text", "read, failed (predict could not segment the scan) or damaged (NAME.json cannot be read)"),
    Column("problem_kind", "text", "of failed and damaged ones: the kind of error"),
    Column("problem", "text", "of failed and damaged ones: what is wrong"),
    Column("failed_later", "yes", "a later attempt to segment the scan failed; the row is of the earlier result"),
    Column("label_map_exists", "yes", "the label map stands beside its NAME.json"),
)
"""Of every row; worked out."""

ORGAN = (
    Column("organ", "text", "its name; null in a row without a result"),
    Column("label", "whole", "its value in the label map"),
    Column("standing", "text", "of bundled weights: shipped or experimental", ("standing",)),
    Column("volume_ml", "number", "0: not found. A lower bound where touches_border", ("statistics", "volume_ml")),
    Column("mean_hu", "number", "of its voxels", ("statistics", "mean_hu")),
    Column("sd_hu", "number", "of its voxels", ("statistics", "sd_hu")),
    Column("touches_border", "yes", "the organ reaches the scan's border", ("statistics", "touches_border")),
    Column("predicted_dice", "number", "in [0, 1]; null where it is not known", ("statistics", "predicted_dice")),
    Column("flags", "whole", "quality flags of the organ"),
    Column("flag_kinds", "text", "their kinds, between semicolons"),
    Column("pieces", "whole", "connected components", ("measured", "pieces")),
    Column("largest_fraction", "number", "of its volume, of the largest piece", ("measured", "largest_fraction")),
    Column("slice_agreement_dice", "number", "overlap of neighbouring slices", ("measured", "slice_agreement")),
    Column("edge_probability", "number", "mean at the organ's edge", ("measured", "probability")),
    Column("edge_entropy_bits", "number", "mean at the organ's edge", ("measured", "entropy_bits")),
    Column("dropped_fraction", "number", "of what the network found, dropped since it lay apart", ("measured", "dropped_fraction")),
)  # fmt: skip
"""Of an organ."""

OUTLIERS = (
    Column("volume_robust_z", "number", "distance from the cohort's median, of organs that are not cut off"),
    Column("mean_hu_robust_z", "number", "the same of the mean HU"),
)
"""Of an organ beside the same organ of all others (outliers.py)."""

SCAN = (
    Column("scan_flags", "whole", "quality flags of the scan as a whole"),
    Column("scan_flag_kinds", "text", "their kinds, between semicolons"),
    Column("scan_file", "text", "the scan's file or series, without folders", ("run", "scan")),
    Column("scan_sha256", "text", "of its contents: the same scan twice has the same", ("run", "scan_sha256")),
    Column("voxels_x", "whole", "of the scan, in the order of its file", ("run", "shape", 0)),
    Column("voxels_y", "whole", "likewise", ("run", "shape", 1)),
    Column("voxels_z", "whole", "likewise", ("run", "shape", 2)),
    Column("spacing_x_mm", "number", "right to left", ("trust", "measured", "scan", "spacing_mm", 2)),
    Column("spacing_y_mm", "number", "front to back", ("trust", "measured", "scan", "spacing_mm", 1)),
    Column("spacing_z_mm", "number", "between slices", ("trust", "measured", "scan", "spacing_mm", 0)),
    Column("gantry_tilt_degrees", "number", "null where it is straight", ("run", "tilt_degrees")),
    Column("segmented_at", "time", "UTC", ("run", "date")),
    Column("seconds", "number", "all stages together"),
    Column("peak_memory_mib", "number", "of the process so far", ("run", "peak_memory_mib")),
    Column("viscera", "text", "its version", ("run", "viscera")),
    Column("recipe", "text", "of the network", ("run", "recipe")),
    Column("weights", "text", "of bundled weights: their name", ("run", "weights")),
    Column("weights_version", "text", "of bundled weights", ("run", "weights_version")),
    Column("weights_sha256", "text", "of the file of weights", ("run", "weights_sha256")),
    Column("device", "text", "cpu or cuda", ("run", "device")),
    Column("runtime", "text", "openvino, torch or onnx", ("run", "runtime")),
    Column("precision", "text", "of the network: int8, bf16, fp32", ("run", "precision")),
)
"""Of a scan, the same in each of its rows."""

COLUMNS = (*SOURCE, *ORGAN, *OUTLIERS, *SCAN)
"""Of the table, in its order."""


def value_at(facts: object, column: Column) -> Value:
    """Return a column's value from what JSON has; None where it is null or not there.

    Raises:
        ValueError: It is of another type.
    """
    for key in column.path:
        if isinstance(key, int):
            facts = facts[key] if isinstance(facts, list) and len(facts) > key else None
        elif facts is not None:
            if not isinstance(facts, Mapping):
                raise ValueError(f"{'.'.join(map(str, column.path))}: {key} is not in an object")
            facts = facts.get(key)
    return checked(facts, column)


def checked(value: object, column: Column) -> Value:
    """Return a value that a column can hold; a whole number serves where a number is wanted.

    Raises:
        ValueError: It is of another type.

    Example:
        >>> checked(3, Column("volume_ml", "number", ""))
        3.0
    """
    if value is None:
        return None
    match column.kind:
        case "text" if isinstance(value, str):
            return sys.intern(value)  # most stand in thousands of rows
        case "time" if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        case "yes" if isinstance(value, bool):
            return value
        case "whole" if isinstance(value, int) and not isinstance(value, bool):
            return value
        case "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    raise ValueError(f"{column.name} is {repr(value)[:60]}, which is not a {column.kind}")
