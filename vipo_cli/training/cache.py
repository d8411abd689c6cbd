"""Latents and prompt embeddings of a data set, computed once and kept by content.

Each distinct picture is encoded once for each size that it is needed in, whatever number of records
it stands in, and its posterior is kept as mean and standard deviation, so that every use draws its
own sample. Each distinct prompt is embedded once, and so is the empty one. Region maps are kept on
the grid of the latents. Encoders are loaded for as long as they are needed, and not at all where
everything is there already.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from vipo_cli import media
from vipo_cli.data.record import LabelledSample, PreferencePair, Record
from vipo_cli.data.regions import Weights, on_grid
from vipo_cli.data.usable import Broken, read_each, read_regions, refuse_broken
from vipo_cli.errors import DataError
from vipo_cli.media import Framing, Probe, Size
from vipo_cli.models.base import module_device
from vipo_cli.models.family import Condition, Family
from vipo_cli.models.parts import encoder_parts, fingerprint_parts, load_parts, release_parts
from vipo_cli.run import Progress, Work, cache_home, fingerprint, write_json, writing
from vipo_cli.schedules import Latents
from vipo_cli.training.arrays import ArrayStore, RaggedArray, open_arrays
from vipo_cli.training.buckets import Buckets

PROMPTS = 64
"""Prompts encoded at once."""
PIXELS = 2**22
"""Pixels encoded at once, of at most 64 pictures."""
LAYOUT = 4
"""Raised whenever the files of the cache change."""

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class EncodedData:
    """Records as the training step reads them: rows of memory-mapped arrays.

    Attributes:
        mean, std: posterior of each distinct picture, (m, ...); sizes may differ.
        conditions: embeddings of each distinct prompt, the last row that of the empty prompt.
        media_conditions: what the denoiser is told of each picture beside its prompt, (m, ...).
        items: row numbers of each record's pictures, (n, k), the best first; -1 where it has fewer.
        prompt: row number of each record's prompt, (n,).
        liked: whether the first picture was, (n,); false for disliked samples alone.
        weight: how much each record counts, (n,).
        probability: that the first picture really is the better one, (n,).
        noise_seeds: of the noise that each picture's sampling started from, (n, k); -1: unknown.
        regions: distinct maps of where a picture counts, on the grid of its latents, (r, h, w).
        region_rows: row numbers of each picture's map, (n, k); -1: it counts everywhere alike.
        broken: the records that were left out, and why.
        fingerprint: names the records and the encoders they went through.
        labelled: whether the records are single labelled samples.
        noise: what the sampling of each picture started from, (m, ...), where it is known.
        texts: of the prompts, in the order of their embeddings, where they are known.
    """

    mean: RaggedArray
    std: RaggedArray
    conditions: dict[str, RaggedArray]
    media_conditions: dict[str, RaggedArray]
    items: Rows
    prompt: Rows
    liked: NDArray[np.bool_]
    weight: Floats
    probability: Floats
    noise_seeds: Rows
    regions: RaggedArray
    region_rows: Rows
    broken: tuple[Broken, ...]
    fingerprint: str
    labelled: bool = False
    noise: RaggedArray | None = None
    texts: tuple[str, ...] = ()

    @classmethod
    def of_latents(
        cls,
        latents: RaggedArray,
        conditions: Mapping[str, RaggedArray],
        items: Rows,
        prompt: Rows,
        *,
        fingerprint: str,
        noise: RaggedArray | None = None,
        media_conditions: Mapping[str, RaggedArray] | None = None,
    ) -> "EncodedData":
        """Make certain, unweighted records of latents that are known exactly.

        Args:
            latents: of each picture, (m, ...).
            conditions: of each prompt, the last row that of the empty prompt.
            items: row numbers of each record's pictures, (n, k).
            prompt: row number of each record's prompt, (n,).
            fingerprint: names them.
            noise: what the sampling of each picture started from, (m, ...).
            media_conditions: what the denoiser is told of each picture beside its prompt.
        """
        unknown = np.full(items.shape, -1, np.int64)
        largest = max((int(np.prod(shape)) for shape in latents.shapes), default=0)
        certain = np.broadcast_to(np.zeros((), np.float32), (largest,))
        return cls(
            mean=latents,
            std=RaggedArray(certain, np.zeros_like(latents.starts), latents.shapes),
            conditions=dict(conditions),
            media_conditions=dict(media_conditions or {}),
            items=items,
            prompt=prompt,
            liked=np.ones(len(items), np.bool_),
            weight=np.ones(len(items), np.float32),
            probability=np.ones(len(items), np.float32),
            noise_seeds=unknown,
            regions=NOTHING,
            region_rows=unknown,
            broken=(),
            fingerprint=fingerprint,
            noise=noise,
        )

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def bucket(self) -> Rows:
        """Number of the size of each record's latents, (n,); only equal ones fit in one batch."""
        shapes = self.mean.shapes[self.items[:, 0]]
        return np.unique(shapes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def shape(self, record: int) -> tuple[int, ...]:
        """Return the shape of the latents of a record's pictures."""
        return self.mean.shape(int(self.items[record, 0]))

    def latents(self, rows: Rows, noise: Latents) -> Latents:
        """Draw from the posteriors of some pictures of one size with the unit noise given."""
        return self.mean.read(rows) + self.std.read(rows) * noise

    def condition(self, rows: Rows) -> Condition:
        """Return the embeddings of some prompts; row -1 is the empty prompt."""
        return {name: values.read(rows) for name, values in self.conditions.items()}

    def media_condition(self, rows: Rows) -> Condition:
        """Return what the denoiser is told of some pictures beside their prompt."""
        return {name: values.read(rows) for name, values in self.media_conditions.items()}

    def region(self, rows: Rows, shape: tuple[int, ...]) -> Float[Tensor, "b 1 *frames h w"]:
        """Return how much each place of some pictures counts; row -1 counts everywhere alike.

        Args:
            rows: of the maps.
            shape: of the pictures' latents; the maps have as many dimensions, so that they multiply
                these, and what counts in a clip is the same in all its frames.
        """
        cells = np.ones((len(rows), *shape[-2:]), np.float32)
        for place, row in enumerate(rows):
            if row >= 0:
                cells[place] = self.regions.row(int(row))
        between = [1] * (len(shape) - 2)
        return torch.from_numpy(cells).reshape(len(rows), *between, *cells.shape[1:])


NOTHING = RaggedArray.of(np.empty((0, 0, 0), np.float32))


def encode(
    family: Family,
    records: Sequence[Record],
    source: str,
    broken_limit: float,
    buckets: Buckets,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Work[EncodedData]:
    """Return the encoded form of records, from the cache if they were encoded before.

    The family's encoders are gone afterwards, whether they were loaded before or not.

    Args:
        family: whose encoders are used.
        records: what to encode, all of one kind.
        source: names the records' content.
        broken_limit: share of broken records above which nothing is returned.
        buckets: the sizes that media are brought to.
        dtype: of the encoders' weights.
        device: where they work.

    Raises:
        DataError: too many broken records, none that is whole, or records of several kinds.
    """
    encoders = encoder_parts(family)
    key = fingerprint(
        {
            "source": source,
            "encoders": fingerprint_parts(family, encoders),
            "type": str(dtype),
            "buckets": asdict(buckets),
            "preprocessing": media.PREPROCESSING,
            "layout": LAYOUT,
        }
    )
    folder = cache_home() / "pairs" / key
    if not (folder / "index.json").is_file():
        yield Progress("loading the encoders", 0, 1)
        load_parts(family, encoders, dtype=dtype, device=device)
        with writing(folder) as temporary:
            temporary.mkdir()
            yield from _encode(family, records, buckets, temporary)
    release_parts(family, encoders)
    encoded = _open(folder, key)
    refuse_broken(encoded.broken, len(records), broken_limit)
    return encoded


def _encode(
    family: Family, records: Sequence[Record], buckets: Buckets, folder: Path
) -> Work[None]:
    prompts: dict[str, int] = {}
    table = _Table()
    broken: list[Broken] = []
    store = ArrayStore(folder)
    pictures = _Pictures(family, store)
    maps = _Maps(family, store)
    for number, record in enumerate(records):
        try:
            found = read_each(record, media.probe)
            size = buckets.fitting(found)
            fresh = pictures.read(record, size)
            region_rows = maps.rows(record, found, size)
        except DataError as error:
            broken.append(Broken(number, error.message, record.kind))
            continue
        prompt = prompts.setdefault(record.prompt, len(prompts))
        table.add(record, prompt, pictures.add(fresh, size), region_rows)
        yield Progress("encoding pictures", number + 1, len(records))
    pictures.flush()
    texts = [*prompts, ""]
    for start in range(0, len(texts), PROMPTS):
        with torch.no_grad():
            condition = family.encode_prompts(texts[start : start + PROMPTS])
        for name, values in condition.items():
            store.append(f"condition.{name}", values)
        yield Progress("encoding prompts", min(start + PROMPTS, len(texts)), len(texts))
    store.close()
    for name, column in table.columns().items():
        np.save(folder / f"{name}.npy", column)
    index = {
        "labelled": table.kinds == {LabelledSample},
        "broken": [asdict(each) for each in broken],
        "texts": texts,
    }
    write_json(folder / "index.json", index)


Named = tuple[str, tuple[media.Pixels, Framing] | None]
"""A picture's name by content, and what was read of it unless it is known already."""


class _Pictures:
    """Distinct pictures on their way to the store, gathered by size."""

    def __init__(self, family: Family, store: ArrayStore) -> None:
        self._family = family
        self._store = store
        self._rows: dict[tuple[str, Size], int] = {}
        self._waiting: dict[Size, list[tuple[int, media.Pixels, Framing]]] = {}

    def read(self, record: Record, size: Size) -> list[Named]:
        """Read the pictures of a record that are not known in this size; nothing is kept yet.

        Raises:
            DataError: one is broken.
        """

        def read(data: bytes) -> Named:
            name = media.content_hash(data)
            known = (name, size) in self._rows
            return name, None if known else media.read_framed(data, size)

        return read_each(record, read)

    def add(self, fresh: Sequence[Named], size: Size) -> list[int]:
        """Take pictures on; return the row of each."""
        rows = []
        for name, found in fresh:
            row = self._rows.setdefault((name, size), len(self._rows))
            waiting = self._waiting.setdefault(size, [])
            if found is not None and row not in (entry[0] for entry in waiting):
                waiting.append((row, *found))
            rows.append(row)
        if len(self._waiting[size]) >= max(1, min(64, PIXELS // int(np.prod(size.shape)))):
            self._encode(size)
        return rows

    def flush(self) -> None:
        """Encode what still waits."""
        for size in self._waiting:
            self._encode(size)

    @torch.no_grad()
    def _encode(self, size: Size) -> None:
        waiting = self._waiting[size]
        if not waiting:
            return
        pixels = torch.from_numpy(np.stack([entry[1] for entry in waiting]))
        pixels = pixels.to(_device(self._family)).movedim(-1, 1).float() / 127.5 - 1
        mean, std = self._family.encode_media(pixels)
        told = self._family.media_condition([entry[2] for entry in waiting])
        rows = np.array([entry[0] for entry in waiting], np.int64)
        arrays = {f"media.{name}": values for name, values in told.items()}
        for name, values in {"mean": mean.float(), "std": std.float(), **arrays}.items():
            self._store.append(name, values, rows)
        self._waiting[size] = []


@dataclass
class _Table:
    """What is known of each record, column by column."""

    kinds: set[type[Record]] = field(default_factory=set)
    items: list[list[int]] = field(default_factory=list)
    region_rows: list[list[int]] = field(default_factory=list)
    noise_seeds: list[Sequence[int]] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    liked: list[bool] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)

    def add(self, record: Record, prompt: int, items: list[int], region_rows: list[int]) -> None:
        self.kinds.add(type(record))
        if len(self.kinds) > 1:
            names = sorted(kind.__name__ for kind in self.kinds)
            raise DataError(f"a data set holds records of one kind, not {' and '.join(names)}")
        self.items.append(items)
        self.region_rows.append(region_rows)
        pair = record if isinstance(record, PreferencePair) else None
        self.noise_seeds.append((pair and pair.noise_seeds) or ())
        self.prompt.append(prompt)
        self.liked.append(not isinstance(record, LabelledSample) or record.liked)
        self.weight.append(record.weight)
        self.probability.append(pair.probability if pair else 1.0)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns as arrays; a pair has two places even without a loser."""
        least = 1 if self.kinds == {LabelledSample} else 2
        width = max([least, *map(len, self.items)])
        return {
            "items": _filled(self.items, width),
            "region_rows": _filled(self.region_rows, width),
            "noise_seeds": _filled(self.noise_seeds, width),
            "prompt": np.array(self.prompt, np.int64),
            "liked": np.array(self.liked, np.bool_),
            "weight": np.array(self.weight, np.float32),
            "probability": np.array(self.probability, np.float32),
        }


def _filled(rows: Sequence[Sequence[int]], width: int) -> Rows:
    """Return rows of different lengths as one array; what they lack is -1."""
    filled = np.full((len(rows), width), -1, np.int64)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = row
    return filled


class _Maps:
    """Region maps on the grid of the latents, each distinct one stored once."""

    def __init__(self, family: Family, store: ArrayStore) -> None:
        self._family = family
        self._store = store
        self._rows: dict[str, int] = {}
        self._grids: dict[Size, tuple[int, int]] = {}

    def rows(self, record: Record, found: Sequence[Probe], size: Size) -> list[int]:
        """Store the maps of a record; return the row of each, -1 where it has none."""
        maps = zip(found, read_regions(record), strict=False)  # most records have none
        return [-1 if region is None else self._row(region, probe, size) for probe, region in maps]

    def _row(self, region: Weights, found: Probe, size: Size) -> int:
        picture, crop = (found.width, found.height), (size.width, size.height)
        cells = on_grid(region, picture, crop, self._grid(size))
        name = media.content_hash(repr(cells.shape).encode() + cells.tobytes())
        if name not in self._rows:
            self._rows[name] = len(self._rows)
            self._store.append("regions", cells[None])
        return self._rows[name]

    @torch.no_grad()
    def _grid(self, size: Size) -> tuple[int, int]:
        """Return rows and columns of the latents of a size."""
        if size not in self._grids:
            pixels = torch.zeros(1, 3, *size.shape, device=_device(self._family))
            mean, _ = self._family.encode_media(pixels)
            self._grids[size] = (mean.shape[-2], mean.shape[-1])
        return self._grids[size]


def _device(family: Family) -> torch.device:
    return module_device(family.pipeline.vae)


def _open(folder: Path, key: str) -> EncodedData:
    index = json.loads((folder / "index.json").read_text())
    arrays = open_arrays(folder)
    columns: dict[str, Any] = {file.stem: np.load(file) for file in folder.glob("*.npy")}
    return EncodedData(
        mean=arrays.get("mean", NOTHING),
        std=arrays.get("std", NOTHING),
        conditions=named(arrays, "condition."),
        media_conditions=named(arrays, "media."),
        regions=arrays.get("regions", NOTHING),
        broken=tuple(Broken(**found) for found in index["broken"]),
        fingerprint=key,
        labelled=index["labelled"],
        texts=tuple(index["texts"]),
        **columns,
    )


def named(arrays: Mapping[str, RaggedArray], prefix: str) -> dict[str, RaggedArray]:
    """Return the arrays whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }
