"""Scores of winners and losers that a data set has already: in its rows, or beside it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.margins import reward_name
from vipo_cli.data.parquet import ParquetRecords
from vipo_cli.data.scores import (
    SCORES,
    MediaKeys,
    media_keys,
    read_scores,
    read_values,
    scored_rewards,
    scores_at,
    shard_names,
)
from vipo_cli.data.stored import StoredRecords

Scores = NDArray[np.float64]
"""Of winner and loser of each pair, (n, 2), NaN where nobody scored them."""


def known_scores(pairs: Sequence[Any]) -> Mapping[str, Callable[[], Scores]]:
    """Return what reads the scores of each reward that a data set has, by name.

    What stands beside the data counts more than what stands in its rows, as for `vipo data filter`.

    Raises:
        DataError: scores are damaged.
    """
    if isinstance(pairs, ParquetRecords):
        return {reward_name(name): partial(pairs.score, name) for name in pairs.scores}
    if not isinstance(pairs, StoredRecords):
        return {}
    rows, beside = _InRows(pairs), _Beside(pairs)
    known = {reward_name(name): partial(rows.scores, name) for name in rows.rewards}
    return known | {name: partial(beside.scores, name) for name in sorted(beside.rewards)}


class _InRows:
    """The scores that entries hold themselves: a map of lists, read once for all rewards.

    Attributes:
        rewards: their names, as the entries spell them.
    """

    def __init__(self, pairs: StoredRecords) -> None:
        self._pairs = pairs
        self.rewards: list[str] = []
        column = pairs.columns(["scores"])["scores"].combine_chunks()
        if column.null_count == len(column):
            return
        maps = column.drop_null() if column.null_count else column
        offsets = np.asarray(maps.offsets)
        inside = slice(offsets[0], offsets[-1])
        rewards = maps.keys[inside].dictionary_encode()
        lists = maps.items[inside]
        self.rewards = rewards.dictionary.to_pylist()
        self._codes = rewards.indices.to_numpy()
        self._values = lists.values.to_numpy(zero_copy_only=False)
        self._starts = np.asarray(lists.offsets)
        owners = np.flatnonzero(~column.is_null().to_numpy(zero_copy_only=False))
        self._rows = np.repeat(owners, np.diff(offsets))

    @cached_property
    def _second(self) -> NDArray[np.bool_]:
        return _second_wins(self._pairs)

    def scores(self, reward: str) -> Scores:
        """Return the scores of one reward, of winners and losers."""
        mine = self._codes == self.rewards.index(reward)
        mine &= np.diff(self._starts) == 2
        starts, rows = self._starts[:-1][mine], self._rows[mine]
        second = self._second[rows]
        scores = np.full((2, len(self._pairs)), np.nan)
        scores[0, rows] = self._values[starts + second]
        scores[1, rows] = self._values[starts + ~second]
        return scores.T


class _Beside:
    """The scores beside a data set; media are looked up once where rewards scored the same.

    Attributes:
        rewards: where the scores of each lie.
    """

    def __init__(self, pairs: StoredRecords) -> None:
        self._pairs = pairs
        self.rewards = scored_rewards(pairs.folder / SCORES)
        self._keys: MediaKeys | None = None
        self._places: dict[tuple[str, ...], NDArray[np.int64]] = {}

    def scores(self, reward: str) -> Scores:
        """Return the scores of one reward, of winners and losers."""
        place = self.rewards[reward]
        scored = shard_names(place)
        if scored not in self._places:
            self._keys = self._keys or _keys(self._pairs)
            self._places[scored] = read_scores(place).places(self._keys)
        return scores_at(read_values(place), self._places[scored]).reshape(2, -1).T


def _second_wins(pairs: StoredRecords) -> NDArray[np.bool_]:
    import pyarrow.compute as pc

    labels = pairs.columns(["label"])["label"]
    wins: NDArray[np.bool_] = pc.equal(labels, "b").to_numpy()
    return wins


def _keys(pairs: StoredRecords) -> MediaKeys:
    """Return the keys of all winners, then of all losers."""
    import pyarrow as pa

    every = media_keys(pairs.folder)
    first = (np.cumsum(every.counts) - every.counts)[pairs.rows]
    second = _second_wins(pairs)
    places = pa.array(np.concatenate([first + second, first + ~second]))
    return MediaKeys(
        every.media.take(places), every.prompts.take(places), np.ones(len(places), np.int64)
    )
