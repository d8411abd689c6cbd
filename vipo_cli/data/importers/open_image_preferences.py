"""Open Image Preferences: the answers as Argilla exports them, and the pairs made of them.

Published at data-is-better-together/open-image-preferences-v1-results (answers) and -binarized
(pairs). Checked against the card of -results: id, status, images (a struct of the texts image_1,
image_2 and prompt), model_1, model_2, evolution, category, sub_category, preference.responses,
preference.responses.users, preference.responses.status. The images are in another repository,
open-image-preferences-v1, whose folders image_quality_dev/ and so on were checked against the file
list of the hub: give a copy as images=DIR. Not checked: what exactly the texts of the images are
(their last folder and name are looked up, also where they are
addresses; images written out in base64 are read), what the answers are
called beside image_1 and image_2 (whatever begins with both_, and what TIES lists, is a tie), and
the columns of -binarized but for prompt, chosen and rejected, of which only prompt, chosen,
rejected, chosen_model and rejected_model are needed.

A submitted answer is a vote; a tie is half a vote for each image.
"""

import base64
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import Field

from vipo_cli.data.cells import each, name, text
from vipo_cli.data.entry import Entry, Found, Label, Unusable
from vipo_cli.data.importers.archives import Shelf
from vipo_cli.data.importers.files import Row, count_rows, header, rows_of, tables_in
from vipo_cli.data.importers.importer import folder_of, importer
from vipo_cli.data.importers.pickapic import split_of
from vipo_cli.data.row_groups import read_medium

PAIRS = {"prompt", "chosen", "rejected", "chosen_model", "rejected_model"}
ANSWERS = {"images", "preference.responses", "model_1", "model_2"}
TIES = ("tie", "equal", "same", "neither", "no_preference")
KEPT = ("evolution", "sub_category", "status")
"""Columns that are kept as metadata."""


def _fits(place: Path) -> bool:
    tables = tables_in(place, (".parquet",))
    names = set(header(tables[0])) if tables else set()
    return names >= PAIRS or names >= ANSWERS


def _beside(place: Path, *, images: str | None = None, **_: Any) -> list[Path]:
    return [Path(images).expanduser()] if images else [*folder_of(place)]


@importer(fits=_fits, count=count_rows, beside=_beside)
def open_image_preferences(
    place: Path,
    *,
    images: Annotated[
        str | None,
        Field(
            description="Folder of open-image-preferences-v1, for the answers, which have no "
            "images themselves. By default the place itself."
        ),
    ] = None,
) -> Iterator[Found]:
    """Open Image Preferences: -binarized, with chosen and rejected, or Argilla's answers."""
    own = place.parent if place.is_file() else place
    shelf = Shelf(Path(images).expanduser() if images else own)
    for file in tables_in(place, (".parquet",)):
        paired = set(header(file)) >= PAIRS
        if not paired and not set(header(file)) >= ANSWERS:
            continue  # a table of the folder with the images
        for where, row in rows_of(file):
            if isinstance(row, Unusable):
                yield row
            elif paired:
                yield _pair(where, row, file)
            else:
                yield _answered(where, row, file, shelf)


def _pair(where: str, row: Row, file: Path) -> Found:
    media = tuple(
        read_medium(row.get(column), file.parent) or b"" for column in ("chosen", "rejected")
    )
    return Entry(
        text(row.get("prompt")),
        media,
        "a",
        models=each(row.get("chosen_model"), row.get("rejected_model")),
        **_common(where, row, file),
    )


def _answered(where: str, row: Row, file: Path, shelf: Shelf) -> Found:
    cell = row.get("images")
    shown = cell if isinstance(cell, dict) else {}
    prompt = text(shown.get("prompt")) or text(row.get("prompt"))
    media = [_image(shown.get(image), shelf) for image in ("image_1", "image_2")]
    for medium in media:
        if isinstance(medium, Unusable):
            return Unusable(f"{where}: {medium.where}", medium.reason)
    answers = Counter(_submitted(row))
    votes, unknown = _votes(answers)
    if unknown:
        return Unusable(f"{where}: {unknown}", "an answer that names neither image, nor both")
    first, second = votes
    label: Label = "a" if first > second else "b" if second > first else "tie"
    known = _common(where, row, file)
    known["metadata"] |= {"answers": dict(sorted(answers.items()))} if answers else {}
    return Entry(
        prompt,
        tuple(medium for medium in media if not isinstance(medium, Unusable)),
        label if answers else "none",
        votes=votes if answers else None,
        models=each(row.get("model_1"), row.get("model_2")),
        **known,
    )


def _submitted(row: Row) -> list[str]:
    """Return the answers that count: drafts and discarded ones do not."""
    answers, states = (
        row.get("preference.responses") or [],
        row.get("preference.responses.status") or [],
    )
    return [
        text(answer).lower().replace(" ", "_")
        for place, answer in enumerate(answers)
        if text(answer) and (place >= len(states) or states[place] == "submitted")
    ]


def _votes(answers: Counter[str]) -> tuple[tuple[float, float], str]:
    """Return the votes for each image, and an answer that is not understood."""
    votes = [0.0, 0.0]
    for answer, count in answers.items():
        if answer in ("image_1", "image_2"):
            votes[("image_1", "image_2").index(answer)] += count
        elif answer.startswith("both") or answer in TIES:
            votes = [vote + count / 2 for vote in votes]
        else:
            return (0, 0), answer
    return (votes[0], votes[1]), ""


def _image(cell: Any, shelf: Shelf) -> Any:
    """Return the image that a cell holds or names: its bytes, a path or an address."""
    if not isinstance(cell, str):
        held = read_medium(cell, Path())
        return held if isinstance(held, bytes) else Unusable("", "a missing image")
    if cell.startswith("data:"):
        try:
            return base64.b64decode(cell.partition(",")[2], validate=True)
        except ValueError:
            return Unusable("", "an image written as text that cannot be read")
    path = unquote(urlsplit(cell).path) if "://" in cell else cell
    return shelf.find("/".join(path.split("/")[-2:]))


def _common(where: str, row: Row, file: Path) -> dict[str, Any]:
    return {
        "category": name(row.get("category")),
        "id": name(row.get("id")) or f"{file.stem}-{where.split()[1]}",
        "source": "Open Image Preferences",
        "split": split_of(file),
        "metadata": {column: text(row.get(column)) for column in KEPT if text(row.get(column))},
    }
