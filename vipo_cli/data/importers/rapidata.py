"""Preference sets of Rapidata: pairs of images with the votes of many people.

Checked against the cards in the hub and code that writes such sets:
700k_Human_Preference_Dataset_FLUX_SD3_MJ_DALLE3 has prompt, image1, image2 (images of the hub's
kind), votes_image1, votes_image2, model1, model2, detailed_results (JSON), image1_path and
image2_path, in splits train_0001 and so on; the later sets have weighted_results_image1_preference
and so on, for preference, coherence and alignment, of which a set may have some. Not checked
against the data: whether weighted results are sums or shares (only their ratio is used). The JSON
files in raw_data/ are not read.

The votes for preference decide; coherence and alignment become dimensions. The weighted results
weigh each vote by how reliable its giver is; they stand among the votes and the scores alike.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vipo_cli.data.cells import each, number, text
from vipo_cli.data.entry import Entry, Found, Label, Unusable
from vipo_cli.data.importers.files import Row, count_rows, header, rows_of, tables_in
from vipo_cli.data.importers.importer import importer
from vipo_cli.data.importers.pickapic import split_of
from vipo_cli.data.row_groups import read_medium
from vipo_cli.errors import DataError

Axis = Literal["preference", "coherence", "alignment"]
AXES: tuple[Axis, ...] = ("preference", "coherence", "alignment")
IMAGES = ("image1", "image2")


def _columns(axis: Axis, names: set[str]) -> tuple[str, str] | None:
    """Return the columns of the votes on something; None where there are none."""
    known = [(f"weighted_results_image1_{axis}", f"weighted_results_image2_{axis}")]
    if axis == "preference":
        known.append(("votes_image1", "votes_image2"))
    return next((columns for columns in known if names.issuperset(columns)), None)


def _fits(place: Path) -> bool:
    tables = tables_in(place, (".parquet",))
    names = set(header(tables[0])) if tables else set()
    return names.issuperset({"prompt", *IMAGES}) and any(_columns(axis, names) for axis in AXES)


@importer(fits=_fits, count=count_rows)
def rapidata(
    place: Path,
    *,
    by: Annotated[
        Axis | None,
        Field(description="What decides the label. By default preference, or the only one."),
    ] = None,
) -> Iterator[Found]:
    """Rapidata's sets: Parquet with image1, image2 and votes_ or weighted_results_ of each."""
    for file in tables_in(place, (".parquet",)):
        names = set(header(file))
        if not names.issuperset(IMAGES):
            continue  # a table of something else
        axes = {axis: columns for axis in AXES if (columns := _columns(axis, names))}
        deciding = by or next(iter(axes), None)
        if deciding not in axes:
            raise DataError(
                f"`{file}` has no votes on {by or 'anything'}",
                hint=f"it has votes on: {', '.join(axes) or 'nothing'}",
            )
        wanted = [
            "prompt",
            *IMAGES,
            "model1",
            "model2",
            *(c for pair in axes.values() for c in pair),
        ]
        for where, row in rows_of(file, wanted):
            yield row if isinstance(row, Unusable) else _entry(where, row, file, axes, deciding)


def _entry(
    where: str, row: Row, file: Path, axes: dict[Axis, tuple[str, str]], deciding: Axis
) -> Found:
    votes = {axis: _votes(row, columns) for axis, columns in axes.items()}
    counted = votes.pop(deciding)
    if counted is None:
        return Unusable(where, f"votes on {deciding} that are no numbers of at least 0")
    known: dict[str, tuple[float, float]] = {deciding: counted}
    known |= {axis: pair for axis, pair in votes.items() if pair is not None}
    return Entry(
        text(row.get("prompt")),
        tuple(read_medium(row.get(image), file.parent) or b"" for image in IMAGES),
        _label(counted),
        votes=counted,
        models=each(row.get("model1"), row.get("model2")),
        dimensions={
            axis: label
            for axis, pair in known.items()
            if axis != deciding and (label := _label(pair)) != "none"
        },
        scores=dict(known),
        id=f"{file.stem}-{where.split()[1]}",
        source="Rapidata",
        split=split_of(file),
    )


def _votes(row: Row, columns: tuple[str, str]) -> tuple[float, float] | None:
    first, second = (number(row.get(column)) for column in columns)
    if first is None or second is None or min(first, second) < 0:
        return None
    return first, second


def _label(votes: tuple[float, float]) -> Label:
    first, second = votes
    if first == second == 0:
        return "none"
    return "tie" if math.isclose(first, second) else "a" if first > second else "b"
