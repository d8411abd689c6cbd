"""Clips of moving shapes: what captions say of them, drawing them, and reading them back."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vipo_cli.benchmarks.detection import Detection
from vipo_cli.shapes.detector import ShapesDetector
from vipo_cli.shapes.scene import BACKGROUNDS, COLOURS, SHAPES, SIZE, Item, Scene, render

Task = Literal["one_mover", "two_movers"]
TASKS: tuple[Task, ...] = get_args(Task)
Dimension = Literal["object", "colour", "direction"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)

FRAMES = 9
FRAMES_PER_SECOND = 8
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "still": (0, 0),
}
"""Where a shape goes, y downwards."""
PREFIXES = ("", "a clip of", "a video of")
SIZES = {1: (0.34, 0.56), 2: (0.26, 0.36)}
"""Smallest and largest diameter of a shape, by how many share the clip."""
WAYS = (0.24, 0.36)
"""Shortest and longest way of a moving shape in a clip, as fractions of the picture."""
SHORTEST_WAY = 0.12
"""What has moved by less, stands still."""
SUREST = 0.5
"""A detection that scores less is none."""

TRIES = 32
"""Places drawn at once for two shapes that may not touch."""

Frames = NDArray[np.uint8]
"""A clip: (frames, height, width, 3)."""
Place = tuple[float, float, float, float, float]
"""Of a shape: its centre's x and y, its size, and how far it goes in x and y."""


@dataclass(frozen=True, slots=True)
class Mover:
    """A coloured shape and where it goes, a name in DIRECTIONS."""

    shape: str
    colour: str
    direction: str

    def __str__(self) -> str:
        verb = "standing" if self.direction == "still" else "moving"
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.shape} {verb} {self.direction}"


@dataclass(frozen=True, slots=True)
class ClipCaption:
    """What a caption asks a clip to show: one or two movers, after one of PREFIXES."""

    movers: tuple[Mover, ...]
    prefix: str = ""

    @property
    def task(self) -> Task:
        """What kind of caption it is."""
        return TASKS[len(self.movers) - 1]

    def __str__(self) -> str:
        said = " and ".join(map(str, self.movers))
        return f"{self.prefix} {said}" if self.prefix else said


_MOVER = (
    rf"an? (?P<colour_{{0}}>{'|'.join(COLOURS)}) (?P<shape_{{0}}>{'|'.join(SHAPES)}) "
    rf"(?:standing (?P<still_{{0}}>still)|moving (?P<moves_{{0}}>left|right|up|down))"
)
_CAPTION = re.compile(
    rf"^(?:(?P<prefix>{'|'.join(prefix for prefix in PREFIXES if prefix)}) )?"
    rf"{_MOVER.format(1)}(?: and {_MOVER.format(2)})?$"
)


def parse_clip_caption(text: str) -> ClipCaption | None:
    """Read a caption back; None if it is not one of this world's."""
    found = _CAPTION.match(text.strip().lower().rstrip("."))
    if found is None:
        return None
    movers = tuple(
        Mover(
            found[f"shape_{index}"],
            found[f"colour_{index}"],
            found[f"still_{index}"] or found[f"moves_{index}"],
        )
        for index in (1, 2)
        if found[f"shape_{index}"]
    )
    return ClipCaption(movers, found["prefix"] or "")


def draw_clip_caption(rng: np.random.Generator, task: Task) -> ClipCaption:
    """Draw a caption uniformly; two movers differ in shape and in colour."""
    number = 1 + TASKS.index(task)
    shapes = rng.permutation(list(SHAPES))[:number].tolist()
    colours = rng.permutation(list(COLOURS))[:number].tolist()
    directions = rng.choice(list(DIRECTIONS), number).tolist()
    movers = map(Mover, shapes, colours, directions)
    return ClipCaption(tuple(movers), PREFIXES[rng.integers(len(PREFIXES))])


def perturb_clip_caption(
    rng: np.random.Generator, caption: ClipCaption, dimension: Dimension
) -> ClipCaption:
    """Change the shape, the colour or the direction of one mover."""
    movers = list(caption.movers)
    index = int(rng.integers(len(movers)))
    mover = movers[index]
    match dimension:
        case "object":
            free = [shape for shape in SHAPES if shape not in {each.shape for each in movers}]
            movers[index] = replace(mover, shape=str(rng.choice(free)))
        case "colour":
            free = [name for name in COLOURS if name not in {each.colour for each in movers}]
            movers[index] = replace(mover, colour=str(rng.choice(free)))
        case "direction":
            free = [where for where in DIRECTIONS if where != mover.direction]
            movers[index] = replace(mover, direction=str(rng.choice(free)))
    return replace(caption, movers=tuple(movers))


@dataclass(frozen=True, slots=True)
class Clip:
    """What a clip shows, and how well it is made.

    Attributes:
        items: the shapes as they start.
        ways: how far each has gone in x and y at the end, as fractions of the picture.
        background: a name in BACKGROUNDS.
        blur: standard deviation of the blur in pixels.
        grain: standard deviation of the noise in levels of 255, drawn anew in every frame.
        jitter: standard deviation of each frame's shift, as a fraction of the picture.
        flicker: how much of its colours a frame may lose, as a fraction.
    """

    items: tuple[Item, ...]
    ways: tuple[tuple[float, float], ...]
    background: str = "white"
    blur: float = 0.0
    grain: float = 0.0
    jitter: float = 0.0
    flicker: float = 0.0


def draw_clip(rng: np.random.Generator, caption: ClipCaption) -> Clip:
    """Draw a clip that a caption describes; no shape meets another or the border on its way."""
    background = str(rng.choice(list(BACKGROUNDS)))
    while True:
        tries = [_places(rng, mover.direction, len(caption.movers)) for mover in caption.movers]
        for places in zip(*tries, strict=True):
            if len(places) == 1 or _apart(*places):
                return Clip(
                    tuple(
                        Item(mover.shape, mover.colour, x, y, size)
                        for mover, (x, y, size, _, _) in zip(caption.movers, places, strict=True)
                    ),
                    tuple((dx, dy) for *_, dx, dy in places),
                    background,
                )


def _places(rng: np.random.Generator, direction: str, number: int) -> list[Place]:
    """Draw places for a shape, each with the way it goes from there, within the picture."""
    tries = TRIES if number > 1 else 1
    size, length = rng.uniform(*SIZES[number], tries), rng.uniform(*WAYS, tries)
    across, down = DIRECTIONS[direction]
    dx, dy = length * across, length * down
    size = np.minimum(size, 0.92 - np.abs(dx + dy))
    low, high = size / 2 + 0.03, 0.97 - size / 2
    x = rng.uniform(low - np.minimum(dx, 0), high - np.maximum(dx, 0))
    y = rng.uniform(low - np.minimum(dy, 0), high - np.maximum(dy, 0))
    places: list[Place] = np.stack([x, y, size, dx, dy], axis=1).tolist()
    return places


def _apart(one: Place, other: Place) -> bool:
    """Tell whether two moving shapes never touch, by their bounding boxes at each frame."""
    reach = (one[2] + other[2]) / 2 + 0.05
    x, y, _, dx, dy = (a - b for a, b in zip(one, other, strict=True))
    times = (frame / (FRAMES - 1) for frame in range(FRAMES))
    return all(max(abs(x + time * dx), abs(y + time * dy)) >= reach for time in times)


def spoil(clip: Clip, amounts: NDArray[np.float64]) -> Clip:
    """Return a clip with faults: blur, grain, jitter and flicker, each from 0 to 1."""
    blur, grain, jitter, flicker = (amounts * (1.1, 16, 0.03, 0.5)).tolist()
    return replace(clip, blur=blur, grain=grain, jitter=jitter, flicker=flicker)


def render_clip(clip: Clip, seed: int = 0, size: int = SIZE) -> Frames:
    """Draw all frames of a clip. `seed` matters only for its faults."""
    rng = np.random.default_rng(seed)
    frames = []
    for time in np.linspace(0, 1, FRAMES).tolist():
        x, y = clip.jitter * rng.normal(size=2)
        items = tuple(
            replace(item, x=item.x + time * dx + x, y=item.y + time * dy + y)
            for item, (dx, dy) in zip(clip.items, clip.ways, strict=True)
        )
        fading = clip.flicker * float(rng.random())
        scene = Scene(items, clip.background, clip.blur, clip.grain, fading)
        frames.append(render(scene, size, seed=int(rng.integers(2**31))))
    return np.stack(frames)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which shares of what a caption asks for a clip shows, each in [0, 1].

    A mover whose shape is missing has no right colour either, and one whose shape or colour is
    wrong has no right direction.
    """

    object: float
    colour: float
    direction: float

    @property
    def correct(self) -> bool:
        """Whether everything is there."""
        return self.direction == 1


def judge_clip(frames: Frames, caption: ClipCaption) -> Verdict:
    """Look for a caption's movers on the first, the middle and the last frame of a clip."""
    seen = read_clip(frames)
    shapes = {mover.shape for mover in seen}
    coloured = {(mover.shape, mover.colour) for mover in seen}
    wanted = caption.movers
    return Verdict(
        float(np.mean([mover.shape in shapes for mover in wanted])),
        float(np.mean([(mover.shape, mover.colour) in coloured for mover in wanted])),
        float(np.mean([mover in seen for mover in wanted])),
    )


def read_clip(frames: Frames) -> list[Mover]:
    """Return the shapes that keep shape and colour all the way, and where they go."""
    first, middle, last = (
        list(_seen(frames[index])) for index in (0, len(frames) // 2, len(frames) - 1)
    )
    height, width = frames.shape[1:3]
    movers = []
    for one in first:
        midway, end = _nearest(one, middle), _nearest(one, last)
        if midway is not None and end is not None:
            way = (end.x - one.x) / width, (end.y - one.y) / height
            movers.append(Mover(one.shape, one.colour, _direction(*way)))
    return movers


@dataclass(frozen=True, slots=True)
class _Sighting:
    shape: str
    colour: str
    x: float
    y: float


def _seen(pixels: NDArray[np.uint8]) -> Iterator[_Sighting]:
    detector, picture = ShapesDetector(), Image.fromarray(pixels)
    for found in detector.detect(picture):
        if found.score >= SUREST:
            yield _Sighting(found.label, detector.colour(picture, found), *_centre(found))


def _centre(found: Detection) -> tuple[float, float]:
    left, top, right, bottom = found.box
    return (left + right) / 2, (top + bottom) / 2


def _nearest(one: _Sighting, others: list[_Sighting]) -> _Sighting | None:
    """Return the nearest of the same shape and colour."""
    alike = [each for each in others if (each.shape, each.colour) == (one.shape, one.colour)]
    return min(alike, key=lambda each: np.hypot(each.x - one.x, each.y - one.y), default=None)


def _direction(dx: float, dy: float) -> str:
    if max(abs(dx), abs(dy)) < SHORTEST_WAY:
        return "still"
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"
