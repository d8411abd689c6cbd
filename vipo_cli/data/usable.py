"""Which pairs can be decoded: broken media are counted and left out, too many are an error."""

from collections.abc import Sequence
from dataclasses import dataclass

from vipo_cli.data.pair import PreferencePair
from vipo_cli.errors import DataError
from vipo_cli.media import Media, decode, media_bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """A pair that cannot be used, and why."""

    index: int
    reason: str

    def __str__(self) -> str:
        return f"pair {self.index}: {self.reason}"


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
