"""Strengths of several models from comparisons of two at a time: Bradley and Terry, with ties.

strength (m,)   log odds of winning; their mean is 0
nu              how easily two are called equal (Davidson 1970); 0 without ties

    P(i beats j) = e_i / (e_i + e_j + nu * sqrt(e_i * e_j))      with e = exp(strength)
    P(a tie)     = nu * sqrt(e_i * e_j) / (the same sum)

Without ties this is the model of Bradley and Terry (1952). Intervals resample the prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vipo_cli.analysis.intervals import RESAMPLES, Interval, Labels, widened

STEPS = 100
RIDGE = 1e-3
"""Pull on strengths towards 0 in resamples, in which some model may win or lose all."""
ELO_SCALE, ELO_MEAN = 400 / np.log(10), 1000.0


@dataclass(frozen=True, slots=True)
class Ranking:
    """Models from strong to weak.

    Attributes:
        names: of the models.
        strength: log odds of each, their mean being 0.
        ahead: how much stronger row is than column, with its interval, by names.
        wins: how often row would win against column, ties counting half, (m, m).
        ties: Davidson's nu.
        comparisons: how many there were.
    """

    names: tuple[str, ...]
    strength: dict[str, Interval]
    ahead: dict[tuple[str, str], Interval]
    wins: NDArray[np.float64]
    ties: float
    comparisons: int

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "models": [
                {
                    "name": name,
                    "strength": _document(self.strength[name]),
                    "elo": elo(self.strength[name].value),
                    "wins_against": {
                        other: float(self.wins[row, column])
                        for column, other in enumerate(self.names)
                        if other != name
                    },
                }
                for row, name in enumerate(self.names)
            ],
            "ahead": [
                {"a": a, "b": b, **_document(interval)} for (a, b), interval in self.ahead.items()
            ],
            "ties": self.ties,
            "n": self.comparisons,
        }


def elo(strength: float) -> float:
    """Return a strength on the scale of Elo, on which 1000 is the mean: for display only."""
    return float(ELO_MEAN + ELO_SCALE * strength)


def rank(
    first: Sequence[str],
    second: Sequence[str],
    outcomes: ArrayLike,
    clusters: Labels,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ranking:
    """Rank models by comparisons of two at a time.

    Args:
        first: model of each comparison.
        second: the other model.
        outcomes: 1 where the first was better, -1 the second, 0 neither.
        clusters: of each comparison, what is drawn together: its prompt.
        resamples: how often to draw.
        seed: of the draws.

    Raises:
        ValueError: two groups of models were never compared, or one never beat the other; names
            them.
    """
    names = list(dict.fromkeys([*first, *second]))
    tables = _tables(first, second, np.asarray(outcomes, float), clusters, names)
    whole = tables.sum(0)
    _refuse_unconnected(whole, names)
    strength, log_nu = _fit(whole[None], ridge=0.0)
    spread = _resampled(tables, resamples, seed)
    order = np.argsort(-strength[0], kind="stable")
    n = int(whole[:, :, 0].sum() + whole[:, :, 1].sum() / 2)

    def interval(value: float, drawn: NDArray[np.float64]) -> Interval:
        low, high = widened(drawn, [len(tables)])
        stderr = float(drawn.std(ddof=1))
        return Interval(float(value), stderr, low, high, n, len(tables), "cluster-bootstrap")

    named = [names[place] for place in order]
    nu = float(np.exp(log_nu[0]))
    return Ranking(
        tuple(named),
        {
            name: interval(strength[0, at], spread[:, at])
            for name, at in zip(named, order, strict=True)
        },
        {
            (names[a], names[b]): interval(
                strength[0, a] - strength[0, b], spread[:, a] - spread[:, b]
            )
            for place, a in enumerate(order)
            for b in order[place + 1 :]
        },
        _win_shares(strength[0][order], nu),
        nu,
        n,
    )


def _tables(
    first: Sequence[str],
    second: Sequence[str],
    outcomes: NDArray[np.float64],
    clusters: Labels,
    names: Sequence[str],
) -> NDArray[np.float64]:
    """Return for each cluster how often row beat column, and how often they tied: (g, m, m, 2)."""
    places = {name: place for place, name in enumerate(names)}
    numbers: dict[Any, int] = {}
    group = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    a = np.array([places[name] for name in first], np.int64)
    b = np.array([places[name] for name in second], np.int64)
    if not len(a) or (a == b).any():
        raise ValueError("a ranking needs comparisons, each of two models")
    tables = np.zeros((len(numbers), len(names), len(names), 2))
    better, worse = np.where(outcomes < 0, b, a), np.where(outcomes < 0, a, b)
    decided = outcomes != 0
    chosen = np.asarray(group)
    np.add.at(tables, (chosen[decided], better[decided], worse[decided], 0), 1.0)
    for one, other in ((a, b), (b, a)):
        np.add.at(tables, (chosen[~decided], one[~decided], other[~decided], 1), 1.0)
    return tables


def _refuse_unconnected(whole: NDArray[np.float64], names: Sequence[str]) -> None:
    """Refuse what has no greatest likelihood: it needs a chain of wins from each model to each.

    Ties will not do: of two models, one of which only wins or ties, any strength is made likelier
    by a greater one together with a greater nu.

    Raises:
        ValueError: it is missing.
    """
    from scipy.sparse.csgraph import connected_components

    met, beaten = (whole.sum(-1) > 0).astype(int), (whole[..., 0] > 0).astype(int)
    if not whole[..., 0].any():
        raise ValueError("all comparisons are ties: no model is ahead")
    for links, connection, what in (
        (met, "weak", "these groups of models were never compared"),
        (beaten, "strong", "between these groups of models one side never won"),
    ):
        count, labels = connected_components(links, connection=connection)
        if count > 1:
            groups = [
                ", ".join(name for name, label in zip(names, labels, strict=True) if label == each)
                for each in range(count)
            ]
            raise ValueError(f"{what}: {'; '.join(groups)}")


def _fit(
    tables: NDArray[np.float64], ridge: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return strengths (r, m) and log nu (r,) of greatest likelihood, by Newton's method.

    The log likelihood is concave in both. Without ties nu is 0, and its logarithm minus infinity.
    """
    wins, ties = tables[..., 0], tables[..., 1]
    count, m = wins.shape[:2]
    tied = ties.sum((1, 2)) > 0
    games = wins + wins.swapaxes(1, 2) + ties
    # what a strength gains by: its wins, and half a win of each tie
    gained = wins.sum(2) + ties.sum(2) / 2
    x = np.zeros((count, m + 1))
    for _ in range(STEPS):
        gap = (x[:, :m, None] - x[:, None, :m]) / 2
        nu = np.where(tied, np.exp(x[:, m]), 0.0)[:, None, None]
        up, down = np.exp(gap), np.exp(-gap)
        whole = up + down + nu
        p_win, p_tie = up / whole, nu / whole
        share = p_win + p_tie / 2
        gradient = np.empty((count, m + 1))
        gradient[:, :m] = gained - (games * share).sum(2) - ridge * x[:, :m]
        gradient[:, m] = (ties - games * p_tie).sum((1, 2)) / 2 - ridge * x[:, m]
        # variance of what one side of a game gains: a win 1, a tie 1/2
        variance = games * (p_win + p_tie / 4 - share**2)
        hessian = np.zeros((count, m + 1, m + 1))
        hessian[:, :m, :m] = -variance
        diagonal = np.arange(m)
        hessian[:, diagonal, diagonal] = variance.sum(2) + ridge
        hessian[:, :m, m] = (games * p_tie * (0.5 - share)).sum(2)
        hessian[:, m, :m] = hessian[:, :m, m]
        hessian[:, m, m] = (games * p_tie * (1 - p_tie)).sum((1, 2)) / 2 + ridge + ~tied
        hessian[:, :m, :m] += 1.0 / m  # the mean stays 0, and the matrix has an inverse
        gradient[:, m] *= tied
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        step *= np.minimum(1.0, 2.0 / np.maximum(np.abs(step).max(1, keepdims=True), 1e-300))
        x += step
        if np.abs(step).max() < 1e-9:
            break
    strength = x[:, :m] - x[:, :m].mean(1, keepdims=True)
    return strength, np.where(tied, x[:, m], -np.inf)


def _resampled(tables: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the strengths of resampled clusters, (resamples, m)."""
    groups = len(tables)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(groups, np.full(groups, 1 / groups), resamples).astype(float)
    drawn = (times @ tables.reshape(groups, -1)).reshape(resamples, *tables.shape[1:])
    strength, _ = _fit(drawn, RIDGE)
    return strength


def _win_shares(strength: NDArray[np.float64], nu: float) -> NDArray[np.float64]:
    gap = (strength[:, None] - strength[None]) / 2
    up, down = np.exp(gap), np.exp(-gap)
    shares: NDArray[np.float64] = (up + nu / 2) / (up + down + nu)
    return shares


def _document(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "ci95": [interval.low, interval.high]}
