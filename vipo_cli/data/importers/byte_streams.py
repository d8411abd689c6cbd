"""Streams that can be read from any place: several files as one, and what gzip packed."""

import io
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, cast

CHECKPOINTS = 4096
"""Kept states of a decompressor, of some 40 kB each."""
SPACING = 2**20
"""Unpacked bytes between two of them, doubled whenever there are too many."""
PIECE = 2**16
"""Packed bytes that are read at once."""


def joined(files: Sequence[Path]) -> io.BufferedReader:
    """Return files as one stream.

    Raises:
        OSError: one of them is not there.
    """
    return io.BufferedReader(_Joined(files))


def unpacked(packed: io.BufferedReader) -> io.BufferedReader:
    """Return what a gzip stream unpacks to; a read raises zlib.error or EOFError at damage."""
    return io.BufferedReader(_Unpacked(packed), PIECE)


class _Joined(io.RawIOBase):
    """Files read as if they were one; one of them is open at a time."""

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__()
        self._files = files
        self._ends = list(accumulate(file.stat().st_size for file in files))
        self._position = 0
        self._opened: tuple[int, BinaryIO] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        if start + offset < 0:
            raise OSError("before the beginning")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self._ends, self._position)
        if number == len(self._ends):
            return 0
        stream = self._stream(number)
        stream.seek(self._position - (self._ends[number - 1] if number else 0))
        taken: int = stream.readinto(buffer)  # type: ignore[attr-defined]
        self._position += taken
        return taken

    def _stream(self, number: int) -> BinaryIO:
        if self._opened is None or self._opened[0] != number:
            self._close()
            self._opened = number, cast("BinaryIO", self._files[number].open("rb", buffering=0))
        return self._opened[1]

    def _close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def close(self) -> None:
        self._close()
        super().close()


class _Unpacked(io.RawIOBase):
    """What a gzip stream unpacks to, from any place in it."""

    def __init__(self, packed: BinaryIO | io.BufferedReader) -> None:
        super().__init__()
        self._packed = packed
        self._spacing = SPACING
        self._kept: list[tuple[int, int, Any]] = [(0, 0, zlib.decompressobj(31))]
        self._made = 0
        self._ready = memoryview(b"")
        self._go_back_to(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._made - len(self._ready)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end of a gzip stream is not known")
        wanted = offset + (self.tell() if whence == io.SEEK_CUR else 0)
        nearest = bisect_right(self._kept, wanted, key=lambda kept: kept[0]) - 1
        if wanted < self.tell() or self._kept[nearest][0] > self._made:
            self._go_back_to(nearest)
        while wanted > self._made and self._more():
            pass
        self._ready = self._ready[len(self._ready) - max(0, self._made - wanted) :]
        return self.tell()

    def readinto(self, buffer: Any) -> int:
        if not self._ready and not self._more():
            return 0
        taken = min(len(buffer), len(self._ready))
        buffer[:taken] = self._ready[:taken]
        self._ready = self._ready[taken:]
        return taken

    def _go_back_to(self, number: int) -> None:
        self._made, fed, state = self._kept[number]
        self._inflate = state.copy()
        self._ready = memoryview(b"")
        self._pending = b""
        self._packed.seek(fed)

    def _more(self) -> bool:
        """Unpack the next piece; False at the end.

        Raises:
            EOFError: the stream ends too early.
        """
        while True:
            if self._inflate.eof:  # another stream may follow, after zeros that fill up a block
                self._pending = self._inflate.unused_data.lstrip(b"\0")
                while not self._pending and (piece := self._packed.read(PIECE)):
                    self._pending = piece.lstrip(b"\0")
                if not self._pending:
                    return False
                self._inflate = zlib.decompressobj(31)
            if not self._pending and not (piece := self._packed.read(PIECE)):
                raise EOFError("it ends too early")
            if not self._pending:
                self._pending = piece
            made = self._inflate.decompress(self._pending, 4 * PIECE)
            self._pending = self._inflate.unconsumed_tail
            if made:
                self._made += len(made)
                self._ready = memoryview(made)
                self._keep()
                return True

    def _keep(self) -> None:
        if self._inflate.eof or self._made < self._kept[-1][0] + self._spacing:
            return
        fed = self._packed.tell() - len(self._pending)
        self._kept.append((self._made, fed, self._inflate.copy()))
        if len(self._kept) > CHECKPOINTS:
            self._kept = self._kept[::2]
            self._spacing *= 2
