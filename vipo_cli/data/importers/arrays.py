"""Reading JSON that others wrote: a long array as a stream of its elements, or a small document."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from vipo_cli.data.entry import Unusable
from vipo_cli.errors import DataError

PIECE = 2**20
"""Characters that are read at once."""
LONGEST = 2**24
"""Characters that an element may have."""
BLANKS = re.compile(r"[ \t\r\n]*")


def document(written: str | bytes) -> Any:
    """Return what a small JSON document says.

    Raises:
        ValueError: it is none, is nested too deeply, or a key stands in it twice.
    """
    try:
        return json.loads(written, object_pairs_hook=_once_each)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def elements_of(file: Path) -> Iterator[tuple[str, dict[str, Any] | Unusable]]:
    """Yield the objects of a file that holds a JSON array, and what else stands in it.

    Raises:
        DataError: it cannot be read, or is no JSON array.
    """
    try:
        with file.open(encoding="utf-8-sig") as stream:
            for number, element in enumerate(_Elements(stream)):
                where = f"element {number} of {file.name}"
                good = isinstance(element, dict)
                yield where, element if good else Unusable(where, "JSON, but no object")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read `{file}`: {error}") from error
    except _NoArray as error:
        raise DataError(f"`{file}` is no JSON array: {error}") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice("a key stands there twice")
    return found


class _Twice(ValueError):
    """A key stands twice in an object, so that nobody can tell which one is meant."""


class _NoArray(Exception):
    """What stands in a file is no array, or no longer."""


class _Elements:
    """The elements of an array; a piece of the file is held at a time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._decoder = json.JSONDecoder(object_pairs_hook=_once_each)
        self._text = ""
        self._at = 0
        self._passed = 0

    def __iter__(self) -> Iterator[Any]:
        self._expect("[")
        if self._next() != "]":
            yield self._element()
            while self._next() == ",":
                self._expect(",")
                yield self._element()
        self._expect("]")
        if self._next():
            raise self._fault("something follows the array")

    def _element(self) -> Any:
        self._next()
        while True:
            try:
                element, end = self._decoder.raw_decode(self._text, self._at)
            except _Twice as error:
                raise self._fault(str(error)) from error
            except (ValueError, RecursionError) as error:
                held = len(self._text) - self._at
                # it may only be cut off; each time there is twice as much, so that trying is cheap
                if held > LONGEST or not self._more(held):
                    raise self._fault("what stands there is no JSON") from error
                continue
            if end < len(self._text) or not self._more(PIECE):  # a number may go on
                self._at = end
                return element

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise self._fault(f"`{character}` is missing")
        self._at += 1

    def _next(self) -> str:
        """Pass over blanks and return the character after them; none at the end."""
        while True:
            blanks = BLANKS.match(self._text, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at < len(self._text) or not self._more(PIECE):
                return self._text[self._at : self._at + 1]

    def _more(self, size: int) -> bool:
        piece = self._stream.read(max(PIECE, size))
        self._passed += self._at
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)

    def _fault(self, what: str) -> _NoArray:
        return _NoArray(f"{what}, at character {self._passed + self._at:,}")
