"""Scores beside the data: what rewards say of a medium and a prompt, kept by their content.

    DATA/scores/pickscore-1f2e3d4c/part-8c0f6a1e9b7d2c54.parquet
    DATA/scores/pickscore-1f2e3d4c/merged-51c7d0a9e3b6f824.parquet

A row holds the content hash of a medium, the hash of the prompt that it was scored for, the reward
with its fingerprint, and the score: NaN where the reward cannot judge. So a medium that stands in
many pairs is scored once for each prompt, and the media themselves are never written again. Shards
are only ever added, each whole and named by its content: several processes may write at once, and
what a killed process left is all there is to go on with. Many are merged into one (`score_shards`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.row_groups import open_file, read_columns, reading
from vipo_cli.data.score_shards import (
    KEYS,
    PART,
    has_scores,
    last_written,
    merge_files,
    read_files,
)
from vipo_cli.data.stored import is_stored, read_manifest
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash
from vipo_cli.run import fingerprint, writing

SCORES = "scores"
"""The folder in a stored data set that holds what was said of its media."""
SCHEMA = 1
"""Raised whenever the columns change."""
FACTORS = np.array(
    [
        0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB,
        0xD6E8FEB86659FD93, 0xA0761D6478BD642F,
    ],
    np.uint64,
)  # fmt: skip
"""Odd, and their bits in no order."""


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
        prompts: hash of the prompt of each medium's entry; likewise, or a dictionary array.
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

        return pc.binary_join_element_wise(self.media, _plain(self.prompts), "")


def media_keys(data: Path) -> MediaKeys:
    """Return the keys of a stored data set without reading prompts twice, or any media."""
    import pyarrow as pa

    files = [data / shard["file"] for shard in read_manifest(data)["shards"]]
    if not files:
        return MediaKeys(pa.array([], pa.string()), pa.array([], pa.string()), np.zeros(0, int))
    table = read_columns(files, ["prompt", "media_hash"], ("prompt",))
    texts = _chunk(table.column("prompt"))
    hashes = pa.array([prompt_hash(text) for text in texts.dictionary.to_pylist()])
    lists = _chunk(table.column("media_hash"))
    counts = np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False), np.int64)
    numbers = pa.array(np.repeat(texts.indices.to_numpy(), counts))
    return MediaKeys(lists.flatten(), pa.DictionaryArray.from_arrays(numbers, hashes), counts)


def keys_of(media: Sequence[str], prompts: Sequence[str]) -> MediaKeys:
    """Return the keys of some media by their hashes, each an entry of its own."""
    import pyarrow as pa

    first, second = (pa.array(list(each), pa.string()) for each in (media, prompts))
    return MediaKeys(first, second, np.ones(len(media), np.int64))


def places_of(keys: MediaKeys, among: MediaKeys) -> NDArray[np.int64]:
    """Return where each key stands first among others; -1 for one that does not.

    Numbers made of the hashes are looked up, which takes a third of the time that texts do; what is
    found is compared in full.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    media, media_there = _words(keys.media), _words(among.media)
    if media is None or media_there is None:
        return _indices(pc.index_in(keys.joined(), value_set=among.joined()))
    asked, known = (_coded(each.prompts) for each in (keys, among))
    codes = _indices(pc.index_in(asked.dictionary, value_set=known.dictionary))
    prompts, prompts_there = codes[_indices(asked.indices)], _indices(known.indices)
    numbers, numbers_there = _number(media, prompts), _number(media_there, prompts_there)
    places = _indices(pc.index_in(pa.array(numbers), value_set=pa.array(numbers_there)))
    places[prompts < 0] = -1
    found = np.flatnonzero(places >= 0)
    alike = prompts_there[places[found]] == prompts[found]
    for word, word_there in zip(media.T, media_there.T, strict=True):
        alike &= word_there[places[found]] == word[found]
    if len(wrong := found[~alike]):  # two keys have one number: as good as never
        some = MediaKeys(keys.media.take(wrong), keys.prompts.take(wrong), keys.counts[:0])
        places[wrong] = _indices(pc.index_in(some.joined(), value_set=among.joined()))
    return places


def _words(hashes: Any) -> NDArray[np.uint64] | None:
    """Return hashes as words of eight letters each, (n, 4); None if they are of another length."""
    length = len(content_hash(b""))
    offsets = np.frombuffer(hashes.buffers()[1], np.int32)[hashes.offset :][: len(hashes) + 1]
    if hashes.null_count or not len(hashes) or (np.diff(offsets) != length).any():
        return None
    letters = np.frombuffer(hashes.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return letters.view(np.uint64).reshape(len(hashes), -1)


def _number(media: NDArray[np.uint64], prompts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a number for each key: 64 bits of hash that depend on all of it."""
    number: NDArray[np.uint64] = prompts.astype(np.uint64) * FACTORS[0]
    for word, factor in zip(media.T, FACTORS[1:], strict=True):
        number += word * factor
    return number


def _coded(texts: Any) -> Any:
    return texts if hasattr(texts, "dictionary") else texts.dictionary_encode()


def _indices(found: Any) -> NDArray[np.int64]:
    return np.array(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


class StoredScores:
    """What one reward said, to be looked up for many media at once.

    Attributes:
        reward: its name.
        fingerprint: what changes whenever the same medium may score differently.
    """

    def __init__(
        self, reward: str, fingerprint: str, keys: MediaKeys, values: NDArray[np.float64]
    ) -> None:
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
        return places_of(keys, self._keys)


def stored_scores(folder: Path) -> dict[str, StoredScores]:
    """Return all scores in a folder, by reward; of several fingerprints, the one last written.

    Raises:
        DataError: a shard is damaged.
    """
    return {
        reward: read_files(place, scores_in) for reward, place in scored_rewards(folder).items()
    }


def scored_rewards(folder: Path) -> dict[str, Path]:
    """Return where the scores of each reward lie; of several fingerprints, those last written.

    Raises:
        DataError: a shard is damaged.
    """
    if not folder.is_dir():
        return {}
    places = sorted(filter(has_scores, folder.iterdir()), key=last_written)
    return {_reward_of(place): place for place in places}


def scores_in(files: Sequence[Path]) -> StoredScores:
    """Return the scores in the files of one reward."""
    table = read_columns(files, (*KEYS, "score"), ("prompt_hash",))
    media, prompts = (_chunk(table.column(name)) for name in KEYS)
    reward, identity = _whose(files[0])
    values = table.column("score").to_numpy()
    keys = MediaKeys(media, prompts, np.ones(len(values), np.int64))
    return StoredScores(reward, identity, keys, values)


def values_in(files: Sequence[Path]) -> NDArray[np.float64]:
    """Return the scores in the files of one reward alone, in their order."""
    return np.asarray(read_columns(files, ["score"]).column("score").to_numpy(), float)


def scores_at(values: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the scores that stand at some places; NaN where a place is -1."""
    scores = np.full(len(places), np.nan)
    found = places >= 0
    scores[found] = values[places[found]]
    return scores


def scores_of(folder: Path, reward: str, identity: str) -> StoredScores:
    """Return the scores of one reward with one fingerprint; there may be none yet."""
    import pyarrow as pa

    place = _place(folder, reward, identity)
    if not has_scores(place):
        nothing = pa.array([], pa.string())
        none = MediaKeys(nothing, nothing, np.zeros(0, np.int64))
        return StoredScores(reward, identity, none, np.zeros(0))
    return read_files(place, scores_in)


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
        "prompt_hash": _plain(keys.prompts),
        "reward": pa.array([reward] * len(values)),
        "fingerprint": pa.array([identity] * len(values)),
        "score": pa.array(values, pa.float64()),
    }
    table = pa.table(columns).replace_schema_metadata({"vipo.scores": str(SCHEMA)})
    name = content_hash("".join(keys.joined().to_pylist()).encode())[:16]
    with writing(_place(folder, reward, identity) / PART.format(name)) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def merge_scores(folder: Path, reward: str, identity: str) -> None:
    """Merge the shards of one reward with one fingerprint, if they are many.

    Raises:
        DataError: one is damaged.
    """
    merge_files(_place(folder, reward, identity))


def _place(folder: Path, reward: str, identity: str) -> Path:
    safe = re.sub(r"[^\w.-]", "-", reward)
    return folder / f"{safe}-{fingerprint([reward, identity])[:8]}"


def _reward_of(place: Path) -> str:
    """Return whose scores lie in a folder."""
    return read_files(place, lambda files: _whose(files[0])[0])


def _whose(file: Path) -> tuple[str, str]:
    """Return the reward and its fingerprint, which are the same in all rows."""
    with open_file(file, verify=True) as source, reading(file):
        names = ["reward", "fingerprint"]
        first = next(source.iter_batches(1, columns=names, use_threads=False))
        reward, identity = (str(first.column(name)[0].as_py()) for name in names)
        return reward, identity


def _chunk(column: Any) -> Any:
    """Return a column as one array; of texts held once, each is held once in all of it."""
    import pyarrow as pa

    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.unify_dictionaries().combine_chunks()


def _plain(texts: Any) -> Any:
    """Return an array of strings, where each different one may be held once."""
    from pyarrow import types

    return texts.dictionary_decode() if types.is_dictionary(texts.type) else texts
