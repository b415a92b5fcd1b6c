"""Rows -> a table on disk: CSV, JSON lines, or Parquet."""

import itertools
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from viscera.cohorts.columns import COLUMNS, Value
from viscera.errors import SettingError
from viscera.io.atomic import replacing
from viscera.io.csv_text import write_csv
from viscera.io.extras import is_installed

BATCH = 20_000
"""Rows of a Parquet row group."""
ENDINGS = (".parquet", ".csv", ".jsonl")
PARQUET_REMEDY = "Install it (pip install 'viscera[cohort]'), or write .csv or .jsonl, which need nothing."


def require_writable(table: Path) -> None:
    """Refuse a table of another kind, before any work.

    Raises:
        SettingError: It is neither CSV, JSON lines nor Parquet, or Parquet and pyarrow is not installed.
    """
    if table.suffix.lower() not in ENDINGS:
        raise SettingError(f"{table.name} does not end in {', '.join(ENDINGS)}", "Give the table such a name.")
    if table.suffix.lower() == ".parquet" and not is_installed("pyarrow"):
        raise SettingError("a Parquet table needs pyarrow, which is not installed", PARQUET_REMEDY)


def write_table(
    table: Path, rows: Iterable[Mapping[str, Value]], *, counts: Mapping[str, int], overwrite: bool = False
) -> None:
    """Write a table, whole or not at all.

    Args:
        table: Its name says which kind.
        rows: {column: value}, of all columns.
        counts: Of scans, for the metadata of a Parquet file.
        overwrite: Replace a table that stands there.

    Raises:
        SettingError: As ``require_writable``.
        FileError: It stands there already, or cannot be written.
    """
    require_writable(table)
    with replacing(table, overwrite=overwrite) as part:
        match table.suffix.lower():
            case ".csv":
                with part.open("w", encoding="utf-8", newline="") as file:
                    write_csv(file, map(_lower, rows), [column.name for column in COLUMNS])
            case ".jsonl":
                with part.open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
            case _:
                _write_parquet(part, rows, counts)


def _lower(row: Mapping[str, Value]) -> dict[str, Value]:
    """Return a row with true and false as R, DuckDB and pandas all read them."""
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in row.items()}


def _write_parquet(part: Path, rows: Iterable[Mapping[str, Value]], counts: Mapping[str, int]) -> None:
    """Write a Parquet file, group by group."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]  # here, because it is an optional dependency
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    kinds = {
        "text": pa.string(),
        "whole": pa.int64(),
        "number": pa.float64(),
        "yes": pa.bool_(),
        "time": pa.timestamp("ms", tz="UTC"),
    }
    about = {f"viscera_scans_{name}": str(count) for name, count in counts.items()}
    fields = [pa.field(column.name, kinds[column.kind], metadata={"meaning": column.meaning}) for column in COLUMNS]
    schema, left = pa.schema(fields, metadata=about), iter(rows)
    with pq.ParquetWriter(part, schema, compression="zstd") as file:
        while batch := [*itertools.islice(left, BATCH)]:
            file.write_table(pa.Table.from_pylist([_timed(row) for row in batch], schema=schema))


def _timed(row: Mapping[str, Value]) -> dict[str, object]:
    """Return a row with its points in time as such."""
    moments = {column.name: row[column.name] for column in COLUMNS if column.kind == "time"}
    return {
        **row,
        **{name: None if text is None else datetime.fromisoformat(str(text)) for name, text in moments.items()},
    }
