"""From a registered name, a path or a hub id to preference data."""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from vipo_cli.data import datasets
from vipo_cli.data.columns import Ties
from vipo_cli.data.hub_files import HUB_ID, hub_folder
from vipo_cli.data.imported import imported
from vipo_cli.data.importers.files import TABLES, tables_in
from vipo_cli.data.importers.folders import has_sides
from vipo_cli.data.lazy import LazyRecords
from vipo_cli.data.parquet import is_readable, open_parquet
from vipo_cli.data.record import Record
from vipo_cli.data.stored import SPLIT, is_stored, open_stored, read_manifest
from vipo_cli.errors import DataError, MissingWeights, UnknownName, did_you_mean
from vipo_cli.registry import findings
from vipo_cli.run import Work, finish

PICKAPIC = "yuvalkirstain/pickapic_v2"
READABLE = "vipo list importers names the layouts of files and folders that are understood"

Split = Annotated[
    str, Field(description="Which split, where files are named after splits or entries say theirs.")
]
Limit = Annotated[int | None, Field(ge=1, description="Take the first so many records.")]
KeptTies = Annotated[
    Ties,
    Field(
        description="Pairs with equal labels or votes: drop leaves them out, keep gives them the "
        "probability 0.5."
    ),
]


def opening(name: str, parameters: Mapping[str, Any] | None = None) -> Work[Sequence[Record]]:
    """Open a registered data set, a path or a hub id.

    What is in a layout that can be imported is imported, the first time; its progress is yielded,
    and a warning whenever something in it is left out.

    Raises:
        UnknownName: none of the three.
        DataError: parameters that the source does not take, or data that cannot be used as it is.
        MissingWeights: data that are neither on this machine nor to be had from here.
    """
    entry, own = find_source(name)
    found = datasets[entry](**_checked(entry, name, dict(parameters or {}) | own))
    if isinstance(found, Generator):
        found = yield from found
    return found


def open_pairs(name: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Record]:
    """Open a data set as `opening` does, without a word of how it goes."""
    return finish(opening(name, parameters))


def find_source(name: str) -> tuple[str, dict[str, str]]:
    """Return the registered data set that a name stands for, and what the name says of it.

    Raises:
        UnknownName: neither a registered name nor a path nor a hub id.
    """
    if name in datasets:
        return name, {}
    if Path(name).expanduser().exists() or _looks_like_path(name) or _matching(name):
        return "files", {"path": name}
    if HUB_ID.fullmatch(name):
        return "hub", {"repo": name}
    raise UnknownName("data set", name, datasets.names())


def files(
    *,
    path: Annotated[
        str, Field(description="A file, a folder, or a pattern such as 'data/*.parquet'.")
    ],
    split: Split = "train",
    limit: Limit = None,
    ties: KeptTies = "drop",
) -> Work[Sequence[Record]]:
    """Data of your own in any layout that can be imported: tables, folders, archives."""
    place = Path(path).expanduser()
    if place.exists():
        return (yield from _open(place, split, limit, ties))
    found = _matching(path)
    if not found:
        raise DataError(f"no such file or folder: `{path}`", hint=READABLE)
    if wrong := [file for file in found if file.suffix != ".parquet"]:
        raise DataError(
            f"`{path}` names `{wrong[0]}`, and a pattern is for Parquet files",
            hint="name one file, or the folder that holds them all",
        )
    return open_parquet(found, limit, ties)


def hub(
    *,
    repo: Annotated[str, Field(description="Its id in the Hugging Face hub, OWNER/NAME.")],
    split: Split = "train",
    limit: Limit = None,
    ties: KeptTies = "drop",
    revision: Annotated[str | None, Field(description="A branch, tag or commit of it.")] = None,
) -> Work[Sequence[Record]]:
    """A Hugging Face data set in any layout that can be imported; it is downloaded whole."""
    return (yield from _open(hub_folder(repo, revision, None), split, limit, ties))


def pickapic_v2(
    *,
    path: Annotated[str | None, Field(description="Folder of its Parquet files.")] = None,
    split: Split = "train",
    limit: Limit = None,
    ties: KeptTies = "drop",
) -> Work[Sequence[Record]]:
    """Pick-a-Pic v2: 851,293 pairs of pictures judged by people, over 58,960 prompts."""
    if path is not None:
        return (yield from files(path=path, split=split, limit=limit, ties=ties))
    try:
        folder = hub_folder(PICKAPIC)
    except MissingWeights as error:
        raise MissingWeights(
            "Pick-a-Pic v2 is not on this machine",
            details=[f"looked for `{PICKAPIC}` in the hub cache and the hub: {error.details[0]}"],
            hint="the set left the hub in spring 2025; put the Parquet files of a copy into a\n"
            "folder DIR (train-*.parquet, validation-*.parquet, test-*.parquet) and say\n"
            "--path DIR, or path=DIR among the parameters of the data set. Columns needed:\n"
            "caption, jpg_0, jpg_1, label_0, label_1, and has_label where there is one",
        ) from error
    return (yield from _open(folder, split, limit, ties))


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or Path(name).suffix in TABLES


def _matching(pattern: str) -> list[Path]:
    """Return the files that a pattern names; none for a name without wildcards."""
    place = Path(pattern).expanduser()
    if not any(mark in pattern for mark in "*?["):
        return []
    root = Path(place.anchor)
    return sorted(root.glob(str(place.relative_to(root))))


def _open(place: Path, split: str, limit: int | None, ties: Ties) -> Work[LazyRecords]:
    """Open what lies at a place, where it is if it can be read there, else as it is imported."""
    if place.is_dir() and is_stored(place):
        return open_stored(place, limit, ties)
    if found := _parquet_in(place):
        if place.is_dir():
            found = _of_split(place, found, split)
        return open_parquet(found, limit, ties)
    folder = yield from imported(place)
    records = open_stored(folder, limit, ties, split=split, called=place)
    records.unusable = read_manifest(folder)["left_out"]
    records.dropped = {**records.unusable, **records.dropped}
    return records


def _parquet_in(place: Path) -> list[Path]:
    """Return the Parquet files of a place that can be read as they are."""
    if place.is_dir() and has_sides(place):
        return []
    found = tables_in(place, (".parquet",))
    return found if found and is_readable(found[0]) else []


def _of_split(folder: Path, found: Sequence[Path], split: str) -> list[Path]:
    """Return the files of a split; files that are named after no split belong to each."""
    splits = {file: _split_of(file.relative_to(folder)) for file in found}
    chosen = [file for file in found if splits[file] in (None, split)]
    if not chosen:
        known = sorted({str(name) for name in splits.values()})
        raise DataError(
            f"no files of the split `{split}` in `{folder}`",
            hint=f"splits there: {', '.join(known)}; choose one with split=NAME",
        )
    return chosen


def _split_of(file: Path) -> str | None:
    names = (file.stem.partition("-")[0], *reversed(file.parent.parts))
    return next((name for name in names if SPLIT.fullmatch(name)), None)


def _checked(entry: str, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a data set after its own rules; all problems are told at once."""
    model = datasets.parameters(entry)
    try:
        valid = model(**parameters)
    except ValidationError as error:
        known = list(model.model_fields)
        problems = findings(error)
        unknown = [key for key, words in problems.items() if words is None]
        guess = did_you_mean(unknown[0], known) if unknown else ""
        raise DataError(
            f"the parameters of data set `{name}` are not valid",
            details=[f"{key}: {words or 'unknown parameter'}" for key, words in problems.items()],
            hint=f"{guess}it takes: {', '.join(known)}",
        ) from error
    return {key: getattr(valid, key) for key in model.model_fields}
