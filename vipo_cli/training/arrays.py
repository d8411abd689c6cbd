"""Arrays on disk whose rows may differ in shape: pictures of several sizes, clips of any length."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

TYPES = {torch.float32: np.float32, torch.bfloat16: np.uint16}
"""How numbers are kept; numpy has no bfloat16, so its bits are kept as integers."""


@dataclass(frozen=True)
class RaggedArray:
    """Rows of numbers one after the other, each with a shape of its own but as many dimensions.

    Attributes:
        flat: all numbers; integers of 16 bits stand for bfloat16.
        starts: where each row begins, (m,).
        shapes: of each row, (m, dimensions).
    """

    flat: NDArray[Any]
    starts: Rows
    shapes: Rows

    @classmethod
    def of(cls, values: NDArray[Any]) -> "RaggedArray":
        """Return rows that are all of one shape, not copied."""
        count, size = len(values), int(np.prod(values.shape[1:]))
        shapes = np.tile(np.array(values.shape[1:], np.int64), (count, 1))
        return cls(values.reshape(-1), np.arange(count, dtype=np.int64) * size, shapes)

    def __len__(self) -> int:
        return len(self.starts)

    def shape(self, row: int) -> tuple[int, ...]:
        """Return the shape of a row."""
        return tuple(self.shapes[row].tolist())

    @cached_property
    def whole(self) -> NDArray[Any] | None:
        """All rows as one array, where they are in order and of one shape."""
        if not len(self) or (self.shapes != self.shapes[0]).any():
            return None
        size = int(np.prod(self.shapes[0]))
        if (self.starts != np.arange(len(self)) * size).any():
            return None
        return self.flat[: len(self) * size].reshape(len(self), *self.shape(0))

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        """Return some rows of one shape, stacked; copied into memory."""
        if self.whole is not None:
            return np.asarray(self.whole[rows])
        chosen = [self.row(int(row)) for row in rows]
        return np.stack(chosen)

    def row(self, row: int) -> NDArray[Any]:
        """Return one row."""
        shape = self.shape(row)
        start = int(self.starts[row])
        return self.flat[start : start + int(np.prod(shape))].reshape(shape)

    def read(self, rows: Rows) -> Tensor:
        """Return some rows of one shape as a tensor, in the type that they were stored in."""
        values = self[rows]
        if values.dtype == np.uint16:
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(values)


class ArrayStore:
    """Arrays that grow on disk, so that a large data set never lies in memory whole.

    A process that is killed loses what was appended since `grown` was last noted: a store that is
    opened with that note cuts its files back to it and goes on.
    """

    def __init__(self, folder: Path, grown: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Begin a store, or go on with one.

        Args:
            folder: where its files are.
            grown: how far it had come, as `grown` said.
        """
        self.folder = folder
        self._arrays = {
            name: _Growing(folder, name, **known) for name, known in (grown or {}).items()
        }

    def append(self, name: str, values: Tensor | Floats, rows: Rows | None = None) -> None:
        """Add rows of one shape to an array.

        Args:
            name: of the array.
            values: the rows, in float32 or bfloat16.
            rows: their numbers; those that come next where not given.
        """
        values = torch.as_tensor(values).detach().cpu()
        if name not in self._arrays:
            kind = str(values.dtype).removeprefix("torch.")
            self._arrays[name] = _Growing(self.folder, name, kind, values.ndim - 1)
        self._arrays[name].append(values, rows)

    def grown(self) -> dict[str, dict[str, Any]]:
        """Return how far each array has come; all of that is on disk then."""
        return {name: array.grown() for name, array in self._arrays.items()}

    def complete(self) -> None:
        """Write out what is still in memory, and where each row lies; nothing can be added then."""
        for array in self._arrays.values():
            array.complete()
        types = {name: array.kind for name, array in self._arrays.items()}
        (self.folder / "arrays.json").write_text(json.dumps(types) + "\n")
        for array in self._arrays.values():  # last: the disk may fill up before
            array.places.unlink()

    def close(self) -> None:
        """Close the files, complete or not."""
        for array in self._arrays.values():
            array.close()


class _Growing:
    """One array: its numbers in a file, and in another where each row begins and its shape."""

    def __init__(
        self,
        folder: Path,
        name: str,
        kind: str,
        dimensions: int,
        numbers: int = 0,
        rows: int = 0,
    ) -> None:
        self.kind = kind
        self._dimensions = dimensions
        self._numbers, self._rows = numbers, rows
        self._table = folder / f"{name}.rows"
        self.places = folder / f"{name}.places"
        size = np.dtype(TYPES[getattr(torch, kind)]).itemsize
        self._stream = open_at(folder / f"{name}.bin", numbers * size)
        self._index = open_at(self.places, rows * (dimensions + 2) * 8)

    def append(self, values: Tensor, rows: Rows | None) -> None:
        count, each = len(values), values[0].numel()
        table = np.empty((count, self._dimensions + 2), np.int64)
        table[:, 0] = np.arange(self._rows, self._rows + count) if rows is None else rows
        table[:, 1] = self._numbers + np.arange(count) * each
        table[:, 2:] = values.shape[1:]
        self._stream.write(values.contiguous().view(torch.uint8).numpy().tobytes())
        self._index.write(table.tobytes())
        self._numbers += values.numel()
        self._rows += count

    def grown(self) -> dict[str, Any]:
        self._stream.flush()
        self._index.flush()
        return {
            "kind": self.kind,
            "dimensions": self._dimensions,
            "numbers": self._numbers,
            "rows": self._rows,
        }

    def close(self) -> None:
        self._stream.close()
        self._index.close()

    def complete(self) -> None:
        self.close()
        table = np.fromfile(self.places, np.int64).reshape(-1, self._dimensions + 2)
        with self._table.open("wb") as stream:
            np.save(stream, table[np.argsort(table[:, 0], kind="stable"), 1:])


def open_at(file: Path, length: int) -> BinaryIO:
    """Open a file for appending, cut back to a length in bytes.

    Raises:
        ValueError: it is shorter.
    """
    if length and (not file.is_file() or file.stat().st_size < length):
        raise ValueError(f"{file} is shorter than {length} bytes")
    stream = file.open("ab")
    stream.truncate(length)
    return stream


def open_arrays(folder: Path) -> dict[str, RaggedArray]:
    """Return the arrays of a store, mapped into memory."""
    types = json.loads((folder / "arrays.json").read_text())
    arrays = {}
    for name, kind in types.items():
        table = np.load(folder / f"{name}.rows")
        flat = np.memmap(folder / f"{name}.bin", TYPES[getattr(torch, kind)], "r")
        arrays[name] = RaggedArray(flat, table[:, 0], table[:, 1:])
    return arrays
