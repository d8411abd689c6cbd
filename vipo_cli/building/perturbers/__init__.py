"""Perturbers: captions that ask for something else in one thing, and what that thing is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vipo_cli.registry import Registry

Change = Literal[
    "object-dropped",
    "object-swapped",
    "count",
    "colour",
    "relation",
    "attribute-owner",
    "action",
    "action-order",
    "camera",
]
"""What a perturbation changes; the last two are about clips."""
CHANGES: tuple[Change, ...] = get_args(Change)


@dataclass(frozen=True, slots=True)
class Perturbed:
    """A caption that was changed in one thing."""

    text: str
    change: Change


Perturber = Callable[[np.random.Generator, str], "dict[Change, str] | None"]
"""Returns a changed caption for each change that a caption has a place for; None for captions that
are not its own kind, which the next perturber is asked about."""

perturbers: Registry[Perturber] = Registry(
    "perturber",
    "vipo.perturbers",
    {
        "shapes": "vipo_cli.building.perturbers.shapes:shapes",
        "shapes-clips": "vipo_cli.building.perturbers.shapes:shapes_clips",
        "english": "vipo_cli.building.perturbers.english:english",
    },
)
LAST = "english"
"""Who is asked last, as it takes any caption."""


def perturb(
    rng: np.random.Generator, caption: str, wanted: Sequence[Change] = CHANGES
) -> Perturbed | None:
    """Change one thing that a caption asks for, each kind of change equally likely.

    Args:
        rng: where chance comes from.
        caption: what was asked for.
        wanted: the changes that may be made.

    Returns:
        None where the caption has no place for any of them.
    """
    for name in sorted(perturbers.names(), key=lambda each: (each == LAST, each)):
        found = perturbers[name](rng, caption)
        if found is None:
            continue
        possible = [change for change in wanted if found.get(change, caption) != caption]
        if not possible:
            return None
        change = possible[rng.integers(len(possible))]
        return Perturbed(found[change], change)
    return None
