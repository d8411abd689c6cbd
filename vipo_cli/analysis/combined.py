"""Intervals for linear combinations of several means, such as a benchmark's total score.

Samples of one cluster (a prompt) resemble each other, and a cluster may have samples in several of
the means: clips of one prompt are judged in several dimensions. So clusters are drawn once for all
of the means, and each mean is taken over its own clusters.

Drawing is Rubin's Bayesian bootstrap: every cluster weighs as an exponential random number says.
No mean is ever without samples then, however few clusters it has. Deviations are widened by
sqrt((n + 1) / (n - 1)) for n clusters, which gives a mean of one sample each its usual variance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vipo_cli.analysis.intervals import RESAMPLES, Interval, Labels, flipped_p_value


@dataclass(frozen=True, slots=True)
class Part:
    """One of the means.

    Attributes:
        values: a number for each sample.
        clusters: what each sample belongs to; the same label in another part is the same cluster.
        weights: how much each sample counts; all alike where there are none.
    """

    values: Sequence[float] | NDArray[np.float64]
    clusters: Labels
    weights: Sequence[float] | NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Resampled:
    """Means, and how they vary together.

    Attributes:
        means: of each part.
        shares: what each cluster, in the order of all of them, adds to each part's mean.
        deviations: of each part's resampled means from its mean; not finite for one cluster.
        samples: number of each part's samples.
        clusters: each part's clusters, by number.
    """

    means: Mapping[str, float]
    shares: Mapping[str, NDArray[np.float64]]
    deviations: Mapping[str, NDArray[np.float64]]
    samples: Mapping[str, int]
    clusters: Mapping[str, frozenset[int]]


def resample(parts: Mapping[str, Part], *, resamples: int = RESAMPLES, seed: int = 0) -> Resampled:
    """Draw the means of all parts together; the same parts always give the same draws."""
    places: dict[object, int] = {}
    rows = {
        name: np.array([places.setdefault(label, len(places)) for label in part.clusters], np.intp)
        for name, part in parts.items()
    }
    drawn = np.random.default_rng(seed).standard_exponential((resamples, len(places)))
    means, shares, deviations = {}, {}, {}
    for name, part in parts.items():
        sums, sizes, present = _by_cluster(part, rows[name], len(places))
        means[name] = mean = float(sums.sum() / sizes.sum())
        shares[name] = np.zeros(len(places))
        shares[name][present] = sums / sizes.sum()
        spread = drawn[:, present] @ sums / (drawn[:, present] @ sizes) - mean
        n = len(present)
        deviations[name] = spread * np.sqrt((n + 1) / (n - 1)) if n > 1 else spread + np.inf
    return Resampled(
        means,
        shares,
        deviations,
        {name: len(part.values) for name, part in parts.items()},
        {name: frozenset(own.tolist()) for name, own in rows.items()},
    )


def combined(
    resampled: Resampled, coefficients: Mapping[str, float], *, value: float | None = None
) -> Interval:
    """Return the sum of coefficients times means with a 95 % interval.

    Args:
        resampled: the means.
        coefficients: of the parts that count.
        value: what the interval is laid around, where that is known better: with a constant term,
            or from more digits than the samples have.
    """
    names = list(coefficients)
    if value is None:
        value = sum(coefficients[name] * resampled.means[name] for name in names)
    n = sum(resampled.samples[name] for name in names)
    n_clusters = len(frozenset[int]().union(*(resampled.clusters[name] for name in names)))
    method = "cluster-bootstrap" if len(names) == 1 else "stratified-cluster-bootstrap"
    if any(len(resampled.clusters[name]) < 2 for name in names):
        return Interval(value, np.inf, -np.inf, np.inf, n, n_clusters, method)
    spread = sum(coefficients[name] * resampled.deviations[name] for name in names)
    low, high = value + np.percentile(spread, [2.5, 97.5])
    stderr = float(np.std(spread, ddof=1))
    return Interval(value, stderr, float(low), float(high), n, n_clusters, method)


def combined_p_value(resampled: Resampled, coefficients: Mapping[str, float]) -> float:
    """Return the p-value of a sum of coefficients times mean differences being zero.

    All samples of a cluster change their sign together, in all of the means.
    """
    shares = sum(factor * resampled.shares[name] for name, factor in coefficients.items())
    return flipped_p_value(np.asarray(shares, float))


def _by_cluster(
    part: Part, rows: NDArray[np.intp], clusters: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Return each cluster's weighted sum and weight, and which clusters these are."""
    if not len(part.values):
        raise ValueError("an interval needs at least one value")
    weights: ArrayLike = np.ones(len(rows)) if part.weights is None else part.weights
    weights = np.asarray(weights, float)
    sums, sizes = np.zeros((2, clusters))
    np.add.at(sums, rows, weights * np.asarray(part.values, float))
    np.add.at(sizes, rows, weights)
    present = np.flatnonzero(sizes > 0)
    return sums[present], sizes[present], present
