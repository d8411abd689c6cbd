"""Tables of any origin: CSV, JSON lines or Parquet, their columns guessed or given."""

import json
import math
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vipo_cli.data.entry import Entry, Found, Label, Unusable
from vipo_cli.data.importers.cells import each, name, number, text, truth, whole
from vipo_cli.data.importers.column_names import Columns, guess_columns
from vipo_cli.data.importers.files import Row, count_rows, header, rows_of, tables_in
from vipo_cli.data.importers.importer import importer
from vipo_cli.data.row_groups import read_medium
from vipo_cli.errors import DataError
from vipo_cli.media import Media

TIES = ("tie", "equal", "both", "same", "draw", "neither", "no preference")
NOBODY = ("", "none", "null", "nan", "unknown", "skip")
FIRST = ("a", "left", "first")
SECOND = ("b", "right", "second")


def _fits(place: Path) -> bool:
    tables = tables_in(place)
    if not tables:
        return False
    try:
        guess_columns(header(tables[0]), {})
    except DataError:
        return place.is_file()  # its error says which columns it lacks
    return True


@importer(fits=_fits, count=count_rows)
def table(
    place: Path,
    *,
    columns: Annotated[
        dict[str, str],
        Field(description="Column of each role, such as {prompt: text, winner: good}."),
    ] = {},  # noqa: B006
) -> Iterator[Found]:
    """CSV, JSON lines or Parquet; columns are guessed, and can be given with --columns."""
    for file in tables_in(place):
        rows = rows_of(file)
        first = next(rows, None)
        if first is None:
            continue
        names = header(file) or (list(first[1]) if isinstance(first[1], dict) else [])
        meaning = guess_columns(names, columns)
        for where, row in chain([first], rows):
            yield row if isinstance(row, Unusable) else _entry(where, row, meaning, file.parent)


def meaning_of(place: Path, columns: Mapping[str, str]) -> Columns:
    """Return what the columns of the first table of a place mean."""
    tables = tables_in(place)
    return guess_columns(header(tables[0]) if tables else [], columns)


def _entry(where: str, row: Row, meaning: Columns, folder: Path) -> Found:
    role = meaning.role
    prompt = text(row.get(role["prompt"]))
    known = _common(row, role, folder)
    known["metadata"] = {
        key: cell
        for key, cell in row.items()
        if key not in role.values() and isinstance(cell, str | int | float | bool) and cell != ""
    }
    if meaning.kind == "pair":
        media = _media(row, (role["winner"], role["loser"]), folder)
        votes = known.get("votes")
        tied = known.get("probability") == 0.5 or (votes and votes[0] == votes[1])
        return Entry(prompt, media, "tie" if tied else "a", **known)
    if meaning.kind == "shown":
        names = (role["a"], role["b"])
        label = _label(row.get(role["label"]), names, row, meaning.ends)
        if label is None:
            return Unusable(where, f"{role['label']} says neither a nor b nor tie")
        return Entry(prompt, _media(row, names, folder), label, **known)
    if meaning.kind == "list":
        listed = _listed(row.get(role["media"]))
        media = tuple(read_medium(cell, folder) or b"" for cell in listed)
        ranks = _listed(row.get(role["ranks"])) if "ranks" in role else None
        values = ranks and tuple(
            math.nan if (rank := number(cell)) is None else rank for cell in ranks
        )
        return Entry(prompt, media, "ranked", ranks=values or None, **known)
    liked = truth(row.get(role["liked"]))
    if liked is None:
        return Unusable(where, f"{role['liked']} is neither true nor false")
    return Entry(
        prompt, _media(row, (role["image"],), folder), "liked" if liked else "disliked", **known
    )


def _common(row: Row, role: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Return the fields that rows of all kinds may have."""

    def cell(meaning: str) -> Any:
        return row.get(role[meaning]) if meaning in role else None

    known: dict[str, Any] = {
        meaning: name(cell(meaning)) for meaning in ("annotator", "category", "id", "split")
    }
    for meaning in ("probability", "weight"):
        if meaning in role and cell(meaning) not in (None, ""):
            value = number(cell(meaning))
            known[meaning] = math.nan if value is None else value  # refused as what it is not
    if "model0" in role:
        known["models"] = each(cell("model0"), cell("model1"))
    if "votes0" in role:
        votes = [number(cell(f"votes{place}")) for place in "01"]
        known["votes"] = tuple(math.nan if vote is None else vote for vote in votes)
    for meaning, field in (("seed", "seeds"), ("noise_seed", "noise_seeds")):
        if f"{meaning}0" in role:
            seeds = tuple(whole(cell(f"{meaning}{place}")) for place in "01")
            known[field] = seeds if any(seed is not None for seed in seeds) else None
    if "region0" in role:
        regions = tuple(read_medium(cell(f"region{place}"), folder) for place in "01")
        known["regions"] = regions if any(regions) else None
    return known


def _media(row: Row, names: tuple[str, ...], folder: Path) -> tuple[Media, ...]:
    cells = (row.get(each) for each in names)
    return tuple(read_medium(_stripped(cell), folder) or b"" for cell in cells)


def _stripped(cell: Any) -> Any:
    return cell.strip() if isinstance(cell, str) else cell


def _label(
    cell: Any, names: tuple[str, str], row: Row, ends: tuple[str, str] | None
) -> Label | None:
    """Return what a cell says of two media; None where that is not beyond doubt."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "none"
    word = str(cell).strip().lower().removesuffix(".0")
    if word in NOBODY:
        return "none"
    if word in TIES or (word == "0.5" and ends == ("0", "1")):
        return "tie"
    one, other = (str(_stripped(row.get(each))).lower() for each in names)
    if one == other:
        one = other = "\0"  # two equal cells say nothing about which of them is meant
    # a number is only clear where the columns themselves are numbered so
    firsts = {*FIRST, names[0].lower(), one, ends[0] if ends else "\0"}
    seconds = {*SECOND, names[1].lower(), other, ends[1] if ends else "\0"}
    return "a" if word in firsts - seconds else "b" if word in seconds - firsts else None


def _listed(cell: Any) -> list[Any]:
    """Return what a cell lists, as JSON in a text; nothing if it lists nothing."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except (json.JSONDecodeError, RecursionError):
            return []
    return list(cell) if isinstance(cell, list | tuple) else []
