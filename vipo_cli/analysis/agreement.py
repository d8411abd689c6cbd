"""Agreement between raters, people or rewards: shares, and Cohen's kappa."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


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

    A pair has no first and second: turned round, all votes change sign. So each pair counts once
    either way, which makes +1 and -1 equally frequent. Without ties it is 2 * agreement - 1.
    """
    first, second = _both(a, b)
    if not len(first):
        return float("nan")
    ties_a, ties_b = float((first == 0).mean()), float((second == 0).mean())
    expected = ties_a * ties_b + (1 - ties_a) * (1 - ties_b) / 2
    observed = float((first == second).mean())
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def _both(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(a, float), np.asarray(b, float)
    there = ~(np.isnan(first) | np.isnan(second))
    return first[there], second[there]
