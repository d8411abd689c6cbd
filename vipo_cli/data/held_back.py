"""Prompts that are kept for evaluation, from whatever file they come in."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vipo_cli.data.importers.files import TABLES, rows_of
from vipo_cli.data.wording import normalise
from vipo_cli.errors import DataError

COLUMNS = ("prompt", "caption", "text", "Prompt")
"""Under which tables hold prompts; the first that is there counts."""


def read_prompts(places: Sequence[Path]) -> frozenset[str]:
    """Return the prompts of some files, normalised.

    A file is text with a prompt in each line, a table with a column `prompt`, `caption` or `text`
    (Pick-a-Pic's test split, GenEval's metadata), or a JSON list (HPSv2's). A folder holds a text
    file for each prompt (DPG-Bench's).

    Raises:
        DataError: a file that cannot be read, or holds no prompts.
    """
    found: set[str] = set()
    for place in places:
        prompts = {normalise(prompt) for prompt in _prompts_of(place)} - {""}
        if not prompts:
            raise DataError(f"`{place}` holds no prompts")
        found |= prompts
    return frozenset(found)


def _prompts_of(place: Path) -> Iterator[str]:
    if place.is_dir():
        for file in sorted(place.glob("*.txt")):
            yield " ".join(_text(file).split())
    elif place.suffix.lower() in TABLES:
        yield from _of_table(place)
    elif place.suffix.lower() == ".json":
        yield from _of_json(place)
    else:
        yield from _text(place).splitlines()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read `{file}`: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"`{file}` is not UTF-8: {error.reason}") from error


def _of_table(file: Path) -> Iterator[str]:
    rows = rows_of(file, COLUMNS) if file.suffix.lower() == ".parquet" else rows_of(file)
    for where, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"`{file}`: {row.reason} in {where}")
        yield _prompt_in(row, file)


def _of_json(file: Path) -> Iterator[str]:
    try:
        listed = json.loads(_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"`{file}` is not JSON: {error}") from error
    if not isinstance(listed, list):
        raise DataError(f"`{file}` is JSON, but no list of prompts")
    for each in listed:
        yield each if isinstance(each, str) else _prompt_in(each, file)


def _prompt_in(row: Any, file: Path) -> str:
    column = next((name for name in COLUMNS if isinstance(row, dict) and name in row), None)
    if column is None:
        names = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise DataError(
            f"`{file}` has no prompts: found {names}",
            hint=f"prompts stand in a column called {', '.join(COLUMNS[:3])}",
        )
    return str(row[column] or "")
