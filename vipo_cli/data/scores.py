"""Scores beside the data: what rewards say of a medium and a prompt, kept by their content.

    DATA/scores/pickscore-1f2e3d4c/part-8c0f6a1e9b7d2c54.parquet

A row holds the content hash of a medium, the hash of the prompt that it was scored for, the reward
with its fingerprint, and the score: NaN where the reward cannot judge. So a medium that stands in
many pairs is scored once for each prompt, and the media themselves are never written again. Shards
are only ever added, each whole and named by its content: several processes may write at once, and
what a killed process left is all there is to go on with.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.row_groups import open_file, read_columns, reading
from vipo_cli.data.stored import is_stored, read_manifest
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash
from vipo_cli.run import fingerprint, writing

SCORES = "scores"
"""The folder in a stored data set that holds what was said of its media."""
SCHEMA = 1
"""Raised whenever the columns change."""


def prompt_hash(prompt: str) -> str:
    """Return the name of a prompt by content."""
    return content_hash(prompt.encode())


def scores_folder(data: Path, out: Path | None = None) -> Path:
    """Return where the scores of a place lie: in a stored data set, or where the user says.

    Raises:
        DataError: the place is no stored data set, and the user does not say.
    """
    if out is not None:
        return out
    if data.is_dir() and is_stored(data):
        return data / SCORES
    raise DataError(
        f"`{data}` is no data set that vipo keeps, and has no place for scores",
        hint="say where they go: --out DIR; or import it first: vipo data import",
    )


@dataclass(frozen=True, slots=True)
class MediaKeys:
    """By which scores of all media of a data set are looked up, entry after entry.

    Attributes:
        media: content hash of each medium; an Arrow array of strings.
        prompts: hash of the prompt of each medium's entry; likewise.
        counts: how many media each entry has.
    """

    media: Any
    prompts: Any
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.media)

    def joined(self) -> Any:
        """Return both hashes of each medium as one string."""
        import pyarrow.compute as pc

        return pc.binary_join_element_wise(self.media, self.prompts, "")


def media_keys(data: Path) -> MediaKeys:
    """Return the keys of a stored data set without reading prompts twice, or any media."""
    import pyarrow as pa

    files = [data / shard["file"] for shard in read_manifest(data)["shards"]]
    if not files:
        return MediaKeys(pa.array([], pa.string()), pa.array([], pa.string()), np.zeros(0, int))
    table = read_columns(files, ["prompt", "media_hash"]).combine_chunks()
    texts = _chunk(table.column("prompt")).dictionary_encode()
    hashes = pa.array([prompt_hash(text) for text in texts.dictionary.to_pylist()])
    lists = _chunk(table.column("media_hash"))
    counts = np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False), np.int64)
    numbers = np.repeat(texts.indices.to_numpy(), counts)
    return MediaKeys(lists.flatten(), hashes.take(pa.array(numbers)), counts)


def keys_of(media: Sequence[str], prompts: Sequence[str]) -> MediaKeys:
    """Return the keys of some media by their hashes, each an entry of its own."""
    import pyarrow as pa

    first, second = (pa.array(list(each), pa.string()) for each in (media, prompts))
    return MediaKeys(first, second, np.ones(len(media), np.int64))


class StoredScores:
    """What one reward said, to be looked up for many media at once.

    Attributes:
        reward: its name.
        fingerprint: what changes whenever the same medium may score differently.
    """

    def __init__(self, reward: str, fingerprint: str, keys: Any, values: Any) -> None:
        self.reward = reward
        self.fingerprint = fingerprint
        self._keys = keys
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def has(self, keys: MediaKeys) -> NDArray[np.bool_]:
        """Tell of each medium whether it has been scored, if only to say that it cannot be."""
        found: NDArray[np.bool_] = self.places(keys) >= 0
        return found

    def of(self, keys: MediaKeys) -> NDArray[np.float64]:
        """Return the score of each medium; NaN where it was not scored or cannot be judged."""
        return scores_at(self._values, self.places(keys))

    def places(self, keys: MediaKeys) -> NDArray[np.int64]:
        """Return where the score of each medium stands; -1 for one that was not scored."""
        import pyarrow.compute as pc

        found = pc.index_in(keys.joined(), value_set=self._keys)
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def stored_scores(folder: Path) -> dict[str, StoredScores]:
    """Return all scores in a folder, by reward; of several fingerprints, the one last written.

    Raises:
        DataError: a shard is damaged.
    """
    return {reward: _read(place) for reward, place in scored_rewards(folder).items()}


def scored_rewards(folder: Path) -> dict[str, Path]:
    """Return where the scores of each reward lie; of several fingerprints, those last written.

    Raises:
        DataError: a shard is damaged.
    """
    if not folder.is_dir():
        return {}
    places = [place for place in folder.iterdir() if any(place.glob("part-*.parquet"))]
    places.sort(key=lambda place: max(file.stat().st_mtime_ns for file in place.glob("part-*")))
    return {_reward_of(place): place for place in places}


def read_scores(place: Path) -> StoredScores:
    """Return the scores of one reward, which lie in a folder of their own.

    Raises:
        DataError: a shard is damaged.
    """
    return _read(place)


def shard_names(place: Path) -> tuple[str, ...]:
    """Return the names of the shards of one reward.

    Shards are named by the media and prompts in them: where these are the same for two rewards, so
    is the order of their scores.
    """
    return tuple(file.name for file in _shards(place))


def read_values(place: Path) -> NDArray[np.float64]:
    """Return the scores of one reward alone, in the order of its shards.

    Raises:
        DataError: a shard is damaged.
    """
    try:
        values = read_columns(_shards(place), ["score"]).column("score").to_numpy()
    except (DataError, KeyError) as error:
        raise _damaged(place, error) from error
    return np.asarray(values, float)


def scores_at(values: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the scores that stand at some places; NaN where a place is -1."""
    scores = np.full(len(places), np.nan)
    found = places >= 0
    scores[found] = values[places[found]]
    return scores


def _shards(place: Path) -> list[Path]:
    return sorted(place.glob("part-*.parquet"))


def scores_of(folder: Path, reward: str, identity: str) -> StoredScores:
    """Return the scores of one reward with one fingerprint; there may be none yet."""
    import pyarrow as pa

    place = _place(folder, reward, identity)
    if not any(place.glob("part-*.parquet")):
        return StoredScores(reward, identity, pa.array([], pa.string()), np.zeros(0))
    return _read(place)


def write_scores(
    folder: Path, reward: str, identity: str, keys: MediaKeys, values: NDArray[np.float64]
) -> None:
    """Add a shard.

    Args:
        folder: of all scores.
        reward: its name.
        identity: its fingerprint.
        keys: the media that were scored.
        values: their scores, in the same order.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not len(values):
        return
    columns = {
        "media_hash": keys.media,
        "prompt_hash": keys.prompts,
        "reward": pa.array([reward] * len(values)),
        "fingerprint": pa.array([identity] * len(values)),
        "score": pa.array(values, pa.float64()),
    }
    table = pa.table(columns).replace_schema_metadata({"vipo.scores": str(SCHEMA)})
    name = content_hash("".join(keys.joined().to_pylist()).encode())[:16]
    with writing(_place(folder, reward, identity) / f"part-{name}.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _place(folder: Path, reward: str, identity: str) -> Path:
    safe = re.sub(r"[^\w.-]", "-", reward)
    return folder / f"{safe}-{fingerprint([reward, identity])[:8]}"


def _reward_of(place: Path) -> str:
    """Return whose scores lie in a folder, by the first row of one of its shards."""
    file = min(place.glob("part-*.parquet"))
    try:
        with open_file(file, verify=True) as source, reading(file):
            rows = next(source.iter_batches(1, columns=["reward"], use_threads=False))
            return str(rows.column("reward")[0].as_py())
    except (DataError, StopIteration) as error:
        raise _damaged(place, error) from error


def _damaged(place: Path, error: Exception) -> DataError:
    return DataError(
        f"the scores in `{place}` are damaged: {error}",
        hint=f"remove them, and score again: rm -r {place}",
    )


def _read(place: Path) -> StoredScores:
    from pyarrow import ArrowException

    files = _shards(place)
    try:
        table = read_columns(files, ("media_hash", "prompt_hash", "score")).combine_chunks()
        media, prompts = (_chunk(table.column(name)) for name in ("media_hash", "prompt_hash"))
        whose = read_columns(files[:1], ("reward", "fingerprint"))  # the same in all rows
        reward, identity = (whose.column(name)[0].as_py() for name in whose.column_names)
        values = table.column("score").to_numpy()
    except (ArrowException, DataError, KeyError, OSError) as error:
        raise _damaged(place, error) from error
    keys = MediaKeys(media, prompts, np.ones(len(values), np.int64)).joined()
    return StoredScores(reward, identity, keys, values)


def _chunk(column: Any) -> Any:
    """Return a column that was combined as one array."""
    import pyarrow as pa

    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
