"""Pictures that look alike: 64-bit hashes, and the groups of media whose hashes lie close together.

A hash holds the signs of the 64 lowest frequencies of a picture's brightness, against their median:
another size, another compression or a little noise changes a few of its bits, and another picture
about half of them. Brightness alone would take a red ball for a green one, so alike means alike in
the mean colours of the four quarters, too.
"""

from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Numbers = NDArray[np.uint64]
Colours = NDArray[np.uint8]

SIDE = 32
"""Width and height of what is left of a picture before it is hashed."""
BITS = 64
NEAR = 4
"""Bits in which the hashes of media that look alike may differ; two pictures by chance: 32."""
NEAR_COLOURS = 16
"""Of 255, by which their mean colours may differ in any quarter."""
BLANK = 1.5
"""Standard deviation, of 255, of every colour of a small picture that shows nothing."""
BLOCKS, AGREEING = 6, 2
"""If 4 of 64 bits differ, 2 of 6 blocks at least have none of them: these find the candidates."""
LINKED = 200_000
"""Pairs found before groups are joined."""


def shrink(picture: Image.Image) -> Colours:
    """Return a picture as (32, 32, 3), each pixel the mean of a part of it."""
    factor = min(picture.size) // (4 * SIDE)
    small = picture.reduce(factor) if factor > 1 else picture
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BOX), np.uint8)


def hash_of(small: Colours) -> int:
    """Return the 64-bit hash of a small picture."""
    brightness: NDArray[np.float64] = small @ np.array([0.299, 0.587, 0.114])
    waves, rows, columns = _basis()
    spectrum = (waves @ brightness @ waves.T)[rows, columns]
    bits = spectrum > np.median(spectrum)
    return int(np.packbits(bits).view(">u8")[0])


def colours_of(small: Colours) -> Colours:
    """Return the mean colours of the four quarters of a small picture, (12,)."""
    half = SIDE // 2
    quarters = small.reshape(2, half, 2, half, 3).mean((1, 3))
    rounded: Colours = np.rint(quarters).astype(np.uint8).ravel()
    return rounded


def is_blank(small: Colours) -> bool:
    """Tell whether a small picture is of one colour all over."""
    return bool((small.std((0, 1)) < BLANK).all())


@cache
def _basis() -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Return the lowest cosines by row, and which of their products make a hash: not the mean."""
    lowest = 11
    places = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    waves = np.cos(np.arange(lowest)[:, None] * places)
    rows, columns = np.indices((lowest, lowest))
    order = np.lexsort((rows.ravel(), (rows + columns).ravel()))[1 : BITS + 1]
    return waves, rows.ravel()[order], columns.ravel()[order]


def differing_bits(one: Numbers, other: Numbers) -> NDArray[np.uint8]:
    """Return in how many bits hashes differ, the most of those along the last axis."""
    most: NDArray[np.uint8] = np.bitwise_count(one ^ other).max(-1)
    return most


def alike(
    one: tuple[Numbers, Colours], other: tuple[Numbers, Colours], near: int = NEAR
) -> NDArray[np.bool_]:
    """Tell which media look alike.

    Args:
        one: their hashes, (n, 3), of a clip's first, middle and last frame; and colours, (n, 12).
        other: what they are compared with, in the same order.
        near: bits that may differ.
    """
    colours = np.abs(one[1].astype(np.int16) - other[1]).max(-1, initial=0) <= NEAR_COLOURS
    same: NDArray[np.bool_] = colours & (differing_bits(one[0], other[0]) <= near)
    return same


def group_alike(hashes: Numbers, colours: Colours) -> NDArray[np.int64]:
    """Return a number for each medium that is the same where media look alike, or are linked so.

    Nothing is compared with everything: hashes that agree in some blocks of their bits stand side
    by side when they are sorted by these.
    """
    groups = np.arange(len(hashes), dtype=np.int64)
    for blocks in combinations(range(BLOCKS), AGREEING):
        keys = hashes[:, 1] & _mask(blocks)
        order = np.argsort(keys, kind="stable")
        groups = _link(order, keys[order], hashes, colours, groups)
    return groups


def _mask(blocks: tuple[int, ...]) -> np.uint64:
    ends = [round(block * BITS / BLOCKS) for block in range(BLOCKS + 1)]
    bits = sum((1 << ends[block + 1]) - (1 << ends[block]) for block in blocks)
    return np.uint64(bits)


def _link(
    order: NDArray[np.intp],
    keys: Numbers,
    hashes: Numbers,
    colours: Colours,
    groups: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Join the groups of media of equal keys that look alike; equal keys stand side by side."""
    places = np.arange(len(order) - 1)
    links: list[NDArray[np.intp]] = []
    step = 1
    while len(places := places[places + step < len(keys)]):
        places = places[keys[places] == keys[places + step]]
        pairs = np.stack([order[places], order[places + step]])
        pairs = pairs[:, groups[pairs[0]] != groups[pairs[1]]]
        one, other = ((hashes[each], colours[each]) for each in pairs)
        links.append(pairs[:, alike(one, other)])
        if sum(link.shape[1] for link in links) > LINKED:
            groups, links = _joined(groups, links), []
        step += 1
    return _joined(groups, links)


def _joined(groups: NDArray[np.int64], links: list[NDArray[np.intp]]) -> NDArray[np.int64]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not (count := sum(link.shape[1] for link in links)):
        return groups
    one, other = groups[np.concatenate(links, axis=1)]
    edges = coo_array((np.ones(count, np.int8), (one, other)), shape=(len(groups), len(groups)))
    _, found = connected_components(edges, directed=False)
    joined: NDArray[np.int64] = found.astype(np.int64)[groups]
    return joined
