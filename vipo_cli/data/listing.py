"""Records whose media are files: named in a CSV or JSON-lines file, or lying in two folders."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vipo_cli.data.columns import (
    LAYOUTS,
    PICKAPIC,
    Layout,
    Row,
    Ties,
    find_ties,
    guess_layout,
    has_rule,
    make_record,
    number_problems,
    read_column,
)
from vipo_cli.data.lazy import ListedRecords
from vipo_cli.data.prompts import SHOWN, listed, prompt_problems, refuse, refuse_nothing
from vipo_cli.data.record import PreferencePair, Record
from vipo_cli.errors import DataError


def open_table(file: Path, limit: int | None = None, ties: Ties = "drop") -> ListedRecords:
    """Open a .csv or .jsonl file of pairs, ranked lists or labelled samples; extra columns stay.

    Raises:
        DataError: missing columns, unreadable lines or cells, unusable prompts, no rows.
    """
    rows, numbers, names = _read_csv(file) if file.suffix == ".csv" else _read_lines(file)
    shared = [name for name in names if all(name in row for row in rows)]
    layout = guess_layout(shared, [each for each in LAYOUTS if each != PICKAPIC])
    _require_columns(file, layout, shared)
    found = layout.found(names)
    kept, dropped = list(range(len(rows))), {}
    columns = {
        name: read_column(name, [row.get(name) for row in rows]) for name in found if has_rule(name)
    }
    tied = find_ties(columns)
    if tied and ties == "drop" and tied[0].any():
        kept = np.flatnonzero(~tied[0]).tolist()
        dropped = {f"a tie ({tied[1]})": int(tied[0].sum())}
    if not kept:
        refuse_nothing(file, layout.kind, len(rows), dropped)
    kept = kept[:limit]
    rows, numbers = [rows[row] for row in kept], [numbers[row] for row in kept]

    def name_row(row: int) -> str:
        return f"line {numbers[row]}"

    problems = _cell_problems(rows, layout, found, name_row)
    chosen = {name: values[kept] for name, values in columns.items()}
    refuse(file, problems + number_problems(chosen, name_row))
    return ListedRecords([_record(row, layout, found, file.parent) for row in rows], dropped)


def _require_columns(file: Path, layout: Layout, names: Sequence[str]) -> None:
    if missing := [column for column in layout.columns if column not in names]:
        raise DataError(
            f"`{file}` lacks the columns {', '.join(missing)}",
            details=[f"found: {', '.join(names) or 'none'}"],
            hint="pairs need the columns prompt, winner and loser, ranked lists prompt and media "
            "(a list, best first),\nlabelled samples prompt, image and liked; media are paths, "
            "relative to the file.\nOther columns, or two media and who won: "
            f"vipo data import {file} --out DIR",
        )


def _cell_problems(
    rows: Sequence[Row], layout: Layout, found: Sequence[str], name_row: Callable[[int], str]
) -> list[str]:
    """Return a line for each kind of prompt or path that cannot be used, naming its rows."""
    problems = prompt_problems([len(_text(row[layout.prompt])) for row in rows], name_row)
    for column in layout.media:
        if layout.kind == "ranked list":
            what = f"{column} is no list of two or more paths"
            wrong = [number for number, row in enumerate(rows) if len(_paths(row[column])) < 2]
        else:
            what = f"no {column}"
            wrong = [number for number, row in enumerate(rows) if not _text(row[column])]
        if wrong:
            problems.append(f"{what} in {len(wrong):,} rows: {listed(wrong, name_row)}")
    for column in (name for name in found if name.startswith("region")):
        if wrong := [n for n, row in enumerate(rows) if not isinstance(row.get(column) or "", str)]:
            problems.append(
                f"{column} is no path in {len(wrong):,} rows: {listed(wrong, name_row)}"
            )
    return problems


def open_folders(folder: Path, limit: int | None = None) -> ListedRecords:
    """Open the folders winner/ and loser/ with prompts in prompts.csv (name, prompt) or NAME.txt.

    Raises:
        DataError: media without a partner or a prompt, unusable prompts, no pairs.
    """
    winners, losers = (_media_files(folder / side) for side in ("winner", "loser"))
    names = sorted(winners.keys() & losers.keys())
    prompts = _prompts(folder, names)

    def name_row(row: int) -> str:
        return names[row]

    problems = _without("a loser of the same name", sorted(winners.keys() - losers.keys()))
    problems += _without("a winner of the same name", sorted(losers.keys() - winners.keys()))
    problems += _without("a prompt", [name for name in names if name not in prompts])
    if not problems:
        problems = prompt_problems([len(prompts[name].strip()) for name in names], name_row)
    hint = f"prompts are read from `{folder / 'prompts.csv'}` (columns name, prompt) or NAME.txt"
    refuse(folder, problems, hint)
    if not names:
        raise DataError(f"no pairs in `{folder}`", hint="put pictures into winner/ and loser/")
    return ListedRecords(
        [PreferencePair(prompts[name], winners[name], losers[name]) for name in names[:limit]]
    )


def _read_csv(file: Path) -> tuple[list[Row], list[int], list[str]]:
    """Return the rows, the line on which each ends, and the names of the columns."""
    rows, numbers = [], []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            names = list(reader.fieldnames or ())
            for row in reader:
                row.pop(None, None)  # cells beyond the header  # type: ignore[call-overload]
                rows.append(row)
                numbers.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read `{file}`: {error}") from error
    return rows, numbers, names


def _read_lines(file: Path) -> tuple[list[Row], list[int], list[str]]:
    rows, numbers, broken = [], [], []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read `{file}`: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            broken.append(f"line {number}: {error}")
            continue
        if isinstance(row, dict):
            rows.append(row)
            numbers.append(number)
        else:
            broken.append(f"line {number}: not a JSON object")
    refuse(file, broken[:SHOWN])
    return rows, numbers, list(dict.fromkeys(name for row in rows for name in row))


def _record(row: Row, layout: Layout, found: Sequence[str], folder: Path) -> Record:
    def place(cell: Any) -> Path | None:
        return folder / _text(cell) if _text(cell) else None

    cells = [row[column] for column in layout.media]
    if layout.kind == "ranked list":
        cells = _paths(cells[0])
    rest = {name: row[name] for name in row if name not in (layout.prompt, *layout.media)}
    return make_record(
        layout.kind, row[layout.prompt].strip(), [*map(place, cells)], rest, found, place
    )


def _paths(cell: Any) -> list[str]:
    """Return the paths that a cell lists, as JSON in a text; none if it lists anything else."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError:
            return []
    return cell if isinstance(cell, list) and all(map(_text, cell)) else []


def _text(value: Any) -> str:
    """Return a cell's text; anything but text counts as missing."""
    return value.strip() if isinstance(value, str) else ""


def _media_files(folder: Path) -> dict[str, Path]:
    files = (file for file in folder.iterdir() if file.is_file())
    return {
        file.stem: file
        for file in files
        if file.suffix.lower() != ".txt" and not file.name.startswith(".")
    }


def _prompts(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Read the prompts by name, from one table or from a text file each."""
    table = folder / "prompts.csv"
    if table.is_file():
        rows, _, columns = _read_csv(table)
        if missing := [column for column in ("name", "prompt") if column not in columns]:
            raise DataError(
                f"`{table}` lacks the columns {', '.join(missing)}",
                details=[f"found: {', '.join(columns) or 'none'}"],
            )
        return {Path(row["name"]).stem: row["prompt"] or "" for row in rows}
    places = [
        (name, place / f"{name}.txt") for name in names for place in (folder, folder / "winner")
    ]
    return {
        name: file.read_text(encoding="utf-8-sig").strip()
        for name, file in places
        if file.is_file()
    }


def _without(partner: str, names: Sequence[str]) -> list[str]:
    name_row: Callable[[int], str] = lambda row: names[row]  # noqa: E731
    if not names:
        return []
    return [f"{len(names):,} without {partner}: {listed(range(len(names)), name_row)}"]
