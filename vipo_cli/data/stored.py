"""Read preference data from the layout in which they are kept: records, entries, rows.

Opening reads the manifest and a letter for each entry; prompts and media are read when asked for.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.columns import Ties
from vipo_cli.data.entry import KINDS, Entry, record_of, why_left_out
from vipo_cli.data.lazy import LazyRecords
from vipo_cli.data.prompts import refuse_nothing
from vipo_cli.data.record import RankedList, Record
from vipo_cli.data.row_groups import Group, RowGroups, read_columns, read_medium, rows_in
from vipo_cli.data.store import AGAIN, LABELS, LETTERS, MANIFEST, SCHEMA, STATE
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash
from vipo_cli.run import fingerprint

SPLIT = re.compile(r"(train|val|validation|dev|test)(_unique)?")
"""What a split is called: anything else that a source says is part of each."""


def is_stored(place: Path) -> bool:
    """Tell whether a folder holds a data set in this layout.

    Raises:
        DataError: only its beginning.
    """
    if (place / MANIFEST).is_file():
        return True
    if (place / STATE).is_file():
        raise DataError(
            f"`{place}` is not complete: what made it was interrupted",
            hint="run the same command again; it goes on where it was",
        )
    return False


def open_stored(
    folder: Path,
    limit: int | None = None,
    ties: Ties = "drop",
    *,
    split: str | None = None,
    called: Path | None = None,
) -> "StoredRecords":
    """Open a folder of shards; neither prompts nor media are read.

    Args:
        folder: that holds them.
        limit: take the first so many records.
        ties: whether pairs that nobody could decide on are records.
        split: leave out what its source says is of another one.
        called: what users call the data set, if not by the folder's name.

    Raises:
        DataError: the folder is not what its manifest says, or nothing is left.
    """
    manifest = read_manifest(folder)
    codes = np.frombuffer(_letters(folder, manifest), np.uint8)
    dropped, usable = {}, np.ones(len(codes), bool)
    for label in manifest["labels"]:
        if reason := why_left_out(label, ties):
            found = codes == ord(LETTERS[label])
            dropped[reason] = int(found.sum())
            usable &= ~found
    others = {} if split is None else _of_other_splits(folder, manifest, split)
    if others:
        for name, found in others.items():
            dropped[f"of the split {name}"] = int((usable & found).sum())
            usable &= ~found
        dropped = {reason: count for reason, count in dropped.items() if count}
    if not usable.any():
        kind = next((KINDS[label] for label in manifest["labels"]), "pair")
        hint = f"choose another split: split={min(others)}" if others else None
        if manifest["labels"].keys() == {"candidates"}:
            hint = f"pairs are made of them: vipo data build {folder} --by WAY --out pairs"
        refuse_nothing(called or folder, kind, len(codes), dropped, hint)
    digests = [str(shard.get("sha256")) for shard in manifest["shards"]]
    rows = np.flatnonzero(usable)[:limit]
    return StoredRecords(_row_groups(folder, manifest), rows, dropped, digests)


def _of_other_splits(
    folder: Path, manifest: Mapping[str, Any], split: str
) -> dict[str, NDArray[np.bool_]]:
    """Return which entries are of splits of another name, by that; of no split are of each."""
    files = [folder / shard["file"] for shard in manifest["shards"]]
    said = read_columns(files, ["split"]).column("split").to_numpy() if files else np.empty(0, "O")
    names = {name for name in said if name is not None and SPLIT.fullmatch(name)}
    return {name: said == name for name in sorted(names - {split})}


def _row_groups(folder: Path, manifest: Mapping[str, Any]) -> RowGroups:
    groups: list[Group] = []
    rows = 0
    for shard in manifest["shards"]:
        for number, count in enumerate(shard["groups"]):
            groups.append(Group(folder / shard["file"], number, rows, folder))
            rows += count
    return RowGroups(groups, rows, verify=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a data set, and see that the shards it names are there.

    Raises:
        DataError: it is damaged, or the shards are not those that it names.
    """
    file = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
        if manifest["schema"] != SCHEMA:
            raise DataError(
                f"`{folder}` is of layout {manifest['schema']}, and this program reads {SCHEMA}",
                hint="import its source again",
            )
        counts = [int(count) for shard in manifest["shards"] for count in shard["groups"]]
        sizes = {str(shard["file"]): int(shard["bytes"]) for shard in manifest["shards"]}
        sound = (
            sum(counts) == manifest["entries"] == sum(manifest["labels"].values())
            and min(counts, default=1) > 0
            and manifest["labels"].keys() <= LETTERS.keys()
            and all(Path(name).name == name for name in sizes)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"`{file}` is damaged: {error}", hint=AGAIN) from error
    if not sound:
        raise DataError(f"`{file}` is damaged: its counts contradict each other", hint=AGAIN)
    wrong = [name for name, size in sizes.items() if _size_of(folder / name) != size]
    if wrong:
        raise DataError(
            f"`{folder}` is not what its manifest says: {len(wrong):,} of {len(sizes):,} shards "
            "are missing or of another size",
            details=wrong[:5],
            hint=AGAIN,
        )
    return manifest


def _letters(folder: Path, manifest: Mapping[str, Any]) -> bytes:
    """Read the letters of all entries.

    Raises:
        DataError: they are not those that the manifest counts.
    """
    try:
        letters = (folder / LABELS).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read `{folder / LABELS}`: {error.strerror}", hint=AGAIN) from error
    counts = np.bincount(np.frombuffer(letters, np.uint8), minlength=256)
    expected = np.zeros(256, np.int64)
    for label, count in manifest["labels"].items():
        expected[ord(LETTERS[label])] = count
    if not np.array_equal(counts, expected):
        raise DataError(f"`{folder / LABELS}` is damaged", hint=AGAIN)
    return letters


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


class StoredRecords(LazyRecords):
    """Records in shards of the one layout."""

    def __init__(
        self,
        stored: RowGroups,
        rows: NDArray[np.int64],
        dropped: Mapping[str, int],
        digests: Sequence[str],
    ) -> None:
        self._stored = stored
        self._rows = rows
        self._digests = digests
        self.dropped = dropped

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def fingerprint(self) -> str:
        """Name the records by the content of their shards, and by which rows they are.

        A data set that was moved or copied keeps its name, and so its caches.
        """
        return fingerprint([self._digests, content_hash(self._rows.tobytes())])

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

    @property
    def folder(self) -> Path:
        """The folder of the data set."""
        return self._stored.groups[0].folder

    @property
    def rows(self) -> NDArray[np.int64]:
        """Which entries of the data set the records are."""
        return self._rows

    def columns(self, names: Sequence[str], repeated: Sequence[str] = ()) -> dict[str, Any]:
        """Read small columns of the records as Arrow arrays.

        Args:
            names: of columns, or of a part of one: map.key_value.key.
            repeated: of texts, each different one to be held once; in the order in which they come.
        """
        some = len(self._rows) < self._stored.rows
        table = read_columns(self._stored.files, names, () if some else repeated)
        if some:
            table = table.take(self._rows)
        found = {name: table.column(name.partition(".")[0]) for name in names}
        for name in repeated:
            found[name] = found[name].dictionary_encode().unify_dictionaries()
        return found

    def _column(self, name: str) -> Any:
        return read_columns(self._stored.files, [name]).column(name)


class Candidates(StoredRecords):
    """Media that nobody has judged, to be looked at as if they were lists; in no order."""

    def record(self, index: int) -> Record:
        """Read the candidates of one prompt."""
        entry = self.entry(index)
        return RankedList(entry.prompt, entry.media, dict(entry.metadata), entry.weight)


def open_candidates(folder: Path) -> Candidates | None:
    """Open a folder of shards that holds nothing but candidates; None if it holds anything else.

    Raises:
        DataError: the folder is not what its manifest says.
    """
    manifest = read_manifest(folder)
    if manifest["labels"].keys() != {"candidates"}:
        return None
    groups = _row_groups(folder, manifest)
    digests = [str(shard.get("sha256")) for shard in manifest["shards"]]
    return Candidates(groups, np.arange(manifest["entries"]), {}, digests)


def entry_in(row: Mapping[str, Any], folder: Path) -> Entry:
    """Return the entry that the cells of a row hold; cells that say nothing may be missing.

    Args:
        row: its cells by column.
        folder: where the paths in them start.
    """
    said = {name: cell for name, cell in row.items() if cell is not None}
    media = tuple(read_medium(cell, folder) or b"" for cell in said.pop("media"))
    said.pop("media_hash", None)
    for name in ("votes", "ranks", "models", "seeds", "noise_seeds"):
        if name in said:
            said[name] = tuple(said[name])
    if "dimensions" in said:
        said["dimensions"] = dict(said["dimensions"])
    if "scores" in said:
        said["scores"] = {name: tuple(values) for name, values in said["scores"]}
    if "metadata" in said:
        said["metadata"] = json.loads(said["metadata"])
    if "regions" in said:
        said["regions"] = tuple(read_medium(cell, folder) for cell in said["regions"])
    return Entry(media=media, **said)


def stored_rows(folder: Path) -> RowGroups:
    """Return the rows of a data set by number, to be read one by one; those without a label too."""
    return _row_groups(folder, read_manifest(folder))


def entries_in(folder: Path, start: int = 0) -> Iterator[Entry]:
    """Yield all entries of a data set in order, those without a label too.

    Raises:
        DataError: the data set is damaged.
    """
    for shard in read_manifest(folder)["shards"]:
        for number, rows in enumerate(shard["groups"]):
            if start >= rows:
                start -= rows
                continue
            for row in rows_in(folder / shard["file"], number, rows, start):
                yield entry_in(row, folder)
            start = 0
