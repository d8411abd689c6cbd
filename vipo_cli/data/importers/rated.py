"""Clips that were rated one by one: compared within a prompt, or told apart as liked or not."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from vipo_cli.data.entry import Entry, Found, Label, Unusable
from vipo_cli.media import Media

Form = Literal["pairs", "ranked", "samples"]
"""What becomes of rated clips: all pairs of a prompt, one list a prompt, or single samples."""
MOST = 32
"""Clips of one prompt that are compared; their pairs grow with the square of it."""
DOMINANCE = "dominance"
"""Better is what is nowhere worse and somewhere better, whatever the ratings are worth."""


@dataclass(frozen=True, slots=True)
class Rated:
    """A clip with its ratings; a million of them are held at once.

    Attributes:
        prompt: what it was made for.
        medium: its name, by which it is found later.
        ratings: of each dimension, higher is better.
        id: of the clip in its source.
        split: of the source that it is in; clips of two splits are not compared.
    """

    prompt: str
    medium: str
    ratings: tuple[float, ...]
    id: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """What the ratings of a source are.

    Attributes:
        dimensions: their names.
        lowest, highest: rating of each dimension.
        counted: which of them make up the mean.
    """

    dimensions: Sequence[str]
    lowest: Sequence[float]
    highest: Sequence[float]
    counted: Sequence[bool]

    def overall(self, by: str) -> Callable[[tuple[float, ...]], float]:
        """Return what tells how good ratings are, from 0 to 1.

        Args:
            by: a dimension, or the mean of all that count, each from its lowest to its highest.
        """
        places = [
            place
            for place, dimension in enumerate(self.dimensions)
            if dimension == by or (by == "mean" and self.counted[place])
        ]

        def mean(ratings: tuple[float, ...]) -> float:
            parts = [
                (ratings[place] - self.lowest[place]) / (self.highest[place] - self.lowest[place])
                for place in places
            ]
            return sum(parts) / len(parts)

        return mean


def found_in(
    rated: Iterable[Rated | Unusable],
    scale: Scale,
    find: Callable[[str], Media | Unusable],
    *,
    form: Form,
    by: str,
    liked: float,
) -> Iterator[Found]:
    """Yield what rated clips become.

    Args:
        rated: the clips, in any order.
        scale: of their ratings.
        find: a medium by its name.
        form: what they become.
        by: dimension that decides; mean, or dominance of all that count.
        liked: share of the way from the worst to the best from which on a sample is liked.
    """
    if form == "samples":
        for each in rated:
            yield each if isinstance(each, Unusable) else _sample(each, scale, find, by, liked)
        return
    groups: dict[tuple[str | None, str], list[Rated]] = {}
    for each in rated:
        if isinstance(each, Unusable):
            yield each
        elif not each.prompt:
            yield Unusable(each.id or each.medium, "empty prompt")
        else:
            groups.setdefault((each.split, each.prompt), []).append(each)
    alone = sum(len(group) == 1 for group in groups.values())
    if alone:
        reason = f"{alone:,} clips that are the only ones of their prompts, counted as one"
        yield Unusable("", reason)
    for group in groups.values():
        if len(group) > 1:
            yield from _compared(group, scale, find, form, by)


def _sample(
    each: Rated, scale: Scale, find: Callable[[str], Media | Unusable], by: str, liked: float
) -> Found:
    medium = find(each.medium)
    if isinstance(medium, Unusable):
        return medium
    good = scale.overall("mean" if by == DOMINANCE else by)(each.ratings) >= liked
    return Entry(
        each.prompt,
        (medium,),
        "liked" if good else "disliked",
        scores=_scores([each], scale),
        id=each.id,
        split=each.split,
    )


def _compared(
    group: list[Rated], scale: Scale, find: Callable[[str], Media | Unusable], form: Form, by: str
) -> Iterator[Found]:
    """Yield the pairs of a prompt, which share a weight of 1, or their list."""
    clips: list[tuple[Rated, Media]] = []
    for number, each in enumerate(group):
        if number >= MOST:
            yield Unusable(each.id or each.medium, f"more than {MOST} clips of one prompt")
        elif isinstance(medium := find(each.medium), Unusable):
            yield medium
        else:
            clips.append((each, medium))
    if len(clips) < 2:
        return
    if form == "ranked":
        yield _list(clips, scale, by)
        return
    pairs = list(combinations(clips, 2))
    for one, other in pairs:
        yield _pair(one, other, scale, by, 1 / len(pairs))


def _list(clips: list[tuple[Rated, Media]], scale: Scale, by: str) -> Entry:
    overall = scale.overall(by)
    goodness = [overall(each.ratings) for each, _ in clips]
    first = clips[0][0]
    return Entry(
        first.prompt,
        tuple(medium for _, medium in clips),
        "ranked",
        ranks=tuple(1.0 + sum(other > good for other in goodness) for good in goodness),
        scores=_scores([each for each, _ in clips], scale),
        id=first.id,
        split=first.split,
        metadata={"clips": [each.id for each, _ in clips]},
    )


def _pair(
    one: tuple[Rated, Media], other: tuple[Rated, Media], scale: Scale, by: str, weight: float
) -> Entry:
    first, second = one[0], other[0]
    dimensions = {
        dimension: _better(first.ratings[place], second.ratings[place])
        for place, dimension in enumerate(scale.dimensions)
    }
    if by == DOMINANCE:
        counted = {dimensions[name] for name, counts in _counted(scale) if counts} - {"tie"}
        label: Label = "none" if len(counted) > 1 else counted.pop() if counted else "tie"
    else:
        overall = scale.overall(by)
        label = _better(overall(first.ratings), overall(second.ratings))
    return Entry(
        first.prompt,
        (one[1], other[1]),
        label,
        weight=weight,
        dimensions=dimensions,
        scores=_scores([first, second], scale),
        id=f"{first.id}-{second.id}" if first.id and second.id else None,
        split=first.split,
    )


def _counted(scale: Scale) -> Iterable[tuple[str, bool]]:
    return zip(scale.dimensions, scale.counted, strict=True)


def _better(one: float, other: float) -> Literal["a", "b", "tie"]:
    return "tie" if abs(one - other) < 1e-9 else "a" if one > other else "b"


def _scores(rated: Sequence[Rated], scale: Scale) -> dict[str, tuple[float, ...]]:
    return {
        dimension: tuple(float(each.ratings[place]) for each in rated)
        for place, dimension in enumerate(scale.dimensions)
    }
