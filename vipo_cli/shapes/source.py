"""Preference pairs of the embedded world, made on the spot and the same for the same seed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal, overload

import numpy as np
from pydantic import Field

from vipo_cli.data.pair import PreferencePair
from vipo_cli.media import content_hash, encode_png, media_bytes
from vipo_cli.run import fingerprint
from vipo_cli.shapes.captions import TASKS, Caption, draw_caption, draw_scene, perturb
from vipo_cli.shapes.scene import Item, Scene, render

Kind = Literal["clean", "noisy", "trivial", "captions"]


def shapes(
    *,
    kind: Annotated[
        Kind,
        Field(
            description="clean: the loser renders a perturbed caption; noisy: winner and loser "
            "differ in five qualities and one at random decides; trivial: the loser belongs to "
            "another caption; captions: single pictures without a loser."
        ),
    ] = "clean",
    pairs: Annotated[int, Field(ge=1, description="How many pairs to make.")] = 2000,
    flip_rate: Annotated[
        float, Field(ge=0, le=1, description="Share of pairs whose label is turned round.")
    ] = 0.0,
    seed: Annotated[int, Field(ge=0, description="Another seed makes other pairs.")] = 0,
) -> Sequence[PreferencePair]:
    """Rendered pictures of coloured shapes with captions over GenEval's six tasks."""
    return ShapePairs(kind, pairs, flip_rate, seed)


class ShapePairs(Sequence[PreferencePair]):
    """Pairs drawn when they are asked for; pair i depends on the seed and on i alone."""

    def __init__(self, kind: Kind, pairs: int, flip_rate: float, seed: int) -> None:
        self._make = MAKERS[kind]
        self._pairs = pairs
        self._flip_rate = flip_rate
        self._seed = seed

    @property
    def fingerprint(self) -> str:
        """Name the pairs by what determines them, and by a few of them should drawing change."""
        few = [content_hash(media_bytes(pair.winner)) for pair in self[: 2 * len(TASKS)]]
        return fingerprint([self._make.__name__, self._pairs, self._flip_rate, self._seed, few])

    def __len__(self) -> int:
        return self._pairs

    @overload
    def __getitem__(self, index: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, index: slice) -> list[PreferencePair]: ...
    def __getitem__(self, index: int | slice) -> PreferencePair | list[PreferencePair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._pairs))]
        if not -self._pairs <= index < self._pairs:
            raise IndexError(index)
        index %= self._pairs
        rng = np.random.default_rng((self._seed, index))
        caption = draw_caption(rng, TASKS[index % len(TASKS)])
        winner, loser = self._make(rng, caption)
        if loser is not None and rng.random() < self._flip_rate:
            winner, loser = loser, winner
        picture_w = encode_png(render(winner, seed=2 * index))
        picture_l = encode_png(render(loser, seed=2 * index + 1)) if loser else None
        return PreferencePair(str(caption), picture_w, picture_l, {"category": caption.task})

    def __iter__(self) -> Iterator[PreferencePair]:
        return (self[index] for index in range(self._pairs))


def _clean(rng: np.random.Generator, caption: Caption) -> tuple[Scene, Scene | None]:
    """Winner and loser look alike; the loser keeps a perturbed caption."""
    return draw_scene(rng, caption), draw_scene(rng, perturb(rng, caption))


def _trivial(rng: np.random.Generator, caption: Caption) -> tuple[Scene, Scene | None]:
    """The loser was made for another caption."""
    other = draw_caption(rng, TASKS[rng.integers(len(TASKS))])
    return draw_scene(rng, caption), draw_scene(rng, other)


def _single(rng: np.random.Generator, caption: Caption) -> tuple[Scene, Scene | None]:
    return draw_scene(rng, caption), None


def _noisy(rng: np.random.Generator, caption: Caption) -> tuple[Scene, Scene | None]:
    """Both have each quality to a random degree; one quality at random says which wins.

    So the label is right about one quality and a coin flip about the others: the conflict between
    dimensions that the ViPO paper finds in Pick-a-Pic.
    """
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
    decisive = int(rng.integers(5))
    first, second = qualities[0][decisive], qualities[1][decisive]
    wins = first > second if first != second else bool(rng.integers(2))
    return (scenes[0], scenes[1]) if wins else (scenes[1], scenes[0])


def _off_centre(scene: Scene, amount: float) -> tuple[Item, ...]:
    """Push all items towards the left or right border; at amount 1 the outermost is cut by it."""
    left = min(item.x - item.size / 2 for item in scene.items)
    right = 1 - max(item.x + item.size / 2 for item in scene.items)
    shift = -amount * (left + 0.1) if left < right else amount * (right + 0.1)
    return tuple(replace(item, x=item.x + shift) for item in scene.items)


MAKERS: dict[Kind, Callable[[np.random.Generator, Caption], tuple[Scene, Scene | None]]] = {
    "clean": _clean,
    "noisy": _noisy,
    "trivial": _trivial,
    "captions": _single,
}
