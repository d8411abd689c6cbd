"""The records that sources yield and every step reads: pairs, ranked lists, labelled samples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vipo_cli.data.regions import RegionMap
from vipo_cli.errors import DataError
from vipo_cli.media import Media
from vipo_cli.run import Work

Kind = Literal["pair", "ranked list", "labelled sample"]
"""What a record is, in words; all records of a data set are the same."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt with the medium that was preferred and the medium that was not.

    Attributes:
        prompt: what both were made for.
        winner: encoded bytes or the path of a file.
        loser: likewise; None where a source holds single preferred samples.
        metadata: anything else the source knows, such as its category.
        weight: how much the pair counts.
        probability: that the winner really is preferred: 1 is certain, 0.5 a tie.
        noise_seeds: of the noise that the winner's and the loser's sampling started from.
        regions: where the winner and the loser count; None counts everywhere alike.
    """

    kind: ClassVar[Kind] = "pair"
    prompt: str
    winner: Media
    loser: Media | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    probability: float = 1.0
    noise_seeds: tuple[int, int] | None = None
    regions: tuple[RegionMap | None, RegionMap | None] | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.weight < math.inf, "weight", self.weight)
        _require(0 <= self.probability <= 1, "probability", self.probability)

    @property
    def media(self) -> tuple[Media, ...]:
        """The winner, then the loser if there is one."""
        return (self.winner,) if self.loser is None else (self.winner, self.loser)

    @property
    def roles(self) -> tuple[str, ...]:
        """What each of the media is, in words."""
        return ("winner", "loser")[: len(self.media)]


@dataclass(frozen=True, slots=True)
class RankedList:
    """A prompt with two or more media in the order in which they were preferred, best first."""

    kind: ClassVar[Kind] = "ranked list"
    prompt: str
    media: tuple[Media, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        _require(0 <= self.weight < math.inf, "weight", self.weight)

    @property
    def roles(self) -> tuple[str, ...]:
        """What each of the media is, in words."""
        return tuple(f"rank {rank}" for rank in range(1, len(self.media) + 1))


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """A prompt with one medium that was liked or disliked, compared with no other."""

    kind: ClassVar[Kind] = "labelled sample"
    prompt: str
    medium: Media
    liked: bool
    metadata: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        _require(0 <= self.weight < math.inf, "weight", self.weight)

    @property
    def media(self) -> tuple[Media]:
        """The medium alone."""
        return (self.medium,)

    @property
    def roles(self) -> tuple[str]:
        """What the medium is, in words."""
        return ("liked" if self.liked else "disliked",)


Record = PreferencePair | RankedList | LabelledSample

RecordSource = Callable[..., Sequence[Record] | Work[Sequence[Record]]]
"""A function of keyword-only parameters that returns records of one kind, their order known.

One that takes long may be a generator instead, which yields its progress and returns them.
"""


def _require(fulfilled: bool, what: str, value: float) -> None:
    if not fulfilled:
        raise DataError(f"a record cannot have {what} `{value}`")
