"""Agreement between raters, people or rewards: shares, and what is left of them beyond chance.

ratings (raters, items)   what each rater said of each item, NaN where nothing
votes (n, k)              of k rewards about n pairs: +1 winner, -1 loser, 0 a tie, NaN nothing

A pair has no first and second: turned round, all votes about it change sign. So the measures whose
names begin with `pair` count each pair once either way, and do not depend on the labels.
"""

from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Level = Literal["nominal", "ordinal", "interval", "ratio"]
"""What the difference of two ratings means: that they differ, by how many places in the order, by
how much, by how much of their sum."""


def agreement(a: ArrayLike, b: ArrayLike) -> float:
    """Return the share of items on which two raters say the same; NaN ratings are left out."""
    first, second = _both(a, b)
    return float((first == second).mean()) if len(first) else float("nan")


def cohen_kappa(a: ArrayLike, b: ArrayLike) -> float:
    """Return Cohen's kappa: (observed - expected) / (1 - expected) over nominal ratings.

    Expected is the agreement of two raters who keep their own frequencies but rate at random. NaN
    ratings are left out. Where both always say one and the same thing nothing can be said: NaN.
    """
    first, second = _both(a, b)
    if not len(first):
        return float("nan")
    values, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    n, k = len(first), len(values)
    table = np.bincount(codes[:n] * k + codes[n:], minlength=k * k).reshape(k, k) / n
    expected = float(table.sum(1) @ table.sum(0))
    return (float(np.trace(table)) - expected) / (1 - expected) if expected < 1 else float("nan")


def pair_kappa(a: ArrayLike, b: ArrayLike) -> float:
    """Return Cohen's kappa of votes +1, -1 or 0 about pairs, whatever the order of the pair.

    Each pair counts once either way, which makes +1 and -1 equally frequent. Without ties it is
    2 * agreement - 1.
    """
    first, second = _both(a, b)
    if not len(first):
        return float("nan")
    ties_a, ties_b = float((first == 0).mean()), float((second == 0).mean())
    expected = ties_a * ties_b + (1 - ties_a) * (1 - ties_b) / 2
    observed = float((first == second).mean())
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def pair_spearman(
    margins: ArrayLike, ranks: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return Spearman's correlations of the columns of margins (n, k), whatever the pairs' order.

    Each pair counts once either way, with the opposite margins. A rank among all these is that of
    the size among sizes, with the sign. Pairs with a NaN are left out; a reward whose margins are
    all 0 has NaN.

    Args:
        margins: by pair and reward.
        ranks: `ranks_of` the sizes, (k, n), where these are known already and nothing is NaN.
    """
    table = np.asarray(margins, float)
    missing = np.isnan(table).any(1)
    if missing.any():
        table, ranks = table[~missing], None
    if ranks is None:
        ranks = np.stack([ranks_of(np.abs(column)) for column in table.T])
    signed = np.sign(table.T) * ranks
    products = signed @ signed.T
    scale = np.sqrt(np.outer(np.diag(products), np.diag(products)))
    return np.where(scale > 0, products / np.where(scale > 0, scale, 1), np.nan)


def pair_matrices(
    votes: ArrayLike, times: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return agreement and `pair_kappa` of each two rewards, (k, k), over votes (n, k).

    Args:
        votes: about pairs.
        times: how often each row stands for a pair; by default once.
    """
    table, weights = np.asarray(votes, float), _times(votes, times)
    shown = [(table == value).astype(float) for value in (1, 0, -1)]
    judged = shown[0] + shown[1] + shown[2]
    both = judged.T @ (weights * judged)
    alike = sum((each.T @ (weights * each) for each in shown), np.zeros_like(both))
    with np.errstate(invalid="ignore", divide="ignore"):
        ties = shown[1].T @ (weights * judged) / both
        expected = ties * ties.T + (1 - ties) * (1 - ties.T) / 2
        observed = alike / both
        kappa = (observed - expected) / np.where(expected < 1, 1 - expected, np.nan)
    return observed, kappa


def krippendorff_alpha(ratings: ArrayLike, level: Level = "nominal") -> float:
    """Return Krippendorff's alpha: 1 - observed / expected disagreement.

    Any number of raters may have rated an item; items with fewer than two ratings are left out.
    Observed disagreement is that of ratings of the same item, expected that of all ratings paired
    at random. NaN where all ratings are the same: nothing can be said.
    """
    table = np.asarray(ratings, float)
    table = table[:, (~np.isnan(table)).sum(0) > 1]
    there = ~np.isnan(table)
    counts, flat = there.sum(0), table[there]
    if not len(flat):
        return float("nan")
    values, codes, times = np.unique(flat, return_inverse=True, return_counts=True)
    if level == "ordinal":
        values = np.cumsum(times) - times / 2  # then a distance is that of intervals
    placed = np.full(table.shape, np.nan)
    placed[there] = values[codes]
    observed = float((_disagreement(placed, level) / (counts - 1)).sum())
    expected = _expected_disagreement(values, times, level) / (len(flat) - 1)
    return 1 - observed / expected if expected > 0 else float("nan")


def pair_alpha(votes: ArrayLike, times: ArrayLike | None = None) -> float:
    """Return Krippendorff's alpha of rewards over votes, whatever the order of the pairs.

    Args:
        votes: about pairs, (n, k).
        times: how often each row stands for a pair; by default once.
    """
    table, weights = np.asarray(votes, float), _times(votes, times)[:, 0]
    counts = _counted_votes(table)
    judges = counts.sum(1)
    compared = judges > 1
    counts, judges, weights = counts[compared], judges[compared], weights[compared]
    observed = float(weights @ ((judges**2 - (counts**2).sum(1)) / (judges - 1)))
    n, ties = 2 * float(weights @ judges), 2 * float(weights @ counts[:, 1])  # each pair either way
    decided = (n - ties) / 2
    expected = (n**2 - ties**2 - 2 * decided**2) / (n - 1) if n > 1 else 0.0
    return 1 - 2 * observed / expected if expected > 0 else float("nan")


def pair_fleiss(votes: ArrayLike, times: ArrayLike | None = None) -> float:
    """Return `fleiss_kappa` of rewards over votes, whatever the order of the pairs.

    Pairs about which a reward says nothing are left out. NaN where none is left.
    """
    counts, weights = _either_way(votes, times)
    return fleiss_kappa(counts, weights) if len(counts) else float("nan")


def pair_ac1(votes: ArrayLike, times: ArrayLike | None = None) -> float:
    """Return `gwet_ac1` of rewards over votes, whatever the order of the pairs.

    Pairs about which a reward says nothing are left out. NaN where none is left.
    """
    counts, weights = _either_way(votes, times)
    return gwet_ac1(counts, weights) if len(counts) else float("nan")


def pair_entropy(votes: ArrayLike, times: ArrayLike | None = None) -> float:
    """Return the bits in the votes about a pair, on average, over pairs that all rewards judge.

    0 where all say the same, 1 where half say the opposite, log2(3) with as many ties.
    """
    counts, weights = _either_way(votes, times)
    if not len(counts):
        return float("nan")
    shares = counts / counts.sum(1, keepdims=True)
    bits = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1)
    return float(weights @ bits / weights.sum())


def fleiss_kappa(counts: ArrayLike, times: ArrayLike | None = None) -> float:
    """Return Fleiss' kappa of a table of items by categories: how many raters chose which.

    Args:
        counts: of each item, all with equally many raters.
        times: how often each row stands for an item; by default once.

    Raises:
        ValueError: the items were not all rated by equally many, two or more.
    """
    table, weights = np.asarray(counts, float), _times(counts, times)[:, 0]
    raters = table.sum(1)
    if not len(raters) or raters[0] < 2 or (raters != raters[0]).any():
        raise ValueError("Fleiss' kappa needs equally many raters, two or more, for each item")
    observed = float(weights @ _agreeing_pairs(table) / weights.sum())
    shares = weights @ table / (weights.sum() * raters[0])
    expected = float(shares @ shares)
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def gwet_ac1(counts: ArrayLike, times: ArrayLike | None = None) -> float:
    """Return Gwet's AC1 of a table of items by categories: how many raters chose which.

    It holds up where nearly all ratings are one and the same, where kappa breaks down. Items may
    have been rated by different numbers; one that nobody rated is left out. NaN for one category.

    Args:
        counts: of each item.
        times: how often each row stands for an item; by default once.
    """
    table, weights = np.asarray(counts, float), _times(counts, times)[:, 0]
    rated, compared = table.sum(1) > 0, table.sum(1) > 1
    if not compared.any() or table.shape[1] < 2:
        return float("nan")
    observed = weights[compared] @ _agreeing_pairs(table[compared]) / weights[compared].sum()
    shares = table[rated] / table[rated].sum(1, keepdims=True)
    usual = weights[rated] @ shares / weights[rated].sum()
    expected = float((usual * (1 - usual)).sum()) / (table.shape[1] - 1)
    return float((observed - expected) / (1 - expected))


def ranks_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many values are smaller, and half of those that are equal, itself among them."""
    order = np.argsort(values)
    ordered = values[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(values) else order
    times = np.diff(first, append=len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(first + times / 2, times)
    return ranks


def counted(ratings: ArrayLike) -> NDArray[np.int64]:
    """Return how many raters chose which category, (items, categories), categories ascending."""
    table = np.asarray(ratings, float)
    categories = np.unique(table[~np.isnan(table)])
    return np.stack([(table == category).sum(0) for category in categories], 1)


def _times(rows: ArrayLike, times: ArrayLike | None) -> NDArray[np.float64]:
    """Return how often each row counts, as a column."""
    count = len(np.asarray(rows))
    return np.ones((count, 1)) if times is None else np.asarray(times, float)[:, None]


def _counted_votes(votes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many rewards voted for the winner, for neither and for the loser, (n, 3)."""
    return np.stack([(votes == value).sum(1) for value in (1, 0, -1)], 1).astype(float)


def _either_way(
    votes: ArrayLike, times: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return counts of the votes about each pair and about it turned round, with their weights."""
    table, weights = np.asarray(votes, float), _times(votes, times)[:, 0]
    complete = ~np.isnan(table).any(1) & (weights > 0)
    counts, weights = _counted_votes(table[complete]), weights[complete]
    if not counts[:, 1].any():
        counts = counts[:, ::2]  # a category that nobody chose would change AC1
    return np.concatenate([counts, counts[:, ::-1]]), np.concatenate([weights, weights])


def _agreeing_pairs(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of pairs of raters who agree, for each item."""
    raters = table.sum(1)
    shares: NDArray[np.float64] = (table * (table - 1)).sum(1) / (raters * (raters - 1))
    return shares


def _disagreement(table: NDArray[np.float64], level: Level) -> NDArray[np.float64]:
    """Return the sum of squared distances over all ordered pairs of ratings of each item."""
    if level == "nominal":
        judges = (~np.isnan(table)).sum(0)
        values = np.unique(table[~np.isnan(table)])
        alike = sum((table == value).sum(0) ** 2 for value in values)
        return np.asarray(judges**2 - alike, float)
    if level == "ratio":
        total = np.zeros(table.shape[1])
        for one, other in combinations(table, 2):
            total += 2 * np.nan_to_num(_ratio_distance(one, other))
        return total
    centred = np.nan_to_num(table - np.nanmean(table))
    judges = (~np.isnan(table)).sum(0)
    spread: NDArray[np.float64] = 2 * (judges * (centred**2).sum(0) - centred.sum(0) ** 2)
    return spread


def _expected_disagreement(
    values: NDArray[np.float64], times: NDArray[np.int64], level: Level
) -> float:
    """Return the sum of squared distances over all ordered pairs of ratings."""
    n = times.sum()
    if level == "nominal":
        return float(n**2 - (times**2).sum())
    if level == "ratio":
        return float(times @ _ratio_distance(values[:, None], values[None]) @ times)
    centred = values - (times @ values) / n
    return float(2 * n * (times @ centred**2))


def _ratio_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    total = one + other
    return np.asarray(((one - other) / np.where(total == 0, 1, total)) ** 2, float)


def _both(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(a, float), np.asarray(b, float)
    there = ~(np.isnan(first) | np.isnan(second))
    return first[there], second[there]
