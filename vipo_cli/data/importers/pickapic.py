"""Pick-a-Pic v1 and v2, and whatever else has their columns."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vipo_cli.data.entry import Entry, Found, Label, Unusable
from vipo_cli.data.importers.cells import each, name, number, text, truth
from vipo_cli.data.importers.files import Row, count_rows, has_columns, rows_of, tables_in
from vipo_cli.data.importers.importer import importer
from vipo_cli.data.row_groups import read_medium

COLUMNS = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
TAKEN = (*COLUMNS, "has_label", "model_0", "model_1", "user_id", "ranking_id", "weight")
"""Columns that become fields of an entry; the others are kept as metadata."""


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
    first, second = number(row["label_0"]), number(row["label_1"])
    label: Label
    if truth(row.get("has_label", True)) is False:
        label = "none"
    elif first is None or second is None or not math.isclose(first + second, 1, abs_tol=1e-6):
        return Unusable(where, "label_0 and label_1 do not add up to 1")
    elif not 0 <= first <= 1:
        return Unusable(where, "label_0 outside 0 to 1")
    else:
        label = "tie" if math.isclose(first, 0.5, abs_tol=1e-6) else "a" if first > second else "b"
    media = tuple(read_medium(row[name], file.parent) or b"" for name in ("jpg_0", "jpg_1"))
    certain = label in ("tie", "none") or {first, second} == {0, 1}
    rest = {key: cell for key, cell in row.items() if key not in TAKEN and cell is not None}
    scores = {
        key[:-2]: (float(cell), float(rest[f"{key[:-2]}_1"]))
        for key, cell in rest.items()
        if key.endswith("_0") and isinstance(cell, float)
        if isinstance(rest.get(f"{key[:-2]}_1"), float)
    }
    known = {key + side for key in scores for side in ("_0", "_1")}
    weight = number(row["weight"]) if "weight" in row else 1.0
    return Entry(
        text(row["caption"]),
        media,
        label,
        probability=None if certain else max(first or 0, second or 0),
        weight=math.nan if weight is None else weight,
        models=each(row.get("model_0"), row.get("model_1")),
        annotator=name(row.get("user_id")),
        id=name(row.get("ranking_id")),
        scores=scores,
        split=split,
        metadata={
            key: cell
            for key, cell in rest.items()
            if key not in known and isinstance(cell, str | int | float | bool)
        },
    )
