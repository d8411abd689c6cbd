"""Sequences of records that read a record when it is asked for."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from vipo_cli.data.record import LabelledSample, PreferencePair, Record
from vipo_cli.data.regions import RegionMap
from vipo_cli.media import content_hash
from vipo_cli.run import fingerprint


class LazyRecords(Sequence[Record]):
    """What all stored records share; a slice is a view that reads as lazily as the whole.

    Attributes:
        dropped: how many rows of the source are no records, by reason.
        unusable: how many of these are so because something is wrong with them.
    """

    dropped: Mapping[str, int] = {}
    unusable: Mapping[str, int] = {}

    def record(self, index: int) -> Record:
        """Read one record; the index lies between 0 and the length."""
        raise NotImplementedError

    def prompts(self) -> list[str]:
        """Return all prompts, in order."""
        return [record.prompt for record in self]

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Subset": ...
    def __getitem__(self, index: int | slice) -> "Record | Subset":
        if isinstance(index, slice):
            return Subset(self, range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.record(index % len(self))

    def __iter__(self) -> Iterator[Record]:
        return (self.record(index) for index in range(len(self)))


class Subset(LazyRecords):
    """Some records of a sequence, in the order given."""

    def __init__(self, records: Sequence[Record], rows: Sequence[int]) -> None:
        self.records = records
        self.rows = rows
        self.dropped = dropped(records)
        self.unusable = records.unusable if isinstance(records, LazyRecords) else {}

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> Record:
        """Read one record."""
        return self.records[self.rows[index]]

    def prompts(self) -> list[str]:
        """Return the prompts of these records."""
        if isinstance(self.records, LazyRecords):
            prompts = self.records.prompts()
            return [prompts[row] for row in self.rows]
        return super().prompts()


def first(records: Sequence[Record], limit: int | None) -> Sequence[Record]:
    """Return a view of the first so many records, or all of them."""
    return records if limit is None else Subset(records, range(min(limit, len(records))))


def data_fingerprint(records: Sequence[Record]) -> str:
    """Name the content of records by the source's word, else by all they hold, files by date."""
    own: str | None = getattr(records, "fingerprint", None)
    return own or fingerprint([_content(record) for record in records])


def _content(record: Record) -> list[Any]:
    media = [_identity(medium) for medium in record.media]
    content = [record.kind, record.prompt, media, record.weight]
    if isinstance(record, LabelledSample):
        content.append(record.liked)
    if isinstance(record, PreferencePair):
        regions = [
            region if region is None else _identity(region) for region in record.regions or ()
        ]
        content += [record.probability, record.noise_seeds, regions]
    return content


def _identity(medium: RegionMap) -> Any:
    if isinstance(medium, bytes):
        return content_hash(medium)
    if not isinstance(medium, Path):
        return (medium.shape, str(medium.dtype), content_hash(medium.tobytes()))
    if not medium.is_file():  # the reader will say so
        return str(medium)
    state = medium.stat()
    return (str(medium.resolve()), state.st_size, state.st_mtime_ns)


def dropped(records: Sequence[Record]) -> Mapping[str, int]:
    """Return how many rows the source of some records left out, by reason."""
    return records.dropped if isinstance(records, LazyRecords) else {}


def decided(records: Sequence[Record]) -> Mapping[str, int]:
    """Return how many rows were left out though nothing is wrong with them, such as ties."""
    if not isinstance(records, LazyRecords):
        return {}
    wrong = records.unusable
    return {reason: count for reason, count in records.dropped.items() if reason not in wrong}
