"""Scores of winners and losers that a data set has already: in its rows, or beside it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.margins import reward_name
from vipo_cli.data.parquet import ParquetRecords
from vipo_cli.data.score_shards import read_files
from vipo_cli.data.scores import (
    SCORES,
    MediaKeys,
    media_keys,
    scored_rewards,
    scores_at,
    scores_in,
    values_in,
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

    Names and numbers are columns of their own in the files: which rewards there are is known before
    any score is read.

    Attributes:
        rewards: their names, as the entries spell them.
    """

    def __init__(self, pairs: StoredRecords) -> None:
        self._pairs = pairs
        self.rewards: list[str] = []
        keys, self._counts = _in_maps(pairs, "scores.key_value.key")
        if not len(keys):
            return
        rewards = keys.flatten()[0].dictionary_encode()
        self.rewards = rewards.dictionary.to_pylist()
        self._codes = rewards.indices.to_numpy()

    @cached_property
    def _second(self) -> NDArray[np.bool_]:
        return _second_wins(self._pairs)

    @cached_property
    def _lists(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The scores of one reward for one entry after the other, and where each begin."""
        (lists,) = _in_maps(self._pairs, "scores.key_value.value")[0].flatten()
        starts = np.asarray(lists.offsets)
        values = lists.values[starts[0] : starts[-1]].to_numpy(zero_copy_only=False)
        return values, starts - starts[0]

    @cached_property
    def _are_alike(self) -> bool:
        """Whether each entry has two scores by each reward, in the same order."""
        each = len(self.rewards)
        return (
            bool((self._counts == each).all())
            and bool((self._codes.reshape(-1, each) == self._codes[:each]).all())
            and bool((np.diff(self._lists[1]) == 2).all())
        )

    def scores(self, reward: str) -> Scores:
        """Return the scores of one reward, of winners and losers."""
        values, starts = self._lists
        number, second = self.rewards.index(reward), self._second
        if self._are_alike:
            column = int(np.flatnonzero(self._codes[: len(self.rewards)] == number)[0])
            both = values.reshape(len(self._pairs), -1, 2)[:, column]
            first, other = np.ascontiguousarray(both.T)
            return np.stack([np.where(second, other, first), np.where(second, first, other)]).T
        mine = (self._codes == number) & (np.diff(starts) == 2)
        rows = np.repeat(np.arange(len(self._pairs)), self._counts)[mine]
        starts, second = starts[:-1][mine], second[rows]
        scores = np.full((2, len(self._pairs)), np.nan)
        scores[0, rows] = values[starts + second]
        scores[1, rows] = values[starts + ~second]
        return scores.T


def _in_maps(pairs: StoredRecords, leaf: str) -> tuple[Any, NDArray[np.int64]]:
    """Return one side of the maps of all entries, and how many each entry has.

    Args:
        pairs: whose entries they are.
        leaf: keys or values, as a column of the files.
    """
    column = pairs.columns([leaf])[leaf].combine_chunks()
    counts = np.zeros(len(column), np.int64)
    if column.null_count == len(column):
        return column.values[:0], counts
    maps = column.drop_null() if column.null_count else column
    offsets = np.asarray(maps.offsets)
    counts[column.is_valid().to_numpy(zero_copy_only=False)] = np.diff(offsets)
    return maps.values[offsets[0] : offsets[-1]], counts


class _Beside:
    """The scores beside a data set; media are looked up once where rewards scored the same.

    Attributes:
        rewards: where the scores of each lie.
    """

    def __init__(self, pairs: StoredRecords) -> None:
        self._pairs = pairs
        self.rewards = scored_rewards(pairs.folder / SCORES)
        self._places: dict[tuple[str, ...], NDArray[np.int64]] = {}

    def scores(self, reward: str) -> Scores:
        """Return the scores of one reward, of winners and losers."""
        return read_files(self.rewards[reward], self._scores)

    def _scores(self, files: Sequence[Path]) -> Scores:
        """Read files, which are named by the media and prompts in them, in this order."""
        names = tuple(file.name for file in files)
        if names not in self._places:
            places = scores_in(files).places(self._keys)
            self._places[names] = places[self._sides]
        return scores_at(values_in(files), self._places[names]).reshape(2, -1).T

    @cached_property
    def _keys(self) -> MediaKeys:
        return media_keys(self._pairs.folder)

    @cached_property
    def _sides(self) -> NDArray[np.int64]:
        """Which media are the winners, then which are the losers."""
        first = (np.cumsum(self._keys.counts) - self._keys.counts)[self._pairs.rows]
        second = _second_wins(self._pairs)
        return np.concatenate([first + second, first + ~second])


def _second_wins(pairs: StoredRecords) -> NDArray[np.bool_]:
    import pyarrow.compute as pc

    labels = pairs.columns(["label"])["label"]
    wins: NDArray[np.bool_] = pc.equal(labels, "b").to_numpy()
    return wins
