"""How well a reward predicts what people prefer, by the protocols of the field.

margins (n,)   score of the first medium minus score of the second
labels (n,)    +1 where people prefer the first, -1 the second, 0 where they call it a tie
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vipo_cli.analysis.intervals import Interval, Labels, clustered_mean

PICKSCORE_THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(11))
NO_TIES = -1.0
"""A threshold below which no margin lies: ties are never predicted."""


class Calibrated(NamedTuple):
    """A threshold up to which margins are taken for ties, and the accuracy with it."""

    threshold: float
    accuracy: float


def pairwise_accuracy(margins: ArrayLike, labels: ArrayLike) -> float:
    """Return how often the preferred medium scores higher; ties of people are left out.

    A predicted tie is wrong. NaN where no pair is left.
    """
    agreed = np.asarray(margins, float) * np.asarray(labels, float)
    decided = np.asarray(labels) != 0
    return float((agreed[decided] > 0).mean()) if decided.any() else float("nan")


def accuracy_with_ties(margins: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Return how often win, loss and tie are predicted right; small margins are ties."""
    margins, labels = np.asarray(margins, float), np.asarray(labels, float)
    predicted = np.where(np.abs(margins) <= threshold, 0.0, np.sign(margins))
    # a margin of 0 that is not to be a tie prefers neither, and is wrong
    right = (predicted == labels) & ((labels != 0) | (np.abs(margins) <= threshold))
    return float(right.mean())


def calibrate_ties(margins: ArrayLike, labels: ArrayLike) -> Calibrated:
    """Choose the threshold with which accuracy with ties is highest (arXiv 2305.14324).

    All that make a difference are tried, no ties at all among them; of equally good ones the
    smallest is taken. What is chosen on the pairs that it is told of flatters the reward: choose on
    others.
    """
    moved, right, order = _one_by_one(margins, labels)
    size = np.abs(np.asarray(margins, float))[order]
    # only a threshold that takes in all margins of its size exists
    real = np.concatenate([[True], np.append(size[1:] != size[:-1], True)])
    thresholds = np.concatenate([[NO_TIES], size])
    best = int(np.flatnonzero(real)[np.argmax((right + moved)[real])])
    return Calibrated(float(thresholds[best]), float((right + moved)[best] / len(order)))


def accuracy_with_ties_as_videoalign(margins: ArrayLike, labels: ArrayLike) -> float:
    """Return accuracy with ties as the public code of VideoAlign computes it.

    It never tries to predict no tie, and takes margins of equal size for ties one after another,
    in the order given: it may report what no threshold reaches.
    """
    moved, right, order = _one_by_one(margins, labels)
    return float((right + moved)[1:].max() / len(order))


def _one_by_one(
    margins: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Take pairs for ties, the smallest margin first, beginning with none.

    Return how many ties are right, how many of the others are, and the order of the pairs.
    """
    margins, labels = np.asarray(margins, float), np.asarray(labels, float)
    if not len(margins) or np.isnan(margins).any():
        raise ValueError("accuracy needs pairs, each with a margin")
    order = np.argsort(np.abs(margins), kind="stable")
    margins, labels = margins[order], labels[order]
    agree = margins * labels > 0
    tied = np.concatenate([[0], np.cumsum(labels == 0)])
    left = int(agree.sum()) - np.concatenate([[0], np.cumsum(agree)])
    return tied, left, order


def preference_probabilities(scores: ArrayLike) -> NDArray[np.float64]:
    """Return the softmax of scores over the media of each pair, (n, 2)."""
    scores = np.asarray(scores, float)
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), float)


def pickscore_accuracy(probabilities: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Return accuracy as PickScore's evaluation counts it.

    Probabilities that differ by no more than the threshold are a tie. A tie on one side alone, of
    people or of the reward, is half right.
    """
    p = np.asarray(probabilities, float)
    predicted = np.where(
        np.abs(p[:, 1] - p[:, 0]) <= threshold, 0, np.where(p[:, 0] > p[:, 1], 1, -1)
    )
    labels = np.asarray(labels)
    half = (predicted == 0) | (labels == 0)
    return float(np.where(predicted == labels, 1.0, np.where(half, 0.5, 0.0)).mean())


def pickscore_protocol(
    validation: tuple[ArrayLike, ArrayLike], test: tuple[ArrayLike, ArrayLike]
) -> Calibrated:
    """Choose PickScore's threshold on one split, out of 0, 0.1, ..., 1, and report on another.

    Args:
        validation: probabilities (n, 2) and labels; of equally good thresholds the smallest wins.
        test: likewise.
    """
    found = [pickscore_accuracy(*validation, threshold) for threshold in PICKSCORE_THRESHOLDS]
    threshold = PICKSCORE_THRESHOLDS[int(np.argmax(found))]
    return Calibrated(threshold, pickscore_accuracy(*test, threshold))


def kendall_by_list(scores: ArrayLike, ranks: ArrayLike, lists: Labels) -> Interval:
    """Return the mean over ranked lists of Kendall's tau-b between scores and ranks, 1 the best.

    Never pooled: that one list's media score higher than another's says nothing. A list whose
    scores or ranks are all equal has no tau and is left out; n is the number of the others.

    Raises:
        ValueError: no list is left.
    """
    from scipy.stats import kendalltau

    taus = []
    for score, rank in _by_list(scores, ranks, lists):
        if len(np.unique(score)) > 1 and len(np.unique(rank)) > 1:
            taus.append(float(kendalltau(score, -rank).statistic))
    return clustered_mean(taus, range(len(taus)))


def ranking_accuracy_by_list(scores: ArrayLike, ranks: ArrayLike, lists: Labels) -> float:
    """Return the mean over lists of the share of pairs that are not in the wrong order.

    As HPSv2's evaluation: pairs of equal rank are never wrong, and count. Equal scores of unequal
    ranks are wrong; there, where they are first brought into some order, it is left to chance.
    """
    shares = []
    for score, rank in _by_list(scores, ranks, lists):
        wrong = [
            (rank[i] - rank[j]) * (score[j] - score[i]) <= 0 and rank[i] != rank[j]
            for i, j in combinations(range(len(rank)), 2)
        ]
        if wrong:
            shares.append(1 - float(np.mean(wrong)))
    return float(np.mean(shares)) if shares else float("nan")


def ranking_accuracy_pooled(scores: ArrayLike, ranks: ArrayLike, lists: Labels) -> float:
    """Return the share of all pairs of unequal rank, of all lists, that are in the right order.

    As ImageReward's own test: a long list counts more. Equal scores are wrong.
    """
    right = [
        (rank[i] - rank[j]) * (score[j] - score[i]) > 0
        for score, rank in _by_list(scores, ranks, lists)
        for i, j in combinations(range(len(rank)), 2)
        if rank[i] != rank[j]
    ]
    return float(np.mean(right)) if right else float("nan")


def spearman(scores: ArrayLike, ratings: ArrayLike) -> float:
    """Return Spearman's correlation of scores and ratings; NaN where either is constant."""
    from scipy.stats import rankdata

    return pearson(rankdata(scores), rankdata(ratings))


def pearson(scores: ArrayLike, ratings: ArrayLike) -> float:
    """Return Pearson's correlation of scores and ratings; NaN where either is constant."""
    from scipy.stats import pearsonr

    first, second = np.asarray(scores, float), np.asarray(ratings, float)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(pearsonr(first, second).statistic)


def _by_list(
    scores: ArrayLike, ranks: ArrayLike, lists: Labels
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return scores and ranks of each list, in order of first appearance."""
    rows: dict[object, list[int]] = {}
    for row, name in enumerate(lists):
        rows.setdefault(name, []).append(row)
    first, second = np.asarray(scores, float), np.asarray(ranks, float)
    return [(first[places], second[places]) for places in rows.values()]
