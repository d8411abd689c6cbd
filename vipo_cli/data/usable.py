"""Which pairs can be decoded: broken media are counted and left out, too many are an error."""

from collections.abc import Sequence
from dataclasses import dataclass

from vipo_cli.data.lazy import Subset
from vipo_cli.data.pair import PreferencePair
from vipo_cli.errors import DataError
from vipo_cli.media import Media, decode, media_bytes
from vipo_cli.run import Progress, Work


@dataclass(frozen=True, slots=True)
class Broken:
    """A pair that cannot be used, and why."""

    index: int
    reason: str

    def __str__(self) -> str:
        return f"pair {self.index}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Usable:
    """The pairs that can be decoded, still read lazily, and those that cannot."""

    pairs: Subset
    broken: tuple[Broken, ...]


def usable_pairs(pairs: Sequence[PreferencePair], limit: float = 0.05) -> Work[Usable]:
    """Decode every medium once and leave out the pairs that have a broken one.

    Args:
        pairs: any pairs.
        limit: largest share of broken pairs that is put up with.

    Raises:
        DataError: there are no pairs, none is usable, or more than `limit` are broken.
    """
    rows: list[int] = []
    broken: list[Broken] = []
    for index in range(len(pairs)):
        if reason := why_broken(pairs[index]):
            broken.append(Broken(index, reason))
        else:
            rows.append(index)
        yield Progress("check media", index + 1, len(pairs))
    refuse_broken(broken, len(pairs), limit)
    return Usable(Subset(pairs, rows), tuple(broken))


def refuse_broken(broken: Sequence[Broken], pairs: int, limit: float) -> None:
    """Refuse a data set of which too much is broken.

    Raises:
        DataError: there are no pairs, none is whole, or more than `limit` are broken.
    """
    if pairs and len(broken) < pairs and len(broken) <= limit * pairs:
        return
    raise DataError(
        f"{len(broken):,} of {pairs:,} pairs have broken media, more than the limit of {limit:.0%}"
        if pairs
        else "the data set has no pairs",
        details=[str(each) for each in broken[:5]],
        hint="vipo data check lists them all; repair or remove them" if broken else None,
    )


def why_broken(pair: PreferencePair) -> str:
    """Return what is wrong with the media of a pair, or an empty string."""
    for side, media in (("winner", pair.winner), ("loser", pair.loser)):
        if media is None:
            continue
        try:
            decode(media_bytes(media))
        except DataError as error:
            return blame(side, media, error)
    return ""


def blame(side: str, media: Media, error: DataError) -> str:
    """Say which medium of a pair is broken, and how."""
    if isinstance(media, bytes) or str(media) in error.message:
        return f"{side}: {error.message}"
    return f"{side} `{media}`: {error.message}"
