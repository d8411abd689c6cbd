"""Pairs whose media are files: named in a CSV or JSON-lines file, or lying in two folders."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vipo_cli.data.lazy import ListedPairs
from vipo_cli.data.pair import PreferencePair
from vipo_cli.data.prompts import SHOWN, listed, prompt_problems, refuse
from vipo_cli.errors import DataError

COLUMNS = ("prompt", "winner", "loser")
Row = dict[str, Any]


def open_table(file: Path, limit: int | None = None) -> ListedPairs:
    """Open a .csv or .jsonl file with the columns prompt, winner and loser; further ones are kept.

    Raises:
        DataError: missing columns, unreadable lines, empty cells, unusable prompts, no rows.
    """
    rows, numbers, names = _read_csv(file) if file.suffix == ".csv" else _read_lines(file)
    if missing := [column for column in COLUMNS if column not in names]:
        found = ", ".join(names) or "none"
        raise DataError(
            f"`{file}` lacks the columns {', '.join(missing)}",
            details=[f"found: {found}"],
            hint="a list of pairs needs the columns prompt, winner and loser; "
            "the last two are paths, relative to the file",
        )
    if not rows:
        raise DataError(f"no pairs in `{file}`")
    rows = rows[:limit]

    def name_row(row: int) -> str:
        return f"line {numbers[row]}"

    problems = prompt_problems([len(_text(row["prompt"])) for row in rows], name_row)
    for column in COLUMNS[1:]:
        if empty := [number for number, row in enumerate(rows) if not _text(row[column])]:
            problems.append(f"no {column} in {len(empty):,} rows: {listed(empty, name_row)}")
    refuse(file, problems)
    return ListedPairs([_pair(row, file.parent) for row in rows])


def open_folders(folder: Path, limit: int | None = None) -> ListedPairs:
    """Open the folders winner/ and loser/ with prompts in prompts.csv (name, prompt) or NAME.txt.

    Raises:
        DataError: media without a partner or a prompt, unusable prompts, no pairs.
    """
    winners, losers = (_media_files(folder / side) for side in COLUMNS[1:])
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
    return ListedPairs(
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
    names = dict.fromkeys(name for row in rows for name in row)
    shared = [name for name in names if all(name in row for row in rows)]
    return rows, numbers, shared


def _pair(row: Row, folder: Path) -> PreferencePair:
    rest = {key: value for key, value in row.items() if key not in COLUMNS}
    winner, loser = folder / row["winner"], folder / row["loser"]
    return PreferencePair(row["prompt"].strip(), winner, loser, rest)


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
