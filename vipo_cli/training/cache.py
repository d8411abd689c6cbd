"""Latents and prompt embeddings of a data set, computed once and kept by content.

Each distinct picture is encoded once for each size that it is needed in, whatever number of records
it stands in, and its posterior is kept as mean and standard deviation, so that every use draws its
own sample. Each distinct prompt is embedded once, and so is the empty one. Region maps are kept on
the grid of the latents. Encoders are loaded for as long as they are needed, and not at all where
everything is there already.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import BaseFileLock, FileLock, Timeout
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from vipo_cli import media
from vipo_cli.data.record import Record
from vipo_cli.data.usable import Broken, refuse_broken
from vipo_cli.errors import DataError
from vipo_cli.models.family import Condition, Family
from vipo_cli.models.parts import encoder_parts, fingerprint_parts, load_parts, release_parts
from vipo_cli.run import Progress, Work, cache_home, fingerprint, unwritable
from vipo_cli.schedules import Latents
from vipo_cli.training.arrays import RaggedArray, open_arrays
from vipo_cli.training.buckets import Buckets
from vipo_cli.training.encoding import build

WAITED_SECONDS = 0.5
"""After which it is said that another process is being waited for."""
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
        with (yield from _alone(folder)):
            if not (folder / "index.json").is_file():  # nobody built it in the meantime
                yield Progress("loading the encoders", 0, 1)
                load_parts(family, encoders, dtype=dtype, device=device)
                yield from _build(family, records, buckets, folder)
    release_parts(family, encoders)
    encoded = _open(folder, key)
    refuse_broken(encoded.broken, len(records), broken_limit)
    return encoded


def _build(family: Family, records: Sequence[Record], buckets: Buckets, folder: Path) -> Work[None]:
    """Build a folder beside its place, which it takes once it is complete.

    Raises:
        VipoError: the disk is full or cannot be written to.
    """
    building = folder.with_name(f"{folder.name}.building")
    try:
        yield from build(family, records, buckets, building)
        building.replace(folder)
    except DataError:  # these records will never be a cache
        shutil.rmtree(building, ignore_errors=True)
        raise
    except OSError as error:
        raise unwritable(folder, error) from error


def _alone(folder: Path) -> Work[BaseFileLock]:
    """Return a held lock on a folder, having waited for another process that builds it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{folder.name}.lock"))
        while True:
            try:
                return lock.acquire(timeout=WAITED_SECONDS).lock
            except Timeout:
                yield Progress("waiting for another process that encodes the same", 0, 1)
    except OSError as error:
        raise unwritable(folder, error) from error


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
