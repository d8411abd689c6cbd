"""Records in Parquet: pairs in the columns of Pick-a-Pic v2 or in plain ones, lists, labels.

Opening reads the footers and the small columns alone. Media are read by row group when they are
asked for, and the last few row groups are kept, so that reading in order costs each byte once.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.columns import (
    LAYOUTS,
    PICKAPIC,
    Layout,
    Numbers,
    Ties,
    find_ties,
    guess_layout,
    has_rule,
    is_seed,
    make_record,
    number_problems,
    read_column,
)
from vipo_cli.data.lazy import LazyRecords
from vipo_cli.data.prompts import SHOWN, listed, prompt_problems, refuse, refuse_nothing
from vipo_cli.data.record import Record
from vipo_cli.data.row_groups import Group, RowGroups, groups_of, read_columns, read_medium
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash
from vipo_cli.run import cache_home, fingerprint, writing

LARGEST_GROUP = 256 * 2**20
"""Bytes above which a row group is too much to hold for the sake of one of its rows."""
ROWS_REGROUPED = 64


class ParquetRecords(LazyRecords):
    """Records in one or more Parquet files of the same layout.

    Attributes:
        scores: names of the rewards whose scores of both media the files hold already.
    """

    def __init__(
        self,
        stored: tuple[Sequence[Group], int],
        columns: tuple[Layout, Sequence[str]],
        prompts: Any,
        kept: tuple[NDArray[np.int64], NDArray[np.bool_]],
        dropped: Mapping[str, int],
    ) -> None:
        self._stored = RowGroups(*stored)
        self._layout, self._found = columns
        self._prompts = prompts
        self._rows, self._second_wins = kept
        self.dropped = dropped

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def fingerprint(self) -> str:
        """Name the records by their files, without reading them, and by which rows they are."""
        return fingerprint([self._stored.state(), content_hash(self._rows.tobytes())])

    def prompts(self) -> list[str]:
        """Return all prompts without reading any media."""
        prompts: list[str] = self._prompts.take(self._rows).to_pylist()
        return prompts

    def prompt_numbers(self) -> NDArray[np.int64]:
        """Return a number for each record that is the same where the prompt is."""
        codes = self._prompts.combine_chunks().dictionary_encode().indices.to_numpy()
        return np.asarray(codes, np.int64)[self._rows]

    @cached_property
    def scores(self) -> tuple[str, ...]:
        """Names of the score columns: floating-point, one for each of the two media."""
        import pyarrow.parquet as pq

        if self._layout.kind != "pair":
            return ()
        schema = pq.read_schema(self._stored.files[0])
        floats = {field.name for field in schema if str(field.type) in ("float", "double")}
        known = {*self._layout.labels, *self._found}
        first, second = _suffixes(self._layout)
        names = [name.removesuffix(first) for name in schema.names if name.endswith(first)]
        return tuple(
            name
            for name in names
            if {name + first, name + second} <= floats and name + first not in known
        )

    def prompt_texts(self) -> Any:
        """Return all prompts as an Arrow array, without reading any media."""
        every = len(self._rows) == len(self._prompts)
        return self._prompts if every else self._prompts.take(self._rows)

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Read small columns, those that there are, as Arrow arrays with a cell for each record.

        What is said of winner and loser ends in _w and _l, whatever the files call it.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        first, second = _suffixes(self._layout)
        sides = {"_w": first, "_l": second}
        there = set(pq.read_schema(self._stored.files[0]).names)
        named = {name: name[:-2] + sides.get(name[-2:], name[-2:]) for name in names}
        wanted = {name: column for name, column in named.items() if column in there}
        if not wanted:
            return {}
        table = read_columns(self._stored.files, [*wanted.values()])
        if len(self._rows) < len(table):
            table = table.take(self._rows)
        found = {name: table.column(column) for name, column in wanted.items()}
        if self._second_wins.any():
            swapped = pa.array(self._second_wins)
            stems = {name[:-2] for name in found if name.endswith("_w")}
            for stem in (stem for stem in stems if f"{stem}_l" in found):
                one, other = found[f"{stem}_w"], found[f"{stem}_l"]
                found[f"{stem}_w"] = pc.if_else(swapped, other, one)
                found[f"{stem}_l"] = pc.if_else(swapped, one, other)
        return found

    def score(self, name: str) -> NDArray[np.float64]:
        """Read the scores of winners and losers, (n, 2), from the columns of a reward."""
        names = [name + suffix for suffix in _suffixes(self._layout)]
        table = read_columns(self._stored.files, names)
        both = [column.to_numpy().astype(np.float64, copy=False) for column in table.columns]
        if len(self._rows) < len(table):
            both = [column[self._rows] for column in both]
        # laid out by side: a million rows are compared ten times as fast as if by row
        sides = [np.where(self._second_wins, *pair) for pair in (both[::-1], both)]
        return np.stack(sides).T

    def record(self, index: int) -> Record:
        """Read one record with all its columns."""
        row, folder = self._stored.row(int(self._rows[index]))
        layout, found = self._layout, list(self._found)
        prompt = str(row.pop(layout.prompt))
        cells = [row.pop(column) for column in layout.media]
        place = partial(read_medium, folder=folder)
        media = [*map(place, cells[0] or [] if layout.kind == "ranked list" else cells)]
        if layout == PICKAPIC:
            swapped = bool(self._second_wins[index])
            row, found = _by_rank(row, swapped), [*_by_rank(dict.fromkeys(found), swapped)]
            media = [medium or b"" for medium in (reversed(media) if swapped else media)]
            row["probability"] = min(1.0, row["label_w"])
            found.append("probability")
        return make_record(layout.kind, prompt, media, row, found, place)


def is_readable(file: Path) -> bool:
    """Tell whether a Parquet file has the columns of a layout that is read where it lies.

    Raises:
        DataError: it is no Parquet file.
    """
    names = _footer(file).schema.to_arrow_schema().names
    return any({*layout.columns} <= {*names} for layout in LAYOUTS)


def open_parquet(
    files: Sequence[Path], limit: int | None = None, ties: Ties = "drop"
) -> ParquetRecords:
    """Open Parquet files of one layout without reading their media.

    Raises:
        DataError: missing columns, labels that contradict each other, unusable cells, no records.
    """
    footers = [_footer(file) for file in files]
    names = {name for footer in footers for name in footer.schema.to_arrow_schema().names}
    layout = guess_layout(names)
    found = layout.found(names)
    _require_columns(files, footers, [*layout.columns, *found])
    _require_lists(footers, layout)
    folders = [file.parent for file in files]
    files, footers = _regrouped(files, footers)
    groups, rows = groups_of(files, footers, folders)
    readable = [name for name in found if has_rule(name)]
    labels = [*layout.labels, "has_label"] if layout == PICKAPIC else []
    wanted = dict.fromkeys([layout.prompt, *labels, *readable])
    small = read_columns(files, [name for name in wanted if name in names])
    prompts = _cast(small, layout.prompt, "string")
    columns = {name: _column(small, name) for name in readable}
    kept, second_wins, problems = np.ones(rows, bool), np.zeros(rows, bool), []
    dropped = {}
    tied = find_ties(columns)
    if layout == PICKAPIC:
        if "has_label" in names:
            kept = _numbers(small, "has_label", fill=1.0) != 0
            dropped["has no label (has_label is false)"] = int((~kept).sum())
        first, second = (_numbers(small, label, fill=np.nan) for label in layout.labels)
        problems = _label_problems(kept, first, second, groups)
        second_wins = second > first
        tied = (np.abs(first - second) < 1e-6, "label_0 equals label_1")
    if tied and ties == "drop":
        equal = kept & tied[0]
        dropped[f"a tie ({tied[1]})"] = int(equal.sum())
        kept &= ~equal
    chosen = np.flatnonzero(kept)[:limit]
    problems += _prompt_problems(prompts, chosen, groups)
    problems += number_problems(
        {name: values[chosen] for name, values in columns.items()},
        lambda row: _name_row(groups, int(chosen[row])),
    )
    refuse(files[0] if len(files) == 1 else files[0].parent, problems)
    dropped = {reason: count for reason, count in dropped.items() if count}
    if not len(chosen):
        refuse_nothing(files[0], layout.kind, rows, dropped)
    kept_rows = (chosen, second_wins[chosen])
    return ParquetRecords((groups, rows), (layout, found), prompts, kept_rows, dropped)


def _label_problems(
    kept: NDArray[np.bool_],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    groups: Sequence[Group],
) -> list[str]:
    """Return a line for each way in which label_0 and label_1 can fail to be shares of 1."""
    unsound = {
        "label_0 + label_1 is not 1": ~(np.abs(first + second - 1) < 1e-6),
        "label_0 or label_1 is below 0": np.minimum(first, second) < 0,
    }
    return [
        f"{what} in {len(rows):,} rows: {listed(rows, partial(_name_row, groups))}"
        for what, where in unsound.items()
        if (rows := np.flatnonzero(kept & where).tolist())
    ]


def _footer(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"`{file}` is no readable Parquet file: {error}") from error


def _require_columns(files: Sequence[Path], footers: Sequence[Any], columns: Sequence[str]) -> None:
    """Name all columns that are missing, in all files, at once."""
    problems = []
    for file, footer in zip(files, footers, strict=True):
        names = footer.schema.to_arrow_schema().names
        if missing := [column for column in columns if column not in names]:
            found = ", ".join(names) or "none"
            problems.append(f"{file.name}: missing {', '.join(missing)}; found {found}")
    if problems:
        needed = "\nor ".join(", ".join(layout.columns) for layout in LAYOUTS)
        raise DataError(
            f"columns are missing in `{files[0].parent}`",
            details=problems[:SHOWN],
            hint=f"Parquet files need the columns {needed}",
        )


def _require_lists(footers: Sequence[Any], layout: Layout) -> None:
    """Refuse a list where one medium is expected, and one medium where a list is.

    Raises:
        DataError: a column of media is of the wrong type.
    """
    from pyarrow import types

    for column in layout.media:
        for footer in footers:
            found = footer.schema.to_arrow_schema().field(column).type
            is_list = types.is_list(found) or types.is_large_list(found)
            if is_list != (layout.kind == "ranked list"):
                wanted = "one medium" if is_list else "a list of media"
                raise DataError(f"column `{column}` holds {found}, not {wanted} in each row")


def _regrouped(files: Sequence[Path], footers: Sequence[Any]) -> tuple[list[Path], list[Any]]:
    """Put cached copies with small row groups in the place of files whose own are too large.

    Whole-table writers make one row group, all of which one would have to read for any row.
    """
    chosen, opened = [], []
    for file, footer in zip(files, footers, strict=True):
        sizes = [footer.row_group(i).total_byte_size for i in range(footer.num_row_groups)]
        if max(sizes, default=0) <= LARGEST_GROUP:
            chosen.append(file)
            opened.append(footer)
        else:
            chosen.append(_regroup(file))
            opened.append(_footer(chosen[-1]))
    return chosen, opened


def _regroup(file: Path) -> Path:
    import pyarrow.parquet as pq

    state = file.stat()
    key = fingerprint([str(file.resolve()), state.st_size, state.st_mtime_ns])
    copy = cache_home() / "data" / f"{file.stem}-{key}.parquet"
    if copy.exists():
        return copy
    with (
        writing(copy) as temporary,
        pq.ParquetFile(file, memory_map=True) as source,
        pq.ParquetWriter(temporary, source.schema_arrow) as sink,
    ):
        for batch in source.iter_batches(ROWS_REGROUPED, use_threads=False):
            sink.write_batch(batch)
    return copy


def _cast(table: Any, name: str, wanted: str) -> Any:
    import pyarrow as pa

    column = table.column(name)
    try:
        return column.cast(wanted)
    except pa.ArrowException as error:
        raise DataError(f"column `{name}` holds {column.type}, not {wanted}") from error


def _numbers(table: Any, name: str, fill: float) -> NDArray[np.float64]:
    return np.asarray(_cast(table, name, "double").fill_null(fill).to_numpy(), np.float64)


def _column(table: Any, name: str) -> Numbers:
    """Read a column that has a rule, at once where it is numeric."""
    from pyarrow import types

    kind = table.column(name).type
    if types.is_integer(kind) and is_seed(name):
        seeds = np.asarray(_cast(table, name, "int64").fill_null(-1).to_numpy(), np.int64)
        unknown = table.column(name).is_null().to_numpy()
        return np.where((seeds < 0) & ~unknown, -2, seeds)
    if is_seed(name) or not (
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    ):
        return read_column(name, table.column(name).to_pylist())
    return _numbers(table, name, fill=np.nan)


def _prompt_problems(prompts: Any, chosen: NDArray[np.int64], groups: Sequence[Group]) -> list[str]:
    import pyarrow.compute as pc

    lengths = pc.utf8_length(pc.utf8_trim_whitespace(prompts)).fill_null(-1).to_numpy()[chosen]
    return prompt_problems(lengths, lambda row: _name_row(groups, int(chosen[row])))


def _name_row(groups: Sequence[Group], row: int) -> str:
    """Say where a row is: counted from 0 within its file, as pandas and pyarrow count."""
    file = next(group.file for group in reversed(groups) if group.start <= row)
    start = next(group.start for group in groups if group.file == file)
    several = groups[0].file != groups[-1].file
    return f"row {row - start}" + (f" of {file.name}" if several else "")


def _suffixes(layout: Layout) -> tuple[str, str]:
    return ("_0", "_1") if layout == PICKAPIC else ("_w", "_l")


def _by_rank(record: dict[str, Any], swapped: bool) -> dict[str, Any]:
    """Rename what is said about medium 0 and 1 to winner and loser."""
    names = {"_0": "_l", "_1": "_w"} if swapped else {"_0": "_w", "_1": "_l"}
    return {key[:-2] + names.get(key[-2:], key[-2:]): value for key, value in record.items()}
