"""Reading tables as streams: rows of CSV, JSON lines and Parquet, with where each one stands."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vipo_cli.data.entry import Unusable
from vipo_cli.errors import DataError

Row = dict[str, Any]
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
BATCH = 64
"""Rows of Parquet read at once."""
CSV_CELL = 2**24
"""Characters that a cell of a CSV file may have."""


def tables_in(place: Path, suffixes: Sequence[str] = TABLES) -> list[Path]:
    """Return the tables of a file or folder, in the order of their names."""
    if place.is_file():
        return [place] if place.suffix.lower() in suffixes else []
    found = (file for file in place.rglob("*") if file.suffix.lower() in suffixes)
    return sorted(file for file in found if file.is_file() and not file.name.startswith("."))


def header(file: Path) -> list[str]:
    """Return the names of a table's columns; none if it cannot be read."""
    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            return list(pq.read_schema(file).names)
        first = next((row for _, row in rows_of(file) if isinstance(row, dict)), {})
    except (DataError, OSError, ValueError):
        return []
    return list(first)


def has_columns(*names: str) -> Any:
    """Return a function that tells whether the first table of a place has some columns."""

    def fits(place: Path) -> bool:
        tables = tables_in(place)
        return bool(tables) and set(names) <= set(header(tables[0]))

    return fits


def count_rows(place: Path) -> int | None:
    """Return how many rows the Parquet files of a place hold; None for other tables."""
    import pyarrow.parquet as pq

    files = tables_in(place)
    if not files or any(file.suffix.lower() != ".parquet" for file in files):
        return None
    try:
        return sum(int(pq.read_metadata(file).num_rows) for file in files)
    except (OSError, ValueError):
        return None


def rows_of(
    file: Path, columns: Sequence[str] | None = None
) -> Iterator[tuple[str, Row | Unusable]]:
    """Yield the rows of a table, each with the words by which the user finds it.

    Args:
        file: .csv, .tsv, .jsonl, .ndjson or .parquet.
        columns: of Parquet alone: which to read; by default all.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(file, columns)
        elif suffix in (".csv", ".tsv"):
            yield from _csv_rows(file, "\t" if suffix == ".tsv" else ",")
        else:
            yield from _json_rows(file)
    except UnicodeDecodeError as error:
        raise DataError(
            f"`{file}` is not UTF-8: {error.reason} at byte {error.start:,}",
            hint="save it as UTF-8, for instance with: "
            f"iconv -f LATIN1 -t UTF-8 {file} > utf8{suffix}",
        ) from error
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read `{file}`: {error}") from error


def _csv_rows(file: Path, delimiter: str) -> Iterator[tuple[str, Row | Unusable]]:
    csv.field_size_limit(CSV_CELL)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter)
        for row in reader:
            where = f"line {reader.line_num} of {file.name}"
            if None in row or None in row.values():
                yield where, Unusable(where, "another number of cells than the header has")
            else:
                yield where, row


def _json_rows(file: Path) -> Iterator[tuple[str, Row | Unusable]]:
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"line {number} of {file.name}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                yield where, Unusable(where, "not JSON")
                continue
            good = isinstance(row, dict)
            yield where, row if good else Unusable(where, "JSON, but no object")


def _parquet_rows(file: Path, columns: Sequence[str] | None) -> Iterator[tuple[str, Row]]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    number = 0
    try:
        with pq.ParquetFile(file, memory_map=True) as source:
            names = (
                None
                if columns is None
                else [each for each in columns if each in source.schema_arrow.names]
            )
            for batch in source.iter_batches(BATCH, columns=names, use_threads=False):
                for row in batch.to_pylist():
                    yield f"row {number} of {file.name}", row
                    number += 1
    except (ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"cannot read `{file}`: {error}") from error
