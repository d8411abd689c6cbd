"""Is the winner the better one in every respect, by margins that matter?

won (n, k)   score of the winner minus score of the loser

A winner dominates if no reward calls it worse and one calls it better; rewards have scales of their
own, so a margin matters from a share of that reward's median absolute margin on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

INDIFFERENCE = 0.1
"""Share of a reward's median absolute margin up to which dominance calls two media equally good."""


@dataclass(frozen=True, slots=True)
class Dominance:
    """Shares of pairs by what the winner is.

    Attributes:
        dominates: better, nowhere worse.
        dominated: worse, nowhere better.
        mixed: better in some, worse in others.
        equal: neither anywhere.
    """

    dominates: float
    dominated: float
    mixed: float
    equal: float

    def document(self) -> dict[str, float | None]:
        """Return the JSON form."""
        shares = {
            "winner_dominates": self.dominates,
            "winner_dominated": self.dominated,
            "mixed": self.mixed,
            "indistinguishable": self.equal,
        }
        return {name: None if np.isnan(share) else share for name, share in shares.items()}


@dataclass(frozen=True, slots=True)
class DominanceReport:
    """Dominance by all rewards, and by what they are about.

    Attributes:
        rewards: by each reward alike.
        dimensions: by each dimension alike, whose rewards' scaled margins are averaged: two rewards
            about the same thing are no two opinions. None where all are about one thing.
        within: by the rewards of each dimension that has any.
        indifference: share of the median absolute margin that does not matter.
    """

    rewards: Dominance
    dimensions: Dominance | None
    within: dict[str, Dominance]
    indifference: float

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return self.rewards.document() | {
            "indifference": self.indifference,
            "across_dimensions": self.dimensions and self.dimensions.document(),
            "by_dimension": {name: each.document() for name, each in self.within.items()},
        }


def dominance(
    won: NDArray[np.float64], dimensions: Sequence[str | None], indifference: float = INDIFFERENCE
) -> DominanceReport:
    """Count pairs by dominance.

    Args:
        won: margins of winners, without NaN.
        dimensions: what each reward is about; None where that is unknown.
        indifference: share of the median absolute margin that does not matter.
    """
    scaled = in_own_scale(won)
    groups = {
        name: [column for column, each in enumerate(dimensions) if each == name]
        for name in dict.fromkeys(filter(None, dimensions))
    }
    across = None
    if len(groups) > 1:
        means = np.stack([scaled[:, columns].mean(1) for columns in groups.values()], 1)
        across = _shares(means, indifference)
    within = {name: _shares(scaled[:, columns], indifference) for name, columns in groups.items()}
    return DominanceReport(_shares(scaled, indifference), across, within, indifference)


def in_own_scale(won: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return margins in units of each reward's median absolute margin; NaN stays NaN."""
    if not len(won):
        return won
    scale = np.array([np.nanmedian(np.abs(column)) for column in won.T])
    # where most margins are ties the median is 0, and any other margin matters
    return np.asarray(won / np.where(scale > 0, scale, np.finfo(float).tiny ** 0.5), float)


def _shares(scaled: NDArray[np.float64], band: float) -> Dominance:
    if not len(scaled):
        return Dominance(*[float("nan")] * 4)
    better, worse = np.zeros((2, len(scaled)), bool)
    for column in scaled.T:  # a million short rows would take ten times as long
        better |= column > band
        worse |= column < -band
    return Dominance(
        float((better & ~worse).mean()),
        float((worse & ~better).mean()),
        float((better & worse).mean()),
        float((~better & ~worse).mean()),
    )
