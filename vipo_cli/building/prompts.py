"""Prompts to draw for: of a text file, a table, or a data set, each once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vipo_cli.data.importers.column_names import FURTHER, PROMPTS
from vipo_cli.data.importers.files import TABLES, header, rows_of
from vipo_cli.data.prompts import LONGEST
from vipo_cli.data.row_groups import read_columns
from vipo_cli.data.sources import open_pairs
from vipo_cli.data.stored import is_stored, read_manifest
from vipo_cli.errors import DataError


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and what kind of prompt it is if anybody says."""

    text: str
    category: str | None = None


def read_prompts(
    place: str, parameters: Mapping[str, Any] | None = None, limit: int | None = None
) -> list[Prompt]:
    """Return the prompts of a place, each once, in their order.

    Args:
        place: a text file with one prompt a line, a table with a column of prompts, or the name
            or path of a data set.
        parameters: of the data set.
        limit: take the first so many distinct ones.

    Raises:
        DataError: a file that cannot be read, or no prompt in it.
        UnknownName: no such data set.
    """
    found: dict[str, Prompt] = {}
    for prompt in _prompts(place, parameters or {}):
        text = prompt.text.strip()
        if text and len(text) < LONGEST:
            found.setdefault(text, Prompt(text, prompt.category))
        if limit is not None and len(found) >= limit:
            break
    if not found:
        raise DataError(f"`{place}` holds no prompt", hint="a text file has one prompt a line")
    return list(found.values())


def _prompts(place: str, parameters: Mapping[str, Any]) -> Iterator[Prompt]:
    path = Path(place).expanduser()
    suffix = path.suffix.lower()
    if path.is_file() and suffix in TABLES:
        return _in_table(path)
    if path.is_file():
        return _in_lines(path)
    if path.is_dir() and is_stored(path):
        return _in_stored(path)
    if suffix == ".txt":
        raise DataError(f"no such file: `{place}`")
    return _in_records(place, parameters)


def _in_lines(file: Path) -> Iterator[Prompt]:
    try:
        with file.open(encoding="utf-8-sig") as stream:
            yield from map(Prompt, stream)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read `{file}`: {error}", hint="a text file has one prompt a line, in UTF-8"
        ) from error


def _in_table(file: Path) -> Iterator[Prompt]:
    names = header(file)
    prompt, category = (
        next((name for name in usual if name in names), None)
        for usual in (PROMPTS, FURTHER["category"])
    )
    if prompt is None:
        raise DataError(
            f"no column of prompts among {', '.join(f'`{name}`' for name in names) or 'none'}",
            hint=f"name it one of: {', '.join(PROMPTS)}",
        )
    columns = [prompt, category] if category else [prompt]
    for _, row in rows_of(file, columns):
        if isinstance(row, dict) and isinstance(row.get(prompt), str):
            kind = row.get(category) if category else None
            yield Prompt(row[prompt], str(kind) if kind not in (None, "") else None)


def _in_stored(folder: Path) -> Iterator[Prompt]:
    for shard in read_manifest(folder)["shards"]:
        file = folder / shard["file"]
        kinds = [name for name in header(file) if name == "category"]
        for row in read_columns([file], ["prompt", *kinds]).to_pylist():
            yield Prompt(row["prompt"], row.get("category"))


def _in_records(place: str, parameters: Mapping[str, Any]) -> Iterator[Prompt]:
    records = open_pairs(place, parameters)
    for record in records:
        kind = record.metadata.get("category")
        yield Prompt(record.prompt, None if kind is None else str(kind))
