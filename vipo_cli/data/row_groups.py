"""Rows of Parquet files by number: row groups are read when needed, and the last few are kept."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vipo_cli.errors import DataError
from vipo_cli.media import Media

KEPT_GROUPS = 8
KEPT_FILES = 64


@dataclass(frozen=True, slots=True)
class Group:
    """A row group: its file, its number there, and the number of its first row in the data set."""

    file: Path
    number: int
    start: int
    folder: Path
    """Where the paths in its cells start: beside the file that the user named."""


class RowGroups:
    """The rows of some files, in order; reading them in order costs each byte once."""

    def __init__(self, groups: Sequence[Group], rows: int, *, verify: bool = False) -> None:
        """Lay out rows by the groups they are in.

        Args:
            groups: in order.
            rows: how many there are in all.
            verify: compare each page with its checksum where it has one.
        """
        self.groups = groups
        self._verify = verify
        self.rows = rows
        self._starts = np.array([*(group.start for group in groups), rows], np.int64)
        self._kept: OrderedDict[int, list[tuple[str, Any]]] = OrderedDict()
        self._opened: OrderedDict[Path, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # a worker process reads for itself
        return self.__dict__ | {"_kept": OrderedDict(), "_opened": OrderedDict()}

    @property
    def files(self) -> list[Path]:
        """The files, in order."""
        return [*dict.fromkeys(group.file for group in self.groups)]

    def state(self) -> list[tuple[str, int, int]]:
        """Return what changes whenever a file does: its path, size and date."""
        states = [(file, file.stat()) for file in sorted(self.files)]
        return [(str(file.resolve()), state.st_size, state.st_mtime_ns) for file, state in states]

    def row(self, number: int) -> tuple[dict[str, Any], Path]:
        """Return the cells of a row by column, and the folder in which its paths start.

        Raises:
            DataError: the file is damaged.
        """
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        group = self.groups[place]
        offset = number - group.start
        with reading(group.file):
            cells = {name: column[offset].as_py() for name, column in self._columns(place)}
        return cells, group.folder

    def _columns(self, place: int) -> list[tuple[str, Any]]:
        """Return the columns of a row group, from the last few ones if it is among them."""
        if place not in self._kept:
            group = self.groups[place]
            rows = int(self._starts[place + 1] - self._starts[place])
            table = read_group(self._file(group.file), group, rows)
            self._kept[place] = [*zip(table.column_names, table.columns, strict=True)]
        self._kept.move_to_end(place)
        while len(self._kept) > KEPT_GROUPS:
            self._kept.popitem(last=False)
        return self._kept[place]

    def _file(self, file: Path) -> Any:
        """Return an open file, with its footer read."""
        if file not in self._opened:
            self._opened[file] = open_file(file, verify=self._verify)
        self._opened.move_to_end(file)
        while len(self._opened) > KEPT_FILES:
            self._opened.popitem(last=False)[1].close()
        return self._opened[file]


def groups_of(
    files: Sequence[Path], footers: Sequence[Any], folders: Sequence[Path]
) -> tuple[list[Group], int]:
    """Return the row groups of some files that are not empty, and how many rows they hold."""
    groups, rows = [], 0
    for file, footer, folder in zip(files, footers, folders, strict=True):
        for number in range(footer.num_row_groups):
            if count := footer.row_group(number).num_rows:
                groups.append(Group(file, number, rows, folder))
                rows += count
    return groups, rows


def rows_in(file: Path, number: int, rows: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the rows of one row group, from a row of it on; its pages are verified.

    Raises:
        DataError: the file is damaged.
    """
    with open_file(file, verify=True) as source, reading(file):
        table = read_group(source, Group(file, number, 0, file.parent), rows)
        columns = [*zip(table.column_names, table.columns, strict=True)]
        for row in range(start, rows):
            yield {name: column[row].as_py() for name, column in columns}


def read_columns(
    files: Sequence[Path], columns: Sequence[str], repeated: Sequence[str] = ()
) -> Any:
    """Read some columns of files into one table.

    Args:
        files: in order.
        columns: of texts, numbers or lists of these.
        repeated: of which each different text is to be held once.

    Raises:
        DataError: a file is damaged.
    """
    import pyarrow as pa

    tables = []
    for file in files:
        with open_file(file, verify=True, repeated=repeated) as source, reading(file):
            tables.append(source.read(columns=list(columns), use_threads=False))
    return pa.concat_tables(tables, promote_options="permissive")


def open_file(file: Path, *, verify: bool, repeated: Sequence[str] = ()) -> Any:
    """Open a Parquet file; it is not mapped, since what is cut short then ends the process.

    Raises:
        DataError: it cannot be read.
    """
    import pyarrow.parquet as pq

    with reading(file):
        return pq.ParquetFile(
            file, page_checksum_verification=verify, read_dictionary=list(repeated)
        )


def read_group(source: Any, group: Group, rows: int) -> Any:
    """Read a row group of an open file as a table, without the columns that say nothing.

    Raises:
        DataError: it is damaged, or has another number of rows.
    """
    with reading(group.file):
        table = source.read_row_group(group.number, use_threads=False)
        names = table.column_names
        if table.num_rows != rows or len(set(names)) < len(names):
            raise DataError(f"cannot read `{group.file}`: it is damaged")
        empty = [name for name in names if table.column(name).null_count == rows]
        return table.drop_columns(empty)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what a damaged file raises into the error that a user sees.

    Raises:
        DataError: it cannot be read.
    """
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise DataError(f"cannot read `{file}`: {error}") from error


def read_medium(cell: Any, folder: Path) -> Media | None:
    """Turn a cell into media: bytes, a path beside the file, or the hub's struct of both."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str):
        return folder / cell if cell else None
    return cell or None if isinstance(cell, bytes) else None
