"""What VBench and VBench-2.0 have in common: dimensions of clips that make one score.

A dimension's raw value is brought to a scale of its own, (value - low) / (high - low), without
clipping. Categories are weighted means of these, and the total is the weighted mean of the
categories. The public implementations take a dimension that is missing for a raw 0. Here there is
no total without all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vipo_cli.benchmarks.sources import Published


@dataclass(frozen=True, slots=True)
class Dimension:
    """One thing that clips are judged by.

    Attributes:
        name: as in result files.
        prompts: how many the benchmark has for it.
        low, high: raw values that become 0 and 1.
        weight: in its category's mean.
        clips: how many are made for each prompt.
        results: how many results there are for each prompt.
        leaves_out: whether clips that cannot be judged may be left out.
        unit: what a clip's own result is multiplied with to be on the scale of the value.
    """

    name: str
    prompts: int
    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0
    clips: int = 5
    results: int = 5
    leaves_out: bool = False
    unit: float = 1.0

    def normalised(self, value: float) -> float:
        """Return a raw value on the scale of the totals."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Category:
    """A weighted mean of dimensions, and its own weight in the total."""

    name: str
    dimensions: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Suite:
    """A benchmark of this kind.

    Attributes:
        name: as on the command line, and of its prompt set.
        title: how reports call it.
        about: what it measures, in a line.
        version: raised whenever the same results may add up to something else.
        package: what the public implementation is imported as.
        runner: its class.
        info: its file of prompts, and where that is published.
        entries: number of prompts there, some of them twice.
        dimensions: what is judged.
        categories: what is reported beside the total.
        longest: how many characters of a prompt its clips are named by; None: all.
        reported: dimensions that a paper of interest reports, and which paper that is.
    """

    name: str
    title: str
    about: str
    version: str
    package: str
    runner: str
    info: Published
    entries: int
    dimensions: tuple[Dimension, ...]
    categories: tuple[Category, ...]
    longest: int | None = None
    reported: tuple[str, tuple[str, ...]] | None = None

    def dimension(self, name: str) -> Dimension:
        """Return a dimension by its name."""
        return next(each for each in self.dimensions if each.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all dimensions."""
        return tuple(each.name for each in self.dimensions)

    def clip_name(self, prompt: str, index: int, suffix: str = ".mp4") -> str:
        """Return the official name of a prompt's clip."""
        return f"{prompt[: self.longest]}-{index}{suffix}"

    def clips(self, dimensions: Sequence[str]) -> int:
        """Return how many clips a prompt needs that serves some dimensions."""
        return max(self.dimension(name).clips for name in dimensions)


def totals(suite: Suite, values: Mapping[str, float]) -> dict[str, float]:
    """Return the categories, and the total, none of whose dimensions is missing.

    The terms are added in the order of the public implementation, so that every bit is the same.
    """
    found: dict[str, float] = {}
    for category in suite.categories:
        if all(name in values for name in category.dimensions):
            members = [suite.dimension(name) for name in category.dimensions]
            terms = [each.normalised(values[each.name]) * each.weight for each in members]
            found[category.name] = sum(terms) / sum(each.weight for each in members)
    if len(found) == len(suite.categories):
        terms = [found[each.name] * each.weight for each in suite.categories]
        found["total"] = sum(terms) / sum(each.weight for each in suite.categories)
    return found


def coefficients(suite: Suite, metric: str) -> dict[str, float]:
    """Return how much a category or the total changes with each dimension's raw value."""
    chosen = [each for each in suite.categories if metric in (each.name, "total")]
    whole = sum(each.weight for each in chosen)
    found = {}
    for category in chosen:
        members = [suite.dimension(name) for name in category.dimensions]
        weights = sum(each.weight for each in members)
        for each in members:
            share = category.weight / whole * each.weight / weights
            found[each.name] = share / (each.high - each.low)
    return found
