"""From a registered name, a path or a hub id to preference data."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from vipo_cli.data import datasets
from vipo_cli.data.columns import Ties
from vipo_cli.data.hub_files import HUB_ID, hub_folder
from vipo_cli.data.lazy import LazyRecords
from vipo_cli.data.listing import open_folders, open_table
from vipo_cli.data.parquet import open_parquet
from vipo_cli.data.record import Record
from vipo_cli.data.stored import is_stored, open_stored
from vipo_cli.errors import DataError, MissingWeights, UnknownName, did_you_mean
from vipo_cli.registry import findings

PICKAPIC = "yuvalkirstain/pickapic_v2"
TABLES = (".csv", ".jsonl")
READABLE = (
    "data come as .parquet, .csv or .jsonl, as a folder with winner/ and loser/, or imported from\n"
    "many other layouts: vipo data import SOURCE --out DIR"
)
SPLIT = re.compile(r"(train|validation|test)(_unique)?")

Split = Annotated[str, Field(description="Which split, where the files are named after splits.")]
Limit = Annotated[int | None, Field(ge=1, description="Take the first so many records.")]
KeptTies = Annotated[
    Ties,
    Field(
        description="Pairs with equal labels or votes: drop leaves them out, keep gives them the "
        "probability 0.5."
    ),
]


def open_pairs(name: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Record]:
    """Open a registered data set, a path or a hub id.

    Raises:
        UnknownName: none of the three.
        DataError: parameters that the source does not take, or data that cannot be used as it is.
        MissingWeights: data that are neither on this machine nor to be had from here.
    """
    entry, own = find_source(name)
    return datasets[entry](**_checked(entry, name, dict(parameters or {}) | own))


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
) -> Sequence[Record]:
    """Data of your own: Parquet, CSV, JSON lines, or the folders winner/ and loser/."""
    place = Path(path).expanduser()
    if place.is_dir():
        return _open_folder(place, split, limit, ties)
    if place.suffix in TABLES and place.is_file():
        return open_table(place, limit, ties)
    found = [place] if place.is_file() else _matching(path)
    if not found:
        raise DataError(f"no such file or folder: `{path}`", hint=READABLE)
    if wrong := [file for file in found if file.suffix != ".parquet"]:
        raise DataError(f"cannot read `{wrong[0]}` as preference data", hint=READABLE)
    return open_parquet(found, limit, ties)


def hub(
    *,
    repo: Annotated[str, Field(description="Its id in the Hugging Face hub, OWNER/NAME.")],
    split: Split = "train",
    limit: Limit = None,
    ties: KeptTies = "drop",
    revision: Annotated[str | None, Field(description="A branch, tag or commit of it.")] = None,
) -> Sequence[Record]:
    """Parquet, CSV or JSON-lines files of a Hugging Face data set."""
    return _open_folder(hub_folder(repo, revision), split, limit, ties)


def pickapic_v2(
    *,
    path: Annotated[str | None, Field(description="Folder of its Parquet files.")] = None,
    split: Split = "train",
    limit: Limit = None,
    ties: KeptTies = "drop",
) -> Sequence[Record]:
    """Pick-a-Pic v2: 851,293 pairs of pictures judged by people, over 58,960 prompts."""
    if path is not None:
        return files(path=path, split=split, limit=limit, ties=ties)
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
    return _open_folder(folder, split, limit, ties)


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or Path(name).suffix in (".parquet", *TABLES)


def _matching(pattern: str) -> list[Path]:
    """Return the files that a pattern names; none for a name without wildcards."""
    place = Path(pattern).expanduser()
    if not any(mark in pattern for mark in "*?["):
        return []
    root = Path(place.anchor)
    return sorted(root.glob(str(place.relative_to(root))))


def _open_folder(folder: Path, split: str, limit: int | None, ties: Ties) -> LazyRecords:
    """Open what a folder holds: Parquet files of a split, two folders of media, or a table."""
    if is_stored(folder):
        return open_stored(folder, limit, ties)
    if (folder / "winner").is_dir() and (folder / "loser").is_dir():
        return open_folders(folder, limit)
    if found := sorted(folder.rglob("*.parquet")):
        return open_parquet(_of_split(folder, found, split), limit, ties)
    tables = sorted(file for file in folder.iterdir() if file.suffix in TABLES)
    if len(tables) == 1:
        return open_table(tables[0], limit, ties)
    what = f"{len(tables)} tables: which one?" if tables else "nothing that holds pairs"
    raise DataError(
        f"`{folder}` holds {what}",
        details=[str(file) for file in tables[:5]],
        hint="a folder holds Parquet files, one .csv or .jsonl file, or winner/ and loser/;\n"
        f"other layouts: vipo data import {folder} --out DIR",
    )


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
