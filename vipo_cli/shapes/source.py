"""Preference data of the embedded world, made on the spot and the same for the same seed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vipo_cli.data.record import LabelledSample, PreferencePair, RankedList, Record
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash, encode_png, media_bytes
from vipo_cli.run import fingerprint
from vipo_cli.shapes.captions import (
    TASKS,
    Caption,
    another,
    draw_caption,
    draw_scene,
    elsewhere,
    nearly,
    perturb,
    told_apart,
)
from vipo_cli.shapes.scene import Item, Scene, cover, render

Kind = Literal["clean", "noisy", "trivial", "captions", "ranked", "labelled"]
Labels = Literal["hard", "votes"]


def shapes(
    *,
    kind: Annotated[
        Kind,
        Field(
            description="clean: the loser renders a perturbed caption; noisy: winner and loser "
            "differ in five qualities and one at random decides; trivial: the loser belongs to "
            "another caption; captions: single pictures without a loser; ranked: lists of four, "
            "each with one fault more than the one before; labelled: single pictures, liked if "
            "they render their caption."
        ),
    ] = "clean",
    pairs: Annotated[
        int, Field(ge=1, description="How many pairs, lists or labelled pictures to make.")
    ] = 2000,
    flip_rate: Annotated[
        float,
        Field(ge=0, le=1, description="Share of pairs, lists or labels that are turned round."),
    ] = 0.0,
    seed: Annotated[int, Field(ge=0, description="Another seed makes other pairs.")] = 0,
    labels: Annotated[
        Labels,
        Field(
            description="hard: the winner is certain; votes (of kind=noisy): each quality votes, "
            "the majority wins, and the winner's share becomes the probability, 0.5 for a tie."
        ),
    ] = "hard",
    regions: Annotated[
        bool,
        Field(description="Maps of the shapes that tell winner and loser apart, of kind=clean."),
    ] = False,
) -> Sequence[Record]:
    """Rendered pictures of coloured shapes with captions over GenEval's six tasks."""
    problems = []
    if labels == "votes" and kind != "noisy":
        problems.append(f"labels: `votes` goes with kind=noisy, not with `{kind}`")
    if regions and kind != "clean":
        problems.append(f"regions: go with kind=clean, not with `{kind}`")
    if problems:
        raise DataError("the parameters of data set `shapes` are not valid", details=problems)
    return ShapeRecords(kind, pairs, flip_rate, seed, labels, regions)


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a record will show and say.

    Attributes:
        caption: its prompt.
        scenes: its pictures, the best first.
        probability: that the first of two really is better.
        liked: whether a single picture is.
        marked: the shapes that tell the scenes apart, for each.
    """

    caption: Caption
    scenes: tuple[Scene, ...]
    probability: float = 1.0
    liked: bool = True
    marked: tuple[tuple[Item, ...], ...] = ()

    def turned_round(self) -> "Sketch":
        """Return the same pictures with the label that is wrong for them."""
        return replace(
            self, scenes=self.scenes[::-1], liked=not self.liked, marked=self.marked[::-1]
        )


class DrawnRecords(Sequence[Record]):
    """Records drawn when they are asked for; record i depends on the seed and on i alone."""

    def __init__(self, pairs: int) -> None:
        self._pairs = pairs

    def _record(self, index: int) -> Record:
        """Draw record `index`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._pairs

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._pairs))]
        if not -self._pairs <= index < self._pairs:
            raise IndexError(index)
        return self._record(index % self._pairs)

    def __iter__(self) -> Iterator[Record]:
        return (self._record(index) for index in range(self._pairs))


class ShapeRecords(DrawnRecords):
    """Records of single pictures."""

    def __init__(
        self, kind: Kind, pairs: int, flip_rate: float, seed: int, labels: Labels, regions: bool
    ) -> None:
        super().__init__(pairs)
        self._kind = kind
        self._make = _voted if labels == "votes" else MAKERS[kind]
        self._flip_rate = flip_rate
        self._seed = seed
        self._regions = regions

    @property
    def fingerprint(self) -> str:
        """Name the records by what determines them, and by a few should drawing change."""
        few = [
            [content_hash(media_bytes(medium)) for medium in record.media]
            for record in self[: 2 * len(TASKS)]
        ]
        said = [self._kind, self._make.__name__, self._pairs, self._flip_rate, self._seed]
        return fingerprint([*said, self._regions, few])

    def _record(self, index: int) -> Record:
        rng = np.random.default_rng((self._seed, index))
        tasks = RANKED_TASKS if self._kind == "ranked" else TASKS
        sketch = self._make(rng, draw_caption(rng, tasks[index % len(tasks)]))
        if self._kind != "captions" and rng.random() < self._flip_rate:
            sketch = sketch.turned_round()
        media = tuple(
            encode_png(render(scene, seed=2 * index + place))
            for place, scene in enumerate(sketch.scenes)
        )
        prompt, known = str(sketch.caption), {"category": sketch.caption.task}
        if self._kind == "ranked":
            return RankedList(prompt, media, known)
        if self._kind == "labelled":
            return LabelledSample(prompt, media[0], sketch.liked, known)
        winner, loser = (*media, None)[:2]
        assert winner is not None
        maps = tuple(map(_map_of, sketch.marked)) if self._regions else ()
        return PreferencePair(
            prompt,
            winner,
            loser,
            known,
            probability=sketch.probability,
            regions=(maps[0], maps[1]) if any(maps) else None,
        )


def _map_of(items: Sequence[Item]) -> bytes | None:
    """Draw where some shapes are, white on black; None, which is everywhere, if there are none."""
    if not items:
        return None
    grey = np.rint(255 * np.max([cover(item) for item in items], axis=0)).astype(np.uint8)
    return encode_png(np.stack([grey] * 3, axis=-1))


def _clean(rng: np.random.Generator, caption: Caption) -> Sketch:
    """Winner and loser look alike; the loser keeps a perturbed caption."""
    winner, other = draw_scene(rng, caption), perturb(rng, caption)
    loser = draw_scene(rng, other)
    marked = _marked(winner, caption, other), _marked(loser, other, caption)
    return Sketch(caption, (winner, loser), marked=marked)


def _marked(scene: Scene, caption: Caption, other: Caption) -> tuple[Item, ...]:
    """Return the shapes of a scene for which the other caption does not ask, too."""
    flags = zip(scene.items, told_apart(caption, other), strict=True)
    return tuple(item for item, differs in flags if differs)


def _trivial(rng: np.random.Generator, caption: Caption) -> Sketch:
    """The loser was made for another caption."""
    other = draw_caption(rng, TASKS[rng.integers(len(TASKS))])
    return Sketch(caption, (draw_scene(rng, caption), draw_scene(rng, other)))


def _single(rng: np.random.Generator, caption: Caption) -> Sketch:
    return Sketch(caption, (draw_scene(rng, caption),))


def _labelled(rng: np.random.Generator, caption: Caption) -> Sketch:
    """A coin decides whether the picture renders its caption or a perturbed one."""
    liked = bool(rng.integers(2))
    shown = caption if liked else perturb(rng, caption)
    return Sketch(caption, (draw_scene(rng, shown),), liked=liked)


def _ranked(rng: np.random.Generator, caption: Caption) -> Sketch:
    """One after another, what is asked for, the background and everything else go wrong."""
    caption = elsewhere(rng, caption) if caption.background is None else caption
    near = nearly(rng, caption)
    shown = (caption, near, elsewhere(rng, near), another(rng, caption))
    return Sketch(caption, tuple(draw_scene(rng, each) for each in shown))


RANKED_TASKS = tuple(task for task in TASKS if task != "single_object")
"""A single object can be there or not: nothing about it is wrong by degrees."""


def _noisy(rng: np.random.Generator, caption: Caption) -> Sketch:
    """Both have each quality to a random degree; one quality at random says which wins.

    So the label is right about one quality and a coin flip about the others: the conflict between
    dimensions that the ViPO paper finds in Pick-a-Pic.
    """
    scenes, qualities = _varied(rng, caption)
    decisive = int(rng.integers(5))
    first, second = qualities[:, decisive].tolist()
    wins = first > second if first != second else bool(rng.integers(2))
    return Sketch(caption, scenes if wins else scenes[::-1])


def _voted(rng: np.random.Generator, caption: Caption) -> Sketch:
    """The scenes of noisy pairs, judged by all qualities; those without a preference count half."""
    scenes, qualities = _varied(rng, caption)
    for_first = float(np.mean((np.sign(qualities[0] - qualities[1]) + 1) / 2))
    wins = for_first > 0.5 if for_first != 0.5 else bool(rng.integers(2))
    return Sketch(
        caption, scenes if wins else scenes[::-1], probability=max(for_first, 1 - for_first)
    )


def _varied(
    rng: np.random.Generator, caption: Caption
) -> tuple[tuple[Scene, Scene], NDArray[np.float64]]:
    """Draw two scenes with each quality to a random degree; return these degrees, (2, 5), too."""
    scenes, qualities = [], []
    for _ in range(2):
        aligned = bool(rng.integers(2))
        scene = draw_scene(rng, caption if aligned else perturb(rng, caption))
        sharp, clean, vivid, centred = rng.random(4).tolist()
        scene = replace(
            scene,
            items=_off_centre(scene, 1 - centred),
            blur=1.1 * (1 - sharp),
            grain=16 * (1 - clean),
            fading=0.5 * (1 - vivid),
        )
        scenes.append(scene)
        qualities.append((float(aligned), sharp, clean, vivid, centred))
    return (scenes[0], scenes[1]), np.array(qualities)


def _off_centre(scene: Scene, amount: float) -> tuple[Item, ...]:
    """Push all items towards the left or right border; at amount 1 the outermost is cut by it."""
    left = min(item.x - item.size / 2 for item in scene.items)
    right = 1 - max(item.x + item.size / 2 for item in scene.items)
    shift = -amount * (left + 0.1) if left < right else amount * (right + 0.1)
    return tuple(replace(item, x=item.x + shift) for item in scene.items)


MAKERS: dict[Kind, Callable[[np.random.Generator, Caption], Sketch]] = {
    "clean": _clean,
    "noisy": _noisy,
    "trivial": _trivial,
    "captions": _single,
    "ranked": _ranked,
    "labelled": _labelled,
}
