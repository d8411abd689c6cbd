"""Intervals for means of correlated samples: numbers in, numbers out.

Samples that share a prompt resemble each other, so a prompt is the unit that is resampled (a
cluster). A benchmark's score is the unweighted mean of its tasks' means, so prompts are resampled
within their task (a stratum).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2_000
FLIPS = 10_000
Z95 = 1.959963984540054

Labels = Sequence[Any] | NDArray[Any]
"""For each value the cluster or stratum that it belongs to, as anything that can be a key."""
Sums = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The weighted sum of the values of each cluster, and the sum of their weights."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval.

    Attributes:
        value: the estimate.
        stderr: its standard error.
        low: lower end of the interval.
        high: upper end of the interval.
        n: number of samples.
        n_clusters: number of independent groups of samples.
        method: how the interval was made.
    """

    value: float
    stderr: float
    low: float
    high: float
    n: int
    n_clusters: int
    method: str


def wilson(successes: float, n: int) -> Interval:
    """Return Wilson's interval of a proportion of independent trials."""
    if n < 1:
        raise ValueError("an interval needs at least one trial")
    share = successes / n
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * float(np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2)))
    stderr = float(np.sqrt(share * (1 - share) / n))
    # at 0 and at n successes one end is exact; rounding must not push the estimate outside
    low, high = min(centre - half, share), max(centre + half, share)
    return Interval(share, stderr, low, high, n, n, "wilson")


def clustered_mean(values: ArrayLike, clusters: Labels) -> Interval:
    """Return the mean with the cluster-robust standard error and Student's interval.

    One cluster alone says nothing about the spread: its interval is unbounded.
    """
    from scipy.stats import t

    sums, counts = _cluster_sums(np.asarray(values, float), clusters)
    n, groups = int(counts.sum()), len(sums)
    mean = float(sums.sum() / n)
    if groups < 2:
        return Interval(mean, np.inf, -np.inf, np.inf, n, groups, "clustered-t")
    residuals = sums - counts * mean
    stderr = float(np.sqrt(groups / (groups - 1) * (residuals**2).sum()) / n)
    half = float(t.ppf(0.975, groups - 1)) * stderr
    return Interval(mean, stderr, mean - half, mean + half, n, groups, "clustered-t")


def stratified_mean(
    values: ArrayLike,
    clusters: Labels,
    strata: Labels,
    *,
    weights: ArrayLike | None = None,
    pooled: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return a mean over strata with a clustered bootstrap interval.

    Clusters are resampled within their stratum; the interval holds the middle 95 % of the resampled
    means, or more of them where clusters are few. The same input always gives the same interval.

    Args:
        values: a number for each sample.
        clusters: what must be resampled together, such as the samples of a prompt.
        strata: what is resampled on its own, such as a benchmark's tasks.
        weights: how much each value counts within its stratum; by default alike.
        pooled: return the mean over all samples instead of the unweighted mean of the strata's
            means. Strata of one cluster, which show no spread, are then resampled together.
        resamples: how often to draw.
        seed: of the draws.
    """
    values = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    groups = _strata_sums(values, clusters, strata, weights, pooled)
    sums, counts = np.empty((2, len(groups), resamples))
    for row, (of_clusters, sizes) in enumerate(groups):
        drawn = rng.integers(len(sizes), size=(resamples, len(sizes)))
        sums[row], counts[row] = of_clusters[drawn].sum(1), sizes[drawn].sum(1)
    spread = sums.sum(0) / counts.sum(0) if pooled else np.mean(sums / counts, axis=0)
    low, high = widened(spread, [len(sizes) for _, sizes in groups])
    return Interval(
        _mean(groups, pooled),
        float(spread.std(ddof=1)),
        low,
        high,
        len(values),
        sum(len(sizes) for _, sizes in groups),
        "stratified-cluster-bootstrap" if len(groups) > 1 else "cluster-bootstrap",
    )


def widened(drawn: NDArray[np.float64], clusters: Sequence[int]) -> tuple[float, float]:
    """Return the ends of the middle 95 % of resamples, or of more for few clusters.

    A resample of g clusters spreads less than a sample by sqrt((g - 1) / g), and knows nothing of
    Student: the percentiles are moved outwards by both (Hesterberg 2015).

    Args:
        drawn: the resampled estimates.
        clusters: how many were resampled together, by stratum.
    """
    from scipy.stats import norm, t

    freedom = sum(clusters) - len(clusters)
    if freedom < 1:
        return -np.inf, np.inf
    outer = float(norm.cdf(-np.sqrt(sum(clusters) / freedom) * t.ppf(0.975, freedom)))
    low, high = np.quantile(drawn, [outer, 1 - outer]).tolist()
    return low, high


def _mean(groups: Sequence[Sums], pooled: bool) -> float:
    if pooled:
        return float(sum(sums.sum() for sums, _ in groups) / sum(n.sum() for _, n in groups))
    return float(np.mean([sums.sum() / counts.sum() for sums, counts in groups]))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Labels,
    strata: Labels,
    *,
    weights: ArrayLike | None = None,
    pooled: bool = False,
    seed: int = 0,
) -> tuple[Interval, float]:
    """Return the mean of a minus b with its interval, and the p-value of no difference."""
    differences = np.asarray(a, float) - np.asarray(b, float)
    how: dict[str, Any] = {"weights": weights, "pooled": pooled, "seed": seed}
    interval = stratified_mean(differences, clusters, strata, **how)
    return interval, sign_flip_p_value(differences, clusters, strata, **how)


def sign_flip_p_value(
    differences: ArrayLike,
    clusters: Labels,
    strata: Labels,
    *,
    weights: ArrayLike | None = None,
    pooled: bool = False,
    flips: int = FLIPS,
    seed: int = 0,
) -> float:
    """Return the two-sided permutation p-value of a mean difference of zero.

    Were the two sides interchangeable, each cluster's differences could as well have had the other
    sign. All samples of a cluster flip together. The observed signs count as one of the flips, so
    the p-value is never 0.
    """
    differences = np.asarray(differences, float)
    groups = _strata_sums(differences, clusters, strata, weights, pooled)
    if pooled:
        whole = sum(float(counts.sum()) for _, counts in groups)
        shares = np.concatenate([sums / whole for sums, _ in groups])
    else:
        shares = np.concatenate([sums / counts.sum() for sums, counts in groups]) / len(groups)
    return flipped_p_value(shares, flips=flips, seed=seed)


def flipped_p_value(shares: NDArray[np.float64], *, flips: int = FLIPS, seed: int = 0) -> float:
    """Return the two-sided permutation p-value of a sum of zero.

    Args:
        shares: what each cluster adds to the observed sum.
        flips: how often signs are drawn.
        seed: of the signs.
    """
    moving = shares[shares != 0].astype(np.float32)
    observed = abs(float(moving.sum()))
    signs = np.random.default_rng(seed).integers(0, 2, (flips, len(moving)), np.int8) * 2 - 1
    permuted = np.abs(signs.astype(np.float32) @ moving)
    # sums of equal terms in another order differ in the last bits and are ties all the same
    ties = permuted >= observed - 1e-5 * max(observed, float(np.abs(moving).sum()), 1e-12)
    return float((1 + ties.sum()) / (1 + flips))


def _strata_sums(
    values: NDArray[np.float64],
    clusters: Labels,
    strata: Labels,
    weights: ArrayLike | None,
    pooled: bool,
) -> list[Sums]:
    """Return the sums of the clusters of each stratum, in order of first appearance."""
    weighing = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    groups = [
        _cluster_sums(values[rows], [clusters[row] for row in rows], weighing[rows])
        for rows in _strata_rows(strata)
    ]
    single = [group for group in groups if len(group[0]) == 1]
    if pooled and single:
        together = np.concatenate([s for s, _ in single]), np.concatenate([n for _, n in single])
        groups = [group for group in groups if len(group[0]) > 1] + [together]
    return groups


def _strata_rows(strata: Labels) -> list[NDArray[np.intp]]:
    """Return the row numbers of each stratum, in order of first appearance."""
    rows: dict[Any, list[int]] = {}
    for row, stratum in enumerate(strata):
        rows.setdefault(stratum, []).append(row)
    return [np.asarray(found, np.intp) for found in rows.values()]


def _cluster_sums(
    values: NDArray[np.float64], clusters: Labels, weights: NDArray[np.float64] | None = None
) -> Sums:
    if not len(values):
        raise ValueError("an interval needs at least one value")
    places: dict[Any, int] = {}
    index = [places.setdefault(cluster, len(places)) for cluster in clusters]
    sums: NDArray[np.float64] = np.zeros(len(places))
    if weights is None:
        weights = np.ones(len(values))
    np.add.at(sums, index, weights * values)
    return sums, np.bincount(index, weights).astype(np.float64)
