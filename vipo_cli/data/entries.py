"""The entries of any data set, in order, with all that its source says of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from vipo_cli.data import datasets
from vipo_cli.data.entry import Entry, entry_of, lifted
from vipo_cli.data.lazy import LazyRecords, Subset, dropped
from vipo_cli.data.record import Kind, Record
from vipo_cli.data.sources import find_source, opening
from vipo_cli.data.stored import StoredRecords, entries_in, is_stored, read_manifest
from vipo_cli.data.usable import kind_of
from vipo_cli.run import Work, finish


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries that can be read in order as often as they are needed; nothing is kept of them.

    Attributes:
        name: of the data set.
        count: how many there are.
        kind: what records they can become.
        after: reads them from a number on.
        at: reads one of them, where that takes no reading of those before it.
        folder: where they lie, if in the layout that vipo keeps: all of them, in this order.
        left_out: how many rows of the source are no entries, by reason.
        unusable: how many of these are so because something is wrong with them.
    """

    name: str
    count: int
    kind: Kind
    after: Callable[[int], Iterator[Entry]]
    at: Callable[[int], Entry] | None = None
    folder: Path | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    unusable: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Entry]:
        return self.after(0)

    def taken(self, rows: Sequence[int]) -> Iterator[Entry]:
        """Read some of them; their numbers ascend."""
        if self.at is not None:
            yield from map(self.at, rows)
            return
        wanted = iter(rows)
        row = next(wanted, None)
        for index, entry in enumerate(self):
            if row is None:
                return
            if index == row:
                yield entry
                row = next(wanted, None)


def open_entries(
    name: str, parameters: Mapping[str, Any] | None = None, limit: int | None = None
) -> Entries:
    """Open all entries as `opening_entries` does, without a word of how it goes."""
    return finish(opening_entries(name, parameters, limit))


def opening_entries(
    name: str, parameters: Mapping[str, Any] | None = None, limit: int | None = None
) -> Work[Entries]:
    """Open all entries of a data set: those without a winner too, where the source tells of them.

    Args:
        name: registered name, path or hub id.
        parameters: of the data set; ties stay, unless these say otherwise.
        limit: take the first so many.

    Raises:
        UnknownName: no such data set.
        DataError: it cannot be used as it is.
        MissingWeights: it is neither on this machine nor to be had from here.
    """
    known = dict(parameters or {})
    place = Path(name).expanduser()
    if not known and place.is_dir() and is_stored(place):
        manifest = read_manifest(place)
        total = int(manifest["entries"])
        count = total if limit is None else min(limit, total)
        return Entries(
            name,
            count,
            manifest["kind"] or "pair",
            lambda start: map(lifted, islice(entries_in(place, start), max(0, count - start))),
            folder=place if count == total else None,
            left_out=manifest["left_out"],
        )
    entry, _ = find_source(name)
    if "ties" in datasets.parameters(entry).model_fields:
        known.setdefault("ties", "keep")
    return entries_of((yield from opening(name, known)), name, limit)


def left_out_before(name: str) -> Mapping[str, int]:
    """Return what was left out when a data set that vipo keeps was made, by reason."""
    place = Path(name).expanduser()
    if not (place.is_dir() and is_stored(place)):
        return {}
    found: Mapping[str, int] = read_manifest(place)["left_out"]
    return found


def entries_of(records: Sequence[Record], name: str = "", limit: int | None = None) -> Entries:
    """Return records as entries."""
    count = len(records) if limit is None else min(limit, len(records))
    return Entries(
        name,
        count,
        kind_of(records),
        lambda start: (entry_at(records, index) for index in range(start, count)),
        lambda index: entry_at(records, index),
        left_out=dropped(records),
        unusable=records.unusable if isinstance(records, LazyRecords) else {},
    )


def entry_at(records: Sequence[Record], index: int) -> Entry:
    """Return a record as an entry, with whatever else its source says of it."""
    if isinstance(records, Subset):
        return entry_at(records.records, records.rows[index])
    if isinstance(records, StoredRecords):
        return lifted(records.entry(index))
    return lifted(entry_of(records[index]))
