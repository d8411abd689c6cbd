"""Write preference data into the one layout in which they are kept: Parquet shards, a manifest.

One schema serves pictures and clips, pairs, ranked lists and single samples. Media stand in the
rows or, where asked for, stay files. Opening reads the manifest and a letter for each entry; the
rest is read when asked for. Pages have checksums, so that damage to a label is never taken for one.
"""

import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vipo_cli.data.entry import KINDS, Entry, Label
from vipo_cli.data.record import Kind
from vipo_cli.data.regions import RegionMap
from vipo_cli.data.row_groups import read_columns
from vipo_cli.errors import DataError
from vipo_cli.media import Media, content_hash, media_bytes
from vipo_cli.run import unwritable, write_json, writing

SCHEMA = 1
"""Raised whenever the columns change."""
MANIFEST = "manifest.json"
LOCK = ".lock"
"""Held by a process that writes the folder."""
STATE = "import.json"
"""What stands in a folder that is not complete yet: how far it has come."""
LABELS = "labels.txt"
"""A letter for each entry, in order: rows are chosen without a look into the shards."""
LETTERS: dict[Label, str] = {
    "a": "a",
    "b": "b",
    "tie": "t",
    "none": "n",
    "ranked": "r",
    "liked": "l",
    "disliked": "d",
    "candidates": "c",
}
GROUP_BYTES = 4 * 2**20
"""Of a row group, which is read whole for the sake of one of its rows."""
GROUP_ROWS = 4096
SHARD_BYTES = 128 * 2**20
"""Above which no row group is added to a shard; its footer is read for the sake of a row too."""
EXAMPLES = 5
"""Of what was left out for the same reason, whose places are noted."""
Link = bool | Literal["absolute"]
"""Whether media that are files stay where they are: named from the folder on, or from the root."""
LARGEST = 2**29
"""Bytes of a medium that is taken on, and half of what a row may hold."""
AGAIN = "copy or import the data set again"
UNFINISHED = re.compile(
    r"\.(part-\d{5}\.parquet|import\.json|manifest\.json|labels\.txt|dropped\.jsonl)\..*tmp"
)
"""Names of the files that a killed process leaves."""


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
    is lost with the process; `taken` says from where in the source to go on, `ends` where in it its
    parts end that were read whole, and `lacking` which files were needed and could not be read.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, Any], *, state: Any = None, link: Link = False
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
        self._letters = bytearray()
        self._shard: _Shard | None = None
        found = self._found()
        self._shards: list[dict[str, Any]] = found.get("shards", [])
        self.taken: int = found.get("taken", 0)
        self.labels: Counter[Label] = Counter(found.get("labels", {}))
        self.left_out: Counter[str] = Counter(found.get("left_out", {}))
        self.examples: dict[str, list[str]] = found.get("examples", {})
        self.ends: dict[str, int] = found.get("ends", {})
        self.lacking: list[str] = found.get("lacking", [])
        self._seen = self.taken
        if files := [folder / shard["file"] for shard in self._shards]:
            labels = read_columns(files, ["label"]).column("label").to_pylist()
            self._letters += "".join(LETTERS[label] for label in labels).encode()

    def _found(self) -> dict[str, Any]:
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"`{self.folder}` is a file", hint="choose another name for the folder")
        if (self.folder / MANIFEST).is_file():
            raise DataError(
                f"`{self.folder}` holds a data set already",
                hint=f"choose another folder, or remove it: rm -r {self.folder}",
            )
        files = self.folder.iterdir() if self.folder.exists() else ()
        there = [file for file in files if file.name != LOCK]
        unfinished = [file for file in there if UNFINISHED.fullmatch(file.name)]
        begun = (self.folder / STATE).is_file()
        if not begun and len(unfinished) < len(there):
            raise DataError(f"`{self.folder}` is not empty", hint="choose another folder")
        found = self._state_of_before() if begun else {"shards": []}
        noted = {shard["file"] for shard in found["shards"]}
        for file in (*unfinished, *self.folder.glob("part-*.parquet")):
            if file.name not in noted:
                file.unlink()  # a killed process left it: it is made again
        return found

    def _state_of_before(self) -> dict[str, Any]:
        file = self.folder / STATE
        try:
            found: dict[str, Any] = json.loads(file.read_text())
            same = [found["about"], found["state"]] == json.loads(
                json.dumps([self._about, self._state])
            )
            whole = all(
                (self.folder / shard["file"]).stat().st_size == shard["bytes"]
                for shard in found["shards"]
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"`{file}` is damaged: {error}",
                hint=f"remove the folder: rm -r {self.folder}",
            ) from error
        if not (same and whole):
            what = "holds the beginning of another data set, or the source changed"
            raise DataError(
                f"`{self.folder}` {what if whole else 'is damaged'}",
                hint=f"choose another folder, or remove it: rm -r {self.folder}",
            )
        return found

    def add(self, entry: Entry) -> None:
        """Take an entry on.

        Raises:
            DataError: a medium cannot be read.
        """
        row = _row(entry, self._link, self.folder)
        self._rows.append(row)
        self.labels[entry.label] += 1
        self._letters += LETTERS[entry.label].encode()
        self._bytes += _size(row)
        if self._bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._write_group()

    @property
    def kinds(self) -> set[Kind]:
        """What records its entries can become."""
        return {KINDS[label] for label in self.labels}

    def leave_out(self, reason: str, where: str = "") -> None:
        """Count something in the source that is no entry, and note where the first few are."""
        self.left_out[reason] += 1
        examples = self.examples.setdefault(reason, []) if where else []
        if where and len(examples) < EXAMPLES:
            examples.append(where)

    def lack(self, files: Sequence[Path]) -> None:
        """Note files that would be needed, and cannot be read."""
        self.lacking += map(str, files)

    def passed(self) -> None:
        """Say that one more thing in the source has been dealt with."""
        self._seen += 1
        if self._shard is not None and self._shard.bytes + self._bytes >= SHARD_BYTES:
            self._write_group()
            self._finish_shard()

    def ended(self, part: str) -> None:
        """Say that a part of the source has been dealt with whole: it need not be read again."""
        self.ends[part] = self._seen

    def flush(self) -> list[Path]:
        """Write what is left; return the shards, which are whole then."""
        self._write_group()
        if self._shard is not None:
            self._finish_shard()
        return [self.folder / shard["file"] for shard in self._shards]

    def close(self) -> None:
        """Write what is left and the manifest; the folder is a data set from then on."""
        self.flush()
        manifest = {
            "schema": SCHEMA,
            "kind": next(iter(self.kinds), None),
            "entries": sum(self.labels.values()),
            "labels": dict(sorted(self.labels.items())),
            "left_out": dict(sorted(self.left_out.items())),
            "examples": dict(sorted(self.examples.items())),
            "from": self._about,
            "shards": self._shards,
        }
        with writing(self.folder / LABELS) as temporary:
            temporary.write_bytes(self._letters)
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
            "examples": self.examples,
            "ends": self.ends,
            "lacking": self.lacking,
            "shards": self._shards,
        }
        write_json(self.folder / STATE, state)


class _Shard:
    """A Parquet file on its way; it has its name once it is whole."""

    def __init__(self, file: Path) -> None:
        import pyarrow.parquet as pq

        self.bytes = 0
        self._groups: list[int] = []
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
                write_page_checksum=True,
            )
        except OSError as error:
            raise unwritable(file, error) from error

    def write(self, rows: Sequence[dict[str, Any]], size: int) -> None:
        """Write a row group.

        Args:
            rows: by column.
            size: how many bytes they hold.
        """
        import pyarrow as pa

        try:
            self._writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema()))
        except OSError as error:
            raise unwritable(self._file, error) from error
        self.bytes += size
        self._groups.append(len(rows))

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
            "entries": sum(self._groups),
            "groups": self._groups,
            "bytes": size,
            "sha256": digest,
        }


def _size(row: Mapping[str, Any]) -> int:
    """Return about how many bytes a row takes."""
    media = (*row["media"], *(each for each in row["regions"] or () if each))
    text = len(row["prompt"]) + len(row["metadata"] or "")
    return text + sum(len(medium["bytes"] or b"") for medium in media)


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


def _row(entry: Entry, link: Link, folder: Path) -> dict[str, Any]:
    """Return the cells of an entry.

    Args:
        entry: what they say.
        link: whether they name files, or hold what these hold.
        folder: from which they may name them.

    Raises:
        DataError: a medium cannot be read, is empty or too large.
    """
    media, hashes = zip(*(_cell(medium, link, folder) for medium in entry.media), strict=True)
    regions = entry.regions
    if len(media) > 2 and sum(len(medium["bytes"] or b"") for medium in media) > 2 * LARGEST:
        raise DataError(f"{len(media)} media of more than {2 * LARGEST >> 20:,} MiB")
    return {
        "prompt": entry.prompt.strip(),
        "media": media,
        "media_hash": hashes,
        "label": entry.label,
        "probability": entry.probability,
        "votes": entry.votes,
        "ranks": entry.ranks,
        "weight": entry.weight,
        "annotator": entry.annotator,
        "models": entry.models,
        "dimensions": sorted(entry.dimensions.items()) or None,
        "scores": sorted(entry.scores.items()) or None,
        "category": entry.category,
        "seeds": entry.seeds,
        "noise_seeds": entry.noise_seeds,
        "regions": regions and [None if each is None else _map_cell(each) for each in regions],
        "id": entry.id,
        "source": entry.source,
        "split": entry.split,
        "metadata": _json(entry.metadata) if entry.metadata else None,
    }


def _json(metadata: Mapping[str, Any]) -> str:
    """Write metadata as JSON, in which a number that is none becomes null."""
    try:
        return json.dumps(metadata, sort_keys=True, default=str, allow_nan=False)
    except ValueError:
        lenient = json.dumps(metadata, default=str)
        return json.dumps(json.loads(lenient, parse_constant=lambda _: None), sort_keys=True)


def _cell(medium: Media, link: Link, folder: Path) -> tuple[dict[str, Any], str]:
    """Return the cell of a medium, and its name by content."""
    data = _checked_bytes(medium)
    if not link or isinstance(medium, bytes):
        return {"bytes": data, "path": None}, content_hash(data)
    # where the folder really lies, `..` leads elsewhere
    path = str(Path(os.path.realpath(medium.parent)) / medium.name)
    if link != "absolute":
        path = os.path.relpath(path, os.path.realpath(folder))
    return {"bytes": None, "path": path}, content_hash(data)


def _checked_bytes(medium: Media) -> bytes:
    try:
        size = len(medium) if isinstance(medium, bytes) else medium.stat().st_size
        if isinstance(medium, Path) and not medium.is_file():
            raise DataError(f"`{medium}` is no file")
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        why = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read `{medium!s:.200}`: {why}") from error
    if size == 0:
        raise DataError("an empty medium" if isinstance(medium, bytes) else f"`{medium}` is empty")
    if size > LARGEST:
        raise DataError(f"a medium of more than {LARGEST >> 20:,} MiB")
    return media_bytes(medium)


def _map_cell(region: RegionMap) -> dict[str, Any]:
    if isinstance(region, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, region)
        return {"bytes": buffer.getvalue(), "path": None}
    return {"bytes": _checked_bytes(region), "path": None}


assert KINDS.keys() == LETTERS.keys()
