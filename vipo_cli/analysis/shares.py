"""Shares of clustered samples: how often something holds, with an interval within 0 and 1.

Pairs that share a prompt resemble each other, so the prompt is what was drawn (a cluster). The
interval is Wilson's, for as many trials as would have the cluster-robust variance that was found,
with Student's quantile for as many clusters. On simulated data it holds the truth in about 95 of
100 cases, for few clusters and rare events too, where a bootstrap of the clusters holds it in as
few as 85 (perf/interval_coverage.py); and it needs no resampling.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vipo_cli.analysis.intervals import Z95, Interval

METHOD = "clustered-wilson"
MOST = 4.0
"""Effective trials a sample at most."""
STUDENT = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624,
    2.306004, 2.262157, 2.228139, 2.200985, 2.178813, 2.160369, 2.144787,
    2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
)  # fmt: skip
"""Student's quantile of 0.975 for 1, 2, ... degrees of freedom."""
DENSE = 4
"""Cells of a table a sample at most."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares in several groups of samples, as columns.

    Attributes:
        value: of each group; NaN for an empty one.
        stderr, low, high: likewise.
        n: samples of each group.
        n_clusters: clusters of each group.
    """

    value: NDArray[np.float64]
    stderr: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: NDArray[np.int64]
    n_clusters: NDArray[np.int64]

    def intervals(self) -> list[Interval]:
        """Return all of them."""
        columns = (self.value, self.stderr, self.low, self.high, self.n, self.n_clusters)
        value, stderr, low, high, n, clusters = (column.tolist() for column in columns)
        methods = [METHOD if count else "none" for count in n]
        return list(map(Interval, value, stderr, low, high, n, clusters, methods))

    def interval(self, group: int) -> Interval:
        """Return one of them."""
        return self.intervals()[group]


@dataclass(frozen=True, slots=True)
class Cells:
    """Samples by cluster within group: what shares of the same samples have in common.

    Attributes:
        cell: of each sample.
        counts: of the samples in each cell.
        group: of each cell.
        groups: how many there are.
    """

    cell: NDArray[np.int64]
    counts: NDArray[np.float64]
    group: NDArray[np.int64]
    groups: int

    def shares(self, values: NDArray[np.float64]) -> Shares:
        """Return the share in each group, of values between 0 and 1; NaN is left out."""
        missing = np.isnan(values)
        size, counts = len(self.group), self.counts
        if missing.any():
            counts = np.bincount(self.cell, ~missing, size).astype(float)
            values = np.where(missing, 0.0, values)
        sums = np.bincount(self.cell, values, size)
        there = counts > 0
        n = np.bincount(self.group, counts, self.groups).astype(float)
        found = np.bincount(self.group, there, self.groups).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(self.group, sums, self.groups) / n
            residuals = np.where(there, sums - counts * mean[self.group], 0.0)
            squares = np.bincount(self.group, residuals**2, self.groups)
            stderr = np.sqrt(found / (found - 1) * squares) / n
        low, high = _wilson(mean, stderr, n, found)
        return Shares(mean, stderr, low, high, n.astype(np.int64), found.astype(np.int64))


def cells_of(clusters: NDArray[np.int64], groups: NDArray[np.int64], n_groups: int) -> Cells:
    """Divide samples.

    Args:
        clusters: of each sample, as numbers from 0.
        groups: of each sample, as numbers below `n_groups`.
        n_groups: how many there are.
    """
    width = int(clusters.max(initial=0)) + 1
    if n_groups == 1:
        cell, group = clusters, np.zeros(width, np.int64)
    elif n_groups * width <= DENSE * len(clusters):
        cell, group = groups * width + clusters, np.repeat(np.arange(n_groups), width)
        cell, group = _without_empty(cell, group)
    else:  # a table of all groups by all clusters would be vast
        kept, cell = np.unique(groups * width + clusters, return_inverse=True)
        group = np.asarray(kept // width, np.int64)
    counts = np.bincount(cell, minlength=len(group)).astype(float)
    return Cells(cell, counts, group, n_groups)


def _without_empty(
    cell: NDArray[np.int64], group: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number anew the cells that hold samples: of a wide table these are few."""
    there = np.zeros(len(group), bool)
    there[cell] = True
    numbers = np.cumsum(there) - 1
    return numbers[cell], group[there]


def whole(clusters: NDArray[np.int64]) -> Cells:
    """Divide samples by cluster alone, into one group."""
    return cells_of(clusters, np.zeros(0, np.int64), 1)


def clustered_share(values: ArrayLike, clusters: NDArray[np.int64]) -> Interval:
    """Return the mean of values between 0 and 1, with its interval; NaN values are left out.

    Args:
        values: 0 or 1, or 1/2 for what is undecided.
        clusters: of each value, as numbers from 0.
    """
    return whole(clusters).shares(np.asarray(values, float)).interval(0)


def _wilson(
    mean: NDArray[np.float64],
    stderr: NDArray[np.float64],
    n: NDArray[np.float64],
    clusters: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both ends of the intervals; one cluster alone says nothing: from 0 to 1."""
    sure = (mean == 0) | (mean == 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # clusters that happen to balance would claim more trials than there are samples
        trials = np.minimum(mean * (1 - mean) / stderr**2, MOST * n)
        # where all say the same, their variance does not tell how alike a cluster's are
        trials = np.where(sure, clusters, trials)
        quantile = student(clusters - 1)
        scale = 1 + quantile**2 / trials
        centre = (mean + quantile**2 / (2 * trials)) / scale
        spread = np.sqrt(mean * (1 - mean) / trials + quantile**2 / (4 * trials**2))
        half = quantile / scale * spread
    low = np.clip(np.minimum(centre - half, mean), 0, 1)  # rounding must not leave the mean out
    high = np.clip(np.maximum(centre + half, mean), 0, 1)
    alone = clusters == 1
    return np.where(alone, 0.0, low), np.where(alone, 1.0, high)


def student(freedom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Student's quantile of 0.975, to 6 digits; that of 1 below 1 degree of freedom.

    From a table, then by the expansion about the normal one (Abramowitz and Stegun 26.7.5): to
    import scipy for it takes longer than to analyse a hundred thousand pairs.
    """
    many = np.maximum(freedom, len(STUDENT))
    z = Z95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    expanded = z + sum(term / many**power for power, term in enumerate(terms, start=1))
    few = np.clip(freedom, 1, len(STUDENT)).astype(np.int64)
    return np.where(freedom > len(STUDENT), expanded, np.array(STUDENT)[few - 1])
