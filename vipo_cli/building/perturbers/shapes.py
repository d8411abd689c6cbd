"""Captions of the embedded world, changed by its own rules."""

import numpy as np

from vipo_cli.building.perturbers import Change
from vipo_cli.shapes.captions import Caption, parse_caption
from vipo_cli.shapes.captions import perturb as perturb_caption
from vipo_cli.shapes.motion import Dimension, parse_clip_caption, perturb_clip_caption

TRIES = 8
"""Draws, so that each change that a caption has a place for comes up."""
CLIP_CHANGES: dict[Dimension, Change] = {
    "object": "object-swapped",
    "colour": "colour",
    "direction": "action",
}


def shapes(rng: np.random.Generator, caption: str) -> dict[Change, str] | None:
    """Captions of pictures of coloured shapes: shape, count, colour, relation or owner."""
    parsed = parse_caption(caption)
    if parsed is None:
        return None
    others = (perturb_caption(rng, parsed) for _ in range(TRIES))
    return {_change(parsed, other): str(other) for other in others}


def shapes_clips(rng: np.random.Generator, caption: str) -> dict[Change, str] | None:
    """Captions of clips of moving shapes: shape, colour or direction."""
    parsed = parse_clip_caption(caption)
    if parsed is None:
        return None
    return {
        change: str(perturb_clip_caption(rng, parsed, dimension))
        for dimension, change in CLIP_CHANGES.items()
    }


def _change(caption: Caption, other: Caption) -> Change:
    """Return what differs between a caption and what became of it."""
    if caption.count != other.count:
        return "count"
    if caption.relation != other.relation:
        return "relation"
    if len(other.nouns) < len(caption.nouns):
        return "object-dropped"
    if [noun.shape for noun in caption.nouns] != [noun.shape for noun in other.nouns]:
        return "object-swapped"
    colours, others = ([noun.colour for noun in each.nouns] for each in (caption, other))
    return "attribute-owner" if colours == others[::-1] and colours != others else "colour"
