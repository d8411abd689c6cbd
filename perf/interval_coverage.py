"""How often the 95 % intervals hold the truth, on simulated clustered data where it is known.

Prompts are drawn, then a few samples of each, which resemble each other: the share of the variance
that lies between prompts is the correlation. A table of percentages, of thousands of trials each;
their own error is about 0.5 at 2,000 trials. Prints the table, then JSON.

    python perf/interval_coverage.py --trials 2000
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from vipo_cli.analysis.intervals import (
    Interval,
    clustered_mean,
    paired_difference,
    stratified_mean,
    wilson,
)
from vipo_cli.analysis.ranking import rank
from vipo_cli.analysis.shares import clustered_share

Rng = np.random.Generator
Held = bool | tuple[bool, ...]
LEAST, MOST = 93.0, 97.0
STRATA = 6


def sizes(rng: Rng, prompts: int) -> np.ndarray:
    """Return how many samples each prompt has: one to eight."""
    return rng.integers(1, 9, prompts)


def hits(rng: Rng, prompts: int, share: float, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """Return samples that are 0 or 1, and their prompts."""
    counts = sizes(rng, prompts)
    if correlation:
        spread = 1 / correlation - 1
        chance = rng.beta(share * spread, (1 - share) * spread, prompts)
    else:
        chance = np.full(prompts, share)
    owner = np.repeat(np.arange(prompts), counts)
    return (rng.random(len(owner)) < chance[owner]).astype(float), owner


def scores(rng: Rng, prompts: int, skewed: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Return samples of a score, their prompts, and the true mean."""
    owner = np.repeat(np.arange(prompts), sizes(rng, prompts))
    if skewed:
        common = rng.exponential(size=prompts)
        return common[owner] + 0.5 * rng.normal(size=len(owner)), owner, 1.0
    return rng.normal(size=prompts)[owner] + rng.normal(size=len(owner)), owner, 0.0


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def cases() -> Iterator[tuple[str, Callable[[Rng], Held]]]:
    """Yield what is tried: its name, and one trial of it."""
    yield from share_cases()
    yield from mean_cases()
    for prompts in (10, 20, 50, 200):
        name = f"{prompts} prompts, 4 models, every two on each, ties"
        yield f"bradley-terry: {name}", lambda rng, p=prompts: _ranked(rng, p)


def share_cases() -> Iterator[tuple[str, Callable[[Rng], Held]]]:
    """Yield what is tried on samples that are 0 or 1."""
    for n in (20, 200):
        for share in (0.05, 0.5):
            yield (
                f"wilson: {n} trials, share {share}",
                lambda rng, n=n, p=share: holds(wilson(rng.binomial(n, p), n), p),
            )
    for prompts in (10, 20, 50, 200):
        for share in (0.05, 0.2, 0.5):
            for correlation in (0.0, 0.3):
                name = f"{prompts} prompts, share {share}, correlation {correlation}"
                given = (prompts, share, correlation)
                yield (
                    f"clustered_share: {name}",
                    lambda rng, g=given: holds(clustered_share(*hits(rng, *g)), g[1]),
                )
                yield (
                    f"stratified_mean: {name}",
                    lambda rng, g=given: holds(_bootstrap(*hits(rng, *g)), g[1]),
                )
    for prompts in (5, 20, 100):
        name = f"{STRATA} strata of {prompts} prompts, 4 samples, share 0.1 to 0.9"
        yield f"stratified_mean: {name}", lambda rng, p=prompts: _strata(rng, p)


def mean_cases() -> Iterator[tuple[str, Callable[[Rng], Held]]]:
    """Yield what is tried on scores."""
    for prompts in (10, 20, 50, 200):
        for skewed in (False, True):
            name = f"{prompts} prompts, {'skewed' if skewed else 'normal'} scores"
            yield (
                f"clustered_mean: {name}",
                lambda rng, g=(prompts, skewed): _mean(clustered_mean, *scores(rng, *g)),
            )
            yield (
                f"stratified_mean: {name}",
                lambda rng, g=(prompts, skewed): _mean(_bootstrap, *scores(rng, *g)),
            )
    for prompts in (10, 20, 50, 200):
        name = f"{prompts} prompts, 4 samples, difference 0.1"
        yield f"paired_difference: {name}", lambda rng, p=prompts: _paired(rng, p)


def _bootstrap(values: np.ndarray, owner: np.ndarray) -> Interval:
    return stratified_mean(values, owner.tolist(), [0] * len(values), resamples=1000)


def _mean(
    method: Callable[[Any, Any], Interval], values: np.ndarray, owner: np.ndarray, truth: float
) -> bool:
    return holds(method(values, owner), truth)


def _strata(rng: Rng, prompts: int) -> bool:
    shares = np.linspace(0.1, 0.9, STRATA)
    spread = 1 / 0.3 - 1
    chance = np.concatenate([rng.beta(p * spread, (1 - p) * spread, prompts) for p in shares])
    owner = np.repeat(np.arange(STRATA * prompts), 4)
    values = (rng.random(len(owner)) < chance[owner]).astype(float)
    strata = (owner // prompts).tolist()
    return holds(stratified_mean(values, owner.tolist(), strata, resamples=1000), shares.mean())


def _paired(rng: Rng, prompts: int) -> bool:
    owner = np.repeat(np.arange(prompts), 4)
    common, change = rng.normal(size=prompts), 0.1 + 0.3 * rng.normal(size=prompts)
    b = common[owner] + rng.normal(size=len(owner))
    a = common[owner] + change[owner] + rng.normal(size=len(owner))
    interval, _ = paired_difference(a, b, owner.tolist(), [0] * len(owner))
    return holds(interval, 0.1)


MODELS = {"a": 0.9, "b": 0.2, "c": -0.3, "d": -0.8}
NU = 0.5


def _ranked(rng: Rng, prompts: int) -> tuple[bool, ...]:
    """Compare models; on every other prompt two judges see the same and say the same."""
    names = list(MODELS)
    games = []
    for prompt in range(prompts):
        for i, j in combinations(range(len(names)), 2):
            half = (MODELS[names[i]] - MODELS[names[j]]) / 2
            weights = np.array([np.exp(half), NU, np.exp(-half)])
            outcome = int(rng.choice([1, 0, -1], p=weights / weights.sum()))
            games += [(names[i], names[j], outcome, prompt)] * (1 + prompt % 2)
    try:
        found = rank(*map(list, zip(*games, strict=True)), resamples=500)
    except ValueError:  # a model never won: there is no interval to be wrong
        return ()
    strengths = [holds(found.strength[name], MODELS[name]) for name in names]
    ahead = [holds(each, MODELS[a] - MODELS[b]) for (a, b), each in found.ahead.items()]
    return (*strengths, *ahead)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--only", default="", help="cases whose names hold this")
    given = parser.parse_args()
    rows = {}
    for name, trial in cases():
        if given.only not in name:
            continue
        rng = np.random.default_rng(0)
        slow = "bradley" in name
        held = [np.atleast_1d(trial(rng)) for _ in range(given.trials // (4 if slow else 1))]
        share = 100 * float(np.concatenate(held).mean())
        rows[name] = round(share, 1)
        mark = "" if LEAST <= share <= MOST else "  outside"
        print(f"{share:5.1f}  {name}{mark}", flush=True)
    print(json.dumps({"trials": given.trials, "percent_held": rows}, indent=2))


if __name__ == "__main__":
    main()
