"""Figure and ground: which pixels of a picture belong to which coloured region, and how much."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vipo_cli.media import Pixels
from vipo_cli.shapes.scene import COLOURS

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]

FAINTEST = 30.0
"""Distance from the background, in levels, below which nothing counts as figure."""
SMALLEST = 0.008
"""Share of the picture below which a region is a speck."""
MINOR_COLOUR = 0.2
"""Share of a region that a second colour must have to be a region of its own."""


SIDES = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True, slots=True)
class Region:
    """A connected patch of one colour.

    Attributes:
        cover: how much of each pixel of the whole picture it fills, in [0, 1].
        paint: its colour.
        box: left, top, right and bottom edge of what it fills by more than half.
    """

    cover: Floats
    paint: Floats
    box: Box


def ground(picture: Floats) -> Floats:
    """Return the background's colour: the median of the picture's outermost pixels."""
    edges = (picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1])
    colour: Floats = np.median(np.concatenate(edges), axis=0)
    return colour


def find_regions(pixels: Pixels) -> list[Region]:
    """Take a picture apart into regions, each connected, of one colour and no speck."""
    picture = pixels.astype(np.float32)
    background = ground(picture)
    offset = picture - background
    distance = np.sqrt(np.einsum("ijk,ijk->ij", offset, offset))
    # generous enough for the faintest of several colours: each is cut to size by its own below
    figure = distance > max(FAINTEST, 0.25 * float(distance.max()))
    smallest = SMALLEST * figure.size
    names = np.zeros(figure.shape, np.intp)
    names[figure] = nearest_hues(ndimage.uniform_filter(picture, (3, 3, 1))[figure])
    return [
        Region(cover, background + paint, box_of(piece))
        for patch in connected(figure, smallest)
        for part in _one_colour_each(patch, names)
        for paint in [_paint(offset, distance, part)]
        for cover, piece in _cut_to_size(offset, paint, part, smallest)
    ]


def connected(mask: Mask, smallest: float) -> Iterator[Mask]:
    """Yield the connected parts of a mask that have enough pixels."""
    labels, number = ndimage.label(mask, SIDES)
    areas = np.bincount(labels.ravel(), minlength=number + 1)
    for index in range(1, number + 1):
        if areas[index] >= smallest:
            yield labels == index


def _one_colour_each(patch: Mask, names: NDArray[np.intp]) -> list[Mask]:
    """Divide a patch between the colours that have a good share of it."""
    counts = np.bincount(names[patch], minlength=len(COLOURS))
    shared = np.flatnonzero(counts > MINOR_COLOUR * counts.sum())
    return [patch & (names == index) for index in shared] if len(shared) > 1 else [patch]


def _paint(offset: Floats, distance: Floats, part: Mask) -> Floats:
    """Return a part's colour relative to the background, without its soft edges."""
    deep = part & (distance >= distance[part].mean() - 0.01)  # a mean can be rounded up
    paint: Floats = offset[deep].mean(axis=0)
    return paint


def _cut_to_size(
    offset: Floats, paint: Floats, part: Mask, smallest: float
) -> Iterator[tuple[Floats, Mask]]:
    """Measure cover against the part's own colour; separate what only soft edges connect."""
    cover = np.clip(offset @ paint / (paint @ paint), 0, 1)
    core = part & (cover > 0.5)
    for piece in connected(core, smallest):
        # its soft edges are the pixels around it that belong to the core of nothing else
        reach = grown(piece) & (piece | ~core)
        yield np.where(reach, cover, np.float32(0)), piece


def grown(mask: Mask) -> Mask:
    """Return a mask with the pixels around it, corners included."""
    tall = mask.copy()
    tall[1:] |= mask[:-1]
    tall[:-1] |= mask[1:]
    wide = tall.copy()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide


def box_of(mask: Mask) -> Box:
    """Return the left, top, right and bottom edge of a mask."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def hues(colours: Floats) -> Floats:
    """Return the hue angles of (..., 3) colours in radians."""
    red, green, blue = colours[..., 0], colours[..., 1], colours[..., 2]
    angle: Floats = np.arctan2(np.float32(3**0.5) * (green - blue), 2 * red - green - blue)
    return angle


PALETTE_HUES = hues(np.array(list(COLOURS.values()), np.float32))


def nearest_hues(colours: Floats) -> NDArray[np.intp]:
    """Return for each of (..., 3) colours the index in COLOURS of the nearest hue."""
    nearest: NDArray[np.intp] = np.cos(hues(colours)[..., None] - PALETTE_HUES).argmax(axis=-1)
    return nearest
