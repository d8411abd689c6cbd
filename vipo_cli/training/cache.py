"""Latents and prompt embeddings of a data set, computed once and kept by content.

Each distinct picture is encoded once, whatever number of pairs it stands in, and its posterior is
kept as mean and standard deviation, so that every use draws its own sample. Each distinct prompt is
embedded once, and so is the empty one.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vipo_cli import media
from vipo_cli.data.pair import PreferencePair
from vipo_cli.data.usable import Broken, blame, refuse_broken
from vipo_cli.errors import DataError
from vipo_cli.models.family import Condition, Family
from vipo_cli.run import Progress, Work, cache_home, fingerprint, write_json, writing
from vipo_cli.schedules import Latents

BATCH = 64


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs as the training step reads them: rows of memory-mapped arrays.

    Attributes:
        mean, std: posterior of each distinct picture, (m, ...).
        conditions: embeddings of each distinct prompt, the last row that of the empty prompt.
        winner, loser, prompt: row numbers of each pair, (n,); loser is -1 where there is none.
        broken: the pairs that were left out, and why.
        fingerprint: names the pairs and the encoders they went through.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    conditions: dict[str, NDArray[np.float32]]
    winner: NDArray[np.int64]
    loser: NDArray[np.int64]
    prompt: NDArray[np.int64]
    broken: tuple[Broken, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.winner)

    def latents(self, rows: NDArray[np.int64], noise: Latents) -> Latents:
        """Draw from the posteriors of some pictures with the unit noise given."""
        mean, std = torch.from_numpy(self.mean[rows]), torch.from_numpy(self.std[rows])
        return mean + std * noise

    def condition(self, rows: NDArray[np.int64]) -> Condition:
        """Return the embeddings of some prompts; row -1 is the empty prompt."""
        return {name: torch.from_numpy(values[rows]) for name, values in self.conditions.items()}


def encode_pairs(
    family: Family, pairs: Sequence[PreferencePair], source: str, broken_limit: float
) -> Work[EncodedPairs]:
    """Return the encoded form of pairs, from the cache if they were encoded before.

    Args:
        family: whose encoders are used.
        pairs: what to encode.
        source: names the pairs' content.
        broken_limit: share of broken pairs above which nothing is returned.

    Raises:
        DataError: too many broken pairs, or none that is whole.
    """
    key = fingerprint(
        {
            "source": source,
            "encoders": encoder_fingerprint(family),
            "size": family.size,
            "preprocessing": media.PREPROCESSING,
            "layout": 1,
        }
    )
    folder = cache_home() / "pairs" / key
    if not (folder / "index.json").is_file():
        with writing(folder) as temporary:
            temporary.mkdir()
            yield from _encode(family, pairs, temporary)
    encoded = _open(folder, key)
    refuse_broken(encoded.broken, len(pairs), broken_limit)
    return encoded


def _encode(family: Family, pairs: Sequence[PreferencePair], folder: Path) -> Work[None]:
    rows: dict[str, int] = {}
    prompts: dict[str, int] = {}
    table: list[tuple[int, int, int]] = []
    broken: list[Broken] = []
    store = _Store(folder)
    waiting: list[NDArray[np.uint8]] = []
    for index, pair in enumerate(pairs):
        try:
            fresh = _decode_new(pair, rows, family.size)
        except DataError as error:
            broken.append(Broken(index, error.message))
            continue
        for name, pixels in fresh.items():
            rows[name] = len(rows)
            waiting.append(pixels)
        winner, loser = (_name(medium) for medium in (pair.winner, pair.loser))
        assert winner is not None
        prompt = prompts.setdefault(pair.prompt, len(prompts))
        table.append((rows[winner], rows[loser] if loser else -1, prompt))
        if len(waiting) >= BATCH:
            _encode_media(family, waiting, store)
            waiting = []
        yield Progress("encoding pictures", index + 1, len(pairs))
    if waiting:
        _encode_media(family, waiting, store)
    texts = [*prompts, ""]
    for start in range(0, len(texts), BATCH):
        with torch.no_grad():
            condition = family.encode_prompts(texts[start : start + BATCH])
        for name, values in condition.items():
            store.append(f"condition.{name}", values.float().cpu().numpy())
        yield Progress("encoding prompts", min(start + BATCH, len(texts)), len(texts))
    store.close()
    np.save(folder / "table.npy", np.array(table, np.int64).reshape(-1, 3))
    write_json(
        folder / "index.json", {"arrays": store.shapes, "broken": [asdict(b) for b in broken]}
    )


def _name(medium: media.Media | None) -> str | None:
    return None if medium is None else media.content_hash(media.media_bytes(medium))


def _decode_new(
    pair: PreferencePair, rows: dict[str, int], size: tuple[int, int]
) -> dict[str, NDArray[np.uint8]]:
    """Decode those pictures of a pair that have no row yet, by content."""
    fresh = {}
    for side, medium in (("winner", pair.winner), ("loser", pair.loser)):
        if medium is None:
            continue
        try:
            data = media.media_bytes(medium)
            name = media.content_hash(data)
            if name not in rows:
                fresh[name] = media.read_image(data, *size)
        except DataError as error:
            raise DataError(blame(side, medium, error)) from error
    return fresh


@torch.no_grad()
def _encode_media(family: Family, pictures: list[NDArray[np.uint8]], store: "_Store") -> None:
    device = next(family.denoiser.parameters()).device
    pixels = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    mean, std = family.encode_media(pixels)
    store.append("mean", mean.float().cpu().numpy())
    store.append("std", std.float().cpu().numpy())


class _Store:
    """Arrays that grow on disk, so that a large data set never lies in memory whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, list[int]] = {}
        self._streams: dict[str, Any] = {}

    def append(self, name: str, values: NDArray[np.float32]) -> None:
        if name not in self._streams:
            self._streams[name] = (self.folder / f"{name}.f32").open("wb")
            self.shapes[name] = [0, *values.shape[1:]]
        self._streams[name].write(np.ascontiguousarray(values).tobytes())
        self.shapes[name][0] += len(values)

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()


def _open(folder: Path, key: str) -> EncodedPairs:
    index = json.loads((folder / "index.json").read_text())
    arrays = {
        name: np.memmap(folder / f"{name}.f32", np.float32, "r", shape=tuple(shape))
        for name, shape in index["arrays"].items()
    }
    winner, loser, prompt = np.load(folder / "table.npy").T
    return EncodedPairs(
        mean=arrays.get("mean", np.empty((0,), np.float32)),
        std=arrays.get("std", np.empty((0,), np.float32)),
        conditions={
            name.removeprefix("condition."): values
            for name, values in arrays.items()
            if name.startswith("condition.")
        },
        winner=winner,
        loser=loser,
        prompt=prompt,
        broken=tuple(Broken(**found) for found in index["broken"]),
        fingerprint=key,
    )


def encoder_fingerprint(family: Family) -> str:
    """Name the weights of everything in the pipeline but the denoiser."""
    digest = hashlib.sha256()
    for name, tensor in _encoder_tensors(family):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _encoder_tensors(family: Family) -> Iterator[tuple[str, torch.Tensor]]:
    for part, module in sorted(family.pipeline.components.items()):
        if isinstance(module, torch.nn.Module) and module is not family.denoiser:
            for name, tensor in sorted(module.state_dict().items()):
                yield f"{part}.{name}", tensor.reshape(-1)
