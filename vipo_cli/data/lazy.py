"""Sequences of pairs that read a pair when it is asked for."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from vipo_cli.data.pair import PreferencePair
from vipo_cli.media import Media, content_hash
from vipo_cli.run import fingerprint


class LazyPairs(Sequence[PreferencePair]):
    """What all stored pairs share; a slice is a view that reads as lazily as the whole.

    Attributes:
        dropped: how many rows of the source are no pairs, by reason.
    """

    dropped: Mapping[str, int] = {}

    def pair(self, index: int) -> PreferencePair:
        """Read one pair; the index lies between 0 and the length."""
        raise NotImplementedError

    def prompts(self) -> list[str]:
        """Return all prompts, in order."""
        return [pair.prompt for pair in self]

    @overload
    def __getitem__(self, index: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, index: slice) -> "Subset": ...
    def __getitem__(self, index: int | slice) -> "PreferencePair | Subset":
        if isinstance(index, slice):
            return Subset(self, range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.pair(index % len(self))

    def __iter__(self) -> Iterator[PreferencePair]:
        return (self.pair(index) for index in range(len(self)))


class Subset(LazyPairs):
    """Some pairs of a sequence, in the order given."""

    def __init__(self, pairs: Sequence[PreferencePair], rows: Sequence[int]) -> None:
        self.pairs = pairs
        self.rows = rows
        self.dropped = dropped(pairs)

    def __len__(self) -> int:
        return len(self.rows)

    def pair(self, index: int) -> PreferencePair:
        """Read one pair."""
        return self.pairs[self.rows[index]]

    def prompts(self) -> list[str]:
        """Return the prompts of these pairs."""
        if isinstance(self.pairs, LazyPairs):
            prompts = self.pairs.prompts()
            return [prompts[row] for row in self.rows]
        return super().prompts()


class ListedPairs(LazyPairs):
    """Pairs whose media are files named in a list."""

    def __init__(self, pairs: Sequence[PreferencePair]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def pair(self, index: int) -> PreferencePair:
        """Return one pair; its media are still files."""
        return self._pairs[index]


def first(pairs: Sequence[PreferencePair], limit: int | None) -> Sequence[PreferencePair]:
    """Return a view of the first so many pairs, or all of them."""
    return pairs if limit is None else Subset(pairs, range(min(limit, len(pairs))))


def data_fingerprint(pairs: Sequence[PreferencePair]) -> str:
    """Name the content of pairs by the source's word, else by prompts and media, files by date."""
    own: str | None = getattr(pairs, "fingerprint", None)
    return own or fingerprint(
        [(pair.prompt, _identity(pair.winner), _identity(pair.loser)) for pair in pairs]
    )


def _identity(media: Media | None) -> Any:
    if not isinstance(media, Path):
        return None if media is None else content_hash(media)
    if not media.is_file():  # the reader will say so
        return str(media)
    state = media.stat()
    return (str(media.resolve()), state.st_size, state.st_mtime_ns)


def dropped(pairs: Sequence[PreferencePair]) -> Mapping[str, int]:
    """Return how many rows the source of some pairs left out, by reason."""
    return pairs.dropped if isinstance(pairs, LazyPairs) else {}
