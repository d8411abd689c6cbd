"""Which records can be used: broken media are counted and left out, too many are an error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from vipo_cli.data.record import Kind, PreferencePair, RankedList, Record
from vipo_cli.data.regions import Weights, read_region
from vipo_cli.errors import DataError
from vipo_cli.media import Media, media_bytes, verify

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that cannot be used, and why."""

    index: int
    reason: str
    kind: Kind = "pair"

    def __str__(self) -> str:
        return f"{self.kind} {self.index}: {self.reason}"


def kind_of(records: Sequence[Record]) -> Kind:
    """Return what the records of a data set are; all are of the kind of the first."""
    return records[0].kind if len(records) else "pair"


def only_pairs(records: Sequence[Record], why: str) -> Sequence[PreferencePair]:
    """Return records as the pairs that they have to be.

    Args:
        records: of one kind, as all sources yield them.
        why: what needs pairs, to begin a sentence with.

    Raises:
        DataError: they are lists or labelled samples.
    """
    if (kind := kind_of(records)) != "pair":
        raise DataError(
            f"{why} compares winners and losers, and the data set holds {kind}s",
            hint="use a data set of pairs, such as shapes with --set kind=clean",
        )
    return cast("Sequence[PreferencePair]", records)


def refuse_broken(broken: Sequence[Broken], records: int, limit: float) -> None:
    """Refuse a data set of which too much is broken.

    Raises:
        DataError: there are no records, none is whole, or more than `limit` are broken.
    """
    if records and len(broken) < records and len(broken) <= limit * records:
        return
    if not records:
        raise DataError("the data set has no pairs")
    raise DataError(
        f"{len(broken):,} of {records:,} {broken[0].kind}s cannot be used, "
        f"more than the limit of {limit:.0%}",
        details=[str(each) for each in broken[:5]],
        hint="replace or remove them; vipo data check lists all that are broken",
    )


def read_each(record: Record, read: Callable[[bytes], T]) -> list[T]:
    """Apply a function to the bytes of each medium of a record.

    Raises:
        DataError: a medium is broken, or a list ranks fewer than two; says which.
    """
    if isinstance(record, RankedList) and len(record.media) < 2:
        raise DataError(f"a ranked list of {len(record.media)}: two or more are needed")
    return [
        _read_one(role, medium, read)
        for role, medium in zip(record.roles, record.media, strict=True)
    ]


def _read_one(role: str, medium: Media, read: Callable[[bytes], T]) -> T:
    try:
        return read(media_bytes(medium))
    except DataError as error:
        if isinstance(medium, bytes) or str(medium) in error.message:
            raise DataError(f"{role}: {error.message}") from error
        raise DataError(f"{role} `{medium}`: {error.message}") from error


def read_regions(record: Record) -> list[Weights | None]:
    """Read the region maps of a record, one place for each medium; none for a record without.

    Raises:
        DataError: a map is broken; says which.
    """
    if not isinstance(record, PreferencePair) or record.regions is None:
        return []
    maps = []
    for role, region in zip(record.roles, record.regions, strict=False):  # there may be no loser
        try:
            maps.append(None if region is None else read_region(region))
        except DataError as error:
            raise DataError(f"region of the {role}: {error.message}") from error
    return maps


def why_broken(record: Record) -> str:
    """Return what is wrong with the media of a record, or an empty string."""
    try:
        read_each(record, verify)
        read_regions(record)
    except DataError as error:
        return error.message
    return ""
