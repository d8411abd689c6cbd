"""The record that every source yields and every step reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vipo_cli.media import Media


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt with the media that was preferred and the media that was not.

    Attributes:
        prompt: what both were made for.
        winner: encoded bytes or the path of a file.
        loser: likewise; None where a source holds single preferred samples.
        metadata: anything else the source knows, such as its category.
    """

    prompt: str
    winner: Media
    loser: Media | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


PairSource = Callable[..., Sequence[PreferencePair]]
"""A function of keyword-only parameters that returns pairs, their order and number known."""
