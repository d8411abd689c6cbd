"""Pick-a-Pic v1 and v2, and whatever else has their columns.

Checked against the card of yuvalkirstain/pickapic_v2: are_different, best_image_uid, caption,
created_at (nanoseconds), has_label, image_0_uid, image_0_url, image_1_uid, image_1_url, jpg_0,
jpg_1, label_0, label_1, model_0, model_1, ranking_id, user_id, num_example_per_prompt and
__index_level_0__, in files such as train-00000-of-00387-ID.parquet of the splits train, validation,
test, validation_unique and test_unique. Neither the card of v1 could be had, of which public code
reads the same columns, nor the data of either.
"""

import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vipo_cli.data.cells import each, name, number, text, truth
from vipo_cli.data.entry import Entry, Found, Label, Unusable
from vipo_cli.data.importers.files import Row, count_rows, has_columns, rows_of, tables_in
from vipo_cli.data.importers.importer import importer
from vipo_cli.data.row_groups import read_medium

COLUMNS = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
TAKEN = (*COLUMNS, "has_label", "model_0", "model_1", "user_id", "ranking_id", "weight")
"""Columns that become fields of an entry; the others are kept as metadata."""
ENDS = ("_0", "_1")
"""Of two columns of floating-point numbers that score both media."""


@importer(fits=has_columns(*COLUMNS), count=count_rows)
def pickapic(
    place: Path,
    *,
    split: Annotated[
        str | None, Field(description="Only files named after it, such as train or test_unique.")
    ] = None,
) -> Iterator[Found]:
    """Pick-a-Pic v1 and v2: Parquet with caption, jpg_0, jpg_1, label_0, label_1."""
    for file in tables_in(place, (".parquet",)):
        own = split_of(file)
        if split is not None and own != split:
            continue
        for where, row in rows_of(file):
            yield row if isinstance(row, Unusable) else _entry(where, row, file, own)


def split_of(file: Path) -> str | None:
    """Return what a file of the hub's naming, SPLIT-00000-of-00012, is a part of."""
    head, dash, _ = file.stem.partition("-")
    return head if dash else None


def _entry(where: str, row: Row, file: Path, split: str | None) -> Found:
    first, second = number(row.get("label_0")), number(row.get("label_1"))
    label: Label
    if truth(row.get("has_label", True)) is False:
        label = "none"
    elif first is None or second is None or not math.isclose(first + second, 1, abs_tol=1e-6):
        return Unusable(where, "label_0 and label_1 do not add up to 1")
    elif not 0 <= first <= 1:
        return Unusable(where, "label_0 outside 0 to 1")
    else:
        label = "tie" if math.isclose(first, 0.5, abs_tol=1e-6) else "a" if first > second else "b"
    media = tuple(read_medium(row.get(name), file.parent) or b"" for name in ("jpg_0", "jpg_1"))
    certain = label in ("tie", "none") or {first, second} == {0, 1}
    scores: dict[str, tuple[Any, ...]] = {}
    rest: dict[str, Any] = {}
    for key, cell in row.items():
        if key in TAKEN or cell is None:
            continue
        if isinstance(cell, float) and key[-2:] in ENDS:
            both = tuple(row.get(key[:-2] + end) for end in ENDS)
            if all(isinstance(each, float) and math.isfinite(each) for each in both):
                scores[key[:-2]] = both
                continue
        if isinstance(cell, datetime):
            rest[key] = cell.isoformat()
        elif isinstance(cell, str | int | bool) or (
            isinstance(cell, float) and math.isfinite(cell)
        ):
            rest[key] = cell
    weight = number(row.get("weight", 1.0))
    return Entry(
        text(row.get("caption")),
        media,
        label,
        probability=None if certain else max(first or 0, second or 0),
        weight=math.nan if weight is None else weight,
        models=each(row.get("model_0"), row.get("model_1")),
        annotator=name(row.get("user_id")),
        id=name(row.get("ranking_id")),
        scores=scores,
        split=split,
        metadata=rest,
        where=where,
    )
