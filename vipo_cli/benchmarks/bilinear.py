"""Bilinear resizing of 8-bit pictures with OpenCV's very integers, without OpenCV.

A detector's scores depend on how pictures were scaled before it. OpenCV does not low-pass before
shrinking, as Pillow does, and rounds to 11 fractional bits on the way.
"""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

ONE = 1 << 11
"""A weight of 1 as OpenCV's 8-bit code holds it."""


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize (height, width, channels) as `cv2.resize` with `INTER_LINEAR` does, bit for bit."""
    old_height, old_width = pixels.shape[:2]
    if (old_width, old_height) == (width, height):
        return pixels.copy()
    if (old_width, old_height) == (2 * width, 2 * height):  # here OpenCV averages instead
        quarters = pixels.reshape(height, 2, width, 2, -1).astype(np.uint16)
        averages: Pixels = ((quarters.sum(axis=(1, 3), dtype=np.uint16) + 2) >> 2).astype(np.uint8)
        return averages
    left, to_left, to_right = _neighbours(old_width, width)
    ends = (left < 0) | (left >= old_width - 1)
    to_left, to_right = np.where(ends, ONE, to_left), np.where(ends, 0, to_right)
    columns, following = _inside(left, old_width), _inside(left + 1, old_width)
    above, to_above, to_below = _neighbours(old_height, height)
    rows = pixels.astype(np.int32)
    across = rows[:, columns] * to_left[:, None] + rows[:, following] * to_right[:, None]
    across >>= 4
    upper = (across[_inside(above, old_height)] * to_above[:, None, None]) >> 16
    lower = (across[_inside(above + 1, old_height)] * to_below[:, None, None]) >> 16
    resized: Pixels = ((upper + lower + 2) >> 2).astype(np.uint8)
    return resized


def _neighbours(old: int, new: int) -> tuple[NDArray[np.int32], ...]:
    """Return for each new place along an axis the old one before it, and the weights of the two."""
    places = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    before = np.floor(places)
    fraction = places - before
    return (
        before.astype(np.int32),
        np.rint((np.float32(1) - fraction) * ONE).astype(np.int32),
        np.rint(fraction * ONE).astype(np.int32),
    )


def _inside(places: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    return np.clip(places, 0, length - 1)


def fitting(width: int, height: int, longest: int, shortest: int) -> tuple[int, int]:
    """Return the largest size of the same proportions within two bounds, as MMDetection rounds."""
    scale = min(longest / max(width, height), shortest / min(width, height))
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
