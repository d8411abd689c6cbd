"""ImageRewardDB as the hub has it: zip files with images, and tables beside them.

Published at THUDM/ImageRewardDB (now zai-org) with a loading script, which runs no longer:
images/SPLIT/SPLIT_N.zip, metadata-SPLIT.parquet. Checked against that script, the file list of the
hub and public code that reads it: each zip file holds its images and SPLIT_N.json, an array with an
element for each image (image_path, prompt_id, prompt, classification, image_amount_in_total, rank,
overall_rating, image_text_alignment_rating, fidelity_rating); the tables have the same columns; an
image is found by the last part of its image_path; the lower of two ranks is the better. Not checked
against the data: whether the images lie in a folder of their zip file (they are found in any), and
whether all images of a prompt lie in one zip file (the script relies on it).

The images of a prompt become one ranked list with the ratings as scores, 1 to 7, higher is better.
Only parts that are there are read, so that a few zip files of the 36 make a data set of their own.
One part at a time is open.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from vipo_cli.data.cells import name, number, text
from vipo_cli.data.entry import Entry, Found, Unusable
from vipo_cli.data.importers.archives import Archive, Shelf, open_archive
from vipo_cli.data.importers.files import Row, has_columns, rows_of
from vipo_cli.data.importers.importer import folder_of, importer
from vipo_cli.errors import DataError

COLUMNS = ("prompt_id", "prompt", "image_path", "rank", "overall_rating")
RATINGS = {
    "overall": "overall_rating",
    "alignment": "image_text_alignment_rating",
    "fidelity": "fidelity_rating",
}
SPLITS = ("train", "validation", "test")
PART = re.compile(r"(train|validation|test)_(\d+)(\.zip)?")
"""Name of a zip file, or of the folder to which it was unpacked."""


def _fits(place: Path) -> bool:
    tables = [] if place.is_file() else sorted(place.glob("metadata-*.parquet"))
    if tables and has_columns(*COLUMNS)(tables[0]):
        return True
    parts = _parts(place)
    try:
        return bool(parts) and bool(_array_name(open_archive(parts[0]), parts[0]))
    except DataError:
        return False


@importer(fits=_fits, beside=folder_of)
def imagereward(
    place: Path,
    *,
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        Field(description="Only this one; by default all that are there."),
    ] = None,
) -> Iterator[Found]:
    """ImageRewardDB: images/train/train_1.zip and so on, with metadata-train.parquet or without."""
    parts = [part for part in _parts(place) if split in (None, _split(part))]
    if not parts:
        raise DataError(
            f"no images of {split or 'ImageRewardDB'} in `{place}`",
            hint="put its zip files there, such as images/train/train_1.zip",
        )
    table = cache(lambda own: _table(place, own))
    for part in parts:
        archive = open_archive(part)
        array = _array_name(archive, part)
        rows = table(_split(part)).get(part.stem, []) if array is None else _array(archive, array)
        if not rows:
            yield Unusable(part.name, "a part of ImageRewardDB that no table describes")
        shelf = Shelf(part) if part.is_dir() else Shelf(part.with_suffix(""), [part])
        for rows_of_prompt in _groups(rows):
            yield _ranked(rows_of_prompt, shelf, part)


def _parts(place: Path) -> list[Path]:
    """Return the parts of a place, by split and number; the folder of one hides its zip file."""
    if PART.fullmatch(place.name):
        return [place]
    if place.is_file():
        return []
    folders = [place, *(place / split for split in SPLITS), place / "images"]
    folders += [place / "images" / split for split in SPLITS]
    found: dict[str, Path] = {}
    for folder in folders:
        files = folder.iterdir() if folder.is_dir() else ()
        for file in sorted(file for file in files if PART.fullmatch(file.name)):
            if file.is_file() if file.suffix else file.is_dir():
                found.setdefault(file.stem, file)
    return sorted(found.values(), key=lambda part: (SPLITS.index(_split(part)), _number(part)))


def _split(part: Path) -> str:
    match = PART.fullmatch(part.name)
    assert match is not None
    return match[1]


def _number(part: Path) -> int:
    return int(part.stem.partition("_")[2])


def _array_name(archive: Archive, part: Path) -> str | None:
    """Return the name of the JSON file in a part."""
    names = (each for each in archive.names() if each.endswith(".json"))
    return next((each for each in names if PurePosixPath(each).stem == part.stem), None)


def _array(archive: Archive, array: str) -> list[Row]:
    """Return the rows of the JSON file in a part, which describes some 4,000 images.

    Raises:
        DataError: it is damaged.
    """
    data = archive.read(array)
    try:
        rows = None if isinstance(data, Unusable) else json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"`{array}` in `{archive.place}` is not JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"`{array}` in `{archive.place}` is no array of objects")
    return rows


def _table(place: Path, split: str) -> dict[str, list[Row]]:
    """Return the rows of the table of a split by the part they are about.

    The largest has 52,000, which take some 60 MB.
    """
    found: dict[str, list[Row]] = {}
    folder = place.parent if place.is_file() else place
    for file in sorted(folder.glob(f"metadata-{split}*.parquet")):
        for _, row in rows_of(file, [*COLUMNS, "classification", *RATINGS.values()]):
            if isinstance(row, dict):
                parents = PurePosixPath(str(row.get("image_path"))).parent
                found.setdefault(parents.name, []).append(row)
    return found


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows of each prompt, in the order of the first ones."""
    groups: dict[str | None, list[Row]] = {}
    for row in rows:
        groups.setdefault(name(row.get("prompt_id")), []).append(row)
    yield from groups.values()


def _ranked(rows: list[Row], shelf: Shelf, part: Path) -> Found:
    """Return the ranked list of the images of a prompt."""
    first, id_ = rows[0], name(rows[0].get("prompt_id"))
    where = f"prompt {id_} in {part.name}"
    if id_ is None:
        return Unusable(where, "no prompt_id")
    if len({text(row.get("prompt")) for row in rows}) > 1:
        return Unusable(where, "several prompts with the same prompt_id")
    ranks = [number(row.get("rank")) for row in rows]
    if None in ranks:
        return Unusable(where, "a rank that is no number")
    media = shelf.find_all(PurePosixPath(str(row.get("image_path"))).name for row in rows)
    if isinstance(media, Unusable):
        return Unusable(f"{where}: {media.where}", media.reason)
    return Entry(
        text(first.get("prompt")),
        media,
        "ranked",
        ranks=tuple(rank for rank in ranks if rank is not None),
        scores=dict(_scores(rows)),
        category=name(first.get("classification")),
        id=id_,
        source="ImageRewardDB",
        split=_split(part),
    )


def _scores(rows: list[Row]) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield the ratings that all images of a prompt have."""
    for score, column in RATINGS.items():
        values: list[Any] = [number(row.get(column)) for row in rows]
        if None not in values:
            yield score, tuple(values)
