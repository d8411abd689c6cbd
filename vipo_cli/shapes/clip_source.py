"""Preference data of moving shapes, made on the spot and the same for the same seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from vipo_cli.clips import encode_clip
from vipo_cli.data.record import PreferencePair, Record
from vipo_cli.media import content_hash, media_bytes
from vipo_cli.run import fingerprint
from vipo_cli.shapes.motion import (
    DIMENSIONS,
    FRAMES_PER_SECOND,
    TASKS,
    Clip,
    ClipCaption,
    draw_clip,
    draw_clip_caption,
    perturb_clip_caption,
    render_clip,
    spoil,
)
from vipo_cli.shapes.source import DrawnRecords

Kind = Literal["clean", "noisy", "captions"]


def shapes_clips(
    *,
    kind: Annotated[
        Kind,
        Field(
            description="clean: the loser shows another shape, colour or direction; noisy: winner "
            "and loser differ in five qualities and one at random decides; captions: single clips "
            "without a loser."
        ),
    ] = "clean",
    pairs: Annotated[int, Field(ge=1, description="How many pairs or clips to make.")] = 1000,
    flip_rate: Annotated[
        float, Field(ge=0, le=1, description="Share of pairs that are turned round.")
    ] = 0.0,
    seed: Annotated[int, Field(ge=0, description="Another seed makes other pairs.")] = 0,
) -> Sequence[Record]:
    """Rendered clips of one or two moving shapes with captions that say which and where to."""
    return ClipRecords(kind, pairs, flip_rate, seed)


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a record will say and show: its caption, its clips (the best first), what differs."""

    caption: ClipCaption
    clips: tuple[Clip, ...]
    differs: str = ""


class ClipRecords(DrawnRecords):
    """Records of clips."""

    def __init__(self, kind: Kind, pairs: int, flip_rate: float, seed: int) -> None:
        super().__init__(pairs)
        self._kind = kind
        self._flip_rate = flip_rate
        self._seed = seed

    @property
    def fingerprint(self) -> str:
        """Name the records by what determines them, and by a few should drawing change."""
        few = [[content_hash(media_bytes(clip)) for clip in record.media] for record in self[:6]]
        return fingerprint(["clips", self._kind, len(self), self._flip_rate, self._seed, few])

    def _record(self, index: int) -> Record:
        rng = np.random.default_rng((self._seed, index))
        sketch = MAKERS[self._kind](rng, draw_clip_caption(rng, TASKS[index % len(TASKS)]), index)
        frames = [
            render_clip(clip, seed=2 * index + place) for place, clip in enumerate(sketch.clips)
        ]
        media = [encode_clip(each, FRAMES_PER_SECOND) for each in frames]
        if self._kind != "captions" and rng.random() < self._flip_rate:
            media.reverse()
        known: dict[str, Any] = {"category": sketch.caption.task}
        if sketch.differs:
            known["differs"] = sketch.differs
        winner, loser = (*media, None)[:2]
        assert winner is not None
        return PreferencePair(str(sketch.caption), winner, loser, known)


def _clean(rng: np.random.Generator, caption: ClipCaption, index: int) -> Sketch:
    """The loser shows a caption that differs in one thing, of each kind equally often."""
    dimension = DIMENSIONS[index // len(TASKS) % len(DIMENSIONS)]
    other = perturb_clip_caption(rng, caption, dimension)
    return Sketch(caption, (draw_clip(rng, caption), draw_clip(rng, other)), dimension)


def _noisy(rng: np.random.Generator, caption: ClipCaption, index: int) -> Sketch:  # noqa: ARG001
    """Both have each quality to a random degree; one quality at random says which wins.

    The qualities: alignment, and freedom from blur, grain, jitter and flicker. So the label is
    right about one and a coin flip about the others, as in the noisy pairs of pictures.
    """
    clips, qualities = [], []
    for _ in range(2):
        aligned = bool(rng.integers(2))
        dimension = DIMENSIONS[rng.integers(len(DIMENSIONS))]
        shown = caption if aligned else perturb_clip_caption(rng, caption, dimension)
        faults = rng.random(4)
        clips.append(spoil(draw_clip(rng, shown), faults))
        qualities.append((float(aligned), *(1 - faults)))
    decisive = int(rng.integers(5))
    first, second = qualities[0][decisive], qualities[1][decisive]
    wins = first > second if first != second else bool(rng.integers(2))
    return Sketch(caption, (clips[0], clips[1]) if wins else (clips[1], clips[0]))


def _single(rng: np.random.Generator, caption: ClipCaption, index: int) -> Sketch:  # noqa: ARG001
    return Sketch(caption, (draw_clip(rng, caption),))


MAKERS: dict[Kind, Callable[[np.random.Generator, ClipCaption, int], Sketch]] = {
    "clean": _clean,
    "noisy": _noisy,
    "captions": _single,
}
