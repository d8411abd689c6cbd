"""The one layout in which preference data are kept: Parquet shards with a manifest.

One schema serves pictures and clips, pairs, ranked lists and single samples. Media stand in the
rows or, where asked for, stay files. Opening reads labels alone; the rest is read when asked for.
"""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.columns import Ties
from vipo_cli.data.entry import KINDS, Entry, Label, record_of, why_left_out
from vipo_cli.data.lazy import LazyRecords
from vipo_cli.data.prompts import refuse_nothing
from vipo_cli.data.record import Kind, Record
from vipo_cli.data.regions import RegionMap
from vipo_cli.data.row_groups import RowGroups, groups_of, read_columns, read_medium
from vipo_cli.errors import DataError
from vipo_cli.media import Media, content_hash, media_bytes
from vipo_cli.run import fingerprint, unwritable, write_json

SCHEMA = 1
"""Raised whenever the columns change."""
MANIFEST = "manifest.json"
STATE = "import.json"
"""What stands in a folder that is not complete yet: how far it has come."""
GROUP_BYTES = 16 * 2**20
"""Of media in a row group, which is read whole for the sake of one of its rows."""
GROUP_ROWS = 4096
SHARD_BYTES = 500 * 10**6
"""Above which no row group is added to a shard, so that none grows beyond 512 MiB."""


def schema() -> Any:
    """Return the Arrow schema of entries."""
    import pyarrow as pa

    medium = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [
        ("prompt", pa.string()),
        ("media", pa.list_(medium)),
        ("media_hash", pa.list_(pa.string())),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("votes", pa.list_(pa.float64())),
        ("ranks", pa.list_(pa.float64())),
        ("weight", pa.float64()),
        ("annotator", pa.string()),
        ("models", pa.list_(pa.string())),
        ("dimensions", pa.map_(pa.string(), pa.string())),
        ("scores", pa.map_(pa.string(), pa.list_(pa.float64()))),
        ("category", pa.string()),
        ("seeds", pa.list_(pa.int64())),
        ("noise_seeds", pa.list_(pa.int64())),
        ("regions", pa.list_(medium)),
        ("id", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("metadata", pa.string()),
    ]
    return pa.schema(columns, metadata={"vipo.schema": str(SCHEMA)})


class Store:
    """A folder of shards that grows, and can be gone on with after the process was killed.

    A shard is written whole, and what the folder holds is noted after each. What was taken on since
    is lost with the process; `taken` says from where in the source to go on.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, Any], *, state: Any = None, link: bool = False
    ) -> None:
        """Begin a folder, or go on with one.

        Args:
            folder: where the shards go.
            about: where the entries come from, as JSON; what was begun must be about the same.
            state: what changes whenever the source does, as JSON; not in the manifest.
            link: leave media that are files where they are.

        Raises:
            DataError: the folder holds something else.
        """
        self.folder = folder
        self._about = dict(about)
        self._state = state
        self._link = link
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._shard: _Shard | None = None
        found = self._found()
        self._shards: list[dict[str, Any]] = found.get("shards", [])
        self.taken: int = found.get("taken", 0)
        self.labels: Counter[Label] = Counter(found.get("labels", {}))
        self.left_out: Counter[str] = Counter(found.get("left_out", {}))
        self._seen = self.taken

    def _found(self) -> dict[str, Any]:
        if (self.folder / MANIFEST).is_file():
            raise DataError(
                f"`{self.folder}` holds a data set already",
                hint=f"choose another folder, or remove it: rm -r {self.folder}",
            )
        if not (self.folder / STATE).is_file():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise DataError(f"`{self.folder}` is not empty", hint="choose another folder")
            return {}
        found: dict[str, Any] = json.loads((self.folder / STATE).read_text())
        if [found["about"], found["state"]] != json.loads(json.dumps([self._about, self._state])):
            raise DataError(
                f"`{self.folder}` holds the beginning of another data set, or the source changed",
                hint=f"choose another folder, or remove it: rm -r {self.folder}",
            )
        for file in self.folder.glob("*.parquet"):
            if file.name not in {shard["file"] for shard in found["shards"]}:
                file.unlink()  # written, but not noted: it is made again
        return found

    def add(self, entry: Entry) -> None:
        """Take an entry on.

        Raises:
            DataError: a medium cannot be read.
        """
        row = _row(entry, self.folder if self._link else None)
        self._rows.append(row)
        self.labels[entry.label] += 1
        self._bytes += sum(len(medium["bytes"] or b"") for medium in row["media"])
        if self._bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._write_group()

    @property
    def kinds(self) -> set[Kind]:
        """What records its entries can become."""
        return {KINDS[label] for label in self.labels}

    def leave_out(self, reason: str) -> None:
        """Count something in the source that is no entry."""
        self.left_out[reason] += 1

    def passed(self) -> None:
        """Say that one more thing in the source has been dealt with."""
        self._seen += 1
        if self._shard is not None and self._shard.bytes + self._bytes >= SHARD_BYTES:
            self._write_group()
            self._finish_shard()

    def close(self) -> None:
        """Write what is left and the manifest; the folder is a data set from then on."""
        self._write_group()
        if self._shard is not None:
            self._finish_shard()
        manifest = {
            "schema": SCHEMA,
            "kind": next(iter(self.kinds), None),
            "entries": sum(self.labels.values()),
            "labels": dict(sorted(self.labels.items())),
            "left_out": dict(sorted(self.left_out.items())),
            "from": self._about,
            "shards": self._shards,
        }
        write_json(self.folder / MANIFEST, manifest)
        (self.folder / STATE).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what was written."""
        if self._shard is not None:
            self._shard.discard()
        for shard in self._shards:
            (self.folder / shard["file"]).unlink(missing_ok=True)
        (self.folder / STATE).unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or something else is in it
            self.folder.rmdir()

    def _write_group(self) -> None:
        if not self._rows:
            return
        if self._shard is None:
            self._shard = _Shard(self.folder / f"part-{len(self._shards):05d}.parquet")
        self._shard.write(self._rows, self._bytes)
        self._rows, self._bytes = [], 0

    def _finish_shard(self) -> None:
        assert self._shard is not None
        self._shards.append(self._shard.finish())
        self._shard, self.taken = None, self._seen
        state = {
            "about": self._about,
            "state": self._state,
            "taken": self.taken,
            "labels": self.labels,
            "left_out": self.left_out,
            "shards": self._shards,
        }
        write_json(self.folder / STATE, state)


class _Shard:
    """A Parquet file on its way; it has its name once it is whole."""

    def __init__(self, file: Path) -> None:
        import pyarrow.parquet as pq

        self.bytes = 0
        self._entries = 0
        self._file = file
        self._temporary = file.with_name(f".{file.name}.tmp")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(
                self._temporary,
                schema(),
                compression=dict.fromkeys(_leaves(), "zstd"),  # pictures are compressed
                use_dictionary=[column for column in _leaves() if column != "prompt"],
                write_statistics=False,
            )
        except OSError as error:
            raise unwritable(file, error) from error

    def write(self, rows: Sequence[dict[str, Any]], media: int) -> None:
        """Write a row group.

        Args:
            rows: by column.
            media: how many bytes of media they hold.
        """
        import pyarrow as pa

        try:
            self._writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema()))
        except OSError as error:
            raise unwritable(self._file, error) from error
        self.bytes += media
        self._entries += len(rows)

    def discard(self) -> None:
        """Remove the file."""
        self._writer.close()
        self._temporary.unlink(missing_ok=True)

    def finish(self) -> dict[str, Any]:
        """Give the file its name; return what a manifest says of it."""
        try:
            self._writer.close()
            with self._temporary.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                os.fsync(stream.fileno())
            self._temporary.replace(self._file)
        except OSError as error:
            raise unwritable(self._file, error) from error
        size = self._file.stat().st_size
        return {
            "file": self._file.name,
            "entries": self._entries,
            "bytes": size,
            "sha256": digest,
        }


def _leaves() -> list[str]:
    """Return the columns but those of bytes, as Parquet names them."""
    lists = ("votes", "ranks", "models", "seeds", "noise_seeds", "media_hash")
    maps = ("dimensions.key_value.key", "dimensions.key_value.value", "scores.key_value.key")
    within = ("scores.key_value.value.list.element", "media.list.element.path")
    plain = [field.name for field in schema() if not _nested(field.type)]
    return [*plain, *(f"{name}.list.element" for name in lists), *maps, *within]


def _nested(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_nested(kind))


def _row(entry: Entry, link: Path | None) -> dict[str, Any]:
    """Return the cells of an entry.

    Args:
        entry: what they say.
        link: the folder to which the paths of files are relative; None puts them into the cells.
    """
    media, hashes = zip(*(_cell(medium, link) for medium in entry.media), strict=True)
    regions = entry.regions
    return {
        "prompt": entry.prompt,
        "media": media,
        "media_hash": hashes,
        "label": entry.label,
        "probability": entry.probability,
        "votes": entry.votes,
        "ranks": entry.ranks,
        "weight": entry.weight,
        "annotator": entry.annotator,
        "models": entry.models,
        "dimensions": sorted(entry.dimensions.items()),
        "scores": sorted(entry.scores.items()),
        "category": entry.category,
        "seeds": entry.seeds,
        "noise_seeds": entry.noise_seeds,
        "regions": regions and [None if each is None else _map_cell(each) for each in regions],
        "id": entry.id,
        "source": entry.source,
        "split": entry.split,
        "metadata": json.dumps(entry.metadata, sort_keys=True, default=str)
        if entry.metadata
        else None,
    }


def _cell(medium: Media, link: Path | None) -> tuple[dict[str, Any], str]:
    """Return the cell of a medium, and its name by content."""
    data = media_bytes(medium)
    if link is None or isinstance(medium, bytes):
        return {"bytes": data, "path": None}, content_hash(data)
    return {"bytes": None, "path": os.path.relpath(medium, link)}, content_hash(data)


def _map_cell(region: RegionMap) -> dict[str, Any]:
    if isinstance(region, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, region)
        return {"bytes": buffer.getvalue(), "path": None}
    return {"bytes": media_bytes(region), "path": None}


def is_stored(place: Path) -> bool:
    """Tell whether a folder holds a data set in this layout.

    Raises:
        DataError: only its beginning.
    """
    if (place / STATE).is_file():
        raise DataError(
            f"`{place}` is not complete: its import was interrupted",
            hint="run the same `vipo data import` again; it goes on where it was",
        )
    return (place / MANIFEST).is_file()


def open_stored(folder: Path, limit: int | None = None, ties: Ties = "drop") -> "StoredRecords":
    """Open a folder of shards; labels are read, prompts and media are not.

    Raises:
        DataError: the folder is not complete, its manifest is damaged, or nothing is left.
    """
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        wanted = {shard["file"]: (shard["bytes"], shard["entries"]) for shard in manifest["shards"]}
        total = manifest["entries"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"`{folder / MANIFEST}` is damaged: {error}") from error
    files = [folder / name for name in wanted]
    wrong = [
        file.name
        for file in files
        if not file.is_file() or file.stat().st_size != wanted[file.name][0]
    ]
    if wrong:
        raise DataError(
            f"`{folder}` is not what its manifest says: {len(wrong):,} of {len(files):,} shards "
            "are missing or of another size",
            details=wrong[:5],
            hint="copy or import the data set again",
        )
    try:
        footers = [pq.read_metadata(file) for file in files]
        labels = read_columns(files, ["label"]).column("label") if files else []
    except (ArrowException, OSError) as error:
        raise DataError(f"`{folder}` is damaged: {error}") from error
    groups, rows = groups_of(files, footers, [folder] * len(files))
    if rows != total:
        raise DataError(f"`{folder}` holds {rows:,} entries, not the {total:,} of its manifest")
    return _opened(RowGroups(groups), labels, folder, limit, ties)


def _opened(
    stored: RowGroups, labels: Any, folder: Path, limit: int | None, ties: Ties
) -> "StoredRecords":
    """Choose the rows that take part in training."""
    found = labels.combine_chunks().dictionary_encode() if len(labels) else None
    names: list[Label] = found.dictionary.to_pylist() if found is not None else []
    codes = found.indices.to_numpy() if found is not None else np.zeros(0, np.int64)
    reasons = {code: why_left_out(label, ties) for code, label in enumerate(names)}
    dropped = {reason: int((codes == code).sum()) for code, reason in reasons.items() if reason}
    usable = np.array([not reasons[code] for code in range(len(names))], bool)
    rows = np.flatnonzero(usable[codes]) if len(codes) else np.zeros(0, np.int64)
    if not len(rows):
        kind = KINDS[names[0]] if names else "pair"
        refuse_nothing(folder, kind, len(codes), dropped)
    return StoredRecords(stored, rows[:limit], dropped)


class StoredRecords(LazyRecords):
    """Records in shards of the one layout."""

    def __init__(
        self, stored: RowGroups, rows: NDArray[np.int64], dropped: Mapping[str, int]
    ) -> None:
        self._stored = stored
        self._rows = rows
        self.dropped = dropped

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def fingerprint(self) -> str:
        """Name the records by their files, without reading them, and by which rows they are."""
        return fingerprint([self._stored.state(), content_hash(self._rows.tobytes())])

    def entry(self, index: int) -> Entry:
        """Read one entry, with all that its source said."""
        return entry_in(*self._stored.row(int(self._rows[index])))

    def record(self, index: int) -> Record:
        """Read one record."""
        return record_of(self.entry(index))

    def prompts(self) -> list[str]:
        """Return all prompts without reading any media."""
        prompts: list[str] = self._column("prompt").take(self._rows).to_pylist()
        return prompts

    def prompt_numbers(self) -> NDArray[np.int64]:
        """Return a number for each record that is the same where the prompt is."""
        codes = self._column("prompt").combine_chunks().dictionary_encode().indices.to_numpy()
        return np.asarray(codes, np.int64)[self._rows]

    def _column(self, name: str) -> Any:
        return read_columns(self._stored.files, [name]).column(name)


def entry_in(row: Mapping[str, Any], folder: Path) -> Entry:
    """Return the entry that the cells of a row hold.

    Args:
        row: its cells by column.
        folder: where the paths in them start.
    """
    cells = dict(row)
    media = tuple(read_medium(cell, folder) or b"" for cell in cells.pop("media"))
    regions = cells.pop("regions")
    del cells["media_hash"]
    for name in ("votes", "ranks", "models", "seeds", "noise_seeds"):
        cells[name] = None if cells[name] is None else tuple(cells[name])
    cells["dimensions"] = dict(cells["dimensions"] or ())
    cells["scores"] = {name: tuple(values) for name, values in cells["scores"] or ()}
    cells["metadata"] = json.loads(cells["metadata"] or "{}")
    maps = None if regions is None else tuple(read_medium(cell, folder) for cell in regions)
    return Entry(media=media, regions=maps, **cells)


def entries_in(folder: Path, start: int = 0) -> Iterator[Entry]:
    """Yield all entries of a data set in order, those without a label too."""
    import pyarrow.parquet as pq

    manifest = json.loads((folder / MANIFEST).read_text())
    for shard in manifest["shards"]:
        with pq.ParquetFile(folder / shard["file"], memory_map=True) as file:
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                if start >= rows:
                    start -= rows
                    continue
                for row in file.read_row_group(number, use_threads=False).to_pylist()[start:]:
                    yield entry_in(row, folder)
                start = 0
