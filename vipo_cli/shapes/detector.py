"""The embedded world's detector: compares coloured regions with ideal outlines of the shapes."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from vipo_cli.benchmarks.detection import Detection
from vipo_cli.run import fingerprint
from vipo_cli.shapes.regions import Floats, Region, find_regions, nearest_hues
from vipo_cli.shapes.scene import COLOURS, SHAPES, signed_distance

VERSION = 1
"""Raised whenever the same picture may be judged differently."""

COLOURLESS = "colourless"
"""Answer for an object of no colour, such as a grey smudge."""
FAINTEST_CHROMA = 24.0


BLUR = 0.8
"""Standard deviation in pixels of the blur through which region and outline are compared."""

# of SHAPES at radius 1: area, depth of the centroid below the centre, half the width
AREAS = np.array([np.pi, 1.8**2, 2, 4 * 0.68 - 0.68**2], np.float32)
CENTROIDS = np.array([0, 0, 1 / 3, 0], np.float32)
HALF_WIDTHS = np.array([1, 0.9, 1, 1], np.float32)


@dataclass(frozen=True, slots=True)
class ShapesDetector:
    """Coloured shapes by classical image analysis, where Mask2Former and CLIP find real things."""

    name: str = "shapes"
    fingerprint: str = fingerprint({"detector": "shapes", "version": VERSION})

    def detect(self, picture: Image.Image) -> list[Detection]:
        """Return every coloured region as the shape that it is most like."""
        pixels = np.asarray(picture.convert("RGB"), np.uint8)
        return [classify(region) for region in find_regions(pixels)]

    def colour(self, picture: Image.Image, detection: Detection) -> str:
        """Return the colour nearest in hue to most of what is vivid inside an object's box."""
        left, top, right, bottom = (round(edge) for edge in detection.box)
        pixels = np.asarray(picture.convert("RGB"), np.float32)[top:bottom, left:right].reshape(
            -1, 3
        )
        chroma = np.ptp(pixels, axis=1)
        if not chroma.size or chroma.max() < FAINTEST_CHROMA:
            return COLOURLESS
        votes = np.bincount(nearest_hues(pixels), weights=chroma**2, minlength=len(COLOURS))
        return list(COLOURS)[votes.argmax()]


def classify(region: Region) -> Detection:
    """Name the shape that a region is most like; unsure where it is like none, or like two."""
    alike = likenesses(region)
    second, best = np.sort(alike)[-2:]
    # rendered shapes, also mildly blurred and noisy ones, reach a best of 0.93, a lead of 0.08
    formed = 1 / (1 + np.exp(-40 * (best - 0.81)))
    distinct = 1 - np.exp(-(best - second) / 0.015)
    left, top, right, bottom = (float(edge) for edge in region.box)
    score = float(formed * distinct)
    return Detection(SHAPES[alike.argmax()], score, (left, top, right, bottom))


def likenesses(region: Region) -> Floats:
    """Return the overlap (soft intersection over union) with each of SHAPES where it fits best."""
    left, top, right, bottom = region.box
    margin = 2 + max(right - left, bottom - top) // 4
    across = slice(max(left - margin, 0), right + margin)
    down = slice(max(top - margin, 0), bottom + margin)
    cover = region.cover[down, across]
    columns = np.arange(cover.shape[1], dtype=np.float32) + np.float32(across.start + 0.5)
    rows = np.arange(cover.shape[0], dtype=np.float32) + np.float32(down.start + 0.5)
    x, y, radius = placements(region, cover, columns, rows)[..., None, None]
    dx, dy = (columns - x) / radius, (rows[:, None] - y) / radius
    outlines = [signed_distance(shape, dx[i], dy[i], 1.0) for i, shape in enumerate(SHAPES)]
    # through the same blur, so that it hardly matters how sharp the picture's own edges are
    down_blur, across_blur = _blur(len(rows)), _blur(len(columns))
    ideal = down_blur @ np.clip(0.5 - np.stack(outlines) * radius, 0, 1) @ across_blur
    seen = down_blur @ cover @ across_blur
    shared = np.minimum(ideal, seen).sum(axis=(2, 3))
    together = ideal.sum(axis=(2, 3)) + seen.sum() - shared
    best: Floats = (shared / together).max(axis=1)
    return best


def placements(region: Region, cover: Floats, columns: Floats, rows: Floats) -> Floats:
    """Guess where each shape would have to lie: x, y and radius, by shape and way of guessing.

    The first way is from the moments, which blur leaves alone. The second is from the box; it also
    serves shapes that the picture's border cuts, if it shows their full height or width.
    """
    height, width = region.cover.shape
    left, top, right, bottom = region.box
    side = max(right - left, bottom - top)
    area = cover.sum()
    radius = np.sqrt(area / AREAS)
    x, y = cover.sum(axis=0) @ columns / area, cover.sum(axis=1) @ rows / area
    boxed_x, boxed_y = _middle(left, right, width, side), _middle(top, bottom, height, side)
    guesses = np.empty((3, len(SHAPES), 2), np.float32)
    guesses[0] = x, boxed_x
    guesses[1, :, 0], guesses[1, :, 1] = y - CENTROIDS * radius, boxed_y
    guesses[2, :, 0], guesses[2, :, 1] = radius, side / 2 / HALF_WIDTHS
    return guesses


@cache
def _blur(length: int) -> Floats:
    """Return the matrix that blurs along an axis; symmetric away from the ends."""
    steps = np.arange(length, dtype=np.float32)
    weights = np.exp(-((steps[:, None] - steps) ** 2) / (2 * BLUR**2))
    matrix: Floats = (weights / (np.sqrt(2 * np.pi) * BLUR)).astype(np.float32)
    return matrix


def _middle(low: int, high: int, end: int, side: int) -> float:
    """Return the middle of an extent, measured from its free end if the border cuts the other."""
    if low == 0 and high < end:
        return high - side / 2
    if high == end and low > 0:
        return low + side / 2
    return (low + high) / 2
