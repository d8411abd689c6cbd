"""What tells winners from losers without looking at the pictures: size, shape, length, format.

A model learns whatever goes with being preferred. If winners are larger in nine pairs of ten, it is
the upscaled look of the losers that it learns to avoid.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.census import Census

Z95 = 1.959963984540054
UNEVEN = 0.6
"""Share of winners, certain to be exceeded, from which on a bias is serious."""
FREQUENT = 0.1
"""Share of pairs that have to differ for a bias to be serious."""
LOPSIDED = 4.0
"""How many times the smallest category the largest may be."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of judged pairs with its 95 % interval.

    Attributes:
        value: the share.
        low: lower end of the interval.
        high: upper end of the interval.
        n: pairs.
        n_clusters: prompts that they are for.
    """

    value: float
    low: float
    high: float
    n: int
    n_clusters: int

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        known = asdict(self)
        ends = [known.pop("low"), known.pop("high")]
        return {**known, "ci95": ends}

    def __str__(self) -> str:
        return f"{self.value:.0%} (95 % interval {self.low:.0%} to {self.high:.0%})"


@dataclass(frozen=True, slots=True)
class Bias:
    """Something that goes with being preferred.

    Attributes:
        problem: its name.
        count: pairs that differ in it.
        share: of these, in how many it goes with the winner.
        words: what was found.
        drop: what `filter` leaves out to be rid of it; nothing if it does no harm.
        of: what media differ in.
        serious: whether a model would learn it.
    """

    problem: str
    count: int
    share: Share
    words: str
    drop: str
    of: str
    serious: bool


def share_of(hits: NDArray[np.bool_], clusters: NDArray[Any]) -> Share:
    """Return a share with Wilson's interval for as many trials as correlated ones are worth.

    Pairs of one prompt resemble each other: the variance of the share is estimated from sums over
    prompts, and the trials are as many as would give it if they were independent.
    """
    if not len(hits):
        raise ValueError("a share needs at least one trial")
    value = float(hits.mean())
    _, places = np.unique(clusters, return_inverse=True)
    sums = np.bincount(places, hits - value)
    count = len(sums)
    worth = float(len(hits))
    if count == 1 or value in (0.0, 1.0):
        worth = float(count)
    elif variance := float((sums**2).sum()) * count / (count - 1) / len(hits) ** 2:
        worth = min(worth, max(1.0, value * (1 - value) / variance))
    scale = 1 + Z95**2 / worth
    centre = (value + Z95**2 / (2 * worth)) / scale
    half = Z95 / scale * float(np.sqrt(value * (1 - value) / worth + Z95**2 / (4 * worth**2)))
    return Share(value, max(0.0, centre - half), min(1.0, centre + half), len(hits), count)


def find_biases(census: Census) -> Iterator[Bias]:
    """Yield what goes with being preferred, beyond what chance would bring."""
    rows, best, worst = census.best_and_worst()
    kept = ~census.rows["broken"][rows]
    rows, best, worst = rows[kept], best[kept], worst[kept]
    prompts = census.rows["prompt"][rows]
    w, l = census.media[best], census.media[worst]  # noqa: E741
    if census.depth == "pixels":
        pixels = [side["width"].astype(np.int64) * side["height"] for side in (w, l)]
        yield from _compared("size bias", pixels, prompts, ("larger", "different sizes"))
        shape = [np.round(side["width"] / np.maximum(side["height"], 1), 3) for side in (w, l)]
        yield from _compared("shape bias", shape, prompts, ("wider", "different sizes"))
        frames = [side["frames"] for side in (w, l)]
        yield from _compared("length bias", frames, prompts, ("longer", "different sizes"))
    yield from _format_bias(census, w["format"], l["format"], prompts)
    yield from _position_bias(census)


def _compared(
    problem: str,
    values: list[NDArray[Any]],
    prompts: NDArray[Any],
    words: tuple[str, str],
) -> Iterator[Bias]:
    comparative, drop = words
    differ = values[0] != values[1]
    if not differ.any():
        return
    share = share_of((values[0] > values[1])[differ], prompts[differ])
    if share.low <= 0.5 <= share.high:
        return
    said = (
        f"the winner is {comparative} in {share} of {share.n:,} pairs that differ, "
        f"{share.n / len(differ):.0%} of all"
    )
    serious = _is_uneven(share) and share.n >= FREQUENT * len(differ)
    yield Bias(problem, share.n, share, said, drop, "size", serious)


def _is_uneven(share: Share) -> bool:
    return share.low > UNEVEN or share.high < 1 - UNEVEN


def _format_bias(
    census: Census, winners: NDArray[Any], losers: NDArray[Any], prompts: NDArray[Any]
) -> Iterator[Bias]:
    """Compare the two formats that meet most often."""
    differ = winners != losers
    if not differ.any():
        return
    low, high = np.minimum(winners, losers), np.maximum(winners, losers)
    meetings, counts = np.unique(np.stack([low, high], 1)[differ], axis=0, return_counts=True)
    one, other = meetings[counts.argmax()]
    met = (low == one) & (high == other)
    share = share_of(winners[met] == one, prompts[met])
    if share.low <= 0.5 <= share.high:
        return
    names = census.names["format"]
    said = f"{names[one]} wins over {names[other]} in {share} of {share.n:,} pairs"
    serious = _is_uneven(share) and share.n >= FREQUENT * len(differ)
    yield Bias("format bias", share.n, share, said, "different formats", "format", serious)


def _position_bias(census: Census) -> Iterator[Bias]:
    """Look at which side wins, where the source kept the order in which media were shown."""
    judged = np.flatnonzero(census.is_named("label", "a", "b"))
    first = census.is_named("label", "a")[judged]
    if not len(judged) or first.all():
        return  # winners come first in this source: nobody knows how they were shown
    share = share_of(first, census.rows["prompt"][judged])
    if not share.low <= 0.5 <= share.high:
        said = f"the first of two media is preferred in {share} of {share.n:,} pairs"
        yield Bias("position bias", share.n, share, said, "", "order", serious=False)


def find_imbalance(census: Census) -> tuple[int, int, list[str]] | None:
    """Return the sizes of the largest and the smallest category, and all with their counts.

    None where they are even enough, or there are fewer than two.
    """
    names, groups = census.names["group"], census.rows["group"]
    counts = np.bincount(groups, minlength=len(names))
    known = sorted((int(count), name) for count, name in zip(counts, names, strict=True) if name)
    if len(known) < 2 or known[-1][0] <= LOPSIDED * known[0][0]:
        return None
    return known[-1][0], known[0][0], [f"{name}: {count:,}" for count, name in reversed(known)]
