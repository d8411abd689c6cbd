"""From what Mask2Former says about its queries to objects, as MMDetection reads it.

Not as transformers does, which works at 384 pixels a side and enlarges masks to the nearest pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 100
"""Pairs of a query and a class that are looked at in a picture."""
AT_ONCE = 16
"""Masks that are brought to the picture's size at once, for the sake of memory."""

Side = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, slots=True)
class Instance:
    """An object by the number of its class.

    Attributes:
        label: number of its class.
        score: the class's probability times the mean probability inside the mask.
        box: left, top, right and bottom edge around the mask; all 0 where that is empty.
        mask: where it is, by row and column of the picture.
    """

    label: int
    score: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_]


def instances(
    class_logits: Any, mask_logits: Any, padded: Side, scaled: Side, original: Side, least: float
) -> list[Instance]:
    """Return the objects of one picture, likeliest class first.

    Args:
        class_logits: by query and class; the last class is none at all.
        mask_logits: by query, row and column, a fourth of the size that the network saw.
        padded: the size that the network saw.
        scaled: the part of it, from the upper left corner, that is the picture.
        original: the picture's own size.
        least: classes less likely than this make no object, since its score could only be lower.
    """
    classes = class_logits.shape[-1] - 1
    likely = class_logits.float().softmax(-1)[:, :-1].flatten()
    likely, places = likely.topk(min(MOST, len(likely)))
    # a mean of probabilities may round to a little more than 1
    kept = likely >= least * (1 - 1e-5)
    likely, places = likely[kept], places[kept]
    labels = (places % classes).tolist()
    queries, turns = (places // classes).unique(return_inverse=True)
    masks: list[NDArray[np.bool_]] = []
    certainty = likely.new_zeros(len(queries))
    for start in range(0, len(queries), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        some = _enlarged(mask_logits[queries[part]].float(), padded, scaled, original)
        inside = some > 0
        certain = (some.sigmoid() * inside).flatten(1).sum(1)
        certainty[part] = certain / (inside.flatten(1).sum(1).float() + 1e-6)
        masks += list(inside.cpu().numpy())
    scores = (likely * certainty[turns]).tolist()
    boxes = [tight_box(mask) for mask in masks]
    return [
        Instance(label, score, boxes[turn], masks[turn])
        for label, score, turn in zip(labels, scores, turns.tolist(), strict=True)
    ]


def _enlarged(masks: Any, padded: Side, scaled: Side, original: Side) -> Any:
    """Bring masks to the size that the network saw, cut the padding off, then to the picture's."""
    seen = _interpolated(masks, padded)[:, : scaled[0], : scaled[1]]
    return _interpolated(seen, original)


def _interpolated(masks: Any, size: Sequence[int]) -> Any:
    from torch.nn.functional import interpolate

    return interpolate(masks[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def tight_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return the edges around a mask in pixels; right and bottom lie behind the last one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
