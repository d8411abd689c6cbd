"""The Human Preference Datasets: HPDv2, HPDv3 and HPDv3++.

HPDv2 (ymhao/HPDv2 in the hub): train.json, test.json, train.tar.gz, test.tar.gz. Checked against
the README and the code of tgxs002/HPSv2 and the file list of the hub: fields of both JSON files,
folders train/ and test/ with the images, and that the lower of two ranks is the better. Not checked
against the data: what the members of the two archives are called (with or without the folder, both
are found), and whether the field of single annotations ends in -s (both are read).

HPDv3 (MizzenAI/HPDv3): all.json, train.json, test.json, pickapic.json, imagereward.json and
images.tar.gz.*. Checked against the README of MizzenAI/HPSv3: fields, and that path1 is always the
preferred one. `choice_dist` counts the votes; HPSv3's own training sorts it, and so does this
importer, because the preferred image cannot have fewer votes. `confidence` is the probability of
the label; both are null for pairs of Midjourney and HPDv2. Not checked against the data: how the
members of the archive are called.

HPDv3++ (Junjun2333/HPDv3-PlusPlus): train/train_aes.json, train/train_tf.json, test/test_aes.json,
test/test_tf.json and images.tar.part*. Checked against the README of its repository: fields, paths
images/... from the root of the data set, and which files hold its pairs. Not checked against the
data.

Random reads from a gzipped archive are slow (see `archives`): join and unpack the parts of HPDv3 to
one plain tar file, or to a folder.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vipo_cli.data.cells import each, name, number, text
from vipo_cli.data.entry import Entry, Found, Unusable
from vipo_cli.data.importers.archives import Shelf, archives_in
from vipo_cli.data.importers.arrays import elements_of
from vipo_cli.data.importers.files import Row, rows_of
from vipo_cli.data.importers.importer import importer
from vipo_cli.errors import DataError
from vipo_cli.media import Media

SUFFIXES = (".json", ".jsonl")
RANKED = {"prompt", "image_path", "rank"}
CHOSEN = {"prompt", "file_path", "human_preference"}
PREFERRED = {"prompt", "path1", "path2"}
AXES = {"aes": "aesthetics", "tf": "text following"}
"""Of HPDv3++, by how the names of its files end."""
OWN = ("train_aes", "train_tf", "test_aes", "test_tf", "train", "test")
"""Files whose images a data set has itself, and whose pairs stand in no other of them."""


def _beside(place: Path, **_: Any) -> list[Path]:
    root = _root(place)
    return [] if root == place else [root]


def _hpdv2_fits(place: Path) -> bool:
    return bool(_files(place, CHOSEN) or _files(place, RANKED))


@importer(fits=_hpdv2_fits, beside=_beside)
def hpdv2(
    place: Path,
    *,
    split: Annotated[
        Literal["train", "test"] | None,
        Field(description="train: pairs; test: ranked lists. By default train, where it is."),
    ] = None,
    each_annotator: Annotated[
        bool,
        Field(description="Of test: one list for each annotator, in place of their average."),
    ] = False,
) -> Iterator[Found]:
    """HPDv2: train.json with pairs or test.json with rankings; images in folders or archives."""
    files = [] if split == "test" else _files(place, CHOSEN)
    own = "train" if files else "test"
    if not files and split != "train":
        files = _files(place, RANKED)
    if not files:
        raise DataError(f"`{place}` holds no {split or 'train or test'} split of HPDv2")
    for file in files:
        archives = [each for each in archives_in(file.parent) if each.name.startswith(own)]
        shelf = Shelf(file.parent / own, archives)
        for id_, where, row in _rows(file):
            if isinstance(row, Unusable):
                yield row
                continue
            names = _list(row.get("file_path" if own == "train" else "image_path"))
            media = shelf.find_all(
                each.removeprefix(f"{own}/") if isinstance(each, str) else each for each in names
            )
            if isinstance(media, Unusable):
                yield Unusable(f"{where}: {media.where}", media.reason)
            elif own == "train":
                yield _choice(id_, where, row, media)
            else:
                yield from _ranking(id_, where, row, media, each_annotator)


def _choice(id_: str, where: str, row: Row, media: tuple[Media, ...]) -> Found:
    """Return the pair of an element of train.json."""
    preferred = [number(cell) for cell in _list(row.get("human_preference"))]
    if len(media) != 2 or len(preferred) != 2:
        return Unusable(where, "not two images with a preference each")
    first, second = preferred
    if first is None or second is None or not {first, second} <= {0, 1}:
        return Unusable(where, "a preference that is neither 0 nor 1")
    return Entry(
        text(row.get("prompt")),
        media,
        "a" if first > second else "b" if second > first else "tie",
        annotator=name(row.get("user_hash")),
        id=id_,
        source="HPDv2",
        split="train",
    )


def _ranking(
    id_: str, where: str, row: Row, media: tuple[Media, ...], each_annotator: bool
) -> Iterator[Found]:
    """Yield the ranked list of an element of test.json, or one for each who ranked it."""
    single = [
        annotation
        for annotation in _list(row.get("raw_annotations", row.get("raw_annotation")))
        if isinstance(annotation, dict)
    ]
    averaged = Entry(
        text(row.get("prompt")),
        media,
        "ranked",
        ranks=_ranks(row.get("rank")),
        id=id_,
        source="HPDv2",
        split="test",
        metadata={"annotations": single} if single else {},
    )
    if not each_annotator:
        yield averaged
        return
    if not single:
        yield Unusable(where, "no rankings of single annotators")
    for place, annotation in enumerate(single):
        yield replace(
            averaged,
            ranks=_ranks(annotation.get("rank")),
            annotator=name(annotation.get("user_hash")),
            id=f"{id_}.{place}",
            metadata={},
        )


def _hpdv3_fits(place: Path) -> bool:
    return bool(_files(place, PREFERRED))


@importer(fits=_hpdv3_fits, beside=_beside)
def hpdv3(
    place: Path,
    *,
    files: Annotated[
        str | None,
        Field(
            description="Which JSON files, by their names without .json, such as all, or "
            "train_aes,test_aes. By default train, test and those of HPDv3++ with one axis."
        ),
    ] = None,
) -> Iterator[Found]:
    """HPDv3 and HPDv3++: JSON with path1 preferred to path2; images in a folder or an archive.

    HPDv3++ has two axes. A pair that was judged on both becomes one entry with both as dimensions;
    the aesthetics decide its label.
    """
    found = _files(place, PREFERRED)
    wanted = [each.strip() for each in files.split(",")] if files else []
    names = wanted or [each.stem for each in found if each.stem in OWN]
    chosen = [each for each in found if each.stem in names] if names else found
    if not chosen or set(wanted) - {each.stem for each in chosen}:
        raise DataError(
            f"`{place}` has no such files of pairs: {', '.join(wanted)}",
            hint=f"there are {', '.join(each.stem for each in found) or 'none'}",
        )
    shelf = Shelf(_root(place))
    for file in chosen:
        stem, axis = file.stem, _axis(file)
        other = next((each for each in chosen if _pairs_with(file, each)), None)
        judged = {} if other is None else _judged(other)
        passed_over = axis == AXES["tf"]
        for id_, where, row in _rows(file):
            if isinstance(row, Unusable):
                yield row
                continue
            again = judged.get(_pair_key(row))
            if again is not None and passed_over:
                continue  # it came with the other axis
            media = shelf.find_all([row.get("path1"), row.get("path2")])
            if isinstance(media, Unusable):
                yield Unusable(f"{where}: {media.where}", media.reason)
                continue
            dimensions = {} if axis is None else {axis: "a"}
            if again is not None:
                dimensions[AXES["tf"]] = "a" if again == row.get("path1") else "b"
            yield _preferred(id_, row, media, dimensions, stem)


def _preferred(
    id_: str, row: Row, media: tuple[Media, ...], dimensions: dict[str, str], stem: str
) -> Entry:
    """Return the pair of an element of HPDv3 or HPDv3++."""
    votes = [number(cell) for cell in _list(row.get("choice_dist"))]
    counted = [vote for vote in votes if vote is not None]
    split = stem.partition("_")[0]
    known = {"model1", "model2", "confidence", "choice_dist", *PREFERRED}
    return Entry(
        text(row.get("prompt")),
        media,
        "a",
        probability=_probability(row.get("confidence")),
        votes=tuple(sorted(counted, reverse=True)) if len(counted) == 2 == len(votes) else None,
        models=each(row.get("model1"), row.get("model2")),
        dimensions=dimensions,
        id=id_,
        source="HPDv3++" if dimensions else "HPDv3",
        split=split if split in ("train", "test") else None,
        metadata={
            key: cell
            for key, cell in row.items()
            if key not in known and isinstance(cell, str | int | float | bool)
        },
    )


def _probability(cell: Any) -> float | None:
    """Return a confidence; None where nobody gave one, and what is refused where it is none."""
    if cell is None or cell == []:
        return None
    value = number(cell)
    return math.nan if value is None else value


def _axis(file: Path) -> str | None:
    return AXES.get(file.stem.partition("_")[2]) if file.stem in OWN else None


def _pairs_with(file: Path, other: Path) -> bool:
    """Tell whether two files are the two axes of one split."""
    one, two = file.stem.partition("_"), other.stem.partition("_")
    return one[0] == two[0] and {one[2], two[2]} == set(AXES)


def _judged(file: Path) -> dict[bytes, str]:
    """Return the pairs of a file, some 200 bytes each, with the image that was preferred."""
    return {
        _pair_key(row): str(row.get("path1"))
        for _, _, row in _rows(file)
        if not isinstance(row, Unusable)
    }


def _pair_key(row: Row) -> bytes:
    """Return what is the same for a pair whichever of its images is preferred."""
    paths = sorted((str(row.get("path1")), str(row.get("path2"))))
    written = json.dumps([text(row.get("prompt")), *paths])
    return hashlib.sha256(written.encode()).digest()[:16]


def _root(place: Path) -> Path:
    """Return the folder in which paths start, of a file or folder of the data set."""
    folder = place.parent if place.is_file() else place
    if folder.name in ("train", "test") and not (folder / "images").is_dir():
        return folder.parent
    return folder


def _files(place: Path, fields: set[str]) -> list[Path]:
    """Return the JSON files of a data set whose elements have some fields."""
    if place.is_file():
        found = [place]
    else:
        folders = [place, place / "train", place / "test"]
        found = [file for folder in folders for file in sorted(folder.glob("*.json*"))]
    return [
        file for file in found if file.suffix.lower() in SUFFIXES and fields <= _first(file).keys()
    ]


def _first(file: Path) -> Row:
    """Return the first element of a file; an empty one if it cannot be read."""
    try:
        return next((row for _, _, row in _rows(file) if isinstance(row, dict)), {})
    except DataError:
        return {}


def _rows(file: Path) -> Iterator[tuple[str, str, Row | Unusable]]:
    """Yield the elements of a file, each with its id and where it stands."""
    elements = elements_of(file) if file.suffix.lower() == ".json" else rows_of(file)
    for place, (where, row) in enumerate(elements):
        yield f"{file.stem}-{place}", where, row


def _list(cell: Any) -> list[Any]:
    return cell if isinstance(cell, list) else []


def _ranks(cell: Any) -> tuple[float, ...]:
    """Return ranks; what is no number is refused as what it is not."""
    ranks = (number(each) for each in _list(cell))
    return tuple(math.nan if rank is None else rank for rank in ranks)
