"""Tables of any origin: CSV, JSON lines or Parquet, their columns guessed or given."""

import json
import math
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vipo_cli.data.cells import blank, name, number, text, truth, whole
from vipo_cli.data.entry import NAMED, SIDES, Entry, Found, Label, Unusable, lifted
from vipo_cli.data.importers.column_names import DEGREES, EACH, Columns, guess_columns, plain
from vipo_cli.data.importers.files import Row, count_rows, header, rows_of, tables_in
from vipo_cli.data.importers.importer import importer
from vipo_cli.data.row_groups import read_medium
from vipo_cli.errors import DataError
from vipo_cli.media import Media

TIES = ("tie", "equal", "both", "same", "draw", "neither", "no preference")
NOBODY = ("", "none", "null", "nan", "unknown", "skip")
FIRST = ("a", "left", "first")
SECOND = ("b", "right", "second")

SHOWN = 5
"""Rows that an error names."""
ENDS = tuple(end for ends in SIDES for end in ends)


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
    first: Annotated[
        str | None, Field(description="What the label says where the first medium is better.")
    ] = None,
    second: Annotated[
        str | None, Field(description="What the label says where the second medium is better.")
    ] = None,
) -> Iterator[Found]:
    """CSV, JSON lines or Parquet; columns are guessed, and can be given with --columns.

    A label is a or b, left or right, first or second, the name of the medium's column, the medium
    itself, its model, or the number with which the columns of both media end; tie, equal, same;
    empty or none. Anything else is said with `first` and `second`.
    """
    if (first is None) != (second is None) or (first and first == second):
        raise DataError("`first` and `second` are two different labels, given together")
    said = None if first is None or second is None else (first.strip(), second.strip())
    for file in tables_in(place):
        rows = rows_of(file)
        beginning = next(rows, None)
        if beginning is None:
            continue
        meaning = _meaning(file, columns)
        for where, row in chain([beginning], rows):
            if isinstance(row, Unusable):
                yield row
            else:
                found = _entry(where, row, meaning, file.parent, said)
                yield lifted(found) if isinstance(found, Entry) else found


def meaning_of(place: Path, columns: Mapping[str, str]) -> Columns:
    """Return what the columns of the first table of a place mean."""
    tables = tables_in(place)
    return _meaning(tables[0], columns) if tables else guess_columns([], columns)


def _meaning(file: Path, columns: Mapping[str, str]) -> Columns:
    names = header(file)
    if not names:
        rows = islice(rows_of(file), SHOWN)  # or it says why there are none
        raise DataError(
            f"`{file}`: no row can be read",
            details=[f"{where}: {row.reason}" for where, row in rows if isinstance(row, Unusable)],
        )
    try:
        return guess_columns(names, columns)
    except DataError as error:
        raise DataError(
            f"`{file}`: {error.message}", details=error.details, hint=error.hint
        ) from error


def _entry(
    where: str, row: Row, meaning: Columns, folder: Path, said: tuple[str, str] | None = None
) -> Found:
    role = meaning.role
    prompt = text(row.get(role["prompt"]))
    known = _common(row, role, folder) | {"where": where}
    if wrong := _no_path(row, role):
        return Unusable(where, f"{wrong} is no path")
    if meaning.kind == "pair":
        media = _media(row, (role["winner"], role["loser"]), folder)
        votes, probability = known.get("votes"), known.get("probability")
        if probability is None and votes is not None and not any(votes):
            return Unusable(where, "no votes")
        tied = votes[0] == votes[1] if probability is None and votes else probability == 0.5
        return Entry(prompt, media, "tie" if tied else "a", **known)
    if meaning.kind == "shown":
        names = (role["a"], role["b"])
        said_of_both = _label(row, meaning, said)
        if said_of_both is None:
            return Unusable(where, f"{role['label']} says neither a nor b nor tie")
        return Entry(prompt, _media(row, names, folder), said_of_both, **known)
    if meaning.kind == "list":
        listed = _listed(row.get(role["media"]))
        media = tuple(read_medium(cell, folder) or b"" for cell in listed)
        ranks = _listed(row.get(role["ranks"])) if "ranks" in role else None
        values = ranks and tuple(
            math.nan if (rank := number(cell)) is None else rank for cell in ranks
        )
        label: Label = "candidates" if known["metadata"].get("label") == "candidates" else "ranked"
        if label == known["metadata"].get("label"):
            del known["metadata"]["label"]
        return Entry(prompt, media, label, ranks=values or None, **known)
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

    known: dict[str, Any] = {meaning: name(cell(meaning)) for meaning in NAMED if meaning in role}
    for meaning in ("probability", "weight"):
        if meaning in role and cell(meaning) not in (None, ""):
            value = number(cell(meaning))
            known[meaning] = math.nan if value is None else value  # refused as what it is not
    for meaning, field in EACH.items():
        cells = _listed(cell(field)) if field in role else []
        if f"{meaning}0" in role or f"{meaning}1" in role:
            cells = [cell(f"{meaning}{place}") for place in "01"]
        if any(each not in (None, "") for each in cells):
            known[field] = tuple(_read(meaning, each, folder) for each in cells)
    rest = {key: value for key, value in row.items() if key not in role.values()}
    for field in ("dimensions", "scores", "metadata"):
        if field in role:
            known[field] = _object(cell(field), field)
            if known[field] is None:
                rest[role[field]] = cell(field)
                del known[field]
    plain = {key: _score(key, value) for key, value in rest.items() if _is_plain(value)}
    known["metadata"] = plain | known.get("metadata", {})
    return known


def _score(key: str, cell: Any) -> Any:
    """Return a number with a point in a text as such, where it can be the score of a medium."""
    decimal = isinstance(cell, str) and "." in cell and key.endswith(ENDS)
    return cell if not decimal or (value := number(cell)) is None else value


def _read(meaning: str, cell: Any, folder: Path) -> Any:
    """Read what is said of one medium."""
    if meaning == "model":
        return name(cell)
    if meaning == "votes":
        return math.nan if (votes := number(cell)) is None else votes
    if meaning == "region":
        return read_medium(_stripped(cell), folder)
    return None if blank(cell) else -1 if (seed := whole(cell)) is None else seed


def _no_path(row: Row, role: Mapping[str, str]) -> str:
    """Return the column of a medium's region that holds neither a path nor bytes, if one does."""
    columns = (role.get(f"region{place}", "") for place in "01")
    held = ((column, row.get(column)) for column in columns)
    return next((name for name, cell in held if isinstance(cell, bool | int | float | list)), "")


def _object(cell: Any, field: str) -> dict[str, Any] | None:
    """Return an object, as JSON in a text, if it is what a field of an entry can hold."""
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return None
    if cell in (None, "") or not isinstance(cell, dict):
        return None
    if field == "dimensions":
        return cell if all(isinstance(value, str) for value in cell.values()) else None
    if field == "scores":
        scores = {key: tuple(map(number, _listed(value))) for key, value in cell.items()}
        return None if any(not value or None in value for value in scores.values()) else scores
    return cell


def _is_plain(cell: Any) -> bool:
    if isinstance(cell, float):
        return math.isfinite(cell)
    return isinstance(cell, str | int | bool) and cell != ""


def _media(row: Row, names: tuple[str, ...], folder: Path) -> tuple[Media, ...]:
    cells = (row.get(each) for each in names)
    return tuple(read_medium(_stripped(cell), folder) or b"" for cell in cells)


def _stripped(cell: Any) -> Any:
    return cell.strip() if isinstance(cell, str) else cell


def _label(row: Row, meaning: Columns, said: tuple[str, str] | None) -> Label | None:
    """Return what a row says of two media; None where that is not beyond doubt.

    Raises:
        DataError: it is a number that may count from elsewhere, as then may all the others.
    """
    role, ends = meaning.role, meaning.ends
    cell = row.get(role["label"])
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "none"
    word = str(cell).strip().lower().removesuffix(".0")
    if said is not None:
        sides = [each.lower().removesuffix(".0") for each in said]
        if word in sides:
            return "a" if word == sides[0] else "b"
    if word in NOBODY:
        return "none"
    if word in TIES:
        return "tie"
    if said is not None:
        return None
    numbered = ends is not None and ends[0].isdigit()
    if numbered and number(word) is not None:
        return _numbered(word, role["label"], ends or ("", ""))
    firsts, seconds = ({*words} for words in (FIRST, SECOND))
    for place, words in enumerate((firsts, seconds)):
        column = role["ab"[place]]
        cells = [row.get(column), row.get(role.get(f"model{place}", column))]
        words |= {
            column.lower(),
            *(each.strip().lower() for each in cells if isinstance(each, str)),
        }
        if ends is not None and not numbered:
            words.add(ends[place])
    # two equal cells say nothing about which of them is meant
    return "a" if word in firsts - seconds else "b" if word in seconds - firsts else None


def _numbered(word: str, column: str, ends: tuple[str, str]) -> Label:
    """Return what a number says where the columns of both media end in numbers.

    Raises:
        DataError: it counts from elsewhere, or is a degree.
    """
    if plain(column) not in DEGREES:
        if word in ends:
            return "a" if word == ends[0] else "b"
        if word == "0.5" and ends == ("0", "1"):
            return "tie"
    raise DataError(
        f"`{column}` says `{word}`, which is not beyond doubt where the media are called "
        f"{ends[0]} and {ends[1]}",
        hint="say which label means that the first or the second one is better:\n"
        f"--set first={ends[0]} --set second={ends[1]}",
    )


def _listed(cell: Any) -> list[Any]:
    """Return what a cell lists, as JSON in a text; nothing if it lists nothing."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return []
    return list(cell) if isinstance(cell, list | tuple) else []
