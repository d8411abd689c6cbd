"""Arrays on disk whose rows may differ in shape: pictures of several sizes, clips of any length."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
    """Arrays that grow on disk, so that a large data set never lies in memory whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._streams: dict[str, Any] = {}
        self._types: dict[str, str] = {}
        self._lengths: dict[str, int] = {}
        self._places: dict[str, dict[int, tuple[int, ...]]] = {}

    def append(self, name: str, values: Tensor | Floats, rows: Rows | None = None) -> None:
        """Add rows of one shape to an array.

        Args:
            name: of the array.
            values: the rows, in float32 or bfloat16.
            rows: their numbers; those that come next where not given.
        """
        values = torch.as_tensor(values).detach().cpu()
        if name not in self._streams:
            self._streams[name] = (self.folder / f"{name}.bin").open("wb")
            self._types[name] = str(values.dtype).removeprefix("torch.")
            self._places[name], self._lengths[name] = {}, 0
        places, each = self._places[name], values[0].numel()
        numbers = range(len(places), len(places) + len(values)) if rows is None else rows.tolist()
        for place, number in enumerate(numbers):
            places[number] = (self._lengths[name] + place * each, *values.shape[1:])
        self._lengths[name] += values.numel()
        self._streams[name].write(values.contiguous().view(torch.uint8).numpy().tobytes())

    def close(self) -> None:
        """Write out what is still in memory, and where each row lies."""
        for stream in self._streams.values():
            stream.close()
        for name, places in self._places.items():
            table = np.array([places[number] for number in range(len(places))], np.int64)
            with (self.folder / f"{name}.rows").open("wb") as stream:
                np.save(stream, table)
        (self.folder / "arrays.json").write_text(json.dumps(self._types) + "\n")


def open_arrays(folder: Path) -> dict[str, RaggedArray]:
    """Return the arrays of a store, mapped into memory."""
    types = json.loads((folder / "arrays.json").read_text())
    arrays = {}
    for name, kind in types.items():
        table = np.load(folder / f"{name}.rows")
        flat = np.memmap(folder / f"{name}.bin", TYPES[getattr(torch, kind)], "r")
        arrays[name] = RaggedArray(flat, table[:, 0], table[:, 1:])
    return arrays
