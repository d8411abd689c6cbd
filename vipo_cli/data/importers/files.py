"""Reading tables as streams: rows of CSV, JSON lines and Parquet, with where each one stands."""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeVar

from vipo_cli.data.entry import Unusable
from vipo_cli.data.row_groups import reading
from vipo_cli.errors import DataError

T = TypeVar("T")
Row = dict[str, Any]
MEDIA = {
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".mp4", ".webm", ".mov", ".mkv", ".avi",
}  # fmt: skip
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
BATCH = 64
"""Rows of Parquet read at once."""
BATCH_BYTES = 2**25
"""Of rows that are read at once, unless a single one has more."""
CSV_CELL = 2**24
"""Characters that a cell of a CSV file may have."""
JSON_LINE = 2**26
"""Characters that a line of a JSON-lines file may have."""
HEADER_ROWS = 100
"""Objects of a JSON-lines file that tell which keys there are."""
BUFFER = 2**20
"""Bytes of a Parquet file's column that are read at once."""

_SEEN: ContextVar[dict[Hashable, Any] | None] = ContextVar("seen", default=None)
"""What was found on the disk, for as long as it is looked at once."""


@contextmanager
def looked_at_once() -> Iterator[None]:
    """Remember, within the context, what folders hold and which columns tables have.

    Many importers ask the same of a place before one of them says that it is its own.
    """
    before = _SEEN.set({})
    try:
        yield
    finally:
        _SEEN.reset(before)


def _once(key: Hashable, look: Callable[[], T]) -> T:
    seen = _SEEN.get()
    if seen is None:
        return look()
    if key not in seen:
        seen[key] = look()
    found: T = seen[key]
    return found


def files_below(folder: Path, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """Yield the files below a folder whose names are wanted, hidden ones left out, in no order."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(".") and wanted(name):
                file = f"{parent}/{name}"  # a Path costs ten times it, and its is_file
                if os.path.isfile(file):  # noqa: PTH113  # fails where a link leads out of sight
                    yield Path(file)


def described_in(folder: Path) -> Sequence[Path]:
    """Return the files below a folder that may describe media or hold them: tables, archives."""

    def look() -> list[Path]:
        beside = {*MEDIA, ".txt"}
        return list(files_below(folder, lambda name: _suffix(name) not in beside))

    return _once(("files", folder), look)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  # a Path costs ten times it


def tables_in(place: Path, suffixes: Sequence[str] = TABLES) -> list[Path]:
    """Return the tables of a file or folder, in the order of their names."""
    if place.is_file():
        return [place] if place.suffix.lower() in suffixes else []
    return sorted(file for file in described_in(place) if _suffix(file.name) in suffixes)


def header(file: Path) -> list[str]:
    """Return the names of a table's columns; none if it cannot be read."""
    return _once(("header", file), partial(_header, file))


def _header(file: Path) -> list[str]:
    try:
        suffix = file.suffix.lower()
        if suffix == ".parquet":
            return _parquet_names(file)
        if suffix in (".csv", ".tsv"):
            with file.open(encoding="utf-8-sig", newline="") as stream:
                return _csv_names(file, next(_csv_reader(stream, suffix), []))
        rows = islice((row for _, row in _json_rows(file) if isinstance(row, dict)), HEADER_ROWS)
        return list(dict.fromkeys(name for row in rows for name in row))
    except (DataError, OSError, ValueError, csv.Error):
        return []


def has_columns(*names: str) -> Any:
    """Return a function that tells whether the first table of a place has some columns."""

    def fits(place: Path) -> bool:
        tables = tables_in(place)
        return bool(tables) and set(names) <= set(header(tables[0]))

    return fits


def count_rows(place: Path) -> int | None:
    """Return how many rows the Parquet files of a place hold; None for other tables."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    files = tables_in(place)
    if not files or any(file.suffix.lower() != ".parquet" for file in files):
        return None
    try:
        return sum(int(pq.read_metadata(file).num_rows) for file in files)
    except (ArrowException, OSError, ValueError):
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
            yield from _csv_rows(file, suffix)
        else:
            yield from _json_rows(file)
    except UnicodeDecodeError as error:
        utf16 = error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise DataError(
            f"`{file}` is not UTF-8: {error.reason} at byte {error.start:,}",
            hint="save it as UTF-8, for instance with: "
            f"iconv -f {'UTF-16' if utf16 else 'LATIN1'} -t UTF-8 {file} > utf8{suffix}",
        ) from error
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read `{file}`: {error}") from error


def _csv_rows(file: Path, suffix: str) -> Iterator[tuple[str, Row | Unusable]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = _csv_reader(stream, suffix)
        names = _csv_names(file, next(reader, []))
        try:
            for cells in reader:
                where = f"line {reader.line_num} of {file.name}"
                if len(cells) == len(names):
                    named = zip(names, cells, strict=True)
                    yield where, {name: cell for name, cell in named if name}
                elif cells:
                    yield where, Unusable(where, "another number of cells than the header has")
        except csv.Error as error:
            # going on would mix the cells of several rows
            raise DataError(
                f"cannot read `{file}`, line {reader.line_num:,}: {error}",
                hint='a cell with quotation marks in it is written as "say ""hello"" to her"',
            ) from error


def _csv_reader(stream: TextIO, suffix: str) -> Any:
    csv.field_size_limit(CSV_CELL)
    first = stream.readline(CSV_CELL)
    stream.seek(0)
    delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=first.count)
    return csv.reader(stream, delimiter=delimiter, strict=True)


def _csv_names(file: Path, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    _refuse_repeated(file, [name for name in names if name])
    return names


def _refuse_repeated(file: Path, names: Sequence[str]) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(
            f"`{file}` has several columns of one name",
            details=[f"column: {name}" for name in repeated[:5]],
            hint="rename or remove all but one of them",
        )


def _json_rows(file: Path) -> Iterator[tuple[str, Row | Unusable]]:
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(iter(partial(stream.readline, JSON_LINE), ""), start=1):
            where = f"line {number:,} of {file.name}"
            if len(line) >= JSON_LINE:
                raise DataError(f"cannot read `{file}`: line {number:,} has no end")
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_once_each)
            except (ValueError, RecursionError):
                yield where, Unusable(where, "not JSON, or a key stands there twice")
                continue
            good = isinstance(row, dict)
            yield where, row if good else Unusable(where, "JSON, but no object")


def _once_each(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _parquet_names(file: Path) -> list[str]:
    import pyarrow.parquet as pq

    with reading(file):
        return list(pq.read_schema(file).names)


def _parquet_rows(file: Path, columns: Sequence[str] | None) -> Iterator[tuple[str, Row]]:
    """Yield rows; no more than a batch is held, however large the row groups are."""
    import pyarrow.parquet as pq

    _refuse_repeated(file, _parquet_names(file))
    number = 0
    with (
        reading(file),
        pq.ParquetFile(file, buffer_size=BUFFER, page_checksum_verification=True) as source,
    ):
        there = source.schema_arrow.names
        names = None if columns is None else [each for each in columns if each in there]
        for group in range(source.num_row_groups):
            about = source.metadata.row_group(group)
            rows = max(1, min(BATCH, BATCH_BYTES * about.num_rows // max(1, about.total_byte_size)))
            for batch in source.iter_batches(rows, [group], columns=names, use_threads=False):
                for row in _in_microseconds(batch).to_pylist():
                    yield f"row {number} of {file.name}", row
                    number += 1


def _in_microseconds(batch: Any) -> Any:
    """Return a batch whose times Python can hold without pandas; nanoseconds are cut off."""
    import pyarrow as pa

    for place, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            times = batch.column(place).cast(pa.timestamp("us", column.type.tz), safe=False)
            batch = batch.set_column(place, column.name, times)
    return batch
