"""Rows of Parquet files by number: row groups are read when needed, and the last few are kept."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vipo_cli.media import Media

KEPT_GROUPS = 4


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

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self._starts = np.array([group.start for group in groups], np.int64)
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}  # a worker process reads for itself

    @property
    def files(self) -> list[Path]:
        """The files, in order."""
        return [*dict.fromkeys(group.file for group in self.groups)]

    def state(self) -> list[tuple[str, int, int]]:
        """Return what changes whenever a file does: its path, size and date."""
        states = [(file, file.stat()) for file in sorted(self.files)]
        return [(str(file.resolve()), state.st_size, state.st_mtime_ns) for file, state in states]

    def row(self, number: int) -> tuple[dict[str, Any], Path]:
        """Return the cells of a row by column, and the folder in which its paths start."""
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        group = self.groups[place]
        cells: dict[str, Any] = self._table(place).slice(number - group.start, 1).to_pylist()[0]
        return cells, group.folder

    def _table(self, place: int) -> Any:
        """Return a row group, from the last few ones if it is among them."""
        import pyarrow.parquet as pq

        if place not in self._kept:
            group = self.groups[place]
            with pq.ParquetFile(group.file, memory_map=True) as file:
                self._kept[place] = file.read_row_group(group.number, use_threads=False)
        self._kept.move_to_end(place)
        while len(self._kept) > KEPT_GROUPS:
            self._kept.popitem(last=False)
        return self._kept[place]


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


def read_columns(files: Sequence[Path], columns: Sequence[str]) -> Any:
    """Read some columns of files into one table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for file in files:
        with pq.ParquetFile(file, memory_map=True) as source:
            tables.append(source.read(columns=list(columns)))
    return pa.concat_tables(tables, promote_options="permissive")


def read_medium(cell: Any, folder: Path) -> Media | None:
    """Turn a cell into media: bytes, a path beside the file, or the hub's struct of both."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    return folder / cell if cell and isinstance(cell, str) else cell or None
