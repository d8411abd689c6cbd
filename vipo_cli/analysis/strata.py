"""How rewards agree in parts of a data set: by model, length of prompt, category, label, person."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.analysis.intervals import Interval
from vipo_cli.analysis.shares import cells_of


@dataclass(frozen=True, slots=True)
class Stratum:
    """A way to divide pairs.

    Attributes:
        names: of the parts, in the order in which to show them.
        codes: of each pair, its part; -1 where that is unknown.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """What was found in one part of the pairs.

    Attributes:
        pairs: those that every reward can judge.
        unanimous: all rewards prefer the same medium.
        unanimous_with_label: all prefer the winner.
        outvoted: more of them prefer the loser than the winner.
    """

    pairs: int
    unanimous: Interval
    unanimous_with_label: Interval
    outvoted: Interval

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "n": self.pairs,
            **{
                name: {"value": share.value, "ci95": [share.low, share.high]} if share.n else None
                for name, share in (
                    ("unanimous", self.unanimous),
                    ("unanimous_with_label", self.unanimous_with_label),
                    ("outvoted", self.outvoted),
                )
            },
        }


def divide(
    strata: Mapping[str, Stratum],
    measures: Mapping[str, NDArray[np.float64]],
    clusters: NDArray[np.int64],
) -> dict[str, dict[str, Part]]:
    """Measure each part of each stratum that has two or more.

    Args:
        strata: of the pairs, by what they divide by.
        measures: unanimous, unanimous_with_label and outvoted of each pair; NaN where unknown.
        clusters: of each pair.
    """
    with ThreadPoolExecutor() as pool:  # counting lets other threads go on
        found = pool.map(lambda stratum: _divided(stratum, measures, clusters), strata.values())
        return {name: parts for name, parts in zip(strata, found, strict=True) if parts}


def _divided(
    stratum: Stratum, measures: Mapping[str, NDArray[np.float64]], clusters: NDArray[np.int64]
) -> dict[str, Part]:
    """Measure each part of a stratum; nothing where it has fewer than two."""
    known = stratum.codes >= 0
    codes = stratum.codes[known]
    if (np.bincount(codes, minlength=1) > 0).sum() < 2:
        return {}
    everything = bool(known.all())
    cells = cells_of(clusters if everything else clusters[known], codes, len(stratum.names))
    shares = {
        measure: cells.shares(values if everything else values[known]).intervals()
        for measure, values in measures.items()
    }
    return {
        part: Part(
            shares["unanimous"][number].n,
            **{measure: each[number] for measure, each in shares.items()},
        )
        for number, part in enumerate(stratum.names)
        if shares["unanimous"][number].n
    }
