"""Folders of media that pair up by their names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vipo_cli.data.entry import Entry, Found, Unusable
from vipo_cli.data.importers.files import rows_of
from vipo_cli.data.importers.importer import importer
from vipo_cli.errors import DataError

SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".mp4", ".webm", ".mov", ".mkv", ".avi",
}  # fmt: skip
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


def _fits(place: Path) -> bool:
    return place.is_dir() and (_side_folders(place) is not None or bool(_by_ending(place)))


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
            side = "winner" if winner is None else "loser"
            yield Unusable(name, f"no {side} of that name")
            continue
        text = prompts.get(name) or _beside(name, winner, place) or prompt
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
    for winner, loser in SIDES:
        if (place / winner).is_dir() and (place / loser).is_dir():
            return place / winner, place / loser
    return None


def _media_below(folder: Path) -> dict[str, Path]:
    """Return the media below a folder by their path without its ending.

    Raises:
        DataError: two files have the same name but for their ending.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in SUFFIXES or not file.is_file() or file.name.startswith("."):
            continue
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError(
                f"two media are called `{name}`: {found[name].name} and {file.name}",
                hint=f"remove or rename one of them in `{file.parent}`",
            )
        found[name] = file
    return found


def _by_ending(place: Path) -> dict[str, tuple[Path | None, Path | None]]:
    """Pair the media of one folder by how their names end, such as NAME_w and NAME_l."""
    files = _media_below(place) if place.is_dir() else {}
    for winner, loser in SIDES:
        for mark in "_-":
            ends = mark + winner, mark + loser
            names = [
                {name.removesuffix(end) for name in files if name.lower().endswith(end)}
                for end in ends
            ]
            if all(names):
                return {
                    name: (files.get(name + ends[0]), files.get(name + ends[1]))
                    for name in sorted(names[0] | names[1])
                }
    return {}


def _prompts(place: Path) -> dict[str, str]:
    table = place / "prompts.csv"
    if not table.is_file():
        return {}
    found = {}
    for _, row in rows_of(table):
        if isinstance(row, dict):
            if not {"name", "prompt"} <= row.keys():
                raise DataError(
                    f"`{table}` lacks the columns name and prompt",
                    details=[f"found: {', '.join(row) or 'none'}"],
                )
            file = Path(row["name"] or "")
            found[file.with_suffix("").as_posix()] = (row["prompt"] or "").strip()
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
