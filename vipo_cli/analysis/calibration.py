"""Does a reward that is surer prefer the winner more often?

won (n,)   score of the winner minus score of the loser: above 0 the reward is right

Were the reward the log odds of Bradley and Terry's model, but for a factor, it would be right with
probability sigmoid(slope * |won|). The slope is fitted to all pairs, and shown beside what is found
in bins of equally many pairs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.analysis.agreement import ranks_of
from vipo_cli.analysis.intervals import Interval
from vipo_cli.analysis.shares import cells_of

BINS = 10
FEW = 100
"""Pairs that a bin needs."""
STEPS = 50
CELLS = 4096
"""Parts of the margins, small to large, of which the slope takes the mean for each."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs with margins of about one size.

    Attributes:
        low, high: the smallest and the largest size.
        margin: the mean size.
        accuracy: how often the winner is preferred; a tie counts half.
        fitted: the same by the fitted slope; None without one.
    """

    low: float
    high: float
    margin: float
    accuracy: Interval
    fitted: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """How accuracy grows with the margin.

    Attributes:
        scale: median size of the margins.
        slope: log odds a unit of margin; None where the winner is always preferred, or never.
        stderr: of the slope, by clusters.
        bins: from small to large margins.
    """

    scale: float
    slope: float | None
    stderr: float | None
    bins: tuple[Bin, ...]

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "scale": None if np.isnan(self.scale) else self.scale,
            "slope": self.slope,
            "slope_stderr": self.stderr,
            "bins": [
                {
                    "low": each.low,
                    "high": each.high,
                    "margin": each.margin,
                    "value": each.accuracy.value,
                    "ci95": [each.accuracy.low, each.accuracy.high],
                    "n": each.accuracy.n,
                    "fitted": each.fitted,
                }
                for each in self.bins
            ],
        }


def calibrate(
    won: NDArray[np.float64],
    clusters: NDArray[np.int64],
    ranks: NDArray[np.float64] | None = None,
) -> Calibration:
    """Bin margins by size, and fit the slope.

    Args:
        won: margins of winners over losers; NaN is left out.
        clusters: of each, as numbers from 0.
        ranks: `ranks_of` their sizes, where these are known already and nothing is NaN.
    """
    there = ~np.isnan(won)
    if not there.all():
        won, clusters, ranks = won[there], clusters[there], None
    if not len(won):
        return Calibration(float("nan"), None, None, ())
    size = np.abs(won)
    places = (ranks_of(size) if ranks is None else ranks) / len(won)
    slope, stderr = _slope(won, places, clusters)
    return Calibration(float(np.median(size)), slope, stderr, _bins(won, places, clusters, slope))


def _bins(
    won: NDArray[np.float64],
    places: NDArray[np.float64],
    clusters: NDArray[np.int64],
    slope: float | None,
) -> tuple[Bin, ...]:
    """Measure accuracy in bins; places are those of the sizes among all, from 0 to 1."""
    count = min(BINS, len(won) // FEW)
    if count < 1:
        return ()
    bins = np.minimum(places * count, count - 1).astype(np.int64)  # equal sizes share a bin
    right = cells_of(clusters, bins, count).shares((np.sign(won) + 1) / 2).intervals()
    size = np.abs(won)
    sums = np.bincount(bins, size, count)
    low, high = np.full(count, np.inf), np.zeros(count)
    np.minimum.at(low, bins, size)
    np.maximum.at(high, bins, size)
    found = []
    for number, accuracy in enumerate(right):
        if not accuracy.n:
            continue
        margin = float(sums[number] / accuracy.n)
        fitted = None if slope is None else float(_sigmoid(np.array(slope * margin)))
        ends = float(low[number]), float(high[number])
        found.append(Bin(*ends, margin, accuracy, fitted))
    return tuple(found)


def _slope(
    won: NDArray[np.float64], places: NDArray[np.float64], clusters: NDArray[np.int64]
) -> tuple[float | None, float | None]:
    """Return the slope of greatest likelihood, and its cluster-robust standard error.

    The likelihood is concave, and Newton's method finds its maximum.
    """
    right, wrong = won > 0, won < 0
    if not right.any() or not wrong.any():
        return None, None
    cells, times = won, np.ones(len(won))
    if len(won) > CELLS:  # margins of a cell are as good as equal
        cell = 2 * np.minimum(places * CELLS, CELLS - 1).astype(np.int64) + right
        counts = np.bincount(cell)
        times = counts[counts > 0].astype(float)
        cells = np.bincount(cell, won)[counts > 0] / times
    scale = float(np.abs(cells) @ times / times.sum())
    scaled = cells / scale
    slope = curvature = 0.0
    for _ in range(STEPS):
        p = _sigmoid(slope * scaled)
        curvature = float((times * scaled**2) @ (p * (1 - p)))
        gradient = float((times * scaled) @ (1 - p))
        step = float(np.clip(gradient / max(curvature, 1e-300), -2.0, 2.0))
        slope += step
        if abs(step) < 1e-10 * max(1.0, abs(slope)):
            break
    slope, curvature = slope / scale, curvature * scale**2
    pulls = np.bincount(clusters, won * _sigmoid(-slope * won))
    groups = int((np.bincount(clusters) > 0).sum())
    if groups < 2:
        return slope, None
    return slope, float(np.sqrt(groups / (groups - 1) * (pulls @ pulls))) / curvature


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((1 + np.tanh(x / 2)) / 2, float)
