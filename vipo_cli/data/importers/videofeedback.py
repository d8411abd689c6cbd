"""VideoFeedback: clips of text-to-video models that people rated from 1 to 4 in five dimensions.

Published at TIGER-Lab/VideoFeedback as Parquet in the folders annotated/ and real/, with the clips
in zip files (videos_annotated_train.zip and the like) or, one by one, at
hexuan21/VideoFeedback-videos-mp4. Checked against public code that reads it: the columns id,
images, text prompt, video link, conversations; that the second turn of the conversation holds a
line `dimension: rating` for each dimension; the five names; that a link ends in the name of a clip;
that its authors compare clips by the mean of the five ratings. Not checked against the data, which
could not be had: that the ratings are columns of their own in every file (where they are not, the
conversation is read), how the zip files name their members (the last part of the link is enough),
and how many clips a prompt has.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vipo_cli.data.cells import name, number, text
from vipo_cli.data.entry import Found, Unusable
from vipo_cli.data.importers.archives import Shelf
from vipo_cli.data.importers.files import Row, has_columns, rows_of, tables_in
from vipo_cli.data.importers.importer import folder_of, importer
from vipo_cli.data.importers.pickapic import split_of
from vipo_cli.data.importers.rated import DOMINANCE, Form, Rated, Scale, found_in
from vipo_cli.errors import DataError, did_you_mean

DIMENSIONS = (
    "visual quality",
    "temporal consistency",
    "dynamic degree",
    "text-to-video alignment",
    "factual consistency",
)
WORST, BEST = 1, 4
SCALE = Scale(DIMENSIONS, [WORST] * 5, [BEST] * 5, [True] * 5)
COLUMNS = ("text prompt", "video link")


@importer(fits=has_columns(*COLUMNS), beside=folder_of)
def videofeedback(
    place: Path,
    *,
    form: Annotated[
        Form,
        Field(description="pairs of a prompt's clips, one ranked list a prompt, or samples."),
    ] = "pairs",
    by: Annotated[
        str, Field(description="What decides: mean, dominance, or the name of a dimension.")
    ] = "mean",
    liked: Annotated[
        float, Field(ge=1, le=4, description="Rating from which on a sample is liked.")
    ] = 3.0,
    real: Annotated[
        bool, Field(description="Also the filmed clips of the folder real/, not only generated.")
    ] = False,
    split: Annotated[str | None, Field(description="Only this one: train or test.")] = None,
) -> Iterator[Found]:
    """VideoFeedback: clips with five ratings from 1 to 4, compared within their prompts."""
    refuse_unknown(by, DIMENSIONS, form)
    shelf = Shelf(place if place.is_dir() else place.parent)
    share = (liked - WORST) / (BEST - WORST)
    rated = _rated(place, real, split)
    yield from found_in(rated, SCALE, shelf.find, form=form, by=by, liked=share)


def refuse_unknown(by: str, dimensions: tuple[str, ...], form: Form) -> None:
    """Refuse to decide by what there is not.

    Raises:
        DataError: no dimension of that name, or one that gives no order.
    """
    known = ("mean", DOMINANCE, *dimensions)
    if by not in known:
        raise DataError(
            f"nothing is called `{by}` by which clips are compared",
            hint=f"{did_you_mean(by, known)}known: {', '.join(known)}",
        )
    if by == DOMINANCE and form != "pairs":
        raise DataError(
            "dominance tells pairs apart, but gives no order", hint="choose another: --set by=mean"
        )


def _rated(place: Path, real: bool, split: str | None) -> Iterator[Rated | Unusable]:
    for file in tables_in(place, (".parquet",)):
        own = split_of(file)
        if (file.parent.name == "real" and not real) or (split is not None and own != split):
            continue
        for where, row in rows_of(file, ("id", *COLUMNS, *DIMENSIONS, "conversations")):
            yield row if isinstance(row, Unusable) else _clip(where, row, own)


def _clip(where: str, row: Row, split: str | None) -> Rated | Unusable:
    said = row if DIMENSIONS[0] in row else _said(row.get("conversations"))
    ratings = [number(said.get(dimension)) for dimension in DIMENSIONS]
    whole = tuple(int(each) for each in ratings if each is not None and each == int(each))
    if len(whole) < len(DIMENSIONS) or not all(WORST <= each <= BEST for each in whole):
        return Unusable(where, f"ratings that are not five whole numbers from {WORST} to {BEST}")
    own, link = name(row.get("id")), text(row.get("video link")).rstrip("/")
    medium = link.rpartition("/")[2] or (f"{own}.mp4" if own else "")
    if not medium:
        return Unusable(where, "missing medium")
    return Rated(text(row.get("text prompt")), medium, whole, own, split)


def _said(turns: Any) -> dict[str, str]:
    """Return the ratings that stand in the answer of a conversation."""
    listed = turns if isinstance(turns, list) else []
    answers = [turn.get("value") for turn in listed[1:2] if isinstance(turn, dict)]
    lines = (line.rpartition(":") for answer in answers for line in text(answer).splitlines())
    return {dimension.strip(): rating.strip() for dimension, _, rating in lines}
