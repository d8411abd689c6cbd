"""Prompts in a user's own file: a line each, a table, or JSON lines."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vipo_cli.errors import DataError, VipoError

Record = dict[str, Any]
"""A prompt: `prompt`, `tag`, and whatever else its file says of it."""

TAG = "all"
"""The tag of prompts that have none."""
PROMPT_COLUMNS = ("prompt", "caption", "text")
TAG_COLUMNS = ("tag", "category", "style")
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json")
LAYOUT = "a .txt file has a prompt in each line, .csv and .tsv a column `prompt`, .jsonl objects"


def read_prompt_file(path: Path) -> list[Record]:
    """Read the prompts of a file, in order.

    Columns and keys are found whatever their case: `prompt` (or caption, text) and, if there is
    one, `tag` (or category, style). Other keys of JSON objects stay as they are.

    Raises:
        DataError: it cannot be read, or holds a line that is no prompt, or none at all.
    """
    text = read_text(path)
    suffix = path.suffix.lower()
    if suffix == ".txt":
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        records = [{"prompt": line.strip(), "tag": TAG} for line in lines if line.strip()]
    elif suffix in (".csv", ".tsv"):
        rows = table(path, text, "\t" if suffix == ".tsv" else ",")
        records = _records(path, [(f"row {number}", row) for number, row in enumerate(rows, 2)])
    elif suffix in (".jsonl", ".json"):
        records = _records(path, _json_rows(path, text))
    else:
        raise DataError(
            f"`{path}` is no prompt file: it must end in one of {', '.join(SUFFIXES)}", hint=LAYOUT
        )
    if not records:
        raise DataError(f"`{path}` holds no prompts", hint=LAYOUT)
    return records


def read_text(path: Path) -> str:
    """Return what a text file holds.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"`{path}` is not UTF-8: {error.reason} at byte {error.start}") from error


def table(path: Path, text: str, separator: str) -> list[dict[str, str]]:
    """Read a table with a heading; only commas come with quotes.

    Raises:
        DataError: rows of other lengths than the heading.
    """
    stream = io.StringIO(text, newline="")
    if separator == ",":
        reader = csv.reader(stream)
    else:
        reader = csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"`{path}` is no table: {error}") from error
    heading = rows[0][1] if rows else []
    odd = [
        f"line {line}: {len(row)} values under {len(heading)} columns"
        for line, row in rows
        if len(row) != len(heading)
    ]
    if odd:
        raise DataError(f"`{path}` is no table", details=odd[:10])
    return [dict(zip(heading, row, strict=True)) for _, row in rows[1:]]


def _json_rows(path: Path, text: str) -> list[tuple[str, Any]]:
    if path.suffix.lower() == ".json":
        found = _json(text, str(path))
        if not isinstance(found, list):
            raise DataError(f"`{path}` is no list of prompts", hint=LAYOUT)
        return [(f"entry {number}", row) for number, row in enumerate(found, 1)]
    lines = enumerate(text.split("\n"), 1)  # a prompt may hold other line separators
    return [
        (f"line {number}", _json(line, f"line {number} of {path}"))
        for number, line in lines
        if line.strip()
    ]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error


def _records(path: Path, rows: Sequence[tuple[str, Any]]) -> list[Record]:
    records, problems = [], []
    for where, row in rows:
        try:
            records.append(_record(row))
        except VipoError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise DataError(f"`{path}` holds what is no prompt", details=problems[:10], hint=LAYOUT)
    return records


def _record(row: Any) -> Record:
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, Mapping):
        raise DataError("neither a text nor an object")
    names = {str(key).strip().lower(): key for key in row}
    prompt_key = next((names[name] for name in PROMPT_COLUMNS if name in names), None)
    if prompt_key is None:
        raise DataError(f"no {', '.join(PROMPT_COLUMNS)}")
    prompt = row[prompt_key]
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError("an empty prompt" if prompt in ("", None) else "a prompt that is no text")
    tag_key = next((names[name] for name in TAG_COLUMNS if name in names), None)
    tag = TAG if tag_key is None else str(row[tag_key] or "").strip() or TAG
    kept = {str(key): value for key, value in row.items() if key not in (prompt_key, tag_key)}
    return kept | {"prompt": prompt, "tag": tag}
