"""Write preference data in layouts that other programs read; what is imported again is the same.

Pairs keep the order in which their media were shown: columns a, b and label. Single samples have
the columns image and liked, ranked lists media and ranks. What else is said has the names by which
the importer of tables knows it.
"""

import csv
import io
import json
import math
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vipo_cli.data.entry import Entry, entry_of
from vipo_cli.data.importers.files import MEDIA
from vipo_cli.data.record import Kind, Record
from vipo_cli.data.regions import NUMPY, RegionMap
from vipo_cli.data.row_groups import read_columns
from vipo_cli.data.stored import entries_in, read_manifest
from vipo_cli.data.usable import kind_of
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash, media_bytes
from vipo_cli.run import Progress, Work, writing

Layout = Literal["parquet", "csv", "jsonl", "folders", "webdataset"]

PLAIN = ("id", "probability", "weight", "annotator", "category", "source", "split")
NAMED = ("dimensions", "scores", "metadata")
EACH = {
    "models": "model",
    "votes": "votes",
    "seeds": "seed",
    "noise_seeds": "noise_seed",
    "regions": "region",
}
"""What is said of each medium, and how the columns of a pair begin that say it."""
FURTHER = (*PLAIN, *NAMED, *EACH, "ranks")
HELD: dict[Layout, tuple[str, ...]] = {
    "parquet": FURTHER,
    "csv": FURTHER,
    "jsonl": FURTHER,
    "folders": ("id",),
    "webdataset": tuple(name for name in FURTHER if name != "regions"),
}
"""Of the fields that not every entry has, those that a layout can hold."""
SHARD_BYTES = 500 * 10**6
GROUP_BYTES = 16 * 2**20
GROUP_ROWS = 1000
MOST_MEDIA = 63
"""Of a list in one WebDataset sample, which has another file for what is said of them."""
SIGNATURES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"\x1aE\xdf\xa3", ".webm"),
    (NUMPY, ".npy"),
)
"""How the bytes of media begin, and how the names of their files end."""
SAFE = re.compile(r"(?![. ])[^\x00-\x1f<>:\"/\\|?*]{1,100}(?<![. ])")
"""A name of a file on any system."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported.

    Attributes:
        kind: of its entries.
        count: of them.
        said: fields that any of them may have, beyond prompt, media and label.
        entries: yields them.
    """

    kind: Kind
    count: int
    said: frozenset[str]
    entries: Callable[[], Iterator[Entry]]


@dataclass
class Exported:
    """What an export wrote.

    Attributes:
        folder: where.
        entries: how many.
        left_out: of the others, how many, by reason.
        lost: fields that the layout cannot hold, and in how many entries they said something.
    """

    folder: Path
    entries: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)


def source_of_stored(folder: Path, limit: int | None = None) -> Source:
    """Return all entries of a data set, those without a label too.

    Raises:
        DataError: it is damaged.
    """
    manifest = read_manifest(folder)
    files = [folder / shard["file"] for shard in manifest["shards"]]
    said = frozenset(name for name in FURTHER if any(_says_anything(file, name) for file in files))
    count = manifest["entries"] if limit is None else min(limit, manifest["entries"])

    def entries() -> Iterator[Entry]:
        for _, entry in zip(range(count), entries_in(folder), strict=False):
            yield entry

    return Source(manifest["kind"] or "pair", count, said, entries)


def _says_anything(file: Path, name: str) -> bool:
    column = read_columns([file], [name]).column(name)
    if name == "weight":
        return bool((column.to_numpy() != 1).any())
    return bool(column.null_count < len(column))


def source_of_records(records: Sequence[Record]) -> Source:
    """Return the entries that records are."""
    said = frozenset((*PLAIN, "metadata", "noise_seeds", "regions"))
    return Source(kind_of(records), len(records), said, lambda: map(entry_of, records))


def export_data(source: Source, layout: Layout, folder: Path) -> Work[Exported]:
    """Write entries into a folder; a failure leaves none.

    Raises:
        DataError: there is something in the folder already, the layout cannot hold the entries, or
            not one of them could be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"`{folder}` is there already", hint="choose another folder")
    if layout == "folders" and source.kind != "pair":
        raise DataError(
            f"folders hold pairs, and the data set holds {source.kind}s",
            hint="choose another layout: --to jsonl",
        )
    done = Exported(folder)
    with writing(folder) as temporary:
        temporary.mkdir()
        with closing(WRITERS[layout](temporary, source)) as writer:
            for number, entry in enumerate(source.entries()):
                if number % 100 == 0:
                    yield Progress("exporting", number, source.count)
                _take(entry, writer.write, layout, done)
        if not done.entries:
            reasons = [f"{count:,}: {reason}" for reason, count in done.left_out.items()]
            raise DataError("there is nothing to export", details=reasons)
    yield Progress("exporting", source.count, source.count)
    return done


def _take(entry: Entry, write: Callable[[Entry], None], layout: Layout, done: Exported) -> None:
    try:
        write(entry)
    except DataError as error:
        done.left_out[error.message] += 1
        return
    done.entries += 1
    for name in FURTHER:
        if name not in HELD[layout] and getattr(entry, name) not in (None, {}, 1.0):
            done.lost[name] += 1
    if layout == "folders" and entry.label == "b":
        done.lost["the order in which the media were shown"] += 1


class _Lines:
    """One JSON-lines file, with the media beside it."""

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder, self._said = folder, source.said
        self._stream = (folder / "data.jsonl").open("w", encoding="utf-8")

    def write(self, entry: Entry) -> None:
        row = _row(entry, self._said, partial(_place, self._folder))
        self._stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        self._stream.close()


class _Csv:
    """One CSV file, with the media beside it; what is no text or number is JSON in its cell."""

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder, self._said = folder, source.said
        self._stream = (folder / "data.csv").open("w", encoding="utf-8", newline="")
        self._table: Any = None

    def write(self, entry: Entry) -> None:
        row = _row(entry, self._said, partial(_place, self._folder))
        if self._table is None:
            self._table = csv.DictWriter(self._stream, list(row))
            self._table.writeheader()
        nested = (list, dict, bool)
        self._table.writerow(
            {
                name: json.dumps(cell, ensure_ascii=False, default=str)
                if isinstance(cell, nested)
                else cell
                for name, cell in row.items()
            }
        )

    def close(self) -> None:
        self._stream.close()


class _Parquet:
    """Shards with plain columns; media are structs of bytes and path, as the hub has them."""

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder, self._said = folder, source.said
        self._schema = _parquet_schema(source)
        self._rows: list[dict[str, Any]] = []
        self._group = self._shard = self._shards = 0
        self._writer: Any = None

    def write(self, entry: Entry) -> None:
        sizes: list[int] = []

        def cell(medium: RegionMap) -> dict[str, Any]:
            data = _bytes(medium)
            sizes.append(len(data))
            return {"bytes": data, "path": content_hash(data) + _suffix(data)}

        row = _row(entry, self._said, cell)
        for name in NAMED:
            if row.get(name) is not None:
                row[name] = json.dumps(row[name], ensure_ascii=False, default=str)
        self._rows.append(row)
        self._group += sum(sizes)
        if self._group >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows:
            return
        if self._writer is None or self._shard + self._group > SHARD_BYTES:
            self._finish()
            file = self._folder / f"part-{self._shards:05d}.parquet"
            self._writer = pq.ParquetWriter(file, self._schema, write_page_checksum=True)
            self._shards, self._shard = self._shards + 1, 0
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._shard, self._group, self._rows = self._shard + self._group, 0, []

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def close(self) -> None:
        self._flush()
        self._finish()


class _Folders:
    """The folders winner/ and loser/, and prompts.csv; ties have no place there."""

    def __init__(self, folder: Path, source: Source) -> None:
        del source
        self._folder = folder
        self._stream = (folder / "prompts.csv").open("w", encoding="utf-8", newline="")
        self._table = csv.writer(self._stream)
        self._table.writerow(["name", "prompt"])
        self._taken: set[str] = set()

    def write(self, entry: Entry) -> None:
        if entry.label not in ("a", "b"):
            what = {"tie": "ties", "none": "pairs without a label"}[entry.label]
            raise DataError(f"{what} have no place in folders")
        media = [_bytes(medium) for medium in entry.media]
        suffixes = [_known_suffix(data) for data in media]
        name = self._name(entry.id)
        order = (0, 1) if entry.label == "a" else (1, 0)
        for side, place in zip(("winner", "loser"), order, strict=True):
            file = self._folder / side / f"{name}{suffixes[place]}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(media[place])
        self._table.writerow([name, entry.prompt])

    def _name(self, wanted: str | None) -> str:
        """Return a name that no other pair has: that of the entry, or a number."""
        parts = (wanted or "").split("/")
        ending = f".{parts[-1].rpartition('.')[2].lower()}"
        if not all(map(SAFE.fullmatch, parts)) or len(parts) > 8 or ending in MEDIA:
            wanted = None
        name = wanted or f"{len(self._taken):08d}"
        while name.lower() in self._taken:
            name = f"{name}-{len(self._taken):08d}"
        self._taken.add(name.lower())
        return name

    def close(self) -> None:
        self._stream.close()


class _Tar:
    """WebDataset shards: KEY.a.jpg and KEY.b.jpg, KEY.0.jpg and so on, or KEY.jpg; and KEY.json."""

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder, self._said = folder, source.said
        self._tar: tarfile.TarFile | None = None
        self._size = self._shards = self._samples = 0

    def write(self, entry: Entry) -> None:
        ends = {
            "pair": [".a", ".b"],
            "labelled sample": [""],
            "ranked list": [f".{place}" for place in range(len(entry.media))],
        }[entry.kind]
        if len(ends) > MOST_MEDIA:
            raise DataError(f"lists of more than {MOST_MEDIA} media have no place in a sample")
        media = [_bytes(medium) for medium in entry.media]
        files = {end + _known_suffix(data): data for end, data in zip(ends, media, strict=True)}
        said = {name: _json_value(getattr(entry, name)) for name in self._held()}
        about = {"prompt": entry.prompt, "label": entry.label, **said}
        files[".json"] = json.dumps(about, ensure_ascii=False, default=str).encode()
        if self._tar is None or self._size > SHARD_BYTES:
            self.close()
            file = self._folder / f"shard-{self._shards:05d}.tar"
            self._tar = tarfile.open(file, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._shards, self._size = self._shards + 1, 0
        for end, data in files.items():
            info = tarfile.TarInfo(f"{self._samples:09d}{end}")  # the same date, owner and rights
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
            self._size += len(data)
        self._samples += 1

    def _held(self) -> Iterator[str]:
        return (name for name in HELD["webdataset"] if name in self._said or name == "id")

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()


WRITERS: dict[Layout, Callable[[Path, Source], Any]] = {
    "jsonl": _Lines,
    "csv": _Csv,
    "parquet": _Parquet,
    "folders": _Folders,
    "webdataset": _Tar,
}


def _row(entry: Entry, said: Collection[str], cell: Callable[[RegionMap], Any]) -> dict[str, Any]:
    """Return what an entry says by column; those of `said` are there even if it says nothing.

    Args:
        entry: what to write.
        said: fields of which there are columns.
        cell: makes a cell of a medium.
    """
    media = [cell(medium) for medium in entry.media]
    row: dict[str, Any] = {"prompt": entry.prompt}
    if entry.kind == "pair":
        row |= {"a": media[0], "b": media[1], "label": entry.label}
    elif entry.kind == "ranked list":
        row |= {"media": media, "label": entry.label}
        row |= {"ranks": _json_value(entry.ranks)} if "ranks" in said else {}
    else:
        row |= {"image": media[0], "liked": entry.label == "liked"}
    for name, single in EACH.items():
        if name not in said:
            continue
        values = getattr(entry, name)
        if name == "regions" and values is not None:
            values = [None if each is None else cell(each) for each in values]
        if entry.kind == "pair":
            row |= zip((f"{single}_a", f"{single}_b"), values or (None, None), strict=True)
        else:
            row[name] = _json_value(values)
    row |= {name: getattr(entry, name) for name in PLAIN if name in said}
    return row | {name: _json_value(getattr(entry, name)) for name in NAMED if name in said}


def _json_value(value: Any) -> Any:
    """Return a value as JSON has it; what is empty says nothing."""
    if isinstance(value, Mapping):
        return {name: _json_value(each) for name, each in value.items()} or None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value


def _parquet_schema(source: Source) -> Any:
    import pyarrow as pa

    medium = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    types = {
        "models": pa.string(),
        "votes": pa.float64(),
        "seeds": pa.int64(),
        "noise_seeds": pa.int64(),
        "regions": medium,
    }
    columns: list[tuple[str, Any]] = [("prompt", pa.string())]
    if source.kind == "pair":
        columns += [("a", medium), ("b", medium), ("label", pa.string())]
    elif source.kind == "ranked list":
        columns += [("media", pa.list_(medium)), ("label", pa.string())]
        columns += [("ranks", pa.list_(pa.float64()))] if "ranks" in source.said else []
    else:
        columns += [("image", medium), ("liked", pa.bool_())]
    for name, single in EACH.items():
        if name in source.said and source.kind == "pair":
            columns += [(f"{single}_{side}", types[name]) for side in "ab"]
        elif name in source.said:
            columns.append((name, pa.list_(types[name])))
    numbers = ("probability", "weight")
    for name in (*PLAIN, *NAMED):
        if name in source.said:
            columns.append((name, pa.float64() if name in numbers else pa.string()))
    return pa.schema(columns)


def _place(folder: Path, medium: RegionMap) -> str:
    """Write a medium into a folder under the name of its content, once; return its path there."""
    data = _bytes(medium)
    name = content_hash(data)
    file = Path("media") / name[:2] / (name + _suffix(data))
    if not (folder / file).exists():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
    return file.as_posix()


def _bytes(medium: RegionMap) -> bytes:
    if isinstance(medium, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, medium)
        return buffer.getvalue()
    try:
        return media_bytes(medium)
    except DataError as error:
        raise DataError("a medium cannot be read") from error


def _suffix(data: bytes) -> str:
    """Return how the name of a file with some bytes ends."""
    if data[:4] == b"RIFF" and data[8:12] in (b"WEBP", b"AVI "):
        return ".webp" if data[8:12] == b"WEBP" else ".avi"
    if data[4:8] == b"ftyp":
        return ".mov" if data[8:10] == b"qt" else ".mp4"
    return next((suffix for start, suffix in SIGNATURES if data.startswith(start)), ".bin")


def _known_suffix(data: bytes) -> str:
    """Return how the name of a medium ends.

    Raises:
        DataError: it would not be known for one.
    """
    if (suffix := _suffix(data)) not in MEDIA:
        raise DataError("media of an unknown format have no place where names tell what they are")
    return suffix
