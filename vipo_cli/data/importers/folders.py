"""Folders of media that pair up by their names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vipo_cli.data.entry import Entry, Found, Unusable
from vipo_cli.data.importers.files import MEDIA, files_below, rows_of
from vipo_cli.data.importers.importer import importer
from vipo_cli.errors import DataError

SIDES = (
    ("winner", "loser"),
    ("winners", "losers"),
    ("win", "lose"),
    ("w", "l"),
    ("chosen", "rejected"),
    ("preferred", "dispreferred"),
    ("good", "bad"),
    ("better", "worse"),
    ("positive", "negative"),
    ("pos", "neg"),
)
"""Names of folders, or ends of files' names after `_` or `-`, of winners and losers."""


SEVERAL = "what lies there can be understood in several ways"


def has_sides(place: Path) -> bool:
    """Tell whether a folder holds one of winners and one of losers."""
    try:
        return _side_folders(place) is not None
    except DataError:
        return True


def _fits(place: Path) -> bool:
    try:
        return place.is_dir() and (has_sides(place) or bool(_endings(place)))
    except DataError:
        return True


def _count(place: Path) -> int | None:
    return len(_pairs(place))


@importer(fits=_fits, count=_count)
def folders(
    place: Path,
    *,
    prompt: Annotated[
        str | None, Field(description="Of all pairs, where there are no prompts beside them.")
    ] = None,
) -> Iterator[Found]:
    """Folders winner/ and loser/ with equal names, or one folder with NAME_w and NAME_l.

    Prompts stand in prompts.csv (name, prompt), or in NAME.txt beside the folders, beside the
    winner, or in the folder itself.
    """
    prompts = _prompts(place)
    for name, (winner, loser) in sorted(_pairs(place).items()):
        if winner is None or loser is None:
            lacking = "loser" if winner else "winner" if loser else "ending of a winner or loser"
            yield Unusable(
                name, f"no {lacking} of that name" if winner or loser else f"no {lacking}"
            )
            continue
        found = prompts.get(name)
        if found is not None and len(found) > 1:
            yield Unusable(name, "several prompts in prompts.csv")
            continue
        text = next(iter(found or ()), "") or _beside(name, winner, place) or prompt
        if not text:
            yield Unusable(name, "no prompt: neither in prompts.csv nor in NAME.txt")
            continue
        yield Entry(text, (winner, loser), "a", id=name)


def _pairs(place: Path) -> dict[str, tuple[Path | None, Path | None]]:
    """Return winner and loser by name; None where one of them is missing."""
    sides = _side_folders(place)
    if sides is None:
        return _by_ending(place)
    winners, losers = (_media_below(side) for side in sides)
    return {name: (winners.get(name), losers.get(name)) for name in winners.keys() | losers.keys()}


def _side_folders(place: Path) -> tuple[Path, Path] | None:
    """Return the folders of winners and losers, whatever the case of their names.

    Raises:
        DataError: there are several of them.
    """
    found: dict[str, list[Path]] = {}
    known = {name for names in SIDES for name in names}
    named = (each for each in place.iterdir() if each.name.lower() in known)
    for each in sorted(named):
        if each.is_dir():
            found.setdefault(each.name.lower(), []).append(each)
    pairs = [(found[one], found[other]) for one, other in SIDES if {one, other} <= found.keys()]
    if not pairs:
        return None
    (winners, losers), *others = pairs
    if others or len(winners) > 1 or len(losers) > 1:
        raise DataError(
            f"`{place}`: {SEVERAL}",
            details=[str(folder) for sides in pairs for side in sides for folder in side],
            hint="leave one folder of winners and one of losers there",
        )
    return winners[0], losers[0]


def _media_below(folder: Path) -> dict[str, Path]:
    """Return the media below a folder by their path without its ending.

    Raises:
        DataError: two files have the same name but for their ending.
    """
    found: dict[str, Path] = {}
    for file in sorted(files_below(folder, lambda name: Path(name).suffix.lower() in MEDIA)):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError(
                f"two media are called `{name}`: {found[name].name} and {file.name}",
                hint=f"remove or rename one of them in `{file.parent}`",
            )
        found[name] = file
    return found


def _endings(place: Path) -> tuple[str, str] | None:
    """Return how the names of the winners and the losers in a folder end.

    Raises:
        DataError: they end in several ways.
    """
    names = [name.lower() for name in _media_below(place)]
    found = [
        ends
        for ends in ((mark + one, mark + other) for one, other in SIDES for mark in "_-")
        if all(any(name.endswith(end) for name in names) for end in ends)
    ]
    if len(found) > 1:
        raise DataError(
            f"`{place}`: {SEVERAL}",
            details=[f"NAME{one} and NAME{other}" for one, other in found],
            hint="let the names end in one way, such as NAME_w and NAME_l",
        )
    return found[0] if found else None


def _by_ending(place: Path) -> dict[str, tuple[Path | None, Path | None]]:
    """Pair the media of one folder by how their names end, such as NAME_w and NAME_l.

    Raises:
        DataError: two media have the same name but for case.
    """
    ends = _endings(place)
    pairs: dict[str, tuple[Path | None, Path | None]] = {}
    for whole, file in _media_below(place).items() if ends else ():
        side = next((side for side in (0, 1) if whole.lower().endswith((ends or ())[side])), None)
        name = whole if side is None else whole[: -len((ends or ())[side])]
        known = pairs.get(name, (None, None))
        if side is not None and known[side] is not None:
            raise DataError(f"two media are called `{whole}` but for case, in `{place}`")
        winner, loser = (file if side == each else known[each] for each in (0, 1))
        pairs[name] = winner, loser
    return pairs


def _prompts(place: Path) -> dict[str, set[str]]:
    """Return the prompts of each name in prompts.csv.

    Raises:
        DataError: it cannot be read, or lacks its columns.
    """
    table = place / "prompts.csv"
    if not table.is_file():
        return {}
    found: dict[str, set[str]] = {}
    for where, row in rows_of(table):
        if isinstance(row, Unusable):
            raise DataError(f"cannot read `{table}`: {where} has {row.reason}")
        if not {"name", "prompt"} <= row.keys():
            raise DataError(
                f"`{table}` lacks the columns name and prompt",
                details=[f"found: {', '.join(row) or 'none'}"],
            )
        name, prompt = row["name"].strip().replace("\\", "/"), row["prompt"].strip()
        stem, dot, suffix = name.rpartition(".")
        for each in {name, stem} if f"{dot}{suffix.lower()}" in MEDIA else {name}:
            found.setdefault(each, set()).add(prompt)
    return found


def _beside(name: str, winner: Path, place: Path) -> str:
    """Return the prompt in a text file of the pair's name."""
    for file in (place / f"{name}.txt", winner.with_suffix(".txt")):
        if file.is_file():
            try:
                return file.read_text(encoding="utf-8-sig").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"cannot read `{file}`: {error}") from error
    return ""
