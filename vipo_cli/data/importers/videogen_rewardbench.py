"""VideoGen-RewardBench: pairs of clips judged overall and in three dimensions, ties among them.

Published at KwaiVGI/VideoGen-RewardBench (now KlingTeam) as videogen-rewardbench.csv and
videos.zip. Checked against its card and the code of its authors (KwaiVGI/VideoAlign): the columns
path_A, path_B, A_model, B_model, prompt, VQ, MQ, TA, fps_A, num_frames_A, fps_B, num_frames_B; the
labels A, B and same; paths such as videos/MODEL/MODEL_00103.mp4; the label of the whole, Overall,
which an early version of that code calls ALL. The same code trains on a CSV of these columns
without one. Not checked against the data, which could not be had: the names in videos.zip (with or
without videos/ both do) and whether labels are ever missing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vipo_cli.data.cells import each, name, number, text
from vipo_cli.data.entry import Entry, Found, Label, Unusable
from vipo_cli.data.importers.archives import MISSING, Shelf
from vipo_cli.data.importers.files import Row, count_rows, has_columns, header, rows_of, tables_in
from vipo_cli.data.importers.importer import folder_of, importer
from vipo_cli.errors import DataError
from vipo_cli.media import Media

DIMENSIONS = ("VQ", "MQ", "TA")
"""Visual quality, motion quality, and how well the text was followed."""
OVERALL = ("Overall", "ALL")
COLUMNS = ("path_A", "path_B", "prompt", *DIMENSIONS)
LABELS: dict[str, Label] = {"a": "a", "b": "b", "same": "tie"}
FACTS = ("fps_A", "fps_B", "num_frames_A", "num_frames_B")


@importer(fits=has_columns(*COLUMNS), count=count_rows, beside=folder_of)
def videogen_rewardbench(
    place: Path,
    *,
    label: Annotated[
        str | None,
        Field(description="Column that says which is better, such as VQ. By default Overall."),
    ] = None,
) -> Iterator[Found]:
    """VideoGen-RewardBench: CSV with path_A, path_B, prompt, and A, B or same as VQ, MQ, TA."""
    shelf = Shelf(place if place.is_dir() else place.parent)
    for file in tables_in(place):
        names = header(file)
        if not set(COLUMNS) <= set(names):
            continue
        decisive = _decisive(file, names, label)
        for where, row in rows_of(file):
            yield row if isinstance(row, Unusable) else _entry(where, row, decisive, shelf)


def _decisive(file: Path, names: list[str], wanted: str | None) -> str:
    """Return the column that says which clip is better.

    Raises:
        DataError: it is not there.
    """
    looked_for = OVERALL if wanted is None else (wanted,)
    found = next((column for column in looked_for if column in names), None)
    if found is None:
        raise DataError(
            f"`{file}` has no column `{looked_for[0]}` that says which clip is better",
            hint=f"choose one that decides: --set label=VQ (of {', '.join(DIMENSIONS)})",
        )
    return found


def _entry(where: str, row: Row, decisive: str, shelf: Shelf) -> Found:
    label = _label(row[decisive])
    if label is None:
        return Unusable(where, f"{decisive} is neither A nor B nor same")
    media = []
    for column in ("path_A", "path_B"):
        medium = _medium(text(row[column]), shelf)
        if isinstance(medium, Unusable):
            return medium
        media.append(medium)
    dimensions = {column: _label(row[column]) for column in DIMENSIONS}
    return Entry(
        text(row["prompt"]),
        tuple(media),
        label,
        models=each(row.get("A_model"), row.get("B_model")),
        dimensions={column: found for column, found in dimensions.items() if found is not None},
        id=name(row.get("id")),
        metadata={
            column: value for column in FACTS if (value := number(row.get(column))) is not None
        },
    )


def _label(cell: object) -> Label | None:
    return LABELS.get(text(cell).lower())


def _medium(path: str, shelf: Shelf) -> Media | Unusable:
    """Return a clip; an archive may have been packed without the folder that a path starts with."""
    if Path(path).is_absolute():
        return Path(path)
    found = shelf.find(path)
    missing = isinstance(found, Unusable) and found.reason == MISSING
    shorter = path.removeprefix("./").partition("/")[2]
    return shelf.find(shorter) if missing and shorter else found
