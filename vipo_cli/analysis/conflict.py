"""Do several rewards agree about which medium of a pair is better, with each other and the label?

margins (n, k)   score of one medium minus score of the other, NaN where a reward cannot judge
labels (n,)      +1 where the first medium of the margin won, -1 where the other did, 0 a tie
won (n, k)       margins of winners over losers; of a tie, as they came
votes (n, k)     sign(won): +1 sides with the label, -1 against it, 0 is a tie of the reward
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vipo_cli.analysis.accuracy import Calibrated, calibrate_ties
from vipo_cli.analysis.agreement import (
    pair_ac1,
    pair_alpha,
    pair_entropy,
    pair_fleiss,
    pair_matrices,
    pair_spearman,
    ranks_of,
)
from vipo_cli.analysis.calibration import Calibration, calibrate
from vipo_cli.analysis.dominance import INDIFFERENCE, DominanceReport, dominance
from vipo_cli.analysis.intervals import Interval
from vipo_cli.analysis.shares import Cells, whole
from vipo_cli.analysis.strata import Part, Stratum, divide

TIE = 1e-6
"""Margins up to this are ties, as in the public code of Semi-DPO (arXiv 2604.24952)."""

CLASSES = ("unanimous-right", "unanimous-wrong", "mixed", "unjudged")
"""What pairs are to their rewards: unjudged if one of them says nothing, or there is no winner."""

SEPARABLE, CONFLICTING = 0.95, 0.3
"""Bounds of the advice, on unanimity with the label scaled so that chance is 0 and certainty 1."""

ALPHAS = {"conflict": 4.0, "mixed": 1.0, "consistent": 0.0, "trivial": -0.5}
"""Poly-DPO's alpha for each kind of pairs, a heuristic of this tool: the paper trains Pick-a-Pic
v2, of which 21 % are unanimous, with 8, and finds 0 best on clean pairs and -1 on trivial ones."""
HALF = 0.5
"""Unanimity, scaled likewise, above which pairs that are not consistent count as mixed."""


@dataclass(frozen=True, slots=True)
class Unanimity:
    """How often all rewards say the same.

    Attributes:
        share: of the pairs about which all of them say something.
        chance: the share if each tossed a coin.
        independent: the share if each voted as often for winners, losers and ties, on its own.
    """

    share: Interval
    chance: float
    independent: float

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return share_document(self.share) | {
            "chance": self.chance,
            "independent": self.independent,
        }


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often a reward prefers the winner.

    Attributes:
        share: a tie counts half.
        decided: ties are left out.
        ties: how often the reward calls both equal.
        with_ties: how often it is right about who wins or that nobody does, at best; None where no
            label is a tie.
        calibration: how this grows with the margin.
    """

    share: Interval
    decided: Interval
    ties: float
    with_ties: Calibrated | None
    calibration: Calibration

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return share_document(self.share) | {
            "ties": _number(self.ties),
            "without_ties": share_document(self.decided),
            "with_ties": self.with_ties
            and {"value": self.with_ties.accuracy, "threshold": self.with_ties.threshold},
            "calibration": self.calibration.document(),
        }


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far rewards agree with each other, whatever the labels say.

    Attributes:
        share: of pairs on which two rewards vote alike, (k, k).
        kappa: the same beyond chance, (k, k).
        spearman: rank correlation of the margins of two rewards, (k, k).
        alpha: Krippendorff's, of all rewards.
        fleiss: Fleiss' kappa, over pairs that all can judge.
        ac1: Gwet's, likewise.
        entropy: bits in the votes about a pair, on average: 0 where all say the same, 1 where half
            say the opposite.
    """

    share: NDArray[np.float64]
    kappa: NDArray[np.float64]
    spearman: NDArray[np.float64]
    alpha: float
    fleiss: float
    ac1: float
    entropy: float


@dataclass(frozen=True, slots=True)
class Conflict:
    """What `conflict` found; all shares are between 0 and 1.

    Attributes:
        n_pairs: all pairs that were given.
        n_complete: those about which every reward says something; unanimity counts them alone.
        n_tied: pairs whose label is a tie: nobody can be right about who won.
        rewards: names, in the order of the matrices.
        dimensions: what each is about, where that is known.
        unanimous: all rewards prefer the same medium, whichever it is; a tie prefers none.
        unanimous_with_label: all rewards prefer the winner.
        outvoted: more rewards prefer the loser than the winner.
        votes: pairs by how many rewards side with the label, from none to all.
        classes: pairs by what they are to the rewards.
        agreement: of the rewards with each other.
        accuracy: of each reward.
        dominance: shares of pairs whose winner is nowhere worse, nowhere better, mixed, or equal.
        strata: the same shares in parts of the data, by what they divide by.
        tie_bands: margins of each reward up to which it calls two media equal.
        alpha: of Poly-DPO, to start from.
        advice: one sentence on why.
    """

    n_pairs: int
    n_complete: int
    n_tied: int
    rewards: tuple[str, ...]
    dimensions: dict[str, str]
    unanimous: Unanimity
    unanimous_with_label: Unanimity
    outvoted: Interval
    votes: tuple[int, ...]
    classes: dict[str, int]
    agreement: Agreement
    accuracy: dict[str, Accuracy]
    dominance: DominanceReport
    strata: dict[str, dict[str, Part]]
    tie_bands: dict[str, float]
    alpha: float
    advice: str

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        found = self.agreement
        return {
            "n_pairs": self.n_pairs,
            "n_complete": self.n_complete,
            "n_tied_labels": self.n_tied,
            "rewards": list(self.rewards),
            "dimensions": self.dimensions,
            "unanimous": self.unanimous.document(),
            "unanimous_with_label": self.unanimous_with_label.document(),
            "outvoted": share_document(self.outvoted),
            "votes": {str(siding): count for siding, count in enumerate(self.votes)},
            "vote_entropy": _number(found.entropy),
            "classes": self.classes,
            "agreement": self._matrix(found.share),
            "kappa": self._matrix(found.kappa),
            "spearman": self._matrix(found.spearman),
            "reliability": {
                "krippendorff_alpha": _number(found.alpha),
                "fleiss_kappa": _number(found.fleiss),
                "gwet_ac1": _number(found.ac1),
            },
            "accuracy": {name: each.document() for name, each in self.accuracy.items()},
            "dominance": self.dominance.document(),
            "strata": {
                name: {part: each.document() for part, each in parts.items()}
                for name, parts in self.strata.items()
            },
            "tie_bands": self.tie_bands,
            "alpha": self.alpha,
            "advice": self.advice,
        }

    def _matrix(self, values: NDArray[np.float64]) -> dict[str, dict[str, float | None]]:
        return {
            row: {column: _number(value) for column, value in zip(self.rewards, line, strict=True)}
            for row, line in zip(self.rewards, values, strict=True)
        }


@dataclass(frozen=True, slots=True)
class About:
    """What is known besides the margins, and how to look at them.

    Attributes:
        strata: ways to divide the pairs, by name.
        dimensions: what each reward is about, where that is known.
        ties: by reward, margins up to which it calls two media equal; else `TIE`.
        indifference: share of a median absolute margin that does not matter to dominance.
    """

    strata: Mapping[str, Stratum] = field(default_factory=dict)
    dimensions: Mapping[str, str] = field(default_factory=dict)
    ties: Mapping[str, float] = field(default_factory=dict)
    indifference: float = INDIFFERENCE


def conflict(
    margins: ArrayLike,
    labels: ArrayLike,
    rewards: Sequence[str],
    prompts: Sequence[Any] | NDArray[Any],
    about: About | None = None,
) -> Conflict:
    """Measure how far rewards agree about pairs; intervals take prompts, not pairs, for drawn.

    Raises:
        ValueError: fewer than two rewards, or no pair about which all of them say something.
    """
    about = about or About()
    labels = np.asarray(labels, float)
    judged = np.asarray(labels != 0)
    won = winner_margins(margins, labels)
    votes = vote(won, rewards, about.ties)
    n, k = votes.shape
    # a million pairs are voted about in few ways: what votes alone decide is counted by way
    ways, way = _ways(votes)
    times, times_judged = (np.bincount(each, minlength=len(ways)) for each in (way, way[judged]))
    complete = np.asarray(~np.isnan(ways).any(1))
    if k < 2 or not times[complete].any():
        raise ValueError("a conflict needs two rewards and a pair that both can judge")
    siding, against = (ways > 0).sum(1), (ways < 0).sum(1)
    clusters = _numbered(prompts)
    cells = whole(clusters)
    alike = np.where(complete, (siding == k) | (against == k), np.nan)[way]
    right, outvoted = (
        np.where(judged, np.where(complete, of_ways, np.nan)[way], np.nan)
        for of_ways in (siding == k, against > siding)
    )
    all_right, all_wrong = (
        float(
            (times_judged[complete] @ side[complete] / max(1, times_judged[complete].sum())).prod()
        )
        for side in (ways > 0, ways < 0)
    )
    # sorting is what takes long, and correlations and calibrations need the same order
    sorted_once = judged.all() and complete.all()
    with ThreadPoolExecutor() as pool:  # sorting and counting let other threads go on
        order = pool.map(ranks_of, np.abs(won.T)) if sorted_once else None
        ranks = None if order is None else np.stack(list(order))
        each = pool.map(
            lambda column: _accuracy(
                (won[:, column], votes[:, column], labels),
                cells,
                None if ranks is None else ranks[column],
            ),
            range(k),
        )
        accuracy = dict(zip(rewards, each, strict=True))
    kinds = np.bincount(classify(votes, judged), minlength=len(CLASSES)).tolist()
    usable = judged & complete[way]
    alpha, advice = _advice(ways[complete], times_judged[complete], list(accuracy.values()))
    return Conflict(
        n_pairs=n,
        n_complete=int(times[complete].sum()),
        n_tied=int((~judged).sum()),
        rewards=tuple(rewards),
        dimensions={name: about.dimensions[name] for name in rewards if name in about.dimensions},
        unanimous=Unanimity(cells.shares(alike).interval(0), 2 * 0.5**k, all_right + all_wrong),
        unanimous_with_label=Unanimity(cells.shares(right).interval(0), 0.5**k, all_right),
        outvoted=cells.shares(outvoted).interval(0),
        votes=tuple(
            np.bincount(siding[complete], times_judged[complete], k + 1).astype(int).tolist()
        ),
        classes=dict(zip(CLASSES, kinds, strict=True)),
        agreement=_agreement(ways, times, pair_spearman(won, ranks)),
        accuracy=accuracy,
        dominance=dominance(
            won if usable.all() else won[usable],
            [about.dimensions.get(name) for name in rewards],
            about.indifference,
        ),
        strata=divide(
            about.strata,
            {"unanimous": alike, "unanimous_with_label": right, "outvoted": outvoted},
            clusters,
        ),
        tie_bands={name: about.ties.get(name, TIE) for name in rewards},
        alpha=alpha,
        advice=advice,
    )


def winner_margins(margins: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Return margins of winners over losers, by column; where the label is a tie, as they came."""
    signs = np.asarray(labels, float)
    turned = np.where(signs == 0, 1.0, signs)[:, None] * np.asarray(margins, float)
    return np.asfortranarray(turned)


def vote(
    won: NDArray[np.float64], rewards: Sequence[str], ties: Mapping[str, float]
) -> NDArray[np.float64]:
    """Return the votes of rewards about pairs; NaN where one says nothing."""
    bands = np.array([ties.get(name, TIE) for name in rewards])
    return np.where(np.abs(won) <= bands, 0.0, np.sign(won))


def classify(votes: NDArray[np.float64], judged: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return of each pair its number among `CLASSES`.

    Args:
        votes: about each pair, (n, k).
        judged: whether it has a winner.
    """
    known = judged & ~np.isnan(votes).any(1)
    kinds = np.full(len(votes), CLASSES.index("unjudged"))
    kinds[known] = CLASSES.index("mixed")
    kinds[known & (votes > 0).all(1)] = CLASSES.index("unanimous-right")
    kinds[known & (votes < 0).all(1)] = CLASSES.index("unanimous-wrong")
    return kinds


def _ways(votes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the different rows of votes, and which of them each row is."""
    code = np.zeros(len(votes), np.int64)
    for column in votes.T:
        code = 4 * code + np.where(np.isnan(column), 2, column).astype(np.int64) + 1
    if 4 ** votes.shape[1] <= len(votes):
        there = np.flatnonzero(np.bincount(code))
        places = np.zeros(4 ** votes.shape[1], np.int64)
        places[there] = np.arange(len(there))
        way = places[code]
    else:
        there, way = np.unique(code, return_inverse=True)
    powers = 4 ** np.arange(votes.shape[1] - 1, -1, -1)
    ways = (there[:, None] // powers % 4 - 1).astype(float)
    return np.where(ways == 2, np.nan, ways), way


def _accuracy(
    judgement: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    cells: Cells,
    ranks: NDArray[np.float64] | None,
) -> Accuracy:
    """Measure one reward by its margins and votes, and by the labels."""
    won, votes, labels = judgement
    judged, known = labels != 0, ~np.isnan(won)
    with_ties = None
    if not judged.all() and known.any():
        with_ties = calibrate_ties(won[known], np.where(judged, 1.0, 0.0)[known])
        votes, won = np.where(judged, votes, np.nan), np.where(judged, won, np.nan)
    sided = (votes + 1) / 2
    share = cells.shares(sided).interval(0)
    ties = float((votes == 0).sum() / share.n) if share.n else float("nan")
    decided = share
    if ties > 0:
        decided = cells.shares(np.where(votes == 0, np.nan, sided)).interval(0)
    return Accuracy(share, decided, ties, with_ties, calibrate(won, cells.cell, ranks))


def _agreement(
    ways: NDArray[np.float64], times: NDArray[np.int64], spearman: NDArray[np.float64]
) -> Agreement:
    share, kappa = pair_matrices(ways, times)
    return Agreement(
        share,
        kappa,
        spearman,
        pair_alpha(ways, times),
        pair_fleiss(ways, times),
        pair_ac1(ways, times),
        pair_entropy(ways, times),
    )


def _advice(
    ways: NDArray[np.float64], times: NDArray[np.int64], accuracy: Sequence[Accuracy]
) -> tuple[float, str]:
    """Say which alpha to start from, and why: a heuristic of this tool.

    Only rewards that know something about the label count: one that tosses a coin about it would
    make every data set look like one in conflict.
    """
    if not times.any():
        return ALPHAS["consistent"], "no pair has a winner that every reward can judge"
    telling = [number for number, each in enumerate(accuracy) if each.share.low > 0.5]
    if not telling:
        alpha = ALPHAS["conflict"]
        return alpha, (
            "no reward predicts the labels better than chance, so they look noisy to all of them: "
            f"try alpha {alpha:g}, and check the labels"
        )
    k = len(telling)
    share = float(times @ (ways[:, telling] > 0).all(1) / times.sum())
    beyond = (share - 0.5**k) / (1 - 0.5**k)
    who = f"the {k} rewards that predict" if k > 1 else "the one reward that predicts"
    said = f"{who} the labels at all {'are' if k > 1 else 'is'}"
    what = "unanimously right" if k > 1 else "right"
    said = f"{said} {what} on {share:.0%} of the pairs"
    if beyond >= SEPARABLE and k > 1:
        alpha = ALPHAS["trivial"]
        return alpha, f"trivially separable pairs ({said}): try alpha {alpha:g}"
    if beyond >= SEPARABLE:  # clean pairs look the same to one reward, and want another alpha
        alpha = ALPHAS["consistent"]
        return alpha, (
            f"consistent pairs ({said}): keep alpha at {alpha:g}, or below if training tells "
            "winners from losers within a few hundred steps"
        )
    if beyond <= CONFLICTING:
        alpha = ALPHAS["conflict"]
        return alpha, f"conflict-heavy pairs ({said}): try alpha {alpha:g}, and up to 8"
    alpha = ALPHAS["mixed" if beyond <= HALF else "consistent"]
    return alpha, f"mostly consistent pairs ({said}): try alpha {alpha:g}"


def _numbered(prompts: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    if isinstance(prompts, np.ndarray):
        return np.unique(prompts, return_inverse=True)[1].astype(np.int64)
    places = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return np.fromiter(map(places.__getitem__, prompts), np.int64, len(prompts))


def share_document(share: Interval) -> dict[str, Any]:
    """Return the JSON form of a share; null where there is nothing to count."""
    if not share.n:
        return {"value": None, "ci95": None, "n": 0}
    return {"value": share.value, "ci95": [share.low, share.high], "n": share.n}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
