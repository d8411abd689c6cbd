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
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the unweighted mean of the strata's means with a clustered bootstrap interval.

    Clusters are resampled within their stratum; the interval holds the middle 95 % of the resampled
    means. The same input always gives the same interval.
    """
    values = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means, resampled, n_clusters = [], [], 0
    for rows in _strata_rows(strata):
        sums, counts = _cluster_sums(values[rows], [clusters[row] for row in rows])
        drawn = rng.integers(len(sums), size=(resamples, len(sums)))
        means.append(sums.sum() / counts.sum())
        resampled.append(sums[drawn].sum(1) / counts[drawn].sum(1))
        n_clusters += len(sums)
    spread = np.mean(resampled, axis=0)
    low, high = np.percentile(spread, [2.5, 97.5])
    return Interval(
        float(np.mean(means)),
        float(spread.std(ddof=1)),
        float(low),
        float(high),
        len(values),
        n_clusters,
        "stratified-cluster-bootstrap" if len(means) > 1 else "cluster-bootstrap",
    )


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Labels,
    strata: Labels,
    *,
    seed: int = 0,
) -> tuple[Interval, float]:
    """Return the mean of a minus b with its interval, and the p-value of no difference."""
    differences = np.asarray(a, float) - np.asarray(b, float)
    interval = stratified_mean(differences, clusters, strata, seed=seed)
    return interval, sign_flip_p_value(differences, clusters, strata, seed=seed)


def sign_flip_p_value(
    differences: ArrayLike,
    clusters: Labels,
    strata: Labels,
    *,
    flips: int = FLIPS,
    seed: int = 0,
) -> float:
    """Return the two-sided permutation p-value of a stratified mean difference of zero.

    Were the two sides interchangeable, each cluster's differences could as well have had the other
    sign. All samples of a cluster flip together. The observed signs count as one of the flips, so
    the p-value is never 0.
    """
    differences = np.asarray(differences, float)
    groups = _strata_rows(strata)
    shares = np.concatenate(
        [
            _cluster_sums(differences[rows], [clusters[row] for row in rows])[0] / len(rows)
            for rows in groups
        ]
    ) / len(groups)
    moving = shares[shares != 0].astype(np.float32)
    observed = abs(float(moving.sum()))
    signs = np.random.default_rng(seed).integers(0, 2, (flips, len(moving)), np.int8) * 2 - 1
    permuted = np.abs(signs.astype(np.float32) @ moving)
    # sums of equal terms in another order differ in the last bits and are ties all the same
    ties = permuted >= observed - 1e-5 * max(observed, float(np.abs(moving).sum()), 1e-12)
    return float((1 + ties.sum()) / (1 + flips))


def _strata_rows(strata: Labels) -> list[NDArray[np.intp]]:
    """Return the row numbers of each stratum, in order of first appearance."""
    rows: dict[Any, list[int]] = {}
    for row, stratum in enumerate(strata):
        rows.setdefault(stratum, []).append(row)
    return [np.asarray(found, np.intp) for found in rows.values()]


def _cluster_sums(
    values: NDArray[np.float64], clusters: Labels
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum and the number of values of each cluster."""
    if not len(values):
        raise ValueError("an interval needs at least one value")
    places: dict[Any, int] = {}
    index = [places.setdefault(cluster, len(places)) for cluster in clusters]
    sums: NDArray[np.float64] = np.zeros(len(places))
    np.add.at(sums, index, values)
    return sums, np.bincount(index).astype(np.float64)
