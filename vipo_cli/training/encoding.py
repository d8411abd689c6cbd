"""Encode the media and prompts of records into a folder; a build that was killed goes on.

Every so often the folder notes how far it has come: files that grew beyond their last note are cut
back to it, so nothing is computed twice but what came after. Media are decoded by threads ahead of
the encoder. Notes stand at places that depend on the data alone, so a build that was interrupted
equals one that was not.
"""

import json
import os
import shutil
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from vipo_cli import media
from vipo_cli.data.record import LabelledSample, PreferencePair, Record
from vipo_cli.data.regions import Weights, on_grid
from vipo_cli.data.usable import read_each, read_regions
from vipo_cli.errors import DataError
from vipo_cli.media import Framing, Pixels, Probe, Size
from vipo_cli.models.base import module_device
from vipo_cli.models.family import Family
from vipo_cli.run import Progress, Work, write_json
from vipo_cli.training.arrays import ArrayStore, open_at
from vipo_cli.training.buckets import Buckets

PROMPTS = 64
"""Prompts encoded at once."""
PIXELS = 2**22
"""Pixels encoded at once, of at most 64 pictures."""
NOTED_PIXELS = 2**26
NOTED_RECORDS = 1024
"""After how many encoded pixels or records, whichever comes first, it is noted how far one is."""
READERS = min(8, os.cpu_count() or 1)
"""Threads that decode."""
AHEAD_PIXELS = 2**26
"""Decoded pixels that may wait, but for one record for each thread."""
STATE = "state.json"
LINES = ("records", "pictures", "prompts", "regions", "broken")
"""Files of JSON lines in which a build keeps what it knows besides arrays."""

Rows = NDArray[np.int64]


class Lines:
    """A file of JSON lines that grows, cut back to its last note when it is opened again."""

    def __init__(self, file: Path, length: int = 0) -> None:
        self.file = file
        self._stream: BinaryIO = open_at(file, length)

    def append(self, value: Any) -> None:
        """Add a line."""
        self._stream.write(json.dumps(value).encode() + b"\n")

    def grown(self) -> int:
        """Return its length in bytes; all of that is on disk then."""
        self._stream.flush()
        return self._stream.tell()

    def read(self) -> Iterator[Any]:
        """Yield all values."""
        self._stream.flush()
        with self.file.open("rb") as stream:
            yield from map(json.loads, stream)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def build(family: Family, records: Sequence[Record], buckets: Buckets, folder: Path) -> Work[None]:
    """Encode records into a folder, from where an earlier build of the same left off.

    Raises:
        DataError: records of several kinds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with closing(_begun(family, folder)) as building:
        yield from _encode(building, records, buckets)
        yield from building.encode_prompts()
        building.complete()


def _begun(family: Family, folder: Path) -> "_Building":
    """Return the build that stands in a folder, or a new one where it is none or damaged."""
    try:
        state = json.loads((folder / STATE).read_text()) if (folder / STATE).is_file() else {}
        return _Building(family, folder, state)
    except (ValueError, KeyError, TypeError, AttributeError):
        shutil.rmtree(folder)
        folder.mkdir()
        return _Building(family, folder, {})


def _encode(building: "_Building", records: Sequence[Record], buckets: Buckets) -> Work[None]:
    total, done = len(records), building.noted
    yield Progress("encoding pictures", done, total)
    since = 0
    for number, record, looked in _look_ahead(records, done, buckets, building):
        building.take(number, record, looked)
        since += 1
        if since >= NOTED_RECORDS or building.fresh_pixels >= NOTED_PIXELS:
            building.note(number + 1)
            since = 0
        yield Progress("encoding pictures", number + 1, total)
    building.note(total)


@dataclass(frozen=True, slots=True)
class Looked:
    """What was read of a record.

    Attributes:
        size: that its media are brought to.
        found: what its media are.
        media: the name of each by content, and its pixels unless they are known in that size.
        regions: its maps.
    """

    size: Size
    found: list[Probe]
    media: list[tuple[str, tuple[Pixels, Framing] | None]]
    regions: list[Weights | None]


_Reading = tuple[int, Record, Future[Looked | DataError]]


def _look_ahead(
    records: Sequence[Record], start: int, buckets: Buckets, building: "_Building"
) -> Iterator[tuple[int, Record, Looked | DataError]]:
    """Yield records in order with what threads have read of them meanwhile."""
    waiting: deque[_Reading] = deque()
    pixels = max(int(np.prod(size.shape)) for size in buckets.sizes)
    ahead = max(READERS, min(4 * READERS, AHEAD_PIXELS // (2 * pixels)))
    with ThreadPoolExecutor(READERS) as readers:
        try:
            for number in range(start, len(records)):
                record = records[number]
                waiting.append((number, record, readers.submit(_look, record, buckets, building)))
                if len(waiting) >= ahead:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            readers.shutdown(wait=True, cancel_futures=True)


def _first(waiting: deque[_Reading]) -> tuple[int, Record, Looked | DataError]:
    number, record, looked = waiting.popleft()
    return number, record, looked.result()


def _look(record: Record, buckets: Buckets, building: "_Building") -> Looked | DataError:
    """Read the media and maps of a record; what is known already is not decoded again."""
    try:
        found = read_each(record, media.probe)
        size = buckets.fitting(found)

        def read(data: bytes) -> tuple[str, tuple[Pixels, Framing] | None]:
            name = media.content_hash(data)
            known = building.knows(name, size)
            return name, None if known else media.read_framed(data, size)

        return Looked(size, found, read_each(record, read), read_regions(record))
    except DataError as error:
        return error


class _Building:
    """Everything that grows while records are encoded, and how far it has come."""

    def __init__(self, family: Family, folder: Path, state: dict[str, Any]) -> None:
        self.fresh_pixels = 0
        self._family, self._folder = family, folder
        self._device = module_device(family.pipeline.vae)
        lengths = state.get("lines", {})
        self._lines = {
            name: Lines(folder / f"{name}.jsonl", lengths.get(name, 0)) for name in LINES
        }
        self._arrays = ArrayStore(folder, state.get("arrays"))
        self._embedded: int = state.get("embedded", 0)
        self._kinds: set[str] = set(state.get("kinds", ()))
        self._width: int = state.get("width", 0)
        self._taken: int = state.get("taken", 0)
        self.noted: int = state.get("records", 0)
        self._pictures = {bytes.fromhex(key): row for row, key in self._known("pictures")}
        self._prompts: dict[str, int] = {text: row for row, text in self._known("prompts")}
        self._maps: dict[str, int] = {name: row for row, name in self._known("regions")}
        self._grids: dict[Size, tuple[int, int]] = {}
        self._waiting: dict[Size, list[tuple[int, Pixels, Framing]]] = {}

    def _known(self, name: str) -> Iterator[tuple[int, Any]]:
        return enumerate(self._lines[name].read())

    def knows(self, name: str, size: Size) -> bool:
        """Tell whether a picture is encoded in a size, or waits for it."""
        return _key(name, size) in self._pictures

    def take(self, number: int, record: Record, looked: Looked | DataError) -> None:
        """Take a record on; pictures wait until there are enough of their size.

        Raises:
            DataError: a record of another kind than those before.
        """
        if isinstance(looked, DataError):
            broken = {"index": number, "reason": looked.message, "kind": record.kind}
            self._lines["broken"].append(broken)
            return
        self._kinds.add(type(record).__name__)
        if len(self._kinds) > 1:
            names = " and ".join(sorted(self._kinds))
            raise DataError(f"a data set holds records of one kind, not {names}")
        items = [self._picture(name, looked.size, found) for name, found in looked.media]
        if len(self._waiting.get(looked.size, ())) >= _at_once(looked.size):
            self._encode(looked.size)
        maps = zip(looked.found, looked.regions, strict=False)  # most records have none
        pair = record if isinstance(record, PreferencePair) else None
        self._width = max(self._width, len(items))
        self._taken += 1
        self._lines["records"].append(
            {
                "items": items,
                "region_rows": [
                    -1 if region is None else self._map(region, probe, looked.size)
                    for probe, region in maps
                ],
                "noise_seeds": list((pair and pair.noise_seeds) or ()),
                "prompt": self._prompt(record.prompt),
                "liked": not isinstance(record, LabelledSample) or record.liked,
                "weight": record.weight,
                "probability": pair.probability if pair else 1.0,
            }
        )

    def _picture(self, name: str, size: Size, found: tuple[Pixels, Framing] | None) -> int:
        """Return the row of a picture, which is encoded once in each size."""
        key = _key(name, size)
        row = self._pictures.get(key)
        if row is None:
            assert found is not None
            row = self._pictures[key] = len(self._pictures)
            self._lines["pictures"].append(key.hex())
            self._waiting.setdefault(size, []).append((row, *found))
            self.fresh_pixels += int(np.prod(size.shape))
        return row

    def _prompt(self, text: str) -> int:
        row = self._prompts.get(text)
        if row is None:
            row = self._prompts[text] = len(self._prompts)
            self._lines["prompts"].append(text)
        return row

    def note(self, records: int) -> None:
        """Encode what waits, and note how far the build has come."""
        for size in sorted(self._waiting, key=lambda size: size.shape):  # as after an interruption
            self._encode(size)
        self.fresh_pixels = 0
        state = {
            "records": records,
            "arrays": self._arrays.grown(),
            "lines": {name: lines.grown() for name, lines in self._lines.items()},
            "embedded": self._embedded,
            "kinds": sorted(self._kinds),
            "width": self._width,
            "taken": self._taken,
        }
        self.noted = records
        write_json(self._folder / STATE, state)

    @torch.no_grad()
    def _encode(self, size: Size) -> None:
        waiting = self._waiting[size]
        if not waiting:
            return
        pixels = torch.from_numpy(np.stack([entry[1] for entry in waiting]))
        pixels = pixels.to(self._device).movedim(-1, 1).float() / 127.5 - 1
        mean, std = self._family.encode_media(pixels)
        told = self._family.media_condition([entry[2] for entry in waiting])
        rows = np.array([entry[0] for entry in waiting], np.int64)
        arrays = {f"media.{name}": values for name, values in told.items()}
        for name, values in {"mean": mean.float(), "std": std.float(), **arrays}.items():
            self._arrays.append(name, values, rows)
        self._waiting[size] = []

    @torch.no_grad()
    def encode_prompts(self) -> Work[None]:
        """Embed each distinct prompt once, and the empty one last."""
        texts = [*self._prompts, ""]
        for start in range(self._embedded, len(texts), PROMPTS):
            condition = self._family.encode_prompts(texts[start : start + PROMPTS])
            for name, values in condition.items():
                self._arrays.append(f"condition.{name}", values)
            self._embedded = min(start + PROMPTS, len(texts))
            if self._embedded % NOTED_RECORDS == 0 or self._embedded == len(texts):
                self.note(self.noted)
            yield Progress("encoding prompts", self._embedded, len(texts))

    def complete(self) -> None:
        """Turn lines into columns and write the index: the folder is a cache from then on."""
        for name, column in self._columns().items():
            np.save(self._folder / f"{name}.npy", column)
        self._arrays.complete()
        index = {
            "labelled": self._kinds == {LabelledSample.__name__},
            "broken": list(self._lines["broken"].read()),
            "texts": [*self._prompts, ""],
        }
        write_json(self._folder / "index.json", index)
        self.close()
        for lines in self._lines.values():
            lines.file.unlink()
        (self._folder / STATE).unlink()

    def close(self) -> None:
        """Close all files; what came after the last note will be cut off."""
        self._arrays.close()
        for lines in self._lines.values():
            lines.close()

    def _columns(self) -> dict[str, NDArray[Any]]:
        """Return what is known of each record; a pair has two places even without a loser."""
        least = 1 if self._kinds == {LabelledSample.__name__} else 2
        rows, width = self._taken, max(least, self._width)
        columns: dict[str, NDArray[Any]] = {
            "items": np.full((rows, width), -1, np.int64),
            "region_rows": np.full((rows, width), -1, np.int64),
            "noise_seeds": np.full((rows, width), -1, np.int64),
            "prompt": np.zeros(rows, np.int64),
            "liked": np.zeros(rows, np.bool_),
            "weight": np.zeros(rows, np.float32),
            "probability": np.zeros(rows, np.float32),
        }
        for row, record in enumerate(self._lines["records"].read()):
            for name, value in record.items():
                if isinstance(value, list):
                    columns[name][row, : len(value)] = value
                else:
                    columns[name][row] = value
        return columns

    def _map(self, region: Weights, found: Probe, size: Size) -> int:
        """Return the row of a region map on the grid of the latents; equal ones are stored once."""
        picture, crop = (found.width, found.height), (size.width, size.height)
        cells = on_grid(region, picture, crop, self._grid(size))
        name = media.content_hash(repr(cells.shape).encode() + cells.tobytes())
        row = self._maps.get(name)
        if row is None:
            row = self._maps[name] = len(self._maps)
            self._lines["regions"].append(name)
            self._arrays.append("regions", cells[None])
        return row

    @torch.no_grad()
    def _grid(self, size: Size) -> tuple[int, int]:
        """Return rows and columns of the latents of a size."""
        if size not in self._grids:
            pixels = torch.zeros(1, 3, *size.shape, device=self._device)
            mean, _ = self._family.encode_media(pixels)
            self._grids[size] = (mean.shape[-2], mean.shape[-1])
        return self._grids[size]


def _key(name: str, size: Size) -> bytes:
    """Name a picture in a size; bytes, since millions of them lie in memory."""
    return bytes.fromhex(name) + struct.pack("<3I", size.width, size.height, size.frames)


def _at_once(size: Size) -> int:
    """Return how many pictures of a size are encoded at once."""
    return max(1, min(64, PIXELS // int(np.prod(size.shape))))
