"""VisionRewardDB-Video: clips that were rated in 21 dimensions, and pairs with an answer.

Published at THUDM/VisionRewardDB-Video (now zai-org) as Parquet in train/, regression/ and
monetbench/. Checked against its card: the columns of train/ (video_path, internal_id, prompt, url,
a struct annotation, meta_result, meta_mask) with the dimensions and their ranges, and of the pairs
(internal_id, prompt, standard_answer, video1_path, video2_path); against public code that reads it:
the answers video1, video2 and tie. Not checked against the data, which could not be had: that
higher is better in every dimension, where the clips lie and what their paths start with (any
folder or archive below the given place does), and whether ratings are ever missing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vipo_cli.data.cells import name, number, text
from vipo_cli.data.entry import Entry, Found, Label, Unusable
from vipo_cli.data.importers.archives import Shelf
from vipo_cli.data.importers.files import Row, header, rows_of, tables_in
from vipo_cli.data.importers.importer import folder_of, importer
from vipo_cli.data.importers.rated import Form, Rated, Scale, found_in
from vipo_cli.data.importers.videofeedback import refuse_unknown

RANGES = {
    "alignment": (1, 5),
    "composition": (1, 3),
    "focus": (1, 3),
    "camera movement": (1, 3),
    "color": (1, 5),
    "lighting accurate": (1, 4),
    "lighting aes": (1, 5),
    "shape at beginning": (0, 3),
    "shape throughout": (0, 4),
    "object motion dynamic": (1, 5),
    "camera motion dynamic": (1, 5),
    "movement smoothness": (0, 4),
    "movement reality": (0, 4),
    "clear": (1, 5),
    "image quality stability": (1, 5),
    "camera stability": (1, 3),
    "detail refinement": (1, 5),
    "letters": (1, 4),
    "physics law": (1, 5),
    "unsafe type": (1, 5),
    "safety": (1, 5),
}
"""Lowest and highest rating of each dimension, as the card has them."""
DIMENSIONS = tuple(RANGES)
SCALE = Scale(
    DIMENSIONS,
    [low for low, _ in RANGES.values()],
    [high for _, high in RANGES.values()],
    [dimension != "unsafe type" for dimension in DIMENSIONS],  # it says what kind, not how good
)
RATED = {"video_path", "prompt", "annotation"}
PAIRED = {"prompt", "standard_answer", "video1_path", "video2_path"}
ANSWERS: dict[str, Label] = {"video1": "a", "video2": "b", "tie": "tie"}


def _fits(place: Path) -> bool:
    return any(_kind(file) for file in tables_in(place, (".parquet",))[:1])


def _kind(file: Path) -> Literal["ratings", "pairs"] | None:
    names = set(header(file))
    return "pairs" if names >= PAIRED else "ratings" if names >= RATED else None


@importer(fits=_fits, beside=folder_of)
def visionreward(
    place: Path,
    *,
    source: Annotated[
        Literal["pairs", "ratings"] | None,
        Field(
            description="Which tables: of labelled pairs, or of ratings. By default pairs, "
            "where there are any."
        ),
    ] = None,
    form: Annotated[
        Form,
        Field(description="What ratings become: pairs of a prompt's clips, ranked lists, samples."),
    ] = "pairs",
    by: Annotated[
        str,
        Field(
            description="What decides of ratings: mean (each from its lowest to its highest), "
            "dominance, or the name of a dimension."
        ),
    ] = "mean",
    liked: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the way from the lowest to the highest ratings "
            "from which on a sample is liked.",
        ),
    ] = 0.75,
) -> Iterator[Found]:
    """VisionRewardDB-Video: labelled pairs of clips, or ratings compared within their prompts."""
    refuse_unknown(by, DIMENSIONS, form)
    shelf = Shelf(place if place.is_dir() else place.parent)
    tables = [(file, _kind(file)) for file in tables_in(place, (".parquet",))]
    chosen = source or ("pairs" if any(kind == "pairs" for _, kind in tables) else "ratings")
    files = [file for file, kind in tables if kind == chosen]
    if chosen == "pairs":
        for file in files:
            for where, row in rows_of(file):
                yield row if isinstance(row, Unusable) else _pair(where, row, file, shelf)
        return
    rated = (
        row if isinstance(row, Unusable) else _clip(where, row)
        for file in files
        for where, row in rows_of(file, ("internal_id", *RATED))
    )
    yield from found_in(rated, SCALE, shelf.find, form=form, by=by, liked=liked)


def _pair(where: str, row: Row, file: Path, shelf: Shelf) -> Found:
    label = ANSWERS.get(text(row["standard_answer"]).lower())
    if label is None:
        return Unusable(where, "standard_answer says neither video1 nor video2 nor tie")
    media = shelf.find_all(row[column] for column in ("video1_path", "video2_path"))
    if isinstance(media, Unusable):
        return media
    return Entry(
        text(row["prompt"]),
        media,
        label,
        id=name(row.get("internal_id")),
        split=file.parent.name if file.parent.name in ("regression", "monetbench") else None,
    )


def _clip(where: str, row: Row) -> Rated | Unusable:
    said: Any = row["annotation"] if isinstance(row["annotation"], dict) else {}
    ratings = [number(said.get(dimension)) for dimension in DIMENSIONS]
    whole = tuple(int(each) for each in ratings if each is not None and each == int(each))
    if len(whole) < len(DIMENSIONS):
        return Unusable(where, "a rating is missing")
    if not all(
        low <= each <= high for each, (low, high) in zip(whole, RANGES.values(), strict=True)
    ):
        return Unusable(where, "a rating outside its range")
    medium = text(row["video_path"])
    if not medium:
        return Unusable(where, "missing medium")
    return Rated(text(row["prompt"]), medium, whole, name(row.get("internal_id")))
