"""The entries of any data set, in order, with all that its source says of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vipo_cli.data import datasets
from vipo_cli.data.entry import Entry, entry_of
from vipo_cli.data.lazy import Subset, dropped
from vipo_cli.data.record import Kind, Record
from vipo_cli.data.sources import find_source, open_pairs
from vipo_cli.data.stored import StoredRecords, entries_in, is_stored, read_manifest
from vipo_cli.data.usable import kind_of


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries that can be read in order as often as they are needed; nothing is kept of them.

    Attributes:
        name: of the data set.
        count: how many there are.
        kind: what records they can become.
        after: reads them from a number on.
        folder: where they lie, if in the layout that vipo keeps: all of them, in this order.
        left_out: how many rows of the source are no entries, by reason.
    """

    name: str
    count: int
    kind: Kind
    after: Callable[[int], Iterator[Entry]]
    folder: Path | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Entry]:
        return self.after(0)


def open_entries(
    name: str, parameters: Mapping[str, Any] | None = None, limit: int | None = None
) -> Entries:
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
            place if count == total else None,
            manifest["left_out"],
        )
    entry, _ = find_source(name)
    if "ties" in datasets.parameters(entry).model_fields:
        known.setdefault("ties", "keep")
    return entries_of(open_pairs(name, known), name, limit)


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
        left_out=dropped(records),
    )


def entry_at(records: Sequence[Record], index: int) -> Entry:
    """Return a record as an entry, with whatever else its source says of it."""
    if isinstance(records, Subset):
        return entry_at(records.records, records.rows[index])
    if isinstance(records, StoredRecords):
        return lifted(records.entry(index))
    return lifted(entry_of(records[index]))


SIDES = (("_w", "_l"), ("_winner", "_loser"), ("_a", "_b"), ("_0", "_1"), ("_left", "_right"))
"""How columns end that say something of winner and loser, or of the media as they were shown."""
BY_RANK = SIDES[:2]


def lifted(entry: Entry) -> Entry:
    """Take scores and models of both media out of the metadata of a pair."""
    if entry.kind != "pair" or not entry.metadata:
        return entry
    rest, scores, models = dict(entry.metadata), dict(entry.scores), entry.models
    for ends in SIDES:
        for name in [key.removesuffix(ends[0]) for key in rest if key.endswith(ends[0])]:
            keys = [name + end for end in ends]
            if keys[1] not in rest:
                continue
            both = [rest[key] for key in keys]
            if entry.label == "b" and ends in BY_RANK:
                both.reverse()
            if all(isinstance(each, float) and math.isfinite(each) for each in both):
                scores.setdefault(name, (both[0], both[1]))
            elif name == "model" and models is None:
                models = (_name(both[0]), _name(both[1]))
            else:
                continue
            rest = {key: value for key, value in rest.items() if key not in keys}
    return replace(entry, scores=scores, models=models, metadata=rest)


def _name(value: Any) -> str | None:
    return None if value in (None, "") else str(value)
