"""Scores for all media of a data set, each with its prompt once, written beside the data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.building.team import is_mine, wait_for_team
from vipo_cli.data.entry import Entry
from vipo_cli.data.record import Record
from vipo_cli.data.scores import (
    MediaKeys,
    StoredScores,
    keys_of,
    media_keys,
    merge_scores,
    prompt_hash,
    scores_of,
    write_scores,
)
from vipo_cli.data.stored import entry_in, stored_rows
from vipo_cli.errors import DataError, MissingWeights
from vipo_cli.media import content_hash, media_bytes
from vipo_cli.rewards import Reward
from vipo_cli.rewards.made import make_reward
from vipo_cli.run import Progress, Work

BATCH = 64
"""Media that a reward gets at once."""
SHARD_ROWS = 4096
SHARD_SECONDS = 60.0
"""A shard is written when it has so many rows, or after so long: what a killed process loses."""
MERGED_EVERY = 64
"""Shards after which a process merges them."""

STAGE = "scoring"


@dataclass(frozen=True, slots=True)
class RewardScores:
    """What was found for one reward.

    Attributes:
        fingerprint: of the reward.
        new: how many media with their prompts were scored.
        known: how many had been before.
        unjudged: how many of all it cannot judge.
        mean, low, high: of the others; None where there are none.
    """

    fingerprint: str
    new: int
    known: int
    unjudged: int
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Scoring:
    """What scoring a data set came to.

    Attributes:
        folder: where the scores lie.
        media: how many media stand in the entries.
        distinct: how many differ in content or prompt.
        unreadable: how many cannot be read.
        rewards: what was found, by reward.
    """

    folder: Path
    media: int
    distinct: int
    unreadable: int
    rewards: Mapping[str, RewardScores]


@dataclass(slots=True)
class _Shard:
    """Scores of one reward that are not written yet."""

    folder: Path
    reward: Reward
    media: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    since: float = field(default_factory=monotonic)
    written: int = 0

    def add(self, keys: Sequence["Key"], values: NDArray[np.float64]) -> None:
        self.media += [medium for medium, _ in keys]
        self.prompts += [prompt for _, prompt in keys]
        self.values += values.tolist()
        if len(self.values) >= SHARD_ROWS or monotonic() - self.since >= SHARD_SECONDS:
            self.write()

    def write(self) -> None:
        name, identity = self.reward.name, self.reward.fingerprint
        keys = keys_of(self.media, self.prompts)
        write_scores(self.folder, name, identity, keys, np.array(self.values))
        self.media, self.prompts, self.values, self.since = [], [], [], monotonic()
        self.written += 1
        if self.written % MERGED_EVERY == 0:
            merge_scores(self.folder, name, identity)


Key = tuple[str, str]
"""A medium's content hash, and the hash of the prompt that it is scored for."""
Medium = tuple[Key, bytes, str]
"""A key with the medium and the prompt themselves."""


OptionsOf = Mapping[str, Mapping[str, Any]]
"""Options of rewards, by reward."""


def load_rewards(names: Sequence[str], options: OptionsOf = {}) -> list[Reward]:  # noqa: B006
    """Return rewards by name.

    Raises:
        UnknownName: there is none of a name.
        MissingWeights: one whose weights are not at hand; tells of all such.
    """
    loaded, missing = [], []
    for name in dict.fromkeys(names):
        try:
            loaded.append(make_reward(name, options.get(name, {})))
        except MissingWeights as error:
            missing.append((name, error))
    if missing:
        raise MissingWeights(
            f"cannot score with {', '.join(f'`{name}`' for name, _ in missing)}",
            details=[f"{name}: {error.message}" for name, error in missing],
            hint="\n".join(dict.fromkeys(error.hint for _, error in missing if error.hint)),
        )
    return loaded


def score_stored(
    data: Path,
    names: Sequence[str],
    folder: Path,
    limit: int | None = None,
    options: OptionsOf = {},  # noqa: B006 - never changed
) -> Work[Scoring]:
    """Score the media of a stored data set that have no score yet.

    Args:
        data: its folder.
        names: of the rewards.
        folder: where scores lie and go.
        limit: deal with the first so many entries.
        options: of the rewards.

    Raises:
        UnknownName: there is no such reward.
        MissingWeights: one is not at hand.
    """
    yield Progress("load rewards", 0, 1)
    loaded = load_rewards(names, options)
    keys = _first(media_keys(data), limit)
    before = {reward.name: _known(folder, reward) for reward in loaded}
    missing = {reward.name: ~before[reward.name].has(keys) for reward in loaded}
    any_missing = np.any(list(missing.values()), axis=0) if loaded else np.zeros(len(keys), bool)
    todo = _distinct(keys, any_missing)
    wanted = np.zeros(len(keys), bool)
    wanted[todo] = True
    unreadable = yield from _score(_media_of(data, keys, wanted), len(todo), loaded, before, folder)
    return _found(folder, loaded, before, keys, unreadable)


def score_records(
    records: Sequence[Record],
    names: Sequence[str],
    folder: Path,
    options: OptionsOf = {},  # noqa: B006 - never changed
) -> Work[Scoring]:
    """Score the media of any records that have no score in a folder yet.

    Raises:
        UnknownName: there is no such reward.
        MissingWeights: one is not at hand.
    """
    yield Progress("load rewards", 0, 1)
    loaded = load_rewards(names, options)
    before = {reward.name: _known(folder, reward) for reward in loaded}
    seen: list[Key] = []
    broken: list[int] = []

    def media() -> Iterator[Medium | None]:
        met: set[Key] = set()
        for record in records:
            for medium in record.media:
                try:
                    data = media_bytes(medium)
                except DataError:
                    broken.append(1)
                    continue
                key = content_hash(data), prompt_hash(record.prompt)
                seen.append(key)
                new = key not in met and is_mine(int(key[0][:8], 16))
                met.add(key)
                if new:
                    yield key, data, record.prompt
            yield None

    yield from _score(media(), len(records), loaded, before, folder)
    keys = keys_of([medium for medium, _ in seen], [prompt for _, prompt in seen])
    return _found(folder, loaded, before, keys, len(broken))


def _known(folder: Path, reward: Reward) -> StoredScores:
    return scores_of(folder, reward.name, reward.fingerprint)


def _first(keys: MediaKeys, limit: int | None) -> MediaKeys:
    """Return the keys of the first so many entries."""
    if limit is None or limit >= len(keys.counts):
        return keys
    counts = keys.counts[:limit]
    media = int(counts.sum())
    return MediaKeys(keys.media.slice(0, media), keys.prompts.slice(0, media), counts)


def _distinct(keys: MediaKeys, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the places where a wanted key stands first, of those that are for this process."""
    codes = keys.joined().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    places = np.sort(first[wanted[first]])
    own = [place for place in places if is_mine(int(keys.media[int(place)].as_py()[:8], 16))]
    return np.array(own, np.int64)


def _media_of(data: Path, keys: MediaKeys, wanted: NDArray[np.bool_]) -> Iterator[Medium | None]:
    """Yield the wanted media; groups of rows that hold none of them are not read."""
    starts = np.cumsum(keys.counts) - keys.counts
    rows = stored_rows(data)
    for number in np.unique(np.searchsorted(starts, np.flatnonzero(wanted), side="right") - 1):
        entry = entry_in(*rows.row(int(number)))
        yield from _wanted_of(entry, int(starts[number]), keys, wanted)


def _wanted_of(
    entry: Entry, start: int, keys: MediaKeys, wanted: NDArray[np.bool_]
) -> Iterator[Medium | None]:
    for place, medium in enumerate(entry.media, start):
        if not wanted[place]:
            continue
        key = keys.media[place].as_py(), keys.prompts[place].as_py()
        try:
            yield key, media_bytes(medium), entry.prompt
        except DataError:  # a linked file that is gone
            yield key, b"", entry.prompt
        yield None


def _score(
    media: Iterator[Medium | None],
    total: int,
    loaded: Sequence[Reward],
    before: Mapping[str, StoredScores],
    folder: Path,
) -> Work[int]:
    """Score media, each by the rewards that have not; a None says that one more unit is done."""
    shards = {reward.name: _Shard(folder, reward) for reward in loaded}
    batch: list[Medium] = []
    done = unreadable = 0
    yield Progress(STAGE, 0, total)
    for each in media:
        if each is None:
            done += 1
            continue
        if not each[1]:
            unreadable += 1
            continue
        batch.append(each)
        if len(batch) == BATCH:
            _judge(batch, loaded, before, shards)
            batch = []
            yield Progress(STAGE, done, total)
    _judge(batch, loaded, before, shards)
    for shard in shards.values():
        shard.write()
    yield Progress(STAGE, total, total)
    wait_for_team()
    for reward in loaded:
        merge_scores(folder, reward.name, reward.fingerprint)
    return unreadable


def _judge(
    batch: Sequence[Medium],
    loaded: Sequence[Reward],
    before: Mapping[str, StoredScores],
    shards: Mapping[str, _Shard],
) -> None:
    if not batch:
        return
    keys = keys_of([key[0] for key, _, _ in batch], [key[1] for key, _, _ in batch])
    for reward in loaded:
        new = np.flatnonzero(~before[reward.name].has(keys))
        if len(new):
            chosen = [batch[place] for place in new.tolist()]
            values = reward.score([data for _, data, _ in chosen], [text for *_, text in chosen])
            shards[reward.name].add([key for key, _, _ in chosen], np.asarray(values, np.float64))


def _found(
    folder: Path,
    loaded: Sequence[Reward],
    before: Mapping[str, StoredScores],
    keys: MediaKeys,
    unreadable: int,
) -> Scoring:
    """Sum up what is known of the distinct media now."""
    import pyarrow as pa

    codes = keys.joined().dictionary_encode().indices.to_numpy() if len(keys) else np.zeros(0, int)
    _, first = np.unique(codes, return_index=True)
    places = pa.array(first)
    distinct = MediaKeys(
        keys.media.take(places), keys.prompts.take(places), np.ones(len(first), int)
    )
    found = {}
    for reward in loaded:
        known = int(before[reward.name].has(distinct).sum()) if len(first) else 0
        scores = _known(folder, reward)
        values = scores.of(distinct) if len(first) else np.zeros(0)
        has = scores.has(distinct) if len(first) else np.zeros(0, bool)
        judged = values[np.isfinite(values)]
        some = len(judged) > 0
        found[reward.name] = RewardScores(
            fingerprint=reward.fingerprint,
            new=int(has.sum()) - known,
            known=known,
            unjudged=int(has.sum()) - len(judged),
            mean=float(judged.mean()) if some else None,
            low=float(judged.min()) if some else None,
            high=float(judged.max()) if some else None,
        )
    return Scoring(folder, len(keys), len(first), unreadable, found)
