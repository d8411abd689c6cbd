"""RichHF-18K: scores, heat maps and misaligned words of 17,760 images of Pick-a-Pic v1.

Published at google-research-datasets/richhf-18k as train.tfrecord, dev.tfrecord and test.tfrecord.
Checked against its README and the parsing examples in google-research/richhf_18k: the eight fields
(filename; the floats aesthetics_score, artifact_score, misalignment_score and overall_score, of all
of which higher is better; the encoded grey pictures artifact_map and misalignment_map of 512 x 512;
prompt_misalignment_label, a 0 for each misaligned word), how a prompt is cut into words, and, in
public code that joins the two, that the stem of a file name is the uid of an image of Pick-a-Pic
v1. Not checked against the data: the scale of the scores, which public code takes to be 0 to 1.

The images are not included. They come from a Pick-a-Pic v1 copy (pickapic=DIR: Parquet with
image_0_uid, image_1_uid, jpg_0, jpg_1 and caption), which is read once from end to end, or lie in a
folder (images=DIR, by default the place itself) under their file name, with the prompt in a .txt
file of the same name beside each, because RichHF does not repeat the prompts.

An image was scored alone and compared with none, so each becomes a labelled sample: liked where a
score is at least a threshold. All four scores are kept, one of the heat maps is kept as its region
map, and the misaligned words stand in the metadata. Of these, training on samples reads the label;
the rest is for statistics, filters and exports.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from vipo_cli.data.cells import name, number, text
from vipo_cli.data.entry import Entry, Found, Unusable
from vipo_cli.data.importers.archives import Shelf
from vipo_cli.data.importers.files import Row, header, rows_of, tables_in
from vipo_cli.data.importers.importer import folder_of, importer
from vipo_cli.data.importers.tfrecord import (
    Values,
    count_records,
    features_of,
    record_at,
    records_of,
)
from vipo_cli.data.row_groups import read_medium
from vipo_cli.errors import DataError
from vipo_cli.media import Media

SCORES = ("overall", "aesthetics", "artifact", "misalignment")
NEEDED = {"filename", "overall_score", "artifact_map", "misalignment_map"}
UIDS = ("image_0_uid", "image_1_uid")
IMAGES = ("jpg_0", "jpg_1")
BETWEEN_WORDS = re.compile(r"[,.?!\":; ]")
"""What ends a word, as the labels count them."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
Score = Literal["overall", "aesthetics", "artifact", "misalignment"]
Heat = Literal["artifact", "misalignment", "none"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user wants of an image.

    Attributes:
        score: that decides whether it is liked.
        liked_from: the least such score.
        heat: which map becomes its region map.
    """

    score: Score
    liked_from: float
    heat: Heat


def _fits(place: Path) -> bool:
    try:
        first = next(records_of(_files(place, None)[0]))[1]
        return features_of(first).keys() >= NEEDED
    except (DataError, ValueError, IndexError, StopIteration):
        return False


def _count(place: Path) -> int | None:
    counts = [count_records(file) for file in _files(place, None)]
    return None if None in counts else sum(count for count in counts if count is not None)


def _beside(
    place: Path, *, pickapic: str | None = None, images: str | None = None, **_: Any
) -> list[Path]:
    given = [Path(each).expanduser() for each in (pickapic, images) if each]
    return given or [*folder_of(place)]


@importer(fits=_fits, count=_count, beside=_beside)
def richhf(
    place: Path,
    *,
    pickapic: Annotated[
        str | None, Field(description="Folder of a Pick-a-Pic v1 copy, with images and prompts.")
    ] = None,
    images: Annotated[
        str | None,
        Field(description="Folder of the images by their file names, with NAME.txt as prompts."),
    ] = None,
    split: Annotated[
        Literal["train", "dev", "test"] | None, Field(description="Only this one.")
    ] = None,
    score: Annotated[Score, Field(description="Which score decides what is liked.")] = "overall",
    liked_from: Annotated[float, Field(description="The least score of what is liked.")] = 0.5,
    regions: Annotated[
        Heat, Field(description="Which heat map is kept as the region map of an image.")
    ] = "artifact",
) -> Iterator[Found]:
    """RichHF-18K: train.tfrecord, dev.tfrecord and test.tfrecord, joined with their images."""
    files = _files(place, split)
    if not files:
        raise DataError(f"no {split or ''}.tfrecord in `{place}`")
    wanted = Wanted(score, liked_from, regions)
    if pickapic is None:
        own = place.parent if place.is_file() else place
        yield from _from_folder(files, Path(images).expanduser() if images else own, wanted)
    else:
        yield from _from_pickapic(files, Path(pickapic).expanduser(), wanted)


def _files(place: Path, split: str | None) -> list[Path]:
    found = [place] if place.is_file() else sorted(place.glob("*.tfrecord*"))
    return [file for file in found if ".tfrecord" in file.name and split in (None, _split(file))]


def _split(file: Path) -> str:
    return file.name.partition(".")[0].partition("-")[0]


def _from_folder(files: list[Path], folder: Path, wanted: Wanted) -> Iterator[Found]:
    shelf = Shelf(folder)
    for file in files:
        for start, data in records_of(file):
            where = f"byte {start} of {file.name}"
            features = _features(data)
            if isinstance(features, str):
                yield Unusable(where, features)
                continue
            named = text(_one(features, "filename"))
            media, prompt = _image(named, shelf), _prompt(named, shelf)
            if isinstance(media, Unusable):
                yield Unusable(
                    f"{where}: {media.where}",
                    f"{media.reason} (give pickapic=DIR or images=DIR)",
                )
            elif not prompt:
                yield Unusable(f"{where}: {named}", "no prompt in a .txt file beside the image")
            else:
                yield _sample(where, features, prompt, media, _split(file), wanted)


def _image(named: str, shelf: Shelf) -> Media | Unusable:
    """Return an image by the file name that RichHF has for it, or by that with another ending."""
    path = PurePosixPath(named)
    for tried in (named, *(str(path.with_suffix(end)) for end in ENDINGS), *_bare(path)):
        found = shelf.find(tried)
        if not isinstance(found, Unusable):
            return found
    return Unusable(named, "no image of that name")


def _bare(path: PurePosixPath) -> tuple[str, ...]:
    return tuple(path.with_suffix(end).name for end in (path.suffix, *ENDINGS)) if path.name else ()


def _prompt(named: str, shelf: Shelf) -> str:
    path = PurePosixPath(named).with_suffix(".txt") if PurePosixPath(named).name else None
    for tried in () if path is None else (str(path), path.name):
        found = shelf.find(tried)
        if isinstance(found, Unusable):
            continue
        try:
            data = found.read_bytes() if isinstance(found, Path) else found
            return data.decode("utf-8-sig").strip()
        except (OSError, UnicodeDecodeError):
            return ""
    return ""


def _from_pickapic(files: list[Path], folder: Path, wanted: Wanted) -> Iterator[Found]:
    """Yield the samples in the order in which Pick-a-Pic has their images."""
    places: dict[str, tuple[Path, int]] = {}
    for file in files:
        for start, data in records_of(file):
            where = f"byte {start} of {file.name}"
            features = _features(data)
            if isinstance(features, str):
                yield Unusable(where, features)
                continue
            uid = PurePosixPath(text(_one(features, "filename"))).stem
            if uid in places:
                yield Unusable(f"{where}: {uid}", "an image that was described before")
            else:
                places[uid] = file, start
    for uid, prompt, image in _images_of(folder, places):
        file, start = places.pop(uid)
        features = _features(record_at(file, start))
        assert not isinstance(features, str)  # it could be read before
        where = f"byte {start} of {file.name}"
        yield _sample(where, features, prompt, image, _split(file), wanted)
    for uid, (file, start) in places.items():
        yield Unusable(
            f"byte {start} of {file.name}: {uid}", "no image of that name in the Pick-a-Pic copy"
        )


def _images_of(folder: Path, wanted: Mapping[str, Any]) -> Iterator[tuple[str, str, Media]]:
    """Yield name, prompt and bytes of the images that are still wanted, in their order.

    Raises:
        DataError: the folder holds no Pick-a-Pic, or a damaged file.
    """
    columns = [*UIDS, *IMAGES, "caption"]
    tables = [file for file in tables_in(folder, (".parquet",)) if set(header(file)) >= {*columns}]
    if not tables:
        raise DataError(
            f"`{folder}` holds no Pick-a-Pic with images",
            hint=f"Parquet files with the columns {', '.join(columns)} are needed",
        )
    for table in tables:
        uids = (_uids(row) for _, row in rows_of(table, UIDS))
        if any(not wanted.keys().isdisjoint(both) for both in uids):
            for _, row in rows_of(table, columns):
                yield from _of_row(row, table.parent, wanted)


def _of_row(
    row: Row | Unusable, folder: Path, wanted: Mapping[str, Any]
) -> Iterator[tuple[str, str, Media]]:
    if isinstance(row, Unusable):
        return
    for uid, image in zip(_uids(row), IMAGES, strict=True):
        medium = read_medium(row.get(image), folder)
        if uid in wanted and medium:
            yield uid, text(row.get("caption")), medium


def _uids(row: Row | Unusable) -> list[str]:
    """Return the names of the images of a row of Pick-a-Pic."""
    return [name(row.get(uid)) or "" for uid in UIDS] if isinstance(row, dict) else []


def _features(data: bytes) -> dict[str, Values] | str:
    """Return the features of a record, or why there are none."""
    try:
        features = features_of(data)
    except (ValueError, UnicodeDecodeError):
        return "a record that is no tf.train.Example"
    return features if features.keys() >= NEEDED else "a record without the fields of RichHF-18K"


def _one(features: Mapping[str, Values], key: str) -> Any:
    """Return the value of a feature, texts decoded; None where there is none."""
    values = features.get(key) or [None]
    return values[0].decode(errors="replace") if isinstance(values[0], bytes) else values[0]


def _sample(
    where: str,
    features: Mapping[str, Values],
    prompt: str,
    image: Media,
    split: str,
    wanted: Wanted,
) -> Found:
    scores = {key: number(_one(features, f"{key}_score")) for key in SCORES}
    deciding = scores[wanted.score]
    if deciding is None:
        return Unusable(where, f"the {wanted.score} score is no number")
    heat = None if wanted.heat == "none" else (features.get(f"{wanted.heat}_map") or [b""])[0]
    label = text(_one(features, "prompt_misalignment_label"))
    words = [word for word in BETWEEN_WORDS.split(prompt) if word]
    marks = label.split()
    metadata: dict[str, Any] = {"word_labels": label} if label else {}
    if marks and len(marks) == len(words):
        metadata["misaligned"] = [w for w, mark in zip(words, marks, strict=True) if mark == "0"]
    return Entry(
        prompt,
        (image,),
        "liked" if deciding >= wanted.liked_from else "disliked",
        scores={key: (value,) for key, value in scores.items() if value is not None},
        regions=(heat,) if isinstance(heat, bytes) and heat else None,
        id=PurePosixPath(text(_one(features, "filename"))).stem or None,
        source="RichHF-18K",
        split=split,
        metadata=metadata,
    )
