"""What an importer is: a function from a place to entries, and how its layout is recognised."""

from collections.abc import Callable, Iterator, Sequence
from functools import update_wrapper
from pathlib import Path
from typing import Any

from vipo_cli.data.entry import Found

Read = Callable[..., Iterator[Found]]
Beside = Callable[..., Sequence[Path]]


class Importer:
    """A reader of one layout, called with the place and its keyword-only parameters.

    It reads its source as a stream, yields what it finds there in an order that is always the same,
    and raises DataError for what makes all of it unusable.

    Attributes:
        fits: tells from names and headers alone whether a place is in this layout; never raises.
        count: of what a place holds, before anything is left out; None where it would have to be
            read for that.
        beside: files and folders outside of a place that are read too, by the same parameters;
            media that the entries name need not be among them.
        version: raised whenever it understands a source differently: what was imported before is
            imported again.
    """

    def __init__(
        self,
        read: Read,
        fits: Callable[[Path], bool],
        count: Callable[[Path], int | None],
        beside: Beside,
        version: int,
    ) -> None:
        self._read = read
        self.fits = fits
        self.count = count
        self.beside = beside
        self.version = version
        update_wrapper(self, read)

    def __call__(self, place: Path, **parameters: Any) -> Iterator[Found]:
        """Read the entries of a place."""
        return self._read(place, **parameters)


def importer(
    *,
    fits: Callable[[Path], bool],
    count: Callable[[Path], int | None] = lambda _: None,
    beside: Beside = lambda _, **__: (),
    version: int = 1,
) -> Callable[[Read], Importer]:
    """Turn a function into an importer; its docstring is what users read."""
    return lambda read: Importer(read, fits, count, beside, version)


def folder_of(place: Path, **_: Any) -> Sequence[Path]:
    """Return the folder in which a file lies, for layouts that keep their media beside it."""
    return [place.parent] if place.is_file() else []
